"""Tells TensorFlow, before it starts, where XLA finds what an earlier process compiled; see `agents/compile_cache.py`.

TensorFlow reads these flags once, when the first network is built. So they are set when the package is imported, which
costs no time: the folder that they name is filled by the first agent.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import sys
import tempfile

VARIABLE = "KERAS_OPTIX_COMPILE_CACHE"
OFF = "off"
PREFIX = "keras_optix_compiled_"  # of the names of private folders; the number of the process follows

_FLAGS = "TF_XLA_FLAGS"
_DIRECTORY = "--tf_xla_persistent_cache_directory"
_DEVICES = "--tf_xla_persistent_cache_device_types=CPU"
_MEMORY = "/dev/shm"  # a folder in memory, on Linux
_FREE = 96 * 2**20  # bytes that must be free where the private folder is


def set_flags() -> str | None:
    """Sets the flags, unless the cache is switched off, or the user has given TensorFlow a cache.

    Returns:
        The private folder of this process, which is not made yet; None if there is none.
    """
    flags = _without_ours(os.environ.get(_FLAGS, ""))
    if os.environ.get(VARIABLE, "").lower() == OFF or _DIRECTORY in flags or sys.platform != "linux":
        return None
    place = _place()
    if place is None:
        return None
    folder = os.path.join(place, f"{PREFIX}{os.getpid()}_{secrets.token_hex(4)}")
    os.environ[_FLAGS] = f"{flags} {_DIRECTORY}={folder} {_DEVICES}".strip()
    return folder


def _place() -> str | None:
    """Returns where the private folder is made: in memory, which does not fill up with the disk. None without space."""
    for folder in (_MEMORY, tempfile.gettempdir()):
        with contextlib.suppress(OSError):
            if os.access(folder, os.W_OK) and shutil.disk_usage(folder).free >= _FREE:
                return folder
    return None


def _without_ours(flags: str) -> str:
    """Returns flags without those that a parent process has set for a private folder of its own."""
    ours = [flag for flag in flags.split() if flag.startswith(_DIRECTORY) and PREFIX in flag]
    return " ".join(flag for flag in flags.split() if flag not in (*ours, _DEVICES)) if ours else flags


FOLDER = set_flags()
