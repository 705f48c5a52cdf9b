"""Episodes that were recorded elsewhere: as windows, in a replay buffer, and what does not fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from keras_optix.errors import ArgumentError, SpaceError
from keras_optix.experience.actions import actions_for
from keras_optix.experience.given_episodes import episodes_of, window_of_episode
from keras_optix.experience.observations import ObservationLayout
from keras_optix.experience.replay import ReplayBuffer

SPACE = spaces.Box(-100.0, 100.0, (1,), np.float32)
MOVES = spaces.Discrete(3, start=-1)


@dataclass
class Episode:
    """As `minari.EpisodeData`."""

    observations: Any
    actions: Any
    rewards: Any
    terminations: Any
    truncations: Any


def episode(steps: int = 3, first: float = 0.0, *, terminated: bool = False, truncated: bool = False) -> Episode:
    ends = np.zeros(steps, bool)
    ends[-1:] = True
    return Episode(
        observations=first + np.arange(steps + 1, dtype=np.float64)[:, None],
        actions=np.arange(steps) % 3 - 1,
        rewards=np.arange(steps) * 10.0,
        terminations=ends & terminated,
        truncations=ends & truncated,
    )


def window_of(given: Any, space: Any = SPACE, moves: Any = MOVES) -> Any:
    return window_of_episode(given, 7, ObservationLayout(space), actions_for(moves))


@pytest.mark.parametrize(
    ("terminated", "truncated", "counts"), [(True, False, (1, 0)), (False, True, (0, 1)), (False, False, (0, 1))]
)
def test_an_episode_is_a_window_that_ends(terminated: bool, truncated: bool, counts: tuple[int, int]) -> None:
    window = window_of(episode(terminated=terminated, truncated=truncated))
    np.testing.assert_array_equal(window.observations[:, 0, 0], [0, 1, 2])
    np.testing.assert_array_equal(window.next_observations[:, 0, 0], [1, 2, 3])
    assert window.observations.dtype == np.float32
    np.testing.assert_array_equal(window.actions[:, 0], [0, 1, 2])  # choices, from 0
    np.testing.assert_array_equal(window.rewards[:, 0], [0, 10, 20])
    np.testing.assert_array_equal(window.begins[:, 0], [True, False, False])
    assert (window.terminated.sum(), window.truncated.sum()) == counts
    assert window.terminated[-1, 0] or window.truncated[-1, 0]


def test_what_is_stored_can_be_drawn() -> None:
    buffer = ReplayBuffer(ObservationLayout(SPACE), MOVES, capacity=100)
    for k in range(4):
        buffer.add(window_of(episode(steps=k + 1, first=10.0 * k, terminated=bool(k % 2))))
    assert len(buffer) == 10
    drawn = buffer.sample(np.random.default_rng(0), 1, 400, n_step=2)
    assert drawn is not None
    found = {
        (float(o), float(n), bool(t))
        for o, n, t in zip(
            drawn.observations.ravel(), drawn.next_observations.ravel(), drawn.terminated[0], strict=True
        )
    }
    # A transition of two env steps ends where its episode does. Each of ten is missed by 400 draws in 5e-18 of cases.
    assert found == {
        (0, 1, False),
        (10, 12, True),
        (11, 12, True),
        (20, 22, False),
        (21, 23, False),
        (22, 23, False),
        (30, 32, False),
        (31, 33, False),
        (32, 34, True),
        (33, 34, True),
    }


def test_several_episodes_in_one_begin_where_the_one_before_ended() -> None:
    joined = replace(episode(4), terminations=np.array([False, True, False, False]))
    np.testing.assert_array_equal(window_of(joined).begins[:, 0], [True, False, True, False])


def test_parts_of_an_observation_are_arrays_of_their_own() -> None:
    space = spaces.Dict({"where": SPACE, "which": spaces.Discrete(5, start=1)})
    given = replace(episode(2), observations={"where": np.zeros((3, 1), np.float32), "which": np.array([1, 5, 2])})
    window = window_of(given, space)
    np.testing.assert_array_equal(window.observations["which"][:, 0], [0, 4])
    np.testing.assert_array_equal(window.next_observations["which"][:, 0], [4, 1])


def test_an_episode_without_a_step_is_nothing() -> None:
    assert window_of(episode(0)) is None


ONE = episode()
WRONG: dict[str, tuple[Any, type[Exception], str]] = {
    "no episode": ({"observations": []}, ArgumentError, "episode 7 has no `observations`"),
    "rewards": (replace(ONE, rewards=np.zeros(4)), ArgumentError, "one value for each env step"),
    "rewards of two axes": (replace(ONE, rewards=np.zeros((3, 1))), ArgumentError, "one value for each env step"),
    "no last observation": (replace(ONE, observations=ONE.observations[:3]), SpaceError, r"Give 4 observations"),
    "other observations": (replace(ONE, observations=np.zeros((4, 2))), SpaceError, "episode 7.*do not fit"),
    "nan": (replace(ONE, observations=ONE.observations * np.nan), SpaceError, "not finite"),
    "reward": (replace(ONE, rewards=ONE.rewards + np.inf), SpaceError, "A reward of episode 7 is not finite"),
    "action": (replace(ONE, actions=np.array([0, 1, 2])), SpaceError, r"episode 7.*not in the space.*value=2"),
    "numbers": (replace(ONE, actions=np.zeros(3)), SpaceError, "integers.*float64"),
    "actions": (replace(ONE, actions=np.zeros((3, 1), int)), SpaceError, r"shape \(3,\).*shape=\(3, 1\)"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_refused_with_the_number_of_the_episode(name: str) -> None:
    given, error, match = WRONG[name]
    with pytest.raises(error, match=match):
        window_of(given)


@pytest.mark.parametrize("value", [1.1, -1.1, np.nan])
def test_an_action_outside_its_bounds_is_refused(value: float) -> None:
    given = replace(ONE, actions=np.full((3, 1), value))
    with pytest.raises(SpaceError, match="not in the space"):
        window_of(given, moves=spaces.Box(-1.0, 1.0, (1,)))


class Dataset:
    """As a Minari dataset: it has a length, and no iterator."""

    def __len__(self) -> int:
        return 2

    def iterate_episodes(self) -> Iterator[Episode]:
        yield episode()
        yield episode()


def test_a_dataset_gives_its_episodes() -> None:
    assert len(list(episodes_of(Dataset()))) == 2
    assert list(episodes_of([1, 2])) == [1, 2]


@pytest.mark.parametrize("value", [None, 3, "CartPole-v1"])
def test_what_has_no_episodes_is_refused(value: Any) -> None:
    with pytest.raises(ArgumentError, match=r"must be a Minari dataset, or an iterable of episodes"):
        episodes_of(value)
