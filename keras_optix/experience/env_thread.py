"""The thread in which environments are stepped, so that another thread can wait for them and stop waiting.

A call of an environment cannot be ended from outside: it may wait for a simulator that never answers. So the thread
that trains does not make such calls itself. It waits in Python, where Ctrl-C and other signals are handled.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

Job = tuple[Callable[[], Any], "Future[Any]"]

_IDLE_SECONDS = 1.0  # without a call, after which the thread ends


class EnvThread:
    """Runs calls one after the other in one thread, which begins with a call and ends a second after the last one.

    It is a daemon thread: a call that never returns does not keep the process alive.
    """

    def __init__(self) -> None:
        self._jobs = _Jobs()

    def submit(self, call: Callable[[], Any]) -> Future[Any]:
        """Runs a call after those that were submitted before.

        Args:
            call: What to call. The thread keeps no reference to it afterwards.

        Returns:
            The result or the error of the call, once it has returned.
        """
        future: Future[Any] = Future()
        self._jobs.put((call, future))
        return future

    def stop(self) -> None:
        """Ends the thread after the calls that were submitted, without waiting; a later call begins another thread."""
        jobs, self._jobs = self._jobs, _Jobs()
        jobs.put(None)


class _Jobs:
    """The calls of one thread. The thread refers to them only, so that it keeps no `EnvThread` alive."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._served = False  # by a thread

    def put(self, job: Job | None) -> None:
        """Adds a call, and begins a thread for it if there is none; None ends the thread."""
        with self._lock:
            self._queue.put(job)
            if self._served or job is None:
                return
            self._served = True
        threading.Thread(target=self._serve, name="keras_optix_envs", daemon=True).start()

    def _serve(self) -> None:
        while (job := self._next()) is not None:
            call, future = job
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(error)
            # While the thread waits for the next job, it must keep no environments alive.
            del job, call, future

    def _next(self) -> Job | None:
        try:
            return self._queue.get(timeout=_IDLE_SECONDS)
        except queue.Empty:
            with self._lock:
                # A call may have come in the meantime.
                self._served = not self._queue.empty()
                return self._queue.get() if self._served else None


class Progress:
    """Notes which call of an environment runs now, for the thread that waits for it.

    Attributes:
        place: ``(index, method)`` of the call that runs; None between calls.
        calls: The number of calls that have begun.
    """

    def __init__(self) -> None:
        self.place: tuple[int, str] | None = None
        self.calls = 0

    def noted(self, method: Callable[..., Any], index: int, name: str) -> Callable[..., Any]:
        """Returns a function that notes each call of a method of environment `index`, and else does the same."""
        place = (index, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            self.place = place
            try:
                return method(*args, **kwargs)
            finally:
                self.place = None

        return call
