"""A lease on a run: the one process that holds it continues the run and writes its resume points.

The lease is a lock of the operating system (`flock` on Linux and macOS, `msvcrt.locking` on Windows), so it ends with
the process, however that ends: there is nothing to clean up after a kill. Over NFS, `flock` is passed to the server,
which frees it once it knows that the client is gone; where a file system has no locks at all, the run goes on without a
lease, and a notice says so. Who holds it is written beside the lock, for the message to another process.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from pathlib import Path

from filelock import FileLock, Timeout

from keras_optix.errors import DirectoryError, RegistryError, describe
from keras_optix.states import Finite, Positive, State, read_state
from keras_optix.store.directory import refuse_other_kinds
from keras_optix.store.files import UNREADABLE, make_folder, parse_json, read_bytes, write_atomically

_LOCK = ".lease"
_HOLDER = "lease.json"


class LeaseHolder(State, frozen=True):
    """The process that holds a lease.

    Attributes:
        pid: Its number.
        host: Name of its machine.
        since: When it took the lease, as Unix time in seconds.
    """

    pid: Positive
    host: str
    since: Finite

    def __str__(self) -> str:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        who = "this process" if (self.pid, self.host) == (os.getpid(), socket.gethostname()) else f"process {self.pid}"
        return f"{who} on {self.host}, since {when}"


class Lease:
    """The right to continue a run, for one process at a time.

    Args:
        folder: The folder of the run.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock: FileLock | None = None

    @property
    def is_held(self) -> bool:
        """Whether this object holds the lease."""
        return self._lock is not None

    def take(self) -> bool:
        """Takes the lease; returns whether it was free.

        Raises:
            DirectoryError: The lease cannot be had because files cannot be written, or cannot be locked.
        """
        if not self._lock_it():
            return False
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}
        with contextlib.suppress(OSError):  # it is only for a message
            write_atomically(self._folder / _HOLDER, lambda file: file.write(json.dumps(holder).encode()))
        return True

    def _lock_it(self) -> bool:
        try:
            make_folder(self._folder)
            refuse_other_kinds(self._folder / _LOCK)
            # Any thread may release it.
            lock = FileLock(self._folder / _LOCK, thread_local=False)
            lock.acquire(timeout=0)
        except Timeout:
            return False
        except (OSError, NotImplementedError) as error:
            problem = f"The run cannot be reserved for this process: {error}."
            raise DirectoryError(describe(problem, folder=str(self._folder))) from error
        self._lock = lock
        return True

    @property
    def is_taken(self) -> bool:
        """Whether any process holds the lease now. False where there are no locks."""
        if self.is_held:
            return True
        if not (self._folder / _LOCK).exists():
            return False
        with contextlib.suppress(DirectoryError):
            if not self._lock_it():
                return True
            self._unlock()
        return False

    def holder(self) -> LeaseHolder | None:
        """Returns the latest holder, or None if it is not known."""
        with contextlib.suppress(*UNREADABLE, RuntimeError):  # it is only for a message
            return read_state(LeaseHolder, parse_json(read_bytes(self._folder / _HOLDER)), "holder of the run")
        return None

    def release(self) -> None:
        """Gives the lease back. If it is not held, nothing happens."""
        if self.is_held:
            with contextlib.suppress(OSError):
                (self._folder / _HOLDER).unlink(missing_ok=True)
            self._unlock()

    def _unlock(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            with contextlib.suppress(OSError):
                lock.release()  # the file of the lock stays: another process may have opened it just now


def refusal(folder: Path) -> RegistryError:
    """Returns the error for a run that another process continues."""
    holder = Lease(folder).holder()
    who = "another process" if holder is None else str(holder)
    return RegistryError(
        describe(
            f"The run to resume is running: {who}.",
            fix='Wait for its end, give another directory, or begin a run of its own with resume="if_free".',
            run_id=folder.name,
        )
    )
