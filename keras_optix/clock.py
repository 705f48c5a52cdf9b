"""The clock by which a live feed is read; a test or a simulation can give another one."""

from __future__ import annotations

import threading
import time
from typing import Final, Protocol


class Clock(Protocol):
    """Tells the time, and waits."""

    def monotonic(self) -> float:
        """Returns seconds since some moment; it never goes back."""
        ...

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Waits until an event is set, but at most so many seconds; returns whether it is set."""
        ...


class MachineClock:
    """The clock of the machine."""

    def monotonic(self) -> float:
        """See `Clock`."""
        return time.monotonic()

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """See `Clock`."""
        return event.wait(seconds)


MACHINE: Final = MachineClock()
