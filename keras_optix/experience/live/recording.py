"""Records the items of a live feed and the actions that were chosen into a file; `replay` reads it."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import threading
import time as clock
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from keras_optix.errors import ConfigurationError, StateError, describe
from keras_optix.experience.carry import Carry, CarrySpec, kinds_of
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
    Action,
    Header,
    Item,
    encode_chunk,
    record,
    recordable,
)
from keras_optix.experience.observations import Leaves, ObservationLayout
from keras_optix.experience.spaces_json import to_json as space_to_json
from keras_optix.states import to_json
from keras_optix.store.files import make_folder

_CHUNK_ITEMS = 1000
_CHUNK_BYTES = 1 << 20  # copying more at once would block the interpreter, and the thread that acts, for too long
_WAITING_CHUNKS = 256
_SECONDS = 1.0


@dataclass(frozen=True, eq=False)
class ActionTaken:
    """The action that was chosen for an observation.

    Attributes:
        choice: The action as windows keep it (see `actions`), without time and environment axes.
        log_prob: Its log-probability, a float32 value.
        version: The policy version that chose it.
        carry: The carry that the policy was given, without the environment axis; ``()`` for a policy without a carry.
    """

    choice: np.ndarray
    log_prob: float
    version: int
    carry: Carry = ()


class RecordedItem(tuple[Any, ...]):
    """An item as the feed gave it, ``(obs, reward, terminated, truncated, info)``, with attributes of the recording.

    Attributes:
        first: Whether a connection began with this item, so that the previous item has no successor.
        taken: The action that was chosen for it. None if the recording or the connection ended before that, or if the
            agent is to choose the actions of the replay.
        time: Seconds since the recording began.
    """

    first: bool
    taken: ActionTaken | None
    time: float

    def __new__(
        cls, values: tuple[Any, ...], *, first: bool = False, taken: ActionTaken | None = None, time: float = 0.0
    ) -> RecordedItem:
        """Makes an item from the feed's five values."""
        item = super().__new__(cls, values)
        item.first, item.taken, item.time = first, taken, time
        return item


@dataclass(frozen=True, eq=False)
class RecordedWindow:
    """A window that closed while the recording was made.

    Attributes:
        window_id: The number of the window.
        rows: The number of transitions in it, which may be 0.
        seed: ``[2]`` int32, the learner's seed for this window.
        dropped: Whether the window was dropped before it reached the learner.
        version: The version of the policy that acted in it.
        fingerprint: The fingerprint of that policy; see `PolicyRecord`.
    """

    window_id: int
    rows: int
    seed: np.ndarray
    dropped: bool
    version: int = 0
    fingerprint: int = 0


@dataclass
class _Batch:
    """The notes that wait for the writer thread; the marks are written after the items."""

    items: list[Item] = field(default_factory=list)
    actions: list[Action] = field(default_factory=list)
    marks: list[bytes] = field(default_factory=list)


class Recorder:
    """Writes a recording. Its methods only note what they are given; a separate thread encodes and writes.

    After about 1,000 items, and every second, the notes are written to the file. A process that is killed loses the
    notes since then. If the disk is slower than the feed for long (256 chunks), `observation` waits for the disk.

    If writing fails, the next call raises the error. After that, nothing is recorded and nothing is raised.

    Args:
        path: The file, which must not exist yet; its folders are made.
        observation_space: The space of the feed's observations.
        action_space: The space of the actions.
        window_size: `T`, rows of the arrays of a window; None if that is not to be recorded.
        carry_specs: The arrays of the carry of the policy that acts.

    Raises:
        ConfigurationError: The file exists, or cannot be written.
        SpaceError: A space is of a kind that cannot be saved.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        window_size: int | None = None,
        carry_specs: Sequence[CarrySpec] = (),
    ) -> None:
        self._layout = ObservationLayout(observation_space)
        header = Header(
            space_to_json(observation_space),
            space_to_json(action_space),
            window_size,
            datetime.now(UTC).isoformat(),
            kinds_of(carry_specs),
        )
        about = to_json(header)
        if not carry_specs:
            del about["carry"]  # so that releases without carries can read it
        self._path = Path(path)
        self._file = _create(self._path, MAGIC + VERSION.pack(FORMAT) + record(HEADER, json.dumps(about).encode()))
        self._began = clock.monotonic()
        size = 64 + sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in self._layout.leaves)
        size += sum(spec.initial.nbytes for spec in carry_specs)
        self._chunk_items = max(1, min(_CHUNK_ITEMS, _CHUNK_BYTES // size))
        self._most = _WAITING_CHUNKS * self._chunk_items
        self._lock = threading.Lock()
        self._change = threading.Condition(self._lock)
        self._batch = _Batch()
        # Numbers of calls: all that were noted, those that a flush waits for, those that are in the file.
        self._noted = self._wanted = self._written = 0
        self._error: Exception | None = None
        self._broken = self._closed = self._warned = False
        self._open = True  # neither broken nor closed; one flag, because `observation` is called for each item
        self._thread = threading.Thread(target=self._run, name="keras_optix-recorder", daemon=True)
        self._thread.start()

    def observation(
        self, leaves: Leaves, reward: float, terminated: bool, truncated: bool, info: Any, *, first: bool, time: float
    ) -> None:
        """Notes an item of the feed; everything in it is copied.

        Args:
            leaves: The observation, as `ObservationLayout.convert` returns it.
            reward: The reward that came with it.
            terminated: Whether the episode terminated with it.
            truncated: Whether the episode was truncated with it.
            info: The info that came with it. JSON values and NumPy arrays are kept. A warning names the first entry
                that is neither.
            first: Whether a connection began with this item.
            time: When the item arrived, in seconds of `time.monotonic`.

        Raises:
            StateError: Writing failed, or the recorder is closed.
        """
        kept = self._kept(info)
        item = ([leaf.copy() for leaf in leaves], reward, terminated, truncated, kept, first, time - self._began)
        with self._lock:
            if not (self._open or self._ready()):
                return
            items = self._batch.items
            items.append(item)
            self._noted += 1
            if len(items) == self._chunk_items:
                self._change.notify_all()
            elif len(items) >= self._most:
                self._change.wait_for(lambda: len(self._batch.items) < self._most)

    def action(self, choice: np.ndarray, log_prob: float, version: int, carry: Carry = ()) -> None:
        """Notes the action that was chosen for the last observation.

        Args:
            choice: The action as windows keep it, without time and environment axes; copied.
            log_prob: Its log-probability.
            version: The policy version that chose it.
            carry: The carry that the policy was given, without the environment axis; copied.

        Raises:
            StateError: Writing failed, or the recorder is closed.
        """
        copied, carried = np.array(choice), tuple([np.array(leaf) for leaf in carry])
        with self._lock:
            if self._open or self._ready():
                batch = self._batch
                batch.actions.append((len(batch.items) - 1, copied, log_prob, version, carried))
                self._noted += 1

    def window(self, window_id: int, rows: int, seed: np.ndarray, version: int = 0, fingerprint: int = 0) -> None:
        """Notes that a window closed.

        Args:
            window_id: The number of the window.
            rows: The number of transitions in it.
            seed: ``[2]`` int32, the learner's seed for this window.
            version: The version of the policy that acted in it.
            fingerprint: The fingerprint of that policy.

        Raises:
            StateError: Writing failed, or the recorder is closed.
        """
        self._mark(record(WINDOW, WINDOW_MARK.pack(window_id, rows, *seed.tolist(), version, fingerprint)))

    def dropped(self, window_id: int) -> None:
        """Notes that a window that closed earlier was dropped; may be called from any thread.

        Args:
            window_id: The number of the window.

        Raises:
            StateError: Writing failed, or the recorder is closed.
        """
        self._mark(record(DROPPED, DROPPED_MARK.pack(window_id)))

    def flush(self) -> None:
        """Waits until everything noted so far is in the file, where a kill of the process cannot lose it.

        Raises:
            StateError: Writing failed, or the recorder is closed.
        """
        with self._change:
            if self._ready():
                wanted = self._wanted = self._noted
                self._change.notify_all()
                self._change.wait_for(lambda: self._written >= wanted)
                self._ready()

    def close(self) -> None:
        """Writes the remaining notes and closes the file. Later calls do nothing.

        Raises:
            StateError: Writing failed.
        """
        with self._change:
            if self._closed:
                return
            self._closed, self._open = True, False
            self._change.notify_all()
        self._thread.join()
        self._file.close()
        with self._lock:
            self._raise_error()

    def _mark(self, mark: bytes) -> None:
        with self._lock:
            if self._open or self._ready():
                self._batch.marks.append(mark)
                self._noted += 1

    def _ready(self) -> bool:
        """Returns whether something can still be noted; raises an error that was not raised yet."""
        if self._error is not None:
            self._raise_error()
        if self._closed:
            raise StateError(f"The recording {self._path} is closed, so nothing can be added to it.")
        return not self._broken

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise StateError(
                describe(
                    f"The recording {self._path} cannot be written any further: {error}",
                    fix="What was written before can be replayed; nothing more is recorded.",
                )
            ) from error

    def _kept(self, info: Any) -> Any:
        """Copies the part of an info that can be recorded."""
        kept, left_out = recordable(info)
        if left_out and not self._warned:
            self._warned = True
            (name, kind), *_ = left_out
            warnings.warn(
                f"Not everything in the feed's info can be recorded: {name!r} ({kind}) is left out. Only JSON values, "
                "NumPy arrays, and dicts (with strings as keys) and lists of these are recorded. This warning comes "
                "only once.",
                stacklevel=3,
            )
        return kept

    def _due(self) -> bool:
        return self._closed or self._wanted > self._written or len(self._batch.items) >= self._chunk_items

    def _run(self) -> None:
        """Runs in the writer thread. After an error it continues to empty the batches, so that no caller waits."""
        closed = False
        while not closed:
            with self._change:
                self._change.wait_for(self._due, timeout=_SECONDS)
                batch, self._batch = self._batch, _Batch()
                noted, closed = self._noted, self._closed
                self._change.notify_all()
            try:
                if not self._broken:
                    self._write(batch)
            except Exception as error:  # every error is to be raised in the thread that acts
                with self._lock:
                    self._error, self._broken, self._open = error, True, False
            with self._change:
                self._written = noted
                self._change.notify_all()

    def _write(self, batch: _Batch) -> None:
        size = self._chunk_items
        for begin in range(0, max(1, len(batch.items)), size):
            items = batch.items[begin : begin + size]
            # An action at -1 belongs to the last item of the previous batch, and is written into the first chunk.
            actions = [(a[0] - begin, *a[1:]) for a in batch.actions if begin <= max(a[0], 0) < begin + size]
            if items or actions:
                _write_all(self._file, record(CHUNK, encode_chunk(self._layout, items, actions), len(items)))
        if batch.marks:
            _write_all(self._file, b"".join(batch.marks))


def _create(path: Path, beginning: bytes) -> io.FileIO:
    """Creates a file and writes its beginning."""
    try:
        if os.path.lexists(path):
            raise ConfigurationError(
                describe(
                    "This file exists already, and a recording is never overwritten.",
                    fix="Record to another path, or move the file away first. A resumed run needs a new file, too.",
                    record=str(path),
                )
            )
        make_folder(path.parent)
        file = io.FileIO(path, "xb")
        try:
            _write_all(file, beginning)
        except OSError:
            file.close()
            with contextlib.suppress(OSError):
                path.unlink()
            raise
    except OSError as error:
        raise ConfigurationError(
            describe(
                f"The recording cannot be written: {error}", fix="Give a path that can be written.", record=str(path)
            )
        ) from error
    return file


def _write_all(file: io.FileIO, data: bytes) -> None:
    """Writes all of the data; one `write` of an unbuffered file may write less than it is given."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
