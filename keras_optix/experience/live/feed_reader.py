"""Runs the thread that reads a live feed: it takes observations, sends actions, and reconnects after a disconnect."""

from __future__ import annotations

import contextlib
import random
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Protocol

from keras_optix.clock import MACHINE, Clock
from keras_optix.errors import FeedError
from keras_optix.experience.live.feeds import ClosableFeed, Feed, Reconnect
from keras_optix.experience.live.latency import LatencyMeter

_JOIN_SECONDS = 0.5
_CLOSINGS = 2  # the first call may come while the feed connects, before there is something to close


class FeedHandler(Protocol):
    """Answers the observations of a feed; called by the reader's thread."""

    def exchange(self, reader: FeedReader, item: Any, *, first: bool) -> Any:
        """Returns the action for an item of the feed.

        Args:
            reader: The reader that calls. A reader that was stopped gets no answer.
            item: The item that the feed yielded.
            first: Whether a connection begins with this item.

        Raises:
            Stopped: The reader was stopped.
        """
        ...

    def disconnected(self, error: BaseException, tries: int, delay: float) -> None:
        """Notes that a connection was lost, or that a try to connect failed.

        Args:
            error: The reason.
            tries: The number of the next try in a row; 1 if the connection was stable, see `Reconnect`.
            delay: Seconds until the next try.
        """
        ...

    def ended(self, reader: FeedReader, error: BaseException | None) -> None:
        """Notes that the reader has ended, because the feed ended (None) or because of an error."""
        ...


class Stopped(Exception):
    """The reader was stopped while it waited."""


class FeedReader:
    """Reads a feed in a thread until it ends or `stop` is called.

    The reader does not keep its handler alive. It stops when the handler is deleted.

    Args:
        feed: The feed.
        handler: Answers the observations.
        reconnect: How to connect again after a disconnect.
        latency: Receives the seconds from each observation to its action.
        seed: The seed of the jitter.
        clock: Measures how long connections last, and waits between tries. Defaults to the clock of the machine.
    """

    def __init__(
        self,
        feed: Feed,
        handler: FeedHandler,
        reconnect: Reconnect,
        latency: LatencyMeter,
        seed: int | None = None,
        clock: Clock = MACHINE,
    ) -> None:
        self._feed = feed
        self._handler: Callable[[], FeedHandler | None] = weakref.ref(handler)
        self._reconnect = reconnect
        self._latency = latency
        self._rng = random.Random(seed)
        self._stop = threading.Event()
        self._clock = clock
        self._since: float | None = None  # when this connection gave its first observation
        # A daemon, because a feed that cannot be closed may wait for ever, and must not keep the process alive.
        self._thread = threading.Thread(target=self._run, name="keras_optix_feed", daemon=True)

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stop.is_set()

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Closes the feed, and waits for half a second at most until the thread has ended.

        If the thread is still alive after half of this time, `close` is called a second time.
        """
        if self._stop.is_set():
            return
        self._stop.set()
        for _ in range(_CLOSINGS):
            if isinstance(self._feed, ClosableFeed):
                with contextlib.suppress(*self._reconnect.on):  # closing a broken connection may fail
                    self._feed.close()
            if not self._thread.is_alive() or self._thread is threading.current_thread():
                return
            self._thread.join(_JOIN_SECONDS / _CLOSINGS)
            if not self._thread.is_alive():
                return

    @property
    def running(self) -> bool:
        """Whether the thread that reads the feed is still alive."""
        return self._thread.is_alive()

    def wait(self, timeout: float) -> bool:
        """Waits until the thread has ended, without asking it to end.

        Args:
            timeout: The longest wait in seconds.

        Returns:
            Whether it has ended.
        """
        self._thread.join(timeout)
        return not self.running

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
        tries = reached = 0
        began = self._clock.monotonic()
        while not self.stopped:
            self._since = None
            lost = self._read_connection()
            if lost is None or self.stopped:
                return
            now = self._clock.monotonic()
            if self._since is not None and now - self._since >= self._reconnect.stable_seconds(tries):
                tries, reached, began = 0, 0, now
            elif tries and self._since is not None:
                reached += 1
            if tries >= self._reconnect.tries:
                raise _given_up(lost, tries, reached, now - began) from lost
            tries += 1
            delay = self._reconnect.delay(tries, self._rng)
            handler = self._handler()
            if handler is None:
                return
            handler.disconnected(lost, tries, delay)
            del handler
            self._clock.wait(self._stop, delay)

    def _read_connection(self) -> BaseException | None:
        """Reads one connection; returns the error that ended it, or None if the feed has ended."""
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
            # A StopIteration from our side, such as from a boundary function, would look like the end of the feed.
            if isinstance(ours.error, StopIteration):
                raise RuntimeError("StopIteration was raised while an item of the feed was answered.") from ours.error
            raise ours.error from ours.error.__cause__
        except self._reconnect.on as lost:
            return lost
        except BaseException:
            if self.stopped:
                return None  # a feed that is closed while it waits may raise anything
            raise
        finally:
            close = getattr(stream, "close", None)
            if close is not None:
                with contextlib.suppress(*self._reconnect.on):
                    close()

    def _answer(self, item: Any) -> Any:
        handler, first = self._handler(), self._since is None
        if first:
            self._since = self._clock.monotonic()
        try:
            if handler is None or self.stopped:
                raise Stopped
            return handler.exchange(self, item, first=first)
        except BaseException as error:
            # Wrapped, to distinguish it from errors of the feed: a full disk is not a lost connection.
            raise _Ours(error) from error


def _takes_actions(stream: Any) -> bool:
    """Returns whether a stream accepts `send`: a plain iterator does not, nor a generator that delegates to one."""
    while (inner := getattr(stream, "gi_yieldfrom", None)) is not None:
        stream = inner
    return hasattr(stream, "send")


def _given_up(lost: BaseException, tries: int, reached: int, seconds: float) -> FeedError:
    """Returns the error for a feed that is not tried again."""
    more = "to wait longer, give `reconnect=Reconnect(tries=..., max_delay=...)`"
    if not reached:
        problem = f"The feed could not be reached in {tries} tries ({seconds:.1f} s)."
        fix = f"Call `fit` again when the feed can be reached; {more}."
    else:
        problem = (
            f"The feed broke again and again: {reached} connections in {tries} tries ({seconds:.1f} s), none of which "
            "lasted long enough to be stable."
        )
        fix = f"Call `fit` again when the feed is stable; {more}, and to accept short connections, `stable_after=...`."
    return FeedError(f"{problem} The last try failed with {type(lost).__name__}: {lost}. {fix}")


class _Ours(Exception):
    """Wraps an error that was raised while an observation was answered."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
