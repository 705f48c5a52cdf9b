"""Snapshots on disk: a folder of arrays each, and one manifest that says what they are.

::

    checkpoints/
        manifest.json            written last, by rename: it names only what is complete
        20261122-212201-3f9a/    one folder per run
            000012.npz           arrays by name, no pickle

Every write goes to a temporary name beside its target, is flushed to the disk and renamed, so that a crash leaves the
old file or the new one, never half of one.
"""

from __future__ import annotations

import json
import os
import secrets
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from keras_optix.control.records import EvalMetrics, HyperparamSet
from keras_optix.errors import RegistryError, describe
from keras_optix.validation import check_int

_MANIFEST = "manifest.json"
_SCHEMA = 1
UNREADABLE = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile)  # what a damaged file of arrays raises


class Restorable(Protocol):
    """What `CheckpointRegistry.load_best` loads into: an agent."""

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Restores weights, optimizer slots and normaliser statistics."""
        ...

    def set_hyperparams(self, hyperparams: HyperparamSet) -> None:
        """Sets hyperparameters."""
        ...


@dataclass(frozen=True)
class PolicySnapshot:
    """A version of the weights on disk with the score that it earned.

    Attributes:
        snapshot_id: Number of the snapshot in its run, from 1.
        run_id: The run that it belongs to.
        path: File of its arrays, relative to the registry's directory.
        policy_version: Version of the weights.
        window_id: The last window that these weights collected before they were saved.
        env_steps: Environment steps of the run until then.
        eval_metrics: Score of exactly these weights, with standard error and number of episodes.
        hyperparams: Hyperparameters in force when they were reached.
        era: Worlds seen before this one (see `SchedulerState.era`).
        created: Unix time.
        crowned: Whether it was the loop's best when it was saved. The latest of these is the best, even where a second
            look at it found a lower score than a snapshot before it had: it beat that one when both were compared.
    """

    snapshot_id: int
    run_id: str
    path: str
    policy_version: int
    window_id: int
    env_steps: int
    eval_metrics: EvalMetrics
    hyperparams: HyperparamSet
    era: int
    created: float
    crowned: bool = False

    @property
    def score(self) -> float:
        """The score; every snapshot has one."""
        score = self.eval_metrics.primary_score
        return -np.inf if score is None else score


class CheckpointRegistry:
    """Keeps the snapshots of runs in a directory.

    A registry that is opened on an existing directory sees the latest run in it; `begin_run` starts a new one, and the
    best of an earlier run, maybe of another environment, is never mistaken for the best of this one.

    Args:
        directory: Made if it does not exist.
        max_snapshots: Snapshots kept per run, at least 1; the worst are removed first, the best never. Defaults
            to 10.

    Raises:
        RegistryError: The directory cannot be written, or its manifest cannot be read.
    """

    def __init__(self, directory: str | os.PathLike[str], max_snapshots: int = 10) -> None:
        self.directory = Path(directory)
        self.max_snapshots = check_int("max_snapshots", max_snapshots, minimum=1)
        self._check_writable()
        self._written: tuple[int, int] | None = None  # which manifest was written here last
        self._run_id, self._snapshots = self._read_manifest()

    @property
    def run_id(self) -> str | None:
        """The run whose snapshots this registry shows, or None in an empty directory."""
        return self._run_id

    @property
    def run_folder(self) -> Path:
        """Where the snapshots of the run lie."""
        return self.directory / (self._run_id or "")

    @property
    def ranked_snapshots(self) -> list[PolicySnapshot]:
        """The snapshots of the run, best first: newest era, then what the loop crowned last, then highest score."""
        mine = [snapshot for snapshot in self._snapshots if snapshot.run_id == self._run_id]
        era = max((snapshot.era for snapshot in mine), default=0)
        crowned = max((s.snapshot_id for s in mine if s.crowned and s.era == era), default=0)
        return sorted(mine, key=lambda s: (-s.era, s.snapshot_id != crowned, -s.score, s.snapshot_id))

    @property
    def best(self) -> PolicySnapshot | None:
        """The best snapshot of the run's newest era, or None."""
        ranked = self.ranked_snapshots
        return ranked[0] if ranked else None

    def begin_run(self) -> str:
        """Starts a new run in the directory and returns its id."""
        self._run_id = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        return self._run_id

    def continue_run(self, run_id: str) -> None:
        """Goes on with a run in the directory."""
        self._run_id = run_id

    def save(
        self,
        state: Mapping[str, np.ndarray],
        *,
        eval_metrics: EvalMetrics,
        hyperparams: HyperparamSet,
        policy_version: int = 0,
        window_id: int = 0,
        env_steps: int = 0,
        era: int = 0,
        crowned: bool = False,
    ) -> PolicySnapshot:
        """Saves arrays with the score that they earned.

        Args:
            state: Arrays by name, as an agent's `get_state` gives them.
            eval_metrics: Score of exactly these weights; NumPy numbers are accepted.
            hyperparams: Hyperparameters in force.
            policy_version: Version of the weights.
            window_id: The last window that they collected.
            env_steps: Environment steps of the run until then.
            era: Worlds seen before this one.
            crowned: It is the best from now on, whatever the scores of those before.

        Returns:
            The snapshot, complete on disk.

        Raises:
            RegistryError: It cannot be written.
        """
        if self._run_id is None:
            self.begin_run()
        run_id = str(self._run_id)
        snapshot_id = 1 + max((s.snapshot_id for s in self._snapshots if s.run_id == run_id), default=0)
        snapshot = PolicySnapshot(
            snapshot_id=snapshot_id,
            run_id=run_id,
            path=f"{run_id}/{snapshot_id:06d}.npz",
            policy_version=int(policy_version),
            window_id=int(window_id),
            env_steps=int(env_steps),
            eval_metrics=_plain_metrics(eval_metrics),
            hyperparams=hyperparams,
            era=int(era),
            created=time.time(),
            crowned=bool(crowned),
        )
        try:
            target = self.directory / snapshot.path
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(target, lambda file: np.savez(file, allow_pickle=False, **state))
            self._snapshots.append(snapshot)
            dropped = self._prune()
            self._write_manifest()
            for old in dropped:
                (self.directory / old.path).unlink(missing_ok=True)
        except OSError as error:
            raise RegistryError(
                describe(f"The snapshot could not be written: {error}.", directory=str(self.directory))
            ) from error
        return snapshot

    def rescore(self, snapshot: PolicySnapshot, eval_metrics: EvalMetrics) -> PolicySnapshot:
        """Gives a snapshot another score, after its weights were evaluated again.

        Returns:
            The snapshot with its new score.

        Raises:
            RegistryError: It is not in the registry (any more), or the manifest cannot be written.
        """
        if snapshot not in self._snapshots:
            raise RegistryError(describe("The registry has no such snapshot.", snapshot_id=snapshot.snapshot_id))
        rescored = replace(snapshot, eval_metrics=_plain_metrics(eval_metrics))
        self._snapshots[self._snapshots.index(snapshot)] = rescored
        try:
            self._write_manifest()
        except OSError as error:
            raise RegistryError(
                describe(f"The manifest could not be written: {error}.", directory=str(self.directory))
            ) from error
        return rescored

    def load(self, snapshot: PolicySnapshot) -> dict[str, np.ndarray]:
        """Reads the arrays of a snapshot.

        Raises:
            RegistryError: The file is missing or damaged.
        """
        path = self.directory / snapshot.path
        try:
            return read_arrays(path)
        except UNREADABLE as error:
            raise RegistryError(describe(f"The snapshot could not be read: {error}.", path=str(path))) from error

    def load_best(self, agent: Restorable, *, hyperparams: bool = False) -> PolicySnapshot:
        """Loads the best snapshot into an agent of the same architecture.

        Args:
            agent: Its weights, optimizer slots and normaliser statistics are replaced.
            hyperparams: Also set the hyperparameters of the snapshot. Defaults to False: a tuner's values stay.

        Returns:
            The snapshot.

        Raises:
            RegistryError: There is none, or it cannot be read.
        """
        best = self.best
        if best is None:
            raise RegistryError(
                describe("The registry has no snapshot yet.", directory=str(self.directory), run_id=self._run_id)
            )
        agent.set_state(self.load(best))
        if hyperparams:
            agent.set_hyperparams(best.hyperparams)
        return best

    def _check_writable(self) -> None:
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            probe = self.directory / f".write-test-{secrets.token_hex(4)}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise RegistryError(
                describe(
                    f"The checkpoint directory cannot be written: {error}.",
                    fix="Give a directory that you may write to.",
                    directory=str(self.directory),
                )
            ) from error

    def _prune(self) -> list[PolicySnapshot]:
        dropped = self.ranked_snapshots[self.max_snapshots :]
        self._snapshots = [snapshot for snapshot in self._snapshots if snapshot not in dropped]
        return dropped

    def _write_manifest(self) -> None:
        path = self.directory / _MANIFEST
        if path.exists() and _identity(path) != self._written:
            # Another process, or a copy of the callback, has written since: its runs are its own.
            others = [snapshot for snapshot in self._read_manifest()[1] if snapshot.run_id != self._run_id]
            self._snapshots = [*others, *(snapshot for snapshot in self._snapshots if snapshot.run_id == self._run_id)]
        manifest = {"schema": _SCHEMA, "run_id": self._run_id, "snapshots": [_to_json(s) for s in self._snapshots]}
        text = json.dumps(manifest)
        write_atomically(path, lambda file: file.write(text.encode()))
        self._written = _identity(path)

    def _read_manifest(self) -> tuple[str | None, list[PolicySnapshot]]:
        path = self.directory / _MANIFEST
        if not path.exists():
            return None, []
        try:
            manifest = json.loads(path.read_text())
            if manifest["schema"] != _SCHEMA:
                raise RegistryError(
                    describe(f"The manifest has another schema than {_SCHEMA}.", schema=manifest["schema"])
                )
            return manifest["run_id"], [_snapshot_from_json(entry) for entry in manifest["snapshots"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RegistryError(
                describe(
                    f"The manifest cannot be read: {error}.",
                    fix="Move the directory away, or give another one.",
                    path=str(path),
                )
            ) from error


def _identity(path: Path) -> tuple[int, int]:
    """Tells a file from one that was renamed over it."""
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


def _to_json(snapshot: PolicySnapshot) -> dict[str, Any]:
    # Not `asdict`, which copies what is in there and takes ten times as long.
    nested = {"eval_metrics": vars(snapshot.eval_metrics), "hyperparams": vars(snapshot.hyperparams)}
    return vars(snapshot) | nested


def _snapshot_from_json(entry: dict[str, Any]) -> PolicySnapshot:
    path = Path(entry["path"])
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"path {entry['path']!r} leaves the directory")
    records = {
        "eval_metrics": EvalMetrics(**entry["eval_metrics"]),
        "hyperparams": HyperparamSet(**entry["hyperparams"]),
    }
    return PolicySnapshot(**(entry | records))


def _plain_metrics(metrics: EvalMetrics) -> EvalMetrics:
    """The same metrics with Python numbers, which JSON can hold."""

    def number(value: Any) -> float | None:
        return None if value is None else float(value)

    return EvalMetrics(
        primary_score=number(metrics.primary_score),
        metrics={str(name): float(value) for name, value in metrics.metrics.items()},
        episode_id=int(metrics.episode_id),
        stderr=number(metrics.stderr),
        episodes=None if metrics.episodes is None else int(metrics.episodes),
    )


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Reads a file of arrays by name, without pickle; raises one of `UNREADABLE` if it is missing or damaged."""
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def write_atomically(target: Path, write: Any) -> None:
    """Writes to a temporary file beside `target`, flushes it to the disk and renames it over `target`."""
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
