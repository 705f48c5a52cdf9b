"""Reads the resume point that a run of `fit` continues from, and writes the resume points of the run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_optix.callbacks.fit_adapter import FitAdapter
from keras_optix.callbacks.termination import TerminatedError
from keras_optix.errors import DirectoryError, NonFiniteError, OptixError
from keras_optix.loop.engine import Engine
from keras_optix.loop.run_state import Reading, read_run
from keras_optix.store.lease import Lease, refusal
from keras_optix.store.processes import remove_left_over
from keras_optix.store.registry import CheckpointRegistry
from keras_optix.store.resume_points import ResumePoint, ResumeStore

_AID = "the resume point"


class Resuming:
    """Resumes a run that was cut off, and writes resume points. It holds the lease on the run.

    Args:
        registry: The registry in whose directory the points are.
        interval: Seconds between two points; None writes none.
        resume: Whether to continue a run that was cut off. ``"if_free"`` begins a new run if other processes continue
            all of these.

    Attributes:
        point: The point that the run continues from, until it has continued; None for a new run.
        offset: Epochs of the run before the one that Keras counts as the first.

    Raises:
        RegistryError: Another process continues the run, or its resume points cannot be read.
        StateError: The point is not that of a run.
    """

    def __init__(self, registry: CheckpointRegistry, interval: float | None, *, resume: bool | str) -> None:
        self._registry = registry
        self._store = ResumeStore(registry, interval)
        self._limit: int | None = None  # windows (epochs) of the whole run; None for a run that is not resumed
        self._lease: Lease | None = None
        self._notices: list[str] = []
        self.point: ResumePoint | None = None
        self._reading: Reading | None = None
        self.offset = 0
        try:
            self.point = self._find(resume)
            self._saved = None if self.point is None else read_run(self.point.values, self.point.fix)
        except BaseException:
            self.release()
            raise

    def _find(self, resume: bool | str) -> ResumePoint | None:
        for folder in self._store.runs() if resume else ():
            if self._take_lease(folder):
                return self._store.find(folder)
            if resume is True:
                raise refusal(folder)
            self._notices.append(
                f"run {folder.name} is running elsewhere ({Lease(folder).holder()}), and is left alone"
            )
        return None

    def _take_lease(self, folder: Path) -> bool:
        lease = Lease(folder)
        try:
            if not lease.take():
                return False
        except DirectoryError as error:  # a file system without locks: a run goes on without a lease
            self._notices.append(f"other processes cannot be kept from this run: {error}")
        self._lease = lease
        return True

    @property
    def env_steps(self) -> int | None:
        """Environment steps (batches) of the run that was cut off; None for a new run."""
        return None if self._saved is None else self._saved.loop.env_steps

    @property
    def adapter_values(self) -> Any:
        """What the adapter saved of the run that was cut off; None for a new run."""
        return None if self._saved is None else self._saved.adapter

    def read(self, loop: Engine) -> None:
        """Reads and checks the resume point, and changes nothing yet.

        Args:
            loop: Knows what a resume point must contain.

        Raises:
            StateError: The point lacks something, or has something that does not fit this run.
        """
        if self.point is not None and self._saved is not None:
            self._reading = loop.read(self.point.arrays, self._saved)
            self.point.check_growing(loop.adapter.growing)

    def begin(self, loop: Engine) -> None:
        """Begins a new run in the registry, or continues the run of the resume point."""
        if self.point is None:
            loop.begin()
            if self._store.writes:
                self._take_lease(self._registry.run_folder)
        else:
            self._registry.continue_run(self.point.run_id)
            remove_left_over(self._registry.directory)
        for notice in self._notices:
            loop.log.aids.tell(notice)

    def begin_epoch(self, loop: Engine, adapter: FitAdapter, epoch: int, params: Mapping[str, Any]) -> None:
        """Continues the run that was cut off. If another callback restored newer weights, these are kept.

        Args:
            loop: The engine that continues.
            adapter: Knows how many units an epoch has.
            epoch: The epoch that Keras begins with.
            params: The parameters of `fit` that Keras gives to callbacks.
        """
        point, reading, self.point, self._reading = self.point, self._reading, None, None
        if point is None or reading is None:
            return
        done = reading.saved.loop.units
        epochs, per_epoch = int(params.get("epochs") or 1), adapter.units_in_epoch(params.get("steps"))
        restored = 0 if per_epoch is None else epoch * per_epoch
        loop.resume(point.arrays, reading, weights=restored <= done)
        point.restore_growing(adapter.growing)
        # Keras counts epochs from `epoch`, and the epochs before the crash count too.
        self.offset = max(done - restored, 0) if per_epoch == 1 else 0
        self._limit = None if per_epoch is None else epochs * per_epoch

    def after_unit(self, loop: Engine) -> bool:
        """Writes a point if one is due; returns whether a resumed run has completed all its windows (epochs)."""
        if self._store.due:
            loop.log.aids.of(_AID).attempt(lambda: self._write(loop))
        return self._limit is not None and loop.units >= self._limit

    def _write(self, loop: Engine) -> None:
        try:
            saved = loop.save()
        except NonFiniteError as error:  # the point before stays
            loop.recover_from_nan(
                loop.journal.window_id, str(error).partition(".")[0].removesuffix(" is not finite"), None
            )
            return
        self._store.write(*saved, loop.adapter.growing)

    def end(self, loop: Engine) -> None:
        """Deletes the resume points, because a run that has ended leaves nothing to resume."""
        removal = loop.log.aids.of("the removal of the resume points")
        removal.attempt(lambda: self._store.clear(is_running=lambda folder: Lease(folder).is_taken))
        self.release()

    def failed(self, loop: Engine, error: BaseException) -> None:
        """Writes a last point if the error that ended `fit` came between two steps, so that nothing is repeated."""
        between = isinstance(error, TerminatedError) and error.between_steps
        if self._store.writes and (between or loop.adapter.between_steps):
            try:
                self._write(loop)
            except OptixError as unwritten:
                error.add_note(f"The last resume point could not be written either: {unwritten}")

    def release(self) -> None:
        """Gives the lease on the run back. If there is none, nothing happens."""
        lease, self._lease = self._lease, None
        if lease is not None:
            lease.release()
