"""The reader's thread: what it asks and tells, when it tries again, and that it always ends."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from keras_optix.errors import FeedError
from keras_optix.experience.live.feed_reader import FeedReader, Stopped
from keras_optix.experience.live.feeds import Reconnect
from keras_optix.experience.live.latency import LatencyMeter

PATIENCE = 20.0


class Desk:
    """Notes what it is asked and told; answers item k with ``k * 10``."""

    def __init__(self, answer: Callable[[Any], Any] = lambda item: item * 10) -> None:
        self.answer = answer
        self.asked: list[tuple[Any, bool]] = []
        self.told: list[tuple[str, int, float]] = []
        self.error: BaseException | None = None
        self.done = threading.Event()

    def exchange(self, reader: FeedReader, item: Any, *, first: bool) -> Any:
        self.asked.append((item, first))
        return self.answer(item)

    def disconnected(self, error: BaseException, tries: int, delay: float) -> None:
        self.told.append((str(error), tries, delay))

    def ended(self, reader: FeedReader, error: BaseException | None) -> None:
        self.error = error
        self.done.set()


class Lines:
    """Plays lines over all its connections: numbers are given, exceptions raised; after the last it ends or waits."""

    def __init__(self, *lines: Any, waits: bool = False) -> None:
        self.lines = iter(lines)
        self.waits = waits
        self.sent: list[Any] = []
        self.connections = self.closed = 0
        self.finished = 0
        self.closing = threading.Event()

    def stream(self) -> Iterator[Any]:
        self.connections += 1
        try:
            for line in self.lines:
                if isinstance(line, BaseException):
                    raise line
                self.sent.append((yield line))
            if self.waits:
                self.closing.wait(PATIENCE)
                raise ConnectionError("closed under me")
        finally:
            self.finished += 1

    def close(self) -> None:
        self.closed += 1
        self.closing.set()


def reader_of(feed: Any, desk: Desk, **options: Any) -> FeedReader:
    reconnect = Reconnect(**({"first_delay": 0.0} | options))
    return FeedReader(feed, desk, reconnect, LatencyMeter(1.0), seed=0)


def read(feed: Any, desk: Desk, **options: Any) -> FeedReader:
    """Reads a feed until it ends."""
    reader = reader_of(feed, desk, **options)
    reader.start()
    assert desk.done.wait(PATIENCE)
    reader._thread.join(PATIENCE)
    assert not reader._thread.is_alive()
    return reader


def test_each_item_is_answered_and_the_end_is_told() -> None:
    feed, desk = Lines(1, 2, 3), Desk()
    read(feed, desk)
    assert desk.asked == [(1, True), (2, False), (3, False)]
    assert feed.sent == [10, 20, 30]
    assert desk.error is None
    assert (desk.told, feed.finished) == ([], 1)


def test_a_feed_that_gives_nothing_ends() -> None:
    desk = Desk()
    read(Lines(), desk)
    assert (desk.asked, desk.error) == ([], None)


def test_it_tries_again_and_tells_how_long_it_waits() -> None:
    down = [ConnectionError("a"), EOFError("b"), TimeoutError("c")]
    feed, desk = Lines(1, *down, 2, ConnectionError("d"), 3), Desk()
    read(feed, desk, tries=3, first_delay=0.001, factor=3.0, jitter=0.0)
    assert desk.asked == [(1, True), (2, True), (3, True)]
    assert [(why, tries) for why, tries, _ in desk.told] == [("a", 1), ("b", 2), ("c", 3), ("d", 1)]
    assert [delay for *_, delay in desk.told] == pytest.approx([0.001, 0.003, 0.009, 0.001])
    assert feed.connections == feed.finished == 5


def test_the_delay_is_waited_for() -> None:
    moments: list[float] = []

    class Feed:
        def stream(self) -> Iterator[Any]:
            moments.append(time.monotonic())
            if len(moments) < 3:
                raise ConnectionError
            return iter(())

    desk = Desk()
    read(Feed(), desk, first_delay=0.05, jitter=0.0)
    assert np.diff(moments)[0] >= 0.05
    assert np.diff(moments)[1] >= 0.1


@pytest.mark.parametrize("tries", [1, 3])
def test_it_gives_up_with_the_last_cause(tries: int) -> None:
    causes = [ConnectionError(f"down {k}") for k in range(9)]
    feed, desk = Lines(1, *causes), Desk()
    read(feed, desk, tries=tries)
    assert isinstance(desk.error, FeedError)
    assert isinstance(desk.error, ConnectionError)
    assert desk.error.__cause__ is causes[tries]  # the first one was the loss, then came so many tries
    assert f"in {tries} tries" in str(desk.error)
    assert f"down {tries}" in str(desk.error)
    assert len(desk.told) == tries


def test_only_what_it_is_told_to_is_a_lost_connection() -> None:
    class Hiccup(Exception):
        pass

    lost, desk = Lines(1, Hiccup(), 2), Desk()
    read(lost, desk, on=(Hiccup,))
    assert (desk.error, lost.connections) == (None, 2)
    error, desk = ConnectionError("not told"), Desk()
    feed = Lines(1, error)
    read(feed, desk, on=(Hiccup,))
    assert desk.error is error
    assert feed.connections == 1


def test_what_goes_wrong_in_the_answer_is_no_lost_connection() -> None:
    cause = KeyError("why")

    def full(item: Any) -> Any:
        raise OSError("the disk is full") from cause

    feed, desk = Lines(1, 2), Desk(full)
    read(feed, desk)
    assert isinstance(desk.error, OSError)
    assert str(desk.error) == "the disk is full"
    assert desk.error.__cause__ is cause
    assert (feed.connections, feed.finished) == (1, 1)


def test_a_stop_iteration_of_the_answer_is_not_the_end_of_the_feed() -> None:
    desk = Desk(lambda item: next(iter(())))
    read(Lines(1, 2), desk)
    assert isinstance(desk.error, RuntimeError)
    assert isinstance(desk.error.__cause__, StopIteration)


def test_stop_closes_a_feed_that_waits_once() -> None:
    feed, desk = Lines(1, 2, waits=True), Desk()
    reader = reader_of(feed, desk)
    reader.start()
    while len(desk.asked) < 2:
        time.sleep(0.001)
    reader.stop()
    reader.stop()
    assert not reader._thread.is_alive()
    assert (feed.closed, feed.finished, feed.connections) == (1, 1, 1)
    assert (desk.error, desk.told) == (None, [])  # what a closed feed raises is no loss


def test_stop_ends_a_wait_between_two_tries() -> None:
    feed, desk = Lines(ConnectionError("down")), Desk()
    reader = reader_of(feed, desk, first_delay=10 * PATIENCE, max_delay=10 * PATIENCE, jitter=0.0)
    reader.start()
    while not desk.told:
        time.sleep(0.001)
    reader.stop()
    assert not reader._thread.is_alive()
    assert feed.connections == 1


def test_a_feed_that_was_closed_while_it_connected_is_closed_once_more() -> None:
    connecting, go_on = threading.Event(), threading.Event()

    class Feed(Lines):
        def stream(self) -> Iterator[Any]:
            connecting.set()
            go_on.wait(PATIENCE)
            self.closing.clear()  # a new connection, which knows nothing of what was closed before
            return super().stream()

        def close(self) -> None:
            super().close()
            go_on.set()

    feed, desk = Feed(waits=True), Desk()
    reader = reader_of(feed, desk)
    reader.start()
    assert connecting.wait(PATIENCE)
    reader.stop()
    assert not reader._thread.is_alive()
    assert feed.finished == 1


def test_a_close_that_fails_as_a_connection_does_is_left_alone_and_another_error_is_not() -> None:
    class Feed(Lines):
        error: Exception = BrokenPipeError("gone")

        def close(self) -> None:
            super().close()
            raise self.error

    feed, desk = Feed(1, waits=True), Desk()
    reader = reader_of(feed, desk)
    reader.start()
    reader.stop()
    assert not reader._thread.is_alive()
    feed = Feed(1)
    feed.error = TypeError("a bug in close")
    reader = read(feed, Desk())
    with pytest.raises(TypeError, match="a bug in close"):
        reader.stop()


def test_a_reader_that_is_told_to_stop_while_it_answers_ends() -> None:
    def stopped(item: Any) -> Any:
        raise Stopped

    feed, desk = Lines(1, 2), Desk(stopped)
    read(feed, desk)
    assert (desk.error, feed.finished) == (None, 1)


def test_it_does_not_keep_the_desk() -> None:
    feed = Lines(1, waits=True)
    desk = Desk()
    reader = reader_of(feed, desk)
    reader.start()
    while not desk.asked:
        time.sleep(0.001)
    del desk
    gc.collect()
    feed.lines, feed.waits = iter([2]), False
    feed.close()
    reader._thread.join(PATIENCE)
    assert not reader._thread.is_alive()


def test_only_late_answers_are_late_and_percentiles_are_of_the_latest() -> None:
    meter = LatencyMeter(0.1)
    assert np.isnan(meter.percentiles(50.0)).all()
    for seconds in (0.05, 0.1, 0.15, 0.2):
        meter.add(seconds)
    assert meter.late == 2
    assert meter.percentiles(0.0, 50.0, 100.0) == pytest.approx([0.05, 0.125, 0.2])
    for _ in range(5000):
        meter.add(0.01)
    assert meter.percentiles(50.0, 100.0) == pytest.approx([0.01, 0.01])
    assert meter.late == 2
