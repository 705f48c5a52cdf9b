"""The snapshots of one run, which goes on when the disk cannot be written, and when a file on it is damaged."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from keras_optix.errors import NonFiniteError, RegistryError, describe
from keras_optix.loop.aids import MISSED, Aids
from keras_optix.loop.finite import not_finite_in
from keras_optix.records import EvalMetrics
from keras_optix.store.files import Arrays
from keras_optix.store.manifest import PolicySnapshot, held, new_snapshot, released, scored_again
from keras_optix.store.registry import CheckpointRegistry, refuse_unsavable

_AID: Final = "a snapshot"


class SnapshotStore(Protocol):
    """The part of a registry, or of `RunSnapshots`, that keeps snapshots for the loop."""

    def save(self, state: Mapping[str, np.ndarray], **facts: Any) -> PolicySnapshot:
        """Saves arrays as a snapshot; see `CheckpointRegistry.save`."""
        ...

    def rescore(self, snapshot: PolicySnapshot, eval_metrics: EvalMetrics) -> PolicySnapshot:
        """Gives a snapshot another score."""
        ...

    def hold(self, snapshot: PolicySnapshot, holder: str) -> PolicySnapshot:
        """Protects a snapshot from being pruned."""
        ...

    def release(self, snapshot: PolicySnapshot, holder: str) -> PolicySnapshot:
        """Ends a `hold`."""
        ...

    def held_by(self, holder: str) -> list[PolicySnapshot]:
        """Returns the snapshots that `holder` holds, oldest first."""
        ...


class RunSnapshots:
    """Keeps the snapshots of a run in a registry, and in memory while the registry cannot be written.

    What could not be written is tried again. A snapshot has its number from the beginning, so that nothing that knows
    the number has to learn another one.

    Args:
        registry: The registry, which no other process uses for this run.
        aids: Decide when a failed attempt is repeated.
        not_finite_in: Returns the name of the first of several arrays that is NaN or infinite; empty if there is none.
    """

    def __init__(
        self, registry: CheckpointRegistry, aids: Aids, not_finite_in: Callable[[Arrays], str] = not_finite_in
    ) -> None:
        self._registry, self._aids, self._not_finite_in = registry, aids, not_finite_in
        self._unwritten: dict[tuple[str, int], tuple[PolicySnapshot, Arrays | None]] = {}
        self._lost: set[tuple[str, int]] = set()  # snapshots whose files could not be read

    @property
    def unwritten(self) -> list[PolicySnapshot]:
        """The snapshots that are in memory only, or have changed since they were written."""
        return [snapshot for snapshot, _ in self._unwritten.values()]

    @property
    def directory(self) -> Path:
        """The directory of the registry."""
        return self._registry.directory

    @property
    def run_id(self) -> str | None:
        """The run."""
        return self._registry.run_id

    @property
    def run_folder(self) -> Path:
        """The folder of the run."""
        return self._registry.run_folder

    @property
    def best(self) -> PolicySnapshot | None:
        """The best snapshot on disk; see `CheckpointRegistry.best`."""
        return self._registry.best

    def begin_run(self) -> str:
        """Starts a new run; see `CheckpointRegistry.begin_run`."""
        self._unwritten.clear()
        return self._registry.begin_run()

    def save(self, state: Mapping[str, np.ndarray], **facts: Any) -> PolicySnapshot:
        """Saves arrays with the score that their weights earned.

        Args:
            state: Arrays by name.
            **facts: The arguments of `CheckpointRegistry.save`.

        Returns:
            The snapshot, which may be in memory only.

        Raises:
            NonFiniteError: An array is NaN or infinite.
            RegistryError: The arrays or the score can never be saved.
        """
        wrong = self._not_finite_in(state)
        if wrong:
            problem, fix = "Weights that are not finite are not saved.", "Check what has changed them."
            raise NonFiniteError(describe(problem, fix=fix, array=wrong))
        if self.write_missing():
            saved = self._aids.of(_AID).attempt(lambda: self._registry.save(state, **facts))
            if saved is not MISSED:
                return saved
        numbers = [snapshot.snapshot_id for snapshot in self.unwritten]
        number = 1 + max([self._registry.last_id, *numbers])
        snapshot = new_snapshot(str(self.run_id), number, **facts)
        refuse_unsavable(snapshot)
        self._unwritten[snapshot.key] = snapshot, dict(state)
        self._forget_old(newest=snapshot)
        return snapshot

    def rescore(self, snapshot: PolicySnapshot, eval_metrics: EvalMetrics) -> PolicySnapshot:
        """Gives a snapshot another score."""
        return self._change(
            snapshot,
            lambda: self._registry.rescore(snapshot, eval_metrics),
            lambda known: scored_again(known, eval_metrics),
        )

    def hold(self, snapshot: PolicySnapshot, holder: str) -> PolicySnapshot:
        """Protects a snapshot from being pruned."""
        return self._change(snapshot, lambda: self._registry.hold(snapshot, holder), lambda known: held(known, holder))

    def release(self, snapshot: PolicySnapshot, holder: str) -> PolicySnapshot:
        """Ends a `hold`."""
        return self._change(
            snapshot, lambda: self._registry.release(snapshot, holder), lambda known: released(known, holder)
        )

    def held_by(self, holder: str) -> list[PolicySnapshot]:
        """Returns the snapshots on disk that `holder` holds, oldest first."""
        return self._registry.held_by(holder)

    def load(self, snapshot: PolicySnapshot) -> Arrays:
        """Returns the arrays of a snapshot.

        Raises:
            RegistryError: They cannot be read.
        """
        _, state = self._unwritten.get(snapshot.key, (snapshot, None))
        return self._registry.load(snapshot) if state is None else state

    def load_or_next(self, snapshot: PolicySnapshot) -> tuple[PolicySnapshot, Arrays] | None:
        """Returns a snapshot with its arrays, or the next best of its regime if its file is damaged; or None.

        A warning names both.
        """
        problem: RegistryError | None = None
        for found in [snapshot, *self._next_best(snapshot)]:
            try:
                state = self.load(found)
            except RegistryError as error:
                problem = problem or error
                self._lost.add(found.key)
                continue
            if problem is not None:
                self._warn(f"{problem} Snapshot {found.snapshot_id}, the next best, takes its place: {found.path}.")
            return found, state
        self._warn(f"{problem} No other snapshot of this regime can be read: the current weights stay.")
        return None

    def write_missing(self, *, at_once: bool = False) -> bool:
        """Writes what could not be written before, if it is time to try again; returns whether nothing is missing.

        Args:
            at_once: Whether to try even if the last attempt failed shortly before.
        """
        aid = self._aids.of(_AID)
        for key, (snapshot, state) in list(self._unwritten.items()):
            if aid.attempt(lambda s=snapshot, a=state: self._registry.put(s, a), at_once=at_once) is MISSED:  # type: ignore[misc]
                return False
            del self._unwritten[key]
        return True

    def _change(
        self,
        snapshot: PolicySnapshot,
        on_disk: Callable[[], PolicySnapshot],
        in_memory: Callable[[PolicySnapshot], PolicySnapshot],
    ) -> PolicySnapshot:
        if self.write_missing():
            try:
                changed = self._aids.of(_AID).attempt(on_disk)
            except RegistryError:
                if snapshot.key not in self._lost:
                    self._lost.add(snapshot.key)
                    self._warn(f"Snapshot {snapshot.snapshot_id} is not on disk any more: {snapshot.path}.")
                return in_memory(snapshot)
            if changed is not MISSED:
                return changed
        known, state = self._unwritten.get(snapshot.key, (snapshot, None))
        changed = in_memory(known)
        self._unwritten[snapshot.key] = changed, state
        return changed

    def _forget_old(self, newest: PolicySnapshot) -> None:
        """Drops arrays from memory that no later decision needs: of snapshots that are neither held nor the best."""
        for key, (snapshot, state) in list(self._unwritten.items()):
            replaced = newest.promoted and snapshot.promoted
            if state is not None and key != newest.key and replaced and not snapshot.held_by:
                del self._unwritten[key]

    def _next_best(self, snapshot: PolicySnapshot) -> list[PolicySnapshot]:
        """Returns the other promoted snapshots of the same regime that may be readable, latest first."""
        others = [
            other
            for other in [*self._registry.ranked_snapshots, *self.unwritten]
            if other.promoted and other.regime_index == snapshot.regime_index and other.run_id == snapshot.run_id
        ]
        latest = sorted(others, key=lambda other: -other.snapshot_id)
        return [other for other in latest if other.key != snapshot.key and other.key not in self._lost]

    def _warn(self, message: str) -> None:
        warnings.warn(message, stacklevel=2)
        self._aids.tell(message)
