"""Records what a program does to the files of a folder: every operation that a power failure can lose or cut.

The functions of `os` and `io` are replaced while a trace is recorded, so that it holds what `pathlib`, `zipfile`, NumPy
and `filelock` do, too. Files and folders have numbers, because a file is the same file after it was renamed.
"""

from __future__ import annotations

import builtins
import contextlib
import io
import os
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

ROOT = 0  # the number of the folder that is watched


@dataclass(frozen=True)
class Create:
    """A file `node` is created as `name` in `folder`."""

    folder: int
    name: str
    node: int


@dataclass(frozen=True)
class MakeFolder(Create):
    """A folder `node` is made as `name` in `folder`."""


@dataclass(frozen=True)
class Rename:
    """`name` in `folder`, the file `node`, becomes `target` in the same folder, in place of what is there."""

    folder: int
    name: str
    target: str
    node: int


@dataclass(frozen=True)
class Unlink:
    """`name` is removed from `folder`."""

    folder: int
    name: str


@dataclass(frozen=True)
class Write:
    """Bytes are written to the file `node`."""

    node: int
    offset: int
    data: bytes


@dataclass(frozen=True)
class Truncate:
    """The file `node` is cut to `size` bytes."""

    node: int
    size: int


@dataclass(frozen=True)
class Sync:
    """`fsync` of the file `node`."""

    node: int


@dataclass(frozen=True)
class SyncFolder:
    """`fsync` of the folder `node`."""

    node: int


@dataclass(frozen=True)
class Said:
    """What the program has reported by then: `facts` replace those of the same names that it reported before."""

    facts: dict[str, Any]


Event = Create | Rename | Unlink | Write | Truncate | Sync | SyncFolder | Said


@dataclass
class Trace:
    """What was done in a folder.

    Attributes:
        folders: The contents of each folder before: numbers of files and folders by name.
        files: The bytes of each file before.
        events: What was done, in order.
    """

    folders: dict[int, dict[str, int]] = field(default_factory=lambda: {ROOT: {}})
    files: dict[int, bytes] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)

    def say(self, **facts: Any) -> None:
        """Notes what the program reports at this moment."""
        self.events.append(Said(facts))


class _Recorder:
    """Replaces the functions that change files, and notes their calls on files below a folder."""

    def __init__(self, root: Path) -> None:
        self.trace = Trace()
        self._root = os.path.realpath(root)
        self._paths: dict[str, int] = {self._root: ROOT}  # by absolute path, as they are now
        self.lock = threading.RLock()
        self._real = {name: getattr(os, name) for name in ("open", "fsync", "rename", "replace", "unlink", "mkdir")}
        self._real |= {"rmdir": os.rmdir, "io": io.open, "truncate": os.ftruncate}
        self._scan(self._root, ROOT)

    def _scan(self, path: str, node: int) -> None:
        for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
            number = self._number(entry.path)
            self.trace.folders[node][entry.name] = number
            if entry.is_dir(follow_symlinks=False):
                self.trace.folders[number] = {}
                self._scan(entry.path, number)
            else:
                self.trace.files[number] = Path(entry.path).read_bytes()

    def _number(self, path: str) -> int:
        """Gives a new file or folder a number, also if its path had one before."""
        self._count = getattr(self, "_count", ROOT) + 1
        self._paths[path] = self._count
        return self._count

    def inside(self, path: Any) -> str | None:
        """Returns the absolute path of what lies in the folder, else None."""
        if isinstance(path, int):
            return None
        whole = os.path.abspath(os.fspath(path))
        whole = os.path.join(os.path.realpath(os.path.dirname(whole)), os.path.basename(whole))
        return whole if isinstance(whole, str) and whole.startswith(self._root + os.sep) else None

    def _note(self, event: Event) -> None:
        self.trace.events.append(event)

    def _folder_of(self, path: str) -> tuple[int, str]:
        return self._paths[os.path.dirname(path)], os.path.basename(path)

    def _of_descriptor(self, descriptor: int) -> str:
        """Returns the path under which a file is open; a file is synced before it is renamed."""
        return os.readlink(f"/proc/self/fd/{descriptor}")

    def _created(self, path: str) -> int:
        number = self._number(path)
        self._note(Create(*self._folder_of(path), number))
        return number

    # What replaces the functions

    def open_descriptor(self, path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        inside = self.inside(path)
        with self.lock:
            missing = inside is not None and not os.path.lexists(inside)
            descriptor: int = self._real["open"](path, flags, *args, **kwargs)
            if missing and inside is not None:
                self._created(inside)
            return descriptor

    def open_file(self, file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        inside = self.inside(file)
        if inside is None or not set(mode) & set("wxa+"):
            return self._real["io"](file, mode, *args, **kwargs)
        if "b" not in mode or "+" in mode or "a" in mode:
            raise NotImplementedError(f"a file that is opened with mode {mode!r} is not traced")
        return io.BufferedWriter(io.FileIO(file, mode))

    def watch(self, raw: _TracedFile, path: str, *, missing: bool) -> None:
        """Notes that a file was opened for writing, and from now on what is written to it."""
        if missing:
            number = self._created(path)
        else:
            number = self._paths[path]
            self._note(Truncate(number, 0))
        raw.watch(number, self._note)

    def fsync(self, descriptor: Any) -> None:
        number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
        self._real["fsync"](number)
        path = self._of_descriptor(number)
        if path in self._paths:
            of_folder = stat.S_ISDIR(os.fstat(number).st_mode)
            node = self._paths[path]
            self._note(SyncFolder(node) if of_folder else Sync(node))

    def ftruncate(self, descriptor: int, size: int) -> None:
        self._real["truncate"](descriptor, size)
        path = self._of_descriptor(descriptor)
        if path in self._paths:
            self._note(Truncate(self._paths[path], size))

    def rename(self, source: Any, target: Any, **kwargs: Any) -> None:
        before, after = self.inside(source), self.inside(target)
        with self.lock:
            self._real["replace"](source, target, **kwargs)
            if before is None and after is None:
                return
            if before is None or after is None or os.path.dirname(before) != os.path.dirname(after):
                raise NotImplementedError(f"a rename from one folder to another is not traced: {source} to {target}")
            (folder, name), number = self._folder_of(before), self._paths.pop(before)
            self._paths[after] = number
            self._note(Rename(folder, name, os.path.basename(after), number))

    def unlink(self, path: Any, **kwargs: Any) -> None:
        inside = self.inside(path)
        with self.lock:
            self._real["unlink"](path, **kwargs)
            if inside is not None:
                self._note(Unlink(*self._folder_of(inside)))
                del self._paths[inside]

    def mkdir(self, path: Any, *args: Any, **kwargs: Any) -> None:
        inside = self.inside(path)
        with self.lock:
            self._real["mkdir"](path, *args, **kwargs)
            if inside is not None:
                self._note(MakeFolder(*self._folder_of(inside), self._number(inside)))

    def rmdir(self, path: Any, **kwargs: Any) -> None:
        if self.inside(path) is not None:
            raise NotImplementedError(f"the removal of a folder is not traced: {path}")
        self._real["rmdir"](path, **kwargs)


_FILE_IO = io.FileIO


class _TracedFile(_FILE_IO):
    """A file whose writes are noted. It takes the place of `io.FileIO`, so it is a class."""

    recorder: ClassVar[_Recorder]
    _note_event: Callable[[Event], None] | None = None
    _node = 0

    def __init__(self, file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> None:
        recorder = _TracedFile.recorder
        inside = recorder.inside(file) if set(mode) & set("wxa+") else None
        with recorder.lock:
            missing = inside is not None and not os.path.lexists(inside)
            super().__init__(file, mode.replace("b", ""), *args, **kwargs)
            if inside is not None:
                recorder.watch(self, inside, missing=missing)

    def watch(self, node: int, note: Callable[[Event], None]) -> None:
        self._node, self._note_event = node, note

    def write(self, data: Any) -> int:
        if self._note_event is None:
            return super().write(data)
        offset, data = self.tell(), bytes(data)
        written = super().write(data)
        self._note_event(Write(self._node, offset, data[:written]))
        return written

    def truncate(self, size: int | None = None) -> int:
        cut = super().truncate(size)
        if self._note_event is not None:
            self._note_event(Truncate(self._node, cut))
        return cut


@contextlib.contextmanager
def recorded(root: Path) -> Iterator[Trace]:
    """Records what is done below a folder; what is there already counts as safe.

    Args:
        root: The folder, which exists.
    """
    recorder = _TracedFile.recorder = _Recorder(root)
    replaced: list[tuple[Any, str, Any]] = [
        (os, "open", recorder.open_descriptor),
        (os, "fsync", recorder.fsync),
        (os, "fdatasync", recorder.fsync),
        (os, "ftruncate", recorder.ftruncate),
        (os, "rename", recorder.rename),
        (os, "replace", recorder.rename),
        (os, "unlink", recorder.unlink),
        (os, "remove", recorder.unlink),
        (os, "mkdir", recorder.mkdir),
        (os, "rmdir", recorder.rmdir),
        (io, "open", recorder.open_file),
        (io, "FileIO", _TracedFile),
        (builtins, "open", recorder.open_file),
    ]
    before = [(module, name, getattr(module, name)) for module, name, _ in replaced]
    try:
        for module, name, function in replaced:
            setattr(module, name, function)
        yield recorder.trace
    finally:
        for module, name, function in before:
            setattr(module, name, function)
