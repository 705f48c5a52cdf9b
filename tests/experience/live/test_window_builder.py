"""Which action earned which reward, by hand: episode ends of both kinds, lost connections, versions, padding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from keras_optix.experience.actions import actions_for
from keras_optix.experience.live.feeds import StreamStep, observed
from keras_optix.experience.live.recording import ActionTaken
from keras_optix.experience.live.window_builder import ClosedWindow, WindowBuilder
from keras_optix.experience.observations import ObservationLayout
from keras_optix.experience.policy_params import PolicyParams, PolicyRecord
from keras_optix.experience.window import CollectedWindow

SPACE = spaces.Box(-np.inf, np.inf, (1,))
LAYOUT = ObservationLayout(SPACE)
SEED = np.array([5, 6], np.int32)


class Play:
    """An builder of windows of 4 rows, played by hand: action k is chosen for item k."""

    def __init__(self, **options: Any) -> None:
        self.builder = WindowBuilder(LAYOUT, actions_for(spaces.Discrete(100)), 4, **options)
        self.items = 0
        self.window_id = 0

    def give(
        self,
        value: float,
        reward: float = 0.0,
        *,
        terminated: bool = False,
        truncated: bool = False,
        final: float | None = None,
        version: int = 0,
        answered: bool = True,
    ) -> StreamStep | None:
        info = {} if final is None else {"final_obs": np.array([final], np.float32)}
        item = (np.array([value], np.float32), reward, terminated, truncated, info)
        seen = observed(item, LAYOUT, self.items, bounds=True)
        step = self.builder.observe(seen, 0.0)
        if answered:
            self.builder.act(seen.leaves, ActionTaken(np.array(self.items), -0.5 * self.items, version))
        self.items += 1
        return step

    def closed(self, version: int = 0) -> ClosedWindow:
        self.window_id += 1
        return self.builder.close(self.window_id - 1, SEED, PolicyRecord(PolicyParams(version, ()), dict))

    def close(self, version: int = 0) -> CollectedWindow:
        return self.closed(version).collected(LAYOUT, 0)


def rows(collected: CollectedWindow) -> list[tuple[float, int, float, float]]:
    """Observation, action, reward and next observation of the valid rows."""
    w = collected.window
    valid = w.valid[:, 0]
    assert (np.flatnonzero(valid) == np.arange(valid.sum())).all()  # padding is at the end
    columns = (w.observations[valid, 0, 0], w.actions[valid, 0], w.rewards[valid, 0], w.next_observations[valid, 0, 0])
    return list(zip(*(column.tolist() for column in columns), strict=True))


def test_a_row_is_an_observation_its_action_and_what_followed() -> None:
    play = Play()
    for value in range(4):
        play.give(value, 10.0 * value)
    assert rows(play.close()) == [(0, 0, 10, 1), (1, 1, 20, 2), (2, 2, 30, 3)]
    play.give(4, 40.0)  # the action on its way when the window closed
    assert rows(play.close()) == [(3, 3, 40, 4)]
    assert play.builder.starts == 1


def test_the_first_item_after_a_last_observation_begins_an_episode_and_its_reward_counts_nowhere() -> None:
    play = Play()
    play.give(0)
    ended = play.give(1, 10.0, terminated=True)
    assert ended is not None
    assert ended.done
    assert ended.terminated
    assert play.give(50, 777.0) is None
    play.give(51, 20.0)
    collected = play.close()
    assert rows(collected) == [(0, 0, 10, 1), (50, 2, 20, 51)]
    assert collected.window.terminated[:, 0].tolist() == [True, False, False, False]
    assert [(e.total_reward, e.length) for e in collected.episodes] == [(10.0, 1)]
    assert play.builder.starts == 2


def test_a_feed_that_resets_at_once_loses_no_row_and_its_last_observation_is_the_successor() -> None:
    play = Play()
    play.give(0)
    play.give(50, 10.0, truncated=True, final=1.0)
    play.give(51, 20.0)
    collected = play.close()
    assert rows(collected) == [(0, 0, 10, 1), (50, 1, 20, 51)]
    assert collected.window.truncated[:, 0].tolist() == [True, False, False, False]
    assert play.builder.starts == 1


def test_final_obs_means_nothing_where_no_episode_ended() -> None:
    play = Play()
    play.give(0)
    play.give(1, 10.0, final=99.0)
    assert rows(play.close()) == [(0, 0, 10, 1)]


def test_no_row_reaches_over_a_lost_connection_and_its_episode_counts_nowhere() -> None:
    play = Play()
    for value in range(3):
        play.give(value, 1.0)
    first = play.close()
    play.builder.interrupt()
    assert play.builder.unanswered == 1
    play.give(50, 777.0)
    play.give(51, 5.0, terminated=True)
    second = play.close()
    assert rows(first) == [(0, 0, 1, 1), (1, 1, 1, 2)]
    assert rows(second) == [(50, 3, 5, 51)]
    assert [(e.total_reward, e.length) for e in second.episodes] == [(5.0, 1)]
    assert second.window.episode_return == 5.0


def test_a_connection_that_is_lost_after_a_last_observation_leaves_nothing_unanswered() -> None:
    play = Play()
    play.give(0)
    play.give(1, 1.0, terminated=True)
    play.builder.interrupt()
    assert play.builder.unanswered == 0
    play.give(2)
    assert play.builder.starts == 2


def test_an_array_that_a_feed_writes_again_does_not_change_a_row() -> None:
    play = Play()
    buffer = np.zeros(1, np.float32)
    for value in range(3):
        buffer[0] = value
        seen = observed((buffer, float(value), False, False, {}), LAYOUT, value, bounds=True)
        play.builder.observe(seen, 0.0)
        play.builder.act(seen.leaves, ActionTaken(np.array(value), 0.0, 0))
    assert rows(play.close()) == [(0, 0, 1, 1), (1, 1, 2, 2)]


def test_padding_is_zero_and_shapes_are_those_of_a_full_window() -> None:
    play = Play()
    play.give(3)
    play.give(4, 2.0)
    collected = play.close()
    w = collected.window
    assert w.valid[:, 0].tolist() == [True, False, False, False]
    for name in ("observations", "actions", "rewards", "terminated", "truncated", "next_observations", "log_probs"):
        array = getattr(w, name)
        assert array.shape[:2] == (4, 1), name
        assert not array[1:].any(), name
    assert len(collected.infos) == 4
    assert w.seed.tolist() == [5, 6]


def test_a_window_without_a_step() -> None:
    collected = Play().close(version=3)
    assert not collected.window.valid.any()
    assert collected.episodes == ()
    assert collected.window.policy_version == 3
    assert np.isnan(collected.window.episode_return)


def test_an_episode_is_told_which_versions_played_it() -> None:
    play = Play()
    play.give(0, version=3)
    closed_by_clock = play.close(version=3)
    play.give(1, 1.0, version=7)  # the first row is the older version's
    play.give(2, 1.0, terminated=True, version=7)
    play.give(3, version=7)
    play.give(4, 1.0, terminated=True, version=7)
    collected = play.close(version=7)
    assert not closed_by_clock.window.valid.any()
    versions = [(e.first_version, e.last_version, e.first_window) for e in collected.episodes]
    assert versions == [(3, 7, 1), (7, 7, 1)]
    assert collected.window.policy_version == 7


def test_only_episodes_of_one_version_are_recent_where_that_is_asked_for() -> None:
    play = Play(one_version=True)
    play.give(0, version=3)
    play.give(1, 1.0, version=7)
    play.give(2, 1.0, terminated=True, version=7)
    mixed = play.close(version=7)
    assert len(mixed.episodes) == 1
    assert np.isnan(mixed.window.episode_return)
    play.give(3, version=7)
    play.give(4, 4.0, terminated=True, version=7)
    assert play.close(version=7).window.episode_return == 4.0


def test_what_an_action_without_consequence_was_chosen_for_begins_no_window() -> None:
    play = Play()
    play.give(0)
    play.give(1, 1.0, terminated=True, answered=False)
    play.close()
    play.builder.act([np.zeros(1, np.float32)], ActionTaken(np.array(0), 0.0, 0))
    assert not play.builder.acted  # so the newest weights come in force with the first action that counts
    play.give(2)
    assert play.builder.acted


@pytest.mark.parametrize("rows_before", [0, 2])
def test_a_window_without_rows_begins_when_the_feed_opens(rows_before: int) -> None:
    play = Play()
    for value in range(rows_before + bool(rows_before)):
        play.give(value)
    later = play.builder._open.began + 100.0
    play.builder.opened(later)
    assert play.builder.rows == rows_before
    assert (play.builder._open.began == later) == (rows_before == 0)


def test_seconds_of_a_step_are_never_negative() -> None:
    play = Play()
    play.give(0)
    step = play.give(1)  # arrived, by its time, before the window that it waited for began
    assert step is not None
    assert step.seconds == 0.0
