"""The processes in which a vector environment of the user runs its environments: which is stuck or dead, and their end.

`gymnasium.vector.AsyncVectorEnv` has them, and any vector environment with a list `processes` in the manner of Python's
`multiprocessing`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import weakref
from collections.abc import Sequence
from multiprocessing import connection
from typing import Any

_KILL_SECONDS = 1.0  # what a process gets to end when it is told to, before it is killed

# Its arguments are the id of its parent and the ids of the workers. It ends when it is told to, or when its parent is
# gone, and then takes the workers with it. Where the system has handles for processes, an id that another process got
# meanwhile is not mistaken for the worker.
_GUARD = """
import os, select, signal, sys
parent, *workers = map(int, sys.argv[1:])
handles = {}
for pid in workers:
    try:
        handles[pid] = os.pidfd_open(pid)
    except AttributeError:
        handles[pid] = None
    except OSError:
        pass
while os.getppid() == parent:
    if select.select([0], [], [], 0.25)[0]:
        if os.read(0, 1):
            sys.exit()
        break
for pid, handle in handles.items():
    try:
        if handle is None:
            os.kill(pid, signal.SIGKILL)
        else:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
    except OSError:
        pass
"""


def workers_of(env: Any) -> Sequence[Any]:
    """Returns the processes of a vector environment; empty if it has none.

    Args:
        env: The vector environment, which may be wrapped.
    """
    try:
        found = env.unwrapped.processes
    except AttributeError:
        return ()
    alike = isinstance(found, list | tuple) and all(hasattr(one, "pid") and hasattr(one, "is_alive") for one in found)
    return found if alike else ()


def dead_worker(env: Any, patience: float = 0.0) -> int | None:
    """Returns the index of a process that has ended, although its environment is not closed; None if there is none.

    Args:
        env: The vector environment, which may be wrapped.
        patience: Seconds to wait for one to end: a pipe closes a moment before its process has ended.
    """
    if getattr(env.unwrapped, "closed", False):
        return None
    if patience:
        connection.wait([worker.sentinel for worker in workers_of(env)], patience)
    return next((index for index, worker in enumerate(workers_of(env)) if not worker.is_alive()), None)


def stuck_worker(env: Any) -> int | None:
    """Returns the index of an environment whose answer is being waited for; None if that is not known.

    The answers are read one after the other. Those that were read and those that have not come look alike, so the first
    environments without an answer may have been read; but the last of them was not, because its pipe is being read.
    """
    pipes = getattr(env.unwrapped, "parent_pipes", None)
    if not pipes:
        return None
    stuck = None
    for index, pipe in enumerate(pipes):
        try:
            if pipe is None or pipe.poll():
                break
        except OSError:
            break
        stuck = index
    return stuck


def end_workers(env: Any) -> None:
    """Ends the processes of a vector environment whether they answer or not, and marks it as closed.

    Args:
        env: The vector environment, which may be wrapped.
    """
    workers = workers_of(env)
    for worker in workers:
        worker.terminate()
    for worker in workers:
        worker.join(_KILL_SECONDS)
        if worker.is_alive():
            worker.kill()
            worker.join(_KILL_SECONDS)
    if workers:
        # Its own `close` would wait for the answers of the workers.
        env.unwrapped.closed = True


class WorkerGuard:
    """Ends the processes of a vector environment when this process ends, however it ends.

    A worker that waits for its simulator does not notice that nothing will ever ask it again. Python ends such
    processes when the interpreter exits in the usual way, but not when it is killed. So a small process watches this
    one.

    Args:
        env: The vector environment; nothing is done if it has no processes, or where the system has no process groups
            (Windows).
    """

    def __init__(self, env: Any) -> None:
        self._stop: Any = None
        workers = [str(worker.pid) for worker in workers_of(env) if worker.is_alive()]
        if not workers or os.name != "posix":
            return
        command = [sys.executable, "-S", "-E", "-c", _GUARD, str(os.getpid()), *workers]
        # In a session of its own, where Ctrl-C in the terminal does not end it first.
        guard = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        self._stop = weakref.finalize(self, _dismiss, guard, os.getpid())
        self._stop.atexit = False  # until the end of the process, there may be workers

    def stop(self) -> None:
        """Ends the guard: the environments were closed."""
        if self._stop is not None:
            self._stop()


def _dismiss(guard: subprocess.Popen[bytes], owner: int) -> None:
    if os.getpid() != owner or guard.stdin is None:
        return  # a copy of this process, made by a fork
    try:
        guard.stdin.write(b"x")
        guard.stdin.close()
    except OSError:
        pass  # it was ended from outside
    guard.wait()
