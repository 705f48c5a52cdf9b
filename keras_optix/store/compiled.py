"""Keeps what XLA compiled, for the next process: files in the user's cache folder, each with a checksum.

XLA reads and writes its cache by itself, and fails where a file is damaged or the disk is full. So it gets a private
folder with copies of entries that are whole (`PrivateCopy`), in memory where possible, and what it adds there is stored
afterwards. Nothing that goes wrong with the stored entries reaches it.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import stat
from pathlib import Path

from keras_optix.store.files import open_regular, write_atomically
from keras_optix.xla_flags import PREFIX

LOGGER = logging.getLogger("keras_optix")

_MAGIC = b"keras_optix compiled 1\n"
_DIGEST = 32  # bytes
_LARGEST = 64 * 2**20  # bytes of all entries together; a compiled train step has about one million
_SUFFIX = ".compiled"


class CompiledStore:
    """The entries in a folder. No method raises an `OSError`: a cache that cannot be used is as good as an empty one.

    Args:
        folder: The folder. It is made when the first entry is stored.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self) -> dict[str, bytes]:
        """Returns all entries by name, the latest first until they have 64 MiB together. Damaged ones are removed."""
        found: dict[str, bytes] = {}
        if not _is_private(self.folder):
            return found
        left = _LARGEST
        for path in self._by_age():
            data = _payload(path)
            if data is None:
                LOGGER.debug("A compiled step in the cache is damaged, and was thrown away: %s", path)
                with contextlib.suppress(OSError):
                    path.unlink()
                continue
            left -= len(data)
            if left < 0:
                break
            found[path.name.removesuffix(_SUFFIX)] = data
        return found

    def store(self, name: str, data: bytes) -> None:
        """Stores an entry, and removes the oldest ones where all of them have more than 64 MiB.

        Args:
            name: Its name, that of a file.
            data: Its contents.
        """
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not _is_private(self.folder):
                LOGGER.debug("Others may write in %s, so nothing that was compiled is kept there.", self.folder)
                return
            content = _MAGIC + _digest(data) + data
            write_atomically(self.folder / f"{name}{_SUFFIX}", lambda file: file.write(content))
            self._drop_oldest()
        except OSError as error:
            LOGGER.debug("A compiled step could not be kept: %s", error)

    def use(self, name: str) -> None:
        """Notes that an entry was used, so that it is not among the oldest."""
        with contextlib.suppress(OSError):
            os.utime(self.folder / f"{name}{_SUFFIX}")

    def _by_age(self) -> list[Path]:
        """Returns the files, the latest first."""
        dated: list[tuple[float, Path]] = []
        with contextlib.suppress(OSError):
            for path in self.folder.glob(f"*{_SUFFIX}"):
                with contextlib.suppress(OSError):
                    dated.append((path.stat().st_mtime, path))
        return [path for _, path in sorted(dated, reverse=True)]

    def _drop_oldest(self) -> None:
        left = _LARGEST
        for path in self._by_age():
            with contextlib.suppress(OSError):
                left -= path.stat().st_size
                if left < 0:
                    path.unlink()


class PrivateCopy:
    """A folder of this process with the entries of a store, which XLA reads and adds to.

    Args:
        store: The store.
        folder: The private folder, which is made. Its name is that of `xla_flags`.

    Raises:
        OSError: It cannot be made or filled.
    """

    def __init__(self, store: CompiledStore, folder: Path) -> None:
        self._store, self.folder = store, folder
        self._process = os.getpid()
        _remove_orphans(folder.parent)
        folder.mkdir(mode=0o700)
        entries = store.load()
        for name, data in entries.items():
            (self.folder / name).write_bytes(data)
        self._known, self._unread = set(entries), set(entries)

    def pass_over(self) -> None:
        """Leaves out what has been added until now: it is not stored."""
        with contextlib.suppress(OSError):
            self._known.update(os.listdir(self.folder))

    def keep(self) -> None:
        """Stores what was added since, and notes what was read."""
        if os.getpid() != self._process:
            return  # in a child, which has the memory of its parent
        with contextlib.suppress(OSError):
            for path in self.folder.iterdir():
                if path.name in self._unread:
                    times = path.stat()
                    if times.st_atime_ns > times.st_mtime_ns:
                        self._unread.remove(path.name)
                        self._store.use(path.name)
                elif path.suffix == ".pb" and path.name not in self._known:
                    self._known.add(path.name)
                    self._store.store(path.name, path.read_bytes())

    def close(self) -> None:
        """Stores what was added, and removes the folder."""
        if os.getpid() == self._process:
            self.keep()
            shutil.rmtree(self.folder, ignore_errors=True)


def _remove_orphans(place: Path) -> None:
    """Removes the private folders of processes that were killed."""
    for folder in place.glob(f"{PREFIX}*"):
        number = folder.name.removeprefix(PREFIX).split("_")[0]
        # A process that still runs, but is not seen from here, loses nothing: XLA compiles what it does not find.
        if number.isdecimal() and _is_private(folder) and not Path(f"/proc/{number}").exists():
            shutil.rmtree(folder, ignore_errors=True)


def _is_private(folder: Path) -> bool:
    """Returns whether only this user can write in a folder: what is in it is run. False if there is none."""
    try:
        status = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022


def _payload(path: Path) -> bytes | None:
    """Returns the contents of an entry, or None if they are not what was stored."""
    try:
        with open_regular(path) as file:
            content = file.read(_LARGEST + 1)
    except OSError:
        return None
    begin = len(_MAGIC) + _DIGEST
    data = content[begin:]
    whole = content.startswith(_MAGIC) and content[len(_MAGIC) : begin] == _digest(data)
    return data if whole and len(content) <= _LARGEST else None


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_DIGEST).digest()
