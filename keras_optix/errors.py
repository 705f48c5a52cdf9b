"""Every error that keras_optix raises on purpose, and the one grammar of their messages.

A message says what is wrong, what was received (``Received: name=value``) and what to do about it.
All classes derive from `OptixError`; each also derives from the built-in that a caller would expect.
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
    """An argument is of another kind than is wanted, or there is none of its name."""


class UnknownNameError(OptixError, AttributeError):
    """An attribute or a method was asked for, or set, that there is not; maybe it has another name here.

    Args:
        message: The message, or a function that makes it. Looking for a name that is much like another takes a
            millisecond, and Keras asks an agent for dozens of attributes that it may have, without showing the error.
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
    """What was asked for runs on TensorFlow only, and Keras runs on another backend, or TensorFlow is missing."""


class SpaceError(ConfigurationError):
    """A model and an environment do not fit: observation or action spaces disagree."""


class NetworkError(SpaceError, ArgumentError):
    """What was given for a network is none."""


class HyperparamError(ConfigurationError):
    """A hyperparameter is unknown, not finite, or outside its bounds."""


class StateError(OptixError, RuntimeError):
    """A method was called in an order that makes no sense (not compiled, not bound, closed)."""


class EnvError(OptixError, RuntimeError):
    """An environment broke its contract (wrong shape, NaN observation, missing final observation)."""


class FeedError(OptixError, ConnectionError):
    """A live feed is gone: reconnecting to it was given up."""


class LoweringError(OptixError, RuntimeError):
    """A policy cannot be lowered to a LiteRT actor; acting falls back to a compiled function."""


class RegistryError(OptixError, RuntimeError):
    """A checkpoint directory cannot be written, or what it holds cannot be read."""


class NonFiniteError(OptixError, ArithmeticError):
    """A score, a loss or a weight is NaN or infinite and training cannot go on from it."""


def describe(problem: str, *, fix: str = "", **received: object) -> str:
    """Builds a message: `problem`, then ``Received: name=value, ...``, then `fix`.

    Args:
        problem: What is wrong, one sentence with its full stop.
        fix: What the reader can do, one sentence with its full stop.
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
