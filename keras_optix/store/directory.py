"""The lock of a checkpoint directory, and the check whether the directory can be written."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from keras_optix.errors import DirectoryError, describe
from keras_optix.store.files import make_folder
from keras_optix.store.processes import this_process

_LOCK = ".lock"
LOCK_SECONDS = 60.0


def check_writable(directory: Path) -> None:
    """Makes a directory if it does not exist, and checks that files can be created in it.

    Raises:
        DirectoryError: That is not possible.
    """
    try:
        make_folder(directory)
        probe = directory / f".write-test-{this_process().tag}-{secrets.token_hex(4)}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise DirectoryError(
            describe(
                f"The checkpoint directory cannot be written: {error}.",
                fix="Give a directory that you may write to.",
                directory=str(directory),
            )
        ) from error


def refuse_other_kinds(path: Path) -> None:
    """Refuses a lock file that is a link, which may lead to any file, or a pipe or a device.

    Raises:
        OSError: `path` is one of these.
    """
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise OSError(f"{path.name} is not a regular file")


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Holds the lock of a directory. The system frees the lock of a process that was killed.

    Raises:
        DirectoryError: The lock cannot be had, or what is done under it cannot be written.
    """
    try:
        make_folder(directory)  # someone may have removed it during the run
        refuse_other_kinds(directory / _LOCK)
        # A new lock object each time lets a registry be copied, and used by several threads.
        lock = FileLock(directory / _LOCK)
        with lock.acquire(timeout=LOCK_SECONDS, poll_interval=0.005):
            yield
    except Timeout as error:
        raise DirectoryError(
            describe(
                f"Another process has held the checkpoint directory for {LOCK_SECONDS:g} seconds.",
                fix="Look for a process that hangs, or give another directory.",
                directory=str(directory),
            )
        ) from error
    except (OSError, NotImplementedError) as error:  # the latter: a file system without locks
        raise DirectoryError(
            describe(f"The checkpoint directory could not be written: {error}.", directory=str(directory))
        ) from error
