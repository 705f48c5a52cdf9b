"""Stores transitions in rings of rows, one ring for each environment, with one copy of each observation.

A ring is a sequence of observations. A row holds an observation, and the action, reward and flags of the transition
that begins with it, whose next observation is that of the next row::

    row   observation  action  reward  flags
     0        s0         a0      r1    transition
     1        s1         a1      r2    transition, terminated
     2        s2         -       -                               (final observation of the episode)
     3        s0'        a0'     r1'   transition
     4        s1'        -       -                               (newest observation)

The newest observation becomes the first row of the next window, if that continues the episode. If it does not, the row
remains, as the final observation of an episode that was cut off. A transition whose next row begins no transition is
the last one of its episode, or the newest one; whether it terminated is a flag.

Stacks of `k` frames (see `replay_frames`) need ``p = k - 1`` rows with earlier frames before the first row of an
episode, and before each row whose frames are not those of the row before moved by one. Such *frame rows* begin no
transition, and the next observation of a transition is that of the next row that is no frame row.

Rows of a ring are counted by *numbers* that never repeat: row number `a` is at ``a % length`` of its ring.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from keras_optix.experience.actions import Actions, DiscreteActions, MultiBinaryActions, MultiDiscreteActions
from keras_optix.experience.observations import Leaves, ObservationLayout
from keras_optix.experience.replay_frames import ObservationRows, Stack, equal_rows, moves_by_one
from keras_optix.reprs import OneLineRepr

TRANSITION, TERMINATED, FRAME = 1, 2, 4  # bits of the flags of a row; a row with the first bit can be drawn


class Steps(NamedTuple):
    """Transitions that are to be stored, from `T` consecutive steps of environments.

    Attributes:
        observations: Leaves, ``[T, N, ...]`` each.
        next_observations: Leaves of the true next observations.
        actions: ``[T, N, ...]``, the choices.
        rewards: ``[T, N]`` float32.
        terminated: ``[T, N]`` bool.
        ended: ``[T, N]`` bool, whether the episode ended, in whichever way.
        valid: ``[T, N]`` bool, False for rows that are no transition.
        begins: ``[T, N]`` bool, whether an episode begins; None if it is not known.
        columns: ``[N]`` int64, the rings of the environments.
    """

    observations: Sequence[np.ndarray]
    next_observations: Sequence[np.ndarray]
    actions: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    ended: np.ndarray
    valid: np.ndarray
    begins: np.ndarray | None
    columns: np.ndarray


class Stored(NamedTuple):
    """What storing transitions changed.

    Attributes:
        new: Rows of the new transitions.
        gone: Rows of transitions that can no longer be drawn, and rows that were written.
        misfits: The number of new transitions whose next observation is no stack of frames that moved by one.
    """

    new: np.ndarray
    gone: np.ndarray
    misfits: int = 0


class _Places(NamedTuple):
    """Where transitions ``[m]``, sorted by ring and time, are to be stored.

    Attributes:
        source: Their places in the steps, flattened to ``[T * N]``.
        ring: Their rings.
        number: Numbers of their rows.
        following: Numbers of the rows of their next observations.
        joined: ``[m]`` bool, whether the row was stored before, as the next observation of another transition.
        fits: ``[m]`` bool, whether the next observation needs no frame rows.
        last: ``[m]`` bool, whether it is the last one of its ring.
    """

    source: np.ndarray
    ring: np.ndarray
    number: np.ndarray
    following: np.ndarray
    joined: np.ndarray
    fits: np.ndarray
    last: np.ndarray


class ReplayRows(OneLineRepr):
    """Rings of rows for `N` environments. A row of all rings has the index ``ring * length + place``.

    Args:
        layout: Layout of the observations.
        kind: Converts the actions.
        num_envs: `N`, the number of rings.
        length: Rows of a ring.
        stacks: For each leaf of the observations where its frames are; None if it is no stack.
        base: The number of the first row.

    Attributes:
        leaves: The observations.
        actions: ``[rows, ...]``, in the smallest dtype that holds all choices.
        rewards: ``[rows]`` float32.
        flags: ``[rows]`` uint8.
        written: ``[N]`` int64, the number of the next row of each ring.
        floor: ``[N]`` int64, the number of the oldest row that was not forgotten.
        open: ``[N]`` bool, whether the newest observation may be continued.
        newest: The newest observations, ``[N, ...]`` each.
        earlier: `p`, the number of frame rows.
        count: The number of transitions that can be drawn.
    """

    def __init__(
        self,
        layout: ObservationLayout,
        kind: Actions,
        num_envs: int,
        length: int,
        stacks: Sequence[Stack | None],
        base: int = 0,
    ) -> None:
        rows = num_envs * length
        self.num_envs = num_envs
        self.length = length
        self.stacks = tuple(stacks)
        self.base = base
        self.leaves = [
            ObservationRows(leaf, rows, length, stack) for leaf, stack in zip(layout.leaves, stacks, strict=True)
        ]
        self._kind = kind
        self.actions: np.ndarray = np.empty((rows, *kind.shape), stored_dtype(kind))
        self.rewards = np.empty(rows, np.float32)
        self.flags = np.zeros(rows, np.uint8)
        self.written = np.full(num_envs, base, np.int64)
        self.floor = self.written.copy()
        self.open = np.zeros(num_envs, bool)
        self.newest: Leaves = [np.zeros((num_envs, *leaf.shape), leaf.dtype) for leaf in layout.leaves]
        self.earlier = max(leaf.earlier for leaf in self.leaves)
        self.count = 0
        self._stacked = any(stack is not None for stack in stacks)

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        arrays = [leaf.data for leaf in self.leaves] + [self.actions, self.rewards, self.flags, *self.newest]
        return sum(array.nbytes for array in arrays)

    def oldest(self) -> np.ndarray:
        """Returns ``[N]``, the numbers of the oldest rows that were neither overwritten nor forgotten."""
        return np.maximum(self.floor, self.written - self.length)

    def index(self, ring: np.ndarray, number: np.ndarray) -> np.ndarray:
        """Returns the indices of rows, from their rings and numbers."""
        rows: np.ndarray = ring * self.length + number % self.length
        return rows

    def numbers(self, rows: np.ndarray) -> np.ndarray:
        """Returns the numbers of the rows that are at these indices now."""
        newest = self.written[rows // self.length] - 1
        numbers: np.ndarray = newest - (newest - rows) % self.length
        return numbers

    # Reading

    def next_rows(self, rows: np.ndarray) -> np.ndarray:
        """Returns the rows of the next observations of transitions."""
        following = rows + 1
        following[following % self.length == 0] -= self.length
        if self.earlier:
            behind = np.flatnonzero(self.flags[following] & FRAME)
            if len(behind):
                far = following[behind] + self.earlier
                far[far % self.length < self.earlier] -= self.length
                following[behind] = far
        return following

    def observations(self, rows: np.ndarray) -> Leaves:
        """Returns the observations of rows ``[m]``, ``[m, ...]`` each."""
        return [leaf.read(rows) for leaf in self.leaves]

    def choices(self, rows: np.ndarray) -> np.ndarray:
        """Returns the actions of rows ``[m]``, in the dtype of a window."""
        return self.actions.take(rows, axis=0).astype(self._kind.dtype, copy=False)

    # Writing

    def store(self, steps: Steps) -> Stored:
        """Stores transitions, over the oldest ones where a ring is full."""
        joins = self._joins(steps)
        fits = self._fits(steps)
        regular = len(joins) + self.earlier < self.length and bool(steps.valid.all() and joins.all())
        if regular and (fits is None or fits.all()):
            return self._store_regular(steps)
        places = self._places(steps, joins, fits)
        return Stored(_NO_ROWS, _NO_ROWS) if places is None else self._store_at(steps, places)

    def _joins(self, steps: Steps) -> np.ndarray:
        """Returns ``[T, N]`` bool, whether a row continues the row before it, if that is a transition."""
        joins = np.empty(steps.rewards.shape, bool)
        joins[0] = self.open[steps.columns]
        for newest, leaf in zip(self.newest, steps.observations, strict=True):
            joins[0] &= equal_rows(newest[steps.columns], leaf[0])
        if len(joins) > 1:
            np.logical_not(steps.ended[:-1], out=joins[1:])
            for before, leaf in zip(steps.next_observations, steps.observations, strict=True):
                joins[1:] &= equal_rows(_flat(before[:-1]), _flat(leaf[1:])).reshape(joins[1:].shape)
        if steps.begins is not None:
            joins &= ~steps.begins
        return joins

    def _fits(self, steps: Steps) -> np.ndarray | None:
        """Returns ``[T, N]`` bool, whether the frames of a next observation moved by one; None without frames."""
        if not self._stacked:
            return None
        fits = np.ones(steps.rewards.size, bool)
        for stack, leaf, following in zip(self.stacks, steps.observations, steps.next_observations, strict=True):
            if stack is not None:
                fits &= moves_by_one(stack, _flat(leaf), _flat(following))
        return fits.reshape(steps.rewards.shape)

    def _store_regular(self, steps: Steps) -> Stored:
        """Stores steps that all continue the row before them, so that each needs one more row."""
        count, columns = len(steps.rewards), steps.columns
        first = self.written[columns]
        self.written[columns] = first + count
        # From the newest observation so far to the newest one now, and the rows that lose their earlier frames.
        numbers = first + np.arange(-1, count + self.earlier)[:, None]
        rows = columns * self.length + numbers % self.length
        gone = self._make_room(rows[1:].ravel())
        new, following = rows[:count].ravel(), rows[1 : count + 1].ravel()
        for leaf, values in zip(self.leaves, steps.next_observations, strict=True):
            leaf.write(following, _flat(values))
        actions = steps.actions
        self.actions[new] = actions.reshape(len(new), *actions.shape[2:])
        self.rewards[new] = steps.rewards.ravel()
        self.flags[new] = TRANSITION | (steps.terminated.ravel() * np.uint8(TERMINATED))
        self.count += len(new)
        for newest, values in zip(self.newest, steps.next_observations, strict=True):
            newest[columns] = values[-1]
        self.open[columns] = ~steps.ended[-1]
        return Stored(new, gone)

    def _places(self, steps: Steps, joins: np.ndarray, fits: np.ndarray | None) -> _Places | None:
        """Finds the rows for steps; None if there are no transitions in them."""
        num_envs = len(steps.columns)
        which, times = np.nonzero(steps.valid.T)
        if not len(which):
            return None
        source = times * num_envs + which
        first = np.append(True, which[1:] != which[:-1])
        joined = joins.ravel()[source]
        self._mend(steps, joined, source, first)
        fit = np.ones(len(source), bool) if fits is None else fits.ravel()[source]
        more = self.earlier + 1
        to_own = np.where(joined, 0, more)
        needed = to_own + np.where(fit, 1, more)
        total = np.cumsum(needed)
        starts = np.flatnonzero(first)
        before = np.repeat(total[starts] - needed[starts], np.diff(np.append(starts, len(source))))
        ring = steps.columns[which]
        following = self.written[ring] - 1 + total - before
        number = following - (needed - to_own)
        return _Places(source, ring, number, following, joined, fit, np.append(first[1:], True))

    def _mend(self, steps: Steps, joined: np.ndarray, source: np.ndarray, first: np.ndarray) -> None:
        """Corrects `joined` for transitions behind rows that are none, which may continue one before these rows."""
        num_envs = len(steps.columns)
        late = np.flatnonzero(first & (source >= num_envs))
        gaps = 1 + np.flatnonzero(~first[1:] & (np.diff(source) != num_envs))
        for at, before in ((late, None), (gaps, source[gaps - 1])):
            if not len(at):
                continue
            here = source[at]
            columns = steps.columns[here % num_envs]
            going_on = self.open[columns] if before is None else ~steps.ended.ravel()[before]
            if steps.begins is not None:
                going_on &= ~steps.begins.ravel()[here]
            known = self.newest if before is None else steps.next_observations
            for old, leaf in zip(known, steps.observations, strict=True):
                earlier = old[columns] if before is None else _flat(old)[before]
                going_on &= equal_rows(earlier, _flat(leaf)[here])
            joined[at] = going_on

    def _store_at(self, steps: Steps, places: _Places) -> Stored:
        """Stores steps in the rows that were found for them."""
        source, ring, number, following, joined, fits, last = places
        rings, written = ring[last], following[last] + 1
        old = self.written[rings]
        self.written[rings] = written
        start = np.maximum(old, written + self.earlier - self.length)
        gone = self._make_room(self.index(*row_ranges(rings, start, written + self.earlier)))
        lowest = self.written[ring] - self.length  # the ring may be too short for all steps
        for k, leaf in enumerate(self.leaves):
            for at, values, wanted, framed in (
                (number, steps.observations[k], ~joined, ~joined),
                (following, steps.next_observations[k], np.True_, ~fits),
            ):
                kept = np.flatnonzero(wanted & (at >= lowest))
                leaf.write(self.index(ring[kept], at[kept]), _flat(values)[source[kept]])
                self._write_frames(leaf, ring, at, np.flatnonzero(framed), lowest, source, _flat(values))
        kept = np.flatnonzero(following >= lowest)
        self.flags[self.index(ring[kept], following[kept])] = 0
        kept = np.flatnonzero(number >= lowest + self.earlier)
        new, source = self.index(ring[kept], number[kept]), source[kept]
        self.actions[new] = steps.actions.reshape(steps.rewards.size, *steps.actions.shape[2:])[source]
        self.rewards[new] = steps.rewards.ravel()[source]
        self.flags[new] = TRANSITION | (steps.terminated.ravel()[source] * np.uint8(TERMINATED))
        self.count += len(new)
        final = places.source[last]
        for newest, values in zip(self.newest, steps.next_observations, strict=True):
            newest[rings] = _flat(values)[final]
        self.open[rings] = ~steps.ended.ravel()[final]
        return Stored(new, gone, int(np.count_nonzero(~fits)))

    def _write_frames(
        self,
        leaf: ObservationRows,
        ring: np.ndarray,
        at: np.ndarray,
        wanted: np.ndarray,
        lowest: np.ndarray,
        source: np.ndarray,
        values: np.ndarray,
    ) -> None:
        """Stores the frame rows before rows whose numbers are `at`, of those transitions that are `wanted`."""
        if not self.earlier or not len(wanted):
            return
        before = at[wanted][:, None] - np.arange(self.earlier, 0, -1)
        kept = before >= lowest[wanted][:, None]
        rows = self.index(ring[wanted][:, None], before)
        leaf.write_earlier(rows, kept, values[source[wanted]])
        self.flags[rows[kept]] = FRAME

    def _make_room(self, rows: np.ndarray) -> np.ndarray:
        """Clears the flags of rows, and returns those that could be drawn."""
        gone: np.ndarray = rows[(self.flags[rows] & TRANSITION) != 0]
        self.flags[rows] = 0
        self.count -= len(gone)
        return gone

    def forget(self, kept: int) -> np.ndarray:
        """Makes all transitions but the newest undrawable, and returns their rows.

        A transition is newer than another if fewer transitions of its environment follow it.

        Args:
            kept: The number of transitions that can still be drawn.
        """
        rows = np.flatnonzero(self.flags & TRANSITION)
        rings, numbers = rows // self.length, self.numbers(rows)
        order = np.lexsort((-numbers, rings))
        firsts = np.searchsorted(rings[order], np.arange(self.num_envs))
        age = np.empty(len(rows), np.int64)
        age[order] = np.arange(len(rows)) - firsts[rings[order]]
        stays = np.zeros(len(rows), bool)
        stays[np.argsort(age, kind="stable")[:kept]] = True
        self.floor = np.maximum(self.written - 1, self.floor)
        np.minimum.at(self.floor, rings[stays], numbers[stays])
        gone: np.ndarray = rows[~stays]
        self.flags[gone] = 0
        self.count -= len(gone)
        return gone


def stored_dtype(kind: Actions) -> np.dtype:
    """Returns the smallest dtype that holds all choices of an action space."""
    if isinstance(kind, DiscreteActions):
        return np.min_scalar_type(kind.n - 1)
    if isinstance(kind, MultiDiscreteActions):
        return np.min_scalar_type(max(kind.sizes) - 1)
    return np.dtype(np.uint8) if isinstance(kind, MultiBinaryActions) else np.dtype(kind.dtype)


_NO_ROWS = np.zeros(0, np.int64)


def _flat(values: np.ndarray) -> np.ndarray:
    """Returns ``[T, N, ...]`` as ``[T * N, ...]``."""
    return values.reshape(values.shape[0] * values.shape[1], *values.shape[2:])


def row_ranges(rings: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rings and the numbers of all rows from `starts` to before `stops`."""
    sizes = stops - starts
    before = np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.repeat(rings, sizes), np.repeat(starts, sizes) + np.arange(sizes.sum()) - before
