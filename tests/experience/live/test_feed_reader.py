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


class FeedHandler:
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


def reader_of(feed: Any, handler: FeedHandler, **options: Any) -> FeedReader:
    reconnect = Reconnect(**({"first_delay": 0.0} | options))
    return FeedReader(feed, handler, reconnect, LatencyMeter(1.0), seed=0)


def read(feed: Any, handler: FeedHandler, **options: Any) -> FeedReader:
    """Reads a feed until it ends."""
    reader = reader_of(feed, handler, **options)
    reader.start()
    assert handler.done.wait(PATIENCE)
    assert reader.wait(PATIENCE)
    return reader


def test_each_item_is_answered_and_the_end_is_told() -> None:
    feed, handler = Lines(1, 2, 3), FeedHandler()
    read(feed, handler)
    assert handler.asked == [(1, True), (2, False), (3, False)]
    assert feed.sent == [10, 20, 30]
    assert handler.error is None
    assert (handler.told, feed.finished) == ([], 1)


def test_a_feed_that_gives_nothing_ends() -> None:
    handler = FeedHandler()
    read(Lines(), handler)
    assert (handler.asked, handler.error) == ([], None)


def test_it_tries_again_and_tells_how_long_it_waits() -> None:
    down = [ConnectionError("a"), EOFError("b"), TimeoutError("c")]
    feed, handler = Lines(1, *down, 2, ConnectionError("d"), 3), FeedHandler()
    read(feed, handler, tries=3, first_delay=0.001, factor=3.0, jitter=0.0, stable_after=0.0)
    assert handler.asked == [(1, True), (2, True), (3, True)]
    assert [(why, tries) for why, tries, _ in handler.told] == [("a", 1), ("b", 2), ("c", 3), ("d", 1)]
    assert [delay for *_, delay in handler.told] == pytest.approx([0.001, 0.003, 0.009, 0.001])
    assert feed.connections == feed.finished == 5


def test_the_delay_is_waited_for() -> None:
    moments: list[float] = []

    class Feed:
        def stream(self) -> Iterator[Any]:
            moments.append(time.monotonic())
            if len(moments) < 3:
                raise ConnectionError
            return iter(())

    handler = FeedHandler()
    read(Feed(), handler, first_delay=0.05, jitter=0.0)
    assert np.diff(moments)[0] >= 0.05
    assert np.diff(moments)[1] >= 0.1


@pytest.mark.parametrize("tries", [1, 3])
def test_it_gives_up_with_the_last_cause(tries: int) -> None:
    causes = [ConnectionError(f"down {k}") for k in range(9)]
    feed, handler = Lines(1, *causes), FeedHandler()
    read(feed, handler, tries=tries)
    assert isinstance(handler.error, FeedError)
    assert isinstance(handler.error, ConnectionError)
    assert handler.error.__cause__ is causes[tries]  # the first one was the loss, then came so many tries
    assert f"in {tries} tries" in str(handler.error)
    assert f"down {tries}" in str(handler.error)
    assert len(handler.told) == tries


def test_only_what_it_is_told_to_is_a_lost_connection() -> None:
    class Hiccup(Exception):
        pass

    lost, handler = Lines(1, Hiccup(), 2), FeedHandler()
    read(lost, handler, on=(Hiccup,))
    assert (handler.error, lost.connections) == (None, 2)
    error, handler = ConnectionError("not told"), FeedHandler()
    feed = Lines(1, error)
    read(feed, handler, on=(Hiccup,))
    assert handler.error is error
    assert feed.connections == 1


def test_what_goes_wrong_in_the_answer_is_no_lost_connection() -> None:
    cause = KeyError("why")

    def full(item: Any) -> Any:
        raise OSError("the disk is full") from cause

    feed, handler = Lines(1, 2), FeedHandler(full)
    read(feed, handler)
    assert isinstance(handler.error, OSError)
    assert str(handler.error) == "the disk is full"
    assert handler.error.__cause__ is cause
    assert (feed.connections, feed.finished) == (1, 1)


def test_a_stop_iteration_of_the_answer_is_not_the_end_of_the_feed() -> None:
    handler = FeedHandler(lambda item: next(iter(())))
    read(Lines(1, 2), handler)
    assert isinstance(handler.error, RuntimeError)
    assert isinstance(handler.error.__cause__, StopIteration)


def test_stop_closes_a_feed_that_waits_once() -> None:
    feed, handler = Lines(1, 2, waits=True), FeedHandler()
    reader = reader_of(feed, handler)
    reader.start()
    while len(handler.asked) < 2:
        time.sleep(0.001)
    reader.stop()
    reader.stop()
    assert not reader.running
    assert (feed.closed, feed.finished, feed.connections) == (1, 1, 1)
    assert (handler.error, handler.told) == (None, [])  # what a closed feed raises is no loss


def test_stop_ends_a_wait_between_two_tries() -> None:
    feed, handler = Lines(ConnectionError("down")), FeedHandler()
    reader = reader_of(feed, handler, first_delay=10 * PATIENCE, max_delay=10 * PATIENCE, jitter=0.0)
    reader.start()
    while not handler.told:
        time.sleep(0.001)
    reader.stop()
    assert not reader.running
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

    feed, handler = Feed(waits=True), FeedHandler()
    reader = reader_of(feed, handler)
    reader.start()
    assert connecting.wait(PATIENCE)
    reader.stop()
    assert not reader.running
    assert feed.finished == 1


def test_a_close_that_fails_as_a_connection_does_is_left_alone_and_another_error_is_not() -> None:
    class Feed(Lines):
        error: Exception = BrokenPipeError("gone")

        def close(self) -> None:
            super().close()
            raise self.error

    feed, handler = Feed(1, waits=True), FeedHandler()
    reader = reader_of(feed, handler)
    reader.start()
    reader.stop()
    assert not reader.running
    feed = Feed(1)
    feed.error = TypeError("a bug in close")
    reader = read(feed, FeedHandler())
    with pytest.raises(TypeError, match="a bug in close"):
        reader.stop()


def test_a_reader_that_is_told_to_stop_while_it_answers_ends() -> None:
    def stopped(item: Any) -> Any:
        raise Stopped

    feed, handler = Lines(1, 2), FeedHandler(stopped)
    read(feed, handler)
    assert (handler.error, feed.finished) == (None, 1)


def test_it_does_not_keep_the_desk() -> None:
    feed = Lines(1, waits=True)
    handler = FeedHandler()
    reader = reader_of(feed, handler)
    reader.start()
    while not handler.asked:
        time.sleep(0.001)
    del handler
    gc.collect()
    feed.lines, feed.waits = iter([2]), False
    feed.close()
    assert reader.wait(PATIENCE)


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
