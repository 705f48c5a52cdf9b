"""Defines the file format of a recording: its beginning, its records, and the contents of a chunk of items.

The file begins with `MAGIC` and the version of the format. After that, records are appended. Each is a head (`Head`,
with checksums of itself and of the payload) and a payload. So a process that is killed leaves a file that can be read
up to its last whole record.

============ ===============================================================================================
record       payload
============ ===============================================================================================
``HEADER``   JSON: the spaces, the policy's carry if it has one, and when the recording began; the first record and no
             other
``CHUNK``    items, and the actions that were chosen for them, as arrays of an npz archive (see `encode_chunk`)
``WINDOW``   a window that closed: its id, rows and seed, version and fingerprint of the policy that acted in it; its
             items are in the records before this one
``DROPPED``  the id of a window that closed earlier and never reached the learner
============ ===============================================================================================
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from keras_optix.errors import ConfigurationError, StateError, describe
from keras_optix.experience.carry import Carry
from keras_optix.experience.observations import Leaves, ObservationLayout
from keras_optix.experience.savable import join_state, split_state
from keras_optix.states import Count, Positive, State, read_state
from keras_optix.store.files import arrays_in, parse_json

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
# (index of the item in its batch, or -1 for the last item before the batch; choice, log-probability, version, carry)
Action = tuple[int, np.ndarray, float, int, Carry]


class Header(State, frozen=True):
    """The contents of the first record of a recording.

    Attributes:
        observation_space: The space of the feed's observations, as JSON values.
        action_space: The space of the actions, as JSON values.
        window_size: Rows of the arrays of a window, or None.
        started: When the recording began, in ISO 8601.
        carry: Shape and dtype of each array of the policy's carry.
    """

    observation_space: dict[str, Any]
    action_space: dict[str, Any]
    window_size: Positive | None
    started: str
    carry: tuple[tuple[tuple[Count, ...], str], ...]


class ChunkInfos(State, frozen=True):
    """The part of a chunk that is saved as JSON: the infos of its items.

    Attributes:
        infos: Pairs of an item's index and its info, with references to arrays; see `split_state`.
        groups: For each array of the archive that holds arrays of infos, the numbers of these arrays.
    """

    infos: tuple[tuple[Count, Any], ...]
    groups: tuple[tuple[Count, ...], ...]


class Head(NamedTuple):
    """The head of a record.

    Attributes:
        kind: The kind of the record, one of the four above.
        length: Bytes of the payload.
        items: The number of items in a chunk, so that they can be counted without reading it.
        checksum: CRC-32 of the payload.
    """

    kind: bytes
    length: int
    items: int
    checksum: int


def record(kind: bytes, payload: bytes, items: int = 0) -> bytes:
    """Returns the bytes of a record."""
    head = _HEAD.pack(kind, len(payload), items, zlib.crc32(payload))
    return head + _CHECK.pack(zlib.crc32(head)) + payload


def read_head(file: BinaryIO) -> Head | None:
    """Reads the head of the next record, or returns None if there is none or it is incomplete or damaged."""
    data = file.read(_HEAD.size + _CHECK.size)
    head, check = data[: _HEAD.size], data[_HEAD.size :]
    if len(check) < _CHECK.size or _CHECK.unpack(check)[0] != zlib.crc32(head):
        return None
    return Head(*_HEAD.unpack(head))


def read_payload(file: BinaryIO, head: Head) -> bytes | None:
    """Reads the payload that belongs to a head, or returns None if it is incomplete or damaged."""
    payload = file.read(head.length)
    return payload if len(payload) == head.length and zlib.crc32(payload) == head.checksum else None


def encode_chunk(layout: ObservationLayout, items: Sequence[Item], actions: Sequence[Action]) -> bytes:
    """Makes the payload of a chunk: named arrays, one of which holds the infos as JSON."""
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
    # Arrays of the same shape and dtype share a member of the archive, because a member costs more than most arrays.
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
        ``(arrays by name, infos by the item's index)``; an info that is missing is empty.

    Raises:
        ConfigurationError: The payload has another form than a `Recorder` writes.
    """
    try:
        arrays = arrays_in(io.BytesIO(payload), len(payload))
        meta = read_state(ChunkInfos, parse_json(arrays.pop("meta").tobytes()), "record of infos", fix="", part=True)
        info_arrays = {
            k: arrays[f"info{g}"][row, ...] for g, members in enumerate(meta.groups) for row, k in enumerate(members)
        }
        parts = [info_arrays[k] for k in range(len(info_arrays))]
        return arrays, {k: join_state(info, parts) for k, info in meta.infos}
    except (ValueError, TypeError, LookupError, OSError, StateError) as error:
        raise ConfigurationError(
            describe(
                f"A chunk of this recording has contents that no recorder writes: {error}",
                fix="Replay only files that were made with `record=`.",
            )
        ) from error


def recordable(info: Any) -> tuple[Any, list[tuple[str, str]]]:
    """Copies the part of an info that can be recorded.

    Returns:
        ``(copy, left_out)``: the copy is empty if nothing can be recorded, and `left_out` has the name and the type of
        each entry that was left out.
    """
    if _is_empty(info):
        return {}, []
    left_out: list[tuple[str, str]] = []
    copied = _copied(info, "", left_out)
    return {} if copied is _LEFT_OUT else copied, left_out


def _is_empty(info: Any) -> bool:
    return type(info) is dict and not info


def _stacked(values: Sequence[np.ndarray], shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """Stacks arrays like `np.stack`, but keeps the dtype exactly, even its byte order."""
    stacked = np.empty((len(values), *shape), dtype)
    for k, value in enumerate(values):
        if value.shape != shape or value.dtype != dtype:
            raise ValueError(f"array of shape {value.shape} and dtype {value.dtype} among {shape} and {dtype}")
        stacked[k] = value
    return stacked


def _copied(value: Any, name: str, left_out: list[tuple[str, str]]) -> Any:
    """Copies a value that `split_state` can save; returns `_LEFT_OUT` for any other."""
    # The most frequent types come first, and are compared exactly: the thread that acts waits for this.
    if type(value) in _PLAIN:
        return value
    if isinstance(value, np.ndarray | np.generic):
        # A user-defined dtype, such as bfloat16, would be read back as bytes, and a masked array without its mask.
        plain = value.dtype.kind in "biufcSUmM" and value.dtype.isbuiltin != 2
        if plain and not isinstance(value, np.ma.MaskedArray):
            return value.copy()
    elif isinstance(value, dict | Mapping):
        copied = {}
        for key, inner in value.items():
            # `split_state` marks an array with the key "__array__".
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
