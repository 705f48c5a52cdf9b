"""The snapshots of a run while the disk is full, a lock is held, a folder is gone or a file is torn."""

from __future__ import annotations

import contextlib
import errno
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_run import Run, manager

import keras_optix as optix
from keras_optix.errors import NonFiniteError, RegistryError
from keras_optix.loop.aids import Aids
from keras_optix.loop.run_snapshots import RunSnapshots
from keras_optix.records import EvalMetrics, HyperparamSet
from keras_optix.store import files
from keras_optix.store.registry import CheckpointRegistry


class Disk:
    """Makes all writing of files fail while `error` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.error: OSError | None = None
        self.writes = 0
        really = files.os.fsync

        def fsync(descriptor: int) -> None:
            self.writes += 1
            if self.error is not None:
                raise self.error
            really(descriptor)

        monkeypatch.setattr(files.os, "fsync", fsync)

    def fill(self) -> None:
        self.error = OSError(errno.ENOSPC, "No space left on device")

    def set_read_only(self) -> None:
        self.error = OSError(errno.EROFS, "Read-only file system")


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def save(snapshots: RunSnapshots, score: float, **facts: Any) -> optix.PolicySnapshot:
    return snapshots.save(
        {"w": np.full(3, score)},
        eval_metrics=EvalMetrics(score, {"length": 2.0}),
        hyperparams=HyperparamSet({"a": 1.0}),
        promoted=True,
        **facts,
    )


def test_what_cannot_be_written_is_kept_and_written_later_under_its_number(tmp_path: Path, disk: Disk) -> None:
    clock = Clock()
    aids = Aids(clock)
    registry = CheckpointRegistry(tmp_path)
    snapshots = RunSnapshots(registry, aids)
    snapshots.begin_run()
    first = save(snapshots, 1.0)
    disk.fill()
    second = save(snapshots, 2.0)
    held = snapshots.hold(second, "me")
    third = save(snapshots, 3.0)
    rescored = snapshots.rescore(third, EvalMetrics(2.5))
    assert [s.snapshot_id for s in (first, second, third)] == [1, 2, 3]
    assert rescored.eval_metrics.metrics == {"length": 2.0}
    assert snapshots.load(third)["w"].tolist() == [3.0] * 3
    assert registry.best == first
    attempts = disk.writes
    for _ in range(50):
        snapshots.write_missing()
    assert disk.writes == attempts  # not before some time has passed
    (notice,) = aids.take_notices()
    assert "No space left" in notice
    assert "a snapshot (failed once" in aids.missing
    disk.error = None
    clock.now += 61.0
    assert snapshots.write_missing()
    assert snapshots.unwritten == []
    assert aids.missing == ""
    read = CheckpointRegistry(tmp_path)
    assert read.best == rescored
    assert read.held_by("me") == [held]
    assert [read.load(s)["w"][0] for s in read.ranked_snapshots] == [3.0, 2.0, 1.0]
    assert save(snapshots, 4.0).snapshot_id == 4


def test_memory_holds_only_what_may_be_needed(tmp_path: Path, disk: Disk) -> None:
    snapshots = RunSnapshots(CheckpointRegistry(tmp_path), Aids())
    snapshots.begin_run()
    disk.set_read_only()
    held = snapshots.hold(save(snapshots, 0.0), "regime")
    for score in range(1, 50):
        best = save(snapshots, float(score))
    assert [s.key for s in snapshots.unwritten] == [held.key, best.key]


def test_a_score_that_can_never_be_saved_is_an_error_as_before(tmp_path: Path) -> None:
    snapshots = RunSnapshots(CheckpointRegistry(tmp_path), Aids())
    snapshots.begin_run()
    with pytest.raises(RegistryError, match="primary_score"):
        snapshots.save({"w": np.zeros(1)}, eval_metrics=EvalMetrics(np.inf), hyperparams=HyperparamSet({}))
    for wrong in (np.nan, np.inf):
        with pytest.raises(NonFiniteError, match="array='w'"):
            snapshots.save(
                {"v": np.array([2]), "w": np.array([1.0, wrong])},
                eval_metrics=EvalMetrics(1.0),
                hyperparams=HyperparamSet({}),
            )
    assert snapshots.best is None


def test_a_torn_best_falls_back_to_the_next_best_of_its_regime(tmp_path: Path) -> None:
    snapshots = RunSnapshots(CheckpointRegistry(tmp_path), Aids())
    snapshots.begin_run()
    other, first = save(snapshots, 9.0), save(snapshots, 1.0, regime_index=1)
    best = save(snapshots, 2.0, regime_index=1)
    (tmp_path / best.path).write_bytes(b"torn")
    with pytest.warns(UserWarning, match=rf"{best.path}.*Snapshot {first.snapshot_id}.*{first.path}"):
        found = snapshots.load_or_next(best)
    assert found is not None
    assert (found[0], found[1]["w"][0]) == (first, 1.0)
    (tmp_path / first.path).unlink()
    with pytest.warns(UserWarning, match="the current weights stay"):
        assert snapshots.load_or_next(best) is None
    assert snapshots.load(other)["w"][0] == 9.0


def toy(directory: Path, *, when_dormant: str = "stop") -> Run:
    return Run(directory, manager(), when_dormant=when_dormant).begin()


@pytest.mark.parametrize("when", ["full", "read-only", "gone"])
def test_a_run_goes_on_without_its_disk_and_ends_with_its_best(tmp_path: Path, disk: Disk, when: str) -> None:
    """From the beginning, or with the whole directory removed in the middle of the run."""
    whole = toy(tmp_path / "a")
    whole.until(whole.dormant)
    whole.loop.end()
    run = toy(tmp_path / "b")
    if when != "gone":
        disk.fill() if when == "full" else disk.set_read_only()
    else:
        run.until(lambda: run.loop.performer.best.snapshot is not None)
        shutil.rmtree(tmp_path / "b")
        disk.set_read_only()
    with pytest.warns(UserWarning, match="not on disk|weights stay") if when == "gone" else contextlib.nullcontext():
        run.until(run.dormant)
        run.loop.end()
    notices = run.told("notice")
    assert sum("a snapshot could not be written" in notice for notice in notices) <= 1
    assert run.toy.updates == whole.toy.updates
    if when != "gone":
        assert run.toy.p == whole.toy.p
        assert run.loop.performer.best.snapshot.score == whole.loop.performer.best.snapshot.score
        missing = run.loop.log.aids.missing
        assert "a snapshot (failed" in missing
        assert "Not written: " in run.loop.summary()
        assert missing in run.loop.summary()


def test_a_disk_that_is_full_for_a_while_leaves_nothing_missing(tmp_path: Path, disk: Disk) -> None:
    run = toy(tmp_path)
    disk.fill()
    run.windows(5)
    disk.error = None
    run.until(run.dormant)
    run.loop.end()
    assert run.loop.log.aids.missing == ""
    assert "Not written" not in run.loop.summary()
    best = run.loop.performer.best.snapshot
    assert best is not None
    assert CheckpointRegistry(tmp_path).best == best


@pytest.mark.parametrize("torn", ["best", "all"])
def test_a_run_whose_best_is_torn_does_not_fail_in_its_last_line(tmp_path: Path, torn: str) -> None:
    run = toy(tmp_path)
    run.toy.aim = 0.0
    run.toy.target, run.toy.p = 0.0, 8.0
    run.until(run.dormant)
    best = run.loop.performer.best.snapshot
    assert best is not None
    promoted = [s for s in run.registry.ranked_snapshots if s.promoted]
    assert len(promoted) > 1
    for snapshot in promoted if torn == "all" else [best]:
        (tmp_path / snapshot.path).write_bytes(b"torn")
    now = run.toy.p
    with pytest.warns(UserWarning, match=best.path):
        run.loop.end()
    if torn == "all":
        assert run.toy.p == now
        assert sum("cannot be read" in message for message in run.told("kept")) == 1
    else:
        found = run.loop.performer.best.snapshot
        assert found is not None
        assert found.key != best.key
        assert run.told("restored")[-1] == f"restored snapshot {found.snapshot_id}"
        assert run.toy.p == float(run.registry.load(found)["p"])
        before = next(s for s in promoted if s.key == found.key)  # fresh episodes at the end have scored it again
        assert run.loop.scheduler.state.best.mean == before.score
        assert found.eval_metrics.episodes == 20
