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


class EnvThread:
    """Runs calls one after the other in one thread, which begins with the first call.

    It is a daemon thread: a call that never returns does not keep the process alive.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def submit(self, call: Callable[[], Any]) -> Future[Any]:
        """Runs a call after those that were submitted before.

        Args:
            call: What to call. The thread keeps no reference to it afterwards.

        Returns:
            The result or the error of the call, once it has returned.
        """
        if self._thread is None:
            # Not a method of this object, so that the thread does not keep it alive.
            self._thread = threading.Thread(target=_run, args=(self._jobs,), name="keras_optix_envs", daemon=True)
            self._thread.start()
        future: Future[Any] = Future()
        self._jobs.put((call, future))
        return future

    def stop(self) -> None:
        """Ends the thread after the calls that were submitted, without waiting; a later call begins another thread."""
        jobs, self._jobs, self._thread = self._jobs, queue.SimpleQueue(), None
        jobs.put(None)


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


def _run(jobs: queue.SimpleQueue[Job | None]) -> None:
    while (job := jobs.get()) is not None:
        call, future = job
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)
        # While the thread waits for the next job, it must keep no environments alive.
        del job, call, future
