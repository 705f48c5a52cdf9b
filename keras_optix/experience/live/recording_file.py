"""The file that a recording is: how it begins, its records, and what is in a chunk of items.

The file begins with `MAGIC` and the version of the format. After that it is only ever appended to, in records: a head
(`Head`, with checksums of itself and of the payload) and a payload. So a process that is killed leaves a file that can
be read up to its last whole record.

============ ===============================================================================================
record       payload
============ ===============================================================================================
``HEADER``   JSON: the spaces, the policy's carry if it has one, and when the recording began; the first record, and
             only that
``CHUNK``    items, and what was chosen for them, as arrays of an npz archive (see `encode_chunk`)
``WINDOW``   a window that closed: its id, rows and seed, version and fingerprint of the policy that acted in it; the
             items of it are in the records before this one
``DROPPED``  the id of a window that closed earlier and never reached the learner
============ ===============================================================================================
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from keras_optix.errors import ConfigurationError, StateError, describe
from keras_optix.experience.carry import Carry
from keras_optix.experience.observations import Leaves, ObservationLayout
from keras_optix.experience.savable import join_state, split_state
from keras_optix.states import Count, Positive, State, read_state

MAGIC = b"keras_optix recording\n"
VERSION = struct.Struct("<H")
FORMAT = 1
HEADER, CHUNK, WINDOW, DROPPED = b"H", b"C", b"W", b"D"
WINDOW_MARK = struct.Struct("<qqiiqI")
DROPPED_MARK = struct.Struct("<q")

_HEAD = struct.Struct("<cQII")
_CHECK = struct.Struct("<I")
_LEFT_OUT = object()
_PLAIN = frozenset({type(None), bool, int, float, str})

# (leaves, reward, terminated, truncated, info, first, seconds)
Item = tuple[Leaves, float, bool, bool, Any, bool, float]
# (place among the items of its batch, or -1 for the last one before it; choice, log-probability, version, carry)
Action = tuple[int, np.ndarray, float, int, Carry]


class Header(State, frozen=True):
    """What the first record of a recording says.

    Attributes:
        observation_space: What the feed's observations are, as JSON values.
        action_space: What the actions are, as JSON values.
        window_size: Rows of the arrays of a window, or None.
        started: When the recording began, as ISO 8601 has it.
        carry: Shape and dtype of each array of the policy's carry.
    """

    observation_space: dict[str, Any]
    action_space: dict[str, Any]
    window_size: Positive | None
    started: str
    carry: tuple[tuple[tuple[Count, ...], str], ...]


class ChunkInfos(State, frozen=True):
    """What JSON holds of the items of a chunk.

    Attributes:
        infos: Places of items and their infos, with references to arrays; see `split_state`.
        groups: For each array of the archive that has infos, the numbers of the arrays in it.
    """

    infos: tuple[tuple[Count, Any], ...]
    groups: tuple[tuple[Count, ...], ...]


class Head(NamedTuple):
    """The head of a record.

    Attributes:
        kind: What the record is.
        length: Bytes of the payload.
        items: How many items a chunk holds, so that they are counted without reading it.
        checksum: CRC-32 of the payload.
    """

    kind: bytes
    length: int
    items: int
    checksum: int


def record(kind: bytes, payload: bytes, items: int = 0) -> bytes:
    """The bytes of a record."""
    head = _HEAD.pack(kind, len(payload), items, zlib.crc32(payload))
    return head + _CHECK.pack(zlib.crc32(head)) + payload


def read_head(file: BinaryIO) -> Head | None:
    """Reads the head of the next record, or returns None if there is no whole one."""
    data = file.read(_HEAD.size + _CHECK.size)
    head, check = data[: _HEAD.size], data[_HEAD.size :]
    if len(check) < _CHECK.size or _CHECK.unpack(check)[0] != zlib.crc32(head):
        return None
    return Head(*_HEAD.unpack(head))


def read_payload(file: BinaryIO, head: Head) -> bytes | None:
    """Reads the payload that belongs to a head, or returns None if it is not whole."""
    payload = file.read(head.length)
    return payload if len(payload) == head.length and zlib.crc32(payload) == head.checksum else None


def encode_chunk(layout: ObservationLayout, items: Sequence[Item], actions: Sequence[Action]) -> bytes:
    """Makes the payload of a chunk: named arrays, and what only JSON holds as bytes in one of them."""
    arrays: dict[str, np.ndarray] = {
        f"leaf{k}": _stacked([item[0][k] for item in items], leaf.shape, leaf.dtype)
        for k, leaf in enumerate(layout.leaves)
    }
    for name, place in (("terminated", 2), ("truncated", 3), ("first", 5)):
        arrays[name] = np.array([item[place] for item in items], bool)
    for name, place in (("reward", 1), ("time", 6)):
        arrays[name] = np.array([item[place] for item in items], np.float64)
    arrays["taken"] = np.array([action[0] for action in actions], np.int64)
    if actions:
        choices = [action[1] for action in actions]
        arrays["choice"] = _stacked(choices, choices[0].shape, choices[0].dtype)
        for k, leaf in enumerate(actions[0][4]):
            arrays[f"carry{k}"] = _stacked([action[4][k] for action in actions], leaf.shape, leaf.dtype)
    arrays["log_prob"] = np.array([action[2] for action in actions], np.float32)
    arrays["version"] = np.array([action[3] for action in actions], np.int64)
    infos, info_arrays = split_state(
        {"infos": [[k, item[4]] for k, item in enumerate(items) if not _is_empty(item[4])]},
        "the info of an observation",
    )
    # One member of the archive for all arrays that are alike: a member costs more than most arrays in an info.
    groups: dict[tuple[np.dtype[Any], tuple[int, ...]], list[int]] = {}
    for k, array in enumerate(info_arrays):
        groups.setdefault((array.dtype, array.shape), []).append(k)
    for g, ((dtype, shape), members) in enumerate(groups.items()):
        arrays[f"info{g}"] = _stacked([info_arrays[k] for k in members], shape, dtype)
    meta = json.dumps({**infos, "groups": list(groups.values())})
    arrays["meta"] = np.frombuffer(meta.encode(), np.uint8)
    payload = io.BytesIO()
    np.savez(payload, **arrays)  # type: ignore[arg-type]
    return payload.getvalue()


def decode_chunk(payload: bytes) -> tuple[dict[str, np.ndarray], dict[int, Any]]:
    """Reads the payload of a chunk.

    Returns:
        ``(arrays by name, infos by the item's place; an info that is not there is empty)``.

    Raises:
        ConfigurationError: No `Recorder` wrote it.
    """
    try:
        with np.load(io.BytesIO(payload), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        meta = read_state(ChunkInfos, json.loads(arrays.pop("meta").tobytes()), "record of infos", fix="", part=True)
        info_arrays = {
            k: arrays[f"info{g}"][row, ...] for g, members in enumerate(meta.groups) for row, k in enumerate(members)
        }
        parts = [info_arrays[k] for k in range(len(info_arrays))]
        return arrays, {k: join_state(info, parts) for k, info in meta.infos}
    except (ValueError, TypeError, LookupError, OSError, EOFError, zipfile.BadZipFile, StateError) as error:
        raise ConfigurationError(
            describe(
                f"A chunk of this recording holds what no recorder writes: {error}",
                fix="Replay only files that `record=` of this library made.",
            )
        ) from error


def recordable(info: Any) -> tuple[Any, list[tuple[str, str]]]:
    """Copies what of an info can be recorded.

    Returns:
        ``(copy, which is empty if it is all left out; names and types of what was left out)``.
    """
    if _is_empty(info):
        return {}, []
    left_out: list[tuple[str, str]] = []
    copied = _copied(info, "", left_out)
    return {} if copied is _LEFT_OUT else copied, left_out


def _is_empty(info: Any) -> bool:
    return type(info) is dict and not info


def _stacked(values: Sequence[np.ndarray], shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """Like `np.stack`, but no dtype changes on the way, not even its byte order."""
    stacked = np.empty((len(values), *shape), dtype)
    for k, value in enumerate(values):
        if value.shape != shape or value.dtype != dtype:
            raise ValueError(f"array of shape {value.shape} and dtype {value.dtype} among {shape} and {dtype}")
        stacked[k] = value
    return stacked


def _copied(value: Any, name: str, left_out: list[tuple[str, str]]) -> Any:
    """Copies what `split_state` can save; what it cannot is `_LEFT_OUT`."""
    # First what is most frequent, and by type: the thread that acts waits for this.
    if type(value) in _PLAIN:
        return value
    if isinstance(value, np.ndarray | np.generic):
        # A user-defined dtype, such as bfloat16, would come back as bytes, and a masked array without its mask.
        plain = value.dtype.kind in "biufcSUmM" and value.dtype.isbuiltin != 2
        if plain and not isinstance(value, np.ma.MaskedArray):
            return value.copy()
    elif isinstance(value, dict | Mapping):
        copied = {}
        for key, inner in value.items():
            # The second is the mark of an array in `split_state`.
            if not isinstance(key, str) or key == "__array__":
                left_out.append((f"{name}{key}", f"its key is {key!r}"))
                continue
            kept = inner if type(inner) in _PLAIN else _copied(inner, f"{name}{key}/", left_out)
            if kept is not _LEFT_OUT:
                copied[key] = kept
        return copied
    elif isinstance(value, list):
        items = [_copied(item, f"{name}{k}/", left_out) for k, item in enumerate(value)]
        return _LEFT_OUT if any(item is _LEFT_OUT for item in items) else items
    elif isinstance(value, str | int | float):
        return value
    left_out.append((name.rstrip("/") or "info", type(value).__name__))
    return _LEFT_OUT
