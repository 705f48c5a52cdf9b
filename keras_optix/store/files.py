"""Writes files atomically, and reads and writes files of arrays without pickle.

What is read may be damaged or forged. So nothing but a regular file is opened (a named pipe would block for ever, and a
link leads elsewhere), no size that a file claims is believed before it is compared with the size of the file, and
whatever goes wrong is one of `UNREADABLE`.
"""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import json
import math
import os
import secrets
import stat
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
from numpy.lib import format as npy

from keras_optix.errors import RegistryError, describe
from keras_optix.store.processes import this_process

Arrays = Mapping[str, np.ndarray]  # weights, optimizer slots, statistics: arrays by name
Saved = tuple[dict[str, np.ndarray], Any]  # arrays by name, and the part for JSON: a state or JSON values
UNREADABLE = (OSError, ValueError)  # what reading a missing, damaged or forged file raises
_DOES_NOT_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF)  # of folders
_NPY = ".npy"
_END = struct.Struct("<4s6xH10x")  # the last record of an archive: its mark, and the number of entries


def prefixed(prefix: str, arrays: Arrays) -> dict[str, np.ndarray]:
    """Returns the arrays with `prefix` added to their names."""
    return {prefix + name: array for name, array in arrays.items()}


def under(prefix: str, arrays: Arrays) -> dict[str, np.ndarray]:
    """Returns the arrays whose names begin with `prefix`, with the prefix removed."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def is_inside(path: Path, folder: Path) -> bool:
    """Returns whether a path lies in a folder when links are followed."""
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # a loop of links
        return False


def open_regular(path: Path) -> BinaryIO:
    """Opens a regular file for reading.

    Raises:
        OSError: The file is missing, cannot be read, or is a link, a pipe or a device.
    """
    if path.is_symlink():  # where the system cannot refuse this while it opens the file
        raise OSError(errno.ELOOP, "it is a symbolic link", str(path))
    flags = os.O_RDONLY
    for name in ("O_BINARY", "O_NOFOLLOW", "O_NONBLOCK"):  # not every system has each
        flags |= getattr(os, name, 0)
    descriptor = os.open(path, flags)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_bytes(path: Path) -> bytes:
    """Reads a regular file.

    Raises:
        OSError: The file is missing, cannot be read, or is a link, a pipe or a device.
    """
    with open_regular(path) as file:
        return file.read()


def parse_json(data: bytes) -> Any:
    """Reads JSON values, which may be damaged or forged.

    Raises:
        ValueError: The text is not JSON, or is nested too deeply.
    """
    try:
        return json.loads(data)
    except (RecursionError, MemoryError):
        raise ValueError("it is nested too deeply") from None


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Reads a file of arrays by name, without pickle.

    Raises:
        OSError: The file is missing, cannot be read, or is a link, a pipe or a device.
        ValueError: The file is damaged or forged.
    """
    with open_regular(path) as file:
        return arrays_in(file, os.fstat(file.fileno()).st_size)


def arrays_in(file: IO[bytes], size: int) -> dict[str, np.ndarray]:
    """Reads arrays by name from an open file, without pickle.

    Args:
        file: The file.
        size: Its size in bytes. No more is allocated than this.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is damaged or forged.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            _check_sizes(archive, size)
            _check_count(file, len(archive.infolist()))
            return {info.filename.removesuffix(_NPY): _read_array(archive, info) for info in archive.infolist()}
    except (OSError, _ForgedError):
        raise
    # The libraries that read archives and headers raise whatever a damaged field leads them to: KeyError, struct.error,
    # NotImplementedError, RuntimeError, MemoryError, RecursionError, SyntaxError and more.
    except Exception as error:
        raise ValueError(f"it is damaged, or no file of arrays ({type(error).__name__})") from error


class _ForgedError(ValueError):
    """The file claims what cannot be true."""


def _check_sizes(archive: zipfile.ZipFile, size: int) -> None:
    """Refuses an archive that would take more memory than it has bytes, or has a name twice."""
    entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise _ForgedError("it is compressed, which files of arrays never are")
    if sum(entry.file_size for entry in entries) > size:
        raise _ForgedError("its arrays claim to be larger than the file")
    if len({entry.filename for entry in entries}) < len(entries):
        raise _ForgedError("it has two arrays of one name")


def _check_count(file: IO[bytes], entries: int) -> None:
    """Refuses an archive whose list of arrays lacks one: nothing else says so if a length in the list is damaged."""
    file.seek(-_END.size, os.SEEK_END)
    mark, written = _END.unpack(file.read(_END.size))
    if mark != b"PK\x05\x06" or written != min(entries, 0xFFFF):
        raise _ForgedError("its list of arrays is damaged")


def _read_array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    name = entry.filename
    data = archive.read(entry)  # checks the checksum
    header = io.BytesIO(data)  # shares the bytes
    version = npy.read_magic(header)
    read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if read_header is None or not name.endswith(_NPY):
        raise _ForgedError(f"it has an entry that is no array: {name!r:.40}")
    shape, by_columns, dtype = read_header(header)
    begin = header.tell()
    if dtype.hasobject:
        raise _ForgedError(f"the array {name!r:.40} holds Python objects")
    if math.prod(shape) * dtype.itemsize != len(data) - begin:
        raise _ForgedError(f"the array {name!r:.40} claims another size than it has")
    flat = np.ndarray(shape, dtype, data, offset=begin, order="F" if by_columns else "C")
    return flat.copy(order="K")


def write_arrays(target: Path, arrays: Mapping[str, Any], *, keep: Path | None = None) -> None:
    """Writes a file of arrays atomically; `read_arrays` reads it.

    Args:
        target: The file.
        arrays: Arrays by name.
        keep: See `write_atomically`.

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
    write_atomically(target, lambda file: np.savez(file, **plain), keep=keep)


def write_atomically(target: Path, write: Any, *, keep: Path | None = None) -> None:
    """Writes to a temporary file beside `target`, flushes it to the disk and renames it over `target`.

    Args:
        target: The file.
        write: Called with the open temporary file.
        keep: Name that a file that is there already gets, instead of being replaced. None: it is replaced.

    Raises:
        OSError: The file cannot be written. Then `target` is what it was; only if the disk refuses to flush the folder,
            it may be the new file, which a power failure may take away again.
    """
    temporary = target.with_name(f".{target.name}.{this_process().tag}-{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if keep is not None:
            with contextlib.suppress(FileNotFoundError):
                target.replace(keep)
        temporary.replace(target)
    finally:
        with contextlib.suppress(OSError):  # the error that matters is the one before
            temporary.unlink(missing_ok=True)
    sync_folder(target.parent)


def make_folder(folder: Path) -> None:
    """Makes a folder, and those above it, if they do not exist, so that they survive a power failure.

    A file that is flushed to the disk is lost with the name of a folder above it that is not.

    Raises:
        OSError: A folder cannot be made.
    """
    missing = list(itertools.takewhile(lambda above: not above.is_dir(), [folder, *folder.parents]))
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing:
        sync_folder(made.parent)


def sync_folder(folder: Path) -> None:
    """Makes changes of the names in a folder survive a power failure, where folders can be opened (not on Windows).

    Raises:
        OSError: The disk has refused to. A file system that does not flush folders at all raises nothing.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _DOES_NOT_SYNC:
            raise
    finally:
        os.close(descriptor)
