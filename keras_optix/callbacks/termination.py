"""Ends `fit` in order when the process is told to end (SIGTERM), as a machine is before it is taken away."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from keras_optix.experience.interrupts import INTERRUPTS

_PATIENCE_SECONDS = 3.0  # what the step that runs gets to end, and then again what the main thread gets to notice
_CODE = 128 + signal.SIGTERM


class TerminatedError(SystemExit):
    """The process was told to end while `fit` ran. Like any `SystemExit` it ends the program, here with the code 143.

    Args:
        between_steps: Whether the run is between two of its windows (epochs), so that it can be saved.
    """

    def __init__(self, between_steps: bool) -> None:
        super().__init__(_CODE)
        self.between_steps = between_steps


class Termination:
    """Handles SIGTERM while `fit` runs in the main thread.

    The first signal only notes that the run should end, which it does after the window (epoch) that runs. If that takes
    longer than three seconds, or with a second signal, `fit` is left wherever it is in Python, as with Ctrl-C. If even
    that is not possible, because the main thread does not return from a library, the process ends at once.

    Args:
        is_running: Whether the `fit` has not ended. Keras does not say when the `fit` of an ordinary model fails; the
            next one then handles the signal. Defaults to one that always runs.

    Attributes:
        asked: Whether the process was told to end.
    """

    def __init__(self, is_running: Callable[[], bool] = lambda: True) -> None:
        self.asked = False
        self._is_running = is_running
        self._process = os.getpid()
        self._before: Any = None
        self._installed = self._left = False
        self._ended = threading.Event()

    def begin(self) -> None:
        """Handles the signal from now on, if this is the main thread and the program does not ignore the signal."""
        if threading.current_thread() is not threading.main_thread():
            return
        before = signal.getsignal(signal.SIGTERM)
        other = getattr(before, "__self__", None)
        if isinstance(other, Termination):
            if other._is_running():
                return  # the `fit` around this one
            other.end()
            before = signal.getsignal(signal.SIGTERM)
        if before is not None and before != signal.SIG_IGN:
            self._before, self._installed = before, True
            signal.signal(signal.SIGTERM, self._handle)
            INTERRUPTS.ending.add(signal.SIGTERM)

    def leave_if_asked(self) -> None:
        """Leaves `fit` after a window (epoch), if the process was told to end.

        Raises:
            TerminatedError: It was.
        """
        if self.asked and not self._left:
            self._left = True
            raise TerminatedError(between_steps=True)

    def end(self) -> None:
        """Handles the signal as before this `fit`; and if it came during the `fit`, does now what it would have done.

        By default the process ends here, by the signal, with its daemonic child processes. A handler of the program is
        called.
        """
        self._ended.set()
        if not self._installed:
            return
        self._installed = False
        INTERRUPTS.ending.discard(signal.SIGTERM)
        signal.signal(signal.SIGTERM, self._before)
        if self.asked:
            if self._before == signal.SIG_DFL:
                _end_children()
                for stream in (sys.stdout, sys.stderr):
                    stream.flush()
            signal.raise_signal(signal.SIGTERM)

    def _handle(self, number: int, frame: Any) -> None:
        if os.getpid() != self._process:  # a worker that was forked during the `fit`
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
            return
        if not self.asked:
            self.asked = True
            threading.Thread(target=self._insist, name="keras_optix_termination", daemon=True).start()
        elif not self._left:
            self._left = True
            raise TerminatedError(between_steps=False)

    def _insist(self) -> None:
        """Sends the signal again if `fit` does not end, and ends the process if the main thread does not react."""
        if self._ended.wait(_PATIENCE_SECONDS) or self._left:
            return
        os.kill(self._process, signal.SIGTERM)
        if self._ended.wait(_PATIENCE_SECONDS) or self._left:
            return
        _end_children()
        os._exit(_CODE)


def _end_children() -> None:
    """Ends daemonic child processes, as Python does when a process exits in the usual way."""
    children = [child for child in multiprocessing.active_children() if child.daemon]
    for child in children:
        child.kill()
    for child in children:
        child.join(1.0)
