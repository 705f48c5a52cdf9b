"""Protocols of the loop's outputs: the hooks that it calls, and the log that keeps its records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from keras_optix.loop.aids import Aids
from keras_optix.loop.record import LoopRecord
from keras_optix.loop.scheduler_state import LoopState
from keras_optix.records import EvalMetrics, HyperparamSet
from keras_optix.store.manifest import PolicySnapshot


class LoopHooks(Protocol):
    """The hooks that the loop calls; see `keras_optix.LoopCallback`."""

    def on_window_end(self, window_id: int, eval_metrics: EvalMetrics) -> None:
        """Called after a window was scored."""
        ...

    def on_improvement(self, snapshot: PolicySnapshot) -> None:
        """Called after a new best was confirmed and saved."""
        ...

    def on_plateau(self, window_id: int) -> None:
        """Called after ACTIVE became COOLING."""
        ...

    def on_dormant(self, window_id: int) -> None:
        """Called after the loop became DORMANT."""
        ...

    def on_degradation(self, window_id: int) -> None:
        """Called after a degradation made the loop ACTIVE again."""
        ...

    def on_hyperparam_update(self, old: HyperparamSet, new: HyperparamSet) -> None:
        """Called after the loop changed hyperparameters."""
        ...


class RunLog(Protocol):
    """Keeps the records of a run, and shows scalars; see `keras_optix.loggers.loop_log.LoopLog`."""

    records: list[LoopRecord]
    aids: Aids

    @property
    def writes(self) -> bool:
        """Whether scalars are written at all."""
        ...

    def note(self, record: LoopRecord) -> None:
        """Keeps a record."""
        ...

    def snapshot(self, snapshot: PolicySnapshot, path: Path) -> None:
        """Shows a new best, whose file may not be on disk yet."""
        ...

    def tick(self, env_steps: int, window_id: int) -> None:
        """Notes that a window was taken."""
        ...

    def scalars(self, state: LoopState, env_steps: int, values: Mapping[str, float], logs: Mapping[str, float]) -> None:
        """Writes the scalars of a window."""
        ...

    def restore(self, records: Sequence[LoopRecord]) -> None:
        """Takes over the records of the run that is resumed."""
        ...

    def close(self, status: str = "success") -> None:
        """Writes everything that is still pending and closes the log. The records stay readable."""
        ...
