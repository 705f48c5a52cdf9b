"""The registry: what is saved is read back, the best is never lost, damage is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keras_optix.control.records import EvalMetrics, HyperparamSet
from keras_optix.control.registry import CheckpointRegistry, PolicySnapshot
from keras_optix.errors import ConfigurationError, RegistryError


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


def test_the_worst_are_pruned_with_their_files_and_the_best_stays(tmp_path: Path) -> None:
    registry = CheckpointRegistry(tmp_path, max_snapshots=3)
    for score in (5.0, 9.0, 1.0, 3.0, 4.0):
        save(registry, score)
    assert [s.score for s in registry.ranked_snapshots] == [9.0, 5.0, 4.0]
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
    save(registry, 500.0, era=0)
    save(registry, 200.0, era=1)
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


def test_paths_in_the_manifest_are_relative(tmp_path: Path) -> None:
    save(CheckpointRegistry(tmp_path / "a"), 1.0)
    (tmp_path / "a").rename(tmp_path / "b")
    moved = CheckpointRegistry(tmp_path / "b")
    assert moved.load(moved.best)["optimizer/000"] == 7


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["snapshots"][0].update(path="/etc/passwd"),
        lambda m: m["snapshots"][0].update(path="../outside.npz"),
        lambda m: m["snapshots"][0].pop("path"),
        lambda m: m.update(snapshots=7),
        lambda m: m.update(schema=99),
    ],
)
def test_a_manifest_that_was_tampered_with_is_refused(tmp_path: Path, change: Any) -> None:
    save(CheckpointRegistry(tmp_path), 1.0)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    change(manifest)
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RegistryError, match=r"manifest"):
        CheckpointRegistry(tmp_path)


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
    with pytest.raises(RegistryError, match=r"no such snapshot.*snapshot_id=1"):
        registry.rescore(lucky, EvalMetrics(7.0))


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


def test_what_was_crowned_last_is_the_best_whatever_its_score(tmp_path: Path) -> None:
    """A second look found 470 where 480 had been recorded of a snapshot before: it still beat that one."""
    registry = CheckpointRegistry(tmp_path, max_snapshots=2)
    save(registry, 480.0, crowned=True)
    crowned = save(registry, 490.0, crowned=True)
    rescored = registry.rescore(crowned, EvalMetrics(470.0, stderr=1.0, episodes=20))
    assert CheckpointRegistry(tmp_path).best == registry.best == rescored
    save(registry, 485.0)
    assert [snapshot.score for snapshot in registry.ranked_snapshots] == [470.0, 485.0]
    assert registry.load(rescored)
