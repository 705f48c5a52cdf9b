"""All errors that keras_optix raises on purpose, and the common form of their messages.

A message says what is wrong, what was received (``Received: name=value``) and what to do about it.
All classes derive from `OptixError`. Each also derives from the built-in exception that a caller would expect.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras_optix.kinds import shown


class OptixError(Exception):
    """Base class of all errors of keras_optix."""


class ConfigurationError(OptixError, ValueError):
    """An argument is invalid, or two arguments contradict each other."""


class ArgumentError(ConfigurationError, TypeError):
    """An argument has the wrong kind, or the function has no argument of this name."""


class UnknownNameError(OptixError, AttributeError):
    """An attribute or a method does not exist. The message suggests the name that was probably meant.

    Args:
        message: The message, or a function that makes it. The search for a similar name takes a millisecond, and Keras
            asks an agent for dozens of optional attributes without ever showing the error.
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
    """A name needs TensorFlow, but Keras runs on another backend or TensorFlow is not installed."""


class SpaceError(ConfigurationError):
    """A model and an environment do not fit together: their observation or action spaces differ."""


class NetworkError(SpaceError, ArgumentError):
    """An argument that should be a network is not one."""


class HyperparamError(ConfigurationError):
    """A hyperparameter is unknown, not finite, or outside its bounds."""


class StateError(OptixError, RuntimeError):
    """A method was called at the wrong time (not compiled, not bound, closed), or a saved state does not fit."""


class EnvError(OptixError, RuntimeError):
    """An environment broke the rules of Gymnasium (wrong shape, NaN observation, missing final observation)."""


class EnvWorkerError(EnvError):
    """A process in which an environment runs has died, and it was not, or could not be, started again."""


class EnvTimeoutError(EnvError, TimeoutError):
    """A call of an environment did not return within `env_timeout`."""


class FeedError(OptixError, ConnectionError):
    """The connection to a live feed was lost, and all attempts to reconnect have failed."""


class LoweringError(OptixError, RuntimeError):
    """A policy cannot be lowered to a LiteRT actor. The agent then acts through a compiled function instead."""


class RegistryError(OptixError, RuntimeError):
    """A checkpoint directory cannot be written, or its files cannot be read."""


class DirectoryError(RegistryError):
    """A checkpoint directory cannot be written now: the disk is full or read-only, or another process has the lock."""


class NonFiniteError(OptixError, ArithmeticError):
    """A score, a loss or a weight is NaN or infinite, and training cannot continue."""


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
