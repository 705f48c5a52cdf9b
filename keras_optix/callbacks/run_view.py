"""The attributes of `OptixCallback` that show a run: state, best snapshot, events, history, progress line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras_optix.formatting import UNKNOWN
from keras_optix.loop.ending import Ending
from keras_optix.loop.engine import Engine
from keras_optix.loop.history import LoopHistory
from keras_optix.loop.record import LoopRecord
from keras_optix.loop.scheduler import BackoffScheduler
from keras_optix.loop.scheduler_state import LoopState, SchedulerState
from keras_optix.reprs import OneLineRepr
from keras_optix.store.manifest import PolicySnapshot
from keras_optix.tuners.base_optimizer import BaseOptimizer
from keras_optix.tuners.schedule import Schedule
from keras_optix.tuners.search_space import SearchSpace


class RunView(OneLineRepr):
    """Base class of `OptixCallback` with the attributes that show its run, which `_loop` holds once `fit` has begun."""

    scheduler: BackoffScheduler
    tuner: BaseOptimizer | None
    _loop: Engine | None

    def _facts(self) -> Mapping[str, str]:
        if self._loop is None:
            return {"state": "has not run"}
        return {"windows": str(self._loop.units), "env_steps": str(self.env_steps), **self.progress()}

    @property
    def state(self) -> LoopState:
        """State of the loop."""
        return self.scheduler_state.loop_state

    @property
    def ending(self) -> Ending | None:
        """Why the loop ended the run; None before its end, and if `fit` ended for another reason, such as `epochs`."""
        return None if self._loop is None else self._loop.performer.ending

    @property
    def scheduler_state(self) -> SchedulerState:
        """State of the scheduler in this run, with the best score for example; before `fit`, the initial state."""
        return self.scheduler.initial_state() if self._loop is None else self._loop.scheduler.state

    @property
    def tuner_state(self) -> Any:
        """State of the tuner in this run, such as a `BackoffState`; None without a tuner, and before `fit`."""
        return None if self._loop is None else self._loop.tuning.state

    @property
    def search_spaces(self) -> Mapping[str, SearchSpace]:
        """Search space of each hyperparameter that the tuner sets in this run: given ones or those of the algorithm."""
        return {} if self._loop is None else self._loop.tuning.spaces

    @property
    def best_snapshot(self) -> PolicySnapshot | None:
        """The best snapshot of the present regime; None until the regime has one, so also after a change point."""
        return None if self._loop is None else self._loop.performer.best.snapshot

    @property
    def events(self) -> list[LoopRecord]:
        """What the loop did and with which evidence, oldest first."""
        return [] if self._loop is None else self._loop.log.records

    @property
    def history(self) -> LoopHistory:
        """The run as a table with a row for each evaluation of an agent, or for each epoch of an ordinary model."""
        return LoopHistory() if self._loop is None else self._loop.history

    @property
    def env_steps(self) -> int:
        """Environment steps (batches) of training since the run began."""
        return 0 if self._loop is None else self._loop.journal.env_steps

    @property
    def step_name(self) -> str:
        """Name of what `env_steps` counts: ``"env steps"``, or ``"steps"`` for an ordinary model."""
        return "env steps" if self._loop is None else self._loop.adapter.step_name

    @property
    def evaluation_env_steps(self) -> int:
        """Environment steps that evaluations took in addition to those of training."""
        return 0 if self._loop is None else self._loop.adapter.evaluation_steps

    @property
    def schedule(self) -> Schedule | None:
        """The hyperparameters under which the current weights were trained; None without a tuner, and before `fit`.

        `fit` writes it to ``schedule.json`` in the folder of the run's snapshots. `ReplaySchedule` applies it again.
        """
        return None if self._loop is None or self.tuner is None else self._loop.tuning.schedule

    def progress(self) -> dict[str, str]:
        """Returns what the progress line of `fit` shows of the loop, by name."""
        loop, best = self._loop, self.best_snapshot
        return {
            "best": UNKNOWN if loop is None or best is None else loop.performer.shown(best),
            "state": self.state.name,
        }
