"""Defines the carry of a policy: the arrays that it keeps from one row of an environment to the next.

A policy is called with the carry that its last call returned. In the row in which an episode begins, it is called with
the carry's initial value instead, so nothing of one episode reaches the next::

    row   begins   carry that the policy is called with
     0     True    the initial value
     1     False   the carry that the call of row 0 returned
     2     True    the initial value (the episode ended with row 1)

The carry of a policy without a memory, such as a feed-forward network, is an empty tuple.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_optix.errors import ConfigurationError, describe
from keras_optix.reprs import OneLineRepr

Carry = tuple[np.ndarray, ...]
"""One array ``[N, ...]`` for each `CarrySpec`; ``()`` for a policy without a carry."""


@dataclass(frozen=True, eq=False, repr=False)
class CarrySpec(OneLineRepr):
    """Describes one array of a policy's carry, which the policy keeps between two steps of an episode.

    Args:
        shape: Shape for one environment, such as ``(64,)``; ``()`` for a single number.
        dtype: A numeric dtype or bool, such as ``"float32"`` or ``"int32"``. Defaults to float32.
        initial: The value with which each episode begins: a number, or an array that broadcasts to `shape`. Defaults
            to zeros.

    Raises:
        ConfigurationError: The shape, the dtype or the initial value is invalid, or they do not fit each other.

    Examples:
        >>> class Counts(optix.PPOAgent):  # a policy that remembers a number for each environment
        ...     carry_specs = (optix.distributions.CarrySpec((1,)),)
        >>> Counts().carry_specs[0].shape
        (1,)
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    initial: Any = 0

    def __post_init__(self) -> None:
        try:
            shape = tuple(int(axis) for axis in self.shape)
            valid = all(axis >= 0 for axis in shape)
        except TypeError:
            valid = False
        if not valid:
            fix = "Give the shape for one environment, such as (64,)."
            raise ConfigurationError(describe("`shape` must be a tuple of integers.", fix=fix, shape=self.shape))
        try:
            dtype = np.dtype(self.dtype)
        except TypeError:
            dtype = np.dtype(object)
        if dtype.kind not in "biuf":
            fix = 'Such as "float32" or "int32".'
            raise ConfigurationError(describe("`dtype` must be numeric or bool.", fix=fix, dtype=self.dtype))
        try:
            initial = np.broadcast_to(np.asarray(self.initial, dtype), shape).copy()
            if dtype.kind != "f" and not np.array_equal(initial, np.broadcast_to(self.initial, shape)):
                raise ValueError("a value was rounded")
        except (ValueError, TypeError) as error:
            fix = "Give a number, or an array of that shape."
            problem = f"`initial` must fit the shape {shape} and the dtype {dtype.name}."
            raise ConfigurationError(describe(problem, fix=fix, initial=self.initial)) from error
        initial.flags.writeable = False
        for name, value in (("shape", shape), ("dtype", dtype.name), ("initial", initial)):
            object.__setattr__(self, name, value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CarrySpec):
            return NotImplemented
        return self.kind == other.kind and np.array_equal(self.initial, other.initial)

    def __hash__(self) -> int:
        return hash((self.shape, self.dtype))

    @property
    def kind(self) -> tuple[tuple[int, ...], str]:
        """Shape and dtype."""
        return self.shape, self.dtype


def initial_carry(specs: Sequence[CarrySpec], batch_size: int) -> Carry:
    """Returns the carry with which episodes begin, ``[N, ...]`` each.

    Args:
        specs: The arrays of the carry.
        batch_size: `N`, the number of environments.
    """
    return tuple(np.repeat(spec.initial[None], batch_size, 0) for spec in specs)


def renewed(specs: Sequence[CarrySpec], carry: Carry, begins: np.ndarray) -> Carry:
    """Returns the carry with its initial value for environments in which an episode begins.

    Args:
        specs: The arrays of the carry.
        carry: The carry that the policy returned in the previous row, ``[N, ...]`` each; it is not changed.
        begins: ``[N]`` bool, True for environments in which an episode begins in the next row.
    """
    if not begins.any():
        return carry
    return tuple(
        np.where(begins.reshape(-1, *[1] * len(spec.shape)), spec.initial, leaf)
        for spec, leaf in zip(specs, carry, strict=True)
    )


def kinds_of(specs: Sequence[CarrySpec]) -> tuple[tuple[tuple[int, ...], str], ...]:
    """Returns shape and dtype of each array."""
    return tuple(spec.kind for spec in specs)


def misfit(specs: Sequence[CarrySpec], carry: Any, batch_size: int | None) -> str:
    """Describes the first difference between a carry and its specs; returns an empty string if there is none.

    Args:
        specs: The arrays of the carry.
        carry: The carry to check: arrays or tensors.
        batch_size: `N`, the number of environments; None if any number is allowed.
    """
    if not isinstance(carry, tuple | list):
        return f"it is {type(carry).__name__} and not a tuple of arrays"
    if len(carry) != len(specs):
        return f"it has {len(carry)} arrays and not {len(specs)}"
    for k, (spec, leaf) in enumerate(zip(specs, carry, strict=True)):
        shape, dtype = getattr(leaf, "shape", None), getattr(leaf, "dtype", None)
        if shape is None or dtype is None:
            return f"array {k} is {type(leaf).__name__}"
        found = tuple(shape)
        wanted = found[:1] if batch_size is None or found[:1] == (None,) else (batch_size,)
        if not found or found != (*wanted, *spec.shape):
            return f"array {k} has shape {found} and not {('N' if batch_size is None else batch_size, *spec.shape)}"
        name = getattr(dtype, "name", str(dtype))
        if name != spec.dtype:
            return f"array {k} is {name} and not {spec.dtype}"
    return ""
