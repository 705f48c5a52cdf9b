"""Replays a recording as a feed: it yields the recorded items again, with the actions that were chosen for them."""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep
from typing import Any, BinaryIO, Literal

import numpy as np

from keras_optix.arguments import names_checked
from keras_optix.errors import ConfigurationError, StateError, describe
from keras_optix.experience.live.recording import ActionTaken, RecordedItem, RecordedWindow
from keras_optix.experience.live.recording_file import (
    CHUNK,
    DROPPED,
    DROPPED_MARK,
    FORMAT,
    HEADER,
    MAGIC,
    VERSION,
    WINDOW,
    WINDOW_MARK,
    Header,
    decode_chunk,
    read_head,
    read_payload,
)
from keras_optix.experience.observations import Leaf, ObservationLayout
from keras_optix.experience.spaces_json import from_json
from keras_optix.reprs import OneLineRepr
from keras_optix.states import read_state
from keras_optix.store.files import open_regular, parse_json
from keras_optix.validation import check_choice, check_float, check_path

_SIZES = {WINDOW: WINDOW_MARK.size, DROPPED: DROPPED_MARK.size}  # bytes of a payload, by the kind of record


@names_checked
def replay_feed(
    path: str | os.PathLike[str], *, actions: Literal["recorded", "agent"] = "recorded", speed: float | None = None
) -> ReplayFeed:
    """Opens a recording of a live feed, made with ``record=path``, as a feed.

    With ``actions="recorded"`` the recorded run is repeated: the actions are the same, and the windows are equal bit
    for bit, without those that were dropped. An agent that begins with the same weights, options and callbacks repeats
    its training exactly, so a run that went wrong can be investigated. Another agent learns from the same data, but
    `OptixCallback` does not score it, because other policies earned the rewards in these windows.

    With ``actions="agent"`` the agent chooses an action for each observation, as on a live feed. The next item is still
    the feed's answer to the *recorded* action. So use this only for feeds that do not depend on the action (prices,
    sensors that are only watched); on any other feed the agent learns from answers that it did not cause.

    If a recording was cut off by a kill of its process, or was damaged later, the replay ends before the damage, and a
    warning says how much is replayed. A recording that is still being written is replayed up to its present end.

    Args:
        path: The file.
        actions: ``"recorded"`` or ``"agent"``. Defaults to ``"recorded"``.
        speed: A multiple of the recorded pace: 1.0 takes as long as the recording, 2.0 half of that. None (the default)
            replays as fast as the items are consumed.

    Returns:
        The feed. It can be streamed any number of times, and from several threads; the file must stay where it is. Its
        attributes describe the recording: `observation_space`, `action_space`, `window_size` (rows of a window of the
        recorded run), `windows` (a record for each window that closed, with its `rows` and `dropped`) and `carry`
        (shape and dtype of each array of the policy's carry). A policy with a carry can learn only from recorded
        actions of a policy with the same carry.

    Raises:
        ConfigurationError: The file is not a recording, has another format, or cannot be read; or another argument is
            invalid.

    Example::

        dataset = optix.dataset_from_stream(feed, agent, boundary=optix.every_n_steps(256), record="monday.rec")
        agent.fit(dataset, callbacks=[optix.OptixCallback()])  # until Ctrl-C

        # The same windows again:
        monday = optix.replay_feed("monday.rec")
        dataset = optix.dataset_from_stream(monday, agent_as_it_was)

        # Or only to look at the items:
        print(monday.observation_space, len(monday.windows), sum(window.rows for window in monday.windows))
        for item in monday.stream():
            obs, reward, terminated, truncated, info = item
            print(f"{item.time:.3f} s: {reward}", "connected" if item.first else "", item.taken)

    Examples:
        >>> try:
        ...     feed = optix.live.replay_feed("monday.rec")
        ... except optix.ConfigurationError as error:
        ...     print(str(error)[:31])
        The recording cannot be read: [
    """
    return ReplayFeed(path, actions=actions, speed=speed)


class ReplayFeed(OneLineRepr):
    """A feed that replays a recording of a live feed; `replay_feed` makes it.

    Each call of `stream` reads the file anew, in small parts.

    Args:
        path: The file.
        actions: ``"recorded"`` or ``"agent"``, see `replay_feed`.
        speed: A multiple of the recorded pace, or None for as fast as possible.

    Attributes:
        path: The file.
        observation_space: The space of the observations.
        action_space: The space of the actions.
        actions: The argument.
        window_size: `T`, rows of the arrays of a window in the recorded run.
        carry: Shape and dtype of each array of the carry of the policy that acted; empty if it had no carry.
        windows: A `RecordedWindow` for each window that closed, in the order in which they closed.

    Raises:
        ConfigurationError: See `replay_feed`.
    """

    def __init__(self, path: str | os.PathLike[str], *, actions: str, speed: float | None) -> None:
        self.path = Path(check_path("path", path, fix='Such as replay_feed("monday.rec").'))
        self.actions = check_choice("actions", actions, ("recorded", "agent"))
        self._speed = None if speed is None else check_float("speed", speed, low=0.0, low_open=True)
        try:
            with open_regular(self.path) as file:
                window_size = self._open(file)
                self._begin = file.tell()
                self._scan(file)
        except OSError as error:
            raise ConfigurationError(
                describe(f"The recording cannot be read: {error}", fix="Check the path.", path=str(path))
            ) from error
        self._layout = ObservationLayout(self.observation_space)
        # If the window size was not recorded, that of the longest window is used.
        self.window_size = window_size or max((window.rows for window in self.windows), default=0) or 1

    def stream(self) -> Generator[RecordedItem, Any, None]:
        """Yields the items from the beginning; actions that are sent to it are ignored.

        It ends before a damaged part of the file, with a warning that says how much came before.

        Raises:
            ConfigurationError: The file cannot be read any more, or has contents that no recorder writes.
        """
        began: tuple[float, float] | None = None
        for item in self._items():
            if self._speed is not None:
                now = monotonic()
                if began is None:
                    began = now, item.time
                wait = began[0] + (item.time - began[1]) / self._speed - now
                if wait > 0.0:
                    sleep(wait)
            yield item

    def _open(self, file: BinaryIO) -> int | None:
        """Reads the beginning of the file, and returns the window size if it was recorded."""
        beginning = file.read(len(MAGIC) + VERSION.size)
        if not beginning.startswith(MAGIC) or len(beginning) < len(MAGIC) + VERSION.size:
            raise ConfigurationError(
                describe("This file is not a recording.", fix="Give a file that `record=` made.", path=str(self.path))
            )
        (version,) = VERSION.unpack(beginning[len(MAGIC) :])
        if version != FORMAT:
            raise ConfigurationError(
                describe(
                    f"This recording has format {version}, and this release of keras_optix reads format {FORMAT}.",
                    fix="Replay it with the release that made it, or a later one.",
                    path=str(self.path),
                )
            )
        head = read_head(file)
        payload = None if head is None or head.kind != HEADER else read_payload(file, head)
        try:
            values = {"carry": [], **parse_json(payload or b"")}  # older recordings do not have this field
            header = read_state(Header, values, "header of the recording", fix="", part=True)
            self.observation_space = from_json(header.observation_space)
            self.action_space = from_json(header.action_space)
            self.carry: list[Any] = [[list(shape), dtype] for shape, dtype in header.carry]
        except (ValueError, LookupError, TypeError, AttributeError, StateError) as error:
            raise ConfigurationError(
                describe(
                    "This recording is cut off or damaged before its first item, so nothing in it can be replayed.",
                    path=str(self.path),
                    reason=str(error),
                )
            ) from error
        return header.window_size

    def _scan(self, file: BinaryIO) -> None:
        """Finds the windows and the end of the last whole record, without reading the items."""
        size = os.fstat(file.fileno()).st_size
        windows: list[RecordedWindow] = []
        # Index of the last window of each id: a run that returned to a snapshot counts its windows from there again.
        last: dict[int, int] = {}
        # The place in the file where the record of each window ends, to say how many windows are before a damage.
        self._places: list[int] = []
        self._end, items = self._begin, 0
        while (head := read_head(file)) is not None and file.tell() + head.length <= size:
            if head.kind == CHUNK:
                items += head.items
                file.seek(head.length, os.SEEK_CUR)
            elif head.length != _SIZES.get(head.kind) or (payload := read_payload(file, head)) is None:
                break
            elif head.kind == WINDOW:
                window_id, rows, *seed, version, fingerprint = WINDOW_MARK.unpack(payload)
                last[window_id] = len(windows)
                windows.append(RecordedWindow(window_id, rows, np.array(seed, np.int32), False, version, fingerprint))
                self._places.append(file.tell())
            else:
                (window_id,) = DROPPED_MARK.unpack(payload)
                if window_id not in last:
                    break
                windows[last[window_id]] = replace(windows[last[window_id]], dropped=True)
            self._end = file.tell()
        self.windows = tuple(windows)
        if self._end < size:
            self._warn(self._end, items, stacklevel=6)

    def _warn(self, place: int, items: int, *, stacklevel: int) -> None:
        windows = sum(end <= place for end in self._places)
        warnings.warn(
            f"The recording {self.path} is cut off or damaged at byte {place}. Only the part before is replayed: "
            f"{items} items, {windows} windows.",
            stacklevel=stacklevel,
        )

    def _chunks(self) -> Iterator[bytes]:
        """Yields the payloads of the chunks, one at a time."""
        try:
            with open_regular(self.path) as file:
                file.seek(self._begin)
                items = 0
                while (place := file.tell()) < self._end:
                    head = read_head(file)
                    payload = None if head is None else read_payload(file, head)
                    if head is None or payload is None:
                        self._warn(place, items, stacklevel=6)
                        return
                    if head.kind == CHUNK:
                        items += head.items
                        yield payload
        except OSError as error:
            raise ConfigurationError(
                describe(f"The recording cannot be read any more: {error}", path=str(self.path))
            ) from error

    def _items(self) -> Iterator[RecordedItem]:
        """Yields the items, one item late: the action for the last item of a chunk may be in the next chunk."""
        held: RecordedItem | None = None
        for payload in self._chunks():
            taken, scalars, parts, infos = self._decoded(payload)
            if held is not None:
                held.taken = taken.get(-1, held.taken)
            for k, (reward, terminated, truncated, first, time) in enumerate(zip(*scalars, strict=True)):
                if held is not None:
                    yield held
                # Copies, so that an observation does not keep its whole chunk in memory, and may be changed.
                observation = self._layout.pack([part[k, ...].copy() for part in parts])
                values = observation, reward, terminated, truncated, infos.get(k, {})
                held = RecordedItem(values, first=first, taken=taken.get(k), time=time)
        if held is not None:
            yield held

    def _decoded(
        self, payload: bytes
    ) -> tuple[dict[int, ActionTaken], list[list[Any]], list[np.ndarray], dict[int, Any]]:
        """Returns the actions of a chunk, its columns, the parts of its observations, and its infos.

        Raises:
            ConfigurationError: The payload has another form than a `Recorder` writes.
        """
        arrays, infos = decode_chunk(payload)
        try:
            taken = _taken(arrays) if self.actions == "recorded" else {}
            # Lists, because reading an element of a list takes a tenth of the time of an element of an array.
            scalars = [arrays[name].tolist() for name in ("reward", "terminated", "truncated", "first", "time")]
            parts = [_of_space(arrays[f"leaf{k}"], leaf) for k, leaf in enumerate(self._layout.leaves)]
            if len({len(column) for column in (*scalars, *parts)}) != 1:
                raise ValueError("its columns differ in length")
        except (ValueError, TypeError, LookupError) as error:
            problem, fix = f"A chunk of this recording lacks a part: {error}.", "Replay only files made with `record=`."
            raise ConfigurationError(describe(problem, fix=fix, path=str(self.path))) from error
        return taken, scalars, parts, infos


def _of_space(values: np.ndarray, leaf: Leaf) -> np.ndarray:
    """Converts the values of a leaf from the form in a window back to the form that the feed gave."""
    restored = values.astype(leaf.space.dtype, copy=False)
    return restored if leaf.start is None else restored + np.asarray(leaf.start, restored.dtype)


def _taken(arrays: dict[str, np.ndarray]) -> dict[int, ActionTaken]:
    """Returns the actions by the item's index in the chunk; -1 is the last item before the chunk."""
    columns = (arrays[name].tolist() for name in ("taken", "log_prob", "version"))
    carry = [
        arrays[name] for name in itertools.takewhile(arrays.__contains__, map("carry{}".format, itertools.count()))
    ]
    return {
        place: ActionTaken(
            arrays["choice"][row, ...].copy(), log_prob, version, tuple(leaf[row, ...].copy() for leaf in carry)
        )
        for row, (place, log_prob, version) in enumerate(zip(*columns, strict=True))
    }
