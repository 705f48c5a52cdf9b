"""Stacks of frames in the replay buffer: one copy of each frame, and exact reading whatever the environment does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from replay_oracle import Oracle, Player, check, empty_window, put

from keras_optix.experience.replay import ReplayBuffer
from keras_optix.experience.replay_frames import Stack, find_stacks, moves_by_one

FIRST = spaces.Box(0, 255, (4, 6, 5), np.uint8)
LAST = spaces.Box(0, 255, (6, 5, 4), np.uint8)
VECTORS = spaces.Box(-np.inf, np.inf, (3, 2), np.float32)
MIXED = spaces.Dict({"camera": LAST, "speed": spaces.Box(-np.inf, np.inf, (2,), np.float32)})
DISCRETE = spaces.Discrete(4)
CASES: list[tuple[spaces.Space[Any], int, int]] = [(FIRST, 0, 4), (LAST, -1, 4), (VECTORS, 0, 3), (MIXED, -1, 4)]
WINDOWS = (6, 1, 1, 9, 2, 40, 1, 1, 1, 3)


def stacks_of(buffer: ReplayBuffer) -> tuple[Stack | None, ...]:
    assert buffer._rows is not None
    return buffer._rows.stacks


@pytest.mark.parametrize("n_step", [1, 4])
@pytest.mark.parametrize(("space", "axis", "frames"), CASES)
@pytest.mark.parametrize("padding", ["reset", "zero", "random"])
@pytest.mark.parametrize("odd", [0.0, 0.05])
@pytest.mark.parametrize("capacity", [60, 1000])
def test_stacks_are_read_exactly(
    space: Any, axis: int, frames: int, padding: str, odd: float, n_step: int, capacity: int
) -> None:
    player = Player(space, DISCRETE, 2, capacity + n_step, stack=(axis, frames, padding), odd=odd)
    buffer = ReplayBuffer(player.layout, DISCRETE, capacity=capacity)
    oracle = Oracle(player.layout)
    for steps in WINDOWS:
        window = player.window(steps)
        buffer.add(window)
        oracle.add(window)
        check(buffer, oracle, n_step)
    if not odd:
        assert stacks_of(buffer)[0] == Stack(axis, frames)
    assert len(buffer) > 0


def test_each_frame_is_stored_once() -> None:
    player = Player(LAST, DISCRETE, 1, 0, stack=(-1, 4, "reset"), end=0.0, cut=0.0)
    buffer = ReplayBuffer(player.layout, DISCRETE, capacity=100)
    for _ in range(5):
        buffer.add(player.window(10))
    stored = buffer._rows
    assert stored is not None
    assert stored.leaves[0].data.shape == (100, 6, 5)
    assert stored.written.tolist() == [3 + 50 + 1]  # the earlier frames of the first stack, 50 steps, and the newest


def test_rows_without_their_earlier_frames_are_not_drawn() -> None:
    player = Player(LAST, DISCRETE, 1, 0, stack=(-1, 4, "random"), end=0.0, cut=0.0)
    buffer = ReplayBuffer(player.layout, DISCRETE, capacity=20)
    for _ in range(30):
        buffer.add(player.window(1))
    assert len(buffer) == 20 - 1 - 3  # the newest observation, and three rows whose earlier frames were overwritten


def test_what_is_no_stack_is_stored_whole() -> None:
    for space in (FIRST, LAST, VECTORS):
        player = Player(space, DISCRETE, 2, 0)
        buffer = ReplayBuffer(player.layout, DISCRETE, capacity=100)
        buffer.add(player.window(10))
        assert stacks_of(buffer) == (None,)


def test_a_board_that_looked_like_a_stack_at_first_is_stored_whole_later() -> None:
    """In the first window only the last line of the board changes, so that its lines look like frames."""
    board = spaces.Box(0, 255, (3, 3), np.uint8)
    player = Player(board, DISCRETE, 2, 0)
    buffer = ReplayBuffer(player.layout, DISCRETE, capacity=400, prioritized=True)
    oracle = Oracle(player.layout)
    first = empty_window(player.layout, player.kind, 1, 2)
    first.next_observations[..., -1, :] = 7
    rng = np.random.default_rng(0)
    player.current = [[first.next_observations[0, i].copy()] for i in range(2)]
    player.fresh = [False, False]
    for k, window in enumerate([first, *(player.window(3) for _ in range(20))]):
        buffer.add(window)
        oracle.add(window)
        check(buffer, oracle, 3)
        drawn = buffer.sample(rng, 1, 8)
        assert drawn is not None
        buffer.update_priorities(drawn, rng.random((1, 8)))
        assert k or stacks_of(buffer) == (Stack(0, 3),)
    assert stacks_of(buffer) == (None,)
    assert len(buffer) == buffer.added  # nothing was lost


def test_an_image_that_stands_still_at_first_is_found_to_be_a_stack() -> None:
    player = Player(LAST, DISCRETE, 1, 0, stack=(-1, 4, "reset"), cut=0.0)
    still = player.current[0]
    still[0][:] = 9
    window = empty_window(player.layout, player.kind, 1, 1)
    for packed in (window.observations, window.next_observations):
        put(player.layout, packed, (0, 0), still)
    buffer = ReplayBuffer(player.layout, DISCRETE, capacity=100)
    oracle = Oracle(player.layout)
    player.fresh = [False]
    for each in (window, player.window(20)):
        buffer.add(each)
        oracle.add(each)
        check(buffer, oracle, 2)
    assert stacks_of(buffer) == (Stack(-1, 4),)


@pytest.mark.parametrize(
    ("shape", "dtype", "axis"),
    [
        ((4, 6, 5), np.uint8, 0),
        ((6, 5, 4), np.uint8, -1),
        ((6, 3), np.uint8, -1),
        ((6, 5, 2), np.float32, -1),
        ((5, 8), np.float64, -1),
    ],
)
def test_moving_by_one_is_compared_exactly(shape: tuple[int, ...], dtype: Any, axis: int) -> None:
    rng = np.random.default_rng(0)
    stack = Stack(axis, shape[axis])
    before, after = (rng.integers(0, 256, (200, *shape)).astype(dtype) for _ in range(2))
    frames, new = (np.moveaxis(values, 1 if axis == 0 else -1, 0) for values in (before, after))
    new[:-1] = frames[1:]
    assert moves_by_one(stack, before, after).all()
    after[:50] = before[:50]  # control: a stack that stands still
    flat = new[0].reshape(200, -1)
    flat = np.ascontiguousarray(flat)
    changed = after.copy()
    np.moveaxis(changed, 1 if axis == 0 else -1, 0)[0, 60, 0] += 1  # control: one number of one frame
    fits = moves_by_one(stack, before, changed)
    assert not fits[:50].any()
    assert not fits[60]
    assert fits[61:].all()


def test_frames_are_found_on_either_axis_but_not_in_single_rows() -> None:
    for space, axis in ((FIRST, 0), (LAST, -1)):
        player = Player(space, DISCRETE, 1, 0, stack=(axis, 4, "random"))
        window = player.window(8)
        found = find_stacks(player.layout.leaves, [window.observations[:, 0]], [window.next_observations[:, 0]])
        assert found == [Stack(axis, 4)]
        assert find_stacks(player.layout.leaves, [window.observations[:0, 0]], [window.next_observations[:0, 0]]) == [
            None
        ]
