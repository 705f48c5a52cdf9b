"""The replay buffer against a naive list of transitions, on random windows."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from replay_oracle import Oracle, Player, all_of

from keras_optix.experience.replay import ReplayBuffer

VECTOR = spaces.Box(-np.inf, np.inf, (3,), np.float32)
TREE = spaces.Dict(
    {
        "camera": spaces.Box(0, 255, (5, 4), np.uint8),
        "joints": spaces.Tuple((spaces.Box(-np.inf, np.inf, (2,), np.float64), spaces.Discrete(300, start=4))),
        "switches": spaces.MultiBinary((2, 2)),
    }
)
FRAMES_FIRST = spaces.Box(0, 255, (4, 6, 5), np.uint8)
FRAMES_LAST = spaces.Box(0, 255, (6, 5, 4), np.uint8)
BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)
SPACES = {
    "vector": VECTOR,
    "tree": TREE,
    "number": spaces.Discrete(255),
    "scalar": spaces.Box(0.0, 300.0, (), np.float32),
}
ACTIONS = {
    "discrete": spaces.Discrete(3, start=1),
    "many": spaces.Discrete(1000),
    "multi_discrete": spaces.MultiDiscrete([[2, 300], [4, 5]]),
    "multi_binary": spaces.MultiBinary(4),
    "box": BOX,
}


def fill(player: Player, buffer: ReplayBuffer, windows: list[int]) -> Oracle:
    oracle = Oracle(player.layout)
    for steps in windows:
        window = player.window(steps)
        buffer.add(window)
        oracle.add(window)
    return oracle


def counts_in(buffer: ReplayBuffer) -> list[int]:
    """How many transitions of each environment can be drawn."""
    stored = buffer._rows
    assert stored is not None
    return [int(np.count_nonzero(flags & 1)) for flags in stored.flags.reshape(stored.num_envs, -1)]


def check(buffer: ReplayBuffer, oracle: Oracle, n_step: int = 1) -> None:
    """The buffer holds the newest transitions of each environment, and each is as it was added."""
    if not len(buffer):
        return
    held = Counter(all_of(buffer, n_step).values())
    assert held == Counter(one.drawn(n_step) for one in oracle.newest(counts_in(buffer)))


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("capacity", [40, 1000])
@pytest.mark.parametrize("kind", [{}, {"resets": True}, {"padding": True}])
def test_it_holds_what_a_list_of_transitions_holds(name: str, n_step: int, capacity: int, kind: dict[str, Any]) -> None:
    for seed in range(3):
        player = Player(SPACES[name], BOX, 3, seed, **kind)
        buffer = ReplayBuffer(player.layout, BOX, capacity=capacity)
        oracle = Oracle(player.layout)
        for steps in (1, 7, 1, 1, 2, 5, 30, 3, 1, 4):
            window = player.window(steps)
            buffer.add(window)
            oracle.add(window)
            check(buffer, oracle, n_step)
        assert buffer.added == sum(map(len, oracle.columns))
        assert len(buffer) > 0.5 * min(capacity, buffer.added)


@pytest.mark.parametrize("n_step", [1, 4])
@pytest.mark.parametrize(("space", "axis"), [(FRAMES_FIRST, 0), (FRAMES_LAST, -1)])
@pytest.mark.parametrize("padding", ["reset", "zero", "random"])
@pytest.mark.parametrize("odd", [0.0, 0.06])
@pytest.mark.parametrize("capacity", [60, 1000])
def test_stacks_of_frames_are_read_exactly(
    space: Any, axis: int, padding: str, odd: float, n_step: int, capacity: int
) -> None:
    for seed in range(2):
        player = Player(space, BOX, 2, seed, stack=(axis, 4, padding), odd=odd)
        buffer = ReplayBuffer(player.layout, BOX, capacity=capacity)
        oracle = Oracle(player.layout)
        for steps in (6, 1, 1, 9, 2, 40, 1, 1, 1, 3):
            window = player.window(steps)
            buffer.add(window)
            oracle.add(window)
            check(buffer, oracle, n_step)
        stored = buffer._rows
        assert stored is not None
        assert stored.stacks[0] is not None or odd
