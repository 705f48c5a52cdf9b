"""Moves the transitions of a replay buffer to other rings: for another number of environments, or without frames."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from keras_optix.experience.priorities import Priorities
from keras_optix.experience.replay_rows import FRAME, TERMINATED, TRANSITION, ReplayRows, Steps

_LARGEST_PIECE = 1024  # rows that are moved at once; where they are cut costs a row
_PIECES = 16  # at least so many pieces fill a ring, so that the rings are filled evenly


class _Piece(NamedTuple):
    """Rows of a ring that are moved together, by their numbers."""

    ring: int
    start: int
    stop: int


def deal(
    old: ReplayRows, new: ReplayRows, priorities: tuple[Priorities, Priorities] | None, *, same_envs: bool
) -> None:
    """Moves all transitions that can be drawn, the oldest first, so that what does not fit are the oldest.

    Args:
        old: The rings.
        new: Other rings, which are empty.
        priorities: The priorities of `old` and of `new`; None if there are none.
        same_envs: Whether the rings belong to the same environments, so that running episodes continue. If not, each
            piece of an episode ends with its true final observation, as if it had been cut off there.
    """
    for piece in _pieces(old, max(1, min(_LARGEST_PIECE, new.length // _PIECES))):
        ring = piece.ring if same_envs else int(np.argmin(new.written))
        rows = old.index(np.array(piece.ring), np.arange(piece.start, piece.stop))
        rows = rows[(old.flags[rows] & TRANSITION) != 0]
        if not len(rows):
            continue
        stored = new.store(_steps_of(old, rows, ring, same_envs=same_envs))
        if priorities is not None:
            before, after = priorities
            after.set(stored.gone, 0.0)
            after.set(stored.new, before.values[rows[len(rows) - len(stored.new) :]])
    if not same_envs:
        new.open[:] = False


def _pieces(old: ReplayRows, size: int) -> Iterator[_Piece]:
    """Yields the pieces of all rings, those with the oldest rows first."""
    pieces = [piece for ring in range(old.num_envs) for piece in _pieces_of(old, ring, size)]
    behind = old.written.tolist()
    pieces.sort(key=lambda piece: piece.stop - behind[piece.ring])  # stable: rings in turn
    yield from pieces


def _pieces_of(old: ReplayRows, ring: int, size: int) -> Iterator[_Piece]:
    """Yields the pieces of a ring; a piece ends with an episode if one ends soon, because a cut costs a row."""
    start, stop = int(old.oldest()[ring]), int(old.written[ring])
    numbers = np.arange(start, stop)
    ends = numbers[(old.flags[old.index(np.array(ring), numbers)] & (TRANSITION | FRAME)) == 0] + 1
    while start < stop:
        wanted = min(start + size, stop)
        at = int(np.searchsorted(ends, wanted))
        end = int(ends[at]) if at < len(ends) and ends[at] < wanted + size else wanted
        yield _Piece(ring, start, end)
        start = end


def _steps_of(old: ReplayRows, rows: np.ndarray, ring: int, *, same_envs: bool) -> Steps:
    """Returns the transitions of rows ``[m]``, as steps ``[m, 1]``."""
    following = old.next_rows(rows)
    ended = (old.flags[following] & TRANSITION) == 0
    begins = np.zeros(len(rows), bool)
    if same_envs:
        from_ring = rows[0] // old.length
        ended[(old.numbers(following) == old.written[from_ring] - 1)] = not old.open[from_ring]
    else:
        begins[0] = True
    return Steps(
        observations=[values[:, None] for values in old.observations(rows)],
        next_observations=[values[:, None] for values in old.observations(following)],
        actions=old.choices(rows)[:, None],
        rewards=old.rewards[rows][:, None],
        terminated=((old.flags[rows] & TERMINATED) != 0)[:, None],
        ended=ended[:, None],
        valid=np.ones((len(rows), 1), bool),
        begins=begins[:, None],
        columns=np.array([ring]),
    )
