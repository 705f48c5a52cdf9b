"""Resume points store the state of a run on disk, so that a crashed run can continue.

Parts of a run that grow, such as a replay buffer, have files of their own beside the points (see `increments`).

There are two files per run, ``<checkpoint_dir>/<run_id>/resume.npz`` and the point before it, ``resume.previous.npz``:
arrays by name and one JSON text, without pickle. A file is written under a temporary name, flushed to the disk and
renamed, so that a crash leaves the old file or the new one. If the newest point is damaged, the run continues from the
one before.
"""

from __future__ import annotations

import contextlib
import json
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_optix.errors import DirectoryError, RegistryError, StateError, describe
from keras_optix.states import State, read_state, to_json
from keras_optix.store.files import (
    UNREADABLE,
    Arrays,
    is_inside,
    make_folder,
    parse_json,
    prefixed,
    read_arrays,
    sync_folder,
    under,
    write_arrays,
)
from keras_optix.store.increments import Growing, Increments, Span
from keras_optix.store.registry import CheckpointRegistry

_FILE = "resume.npz"
_PREVIOUS = "resume.previous.npz"
_JSON = "json"
_GROWING = "growing/"  # begins the names of the arrays of growing parts
_GROWING_STATES = "growing"
_SCHEMA = 7


class GrowingState(State, frozen=True):
    """What a resume point holds of a growing part, in addition to arrays.

    Attributes:
        span: The files that hold its rows.
        values: JSON values.
    """

    span: Span
    values: Any


@dataclass(frozen=True)
class ResumePoint:
    """The saved state of a run.

    Attributes:
        path: The file of the resume point.
        arrays: Arrays by name.
        values: JSON values.
        growing: For each growing part, the files that hold its rows, and the rest of its state as JSON values.
    """

    path: Path
    arrays: Arrays
    values: Mapping[str, Any]
    growing: Mapping[str, GrowingState]

    @property
    def run_id(self) -> str:
        """The run that the resume point belongs to."""
        return self.path.parent.name

    def check_growing(self, parts: Mapping[str, Growing]) -> None:
        """Checks that `restore_growing` can restore these parts, without changing them.

        Raises:
            StateError: The run had other parts, or the state of one is damaged.
        """
        if set(parts) != set(self.growing):
            problem, fix = "The run to resume had other replay buffers.", "Use the same agents as before."
            raise StateError(describe(problem, fix=fix, saved=sorted(self.growing), now=sorted(parts)))
        for name, part in parts.items():
            part.check(under(f"{_GROWING}{name}/", self.arrays), self.growing[name].values)

    def restore_growing(self, parts: Mapping[str, Growing]) -> None:
        """Restores the growing parts of the run from their files."""
        files = Increments(self.path.parent)
        for name, part in parts.items():
            saved = self.growing[name]
            rows = files.read(name, saved.span)
            part.restore(rows, saved.span, under(f"{_GROWING}{name}/", self.arrays), saved.values)

    @property
    def fix(self) -> str:
        """Advice for messages, if the run cannot continue from this point."""
        return f"Delete {self.path.parent / 'resume*.npz'} to begin a new run; the snapshots stay."


class ResumeStore:
    """Writes and finds resume points beside the snapshots of a registry.

    Args:
        registry: The registry.
        interval: Seconds between two resume points; None writes no resume points.
    """

    def __init__(self, registry: CheckpointRegistry, interval: float | None) -> None:
        self._registry = registry
        self._interval = interval
        self._last = time.monotonic()
        self._began = time.time_ns()
        self._spans: Mapping[str, Span] | None = None  # what the last point needs; None if no point is known

    @property
    def writes(self) -> bool:
        """Whether resume points are written at all."""
        return self._interval is not None

    @property
    def due(self) -> bool:
        """Whether it is time to write a resume point."""
        return self._interval is not None and time.monotonic() - self._last >= self._interval

    def write(self, arrays: Arrays, values: Mapping[str, Any], growing: Mapping[str, Growing] | None = None) -> None:
        """Writes the resume point of the registry's run, and keeps the one before.

        Args:
            arrays: Arrays by name.
            values: JSON values.
            growing: The parts of the run that have files of their own, by name.

        Raises:
            DirectoryError: The file cannot be written.
        """
        path = self._registry.directory / str(self._registry.run_id) / _FILE
        parts = growing or {}
        files = Increments(path.parent)
        try:
            if not is_inside(path.parent, self._registry.directory):
                raise OSError("the folder of the run is a link that leads out of the directory")
            make_folder(path.parent)
            spans = files.write(parts)
            saved, states = dict(arrays), {}
            for name, part in parts.items():
                mine, rest = part.save()
                saved |= prefixed(f"{_GROWING}{name}/", mine)
                states[name] = to_json(GrowingState(spans[name], rest))
            text = json.dumps({"schema": _SCHEMA, **values} | ({_GROWING_STATES: states} if states else {}))
            saved[_JSON] = np.frombuffer(text.encode(), np.uint8)
            write_arrays(path, saved, keep=path.with_name(_PREVIOUS))
        except OSError as error:
            problem = f"The resume point could not be written: {error}."
            raise DirectoryError(describe(problem, path=str(path))) from error
        self._last = time.monotonic()
        before, self._spans = self._spans, spans
        if before is not None:  # those of the point that is the one before now
            with contextlib.suppress(OSError):  # it is tried again after the next point
                files.remove_before(before)

    def runs(self) -> list[Path]:
        """Returns the folders of the runs that have resume points, the one with the newest point first."""
        return list(dict.fromkeys(path.parent for path in self._paths()))

    def find(self, folder: Path) -> ResumePoint:
        """Returns the newest resume point of a run that can be read.

        If the newest is damaged, a warning names it and the one before.

        Args:
            folder: The folder of the run, one of `runs`.

        Raises:
            RegistryError: None of them can be read.
        """
        failed: list[tuple[Path, RegistryError]] = []
        for path in (path for path in self._paths() if path.parent == folder):
            try:
                point = _read(path)
            except RegistryError as error:
                if error.__cause__ is None:
                    raise  # it is whole, but of another version
                failed.append((path, error))
                continue
            if failed:
                damaged, problem = failed[0]
                warnings.warn(
                    f"The newest resume point is damaged ({problem.__cause__}): {damaged}. The run continues from the "
                    f"one before: {path}.",
                    stacklevel=2,
                )
            self._spans = {name: state.span for name, state in point.growing.items()}
            return point
        if failed:
            raise failed[0][1]
        raise RegistryError(describe("The run has no resume point.", folder=str(folder)))

    def clear(self, is_running: Callable[[Path], bool]) -> None:
        """Removes the resume points of a run that ended, and those of runs that were interrupted before it began.

        Args:
            is_running: Says of the folder of another run whether a process continues it; its points stay.

        Raises:
            OSError: A file cannot be removed.
        """
        mine = self._registry.run_id
        folders: set[Path] = set()
        for path in reversed(self._paths()):
            if path.parent.name == mine or (path.lstat().st_mtime_ns < self._began and not is_running(path.parent)):
                path.unlink(missing_ok=True)
                # Oldest first, and each on the disk before the next: an older point must not remain without the newest.
                sync_folder(path.parent)
                folders.add(path.parent)
        # They are removed last: a point that is still there needs them.
        for folder in folders:
            Increments(folder).clear()

    def _paths(self) -> list[Path]:
        """Returns the files of all resume points in the directory, newest first. Links out of it are not followed.

        Runs are ordered by their latest point. Within a run the names say which point is newer: the times of the files
        do not, because the time of day may have been set back between the two.
        """
        directory = self._registry.directory
        found: list[tuple[int, bool, Path]] = []
        for path in [*directory.glob(f"*/{_FILE}"), *directory.glob(f"*/{_PREVIOUS}")]:
            try:
                when = path.lstat().st_mtime_ns
            except OSError:  # it was removed just now
                continue
            if is_inside(path.parent, directory):
                found.append((when, path.name == _FILE, path))
        latest: dict[Path, int] = {}
        for when, _, path in found:
            latest[path.parent] = max(when, latest.get(path.parent, when))
        return [path for *_, path in sorted((latest[path.parent], path.parent, new, path) for _, new, path in found)][
            ::-1
        ]


def _read(path: Path) -> ResumePoint:
    """Reads a resume point.

    Raises:
        RegistryError: It cannot be read.
    """
    try:
        arrays = read_arrays(path)
        if _JSON not in arrays:
            raise ValueError("it has no JSON text")
        values = parse_json(arrays.pop(_JSON).tobytes())
        if not isinstance(values, dict):
            raise ValueError("its JSON text is no mapping")
    except UNREADABLE as error:
        raise _unreadable(path, str(error)) from error
    schema = values.pop("schema", None)
    if schema != _SCHEMA:
        raise _unreadable(path, f"schema {schema!r:.20} is not {_SCHEMA}")
    try:
        growing = read_state(dict[str, GrowingState], values.pop(_GROWING_STATES, {}), "resume point")
        Increments(path.parent).check({name: state.span for name, state in growing.items()})
    except (*UNREADABLE, StateError) as error:
        raise _unreadable(path, str(error)) from error
    return ResumePoint(path, arrays, values, growing)


def _unreadable(path: Path, why: str) -> RegistryError:
    problem, fix = f"The resume point cannot be read: {why}.", "Delete it to begin a new run; the snapshots stay."
    return RegistryError(describe(problem, fix=fix, path=str(path)))
