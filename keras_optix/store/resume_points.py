"""Resume points store the state of a run on disk, so that a crashed run can continue.

There is one file per run, ``<checkpoint_dir>/<run_id>/resume.npz``: arrays by name and one JSON text, without pickle.
The file is written under a temporary name, flushed to the disk and renamed, so that a crash leaves the old file or the
new one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_optix.errors import RegistryError, describe
from keras_optix.store.files import UNREADABLE, Arrays, read_arrays, write_arrays
from keras_optix.store.registry import CheckpointRegistry

_FILE = "resume.npz"
_JSON = "json"
_SCHEMA = 5


@dataclass(frozen=True)
class ResumePoint:
    """The saved state of a run.

    Attributes:
        path: The file of the resume point.
        arrays: Arrays by name.
        values: JSON values.
    """

    path: Path
    arrays: Arrays
    values: Mapping[str, Any]

    @property
    def run_id(self) -> str:
        """The run that the resume point belongs to."""
        return self.path.parent.name

    @property
    def fix(self) -> str:
        """Advice for messages, if the run cannot continue from this point."""
        return f"Delete {self.path} to begin a new run; the snapshots stay."


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

    @property
    def writes(self) -> bool:
        """Whether resume points are written at all."""
        return self._interval is not None

    @property
    def due(self) -> bool:
        """Whether it is time to write a resume point."""
        return self._interval is not None and time.monotonic() - self._last >= self._interval

    def write(self, arrays: Arrays, values: Mapping[str, Any]) -> None:
        """Writes the resume point of the registry's run.

        Raises:
            RegistryError: The file cannot be written.
        """
        path = self._path(str(self._registry.run_id))
        text = json.dumps({"schema": _SCHEMA, **values})
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with_text = dict(arrays) | {_JSON: np.frombuffer(text.encode(), np.uint8)}
            write_arrays(path, with_text)
        except OSError as error:
            raise RegistryError(describe(f"The resume point could not be written: {error}.", path=str(path))) from error
        self._last = time.monotonic()

    def find(self) -> ResumePoint | None:
        """Returns the newest resume point in the directory, or None if no run was interrupted.

        Raises:
            RegistryError: The file cannot be read.
        """
        paths = sorted(self._registry.directory.glob(f"*/{_FILE}"), key=lambda path: path.stat().st_mtime_ns)
        if not paths:
            return None
        path = paths[-1]
        try:
            arrays = read_arrays(path)
            values = json.loads(arrays.pop(_JSON).tobytes().decode())
            schema = values.pop("schema")
            if schema != _SCHEMA:
                raise ValueError(f"schema {schema} is not {_SCHEMA}")
        except (*UNREADABLE, TypeError, AttributeError) as error:
            raise RegistryError(
                describe(
                    f"The resume point cannot be read: {error}.",
                    fix="Delete it to begin a new run; the snapshots stay.",
                    path=str(path),
                )
            ) from error
        return ResumePoint(path, arrays, values)

    def clear(self) -> None:
        """Removes the resume point of a run that ended, and those of runs that were interrupted before it began."""
        for path in self._registry.directory.glob(f"*/{_FILE}"):
            if path.parent.name == self._registry.run_id or path.stat().st_mtime_ns < self._began:
                path.unlink(missing_ok=True)

    def _path(self, run_id: str) -> Path:
        return self._registry.directory / run_id / _FILE
