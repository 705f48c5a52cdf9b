"""Tells a thread that waits for environments of Ctrl-C, while the main thread waits for it inside TensorFlow.

Python runs the handlers of signals in the main thread only, and only between two of its own instructions. If a dataset
is transformed (`take`, `filter`), `fit` asks TensorFlow for a window, TensorFlow asks the collector in another thread,
and no handler runs until the window is there. What the operating system itself writes when a signal arrives is
read here, see `signal.set_wakeup_fd`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator

_PATIENCE_SECONDS = {signal.SIGINT: 0.0, signal.SIGTERM: 3.0}  # what the window gets to be completed


class Interrupts:
    """Notes the signals that arrive while `fit` runs in the main thread.

    There is one for the process, as there is one set of signals.

    Attributes:
        ending: The signals, beside Ctrl-C, whose handlers end `fit`.
    """

    def __init__(self) -> None:
        self.ending: set[int] = set()
        self._read: int | None = None
        self._since: dict[int, float] = {}  # when a signal was noticed that the main thread may not have handled

    @contextlib.contextmanager
    def noted(self) -> Iterator[None]:
        """Notes signals inside the context, if this is the main thread and no other code (`asyncio`) notes them."""
        if threading.current_thread() is not threading.main_thread() or self._read is not None:
            yield
            return
        read, write = os.pipe()
        for end in (read, write):
            os.set_blocking(end, False)
        other = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        if other == -1:
            self._read = read
        else:
            signal.set_wakeup_fd(other)
        try:
            yield
        finally:
            if other == -1:
                self._read = None
                signal.set_wakeup_fd(-1)
            os.close(read)
            os.close(write)
            self._since.clear()

    def forget(self) -> None:
        """Notes that the main thread runs Python code now, and has handled all signals so far."""
        if threading.current_thread() is threading.main_thread():
            self._take()
            self._since.clear()

    def check(self) -> None:
        """Raises in a thread for which the main thread waits what ends `fit`, if a signal should end it.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed, or the process was told to end some seconds ago.
        """
        if self._read is None or threading.current_thread() is threading.main_thread():
            return
        now = time.monotonic()
        for number in self._take():
            self._since.setdefault(number, now)
        for number, since in list(self._since.items()):
            if self._ends(number) and now - since >= _PATIENCE_SECONDS.get(signal.Signals(number), 0.0):
                raise KeyboardInterrupt

    def _ends(self, number: int) -> bool:
        # Another handler of the program need not end anything.
        default = number == signal.SIGINT and signal.getsignal(number) is signal.default_int_handler
        return default or number in self.ending

    def _take(self) -> bytes:
        try:
            return b"" if self._read is None else os.read(self._read, 1024)
        except OSError:  # nothing has arrived, or `fit` has just ended
            return b""


INTERRUPTS = Interrupts()
