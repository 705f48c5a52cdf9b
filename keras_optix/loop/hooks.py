"""Who hears what the loop decides, and who keeps what it did, as the loop sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from keras_optix.loop.record import LoopRecord
from keras_optix.loop.scheduler_state import LoopState
from keras_optix.records import EvalMetrics, HyperparamSet
from keras_optix.store.manifest import PolicySnapshot


class LoopHooks(Protocol):
    """What the loop calls; see `keras_optix.LoopCallback`."""

    def on_window_end(self, window_id: int, eval_metrics: EvalMetrics) -> None:
        """A window was scored."""
        ...

    def on_improvement(self, snapshot: PolicySnapshot) -> None:
        """A new best was confirmed and saved."""
        ...

    def on_plateau(self, window_id: int) -> None:
        """ACTIVE became COOLING."""
        ...

    def on_dormant(self, window_id: int) -> None:
        """The loop became DORMANT."""
        ...

    def on_degradation(self, window_id: int) -> None:
        """The loop is ACTIVE again after a degradation."""
        ...

    def on_hyperparam_update(self, old: HyperparamSet, new: HyperparamSet) -> None:
        """The loop changed hyperparameters."""
        ...


class RunLog(Protocol):
    """Keeps the records of a run, and shows scalars; see `keras_optix.loggers.loop_log.LoopLog`."""

    records: list[LoopRecord]

    @property
    def writes(self) -> bool:
        """Whether scalars are written at all."""
        ...

    def note(self, record: LoopRecord) -> None:
        """Keeps a record."""
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
        """Writes out what is left; records stay."""
        ...
