"""A power failure at any moment of any write loses nothing that was reported. `make bench-power-loss` tries more."""

from __future__ import annotations

import errno
import os
import stat
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from keras_optix.errors import DirectoryError
from keras_optix.records import EvalMetrics, HyperparamSet
from keras_optix.store import files
from keras_optix.store.files import make_folder, write_arrays
from keras_optix.store.registry import CheckpointRegistry
from tests.benchmark_modules import BENCHMARKS, load_benchmark

pytestmark = pytest.mark.skipif(
    os.name == "nt" or not Path("/proc/self/fd").is_dir(), reason="the trace finds open files in /proc"
)
SHORT = [
    "first snapshots",
    "snapshots, others pruned",
    "manifest: rescore, hold, release",
    "first resume point",
    "three resume points",
    "later resume point",
    "end of a run",
    "resume points with replay",
    "initial weights",
    "schedule",
    "lease",
    "recording",
]


@pytest.fixture(scope="module")
def power() -> ModuleType:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return load_benchmark("power_loss")
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.mark.parametrize("kind", SHORT)
def test_nothing_is_lost_whatever_a_power_failure_leaves(power: ModuleType, kind: str) -> None:
    found = power.try_kinds([kind], limit=2000)[kind]
    assert found.faults == []
    assert found.exhaustive
    assert found.states >= 7


@pytest.mark.parametrize(("kind", "least"), [("run, SIGTERM", 100), ("event log", 15)])
def test_longer_runs_lose_nothing_in_the_states_that_are_drawn(power: ModuleType, kind: str, least: int) -> None:
    """The seed is fixed, so the states are always the same."""
    found = power.try_kinds([kind], limit=4)[kind]
    assert found.faults == []
    assert found.states > least


def test_the_controls_find_what_each_step_of_a_write_is_for(power: ModuleType) -> None:
    found = {name: result.faults for name, result in power.try_controls(limit=50).items()}
    assert found.pop("schedule, no fsync after a folder is made") == []  # its folder was there before
    assert len(found) == 11
    assert all(found.values())


def test_a_trace_has_every_operation_in_its_order(power: ModuleType, tmp_path: Path) -> None:
    names = [type(event).__name__ for event in power.trace_of(power.CASES["schedule"](), tmp_path / "x").events]
    assert names == ["Create", "Write", "Sync", "Rename", "SyncFolder", "Said"]


def test_the_states_of_a_write_are_all_that_the_model_allows_and_no_others(power: ModuleType) -> None:
    events = sys.modules[power.Trace.__module__]
    create, write = events.Create(0, "b", 2), events.Write(2, 0, b"newer")
    rename, sync, sync_folder = events.Rename(0, "b", "a", 2), events.Sync(2), events.SyncFolder(0)
    contents = [b"", b"ne", bytes(5), b"newer"]

    def left(*operations: object) -> list[dict[str, bytes]]:
        """What may be left after all of these operations."""
        done = [*operations, events.Said({"done": True})]
        found = power.States(power.Trace(folders={0: {"a": 1}}, files={1: b"old"}, events=done))
        states = [{name: data for name, (data, _) in state.files.items()} for state in found if state.facts]
        assert found.exhaustive
        return states

    def same(states: list[dict[str, bytes]], *expected: dict[str, bytes]) -> bool:
        return sorted(map(str, states)) == sorted(map(str, expected))

    old = {"a": b"old"}
    assert same(left(create, write), old, *(old | {"b": data} for data in contents))
    assert same(left(create, write, sync), old, old | {"b": b"newer"})
    assert same(left(create, write, sync_folder), *(old | {"b": data} for data in contents))
    assert same(left(create, write, sync, sync_folder), old | {"b": b"newer"})
    both = {"a": b"newer", "b": b"newer"}  # the rename, and after it the creation
    assert same(left(create, write, sync, rename), old, old | {"b": b"newer"}, {"a": b"newer"}, both)
    assert same(left(create, write, sync, rename, sync_folder), {"a": b"newer"})
    torn = left(create, write, rename)
    assert all({"a": data} in torn for data in contents)
    assert same(left(create, write, rename, sync_folder), *({"a": data} for data in contents))


def test_make_folder_makes_what_is_missing_and_refuses_what_is_no_folder(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "c"):
        with pytest.raises(OSError, match="file"):
            make_folder(path)


def refuse_folders(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Lets `fsync` of a folder fail."""
    really = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        really(descriptor)

    monkeypatch.setattr(files.os, "fsync", fsync)


def test_a_disk_that_does_not_flush_a_folder_is_an_error_and_the_snapshot_is_saved_when_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = CheckpointRegistry(tmp_path)

    def save(score: float) -> int:
        state, metrics = {"w": np.full(3, score)}, EvalMetrics(score)
        return registry.save(state, eval_metrics=metrics, hyperparams=HyperparamSet({})).snapshot_id

    assert save(1.0) == 1
    with monkeypatch.context() as broken:
        refuse_folders(broken, errno.EIO)
        with pytest.raises(DirectoryError, match="could not be written"):
            save(2.0)
    assert save(3.0) == 2
    assert [snapshot.score for snapshot in CheckpointRegistry(tmp_path).ranked_snapshots] == [3.0, 1.0]


def test_a_file_system_that_flushes_no_folders_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_folders(monkeypatch, errno.EINVAL)
    write_arrays(tmp_path / "x.npz", {"a": np.arange(3)})
    assert (tmp_path / "x.npz").exists()
