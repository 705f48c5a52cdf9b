"""Calls of tensor functions with NumPy arrays, on the backend that Keras runs on."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops, tree


def with_arrays(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as one of arrays: Torch has no arithmetic between an array and a tensor."""

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        given = tree.map_structure(_tensor, (arguments, named))
        return tree.map_structure(ops.convert_to_numpy, function(*given[0], **given[1]))

    return call


class WithArrays:
    """A module or an object whose functions take and return arrays."""

    def __init__(self, functions: Any) -> None:
        self._functions = functions

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._functions, name)
        return with_arrays(found) if callable(found) else found


def _tensor(value: Any) -> Any:
    return ops.convert_to_tensor(value) if isinstance(value, np.ndarray | np.generic) else value
