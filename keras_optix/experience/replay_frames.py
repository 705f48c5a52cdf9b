"""Stores one array of the observations of a replay buffer: whole, or one frame of each stack of frames.

An observation that is a stack of the last `k` frames, such as Gymnasium's `FrameStackObservation` gives, shares
``k - 1`` frames with the observation before it. Of such an array only the newest frame is stored in each row: the
observation of a row consists of the frames of this row and of the ``k - 1`` rows before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from keras_optix.experience.observations import Leaf
from keras_optix.reprs import OneLineRepr

_MOST_FRAMES = 16
_FITTING = 0.9  # share of the transitions of the first window whose frames must move by one


class Stack(NamedTuple):
    """Where the frames of an observation are.

    Attributes:
        axis: 0 if the first axis counts the frames, -1 if the last one does.
        frames: The number of frames, `k`.
    """

    axis: int
    frames: int

    def frame(self, values: np.ndarray, k: int) -> np.ndarray:
        """Returns frame `k` of each of the observations ``[m, ...]``; -1 is the newest one."""
        return values[:, k] if self.axis == 0 else values[..., k]


class ObservationRows(OneLineRepr):
    """One array of the observations, in rows.

    Args:
        leaf: The array.
        rows: The number of rows of all rings.
        length: Rows of a ring.
        stack: Where the frames are; None stores whole observations.

    Attributes:
        data: ``[rows, ...]``, observations or frames.
        earlier: How many rows before its own row an observation needs.
    """

    def __init__(self, leaf: Leaf, rows: int, length: int, stack: Stack | None) -> None:
        self.leaf = leaf
        self.stack = stack
        self._length = length
        self.earlier = 0 if stack is None else stack.frames - 1
        shape = leaf.shape
        if stack is not None:
            shape = shape[1:] if stack.axis == 0 else shape[:-1]
        self.data: np.ndarray = np.empty((rows, *shape), leaf.dtype)

    def write(self, rows: np.ndarray, values: np.ndarray) -> None:
        """Stores observations ``[m, ...]``, or the newest frame of each, in rows ``[m]``."""
        self.data[rows] = values if self.stack is None else self.stack.frame(values, -1)

    def write_earlier(self, rows: np.ndarray, kept: np.ndarray, values: np.ndarray) -> None:
        """Stores the earlier frames of observations in the rows before theirs.

        Args:
            rows: ``[m, p]``, the `p` rows before the row of each observation, with ``p >= earlier``.
            kept: ``[m, p]`` bool, whether to write each of these rows.
            values: ``[m, ...]``, the observations.
        """
        if self.stack is not None:
            first = rows.shape[1] - self.earlier
            for k in range(self.earlier):
                which = kept[:, first + k]
                self.data[rows[which, first + k]] = self.stack.frame(values, k)[which]

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Returns the observations ``[m, ...]`` of rows ``[m]``."""
        if self.stack is None:
            return self.data.take(rows, axis=0)
        at = rows[:, None] - np.arange(self.earlier, -1, -1)
        at[at < (rows - rows % self._length)[:, None]] += self._length
        if self.stack.axis == 0:
            return self.data.take(at, axis=0)
        values: np.ndarray = np.empty((len(rows), *self.leaf.shape), self.leaf.dtype)
        for k in range(self.stack.frames):  # less memory than to move the axis of all frames at once
            values[..., k] = self.data.take(at[:, k], axis=0)
        return values


def find_stacks(
    leaves: Sequence[Leaf], observations: Sequence[np.ndarray], following: Sequence[np.ndarray]
) -> list[Stack | None]:
    """Finds the arrays that are stacks of frames, from transitions.

    Args:
        leaves: The arrays of an observation.
        observations: The arrays of the transitions' observations, ``[m, ...]`` each.
        following: The arrays of their next observations.

    Returns:
        For each array where its frames are, or None if it is no stack. An image whose transitions change nothing may be
        one, and counts as one.
    """
    return [_stack_of(leaf, o, n) for leaf, o, n in zip(leaves, observations, following, strict=True)]


def _stack_of(leaf: Leaf, before: np.ndarray, after: np.ndarray) -> Stack | None:
    if len(leaf.shape) < 2 or not len(before):
        return None
    moved = ~equal_rows(before, after)
    if not moved.any() and not (leaf.image and len(leaf.shape) > 2):
        return None
    for axis in (0, -1):
        stack = Stack(axis, leaf.shape[axis])
        if 2 <= stack.frames <= _MOST_FRAMES:
            fits = moves_by_one(stack, before, after)
            if fits.mean() >= _FITTING and (fits & moved).any() >= moved.any():
                return stack
    return None


def moves_by_one(stack: Stack, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Returns ``[m]`` bool, whether the frames of `after` are those of `before` moved by one, and a new one."""
    m = len(before)
    if stack.axis == 0:
        return equal_rows(before[:, 1:], after[:, :-1])
    size = stack.frames * before.dtype.itemsize
    if size in (2, 4, 8) and before.flags.c_contiguous and after.flags.c_contiguous:
        # The frames of a pixel are the bytes of one little-endian integer, whose oldest frame is the lowest.
        word = np.dtype(f"<u{size}")
        bits = 8 * before.dtype.itemsize
        old, new = (values.reshape(m, -1).view(word) for values in (before, after))
        same: np.ndarray = (np.right_shift(old, bits) == (new & word.type((1 << (8 * size - bits)) - 1))).all(axis=1)
        return same
    return equal_rows(before[..., 1:], after[..., :-1])


def equal_rows(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Returns ``[m]`` bool, whether the bytes of rows of two arrays ``[m, ...]`` are the same."""
    same: np.ndarray = np.equal(_words(one), _words(other)).all(axis=1)
    return same


def _words(values: np.ndarray) -> np.ndarray:
    """Returns the bytes of each row of ``[m, ...]`` as ``[m, w]`` of the largest words that they fill."""
    m = len(values)
    flat = np.ascontiguousarray(values).reshape(m, values.size // m if m else 0)
    size = flat.shape[1] * flat.itemsize
    return flat.view(np.uint64 if size % 8 == 0 else np.uint32 if size % 4 == 0 else np.uint8)
