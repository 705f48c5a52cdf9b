"""The replay buffer against a naive list of transitions, on random windows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from replay_oracle import Oracle, Player, check, counted, counting_buffer

from keras_optix.errors import ConfigurationError, SpaceError
from keras_optix.experience.observations import ObservationLayout
from keras_optix.experience.replay import ReplayBuffer

BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)
SPACES: dict[str, spaces.Space[Any]] = {
    "vector": spaces.Box(-np.inf, np.inf, (3,), np.float32),
    "scalar": spaces.Box(0.0, 300.0, (), np.float32),
    "number": spaces.Discrete(255),
    "tree": spaces.Dict(
        {
            "camera": spaces.Box(0, 255, (5, 4), np.uint8),
            "joints": spaces.Tuple((spaces.Box(-np.inf, np.inf, (2,), np.float64), spaces.Discrete(300, start=4))),
            "switches": spaces.MultiBinary((2, 2)),
        }
    ),
}
ACTIONS = {
    "discrete": spaces.Discrete(3, start=1),
    "many": spaces.Discrete(1000),
    "multi_discrete": spaces.MultiDiscrete([[2, 300], [4, 5]]),
    "multi_binary": spaces.MultiBinary(4),
    "box": BOX,
}
WINDOWS = (1, 7, 1, 1, 2, 5, 30, 3, 1, 4)


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("capacity", [40, 1000])
@pytest.mark.parametrize("kind", [{}, {"resets": True}, {"padding": True}])
def test_it_holds_what_a_list_of_transitions_holds(name: str, n_step: int, capacity: int, kind: dict[str, Any]) -> None:
    player = Player(SPACES[name], BOX, 3, capacity + n_step, **kind)
    buffer = ReplayBuffer(player.layout, BOX, capacity=capacity)
    oracle = Oracle(player.layout)
    for steps in WINDOWS:
        window = player.window(steps)
        buffer.add(window)
        oracle.add(window)
        check(buffer, oracle, n_step)
    assert buffer.added == sum(map(len, oracle.columns))
    assert len(buffer) > 0.5 * min(capacity, buffer.added)


@pytest.mark.parametrize("name", ACTIONS)
def test_actions_of_all_spaces_come_back(name: str) -> None:
    player = Player(SPACES["vector"], ACTIONS[name], 2, 0)
    buffer = ReplayBuffer(player.layout, ACTIONS[name], capacity=100)
    oracle = Oracle(player.layout)
    for steps in WINDOWS:
        window = player.window(steps)
        buffer.add(window)
        oracle.add(window)
    check(buffer, oracle)
    drawn = buffer.sample(np.random.default_rng(0), 2, 3)
    assert drawn is not None
    assert drawn.actions.dtype == window.actions.dtype
    assert drawn.actions.shape == (2, 3, *window.actions.shape[2:])


def test_control_the_oracle_notices_a_wrong_transition() -> None:
    player = Player(SPACES["vector"], BOX, 2, 0)
    buffer = ReplayBuffer(player.layout, BOX, capacity=100)
    oracle = Oracle(player.layout)
    window = player.window(20)
    buffer.add(window)
    oracle.add(window)
    assert buffer._rows is not None
    buffer._rows.rewards[3] += 1.0
    with pytest.raises(AssertionError):
        check(buffer, oracle)


def test_each_observation_is_stored_once() -> None:
    buffer = counting_buffer(100)
    for first in range(0, 40, 8):
        buffer.add(counted(8, first=first))
    assert buffer._rows is not None
    assert buffer._rows.written.tolist() == [41]
    assert buffer._rows.leaves[0].data[:41, 0].tolist() == list(range(41))
    assert len(buffer) == buffer.added == 40


def test_batches_are_their_own_contiguous_arrays() -> None:
    player = Player(SPACES["tree"], BOX, 2, 0)
    buffer = ReplayBuffer(player.layout, BOX, capacity=100)
    buffer.add(player.window(30))
    drawn = buffer.sample(np.random.default_rng(0), 3, 4, 2)
    assert drawn is not None
    leaves = player.layout.flatten(drawn.observations) + player.layout.flatten(drawn.next_observations)
    assert [leaf.shape[:2] for leaf in leaves] == [(3, 4)] * len(leaves)
    assert [leaf.dtype for leaf in leaves] == [leaf.dtype for leaf in player.layout.leaves] * 2
    others = [drawn.actions, drawn.rewards, drawn.steps, drawn.terminated, drawn.weights, drawn.rows, drawn.stamps]
    kinds = [np.float32, np.float32, np.int32, bool, np.float32, np.int64, np.int64]
    assert [array.dtype for array in others] == kinds
    assert drawn.rewards.shape == (3, 4, 2)
    before = buffer.sample(np.random.default_rng(1), 1, 50)
    for array in (*leaves, *others):
        assert array.flags.c_contiguous
        array[...] = 0
    after = buffer.sample(np.random.default_rng(1), 1, 50)
    assert before is not None
    assert after is not None
    assert np.array_equal(before.rewards, after.rewards)


def test_a_cut_episode_keeps_its_last_observation_and_bootstraps() -> None:
    buffer = counting_buffer()
    buffer.add(counted(3))
    buffer.add(counted(2, first=100, begins=(0,)))
    drawn = buffer.sample(np.random.default_rng(0), 1, 200, 5)
    assert drawn is not None
    of_last = drawn.actions[0, :, 0] == 2
    assert of_last.any()
    assert set(drawn.next_observations[0, of_last, 0].tolist()) == {3.0}
    assert not drawn.terminated.any()
    assert set(drawn.steps[0, of_last].tolist()) == {1}


def test_an_observation_that_does_not_follow_begins_an_episode_even_if_it_is_not_marked() -> None:
    buffer = counting_buffer()
    for first in (0, 100):
        window = counted(3, first=first)
        buffer.add(window._replace(begins=()))
    drawn = buffer.sample(np.random.default_rng(0), 1, 200, 4)
    assert drawn is not None
    assert set(drawn.next_observations[..., 0].ravel().tolist()) == {3.0, 103.0}


def test_windows_without_transitions_change_nothing() -> None:
    buffer = counting_buffer()
    window = counted(3)
    buffer.add(window._replace(valid=np.zeros((3, 1), bool)))
    assert (len(buffer), buffer.added, buffer.nbytes) == (0, 0, 0)
    assert buffer.sample(np.random.default_rng(0), 1, 1) is None


def test_rows_of_an_episode_of_200_steps() -> None:
    """The last observation of an episode takes a row: half a percent here."""
    buffer = counting_buffer(10_000)
    for first in range(0, 20_000, 200):
        buffer.add(counted(200, first=first, ends={199: "truncated"}))
    assert len(buffer) >= 0.99 * buffer.capacity


def test_the_repr_is_one_line() -> None:
    buffer = counting_buffer(50)
    buffer.add(counted(3))
    assert repr(buffer).endswith("capacity=50, transitions=3, added=3)")


def test_a_capacity_that_is_too_small_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"capacity.*>= 2.*Received: capacity=1"):
        counting_buffer(1)
    buffer = counting_buffer(7)
    with pytest.raises(ConfigurationError, match=r"at least 2 rows for each environment.*num_envs=4.*at least 8"):
        buffer.add(counted(3, 4))
    buffer.add(counted(3, 3))
    with pytest.raises(ConfigurationError, match="num_envs=4"):
        buffer.add(counted(3, 4))
    assert len(buffer) > 0  # the transitions are still there


def test_windows_of_other_spaces_are_refused() -> None:
    buffer = counting_buffer()
    player = Player(SPACES["vector"], BOX, 1, 0)
    with pytest.raises(SpaceError, match=r"observations do not fit the buffer, which stores float32 \(1,\)"):
        buffer.add(player.window(2))
    window = counted(2)
    with pytest.raises(SpaceError, match="dtype='float64'"):
        buffer.add(window._replace(observations=window.observations.astype(np.float64)))
    with pytest.raises(SpaceError, match="actions do not fit the buffer"):
        buffer.add(window._replace(actions=np.zeros((2, 1), np.int64)))
    tree = Player(SPACES["tree"], BOX, 1, 0)
    other = ReplayBuffer(tree.layout, BOX, capacity=10)
    changed = tree.window(2)
    changed.observations["camera"] = np.zeros((2, 1, 5, 5), np.uint8)
    with pytest.raises(SpaceError, match="at 'camera'"):
        other.add(changed)


def test_an_action_space_without_agents_is_refused() -> None:
    with pytest.raises(SpaceError, match="No agent plays"):
        ReplayBuffer(ObservationLayout(BOX), spaces.Text(3), capacity=10)


@pytest.mark.parametrize("name", ["gradient_steps", "batch_size", "n_step"])
def test_wrong_arguments_of_sample_are_refused(name: str) -> None:
    buffer = counting_buffer(prioritized=True)
    buffer.add(counted(3))
    arguments: dict[str, Any] = {"gradient_steps": 1, "batch_size": 1, "n_step": 1, name: 0}
    with pytest.raises(ConfigurationError, match=f"`{name}` must be an integer >= 1"):
        buffer.sample(np.random.default_rng(0), **arguments)
    for exponent in ({"priority_exponent": -0.1}, {"priority_exponent": 1.1}, {"importance_exponent": 1.1}):
        with pytest.raises(ConfigurationError, match=next(iter(exponent))):
            buffer.sample(np.random.default_rng(0), 1, 1, **exponent)
