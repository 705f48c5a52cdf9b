"""Where an episode was played, and in which window it began."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from keras_optix.errors import StateError
from keras_optix.experience.collector import Collector
from keras_optix.experience.window import CollectedWindow
from keras_optix.testing import CountingEnv

MakeCollector = Callable[..., Collector]


def places(collected: CollectedWindow) -> list[tuple[int, int]]:
    return [(episode.env, episode.first_window) for episode in collected.episodes]


def test_an_episode_knows_its_environment_and_its_first_window(collector: MakeCollector) -> None:
    """Episodes of 3 steps in windows of 4 begin in rows 0 and 3 of window 0, row 2 of window 1, row 1 of window 2."""
    source = collector(partial(CountingEnv, 3), 2, window_size=4)
    assert [places(source.collect()) for _ in range(4)] == [
        [(0, 0), (1, 0)],
        [(0, 0), (1, 0)],
        [(0, 1), (1, 1), (0, 2), (1, 2)],
        [(0, 3), (1, 3)],
    ]


def test_environments_count_for_themselves(collector: MakeCollector) -> None:
    lengths = (2, 9)
    env = SyncVectorEnv([partial(CountingEnv, n) for n in lengths], autoreset_mode=AutoresetMode.SAME_STEP)
    source = collector(env, window_size=4)
    assert [places(source.collect()) for _ in range(4)] == [
        [(0, 0), (0, 0)],
        [(0, 1), (0, 1)],
        [(1, 0), (0, 2), (0, 2)],
        [(0, 3), (0, 3)],
    ]
    # The episode that ends in window 4 began in row 1 of window 2.
    assert places(source.collect())[1:2] == [(1, 2)]


def test_a_row_that_is_no_transition_begins_no_episode(collector: MakeCollector) -> None:
    """With next-step autoreset, row 3 of window 0 is a reset: the second episode begins with window 1."""
    env = SyncVectorEnv([partial(CountingEnv, 3)], autoreset_mode=AutoresetMode.NEXT_STEP)
    source = collector(env, window_size=4)
    assert [places(source.collect()) for _ in range(2)] == [[(0, 0)], [(0, 1)]]


def interrupted(collector: MakeCollector) -> tuple[Any, Any, CollectedWindow]:
    """What a collector saved in the middle of an episode that began in window 1, and what it collected then."""
    source = collector(partial(CountingEnv, 7), 2, window_size=5)
    for _ in range(2):
        source.collect()
    arrays, values = source.save()
    return arrays, values, source.collect()


def test_a_restored_collector_knows_when_its_episodes_began(collector: MakeCollector) -> None:
    arrays, values, expected = interrupted(collector)
    again = collector(partial(CountingEnv, 7), 2, window_size=5)
    assert again.restore(arrays, values)
    found = again.collect()
    assert found.episodes[0].first_window == 1
    assert places(found) == places(expected) == [(0, 1), (1, 1)]
    assert [episode.first_window for episode in again.recent_episodes] == [0, 0, 1, 1]


def test_a_state_from_before_this_was_noted_is_read(collector: MakeCollector) -> None:
    arrays, values, expected = interrupted(collector)
    del arrays["first_windows"]
    arrays["recent_episodes"] = arrays["recent_episodes"][:, :4]
    again = collector(partial(CountingEnv, 7), 2, window_size=5)
    assert again.restore(arrays, values)
    found = again.collect()
    assert places(found) == [(0, 0), (1, 0)]
    assert [episode[:2] for episode in found.episodes] == [episode[:2] for episode in expected.episodes]


@pytest.mark.parametrize("change", ["dtype", "length", "columns"])
def test_a_damaged_state_is_refused(collector: MakeCollector, change: str) -> None:
    arrays, values, _ = interrupted(collector)
    if change == "dtype":
        arrays["first_windows"] = arrays["first_windows"].astype(np.float64)
    elif change == "length":
        arrays["first_windows"] = arrays["first_windows"][:1]
    else:
        arrays["recent_episodes"] = arrays["recent_episodes"][:, :5]
    with pytest.raises(StateError, match="damaged"):
        collector(partial(CountingEnv, 7), 2, window_size=5).restore(arrays, values)


class Listening:
    """An actor that notes which windows begin."""

    def __init__(self, actor: Any) -> None:
        self.noise, self.carry = actor.noise, actor.carry
        self.set_weights, self.act = actor.set_weights, actor.act
        self.begun: list[int] = []

    def begin_window(self, window_id: int) -> None:
        self.begun.append(window_id)


class Trying:
    """An owner that acts otherwise where it is trained."""

    def __init__(self, owner: Any) -> None:
        self.policy_record, self.make_actor = owner.policy_record, owner.make_actor
        self.carry_specs = owner.carry_specs
        self.made: list[Listening] = []

    def make_collecting_actor(self, batch_size: int) -> Listening:
        self.made.append(Listening(self.make_actor(batch_size)))
        return self.made[-1]


def test_an_actor_is_told_which_window_begins(collector: MakeCollector, trainer: Any) -> None:
    owner: Any = Trying(trainer)
    source = collector(CountingEnv, owner=owner)
    for _ in range(2):
        source.collect()
    saved = source.save()
    source.collect()
    source.restore(*saved)
    source.collect()
    (actor,) = owner.made
    assert actor.begun == [0, 1, 2, 2]


def test_a_validation_tries_nothing_out(collector: MakeCollector, trainer: Any) -> None:
    owner: Any = Trying(trainer)
    collector(CountingEnv, owner=owner, deterministic=True).collect()
    assert owner.made == []
