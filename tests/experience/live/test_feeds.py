"""What a feed may give and what is said of the rest, boundaries, the delays between tries, and the feeds for tests."""

from __future__ import annotations

import itertools
import random
import threading
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from keras_optix.errors import ConfigurationError, EnvError
from keras_optix.experience.live.feeds import (
    Boundary,
    ClosableFeed,
    Reconnect,
    StreamStep,
    every_n_seconds,
    every_n_steps,
    observed,
    on_done,
)
from keras_optix.experience.observations import ObservationLayout
from keras_optix.testing import CountingFeed, ScriptedFeed

LAYOUT = ObservationLayout(spaces.Box(0.0, 1.0, (2,)))
GOOD = np.array([0.25, 0.5], np.float32)


def look(item: Any, *, bounds: bool = True) -> Any:
    return observed(item, LAYOUT, 7, bounds=bounds)


def step(*, terminated: bool = False, truncated: bool = False) -> StreamStep:
    return StreamStep(1, 0.0, 0.0, terminated, truncated, {})


# What a feed gives


def test_what_is_right_is_taken_as_it_is() -> None:
    seen = look((GOOD.tolist(), np.float64(1.5), np.bool_(True), False, {"a": 1}))
    assert seen.leaves[0].tolist() == GOOD.tolist()
    assert (seen.reward, seen.terminated, seen.truncated, seen.info, seen.ended) == (1.5, True, False, {"a": 1}, True)
    assert seen.final is None


@pytest.mark.parametrize("flag", ["terminated", "truncated", None])
def test_final_obs_is_taken_where_an_episode_ended(flag: str | None) -> None:
    final = np.array([0.0, 1.0], np.float32)
    seen = look((GOOD, 0.0, flag == "terminated", flag == "truncated", {"final_obs": final}))
    if flag is None:
        assert seen.final is None
    else:
        assert seen.final is not None
        assert seen.final[0].tolist() == [0.0, 1.0]
    assert look((GOOD, 0.0, True, False, {"final_obs": None})).final is None
    assert look((GOOD, 0.0, True, False, None)).final is None


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (GOOD, r"must yield \(observation, reward, terminated, truncated, info\), but item 7 is not.*ndarray of 2"),
        ((GOOD, 0.0, False, {}), r"must yield \(observation, .*item 7 is not of this form.*tuple of 4"),
        (None, r"must yield \(observation, .*item 7 is not of this form.*NoneType"),
        ((GOOD, None, False, False, {}), r"number as reward, but the reward of item 7 is not a number.*reward=None"),
        ((GOOD, "much", False, False, {}), r"number as reward.*reward='much'"),
        (
            (GOOD, float("nan"), False, False, {}),
            r"finite float32 rewards, but the reward of item 7 is not finite.*reward=nan",
        ),
        ((GOOD, float("inf"), False, False, {}), r"finite float32 rewards"),
        ((GOOD, 1e39, False, False, {}), r"finite float32 rewards"),
        (([0.0, float("nan")], 0.0, False, False, {}), r"not finite.*item 7 of the feed"),
        (([0.0, 2.0], 0.0, False, False, {}), r"outside its space.*item 7 of the feed.*check_bounds=False"),
        (([0.0], 0.0, False, False, {}), r"of shape \(1,\).*item 7 of the feed"),
        ((["a", "b"], 0.0, False, False, {}), r"dtype.*item 7 of the feed"),
        ((GOOD, 0.0, True, False, {"final_obs": [0.0]}), r"of shape \(1,\).*final_obs of item 7"),
        ((GOOD, 0.0, True, False, {"final_obs": [0.0, np.nan]}), r"not finite.*final_obs of item 7"),
    ],
)
def test_what_is_wrong_is_named_with_its_number(item: Any, message: str) -> None:
    with pytest.raises(EnvError, match=message):
        look(item)


def test_check_bounds_lets_through_what_is_finite() -> None:
    assert look(([0.0, 2.0], 0.0, False, False, {}), bounds=False).leaves[0].tolist() == [0.0, 2.0]
    with pytest.raises(EnvError, match="not finite"):
        look(([0.0, np.nan], 0.0, False, False, {}), bounds=False)


# Boundaries


def test_boundaries_say_what_they_are() -> None:
    assert every_n_steps(16) == Boundary(steps=16)
    assert every_n_seconds(0.5) == Boundary(seconds=0.5)
    closes = on_done().closes
    assert closes is not None
    assert [closes(step()), closes(step(terminated=True)), closes(step(truncated=True))] == [False, True, True]


@pytest.mark.parametrize("n", [0, -1, 1.5, True, "3", None])
def test_every_n_steps_refuses(n: Any) -> None:
    with pytest.raises(ConfigurationError, match="`n` must be an integer >= 1"):
        every_n_steps(n)


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan"), float("inf"), True, "1", None])
def test_every_n_seconds_refuses(seconds: Any) -> None:
    with pytest.raises(ConfigurationError, match="`seconds` must be a number in"):
        every_n_seconds(seconds)


@pytest.mark.parametrize("options", [{"steps": 0}, {"seconds": 0.0}, {"closes": 3}])
def test_a_boundary_made_by_hand_is_checked_as_well(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        Boundary(**options)


# Reconnect


def test_delays_grow_up_to_the_largest_one() -> None:
    plan = Reconnect(first_delay=0.1, factor=2.0, max_delay=30.0, jitter=0.0)
    delays = [plan.delay(k, random.Random(0)) for k in range(1, 11)]
    assert delays == pytest.approx([0.1 * 2.0**k for k in range(9)] + [30.0])
    assert plan.delay(10_000, random.Random(0)) == 30.0


def test_jitter_takes_a_random_share_away_and_never_more() -> None:
    plan = Reconnect(first_delay=1.0, factor=1.0, jitter=0.4)
    rng = random.Random(0)
    delays = [plan.delay(k, rng) for k in range(1, 2001)]
    assert min(delays) >= 0.6
    assert max(delays) <= 1.0
    # Uniform in [0.6, 1]: the mean of 2,000 lies within five standard errors, 0.115 / sqrt(2000).
    assert np.mean(delays) == pytest.approx(0.8, abs=0.013)
    assert delays == [plan.delay(k, again) for again in [random.Random(0)] for k in range(1, 2001)]


def test_the_defaults_take_as_long_as_they_say() -> None:
    plan = Reconnect()
    longest = sum(Reconnect(jitter=0.0).delay(k, random.Random(0)) for k in range(1, plan.tries + 1))
    assert (round(longest), round(longest * (1 - plan.jitter))) == (81, 41)


@pytest.mark.parametrize(
    "options",
    [
        {"tries": 0},
        {"first_delay": -1.0},
        {"factor": 0.5},
        {"max_delay": -1.0},
        {"jitter": 1.5},
        {"on": OSError},
        {"on": ("x",)},
        {"on": (KeyboardInterrupt,)},
    ],
)
def test_reconnect_refuses(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        Reconnect(**options)


# The feeds for tests


def drive(feed: Any, actions: list[Any]) -> list[tuple[list[float], float, bool, bool]]:
    stream = feed.stream()
    items = [next(stream), *(stream.send(action) for action in actions)]
    stream.close()
    return [(item[0].tolist(), *item[1:4]) for item in items]


def test_a_counting_feed_counts() -> None:
    assert drive(CountingFeed(2), [5, 6, 7, 8]) == [
        ([0, 0], 0, False, False),
        ([0, 1], 5, False, False),
        ([0, 2], 6, True, False),
        ([1, 0], 0, False, False),
        ([1, 1], 8, False, False),
    ]
    assert drive(CountingFeed(2, truncate=True, resets_at_once=True), [5, 6, 7]) == [
        ([0, 0], 0, False, False),
        ([0, 1], 5, False, False),
        ([1, 0], 6, False, True),
        ([1, 1], 7, False, False),
    ]


def test_a_counting_feed_notes_what_it_got_and_ends() -> None:
    feed = CountingFeed(None, items=2)
    stream = feed.stream()
    next(stream)
    stream.send(1)
    with pytest.raises(StopIteration):
        stream.send(2)
    assert (feed.taken, feed.read, feed.connections, feed.finished) == ([1, 2], 2, 1, 1)
    assert isinstance(feed, ClosableFeed)


def test_a_scripted_feed_plays_on_where_it_was() -> None:
    gate, called = threading.Event(), list[str]()
    gate.set()
    items = [(np.array([k], np.float32), 0.0, False, False, {}) for k in range(3)]
    feed = ScriptedFeed([items[0], ConnectionError("lost"), gate, lambda: called.append("here"), *items[1:]])
    stream = feed.stream()
    assert next(stream) is items[0]
    with pytest.raises(ConnectionError, match="lost"):
        stream.send(4)
    assert list(itertools.chain(feed.stream())) == items[1:]
    assert (called, feed.connections, feed.read, feed.taken[0]) == (["here"], 2, 3, 4)
