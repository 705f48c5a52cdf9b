"""Lays the observations of a space out in a window: one array per leaf, in a fixed order.

A `Dict` or `Tuple` of spaces is a tree; its leaves are Box, Discrete, MultiDiscrete and MultiBinary spaces. Inside the
collector an observation is the list of its leaves; windows and networks get the tree again (dicts and tuples).

============== ============================== =========== ==========================================================
space          one observation                dtype       note
============== ============================== =========== ==========================================================
Box            the space's shape              the space's float64 becomes float32; uint8 images stay uint8
Discrete(n)    ``()``                         int32       0 .. n - 1, whatever the space's `start`
MultiDiscrete  the shape of `nvec`            int32       0 .. nvec - 1, whatever the space's `start`
MultiBinary    the space's shape              int8
Dict, Tuple    a dict or tuple of the above
============== ============================== =========== ==========================================================
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from keras_optix.errors import EnvError, SpaceError, describe
from keras_optix.reprs import OneLineRepr

Leaves = list[np.ndarray]

_PLANE = 8  # pixels; an array without channels that is smaller than this on a side is not an image


@dataclass(frozen=True, eq=False)
class Leaf:
    """One array of an observation.

    Attributes:
        path: Its place in the tree, such as ``"camera"`` or ``"arm/0"``; empty if the observation is one array.
        space: Its space.
        shape: Shape in one observation.
        dtype: Dtype in a window.
        categories: The number of categories of each element, flattened; None if the leaf is not categorical.
        start: The space's `start`, which is subtracted from the environment's value; None if it is 0.
        low: Smallest legal values in the window, or None if every value of the dtype is legal.
        high: Largest legal values, or None if every value of the dtype is legal.
    """

    path: str
    space: spaces.Space[Any]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    categories: tuple[int, ...] | None = None
    start: Any = None
    low: np.ndarray | None = None
    high: np.ndarray | None = None

    @property
    def continuous(self) -> bool:
        """Whether it holds floating-point numbers."""
        return self.dtype.kind == "f"

    @property
    def bytes(self) -> bool:
        """Whether it holds bytes and all values from 0 to 255 are legal."""
        return self.dtype == np.uint8 and self.low is None

    @property
    def image(self) -> bool:
        """Whether it looks like an image or a stack of images: uint8 with three or four axes, or a plane of bytes."""
        plane = len(self.shape) == 2 and self.bytes and min(self.shape) >= _PLANE
        return plane or (self.dtype == np.uint8 and len(self.shape) in (3, 4))

    def is_plain(self, value: Any, leading: tuple[int, ...]) -> bool:
        """Returns whether a value already has the dtype and shape that a window keeps, so that it can be copied."""
        return type(value) is np.ndarray and value.dtype is self.dtype and value.shape == leading + self.shape

    def convert(self, value: Any, leading: tuple[int, ...]) -> np.ndarray:
        """Checks the value that an environment returned for this leaf, and converts it to the dtype of a window.

        Bounds and NaN are checked later, once for each window (`ObservationLayout.check`).

        Args:
            value: One observation, or a batch of them.
            leading: The shape of the batch; ``()`` for one observation.

        Raises:
            EnvError: The shape or the dtype is not that of the space.
        """
        name = f" {self.path!r}" if self.path else ""
        try:
            array = np.asarray(value)
        except ValueError as error:
            raise EnvError(f"The environment returned an observation{name} that is not an array: {error}") from error
        if array.shape != leading + self.shape:
            raise EnvError(
                describe(
                    f"The environment returned an observation{name} of shape {array.shape[len(leading) :]}, "
                    f"but its observation space says {self.shape}."
                )
            )
        if array.dtype == self.dtype and self.start is None:
            return array
        wanted = self.space.dtype
        if not np.can_cast(array.dtype, np.dtype(wanted), "same_kind"):
            raise EnvError(
                describe(
                    f"The environment returned an observation{name} of dtype {array.dtype}, "
                    f"but its observation space says {wanted}."
                )
            )
        if self.start is not None:
            array = array.astype(np.int64, copy=False) - self.start
        converted = array.astype(self.dtype, copy=False)
        if self.dtype.kind in "iu" and converted.tolist() != array.tolist():
            raise EnvError(
                describe(f"The environment returned an observation{name} outside its space {self.space}.", value=value)
            )
        return converted


class ObservationLayout(OneLineRepr):
    """The leaves of an observation space.

    Args:
        space: Observation space of one environment.

    Raises:
        SpaceError: The space, or one inside it, is not supported.
    """

    def __init__(self, space: spaces.Space[Any]) -> None:
        self.space = space
        self.leaves = tuple(_leaves(space, ""))
        if not self.leaves:
            raise SpaceError(describe("The observation space is empty.", observation_space=space))
        self._repeated: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}
        self.single = self.leaves[0] if isinstance(space, spaces.Box) else None

    def empty(self, *leading: int) -> Leaves:
        """Makes uninitialised arrays for observations, ``[*leading, ...]`` each."""
        return [np.empty((*leading, *leaf.shape), leaf.dtype) for leaf in self.leaves]

    def convert(self, observation: Any, *leading: int) -> Leaves:
        """Splits an environment's observation, or a batch of them, into its leaves.

        Raises:
            EnvError: The observation does not fit the space.
        """
        if self.single is not None:
            return [self.single.convert(observation, leading)]
        values = list(_values(self.space, observation, ""))
        return [leaf.convert(value, leading) for leaf, value in zip(self.leaves, values, strict=True)]

    def pack(self, leaves: Sequence[Any]) -> Any:
        """Puts leaves (arrays, tensors, layers, ...) together into the dicts and tuples of the space."""
        return _pack(self.space, iter(leaves))

    def flatten(self, packed: Any) -> list[Any]:
        """Returns the leaves of what `pack` put together."""
        return list(_values(self.space, packed, ""))

    def check(self, leaves: Leaves, where: str, *, bounds: bool) -> None:
        """Checks that observations ``[T, N, ...]`` are finite and, with `bounds`, inside the space.

        Raises:
            EnvError: An observation is not.
        """
        for k, (leaf, values) in enumerate(zip(self.leaves, leaves, strict=True)):
            name = f" {leaf.path!r}" if leaf.path else ""
            if leaf.continuous:
                check_finite(f"an observation{name}", values, where)
            # A category out of range would be silently wrong in an embedding, so it is checked in any case.
            if leaf.low is None or not (bounds or leaf.categories is not None):
                continue
            # One long row per step, because NumPy is ten times slower if the last axis is short.
            low, high = self._bounds(k, values.shape[1])
            rows = values.reshape(len(values), -1)
            if (rows < low).any() or (rows > high).any():
                outside = (values < leaf.low) | (values > leaf.high)
                place = _first(outside)
                hint = "" if leaf.categories else " Or allow such values with `check_bounds=False`."
                raise EnvError(
                    describe(
                        f"The environment returned an observation{name} outside its space {leaf.space}.",
                        fix=f"Environment {place[1]}, row {place[0]} of {where}. Widen the space.{hint}",
                        value=values[place].item(),
                    )
                )

    def _bounds(self, k: int, num_envs: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the bounds of leaf `k`, repeated for all environments."""
        if (k, num_envs) not in self._repeated:
            leaf = self.leaves[k]
            shape = (num_envs, *leaf.shape)
            bounds: list[Any] = [leaf.low, leaf.high]
            low, high = (np.broadcast_to(bound, shape).ravel() for bound in bounds)
            self._repeated[k, num_envs] = low, high
        return self._repeated[k, num_envs]


def check_finite(what: str, values: np.ndarray, where: str) -> None:
    """Checks that floating-point values ``[T, N, ...]`` of a window are finite.

    Args:
        what: Describes the values, for the message.
        values: The values.
        where: Names the window, for the message.

    Raises:
        EnvError: A value is not finite.
    """
    if not np.isfinite(values).all():
        place = _first(~np.isfinite(values))
        raise EnvError(
            describe(
                f"The environment returned {what} that is not finite.",
                fix=f"Environment {place[1]}, row {place[0]} of {where}.",
                value=float(values[place]),
            )
        )


def _first(wrong: np.ndarray) -> tuple[int, ...]:
    """Returns the indices of the first True."""
    return tuple(int(k) for k in np.argwhere(wrong)[0])


def _leaves(space: spaces.Space[Any], path: str) -> Iterator[Leaf]:
    if isinstance(space, spaces.Dict | spaces.Tuple):
        for key, inner in _items(space):
            yield from _leaves(inner, f"{path}/{key}" if path else str(key))
    elif isinstance(space, spaces.Box):
        yield _box(space, path)
    elif isinstance(space, spaces.Discrete):
        zero, last = np.zeros((), np.int32), np.array(space.n - 1, np.int32)
        first = int(space.start) or None
        yield Leaf(path, space, (), np.dtype(np.int32), (int(space.n),), first, zero, last)
    elif isinstance(space, spaces.MultiDiscrete):
        start = np.asarray(space.start) if np.any(space.start) else None
        sizes = np.asarray(space.nvec)
        low, high = np.zeros(sizes.shape, np.int32), (sizes - 1).astype(np.int32)
        categories = tuple(int(n) for n in sizes.ravel())
        yield Leaf(path, space, tuple(sizes.shape), np.dtype(np.int32), categories, start, low, high)
    elif isinstance(space, spaces.MultiBinary):
        low, high = np.zeros(space.shape, np.int8), np.ones(space.shape, np.int8)
        yield Leaf(path, space, tuple(space.shape), np.dtype(np.int8), low=low, high=high)
    else:
        inside = f" (at {path!r})" if path else ""
        raise SpaceError(
            describe(
                f"This observation space is not supported{inside}; Box, Discrete, MultiDiscrete and MultiBinary are, "
                "and so are Dict and Tuple spaces of these.",
                fix="Wrap the environment in a gymnasium.ObservationWrapper that returns one of these.",
                observation_space=space,
            )
        )


def _box(space: spaces.Box, path: str) -> Leaf:
    dtype = np.dtype(np.float32) if space.dtype == np.float64 else np.dtype(space.dtype)
    with np.errstate(over="ignore"):
        low: np.ndarray = space.low.astype(dtype)
        high: np.ndarray = space.high.astype(dtype)
    everything = dtype.kind == "b"
    if dtype.kind == "f":
        everything = bool(np.isinf(low).all() and np.isinf(high).all())
        # A legal float64 value that is rounded to float32 may be outside by a rounding error.
        with np.errstate(over="ignore"):
            low, high = low - _margin(low), high + _margin(high)
    elif dtype.kind in "iu":
        limits = np.iinfo(dtype.name)
        everything = bool((low == limits.min).all() and (high == limits.max).all())
    shape = tuple(space.shape)
    return Leaf(path, space, shape, dtype) if everything else Leaf(path, space, shape, dtype, low=low, high=high)


def _margin(bound: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(bound), 1e-5 * np.maximum(1.0, np.abs(bound)), 0.0).astype(bound.dtype)


def _items(space: Any) -> list[tuple[Any, spaces.Space[Any]]]:
    return list(space.spaces.items()) if isinstance(space, spaces.Dict) else list(enumerate(space.spaces))


def _values(space: spaces.Space[Any], value: Any, path: str) -> Iterator[Any]:
    if not isinstance(space, spaces.Dict | spaces.Tuple):
        yield value
        return
    for key, inner in _items(space):
        here = f"{path}/{key}" if path else str(key)
        try:
            part = value[key]
        except (KeyError, IndexError, TypeError) as error:
            raise EnvError(
                describe(
                    f"The environment returned an observation without {here!r}, but its observation space has it.",
                    observation=type(value).__name__,
                )
            ) from error
        yield from _values(inner, part, here)


def _pack(space: spaces.Space[Any], leaves: Iterator[Any]) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: _pack(inner, leaves) for key, inner in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_pack(inner, leaves) for inner in space.spaces)
    return next(leaves)
