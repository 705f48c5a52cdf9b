"""Files of every kind that the package reads, and ways to damage and to forge them, for `benchmarks/damage.py`."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

import keras_optix as optix
from keras_optix.experience.live.recording import Recorder
from keras_optix.experience.live.recording_file import CHUNK, DROPPED, HEADER, MAGIC, VERSION, WINDOW, record
from keras_optix.experience.live.replay import replay_feed
from keras_optix.loggers.loop_log import LoopLog
from keras_optix.loop.adapter import Adapter, PolicyRef, TrainingUnit
from keras_optix.loop.engine import Engine
from keras_optix.loop.options import LoopOptions
from keras_optix.loop.run_state import read_run
from keras_optix.records import EvalMetrics, HyperparamSet
from keras_optix.store.resume_points import ResumeStore
from keras_optix.tuners.schedule import Schedule, ScheduleStep


class Number(Adapter):
    """Trains a number, whose score it is."""

    scores_are_deterministic = True

    class _Values(dict[str, float]):
        def check(self, values: Any) -> None:
            """Accepts everything."""

        def assign(self, values: Any) -> None:
            """Takes the values over."""
            self.update(values)

        def snapshot(self) -> dict[str, float]:
            """Returns the values."""
            return dict(self)

    def __init__(self) -> None:
        self.value, self.values = 0.0, Number._Values(learning_rate=0.5)

    @property
    def hyperparams(self) -> Any:
        """See `Adapter`."""
        return self.values

    def get_state(self) -> Any:
        """See `Adapter`."""
        return {"weights": np.full(16, self.value)}

    def set_state(self, state: Any) -> None:
        """See `Adapter`."""
        self.value = float(state["weights"][0])

    def stop(self) -> None:
        """See `Adapter`."""

    def save(self) -> Any:
        """See `Adapter`."""
        return self.get_state(), {"values": dict(self.values)}

    def restore(self, arrays: Any, saved: Any, *, weights: bool) -> str:
        """See `Adapter`."""
        return ""

    def close(self) -> None:
        """See `Adapter`."""

    def unit(self, number: int) -> TrainingUnit:
        """Returns an epoch."""
        self.value += 1.0
        metrics = EvalMetrics(self.value, {"loss": -self.value}, number)
        return TrainingUnit(PolicyRef(number, number, number, self.get_state), 1, {}, lambda scorer: metrics)


class Kind:
    """A kind of file.

    Attributes:
        arrays: Whether it is a file of arrays, and not a text.
    """

    arrays = False

    def make(self, folder: Path) -> Path:
        """Writes everything into an empty folder, and returns the file that is to be damaged."""
        raise NotImplementedError

    def read(self, folder: Path) -> Any:
        """Reads everything in the folder, and returns what was read, as values that can be compared."""
        raise NotImplementedError

    def forge(self, rng: random.Random, whole: bytes) -> bytes:
        """Returns the bytes of a forged file."""
        return forged_arrays(rng, whole) if self.arrays else forged_text(rng, whole)


class SnapshotKind(Kind):
    """The arrays of a snapshot."""

    arrays = True

    def make(self, folder: Path) -> Path:
        """See `Kind`."""
        state = {"model/000": np.arange(30.0, dtype=np.float32).reshape(5, 6), "optimizer/000": np.array(7)}
        registry = optix.CheckpointRegistry(folder)
        saved = registry.save(state, eval_metrics=EvalMetrics(1.0, {"x": 2.0}), hyperparams=HyperparamSet({"a": 1.0}))
        return folder / saved.path

    def read(self, folder: Path) -> Any:
        """See `Kind`."""
        registry = optix.CheckpointRegistry(folder)
        state = registry.load(registry.ranked_snapshots[0])
        return {name: (array.shape, str(array.dtype), array.tobytes()) for name, array in state.items()}


class ManifestKind(SnapshotKind):
    """The manifest of a checkpoint directory. Its numbers have no checksum, so only that it is read is compared."""

    arrays = False

    def make(self, folder: Path) -> Path:
        """See `Kind`."""
        super().make(folder)
        return folder / "manifest.json"

    def read(self, folder: Path) -> Any:
        """See `Kind`."""
        _ = optix.CheckpointRegistry(folder).best
        return None


class ResumeKind(Kind):
    """A resume point."""

    arrays = True

    def _engine(self, folder: Path) -> Engine:
        registry, options = optix.CheckpointRegistry(folder), LoopOptions(when_dormant="stop")
        return Engine(
            Number(),
            optix.MonitorEvaluator("loss"),
            optix.BackoffScheduler(),
            None,
            registry,
            options,
            (),
            LoopLog((), 0),
        )

    def make(self, folder: Path) -> Path:
        """See `Kind`."""
        engine = self._engine(folder)
        engine.begin()
        for number in range(6):
            engine.take(engine.adapter.unit(number))  # type: ignore[attr-defined]
        registry = optix.CheckpointRegistry(folder)
        registry.continue_run(str(engine.registry.run_id))
        ResumeStore(registry, 0.0).write(*engine.save())
        return registry.run_folder / "resume.npz"

    def read(self, folder: Path) -> Any:
        """See `Kind`."""
        store = ResumeStore(optix.CheckpointRegistry(folder), 0.0)
        runs = store.runs()
        if not runs:
            return None
        point = store.find(runs[0])
        self._engine(folder).read(point.arrays, read_run(point.values, point.fix))
        return point.values


class ScheduleKind(Kind):
    """A schedule of hyperparameters. Its numbers have no checksum, so only that it is read is compared."""

    def make(self, folder: Path) -> Path:
        """See `Kind`."""
        steps = (ScheduleStep(10, {"a": 2.0}, "probe", False), ScheduleStep(20, {"a": 3.0}, "adopt", True))
        Schedule({"a": 1.0}, steps).save(folder / "schedule.json")
        return folder / "schedule.json"

    def read(self, folder: Path) -> Any:
        """See `Kind`."""
        _ = optix.ReplaySchedule(folder / "schedule.json")
        return None


class RecordingKind(Kind):
    """A recording of a live feed. A damaged one is replayed up to the damage."""

    def make(self, folder: Path) -> Path:
        """See `Kind`."""
        path = folder / "one.rec"
        recorder = Recorder(path, spaces.Box(-1.0, 1.0, (2,)), spaces.Discrete(3))
        for k in range(6):
            row = [np.full(2, k / 10.0, np.float32)]
            recorder.observation(row, float(k), False, False, {"k": k}, first=k == 0, time=recorder._began + k)
            recorder.action(np.array(k % 3), -0.5, k)
        recorder.flush()
        recorder.close()
        return path

    def read(self, folder: Path) -> Any:
        """See `Kind`."""
        _ = list(replay_feed(folder / "one.rec").stream())
        return None

    def forge(self, rng: random.Random, whole: bytes) -> bytes:
        """See `Kind`: each record has the checksum of what it holds."""
        beginning = whole[: len(MAGIC) + VERSION.size]
        if rng.random() < 0.4:
            return beginning + record(HEADER, forged_text(rng, b"{}"))
        kind = rng.choice([CHUNK, CHUNK, WINDOW, DROPPED])
        payload = (
            forged_arrays(rng, arrays_file({"meta": b"{}"})) if kind == CHUNK else rng.randbytes(rng.randrange(40))
        )
        return whole + record(kind, payload, rng.randrange(3))


KINDS: dict[str, Callable[[], Kind]] = {
    "snapshot": SnapshotKind,
    "manifest": ManifestKind,
    "resume point": ResumeKind,
    "schedule": ScheduleKind,
    "recording": RecordingKind,
}


def arrays_file(entries: dict[str, bytes], *, compressed: bool = False) -> bytes:
    """Returns an archive of entries with these bytes."""
    file = io.BytesIO()
    how = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(file, "w", how) as archive:
        for name, data in entries.items():
            archive.writestr(f"{name}.npy", data)
    return file.getvalue()


def npy(header: str, data: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    """Returns the bytes of an array with this header."""
    text = header.encode("latin1")
    size = struct.pack("<H" if version == (1, 0) else "<I", len(text) % (65536 if version == (1, 0) else 2**32))
    return b"\x93NUMPY" + bytes(version) + size + text + data


def header(shape: str, descr: str = "'<f8'") -> str:
    """Returns the header of an array."""
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n"


def forged_arrays(rng: random.Random, whole: bytes) -> bytes:
    """Returns a forged file of arrays."""
    huge = 10 ** rng.randrange(9, 40)
    bomb = npy(header(f"({2**26},)"), bytes(2**20))
    plain = npy(header("(2,)"), bytes(16))
    with_objects = io.BytesIO()
    np.save(with_objects, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    makers: list[Callable[[], bytes]] = [
        lambda: arrays_file({"json": npy(header(f"({huge},)"))}),
        lambda: arrays_file({"json": npy(header(f"({huge}, 0)"))}),
        lambda: arrays_file({"json": npy(header("(-1,)"), bytes(8))}),
        lambda: arrays_file({"json": npy(header("(" * rng.randrange(50, 9000)))}),
        lambda: arrays_file({"json": npy(header("-" * rng.randrange(5000, 9000) + "1"))}),
        lambda: arrays_file({"json": npy(" " * rng.randrange(10_001, 60_000))}),
        lambda: arrays_file({"json": npy(" " * 200_000, version=(2, 0))}),
        lambda: arrays_file({"json": npy(header("(1,)", f"[('a', '<f8', ({huge},))]"))}),
        lambda: arrays_file({"json": npy(header("(1,)", f"'<V{rng.randrange(2**31)}'"))}),
        lambda: arrays_file({"json": npy(header("(1,)", "'|O'"), pickle.dumps([1]))}),
        lambda: arrays_file({"json": with_objects.getvalue()}),
        lambda: arrays_file({"json": npy(header("(1,)", rng.choice(["'M8[xx]'", "'<f3'", "7", "None", "'<U0'"])))}),
        lambda: arrays_file({"json": bomb}, compressed=True),
        lambda: arrays_file({"json": bytes(2**26)}, compressed=True),
        lambda: arrays_file({"json": npy(header("(1,)"), bytes(8), version=(rng.randrange(3, 9), 0))}),
        lambda: arrays_file({"json": plain, "x": plain}).replace(b"x.npy", b"json.npy"[:5]),
        lambda: _twice(plain),
        lambda: arrays_file({"other": plain}),
        lambda: arrays_file({"json": forged_text(rng, b'{"schema": 5}')}),
        lambda: arrays_file({"json": _bytes_array(forged_text(rng, b'{"schema": 5, "loop": {}}'))}),
        lambda: _patched(whole, b"PK\x01\x02", 8, struct.pack("<H", rng.choice([1, 8, 2048, 65535]))),  # flags
        lambda: _patched(whole, b"PK\x01\x02", 10, struct.pack("<H", rng.choice([8, 12, 14, 93, 99]))),  # method
        lambda: _patched(whole, b"PK\x01\x02", 24, struct.pack("<I", rng.randrange(2**32))),  # size
        lambda: _patched(whole, b"PK\x01\x02", 42, struct.pack("<I", rng.randrange(2**32))),  # place
        lambda: _patched(whole, b"PK\x05\x06", 10, struct.pack("<HI", rng.randrange(2**16), rng.randrange(2**32))),
        lambda: pickle.dumps({"a": [1] * 100}),
        lambda: np.lib.format.magic(1, 0) + rng.randbytes(50),
        lambda: plain,
        lambda: whole[: rng.randrange(len(whole))],
        lambda: rng.randbytes(rng.randrange(300)),
        lambda: b"",
    ]
    return rng.choice(makers)()


def forged_text(rng: random.Random, whole: bytes) -> bytes:
    """Returns a forged JSON text: of another structure, or a whole one with a part replaced."""
    depth = rng.randrange(1000, 200_000)
    parts = [b"null", b"[]", b"7", b"true", b'"x"', b"{}", b"NaN", b"-Infinity", b"9" * 5000, b"1e999", b"[" * depth]
    texts = [*parts, b'{"a":' * depth, b"\xff\xfe", b"", b"\x00", whole[: rng.randrange(len(whole) + 1)]]
    if rng.random() < 0.5:
        return rng.choice(texts)
    try:
        values = json.loads(whole)
    except ValueError:
        return rng.choice(texts)
    wrong: list[Any] = [None, [], {}, "x", -1, 1.5, 10**30, True, float("nan"), "../../x", [[1]], {"__float__": "inf"}]
    place, key = values, None
    while isinstance(place, dict | list) and place:
        outer, key = place, rng.choice(list(place) if isinstance(place, dict) else range(len(place)))
        place = outer[key]
        if not isinstance(place, dict | list) or not place or rng.random() < 0.3:
            outer[key] = rng.choice(wrong)
            break
    return json.dumps(values).encode()


def replace_by_other(rng: random.Random, path: Path) -> None:
    """Replaces a file by what is no file: a link, a named pipe, a folder."""
    path.unlink()
    makers: list[Callable[[], Any]] = [
        lambda: path.symlink_to("/etc/hostname"),
        lambda: path.symlink_to(path),
        lambda: path.symlink_to(path.with_name("nothing")),
        lambda: path.symlink_to("/dev/zero"),
        lambda: os.mkfifo(path),
        lambda: path.mkdir(),
    ]
    rng.choice(makers)()


def _bytes_array(data: bytes) -> bytes:
    return npy(header(f"({len(data)},)", "'|u1'"), data)


def _twice(data: bytes) -> bytes:
    return arrays_file({"json": data, "jsom": data}).replace(b"jsom.npy", b"json.npy")


def _patched(whole: bytes, mark: bytes, offset: int, data: bytes) -> bytes:
    place = whole.find(mark) + offset
    return whole[:place] + data + whole[place + len(data) :]
