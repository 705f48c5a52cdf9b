"""Damaged and forged files: only errors of the package follow. `make bench-damage` does more of the same."""

from __future__ import annotations

import io
import os
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keras_optix.errors import RegistryError
from keras_optix.records import EvalMetrics, HyperparamSet
from keras_optix.store import files, resume_points
from keras_optix.store.files import UNREADABLE, read_arrays, write_arrays, write_atomically
from keras_optix.store.registry import CheckpointRegistry
from keras_optix.store.resume_points import ResumeStore
from tests.benchmark_modules import BENCHMARKS, load_benchmark


@pytest.fixture(scope="module")
def damage() -> Any:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return load_benchmark("damage")
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.mark.skipif(os.name == "nt", reason="alarms and pipes are those of POSIX")
@pytest.mark.parametrize("kind", ["snapshot", "manifest", "resume point"])
def test_flips_and_forgeries_give_only_named_errors(damage: Any, kind: str) -> None:
    """The seed is fixed, so it is always the same damage."""
    found = damage.try_all(flips=150, forgeries=60, kinds=[kind], seed=1)[kind]
    assert found["faults"] == []
    assert set(found["outcomes"]) <= {"read", "RegistryError", "StateError"}
    assert found["outcomes"]["RegistryError"] > 100
    assert found["megabytes"] < 100.0  # 64 MB are promised by some files, and 10**40 bytes by others


def test_no_flip_of_any_bit_gives_other_arrays(tmp_path: Path) -> None:
    arrays = {"a": np.arange(3.0), "b": np.array(1), "c": np.array([True])}
    path = tmp_path / "x.npz"
    write_arrays(path, arrays)
    whole, read = path.read_bytes(), 0
    for place in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        try:
            found = files.arrays_in(io.BytesIO(damaged), len(damaged))
        except ValueError:
            continue
        read += 1
        assert {name: array.tobytes() for name, array in found.items()} == {n: a.tobytes() for n, a in arrays.items()}
    assert 0 < read < 3 * len(whole)  # of 8 times as many: times, versions and attributes say nothing of the arrays


@pytest.mark.skipif(os.name == "nt", reason="alarms and pipes are those of POSIX")
def test_the_control_numpy_alone_raises_other_errors(damage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def by_numpy(file: Any, size: int) -> dict[str, np.ndarray]:
        with np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}

    monkeypatch.setattr(files, "arrays_in", by_numpy)
    found = damage.try_all(flips=0, forgeries=100, kinds=["snapshot"], seed=1)["snapshot"]
    kinds = {fault.split(": ")[1] for fault in found["faults"]}
    assert {"advises allow_pickle", "BadZipFile"} <= kinds
    assert len(kinds) > 3


def test_a_file_that_promises_more_than_it_has_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", bytes(50_000_000))
    assert path.stat().st_size < 100_000
    with pytest.raises(ValueError, match="compressed"):
        read_arrays(path)


@pytest.mark.parametrize("name", ["a", "b/c", "ü"])
@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0, dtype=np.float32).reshape(2, 3),
        np.asfortranarray(np.arange(6).reshape(2, 3)),
        np.array(True),
        np.zeros((0, 4), np.int8),
        np.array(["ab", "c"]),
        np.array([1 + 2j, np.nan]),
        np.array([np.inf, -np.inf], np.float16),
        np.array([np.datetime64("2026-01-01")]),
    ],
    ids=str,
)
def test_what_is_written_is_read(tmp_path: Path, name: str, array: np.ndarray) -> None:
    write_arrays(tmp_path / "x.npz", {name: array})
    (read,) = read_arrays(tmp_path / "x.npz").items()
    assert read[0] == name
    np.testing.assert_array_equal(read[1], array)
    assert read[1].dtype == array.dtype
    assert read[1].flags.writeable
    with np.load(tmp_path / "x.npz") as arrays:  # NumPy reads it too
        np.testing.assert_array_equal(arrays[name], array)


def saved(registry: CheckpointRegistry, score: float) -> Any:
    return registry.save(
        {"w": np.full(3, score)}, eval_metrics=EvalMetrics(score), hyperparams=HyperparamSet({}), promoted=True
    )


@pytest.mark.skipif(os.name == "nt", reason="links and pipes are those of POSIX")
@pytest.mark.parametrize("how", ["link", "pipe"])
def test_save_and_clear_neither_follow_links_nor_wait_for_pipes(tmp_path: Path, how: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "resume.npz").write_bytes(b"kept")
    registry = CheckpointRegistry(tmp_path / "inside")
    registry.begin_run()
    if how == "pipe":
        registry.run_folder.mkdir()
        os.mkfifo(registry.run_folder / "000001.npz")
        os.mkfifo(registry.run_folder / "resume.npz")
        assert registry.load(saved(registry, 1.0))["w"].tolist() == [1.0] * 3  # it was replaced
        ResumeStore(registry, 0.0).write({}, {})
        os.replace(registry.run_folder / "resume.npz", registry.run_folder / "000001.npz")
        os.mkfifo(registry.run_folder / "resume.npz")
        ResumeStore(registry, 0.0).clear(lambda folder: False)
        assert not (registry.run_folder / "resume.npz").exists()
    else:
        registry.run_folder.symlink_to(outside)
        store = ResumeStore(registry, 0.0)
        with pytest.raises(RegistryError, match="leads out of the directory"):
            saved(registry, 1.0)
        with pytest.raises(RegistryError, match="leads out of the directory"):
            store.write({}, {})
        assert store.runs() == []
        store.clear(lambda folder: False)
        assert [path.read_bytes() for path in outside.iterdir()] == [b"kept"]
        lock = tmp_path / "inside" / ".lock"
        lock.unlink(missing_ok=True)
        lock.symlink_to(outside / "resume.npz")
        with pytest.raises(RegistryError, match="not a regular file"):
            saved(registry, 1.0)
        assert (outside / "resume.npz").read_bytes() == b"kept"


def test_a_torn_best_falls_back_to_the_next_best(tmp_path: Path) -> None:
    registry = CheckpointRegistry(tmp_path)
    first, second, third = saved(registry, 1.0), saved(registry, 3.0), saved(registry, 2.0)

    class Target:
        def set_state(self, state: Any) -> None:
            self.state = state

        def set_hyperparams(self, hyperparams: Any) -> None:
            """Takes none."""

    target = Target()
    (tmp_path / third.path).write_bytes((tmp_path / third.path).read_bytes()[:-9])
    with pytest.warns(UserWarning, match=rf"{third.path}.*{second.path}"):
        assert registry.load_best(target) == second
    assert target.state["w"].tolist() == [3.0] * 3
    for snapshot in (first, second):
        (tmp_path / snapshot.path).unlink()
    with pytest.raises(RegistryError, match=third.path):
        registry.load_best(target)


def test_a_damaged_resume_point_falls_back_to_the_one_before(tmp_path: Path) -> None:
    registry = CheckpointRegistry(tmp_path)
    registry.begin_run()
    store = ResumeStore(registry, 0.0)
    for k in range(3):
        store.write({"x": np.array(k)}, {"k": k})
    (folder,) = store.runs()
    assert store.find(folder).values["k"] == 2
    newest = folder / "resume.npz"
    newest.write_bytes(newest.read_bytes()[:100])
    with pytest.warns(UserWarning, match=r"resume\.npz.*resume\.previous\.npz"):
        point = store.find(folder)
    assert (point.values["k"], int(point.arrays["x"]), point.run_id) == (1, 1, registry.run_id)
    (folder / "resume.previous.npz").write_bytes(b"")
    with pytest.raises(RegistryError, match=r"resume point cannot be read"):
        store.find(folder)
    store.clear(lambda folder: False)
    assert store.runs() == []


def test_the_newest_resume_point_is_the_newest_though_the_time_of_day_was_set_back(tmp_path: Path) -> None:
    """A run would be taken back by more than the interval between two points; found by the simulated life."""
    registry = CheckpointRegistry(tmp_path)
    registry.begin_run()
    store = ResumeStore(registry, 0.0)
    for k in range(2):
        store.write({}, {"k": k})
        os.utime(registry.run_folder / "resume.npz", (10**9 - 3600 * k,) * 2)
    (folder,) = store.runs()
    assert store.find(folder).values["k"] == 1


def test_of_two_runs_the_one_with_the_latest_point_is_the_first(tmp_path: Path) -> None:
    folders = []
    for k in range(2):
        registry = CheckpointRegistry(tmp_path)
        registry.begin_run()
        store = ResumeStore(registry, 0.0)
        for at in (10**9 + 3600 * k, 10**9 - 3600):  # the earlier point of each has the later time
            store.write({}, {})
            os.utime(registry.run_folder / "resume.npz", (at, at))
        folders.append(registry.run_folder)
    assert store.runs() == folders[::-1]


def test_a_point_of_another_schema_is_not_a_damaged_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is whole: the run must not continue from the point before as if nothing had happened."""
    registry = CheckpointRegistry(tmp_path)
    registry.begin_run()
    store = ResumeStore(registry, 0.0)
    store.write({}, {"k": 0})
    with monkeypatch.context() as patched:
        patched.setattr(resume_points, "_SCHEMA", 4)
        store.write({}, {"k": 1})
    with pytest.raises(RegistryError, match="schema 4 is not"):
        store.find(registry.run_folder)


def test_points_of_a_run_that_goes_on_elsewhere_are_not_removed(tmp_path: Path) -> None:
    folders = []
    for _ in range(2):
        registry = CheckpointRegistry(tmp_path)
        registry.begin_run()
        ResumeStore(registry, 0.0).write({}, {})
        folders.append(registry.run_folder)
    mine = CheckpointRegistry(tmp_path)
    mine.begin_run()
    ResumeStore(mine, 0.0).clear(is_running=lambda folder: folder == folders[0])
    assert [(folder / "resume.npz").exists() for folder in folders] == [True, False]


def test_a_write_that_fails_keeps_both_points(tmp_path: Path) -> None:
    target, kept = tmp_path / "resume.npz", tmp_path / "resume.previous.npz"
    for data in (b"1", b"2"):
        write_atomically(target, lambda file, data=data: file.write(data), keep=kept)

    def full(file: Any) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_atomically(target, full, keep=kept)
    assert (target.read_bytes(), kept.read_bytes()) == (b"2", b"1")
    assert len(list(tmp_path.iterdir())) == 2


def test_unreadable_is_what_reading_raises(tmp_path: Path) -> None:
    for data in (b"", b"PK\x03\x04", b"\x80\x04N."):
        (tmp_path / "x").write_bytes(data)
        with pytest.raises(UNREADABLE) as caught:
            read_arrays(tmp_path / "x")
        assert "allow_pickle" not in str(caught.value)
