"""Points from which a run of `fit` can be resumed: the one that it begins with, and those that it leaves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras_optix.callbacks.fit_adapter import FitAdapter
from keras_optix.errors import OptixError
from keras_optix.loop.engine import Engine
from keras_optix.loop.run_state import Reading, read_run
from keras_optix.store.registry import CheckpointRegistry
from keras_optix.store.resume_points import ResumePoint, ResumeStore


class Resuming:
    """Resumes a run that was cut off, and writes the points for the next time.

    Args:
        registry: In whose directory the points are.
        interval: Seconds between two of them; None writes none.
        resume: Whether to go on with a run that was cut off.

    Attributes:
        point: Where the run was cut off, until it goes on; None of a new run.
        offset: Epochs before the one that Keras calls the first.
    """

    def __init__(self, registry: CheckpointRegistry, interval: float | None, *, resume: bool) -> None:
        self._registry = registry
        self._store = ResumeStore(registry, interval)
        self._limit: int | None = None  # windows (epochs) of the whole run, where it is resumed
        self.point: ResumePoint | None = self._store.find() if resume else None
        self._saved = None if self.point is None else read_run(self.point.values, self.point.fix)
        self._reading: Reading | None = None
        self.offset = 0

    @property
    def env_steps(self) -> int | None:
        """Environment steps (batches) of the run that was cut off; None of a new run."""
        return None if self._saved is None else self._saved.loop.env_steps

    @property
    def adapter_values(self) -> Any:
        """What the adapter saved of the run that was cut off; None of a new run."""
        return None if self._saved is None else self._saved.adapter

    def read(self, loop: Engine) -> None:
        """Reads all that the run needs to go on, and changes nothing.

        Args:
            loop: Knows of what kinds that is.

        Raises:
            StateError: Something in it is not what this run needs.
        """
        if self.point is not None and self._saved is not None:
            self._reading = loop.read(self.point.arrays, self._saved)

    def begin(self, loop: Engine) -> None:
        """A new run begins, or the registry's run of before goes on."""
        if self.point is None:
            loop.begin()
        else:
            self._registry.continue_run(self.point.run_id)

    def begin_epoch(self, loop: Engine, adapter: FitAdapter, epoch: int, params: Mapping[str, Any]) -> None:
        """Continues the run that was cut off, unless something restored newer weights: then only the loop goes on.

        Args:
            loop: Goes on.
            adapter: Says what an epoch is.
            epoch: The epoch that Keras begins with.
            params: What Keras says of `fit`.
        """
        point, reading, self.point, self._reading = self.point, self._reading, None, None
        if point is None or reading is None:
            return
        done = reading.saved.loop.units
        epochs, per_epoch = int(params.get("epochs") or 1), adapter.units_in_epoch(params.get("steps"))
        restored = 0 if per_epoch is None else epoch * per_epoch
        loop.resume(point.arrays, reading, weights=restored <= done)
        # Keras counts epochs from `epoch`; what was done before counts too.
        self.offset = max(done - restored, 0) if per_epoch == 1 else 0
        self._limit = None if per_epoch is None else epochs * per_epoch

    def after_unit(self, loop: Engine) -> bool:
        """Writes a point if it is time; returns whether a resumed run has had all that it was to have."""
        if self._store.due:
            self._store.write(*loop.save())
        return self._limit is not None and loop.units >= self._limit

    def end(self) -> None:
        """A run that ended leaves nothing to resume."""
        self._store.clear()

    def failed(self, loop: Engine, error: BaseException) -> None:
        """`fit` ended by an error. If it came between two steps, all is as after a step, and nothing is repeated."""
        if self._store.writes and loop.adapter.between_steps:
            try:
                self._store.write(*loop.save())
            except OptixError as unwritten:
                error.add_note(f"And there is no point to resume from: {unwritten}")
