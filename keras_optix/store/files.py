"""Writes files atomically, and reads and writes files of arrays without pickle."""

from __future__ import annotations

import contextlib
import os
import secrets
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_optix.errors import RegistryError, describe

Arrays = Mapping[str, np.ndarray]  # weights, optimizer slots, statistics: arrays by name
Saved = tuple[dict[str, np.ndarray], Any]  # arrays by name, and the part for JSON: a state or JSON values
UNREADABLE = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile)  # errors from a damaged file of arrays


def prefixed(prefix: str, arrays: Arrays) -> dict[str, np.ndarray]:
    """Returns the arrays with `prefix` added to their names."""
    return {prefix + name: array for name, array in arrays.items()}


def under(prefix: str, arrays: Arrays) -> dict[str, np.ndarray]:
    """Returns the arrays whose names begin with `prefix`, with the prefix removed."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Reads a file of arrays by name, without pickle; raises one of `UNREADABLE` if it is missing or damaged."""
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def write_arrays(target: Path, arrays: Mapping[str, Any]) -> None:
    """Writes a file of arrays atomically; `read_arrays` reads it.

    Raises:
        RegistryError: An array holds Python objects, which only pickle could write.
        OSError: The file cannot be written.
    """
    plain = {name: np.asanyarray(array) for name, array in arrays.items()}
    objects = sorted(name for name, array in plain.items() if array.dtype.hasobject)
    if objects:
        raise RegistryError(
            describe("Arrays of Python objects cannot be saved.", fix="Give arrays of numbers.", objects=objects)
        )
    # `allow_pickle=False` is not passed, because an older NumPy would save it as an array of that name.
    write_atomically(target, lambda file: np.savez(file, **plain))


def write_atomically(target: Path, write: Any) -> None:
    """Writes to a temporary file beside `target`, flushes it to the disk and renames it over `target`."""
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    """Makes a rename survive a power failure, on systems that can open folders (not on Windows)."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        with contextlib.suppress(OSError):  # some file systems do not sync folders
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
