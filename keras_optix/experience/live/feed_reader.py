"""The thread that talks with a live feed: takes observations, sends actions, and reaches it again when it is lost."""

from __future__ import annotations

import contextlib
import random
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Protocol

from keras_optix.errors import FeedError
from keras_optix.experience.live.feeds import ClosableFeed, Feed, Reconnect
from keras_optix.experience.live.latency import LatencyMeter

_JOIN_SECONDS = 0.5
_CLOSINGS = 2  # the first one may have come before there was something to close: while it connected


class FeedHandler(Protocol):
    """Who answers observations; called by the reader's thread."""

    def exchange(self, reader: FeedReader, item: Any, *, first: bool) -> Any:
        """Returns the action for what the feed gave.

        Args:
            reader: Who asks. One that was stopped gets no answer.
            item: What it gave.
            first: Whether a connection begins with it.

        Raises:
            Stopped: The reader was stopped.
        """
        ...

    def disconnected(self, error: BaseException, tries: int, delay: float) -> None:
        """A connection was lost, or a try to reach the feed failed.

        Args:
            error: Why.
            tries: Number of the next try in a row.
            delay: Seconds until then.
        """
        ...

    def ended(self, reader: FeedReader, error: BaseException | None) -> None:
        """The reader is at its end: the feed has ended, or an error ended it."""
        ...


class Stopped(Exception):
    """The reader was stopped while it waited."""


class FeedReader:
    """Reads a feed in a thread until it ends or `stop` is called.

    It does not keep the handler: where nobody else does, it stops.

    Args:
        feed: The feed.
        handler: Answers.
        reconnect: How the feed is reached again.
        latency: Gets the seconds from each observation to its action.
        seed: Of the jitter.
    """

    def __init__(
        self, feed: Feed, handler: FeedHandler, reconnect: Reconnect, latency: LatencyMeter, seed: int | None = None
    ) -> None:
        self._feed = feed
        self._handler: Callable[[], FeedHandler | None] = weakref.ref(handler)
        self._reconnect = reconnect
        self._latency = latency
        self._rng = random.Random(seed)
        self._stop = threading.Event()
        self._seen = False  # whether this connection gave an observation
        # A daemon: a feed that cannot be closed may wait for ever, and must not keep the process.
        self._thread = threading.Thread(target=self._run, name="keras_optix_feed", daemon=True)

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stop.is_set()

    def start(self) -> None:
        """Begins to read."""
        self._thread.start()

    def stop(self) -> None:
        """Closes the feed, and waits for half a second at most until the thread has ended.

        A feed that is not ended by that after half of the time is closed once more.
        """
        if self._stop.is_set():
            return
        self._stop.set()
        for _ in range(_CLOSINGS):
            if isinstance(self._feed, ClosableFeed):
                with contextlib.suppress(*self._reconnect.on):  # to close what is broken already may fail
                    self._feed.close()
            if not self._thread.is_alive() or self._thread is threading.current_thread():
                return
            self._thread.join(_JOIN_SECONDS / _CLOSINGS)
            if not self._thread.is_alive():
                return

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            self._read_until_end()
        except Stopped:
            pass
        except BaseException as raised:
            error = raised
        handler = self._handler()
        if handler is not None:
            handler.ended(self, error)

    def _read_until_end(self) -> None:
        tries = 0
        began = time.monotonic()
        while not self.stopped:
            self._seen = False
            lost = self._read_connection()
            if lost is None or self.stopped:
                return
            if self._seen:
                tries, began = 0, time.monotonic()
            if tries >= self._reconnect.tries:
                raise FeedError(
                    f"The feed could not be reached in {tries} tries ({time.monotonic() - began:.1f} s), so it is "
                    f"given up. The last one failed with {type(lost).__name__}: {lost}. Call `fit` again when the "
                    "feed is back; `Reconnect(tries=..., max_delay=...)` makes it wait longer."
                ) from lost
            tries += 1
            delay = self._reconnect.delay(tries, self._rng)
            handler = self._handler()
            if handler is None:
                return
            handler.disconnected(lost, tries, delay)
            del handler
            self._stop.wait(delay)

    def _read_connection(self) -> BaseException | None:
        """Reads one connection; returns what cut it off, or None if the feed has ended."""
        stream: Any = None
        try:
            stream = iter(self._feed.stream())
            item = next(stream)
            while True:
                arrived = time.perf_counter()
                action = self._answer(item)
                self._latency.add(time.perf_counter() - arrived)
                item = stream.send(action) if _takes_actions(stream) else next(stream)
        except StopIteration:
            return None
        except _Ours as ours:
            if isinstance(ours.error, StopIteration):  # such as a boundary function's; it would look like the end
                raise RuntimeError("Whoever answers the feed raised StopIteration.") from ours.error
            raise ours.error from ours.error.__cause__
        except self._reconnect.on as lost:
            return lost
        except BaseException:
            if self.stopped:
                return None  # what a feed raises that is closed while it waits
            raise
        finally:
            close = getattr(stream, "close", None)
            if close is not None:
                with contextlib.suppress(*self._reconnect.on):
                    close()

    def _answer(self, item: Any) -> Any:
        handler = self._handler()
        try:
            if handler is None or self.stopped:
                raise Stopped
            return handler.exchange(self, item, first=not self._seen)
        except BaseException as error:
            # Told apart from what the feed raises: a full disk is no lost connection.
            raise _Ours(error) from error
        finally:
            self._seen = True


def _takes_actions(stream: Any) -> bool:
    """Whether something can be sent: not to a plain iterator, nor to a generator in a ``yield from`` of one."""
    while (inner := getattr(stream, "gi_yieldfrom", None)) is not None:
        stream = inner
    return hasattr(stream, "send")


class _Ours(Exception):
    """Wraps what was raised while an observation was answered."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
