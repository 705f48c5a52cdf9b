"""A clock that goes only when it is told to, so that a test of hours takes milliseconds."""

from __future__ import annotations

import threading

from keras_optix.reprs import OneLineRepr


class ScriptedClock(OneLineRepr):
    """A clock for tests. A wait by it takes no time: the clock advances instead. It may be used by many threads.

    It has two times, as a machine has. `monotonic` only goes forward. `time` may be set, as by the administrator of a
    machine or the end of summer time.

    Args:
        start: The first value of `time`, Unix time in seconds. Defaults to the beginning of 2025.

    Attributes:
        waited: The seconds of each wait, in order.

    Examples:
        >>> clock = optix.testing.ScriptedClock(start=0.0)
    """

    def __init__(self, start: float = 1_735_689_600.0) -> None:
        self.waited: list[float] = []
        self._seconds = 0.0
        self._start = start
        self._lock = threading.Lock()

    def monotonic(self) -> float:
        """Returns the seconds since the clock was made."""
        return self._seconds

    def time(self) -> float:
        """Returns Unix time in seconds."""
        return self._start + self._seconds

    def advance(self, seconds: float) -> None:
        """Lets time pass.

        Args:
            seconds: Seconds, at least 0.

        Raises:
            ValueError: `seconds` is negative.
        """
        if seconds < 0.0:
            raise ValueError(f"Time does not go back. Received: seconds={seconds}. Use `jump` to set the other clock.")
        with self._lock:
            self._seconds += seconds

    def jump(self, seconds: float) -> None:
        """Sets `time` forward or (if negative) back; `monotonic` stays."""
        with self._lock:
            self._start += seconds

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Lets time pass instead of waiting, unless the event is set; returns whether it is set."""
        if not event.is_set():
            self.waited.append(seconds)
            self.advance(max(seconds, 0.0))
        return event.is_set()
