"""Checks of arguments, so that a bad one fails at the call that passed it."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from typing import Any

from keras_optix.errors import ConfigurationError, StateError, describe


def check_int(name: str, value: object, *, minimum: int, fix: str = "") -> int:
    """Returns `value` as an `int` if it is one and at least `minimum`.

    A `bool` is refused: ``window_size=True`` is a mistake, not a one.

    Raises:
        ConfigurationError: `value` is not an integer, or below `minimum`.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < minimum:
        received: dict[str, Any] = {name: value}
        raise ConfigurationError(describe(f"`{name}` must be an integer >= {minimum}.", fix=fix, **received))
    return int(value)


def check_float(
    name: str,
    value: object,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    low_open: bool = False,
    fix: str = "",
) -> float:
    """Returns `value` as a `float` if it is finite and inside ``[low, high]`` (``(low, high]`` with `low_open`).

    Raises:
        ConfigurationError: `value` is not a real number, not finite, or out of range.
    """
    bracket = "(" if low_open else "["
    problem = f"`{name}` must be a number in {bracket}{low:g}, {high:g}]."
    received: dict[str, Any] = {name: value}
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ConfigurationError(describe(problem, fix=fix, **received))
    try:
        number = float(value)
    except OverflowError:  # an integer of hundreds of digits
        number = math.inf
    too_low = number <= low if low_open else number < low
    if not math.isfinite(number) or too_low or number > high:
        raise ConfigurationError(describe(problem, fix=fix, **received))
    return number


def is_finite_number(value: object) -> bool:
    """Whether `value` is a finite real number; a `bool` is none."""
    try:
        return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def check_architecture(variables: Mapping[str, Any], state: Mapping[str, Any], *, fix: str) -> None:
    """Checks that arrays belong to variables of the same names and shapes.

    Raises:
        StateError: A variable is missing on one side, or a shape disagrees.
    """
    if set(variables) != set(state):
        raise StateError(
            describe(
                "The snapshot was taken of another architecture: it does not have the same variables.",
                fix=fix,
                differing=sorted(set(variables) ^ set(state))[:5],
            )
        )
    for name, variable in variables.items():
        if tuple(variable.shape) != state[name].shape:
            raise StateError(
                describe(
                    f"The snapshot was taken of another architecture: {variable.path} has shape "
                    f"{tuple(variable.shape)}, the snapshot's {name} has {state[name].shape}.",
                    fix=fix,
                )
            )


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> str:
    """Returns `value` if it is one of `choices`.

    Raises:
        ConfigurationError: it is not.
    """
    if not isinstance(value, str) or value not in choices:
        received: dict[str, Any] = {name: value}
        listed = ", ".join(repr(choice) for choice in choices)
        raise ConfigurationError(describe(f"`{name}` must be one of {listed}.", **received))
    return value
