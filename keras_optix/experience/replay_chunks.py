"""Saves a replay buffer in chunks of rows, so that a resume point writes only the rows that are new.

Rows never change once the next row of their ring was written. So a chunk holds, for each ring, the rows from the
observation that was the newest one at the time of the chunk before, and had no action yet, to the newest one now. The
number of a row gives its place, and restoring writes it there.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_optix.errors import StateError, describe
from keras_optix.experience.actions import Actions
from keras_optix.experience.observations import ObservationLayout
from keras_optix.experience.priorities import Priorities
from keras_optix.experience.replay_frames import Stack
from keras_optix.experience.replay_rows import TRANSITION, ReplayRows, row_ranges
from keras_optix.reprs import OneLineRepr
from keras_optix.states import Count, NonNegative, State, read_state, to_json

Chunk = tuple[dict[str, np.ndarray], dict[str, Any]]
LeafKind = tuple[str, tuple[Count, ...], str]

_FIX = "Resume with the spaces and the replay options of that run, or begin a new run."


class SavedChunk(State, frozen=True):
    """The JSON values of a chunk.

    Attributes:
        number: Counts the chunks of a buffer from 0.
        deal: Counts how often the rows of the buffer were moved; the chunks of earlier deals are not needed.
        starts: For each ring the number of the first row in the chunk.
        stops: For each ring the number of the row behind the last one.
    """

    number: Count
    deal: Count
    starts: tuple[Count, ...]
    stops: tuple[Count, ...]


class SavedReplay(State, frozen=True):
    """The state of a replay buffer without its rows.

    Attributes:
        layout: Path, shape and dtype of each array of an observation, and of the actions.
        capacity: Rows of all environments together.
        prioritized: Whether there are priorities.
        num_envs: The number of rings; 0 before the first window.
        stacks: For each array of an observation the axis and the number of its frames; None if it is no stack.
        base: The number of the first row of each ring.
        written: For each ring the number of the next row.
        floor: For each ring the number of the oldest row that was not forgotten.
        open: For each ring whether the newest observation may be continued.
        added: The number of transitions that were ever stored.
        misfits: The number of transitions whose frames did not move by one.
        deal: Counts how often the rows were moved.
        chunks: The number of chunks that were taken.
        largest: The largest priority.
        priorities: The priorities of all rows from the oldest to the newest, ring after ring, as float32 in base 64.
    """

    layout: tuple[LeafKind, ...]
    capacity: Count
    prioritized: bool
    num_envs: Count
    stacks: tuple[tuple[int, Count] | None, ...]
    base: Count
    written: tuple[Count, ...]
    floor: tuple[Count, ...]
    open: tuple[bool, ...]
    added: Count
    misfits: Count
    deal: Count
    chunks: Count
    largest: NonNegative
    priorities: str | None

    @classmethod
    def of(
        cls,
        rows: ReplayRows | None,
        priorities: Priorities | None,
        taken: Chunks,
        *,
        layout: tuple[LeafKind, ...],
        capacity: int,
        prioritized: bool,
        added: int,
        misfits: int,
    ) -> SavedReplay:
        """Returns the state of a buffer."""
        encoded = None
        if rows is not None and priorities is not None:
            values = priorities.values[_live(rows)].astype("<f4", copy=False)
            encoded = base64.b64encode(values.tobytes()).decode("ascii")
        return cls(
            layout=layout,
            capacity=capacity,
            prioritized=prioritized,
            num_envs=0 if rows is None else rows.num_envs,
            stacks=() if rows is None else tuple(None if s is None else (s.axis, s.frames) for s in rows.stacks),
            base=0 if rows is None else rows.base,
            written=() if rows is None else tuple(rows.written.tolist()),
            floor=() if rows is None else tuple(rows.floor.tolist()),
            open=() if rows is None else tuple(rows.open.tolist()),
            added=added,
            misfits=misfits,
            deal=taken.deal,
            chunks=taken.count,
            largest=1.0 if priorities is None else priorities.largest,
            priorities=encoded,
        )

    def rows(self, layout: ObservationLayout, kind: Actions) -> ReplayRows | None:
        """Reserves the rings, without their rows; None before the first window.

        Raises:
            StateError: The entries contradict each other.
        """
        if not self.num_envs:
            return None
        sizes = {len(self.written), len(self.floor), len(self.open)}
        if sizes != {self.num_envs} or len(self.stacks) != len(layout.leaves) or self.num_envs > self.capacity:
            raise _damaged("its entries have different lengths")
        stacks = [None if stack is None else Stack(*stack) for stack in self.stacks]
        for stack, leaf in zip(stacks, layout.leaves, strict=True):
            if stack is not None and (
                stack.axis not in (0, -1)
                or not leaf.shape
                or stack.frames != leaf.shape[stack.axis]
                or stack.frames < 1
            ):
                raise _damaged("its stacks of frames are not those of the observations")
        rows = ReplayRows(layout, kind, self.num_envs, self.capacity // self.num_envs, stacks, self.base)
        rows.written[:], rows.floor[:], rows.open[:] = self.written, self.floor, self.open
        if (rows.written < rows.floor).any() or (rows.floor < self.base).any():
            raise _damaged("its numbers of rows contradict each other")
        return rows

    def priorities_of(self, rows: ReplayRows | None) -> Priorities | None:
        """Restores the priorities; None if there are none.

        Raises:
            StateError: They are damaged.
        """
        if rows is None or not self.prioritized:
            return None
        live = _live(rows)
        try:
            values = np.frombuffer(base64.b64decode(self.priorities or "", validate=True), "<f4")
        except (binascii.Error, ValueError) as error:
            raise _damaged(f"its priorities are no base 64 ({error})") from error
        if len(values) != len(live) or not np.isfinite(values).all() or (values < 0.0).any():
            raise _damaged("its priorities are not those of its rows")
        priorities = Priorities(len(rows.flags))
        priorities.restore(live, values, self.largest)
        return priorities


def read_replay(state: Any, layout: tuple[LeafKind, ...], capacity: int, *, prioritized: bool) -> SavedReplay:
    """Reads what `to_json(SavedReplay(...))` returned.

    Raises:
        StateError: It is the state of another buffer, or it is not complete.
    """
    saved = read_state(SavedReplay, state, "state of the replay buffer", _FIX)
    wanted = {"layout": layout, "capacity": capacity, "prioritized": prioritized}
    for name, value in wanted.items():
        if getattr(saved, name) != value:
            raise StateError(
                describe(
                    f"The saved state is of a replay buffer with another `{name}`.",
                    fix=_FIX,
                    saved=getattr(saved, name),
                    wanted=value,
                )
            )
    return saved


def layout_of(layout: ObservationLayout, kind: Actions) -> tuple[LeafKind, ...]:
    """Returns path, shape and dtype of each array of an observation, and of the actions."""
    leaves = [(leaf.path, tuple(leaf.shape), leaf.dtype.name) for leaf in layout.leaves]
    return (*leaves, ("actions", tuple(kind.shape), np.dtype(kind.dtype).name))


class Chunks(OneLineRepr):
    """Remembers which rows of a buffer were taken, in which chunks.

    Attributes:
        count: The number of chunks so far.
        deal: Counts how often the rows of the buffer were moved.
    """

    def __init__(self) -> None:
        self.count = 0
        self.deal = 0
        self._taken: np.ndarray | None = None  # [N], numbers of the rows up to which all were taken
        self._stops: list[tuple[int, np.ndarray]] = []  # of the chunks that may still be needed

    def begin(self, rows: ReplayRows) -> None:
        """Begins anew, because the rows of the buffer are other ones."""
        if self._taken is not None:
            self.deal += 1
        self._taken = rows.written.copy()
        self._stops.clear()

    def take(self, rows: ReplayRows | None) -> Chunk:
        """Returns the rows that were written since the last call; see `ReplayBuffer.take_new`."""
        number = self.count
        self.count += 1
        if rows is None or self._taken is None:
            return {}, to_json(SavedChunk(number, self.deal, (), ()))
        # The row that was the newest one then has an action now, unless nothing was written.
        starts = np.where(rows.written > self._taken, np.maximum(self._taken - 1, rows.base), self._taken)
        starts = np.minimum(np.maximum(starts, _oldest_read(rows)), rows.written)
        at = rows.index(*row_ranges(np.arange(rows.num_envs), starts, rows.written))
        arrays = {name: array.take(at, axis=0) for name, array in _arrays(rows).items()}
        for array in arrays.values():
            array.flags.writeable = False
        self._taken = rows.written.copy()
        self._stops.append((number, self._taken))
        saved = SavedChunk(number, self.deal, tuple(starts.tolist()), tuple(rows.written.tolist()))
        return arrays, to_json(saved)

    def oldest_needed(self, rows: ReplayRows | None) -> int:
        """Returns the number of the oldest chunk that is still needed; see `ReplayBuffer.oldest_needed`."""
        if rows is not None:
            oldest = _oldest_read(rows)
            while self._stops and not (self._stops[0][1] > oldest).any():
                self._stops.pop(0)
        return self._stops[0][0] if self._stops else self.count

    def restore(
        self,
        chunks: Sequence[tuple[Mapping[str, np.ndarray], Mapping[str, Any]]],
        saved: SavedReplay,
        rows: ReplayRows | None,
    ) -> None:
        """Writes the rows of chunks into the rings.

        Raises:
            StateError: A chunk that is needed is missing or damaged.
        """
        self.count, self.deal = saved.chunks, saved.deal
        if rows is None:
            return
        read = [(read_state(SavedChunk, values, "chunk of a replay buffer", _FIX), arrays) for arrays, values in chunks]
        needed = [(chunk, arrays) for chunk, arrays in read if chunk.deal == saved.deal and chunk.number < saved.chunks]
        oldest = _oldest_read(rows)
        reached = oldest.copy()
        for chunk, arrays in sorted(needed, key=lambda pair: pair[0].number):
            if not chunk.stops:
                continue
            starts, stops = _bounds(chunk, rows)
            if (np.minimum(reached, rows.written) < np.minimum(starts, rows.written)).any():
                break
            _write(chunk.number, arrays, rows, starts, stops, oldest)
            reached = np.maximum(reached, stops)
            self._stops.append((chunk.number, stops))
        if (reached < rows.written).any():
            numbers = sorted(chunk.number for chunk, _ in read)
            problem = "A chunk of the replay buffer that the state needs is missing."
            fix = "Give all chunks since `oldest_needed`, and call `take_new` before `state`."
            raise StateError(describe(problem, fix=fix, chunks=numbers))
        self._taken = rows.written.copy()
        _complete(rows)


def _bounds(chunk: SavedChunk, rows: ReplayRows) -> tuple[np.ndarray, np.ndarray]:
    if not len(chunk.starts) == len(chunk.stops) == rows.num_envs:
        raise _damaged(f"chunk {chunk.number} is that of another number of environments")
    starts, stops = np.array(chunk.starts, np.int64), np.array(chunk.stops, np.int64)
    if (starts > stops).any() or (stops - starts > rows.length).any() or (stops > rows.written).any():
        raise _damaged(f"the numbers of rows of chunk {chunk.number} contradict each other")
    return starts, stops


def _write(
    number: int,
    arrays: Mapping[str, np.ndarray],
    rows: ReplayRows,
    starts: np.ndarray,
    stops: np.ndarray,
    oldest: np.ndarray,
) -> None:
    """Writes the rows of a chunk, but those that were overwritten later or cannot be read any more."""
    rings, numbers = row_ranges(np.arange(rows.num_envs), starts, stops)
    kept = numbers >= oldest[rings]
    at = rows.index(rings[kept], numbers[kept])
    everything = bool(kept.all())
    for name, target in _arrays(rows).items():
        array = arrays.get(name)
        if array is None or array.dtype != target.dtype or array.shape != (len(kept), *target.shape[1:]):
            raise _damaged(f"{name!r} of chunk {number} is not as it was taken")
        target[at] = array if everything else array[kept]


def _complete(rows: ReplayRows) -> None:
    """Completes what follows from the rows: which of them cannot be drawn, how many can, the newest observations."""
    drawable = np.flatnonzero(rows.flags & TRANSITION)
    lowest = np.maximum(rows.floor, rows.written - rows.length + rows.earlier)
    rows.flags[drawable[rows.numbers(drawable) < lowest[drawable // rows.length]]] = 0
    rows.count = int(np.count_nonzero(rows.flags & TRANSITION))
    known = np.flatnonzero(rows.written > rows.base)
    for newest, values in zip(rows.newest, rows.observations(rows.index(known, rows.written[known] - 1)), strict=True):
        newest[known] = values


def _oldest_read(rows: ReplayRows) -> np.ndarray:
    """Returns ``[N]``, the numbers of the oldest rows that an observation that can be drawn needs."""
    oldest: np.ndarray = np.maximum(np.maximum(rows.floor - rows.earlier, rows.written - rows.length), rows.base)
    return oldest


def _live(rows: ReplayRows) -> np.ndarray:
    """Returns the rows from the oldest to the newest, ring after ring."""
    return rows.index(*row_ranges(np.arange(rows.num_envs), rows.oldest(), rows.written))


def _arrays(rows: ReplayRows) -> dict[str, np.ndarray]:
    arrays = {f"observations/{k}": leaf.data for k, leaf in enumerate(rows.leaves)}
    return {**arrays, "actions": rows.actions, "rewards": rows.rewards, "flags": rows.flags}


def _damaged(why: str) -> StateError:
    return StateError(f"The saved state of the replay buffer is damaged or not complete: {why}. {_FIX}")
