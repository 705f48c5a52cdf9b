"""Reads the resume point that a run of `fit` continues from, and writes the resume points of the run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras_optix.callbacks.fit_adapter import FitAdapter
from keras_optix.callbacks.termination import TerminatedError
from keras_optix.errors import OptixError
from keras_optix.loop.engine import Engine
from keras_optix.loop.run_state import Reading, read_run
from keras_optix.store.registry import CheckpointRegistry
from keras_optix.store.resume_points import ResumePoint, ResumeStore


class Resuming:
    """Resumes a run that was cut off, and writes resume points.

    Args:
        registry: The registry in whose directory the points are.
        interval: Seconds between two points; None writes none.
        resume: Whether to continue a run that was cut off.

    Attributes:
        point: The point that the run continues from, until it has continued; None for a new run.
        offset: Epochs of the run before the one that Keras counts as the first.
    """

    def __init__(self, registry: CheckpointRegistry, interval: float | None, *, resume: bool) -> None:
        self._registry = registry
        self._store = ResumeStore(registry, interval)
        self._limit: int | None = None  # windows (epochs) of the whole run; None for a run that is not resumed
        self.point: ResumePoint | None = self._store.find() if resume else None
        self._saved = None if self.point is None else read_run(self.point.values, self.point.fix)
        self._reading: Reading | None = None
        self.offset = 0

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

    def begin(self, loop: Engine) -> None:
        """Begins a new run in the registry, or continues the run of the resume point."""
        if self.point is None:
            loop.begin()
        else:
            self._registry.continue_run(self.point.run_id)

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
        # Keras counts epochs from `epoch`, and the epochs before the crash count too.
        self.offset = max(done - restored, 0) if per_epoch == 1 else 0
        self._limit = None if per_epoch is None else epochs * per_epoch

    def after_unit(self, loop: Engine) -> bool:
        """Writes a point if one is due; returns whether a resumed run has completed all its windows (epochs)."""
        if self._store.due:
            self._store.write(*loop.save())
        return self._limit is not None and loop.units >= self._limit

    def end(self) -> None:
        """Deletes the resume points, because a run that has ended leaves nothing to resume."""
        self._store.clear()

    def failed(self, loop: Engine, error: BaseException) -> None:
        """Writes a last point if the error that ended `fit` came between two steps, so that nothing is repeated."""
        between = isinstance(error, TerminatedError) and error.between_steps
        if self._store.writes and (between or loop.adapter.between_steps):
            try:
                self._store.write(*loop.save())
            except OptixError as unwritten:
                error.add_note(f"The last resume point could not be written either: {unwritten}")
