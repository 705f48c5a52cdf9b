"""Reads numbers from the logs of Keras. Most logs are numbers, but metrics and callbacks may add any object."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from typing import Any

import numpy as np

_NUMERIC_KINDS = "fiub"


def number_in(value: Any) -> float | None:
    """Returns the value of a log as a float, NaN and infinities included; None if it is not one real number.

    Python and NumPy numbers, bools, and arrays and tensors of exactly one element (of any shape) are numbers. A string
    never is, even if it could be parsed as a number.
    """
    if isinstance(value, numbers.Real):
        try:
            return float(value)
        except OverflowError:  # an integer of hundreds of digits
            return math.inf
    array = _array(value)
    return float(array.reshape(())) if array is not None and array.size == 1 else None


def is_finite_log(value: Any) -> bool:
    """Returns whether all numbers in a log are finite. True for a log without numbers."""
    number = number_in(value)
    array = _array(value) if number is None else np.asarray(number)
    return array is None or bool(np.isfinite(array).all())


def numbers_in(logs: Mapping[str, Any]) -> dict[str, float]:
    """Returns the logs that are one number, by name."""
    found = {name: number_in(value) for name, value in logs.items()}
    return {name: number for name, number in found.items() if number is not None}


def kind_of(value: Any) -> str:
    """Describes a log that is not one number: ``"an array of shape (3,)"``, ``"a str"``, ``"None"``."""
    if value is None:
        return "None"
    array = _array(value)
    if array is not None:
        return f"an array of shape {array.shape}"
    return f"a {type(value).__name__}"


def _array(value: Any) -> np.ndarray | None:
    """Returns an array, a tensor or a list of numbers as a float64 array, and None for any other object."""
    if value is None or isinstance(value, str | bytes | Mapping | complex):
        return None
    try:
        # NumPy cannot read PyTorch tensors that have a gradient or are on a GPU, nor TensorFlow tensors in bfloat16.
        if hasattr(value, "detach"):
            value = value.detach().cpu().double()
        elif hasattr(value, "numpy"):
            value = value.numpy()
        array = np.asarray(value)
        # NumPy treats bfloat16 and similar types as numbers only after a conversion.
        known = array.dtype.kind in _NUMERIC_KINDS or (hasattr(value, "dtype") and array.dtype.kind == "V")
        return array.astype(np.float64) if known else None
    except Exception:  # logs may hold any object, and an unreadable one must not end the run
        return None
