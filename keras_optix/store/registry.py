"""Stores snapshots on disk: a file of arrays for each, and one manifest that describes all of them.

::

    checkpoints/
        manifest.json            written last, by rename: it names only complete files
        .lock                    held by the process that changes the manifest
        20261122-212201-3f9a/    one folder per run
            000012.npz           arrays by name, no pickle

Every file is written under a temporary name in the same folder, flushed to the disk and renamed, so that a crash leaves
the old file or the new one, never a part of one. Every change reads the manifest again under the lock, so that several
processes on one directory never undo each other's changes. The system frees the lock of a process that was killed.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from keras_optix.arguments import NamesChecked
from keras_optix.errors import ConfigurationError, DirectoryError, RegistryError, describe
from keras_optix.records import EvalMetrics, HyperparamSet
from keras_optix.reprs import OneLineRepr
from keras_optix.store.directory import check_writable, locked
from keras_optix.store.files import (
    UNREADABLE,
    is_inside,
    make_folder,
    read_arrays,
    read_bytes,
    write_arrays,
    write_atomically,
)
from keras_optix.store.manifest import (
    PolicySnapshot,
    check_snapshot,
    held,
    is_run_id,
    new_snapshot,
    path_of,
    ranked,
    read_manifest,
    released,
    scored_again,
    write_manifest,
)
from keras_optix.store.processes import remove_left_over
from keras_optix.validation import check_agent, check_int, check_kind, check_mapping, check_path

_MANIFEST = "manifest.json"


class Restorable(Protocol):
    """The methods that `CheckpointRegistry.load_best` needs of an agent."""

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Restores weights, optimizer slots and normaliser statistics."""
        ...

    def set_hyperparams(self, hyperparams: HyperparamSet) -> None:
        """Sets hyperparameters."""
        ...


class CheckpointRegistry(NamesChecked, OneLineRepr):
    """Stores the snapshots of runs in a directory.

    A registry on an existing directory shows the latest run in it, and `begin_run` starts a new run. Each run has its
    own best, so the best of an earlier run, perhaps of another environment, is never taken for the best of this run.

    Args:
        directory: The directory, which is made if it does not exist.
        max_snapshots: Largest number of snapshots per run, at least 1. The oldest are removed first. The best, the
            newest and every held snapshot are never removed, even if these are more than `max_snapshots`. Defaults to
            10.

    Raises:
        ConfigurationError: `directory` is not a path, or `max_snapshots` is too small.
        RegistryError: The directory cannot be written, or its manifest cannot be read. A directory that has a manifest
            may be read-only: its snapshots can be read, and what would change them raises an error.

    Examples:
        >>> registry = optix.CheckpointRegistry("checkpoints", max_snapshots=5)
        >>> print(registry.best)  # nothing is saved yet
        None
    """

    def __init__(self, directory: str | os.PathLike[str], max_snapshots: int = 10) -> None:
        self.directory = Path(check_path("directory", directory, fix='Such as CheckpointRegistry("checkpoints").'))
        self.max_snapshots = check_int("max_snapshots", max_snapshots, minimum=1)
        try:
            check_writable(self.directory)
        except DirectoryError:
            if not (self.directory / _MANIFEST).exists():
                raise
        self._run_id: str | None = None
        self._snapshots: list[PolicySnapshot] = []
        self._manifest: bytes | None = None  # the text from which `_snapshots` was read, or to which it was written
        self._run_id = self._refresh()

    @property
    def run_id(self) -> str | None:
        """The run whose snapshots this registry shows, or None in an empty directory."""
        return self._run_id

    @property
    def run_folder(self) -> Path:
        """The folder with the snapshots of the run."""
        return self.directory / (self._run_id or "")

    @property
    def ranked_snapshots(self) -> list[PolicySnapshot]:
        """The snapshots of the run, best first: newest regime, then the latest promoted, then the highest score."""
        return ranked(self._snapshots, self._run_id)

    @property
    def last_id(self) -> int:
        """The highest number of a snapshot of the run; 0 if it has none."""
        return max((s.snapshot_id for s in self._snapshots if s.run_id == self._run_id), default=0)

    @property
    def best(self) -> PolicySnapshot | None:
        """The best snapshot of the run's newest regime, or None."""
        ranked = self.ranked_snapshots
        return ranked[0] if ranked else None

    def held_by(self, holder: str) -> list[PolicySnapshot]:
        """Returns the snapshots of the run that `holder` holds, oldest first."""
        mine = (snapshot for snapshot in self._snapshots if snapshot.run_id == self._run_id)
        return sorted((s for s in mine if holder in s.held_by), key=lambda s: s.snapshot_id)

    def begin_run(self) -> str:
        """Starts a new run in the directory and returns its id.

        Raises:
            RegistryError: The directory cannot be written.
        """
        check_writable(self.directory)
        remove_left_over(self.directory)
        self._run_id = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        return self._run_id

    def continue_run(self, run_id: str) -> None:
        """Continues a run in the directory.

        Raises:
            RegistryError: `run_id` cannot be the name of a run.
        """
        if not is_run_id(run_id):
            raise RegistryError(describe("A run's id must be the name of a folder.", run_id=run_id))
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
        regime_index: int = 0,
        promoted: bool = False,
    ) -> PolicySnapshot:
        """Saves the arrays of an agent with the score that its weights earned.

        Args:
            state: Arrays by name, as an agent's `get_state` returns them.
            eval_metrics: Score of exactly these weights; NumPy numbers are accepted.
            hyperparams: Current hyperparameters.
            policy_version: Version of the weights.
            window_id: The last window that these weights collected.
            env_steps: Environment steps of the run until then.
            regime_index: Number of regimes before this one.
            promoted: Whether this snapshot becomes the best, whatever scores earlier snapshots have.

        Returns:
            The snapshot, which is complete on disk.

        Raises:
            ArgumentError: An argument has the wrong type.
            RegistryError: The snapshot cannot be written.
        """
        check_mapping("state", state, "a mapping of names to arrays", fix="Such as agent.get_state().")
        check_kind("eval_metrics", eval_metrics, EvalMetrics, fix="Such as EvalMetrics(score).")
        check_kind("hyperparams", hyperparams, HyperparamSet, fix="Such as agent.get_hyperparams().")
        if self._run_id is None:
            self.begin_run()
        with self._locked():
            # The lock is held, and the newest snapshot is never pruned, so that no number is used twice.
            snapshot = new_snapshot(
                str(self._run_id),
                1 + self.last_id,
                eval_metrics=eval_metrics,
                hyperparams=hyperparams,
                policy_version=policy_version,
                window_id=window_id,
                env_steps=env_steps,
                regime_index=regime_index,
                promoted=promoted,
            )
            self._put(snapshot, state)
        return snapshot

    def put(self, snapshot: PolicySnapshot, state: Mapping[str, np.ndarray] | None) -> None:
        """Writes a snapshot of this run as it is, in the place of one with the same number if there is one.

        Args:
            snapshot: The snapshot.
            state: Its arrays by name; None if they are written already.

        Raises:
            RegistryError: It cannot be written.
        """
        with self._locked():
            self._put(snapshot, state)

    def _put(self, snapshot: PolicySnapshot, state: Mapping[str, np.ndarray] | None) -> None:
        refuse_unsavable(snapshot)
        others = [s for s in self._snapshots if s.key != snapshot.key]
        if state is not None:
            target = self.directory / snapshot.path
            if not is_inside(target.parent, self.directory):
                raise OSError("the folder of the run is a link that leads out of the directory")
            make_folder(target.parent)
            write_arrays(target, state)
        snapshots = [*others, snapshot]
        dropped = self._too_many(snapshots)
        self._write([s for s in snapshots if s.key not in dropped])
        for key in dropped:
            self._remove(self.directory / path_of(*key))

    def rescore(self, snapshot: PolicySnapshot, eval_metrics: EvalMetrics) -> PolicySnapshot:
        """Gives a snapshot another score, after its weights were evaluated again.

        Args:
            snapshot: The snapshot; an older copy will do.
            eval_metrics: The new score. If it has no further metrics, the snapshot keeps those that it has.

        Returns:
            The snapshot with the new score.

        Raises:
            RegistryError: The snapshot is not (or no longer) in the registry, or the manifest cannot be written.
        """
        with self._locked():
            return self._replace(scored_again(self._current(snapshot), eval_metrics))

    def hold(self, snapshot: PolicySnapshot, holder: str) -> PolicySnapshot:
        """Protects a snapshot from being pruned until `release`, even in later processes.

        Args:
            snapshot: The snapshot; an older copy will do.
            holder: Name of the holder. If it holds the snapshot already, nothing changes.

        Returns:
            The snapshot as it is now.

        Raises:
            ConfigurationError: `holder` is not a name.
            RegistryError: The snapshot is not (or no longer) in the registry, or the manifest cannot be written.
        """
        if not isinstance(holder, str) or not holder:
            raise ConfigurationError(describe("`holder` must be a name, a string that is not empty.", holder=holder))
        with self._locked():
            current = self._current(snapshot)
            if holder in current.held_by:
                return current
            return self._replace(held(current, holder))

    def release(self, snapshot: PolicySnapshot, holder: str) -> PolicySnapshot:
        """Ends a `hold`. A snapshot without holders may be pruned at the next `save`.

        Args:
            snapshot: The snapshot; an older copy will do.
            holder: Name of the holder. If it does not hold the snapshot, nothing happens.

        Returns:
            The snapshot as it is now.

        Raises:
            RegistryError: The snapshot is not (or no longer) in the registry, or the manifest cannot be written.
        """
        with self._locked():
            current = self._current(snapshot)
            if holder not in current.held_by:
                return current
            return self._replace(released(current, holder))

    def load(self, snapshot: PolicySnapshot) -> dict[str, np.ndarray]:
        """Reads the arrays of a snapshot.

        Raises:
            RegistryError: The file is missing, damaged, or not in the directory.
        """
        check_kind("snapshot", snapshot, PolicySnapshot, fix="Such as registry.best.")
        path = self.directory / snapshot.path
        try:
            if not is_inside(path, self.directory):
                raise ValueError("it leads out of the directory")
            return read_arrays(path)
        except UNREADABLE as error:
            raise RegistryError(describe(f"The snapshot could not be read: {error}.", path=str(path))) from error

    def load_best(self, agent: Restorable, *, hyperparams: bool = False) -> PolicySnapshot:
        """Loads the best snapshot into an agent of the same architecture.

        If its file is damaged, the next best that can be read is loaded, and a warning names both.

        Args:
            agent: The agent whose weights, optimizer slots and normaliser statistics are replaced.
            hyperparams: Whether to set the hyperparameters of the snapshot too. Defaults to False: the current values,
                such as those of a tuner, stay.

        Returns:
            The snapshot.

        Raises:
            ArgumentError: `agent` is not an agent.
            RegistryError: There is no snapshot, or it cannot be read.
        """
        check_agent("agent", agent, "set_state", fix="Such as registry.load_best(agent), which returns the snapshot.")
        self._refresh()  # another process on this run may have saved a better snapshot and pruned this one
        failed: list[RegistryError] = []
        for snapshot in self.ranked_snapshots:
            try:
                state = self.load(snapshot)
            except RegistryError as error:
                failed.append(error)
                continue
            if failed:
                warnings.warn(f"{failed[0]} The next best is loaded instead: {snapshot.path}.", stacklevel=2)
            agent.set_state(state)
            if hyperparams:
                agent.set_hyperparams(snapshot.hyperparams)
            return snapshot
        if failed:
            raise failed[0]
        raise RegistryError(
            describe("The registry has no snapshot yet.", directory=str(self.directory), run_id=self._run_id)
        )

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Holds the lock, with the manifest read again, so that no other process changes it."""
        with locked(self.directory):
            self._refresh()
            yield

    def _refresh(self) -> str | None:
        """Reads the manifest if it has changed; returns the latest run in it."""
        path = self.directory / _MANIFEST
        try:
            data = read_bytes(path)
            # Inode and time do not show every change: both can repeat within one tick of the clock.
            if data == self._manifest:
                return self._run_id
            latest, self._snapshots = read_manifest(data)
        except FileNotFoundError:
            return self._run_id
        except (OSError, ValueError) as error:
            raise RegistryError(
                describe(
                    f"The manifest cannot be read: {error}.",
                    fix="Move the directory away, or give another directory.",
                    path=str(path),
                )
            ) from error
        self._manifest = data
        return latest

    def _write(self, snapshots: list[PolicySnapshot]) -> None:
        """Writes the manifest, and makes `snapshots` those of this registry once it is written."""
        data = write_manifest(str(self._run_id), snapshots)
        write_atomically(self.directory / _MANIFEST, lambda file: file.write(data))
        self._snapshots, self._manifest = snapshots, data

    def _current(self, snapshot: PolicySnapshot) -> PolicySnapshot:
        """Returns the snapshot as the manifest has it, because the caller may have an older copy."""
        check_kind("snapshot", snapshot, PolicySnapshot, fix="Such as registry.best.")
        for current in self._snapshots:
            if current.key == snapshot.key:
                return current
        raise RegistryError(
            describe(
                "The registry has no such snapshot. It may have been pruned.",
                fix="`hold` a snapshot that you need later, or raise `max_snapshots`.",
                run_id=snapshot.run_id,
                snapshot_id=snapshot.snapshot_id,
            )
        )

    def _replace(self, snapshot: PolicySnapshot) -> PolicySnapshot:
        refuse_unsavable(snapshot)
        self._write([snapshot if s.key == snapshot.key else s for s in self._snapshots])
        return snapshot

    def _too_many(self, snapshots: list[PolicySnapshot]) -> list[tuple[str, int]]:
        """Returns the keys of the snapshots to prune; the last of `snapshots` is the one just saved."""
        mine = sorted((s for s in snapshots if s.run_id == self._run_id), key=lambda s: s.snapshot_id)
        # `save` returns the newest snapshot, and its caller may hold it next.
        kept = {ranked(snapshots, self._run_id)[0].key, mine[-1].key}
        free = [s.key for s in mine if not s.held_by and s.key not in kept]
        return free[: max(len(mine) - self.max_snapshots, 0)]

    def _remove(self, path: Path) -> None:
        # A file that stays behind only costs space, so a failure here must not make a complete save fail.
        with contextlib.suppress(OSError):
            if is_inside(path, self.directory):
                path.unlink(missing_ok=True)


def refuse_unsavable(snapshot: PolicySnapshot) -> None:
    """Refuses a snapshot that could be written but not read again.

    Raises:
        RegistryError: Its score or another of its facts is not one that a manifest may hold.
    """
    try:
        check_snapshot(snapshot)
    except ValueError as error:
        raise RegistryError(describe(f"The snapshot cannot be saved: {error}.")) from error
