"""Finds NaN and infinities in the arrays of a state."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from keras_optix.store.files import Arrays


def not_finite_in(arrays: Arrays, masks: Collection[str] = ()) -> str:
    """Returns the name of the first array with a value that is not finite; empty if there is none.

    Args:
        arrays: Arrays by name.
        masks: Names of arrays that may be infinite, but not NaN, because they were so at the beginning of the run: a
            mask of attention, for example.
    """
    for name, array in arrays.items():
        if not _has_floats(array) or np.isfinite(array).all():
            continue
        if name not in masks or np.isnan(array).any():
            return name
    return ""


def infinite_in(arrays: Arrays) -> frozenset[str]:
    """Returns the names of the arrays with infinities and without NaN."""
    return frozenset(
        name
        for name, array in arrays.items()
        if _has_floats(array) and np.isinf(array).any() and not np.isnan(array).any()
    )


def _has_floats(array: np.ndarray) -> bool:
    if array.dtype.kind != "V":
        return array.dtype.kind in "fc"
    try:
        np.isfinite(array[:0] if array.ndim else array)
    except TypeError:  # bytes
        return False
    return True  # a type of another package, such as bfloat16 of `ml_dtypes`
