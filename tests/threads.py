"""Finds the threads that a test began. Those of an earlier test may still run: what it dropped is collected later."""

from __future__ import annotations

import threading
import time


class BegunThreads:
    """The threads of the library that began since this was made.

    Args:
        name: With what their names begin. Defaults to all threads of the library.
    """

    def __init__(self, name: str = "keras_optix") -> None:
        self._name = name
        self._before = set(self._alive())

    def _alive(self) -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name.startswith(self._name)]

    @property
    def running(self) -> list[threading.Thread]:
        """Those that still run."""
        return [thread for thread in self._alive() if thread not in self._before]

    def wait(self, seconds: float) -> list[threading.Thread]:
        """Waits for all of them to end, and returns those that still run after some seconds."""
        limit = time.monotonic() + seconds
        while self.running and time.monotonic() < limit:
            time.sleep(0.01)
        return self.running
