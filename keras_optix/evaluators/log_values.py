"""What the logs of Keras hold: mostly numbers, but metrics and callbacks put all kinds of objects there."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from typing import Any

import numpy as np

_NUMERIC_KINDS = "fiub"


def number_in(value: Any) -> float | None:
    """The one real number that a log is, NaN and infinities included; None if it is anything else.

    Python and NumPy numbers, bools, and arrays and tensors of exactly one element (whatever their shape) are numbers.
    Strings never are, even if they could be read as one.
    """
    if isinstance(value, numbers.Real):
        try:
            return float(value)
        except OverflowError:  # an integer of hundreds of digits
            return math.inf
    array = _array(value)
    return float(array.reshape(())) if array is not None and array.size == 1 else None


def is_finite_log(value: Any) -> bool:
    """Whether all numbers in a log are finite. What holds no numbers is: there is nothing that could be wrong."""
    number = number_in(value)
    array = _array(value) if number is None else np.asarray(number)
    return array is None or bool(np.isfinite(array).all())


def numbers_in(logs: Mapping[str, Any]) -> dict[str, float]:
    """The logs that are one number, by name."""
    found = {name: number_in(value) for name, value in logs.items()}
    return {name: number for name, number in found.items() if number is not None}


def kind_of(value: Any) -> str:
    """What a log is that is no single number, in words: ``"an array of shape (3,)"``, ``"a str"``, ``"None"``."""
    if value is None:
        return "None"
    array = _array(value)
    if array is not None:
        return f"an array of shape {array.shape}"
    return f"a {type(value).__name__}"


def _array(value: Any) -> np.ndarray | None:
    """The real numbers of an array, a tensor or a list of numbers as float64, or None for what is none of these."""
    if value is None or isinstance(value, str | bytes | Mapping | complex):
        return None
    try:
        # NumPy reads PyTorch's tensors neither with a gradient nor from a GPU, and TensorFlow's not in bfloat16.
        if hasattr(value, "detach"):
            value = value.detach().cpu().double()
        elif hasattr(value, "numpy"):
            value = value.numpy()
        array = np.asarray(value)
        # bfloat16 and its like are numbers to NumPy only after a conversion.
        known = array.dtype.kind in _NUMERIC_KINDS or (hasattr(value, "dtype") and array.dtype.kind == "V")
        return array.astype(np.float64) if known else None
    except Exception:  # anything may be in the logs, and no log is worth the end of a run
        return None
