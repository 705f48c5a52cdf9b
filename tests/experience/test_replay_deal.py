"""A replay buffer that gets windows of another number of environments."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from replay_oracle import Oracle, Player, all_of, check, counted, counting_buffer

from keras_optix.experience.replay import ReplayBuffer

ACTIONS = spaces.Discrete(5)
FRAMES = spaces.Box(0, 255, (6, 5, 4), np.uint8)
VECTOR = spaces.Box(-np.inf, np.inf, (3,), np.float32)


@pytest.mark.parametrize(("space", "stack"), [(VECTOR, None), (FRAMES, (-1, 4, "reset"))])
@pytest.mark.parametrize(("before", "after"), [(3, 1), (1, 3), (4, 2), (2, 7)])
def test_nothing_is_lost_if_it_fits(space: Any, stack: Any, before: int, after: int) -> None:
    player = Player(space, ACTIONS, before, 0, stack=stack, resets=True)
    buffer = ReplayBuffer(player.layout, ACTIONS, capacity=8000)
    oracle = Oracle(player.layout)
    for steps in (30, 1, 45, 60):
        window = player.window(steps)
        buffer.add(window)
        oracle.add(window)
    count = len(buffer)
    other, of_other = Player(space, ACTIONS, after, 1, stack=stack), Oracle(player.layout)
    for steps in (1, 12):
        window = other.window(steps)
        buffer.add(window)
        of_other.add(window)
    assert len(buffer) == buffer.added == count + 13 * after
    held = Counter(all_of(buffer))
    assert held == Counter(one.drawn(1) for column in oracle.columns + of_other.columns for one in column)


def test_pieces_of_an_episode_end_with_their_true_observation_and_bootstrap() -> None:
    """Two environments of 150 steps become one; the rows that follow each other are those of an episode."""
    buffer = counting_buffer(100_000)
    buffer.add(counted(3000, 2))
    buffer.add(counted(4, 1, first=9000))
    drawn = buffer.sample(np.random.default_rng(0), 1, 60_000, 5)
    assert drawn is not None
    first = drawn.actions[0, :, 0]
    ends = drawn.next_observations[0, :, 0]
    assert np.array_equal(ends, first + drawn.steps[0])  # across the cuts too: nothing follows from elsewhere
    assert not drawn.terminated.any()
    short = np.unique(ends[drawn.steps[0] < 5])
    assert len(short) <= 8  # the ends of the pieces of about 1000 rows, of two environments, and the newest row


def test_the_oldest_are_lost_if_not_all_fit() -> None:
    buffer = counting_buffer(400)
    for first in range(0, 900, 50):
        buffer.add(counted(50, 4, first=first, ends={49: "terminated"}))
    count = len(buffer)
    assert count == 4 * (50 + 48)  # an episode and, of the one before, what its 100 rows leave
    buffer.add(counted(1, 3, first=5000))
    actions = np.array([np.frombuffer(action, np.float32)[0] for _, action, *_ in all_of(buffer)])
    kept = {env: actions[actions // 1000 == env] % 1000 for env in range(4)}
    assert 0.9 * count < len(buffer)
    for times in kept.values():
        assert set(range(830, 900)) <= set(times.astype(int).tolist())
        assert times.min() >= 800


@pytest.mark.parametrize("stack", [None, (-1, 4, "reset")])
def test_priorities_move_along(stack: Any) -> None:
    space = VECTOR if stack is None else FRAMES
    player = Player(space, ACTIONS, 2, 0, stack=stack)
    buffer = ReplayBuffer(player.layout, ACTIONS, capacity=2000, prioritized=True)
    buffer.add(player.window(60))
    drawn = buffer.sample(np.random.default_rng(0), 1, 4000)
    assert drawn is not None
    buffer.update_priorities(drawn, drawn.rewards[..., 0])
    buffer.add(Player(space, ACTIONS, 3, 1, stack=stack).window(1))
    moved = buffer.sample(np.random.default_rng(0), 1, 4000, priority_exponent=0.0)
    assert moved is not None
    assert buffer._priorities is not None
    known = np.isin(moved.rewards[0, :, 0], drawn.rewards)
    assert known.any()
    np.testing.assert_allclose(
        buffer._priorities.values[moved.rows[0, known]], moved.rewards[0, known, 0], rtol=1e-4, atol=2e-6
    )


def test_going_back_and_forth_keeps_every_transition() -> None:
    players = [Player(VECTOR, ACTIONS, n, n) for n in (2, 5)]
    buffer = ReplayBuffer(players[0].layout, ACTIONS, capacity=5000)
    oracles = [Oracle(player.layout) for player in players]
    for k in range(6):
        window = players[k % 2].window(9)
        window.begins[0] = True  # as when another dataset goes on
        buffer.add(window)
        oracles[k % 2].add(window)
    held = Counter(all_of(buffer))
    assert held == Counter(one.drawn(1) for oracle in oracles for column in oracle.columns for one in column)
    window = players[1].window(3)
    buffer.add(window)
    oracles[1].add(window)
    assert len(buffer) == buffer.added
    assert {column[-1].drawn(1) for column in oracles[1].columns} <= set(all_of(buffer))


def test_control_the_count_of_a_buffer_that_lost_one_differs() -> None:
    player = Player(VECTOR, ACTIONS, 2, 0)
    buffer, oracle = ReplayBuffer(player.layout, ACTIONS, capacity=500), Oracle(player.layout)
    window = player.window(9)
    buffer.add(window)
    oracle.add(window)
    oracle.columns[0].pop()
    with pytest.raises(AssertionError):
        check(buffer, oracle)
