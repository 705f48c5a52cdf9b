"""The registry: what is saved is read back, the best is never lost, damage is named."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keras_optix.errors import ConfigurationError, RegistryError
from keras_optix.records import EvalMetrics, HyperparamSet
from keras_optix.store.manifest import PolicySnapshot
from keras_optix.store.registry import CheckpointRegistry


def save(registry: CheckpointRegistry, score: float, **options: Any) -> PolicySnapshot:
    return registry.save(
        {"model/000": np.full((2, 3), score, np.float32), "optimizer/000": np.array(7, np.int64)},
        eval_metrics=EvalMetrics(
            np.float32(score), {"length": np.float64(3)}, stderr=np.float32(0.5), episodes=np.int64(4)
        ),
        hyperparams=HyperparamSet({"learning_rate": 1e-3}),
        **options,
    )


class Target:
    def set_state(self, state: Any) -> None:
        self.state = state

    def set_hyperparams(self, hyperparams: HyperparamSet) -> None:
        self.hyperparams = hyperparams


def test_a_second_process_reads_what_was_saved(tmp_path: Path) -> None:
    save(CheckpointRegistry(tmp_path), 2.0, policy_version=5, window_id=9, env_steps=100)
    registry = CheckpointRegistry(tmp_path)
    target = Target()
    best = registry.load_best(target, hyperparams=True)
    assert (best.score, best.policy_version, best.window_id, best.env_steps) == (2.0, 5, 9, 100)
    assert (best.eval_metrics.stderr, best.eval_metrics.episodes) == (0.5, 4)
    np.testing.assert_array_equal(target.state["model/000"], np.full((2, 3), 2.0, np.float32))
    assert target.state["optimizer/000"].dtype == np.int64
    assert target.hyperparams.params == {"learning_rate": 1e-3}


def test_metrics_may_be_numbers_of_numpy(tmp_path: Path) -> None:
    metrics = {"loss": np.float32(0.5), "length": np.int64(3), "solved": np.bool_(True)}
    CheckpointRegistry(tmp_path).save(
        {}, eval_metrics=EvalMetrics(1.0, metrics), hyperparams=HyperparamSet({"learning_rate": 1e-3})
    )
    best = CheckpointRegistry(tmp_path).best
    assert best is not None
    assert best.eval_metrics.metrics == {"loss": 0.5, "length": 3.0, "solved": 1.0}


def test_the_oldest_are_pruned_with_their_files_and_the_best_stays(tmp_path: Path) -> None:
    registry = CheckpointRegistry(tmp_path, max_snapshots=3)
    for score in (5.0, 9.0, 1.0, 3.0, 4.0):
        save(registry, score)
    assert [s.score for s in registry.ranked_snapshots] == [9.0, 4.0, 3.0]
    assert len(list(tmp_path.rglob("*.npz"))) == 3
    for snapshot in registry.ranked_snapshots:
        registry.load(snapshot)


def test_the_best_of_an_earlier_run_is_not_the_best_of_this_one(tmp_path: Path) -> None:
    first = CheckpointRegistry(tmp_path)
    save(first, 900.0)
    second = CheckpointRegistry(tmp_path)
    second.begin_run()
    assert second.best is None
    save(second, -5.0)
    assert CheckpointRegistry(tmp_path).best.score == -5.0
    assert len(list(tmp_path.rglob("*.npz"))) == 2


def test_a_new_era_has_its_own_best(tmp_path: Path) -> None:
    registry = CheckpointRegistry(tmp_path)
    save(registry, 500.0, regime_index=0)
    save(registry, 200.0, regime_index=1)
    assert registry.best.score == 200.0


def test_a_save_that_fails_leaves_everything_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = CheckpointRegistry(tmp_path)
    save(registry, 1.0)
    before = sorted(path.name for path in tmp_path.rglob("*"))

    def half(file: Any, **arrays: Any) -> None:
        file.write(b"half a file")
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez", half)
    with pytest.raises(RegistryError, match="no space left"):
        save(registry, 2.0)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
    assert CheckpointRegistry(tmp_path).best.score == 1.0


def test_a_file_holds_the_arrays_that_were_given_and_no_other(tmp_path: Path) -> None:
    """An older NumPy takes an option of `np.savez` that it does not know for one more array."""
    registry = CheckpointRegistry(tmp_path)
    assert set(registry.load(save(registry, 1.0))) == {"model/000", "optimizer/000"}


def test_arrays_of_objects_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    registry = CheckpointRegistry(tmp_path)
    save(registry, 1.0)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with pytest.raises(RegistryError, match=r"Arrays of Python objects.*Received: objects=\['b'\]"):
        registry.save(
            {"a": np.zeros(2), "b": np.array([None])}, eval_metrics=EvalMetrics(2.0), hyperparams=HyperparamSet({})
        )
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_paths_in_the_manifest_are_relative(tmp_path: Path) -> None:
    save(CheckpointRegistry(tmp_path / "a"), 1.0)
    (tmp_path / "a").rename(tmp_path / "b")
    moved = CheckpointRegistry(tmp_path / "b")
    assert moved.load(moved.best)["optimizer/000"] == 7


def rewrite(directory: Path, change: Any) -> None:
    """Changes the manifest as JSON."""
    manifest = json.loads((directory / "manifest.json").read_text())
    change(manifest)
    (directory / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("where", "value"),
    [
        *(("path", path) for path in ("/etc/passwd", "../outside.npz", "C:/000001.npz", "a\\000001.npz", "x", 7)),
        ("snapshot_id", True),
        ("snapshot_id", 0),
        ("run_id", ".."),
        ("run_id", "a/b"),
        ("policy_version", "1"),
        ("window_id", 1.5),
        ("env_steps", -1),
        ("regime_index", None),
        ("created", math.inf),
        ("created", "now"),
        ("promoted", 1),
        ("held_by", "me"),
        ("held_by", [1]),
        ("eval_metrics", []),
        ("eval_metrics.primary_score", math.nan),
        ("eval_metrics.primary_score", True),
        ("eval_metrics.stderr", "0.5"),
        ("eval_metrics.episodes", 1.0),
        ("eval_metrics.metrics", {"length": "3"}),
        ("eval_metrics.unknown", 1),
        ("hyperparams.params", {"learning_rate": math.inf}),
        ("unknown", 1),
    ],
)
def test_a_field_that_was_tampered_with_is_named(tmp_path: Path, where: str, value: Any) -> None:
    save(CheckpointRegistry(tmp_path), 1.0)

    def change(manifest: Any) -> None:
        *outer, last = where.split(".")
        entry = manifest["snapshots"][0]
        for name in outer:
            entry = entry[name]
        entry[last] = value

    rewrite(tmp_path, lambda manifest: None)
    assert CheckpointRegistry(tmp_path).best is not None  # the control: what is only rewritten is read
    rewrite(tmp_path, change)
    with pytest.raises(RegistryError, match=rf"manifest cannot be read.*{where.split('.')[-1]}"):
        CheckpointRegistry(tmp_path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda m: m["snapshots"][0].pop("path"), r"lacks \['path'\]"),
        (lambda m: m["snapshots"][0]["eval_metrics"].pop("stderr"), r"lacks \['stderr'\]"),
        (lambda m: m.pop("run_id"), r"lacks \['run_id'\]"),
        (lambda m: m.update(more=1), r"unknown entries \['more'\]"),
        (lambda m: m.update(snapshots=7), "snapshots"),
        (lambda m: m.update(snapshots=[7]), "snapshots"),
        (lambda m: m["snapshots"].append(m["snapshots"][0]), "twice"),
        (lambda m: m.update(schema=99), "schema"),
        (lambda m: m.update(schema=True), "schema"),
    ],
)
def test_a_manifest_that_was_tampered_with_is_refused(tmp_path: Path, change: Any, named: str) -> None:
    save(CheckpointRegistry(tmp_path), 1.0)
    rewrite(tmp_path, change)
    with pytest.raises(RegistryError, match=rf"manifest cannot be read.*{named}"):
        CheckpointRegistry(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "7", '{"schema": 3, "snap', "[" * 100_000, "\x00"])
def test_what_is_no_manifest_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(RegistryError, match=r"manifest cannot be read"):
        CheckpointRegistry(tmp_path)


@pytest.mark.parametrize("schema", [1, 2])
def test_a_manifest_of_an_older_schema_is_read(tmp_path: Path, schema: int) -> None:
    saved = save(CheckpointRegistry(tmp_path), 1.0)

    def older(manifest: Any) -> None:
        manifest["schema"] = schema
        snapshot = manifest["snapshots"][0]
        snapshot["era"], snapshot["crowned"] = snapshot.pop("regime_index"), snapshot.pop("promoted")
        for name in ("eval_metrics", "hyperparams"):
            snapshot[name]["episode_id"] = snapshot[name].pop("window_id")
        if schema == 1:
            del snapshot["held_by"]

    rewrite(tmp_path, older)
    registry = CheckpointRegistry(tmp_path)
    assert registry.best == saved
    assert registry.hold(saved, "me").held_by == ("me",)
    assert json.loads((tmp_path / "manifest.json").read_text())["schema"] == 3


def test_what_is_held_is_not_pruned_until_it_is_released(tmp_path: Path) -> None:
    registry = CheckpointRegistry(tmp_path, max_snapshots=2)
    first = save(registry, 1.0)
    assert registry.hold(first, "a").held_by == registry.hold(first, "a").held_by == ("a",)
    assert registry.hold(first, "b").held_by == ("a", "b")  # `first` is an older copy by now
    second = registry.hold(save(registry, 2.0), "a")
    third = registry.hold(save(registry, 3.0), "a")
    registry = CheckpointRegistry(tmp_path, max_snapshots=2)  # as a later process sees it
    assert [s.key for s in registry.held_by("a")] == [first.key, second.key, third.key]
    assert [s.key for s in registry.held_by("b")] == [first.key]
    assert registry.release(first, "a").held_by == ("b",)
    assert registry.release(first, "b").held_by == registry.release(first, "b").held_by == ()
    save(registry, 0.0)
    assert [s.score for s in registry.ranked_snapshots] == [3.0, 2.0, 0.0]
    with pytest.raises(RegistryError, match="could not be read"):
        registry.load(first)
    with pytest.raises(RegistryError, match="no such snapshot"):
        registry.hold(first, "a")
    with pytest.raises(ConfigurationError, match="holder"):
        registry.hold(second, "")


def test_two_registries_on_one_run_lose_nothing(tmp_path: Path) -> None:
    first, second = CheckpointRegistry(tmp_path), CheckpointRegistry(tmp_path)
    second.continue_run(first.begin_run())
    saved = [save(registry, score) for score, registry in enumerate((first, second, second, first))]
    assert [s.snapshot_id for s in saved] == [1, 2, 3, 4]
    second.hold(saved[0], "me")
    first.rescore(saved[0], EvalMetrics(9.0))
    found = CheckpointRegistry(tmp_path).ranked_snapshots
    assert [s.score for s in found] == [9.0, 3.0, 2.0, 1.0]
    assert found[0].held_by == ("me",)
    assert second.load_best(Target()).score == 9.0


def test_a_score_that_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    registry = CheckpointRegistry(tmp_path)
    save(registry, 1.0)
    before = (tmp_path / "manifest.json").read_bytes()
    with pytest.raises(RegistryError, match="primary_score"):
        save(registry, np.nan)
    assert (tmp_path / "manifest.json").read_bytes() == before
    with pytest.raises(RegistryError, match="folder"):
        registry.continue_run("../elsewhere")


def test_a_link_out_of_the_directory_is_not_followed(tmp_path: Path) -> None:
    registry = CheckpointRegistry(tmp_path / "inside")
    snapshot = save(registry, 1.0)
    folder = registry.run_folder
    folder.rename(tmp_path / "outside")
    folder.symlink_to(tmp_path / "outside")
    with pytest.raises(RegistryError, match="out of the directory"):
        registry.load(snapshot)
    folder.unlink()
    (tmp_path / "outside").rename(folder)
    assert registry.load(snapshot)


def test_a_lock_that_is_never_freed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = CheckpointRegistry(tmp_path)
    save(registry, 1.0)
    monkeypatch.setattr("keras_optix.store.directory.LOCK_SECONDS", 0.2)
    hold = "lock = FileLock(sys.argv[1]); lock.acquire(); print('held', flush=True); input()"
    code = f"import sys; from filelock import FileLock; {hold}"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / ".lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        with pytest.raises(RegistryError, match="Another process"):
            save(registry, 2.0)
        child.kill()
    assert save(registry, 2.0).snapshot_id == 2


def test_old_temporary_files_are_removed_and_young_ones_stay(tmp_path: Path) -> None:
    registry = CheckpointRegistry(tmp_path)
    saved = save(registry, 1.0)
    run = tmp_path / saved.run_id
    old = [tmp_path / ".manifest.json.0123abcd", run / ".000002.npz.0123abcd", tmp_path / ".write-test-0123abcd"]
    kept = [run / ".000003.npz.0123abcd", run / "000007.npz", tmp_path / ".mine"]
    for path in (*old, *kept):
        path.touch()
    for path in (*old, *kept[1:]):
        os.utime(path, (0, 0))
    registry = CheckpointRegistry(tmp_path)
    assert registry.best == saved
    registry.begin_run()
    assert not any(path.exists() for path in old)
    assert all(path.exists() for path in kept)
    assert registry.load(saved)


def test_kills_and_two_writers_lose_nothing() -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "registry.py"
    command = [sys.executable, str(script), "--kills", "6", "--seconds", "2", "--no-results"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 kills" in done.stdout


def test_truncated_files_are_named(tmp_path: Path) -> None:
    registry = CheckpointRegistry(tmp_path)
    snapshot = save(registry, 1.0)
    (tmp_path / snapshot.path).write_bytes(b"PK\x03\x04")
    with pytest.raises(RegistryError, match=snapshot.path):
        registry.load(snapshot)
    (tmp_path / "manifest.json").write_text('{"schema": 1, "snap')
    with pytest.raises(RegistryError, match=r"manifest\.json"):
        CheckpointRegistry(tmp_path)


def test_a_directory_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RegistryError, match="cannot be written"):
        CheckpointRegistry(tmp_path / "file" / "checkpoints")


def test_an_empty_registry_says_so(tmp_path: Path) -> None:
    registry = CheckpointRegistry(tmp_path)
    assert registry.best is None
    with pytest.raises(RegistryError, match="no snapshot"):
        registry.load_best(Target())
    with pytest.raises(ConfigurationError, match="max_snapshots"):
        CheckpointRegistry(tmp_path, max_snapshots=0)


def test_a_snapshot_that_was_evaluated_again_has_its_new_score(tmp_path: Path) -> None:
    registry = CheckpointRegistry(tmp_path)
    lucky, solid = save(registry, 9.0), save(registry, 8.0)
    rescored = registry.rescore(lucky, EvalMetrics(7.0, stderr=np.float32(0.25), episodes=20))
    assert (rescored.score, rescored.eval_metrics.episodes, rescored.path) == (7.0, 20, lucky.path)
    assert registry.best == solid
    assert CheckpointRegistry(tmp_path).ranked_snapshots == [solid, rescored]
    assert registry.rescore(lucky, EvalMetrics(6.0)).score == 6.0  # an older copy names the same snapshot
    unknown = replace(lucky, snapshot_id=99)
    with pytest.raises(RegistryError, match=r"no such snapshot.*snapshot_id=99"):
        registry.rescore(unknown, EvalMetrics(7.0))


def test_a_new_score_keeps_the_further_metrics_unless_it_has_its_own(tmp_path: Path) -> None:
    registry = CheckpointRegistry(tmp_path)
    snapshot = save(registry, 9.0)
    assert registry.rescore(snapshot, EvalMetrics(7.0)).eval_metrics.metrics == {"length": 3.0}
    assert registry.rescore(snapshot, EvalMetrics(6.0, {"sharpe": 0.5})).eval_metrics.metrics == {"sharpe": 0.5}


def test_two_writers_of_one_directory_keep_each_others_runs(tmp_path: Path) -> None:
    """Two processes, or the copies of a callback in the trials of a search."""
    first, second = CheckpointRegistry(tmp_path), CheckpointRegistry(tmp_path)
    for registry in (first, second):
        registry.begin_run()
    for score in (1.0, 2.0):
        save(first, score)
        save(second, 10.0 * score)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    found = sorted((entry["run_id"], entry["eval_metrics"]["primary_score"]) for entry in manifest["snapshots"])
    mine = [(first.run_id, score) for score in (1.0, 2.0)]
    assert found == sorted([*mine, *((second.run_id, score) for score in (10.0, 20.0))])
    assert first.best is not None
    assert first.best.score == 2.0


def test_what_was_promoted_last_is_the_best_whatever_its_score(tmp_path: Path) -> None:
    """A second look found 470 where 480 had been recorded of a snapshot before: it still beat that one."""
    registry = CheckpointRegistry(tmp_path, max_snapshots=2)
    save(registry, 480.0, promoted=True)
    promoted = save(registry, 490.0, promoted=True)
    rescored = registry.rescore(promoted, EvalMetrics(470.0, stderr=1.0, episodes=20))
    assert CheckpointRegistry(tmp_path).best == registry.best == rescored
    save(registry, 485.0)
    assert [snapshot.score for snapshot in registry.ranked_snapshots] == [470.0, 485.0]
    assert registry.load(rescored)
