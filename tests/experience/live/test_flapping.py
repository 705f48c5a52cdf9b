"""Feeds that connect, give something and break: when the backoff begins anew, and that nothing grows with breaks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from keras_optix.errors import EnvError, FeedError
from keras_optix.experience.live.feed_notices import is_told
from keras_optix.experience.live.feed_reader import FeedReader
from keras_optix.experience.live.feeds import Reconnect
from keras_optix.experience.live.latency import LatencyMeter
from keras_optix.experience.live.stream import StreamCollector
from keras_optix.loggers.loop_log import MOST_RECORDS, LoopLog
from keras_optix.loop.record import EventKind, LoopRecord
from keras_optix.loop.scheduler_state import LoopState
from keras_optix.testing import CountingFeed, ScriptedClock, ScriptedFeed

MakeStream = Callable[..., StreamCollector]
PATIENCE = 30.0


class Flapping:
    """Each connection gives its items over some seconds of the clock, and breaks; after the last one the feed ends.

    Args:
        clock: The clock.
        lives: Seconds from the first observation of each connection to its break; None: it cannot be reached.
        items: Observations of a connection.
    """

    observation_space = spaces.Box(0.0, np.inf, (1,))
    action_space = spaces.Discrete(2)

    def __init__(self, clock: ScriptedClock, lives: Iterator[float | None], items: int = 1) -> None:
        self.clock, self.lives, self.items = clock, lives, items
        self.began: list[float] = []

    def stream(self) -> Iterator[Any]:
        self.began.append(self.clock.monotonic())
        for life in self.lives:
            if life is None:
                raise ConnectionRefusedError("down")
            for k in range(self.items):
                yield np.array([k], np.float32), 1.0, False, False, {}
            self.clock.advance(life)
            raise ConnectionResetError("flap")


class Handler:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.tries: list[int] = []
        self.delays: list[float] = []
        self.error: BaseException | None = None

    def exchange(self, reader: FeedReader, item: Any, *, first: bool) -> Any:
        return 0

    def disconnected(self, error: BaseException, tries: int, delay: float) -> None:
        self.tries.append(tries)
        self.delays.append(delay)

    def ended(self, reader: FeedReader, error: BaseException | None) -> None:
        self.error = error


def read(lives: list[float | None], **options: Any) -> tuple[Handler, Flapping]:
    clock, handler = ScriptedClock(), Handler()
    feed = Flapping(clock, iter(lives))
    reader = FeedReader(feed, handler, Reconnect(jitter=0.0, **options), LatencyMeter(1.0), seed=0, clock=clock)
    reader.start()
    assert reader.wait(PATIENCE)
    return handler, feed


def test_one_observation_does_not_reset_the_backoff() -> None:
    handler, feed = read([0.0] * 100, tries=10)
    assert handler.tries == list(range(1, 11))
    assert handler.delays == pytest.approx([min(0.1 * 2.0**k, 30.0) for k in range(10)])
    assert len(feed.began) == 11
    assert isinstance(handler.error, FeedError)
    words = r"broke again and again: 10 connections in 10 tries \(81.1 s\), none.*stable.*stable_after"
    with pytest.raises(FeedError, match=words):
        raise handler.error


def test_a_control_where_each_observation_is_a_success_tries_at_the_first_delay_for_ever() -> None:
    handler, _ = read([0.0] * 100, tries=10, stable_after=0.0)
    assert handler.tries == [1] * 100
    assert handler.error is None


def test_a_connection_that_lasts_as_long_as_the_delay_before_it_is_stable() -> None:
    # Delays 1, 2, 4: the third connection lasts less than the 2 s before it, the fourth exactly the 4 s before it.
    handler, _ = read([0.5, 0.5, 1.9, 4.0, 0.5], first_delay=1.0, tries=10)
    assert handler.tries == [1, 2, 3, 1, 2]


@pytest.mark.parametrize(("life", "stable"), [(0.99, False), (1.0, True)])
def test_without_any_delay_a_connection_is_stable_after_a_second(life: float, stable: bool) -> None:
    handler, _ = read([life] * 30, first_delay=0.0, tries=10)
    assert handler.tries == ([1] * 30 if stable else list(range(1, 11)))


def test_a_time_can_be_given_instead() -> None:
    handler, _ = read([4.9, 4.9, 5.0, 4.9], stable_after=5.0, tries=10)
    assert handler.tries == [1, 2, 1, 2]


def test_tries_that_fail_count_with_connections_that_flap() -> None:
    handler, _ = read([0.1, None, None, 0.1, None, 0.1], tries=5)
    assert handler.tries == [1, 2, 3, 4, 5]
    with pytest.raises(FeedError, match="2 connections in 5 tries"):
        raise handler.error  # type: ignore[misc]


def test_a_feed_that_is_up_longer_than_its_waits_is_never_given_up() -> None:
    """A gateway that ends each connection after a minute, for 100 days."""
    handler, feed = read([60.0] * 144_0, tries=3)
    assert handler.error is None
    assert set(handler.tries) == {1}
    assert sum(handler.delays) < 0.01 * feed.clock.monotonic()


def test_each_of_the_first_ten_is_told_and_then_ever_fewer() -> None:
    assert [k for k in range(1, 1000) if is_told(k)] == [*range(1, 11), 20, 40, 80, 160, 320, 640]
    assert sum(is_told(k) for k in range(1, 1_000_001)) == 26


def taken(collector: StreamCollector) -> int:
    """Takes windows until the feed ends; returns how many."""
    count, limit = 0, time.monotonic() + PATIENCE
    while True:
        try:
            collector.prepare(lambda: time.monotonic() > limit)
            collector.collect()
        except StopIteration:
            return count
        count += 1
        assert time.monotonic() < limit


def test_nothing_grows_with_ten_thousand_breaks(stream: MakeStream) -> None:
    clock = ScriptedClock()
    feed = Flapping(clock, iter([2.0] * 10_000), items=2)
    collector = stream(feed, window_size=4, clock=clock)
    assert taken(collector) == 10_000
    counts = collector.counts
    assert (counts.disconnects, counts.reconnects, counts.starts, counts.steps) == (10_000, 9_999, 10_000, 10_000)
    assert counts.flaps == 0
    notices = collector.drain_notices()
    assert len(notices) == 38  # the breaks 1 to 10, 20, 40 ... 5,120, and the connections after them
    assert "lost for the 10th time" in notices[18]
    assert "only some of these are told, and all are counted in feed/reconnects and feed/flaps" in notices[18]
    assert notices[-1] == "the feed is back: connection 5121"
    assert len(notices) < MOST_RECORDS // 2
    assert still_there(notices)
    # A control: two notices on each break would push the other events of the run out of its records.
    assert not still_there([str(k) for k in range(20_000)])


def still_there(notices: list[str]) -> bool:
    """Whether the records of a run still have what happened before some notices."""
    log = LoopLog((), 0)
    for kind, message in [(EventKind.RESUMED, "the first"), (EventKind.IMPROVEMENT, "the best")]:
        log.note(LoopRecord(kind, 0, 0, LoopState.ACTIVE, message))
    for notice in notices:
        log.note(LoopRecord(EventKind.FEED, 1, 1, LoopState.ACTIVE, notice))
    assert len(log.records) <= MOST_RECORDS
    return any(record.message == "the best" for record in log.records)


def test_flaps_are_counted_and_shown(stream: MakeStream) -> None:
    clock = ScriptedClock()
    feed = Flapping(clock, iter([0.1, 0.1, 0.1, 60.0, 60.0]), items=2)
    collector = stream(feed, window_size=4, clock=clock, reconnect=Reconnect(first_delay=1.0))
    assert taken(collector) == 5
    # The first break is the first one of a row; the 60 s are stable, so that the last two are, too.
    assert (collector.counts.disconnects, collector.counts.flaps) == (5, 2)
    assert collector.logs()["feed_flaps"] == 2.0


# Items of which nothing, or not everything, can be learned


def item(value: float, reward: float, *, ends: bool = False, begins: float | None = None) -> Any:
    """An item of a `ScriptedFeed`; with `begins` it also has the first observation of the next episode."""
    if begins is None:
        return np.array([value], np.float32), reward, ends, False, {}
    return np.array([begins], np.float32), reward, ends, False, {"final_obs": np.array([value], np.float32)}


def all_rows(collector: StreamCollector) -> list[tuple[float, float, bool]]:
    """Observation, reward and end of each step, until the feed ends."""
    rows: list[tuple[float, float, bool]] = []
    while True:
        try:
            collector.prepare()
            window = collector.collect().window
        except StopIteration:
            return rows
        valid = window.valid[:, 0]
        columns = (window.observations[valid, 0, 0], window.rewards[valid, 0], window.terminated[valid, 0])
        rows += list(zip(*(column.tolist() for column in columns), strict=True))


def test_a_bandit_whose_every_item_ends_an_episode_gives_each_transition(stream: MakeStream) -> None:
    """The context of the next action comes with the reward of the last one."""
    script = [item(k, float(k), ends=True, begins=k) for k in range(50)]
    collector = stream(ScriptedFeed(script))
    assert all_rows(collector) == [(k, k + 1.0, True) for k in range(49)]
    assert (collector.counts.starts, collector.counts.stepless) == (1, 0)


def test_a_bandit_in_two_items_gives_each_transition(stream: MakeStream) -> None:
    collector = stream(CountingFeed(1, items=100))
    assert [end for *_, end in all_rows(collector)] == [True] * 50
    assert collector.counts.stepless == 0


def test_a_feed_whose_every_item_is_a_last_one_says_why_there_is_nothing_to_learn(stream: MakeStream) -> None:
    collector = stream(ScriptedFeed([item(k, 1.0, ends=True) for k in range(99)]))
    with pytest.raises(EnvError, match=r"first 10 items.*no step to learn from.*contextual bandit.*\"final_obs\""):
        all_rows(collector)


def test_repeated_ends_after_a_step_are_told_and_counted(stream: MakeStream) -> None:
    """Such as a closed market, which goes on sending its last item."""
    closed = [item(2, 1.0, ends=True)] * 1_000
    collector = stream(ScriptedFeed([item(0, 0.0), item(1, 1.0), *closed, item(5, 0.0), item(6, 4.0)]))
    assert all_rows(collector) == [(0, 1, False), (1, 1, True), (5, 4, False)]
    assert collector.counts.stepless == 999
    notices = collector.drain_notices()
    assert "item 3 of the feed ends an episode in which no action was taken, so it is no step" in notices[0]
    assert len(notices) == 16


def test_a_feed_that_is_always_the_same_and_never_rewards_is_learned_from(stream: MakeStream) -> None:
    collector = stream(ScriptedFeed([item(1, 0.0)] * 41))
    assert all_rows(collector) == [(1, 0, False)] * 40
    assert collector.drain_notices() == []
