"""All errors that keras_optix raises on purpose, and the common form of their messages.

A message says what is wrong, what was received (``Received: name=value``) and what to do about it.
All classes derive from `OptixError`. Each also derives from the built-in exception that a caller would expect.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras_optix.kinds import shown


class OptixError(Exception):
    """Base class of all errors of keras_optix.

    Examples:
        >>> try:
        ...     optix.BackoffScheduler(backoff_factor=-1)
        ... except optix.OptixError as error:
        ...     print(type(error).__name__)
        ConfigurationError
    """


class ConfigurationError(OptixError, ValueError):
    """An argument is invalid, or two arguments contradict each other.

    Examples:
        >>> try:
        ...     optix.OptixCallback(max_windows=0)
        ... except optix.ConfigurationError as error:  # or ValueError
        ...     print(error)
        `max_windows` must be an integer >= 1. Received: max_windows=0.
    """


class ArgumentError(ConfigurationError, TypeError):
    """An argument has the wrong kind, or the function has no argument of this name.

    Examples:
        >>> try:
        ...     optix.PPOAgent(gama=0.9)
        ... except optix.errors.ArgumentError as error:
        ...     print("Did you mean" in str(error))
        True
    """


class UnknownNameError(OptixError, AttributeError):
    """An attribute or a method does not exist. The message suggests the name that was probably meant.

    Args:
        message: The message, or a function that makes it. The search for a similar name takes a millisecond, and Keras
            asks an agent for dozens of optional attributes without ever showing the error.

    Examples:
        >>> try:
        ...     optix.PPOAgnet
        ... except optix.errors.UnknownNameError as error:
        ...     print("PPOAgent" in str(error))
        True
    """

    def __init__(self, message: str | Callable[[], str] = "") -> None:
        super().__init__(message)

    def __str__(self) -> str:
        message = self.args[0]
        return str(message() if callable(message) else message)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self),)


class BackendError(OptixError, ImportError):
    """A name needs TensorFlow, but Keras runs on another backend or TensorFlow is not installed.

    Examples:
        >>> try:
        ...     raise optix.errors.BackendError("Agents need Keras on TensorFlow.")
        ... except optix.errors.BackendError as error:
        ...     print(error)
        Agents need Keras on TensorFlow.
    """


class SpaceError(ConfigurationError):
    """A model and an environment do not fit together: their observation or action spaces differ.

    Examples:
        >>> try:
        ...     policy = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(2)])
        ...     optix.dataset_from_env("CartPole-v1", optix.PPOAgent(policy))
        ... except optix.errors.SpaceError as error:
        ...     print(type(error).__name__)
        SpaceError
    """


class NetworkError(SpaceError, ArgumentError):
    """An argument that should be a network is not one.

    Examples:
        >>> try:
        ...     optix.PPOAgent(policy="MlpPolicy")
        ... except optix.errors.NetworkError as error:
        ...     print(type(error).__name__)
        NetworkError
    """


class HyperparamError(ConfigurationError):
    """A hyperparameter is unknown, not finite, or outside its bounds.

    Examples:
        >>> try:
        ...     agent = optix.PPOAgent()
        ...     agent.hyperparams["gamma"] = 2.0
        ... except optix.errors.HyperparamError as error:
        ...     print(type(error).__name__)
        HyperparamError
    """


class StateError(OptixError, RuntimeError):
    """A method was called at the wrong time (not compiled, not bound, closed), or a saved state does not fit.

    Examples:
        >>> try:
        ...     optix.PPOAgent().act(np.zeros(4))
        ... except optix.errors.StateError as error:
        ...     print(type(error).__name__)
        StateError
    """


class EnvError(OptixError, RuntimeError):
    """An environment broke the rules of Gymnasium (wrong shape, NaN observation, missing final observation).

    Examples:
        >>> try:
        ...     agent = optix.PPOAgent()
        ...     agent.compile(optimizer="adam", jit_compile=False)
        ...     cart = gymnasium.make("CartPole-v1")
        ...     no_number = gymnasium.wrappers.TransformReward(cart, lambda reward: float("nan"))
        ...     history = agent.fit(optix.dataset_from_env(no_number, agent), steps_per_epoch=1, verbose=0)
        ... except optix.errors.EnvError as error:
        ...     print(type(error).__name__)
        EnvError
    """


class EnvWorkerError(EnvError):
    """A process in which an environment runs has died, and it was not, or could not be, started again.

    Examples:
        >>> try:
        ...     raise optix.errors.EnvWorkerError("A process of the environment has died.")
        ... except optix.errors.EnvWorkerError as error:
        ...     print(type(error).__name__)
        EnvWorkerError
    """


class EnvTimeoutError(EnvError, TimeoutError):
    """A call of an environment did not return within `env_timeout`.

    Examples:
        >>> try:
        ...     raise optix.errors.EnvTimeoutError("`step` did not return.")
        ... except optix.errors.EnvTimeoutError as error:
        ...     print(type(error).__name__)
        EnvTimeoutError
    """


class FeedError(OptixError, ConnectionError):
    """The connection to a live feed was lost, and all attempts to reconnect have failed.

    Examples:
        >>> try:
        ...     raise optix.errors.FeedError("The connection was lost.")  # a ConnectionError, too
        ... except optix.errors.FeedError as error:
        ...     print(type(error).__name__)
        FeedError
    """


class LoweringError(OptixError, RuntimeError):
    """A policy cannot be lowered to a LiteRT actor. The agent then acts through a compiled function instead.

    Examples:
        >>> try:
        ...     raise optix.errors.LoweringError("The layer cannot be lowered.")
        ... except optix.errors.LoweringError as error:
        ...     print(type(error).__name__)
        LoweringError
    """


class RegistryError(OptixError, RuntimeError):
    """A checkpoint directory cannot be written, or its files cannot be read.

    Examples:
        >>> with open("manifest.json", "w") as file:
        ...     written = file.write("damaged")
        >>> try:
        ...     optix.CheckpointRegistry(".")
        ... except optix.errors.RegistryError as error:
        ...     print(type(error).__name__)
        RegistryError
    """


class DirectoryError(RegistryError):
    """A checkpoint directory cannot be written now: the disk is full or read-only, or another process has the lock.

    Examples:
        >>> try:
        ...     raise optix.errors.DirectoryError("The disk is full.")  # a RegistryError, too
        ... except optix.errors.DirectoryError as error:
        ...     print(type(error).__name__)
        DirectoryError
    """


class NonFiniteError(OptixError, ArithmeticError):
    """A score, a loss or a weight is NaN or infinite, and training cannot continue.

    Examples:
        >>> try:
        ...     raise optix.errors.NonFiniteError("Six updates were not finite.")
        ... except optix.errors.NonFiniteError as error:
        ...     print(type(error).__name__)
        NonFiniteError
    """


def describe(problem: str, *, fix: str = "", **received: object) -> str:
    """Builds a message: `problem`, then ``Received: name=value, ...``, then `fix`.

    Args:
        problem: What is wrong, as a sentence with its full stop.
        fix: What the reader can do, as a sentence with its full stop.
        **received: The offending values by name.

    Returns:
        The message.
    """
    parts = [problem]
    if received:
        parts.append("Received: " + ", ".join(f"{name}={shown(value)}" for name, value in received.items()) + ".")
    if fix:
        parts.append(fix)
    return " ".join(parts)
