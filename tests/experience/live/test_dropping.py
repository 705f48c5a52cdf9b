"""Items of a feed that are not finite, where they are dropped: what is learned from, answered and counted."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

import keras_optix as optix
from keras_optix.errors import ConfigurationError, EnvError
from keras_optix.experience.live.dropping import neutral_action
from keras_optix.experience.live.recording import Recorder
from keras_optix.experience.live.stream import StreamCollector
from keras_optix.experience.window import CollectedWindow
from keras_optix.testing import ScriptedFeed

MakeStream = Callable[..., StreamCollector]
NAN, INF = math.nan, math.inf
SPACE = spaces.Box(-INF, INF, (1,))
Row = tuple[float, float, float, bool, bool]


def item(value: float, reward: float = 0.0, ends: str = "", final: float | None = None) -> Any:
    info = {} if final is None else {"final_obs": np.array([final], np.float32)}
    return np.array([value], np.float32), reward, ends == "terminated", ends == "truncated", info


def collect(collector: StreamCollector) -> list[CollectedWindow]:
    windows = []
    while True:
        try:
            windows.append(collector.collect())
        except StopIteration:
            return windows


def rows(windows: list[CollectedWindow]) -> list[Row]:
    """Observation, reward, next observation, terminated, truncated of the transitions."""
    found: list[Row] = []
    for window in (one.window for one in windows):
        for t in np.flatnonzero(window.valid[:, 0]):
            floats = (window.observations[t, 0, 0], window.rewards[t, 0], window.next_observations[t, 0, 0])
            flags = bool(window.terminated[t, 0]), bool(window.truncated[t, 0])
            found.append((*map(float, floats), *flags))
    return found


def play(stream: MakeStream, script: list[Any], **options: Any) -> tuple[list[Row], StreamCollector, ScriptedFeed]:
    feed = ScriptedFeed(script, observation_space=SPACE)
    collector = stream(feed, seed=3, on_invalid="drop", **options)
    return rows(collect(collector)), collector, feed


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_an_observation_that_is_not_finite_is_left_out_and_its_reward_is_kept(stream: MakeStream, value: float) -> None:
    script = [item(0), item(1, 1.0), item(value, 2.0), item(3, 4.0), item(4, 8.0)]
    found, collector, feed = play(stream, script)
    assert found == [(0, 1, 1, False, False), (1, 6, 3, False, False), (3, 8, 4, False, False)]
    assert feed.taken[1] == feed.taken[2], "the action before is the answer once more"
    counts = collector.counts
    assert (counts.observations, counts.starts, counts.steps, counts.invalid) == (5, 1, 3, 1)
    assert collector.logs()["feed_invalid"] == 1.0


@pytest.mark.parametrize("reward", [NAN, INF, 1e39])
def test_a_reward_that_is_not_finite_is_left_out_with_its_observation(stream: MakeStream, reward: float) -> None:
    script = [item(0), item(1, 1.0), item(2, reward), item(3, 4.0)]
    assert play(stream, script)[0] == [(0, 1, 1, False, False), (1, 4, 3, False, False)]


def test_many_in_a_row_are_one_step_and_are_told(stream: MakeStream) -> None:
    script = [item(0), *[item(NAN, 1.0)] * 12, item(1, 1.0)]
    found, collector, _ = play(stream, script)
    assert found == [(0, 13, 1, False, False)]
    first, many = collector.drain_notices()[:2]
    assert "item 1 of the feed is not finite (its observation) and is left out" in first
    assert "the last 10 items of the feed in a row were not finite" in many


def test_the_first_items_may_be_nothing_yet(stream: MakeStream) -> None:
    """Moving averages begin so. Nothing is learned from what nobody chose."""
    found, collector, feed = play(stream, [item(NAN), item(NAN, 5.0), item(2, 7.0), item(3, 1.0)])
    assert found == [(2, 1, 3, False, False)]
    assert [int(action) for action in feed.taken[:2]] == [0, 0]
    assert collector.counts.starts == 1


@pytest.mark.parametrize("ends", ["terminated", "truncated"])
def test_an_end_whose_observation_is_not_finite_completes_its_step(stream: MakeStream, ends: str) -> None:
    script = [item(0), item(1, 1.0), item(NAN, -9.0, ends), item(5), item(6, 2.0)]
    found, collector, _ = play(stream, script)
    flags = (ends == "terminated", ends == "truncated")
    assert found == [(0, 1, 1, False, False), (1, -9, 1, *flags), (5, 2, 6, False, False)]
    counts = collector.counts
    assert (counts.starts, counts.steps, counts.invalid, counts.unanswered) == (2, 3, 1, 0)


def test_an_end_whose_reward_is_not_finite_cuts_the_episode_off(stream: MakeStream) -> None:
    script = [item(0), item(1, 1.0), item(2, NAN, "terminated"), item(5), item(6, 2.0, "terminated")]
    feed = ScriptedFeed(script, observation_space=SPACE)
    collector = stream(feed, seed=3, on_invalid="drop")
    windows = collect(collector)
    # A window never reaches over it: the first one ends with what is bootstrapped.
    assert [int(one.window.valid.sum()) for one in windows] == [1, 1]
    assert rows(windows) == [(0, 1, 1, False, False), (5, 2, 6, True, False)]
    ended = [episode for one in windows for episode in one.episodes]
    assert [(episode.total_reward, episode.length) for episode in ended] == [(2.0, 1)]
    counts = collector.counts
    assert (counts.starts, counts.steps, counts.invalid, counts.unanswered) == (2, 2, 1, 1)


@pytest.mark.parametrize(
    ("value", "final", "reward", "expected"),
    [
        # The last observation is not known: the one before stands in, and the new episode begins with its first.
        (5, NAN, 4.0, [(0, 1, 1, False, False), (1, 4, 1, True, False), (5, 2, 6, False, False)]),
        # The first observation of the new episode is not known: it begins with the next one.
        (NAN, 2, 4.0, [(0, 1, 1, False, False), (1, 4, 2, True, False), (6, 3, 7, False, False)]),
        # The reward is not known: the episode is cut off, and the new one begins at once.
        (5, 2, NAN, [(0, 1, 1, False, False), (5, 2, 6, False, False), (6, 3, 7, False, False)]),
    ],
)
def test_feeds_that_reset_at_once(
    stream: MakeStream, value: float, final: float, reward: float, expected: list[Row]
) -> None:
    script = [item(0), item(1, 1.0), item(value, reward, "terminated", final), item(6, 2.0), item(7, 3.0)]
    found = play(stream, script)[0]
    assert found[: len(expected)] == expected


def test_what_was_earned_before_a_disconnect_is_not_carried_over(stream: MakeStream) -> None:
    lost = ConnectionError("lost")
    script = [item(0), item(NAN, 100.0), lost, item(NAN), item(3), item(4, 1.0)]
    found, collector, _ = play(stream, script, reconnect=optix.live.Reconnect(first_delay=0.0))
    assert found == [(3, 1, 4, False, False)]
    assert collector.counts.reconnects == 1


def test_a_control_without_nan_both_options_give_the_same(stream: MakeStream) -> None:
    script = [item(k, float(k), "terminated" if k % 4 == 3 else "") for k in range(12)]
    dropped = play(stream, script)[0]
    collector = stream(ScriptedFeed(script, observation_space=SPACE), seed=3)
    assert rows(collect(collector)) == dropped


def test_what_is_wrong_in_another_way_is_an_error_still(stream: MakeStream) -> None:
    feed = ScriptedFeed([item(0), (np.zeros(3, np.float32), 0.0, False, False, {})], observation_space=SPACE)
    with pytest.raises(EnvError, match="shape"):
        collect(stream(feed, on_invalid="drop"))
    feed = ScriptedFeed([item(0), (np.zeros(1, np.float32), None, False, False, {})], observation_space=SPACE)
    with pytest.raises(EnvError, match="number as reward"):
        collect(stream(feed, on_invalid="drop"))


def test_without_it_the_error_says_that_there_is_it(stream: MakeStream) -> None:
    for bad in (item(NAN), item(1, NAN)):
        feed = ScriptedFeed([item(0), bad], observation_space=SPACE)
        with pytest.raises(EnvError, match=r'on_invalid="drop"'):
            collect(stream(feed))


def test_a_recording_of_such_a_feed_is_replayed_as_it_was_learned_from(stream: MakeStream, tmp_path: Path) -> None:
    script = [
        *[item(0), item(1, 1.0), item(NAN, 2.0), item(3, 4.0), item(4, 0.5), item(5, NAN), item(6, 1.0)],
        *[item(NAN, -1.0, "terminated"), item(NAN), item(8), item(9, 3.0), item(10, NAN, "truncated")],
        *[item(11), item(12, 1.0), item(13, 2.0)],
    ]
    feed = ScriptedFeed(script, observation_space=SPACE)
    recorder = Recorder(tmp_path / "feed.rec", SPACE, feed.action_space, 3)
    collector = stream(feed, seed=3, window_size=3, on_invalid="drop", recorder=recorder)
    live = collect(collector)
    collector.close()
    replayed = collect(stream(optix.live.replay_feed(tmp_path / "feed.rec"), seed=3, window_size=3))
    assert rows(live) == rows(replayed)
    for one, other in zip(live, replayed, strict=True):
        for name in ("actions", "log_probs", "seed", "valid"):
            np.testing.assert_array_equal(getattr(one.window, name), getattr(other.window, name))


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(3, start=-1),
        spaces.MultiDiscrete([3, 5], start=[1, 7]),
        spaces.MultiDiscrete([[3, 5], [2, 2]]),
        spaces.MultiBinary([2, 2]),
        spaces.Box(-1.0, 1.0, (2,)),
        spaces.Box(2.0, 5.0, (2,)),
        spaces.Box(-INF, -1.0, (2,)),
    ],
)
def test_the_neutral_action_is_one(space: spaces.Space[Any]) -> None:
    assert space.contains(neutral_action(space))


def test_another_choice_is_refused(small_ppo: Any) -> None:
    feed = ScriptedFeed([item(0)], observation_space=SPACE)
    with pytest.raises(ConfigurationError, match="on_invalid"):
        optix.dataset_from_stream(feed, small_ppo(), on_invalid="ignore")
