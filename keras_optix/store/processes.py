"""Names the process that writes a file, and tells whether another one is still alive."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import socket
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

# Temporary files of this package. Those of older versions do not name their process.
_LEFT_OVER = re.compile(
    r"\.(?:write-test-|.+\.(?:json|npz|csv|hparams_start|hparams_end)\.)(?:(?P<machine>[0-9a-f]{8})-(?P<pid>[0-9]{1,10})-)?[0-9a-f]{8}"
)
_LEFT_OVER_SECONDS = 3600.0  # where the process is not known, a younger file may still be written


@dataclass(frozen=True)
class Process:
    """A process.

    Attributes:
        machine: Checksum of the host's name and of what separates its process numbers from others (a container).
        pid: Its number there.
    """

    machine: str
    pid: int

    @property
    def tag(self) -> str:
        """The part of a file's name that says which process writes it."""
        return f"{self.machine}-{self.pid}"

    @property
    def is_dead(self) -> bool:
        """Whether the process has certainly ended. False if it may run on another machine."""
        return self.machine == _machine() and not _is_alive(self.pid)


def this_process() -> Process:
    """Returns the process that calls this."""
    return Process(_machine(), os.getpid())


@functools.cache
def _machine() -> str:
    space = 0
    with contextlib.suppress(OSError):
        space = os.stat("/proc/self/ns/pid").st_ino
    return f"{zlib.crc32(f'{socket.gethostname()} {space}'.encode()):08x}"


def _is_alive(pid: int) -> bool:
    if os.name == "nt":
        return True  # a signal would end the process there, so files are removed by their age
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True  # it belongs to another user
    return True


def remove_left_over(directory: Path) -> None:
    """Removes temporary files in a directory and its folders whose processes were killed while they wrote.

    Args:
        directory: The directory.
    """
    root = directory.resolve()
    for path in [*directory.glob(".*"), *directory.glob("*/.*")]:
        found = _LEFT_OVER.fullmatch(path.name)
        if found is None:
            continue
        with contextlib.suppress(OSError):  # another process may have renamed it meanwhile
            known = found["machine"] is not None
            dead = known and Process(found["machine"], int(found["pid"])).is_dead
            old = path.lstat().st_mtime < time.time() - _LEFT_OVER_SECONDS
            if (dead or old) and not path.is_symlink() and path.is_file() and path.resolve().is_relative_to(root):
                path.unlink(missing_ok=True)
