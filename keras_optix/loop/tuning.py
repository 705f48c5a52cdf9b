"""Applies the decisions of a tuner: sets values, stores and restores states, and records the schedule."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from msgspec.structs import replace

from keras_optix.errors import ArgumentError, StateError, describe
from keras_optix.evaluators.evaluation import Evaluation
from keras_optix.evaluators.log_values import numbers_in
from keras_optix.kinds import with_kind
from keras_optix.loop.adapter import Adapter, PolicyRef, TrainingUnit
from keras_optix.loop.hooks import LoopHooks
from keras_optix.loop.lineage import KeptState, Lineage, TuningState
from keras_optix.loop.record import EventKind
from keras_optix.records import HyperparamSet
from keras_optix.statistics.estimates import Evidence
from keras_optix.store.files import Arrays, prefixed, under
from keras_optix.tuners.base_optimizer import BaseOptimizer, TunerDecision
from keras_optix.tuners.schedule import Schedule, ScheduleStep
from keras_optix.tuners.search_space import SearchSpace

Note = Callable[[EventKind, str, Evidence | None, int], None]


@dataclass(frozen=True)
class _Kept:
    """A stored state to which the tuner may return. All its parts belong to the same weights."""

    state: Arrays
    hyperparams: dict[str, float]
    lineage: Lineage


class Tuning:
    """Holds the tuner of a run, with its state, its stored states and schedules.

    Args:
        tuner: The tuner. None: nothing is tuned.
        adapter: Access to the trained agent or model.
        hooks: Objects whose hooks are called after every change.
        note: Writes a record: kind, message, evidence, cost in steps.
        disturb: Called after the weights or values changed, to drop scores from before the change.

    Attributes:
        lineage: Lineage of the current weights: the schedule under which they were trained.
        state: The state of the tuner; None without a tuner.
    """

    def __init__(
        self,
        tuner: BaseOptimizer | None,
        adapter: Adapter,
        hooks: Sequence[LoopHooks],
        note: Note,
        disturb: Callable[[], None],
    ) -> None:
        self._adapter = adapter
        self._waiting: BaseOptimizer | None = None  # until the variables that its names refer to are known
        self._tuner: BaseOptimizer | None = None
        self.state: Any = None
        if tuner is not None and adapter.knows(tuner.names):
            self._tuner = self._bound(tuner)
            self.state = self._tuner.initial_state()
        else:
            self._waiting = tuner
        self._hooks = hooks
        self._note = note
        self._disturb = disturb
        self._broken: tuple[int, str] | None = None
        self._missing: str | None = None  # a state to be stored in place of one that was not finite
        self._kept: dict[str, _Kept] = {}
        self._promoted: dict[int, Lineage] = {}  # by snapshot
        self._in_force: dict[str, float] = {}  # the values that were seen or set last
        self._permanent: dict[str, float] = {}  # values that were meant to stay
        self._steps_before = 0  # steps of the lineage before the latest unit
        self._logs: Mapping[str, Any] = {}  # of the latest unit
        self._window_id = -1  # the latest
        self._start: tuple[str, dict[str, float]] | None = None  # name and values for the first state, once it exists
        self.lineage = Lineage(0, Schedule({}))
        self.warn_of_other_owners = True

    @property
    def schedule(self) -> Schedule:
        """The schedule under which the current weights were trained."""
        return self.lineage.schedule

    def flagged(self, evaluation: Evaluation) -> Evaluation:
        """Returns the evaluation, marked if it belongs to an experiment of the tuner."""
        if self._tuner is None:
            return evaluation
        return dataclasses.replace(
            evaluation,
            counts_towards_plateau=not self._tuner.probe_running(self.state),
            monitored=evaluation.monitored and self._tuner.monitored(self.state),
        )

    def begin(self) -> None:
        """Begins a new run."""
        if self._tuner is None:
            return
        self._begin(self._tuner)

    def join(self) -> None:
        """Starts a tuner that waited until the hyperparameters of the model were known."""
        if self._waiting is not None:
            self._tuner, self._waiting = self._bound(self._waiting), None
            self._begin(self._tuner)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tuned hyperparameters."""
        return () if self._tuner is None else tuple(self._tuner.names)

    @property
    def spaces(self) -> Mapping[str, SearchSpace]:
        """Search space of each tuned hyperparameter."""
        return {} if self._tuner is None else self._tuner.spaces

    @property
    def wanted(self) -> tuple[str, ...] | None:
        """Names of the hyperparameters that are or will be tuned; None if all will be, once they are known."""
        if self._waiting is not None and not self._waiting.bound:
            return None
        return self.names if self._waiting is None else tuple(self._waiting.names)

    def _bound(self, tuner: BaseOptimizer) -> BaseOptimizer:
        """Returns a tuner that knows its search spaces, after checking that its values can be set.

        Raises:
            ConfigurationError: There is nothing to tune.
            HyperparamError: A name or a value is not legal.
        """
        bound = tuner.bound_to(self._adapter.search_spaces)
        for values in bound.values_to_check():
            self._adapter.hyperparams.check(values)
        return bound

    def keep_start(self) -> None:
        """Stores the first state of the run if the tuner asked for it; called once there is a state."""
        if self._start is not None:
            name, tuned = self._start
            self._start = None
            state = dict(self._adapter.get_state())
            if self._is_broken(state, self._window_id):
                self._missing = name
            else:
                self._kept[name] = _Kept(state, tuned, self.lineage)

    def take_broken(self) -> tuple[int, str] | None:
        """Returns and clears that a state which was to be stored is not finite, so that the run must go back to one.

        Returns:
            The number of the window (epoch), and what is not finite; None if nothing was found.
        """
        broken, self._broken = self._broken, None
        return broken

    def keep_missing(self) -> None:
        """Stores the current state in place of one that was not finite, because the tuner may restore it later."""
        name, self._missing = self._missing, None
        if name is not None and self._tuner is not None:
            self._kept[name] = _Kept(dict(self._adapter.get_state()), self._tuned(self._tuner), self.lineage)

    def _begin(self, tuner: BaseOptimizer) -> None:
        before = self._tuned(tuner)
        decision = self._taken(tuner, "begin", tuner.begin(tuner.initial_state(), self._adapter.get_hyperparams()))
        if decision is not None and decision.params:
            values = self._adapter.hyperparams.snapshot()
            self._set(decision.params)
            self._note(EventKind.HYPERPARAMS, self._in_words(decision, values), decision.evidence, 0)
        tuned = self._tuned(tuner)
        # Steps before the tuner joined were made under the values before its decision.
        steps = self.lineage.steps
        self.lineage = Lineage(steps, Schedule(before if steps else tuned))
        if steps and tuned != before:
            self._extend(ScheduleStep(steps, tuned, "" if decision is None else decision.kind, True))
        self._permanent = dict(tuned)
        self._keep_now(decision, tuned)

    def shifted(self) -> None:
        """Lets the tuner begin again, because the environment has changed."""
        if self._tuner is None:
            return
        shifted = self._tuner.shift(self.state, self._adapter.get_hyperparams())
        decision = self._taken(self._tuner, "shift", shifted)
        self._kept = {}
        if decision is not None and decision.params:
            self.set(decision.params, "change_point")
        self._keep_now(decision, self._tuned(self._tuner))

    def count(self, unit: TrainingUnit) -> None:
        """Counts a window (epoch) of learning in the lineage, without telling the tuner."""
        self._window_id = unit.candidate.window_id
        self._steps_before = self.lineage.steps
        self.lineage = replace(self.lineage, steps=self.lineage.steps + unit.steps)

    def take_update(self, unit: TrainingUnit, env_steps: int) -> None:
        """Counts a window (epoch) of learning, and gives its logs to the tuner.

        Args:
            unit: The window (epoch).
            env_steps: Env steps (batches) of the run.
        """
        self.count(unit)
        if self._tuner is None:
            return
        current = self._adapter.get_hyperparams()
        self._record_others(self._tuner, current.params)
        # With `steps_per_execution` several windows have the same logs, which count as one update.
        logs = {} if unit.logs is self._logs else numbers_in(unit.logs)
        self._logs = unit.logs
        updated = self._tuner.observe_update(self.state, env_steps, logs, current)
        decision = self._taken(self._tuner, "observe_update", updated)
        if decision is not None:
            self._apply(decision, unit.candidate)

    def observe(self, evaluation: Evaluation, candidate: PolicyRef) -> None:
        """Gives an evaluation to the tuner, and applies its decision.

        Args:
            evaluation: The score.
            candidate: The weights that earned it.
        """
        if self._tuner is None:
            return
        current = self._adapter.get_hyperparams()
        self._look_for_other_owners(self._tuner, current.params)
        self._in_force = dict(current.params)
        decision = self._taken(self._tuner, "observe", self._tuner.observe(self.state, evaluation, current))
        if decision is not None:
            self._apply(decision, candidate)

    def pause(self) -> None:
        """Ends a probe without a result."""
        if self._tuner is None:
            return
        decision = self._taken(self._tuner, "pause", self._tuner.pause(self.state))
        if decision is not None:
            self._apply(decision, None)

    def set(self, params: Mapping[str, float], kind: str) -> None:
        """Sets values for a reason other than tuning, and calls the hooks.

        Args:
            params: Values by name.
            kind: The reason, in one or two words.
        """
        self._set(params)
        self._permanent |= params
        self._record(params, kind, permanent=True)

    def promoted(self, snapshot_id: int, held: Iterable[int] = (), *, current: bool = False) -> None:
        """Remembers the lineage of weights that were saved as a snapshot.

        Args:
            snapshot_id: Number of the snapshot.
            held: Numbers of other snapshots that may still be restored.
            current: Whether the snapshot has the current weights. Otherwise it has those of the latest evaluation.
        """
        kept = {number: self._promoted[number] for number in held if number in self._promoted}
        self._promoted = kept | {snapshot_id: self.lineage if current else self._lineage_of_candidate()}

    def restored(self, snapshot_id: int) -> None:
        """Continues the schedule of a snapshot, because its weights were restored."""
        self._continue(self._promoted.get(snapshot_id, self.lineage))

    def restarted(self) -> None:
        """Begins a new schedule, because the initial weights of the run were restored."""
        self._continue(Lineage(0, Schedule({} if self._tuner is None else self._tuned(self._tuner))))

    # Helpers

    def _continue(self, lineage: Lineage) -> None:
        """Continues the lineage of weights that were restored. What other weights learned from is left out of it."""
        left_out = self.lineage.schedule.left_out + self.lineage.steps - lineage.steps
        self.lineage = Lineage(lineage.steps, dataclasses.replace(lineage.schedule, left_out=left_out))

    def _taken(self, tuner: BaseOptimizer, method: str, answer: Any) -> TunerDecision | None:
        """Takes over the state that a tuner returned, and returns its decision.

        Raises:
            ArgumentError: The tuner did not return a pair of a state and a decision.
        """
        pair = isinstance(answer, tuple) and len(answer) == 2
        if not pair or not (answer[1] is None or isinstance(answer[1], TunerDecision)):
            raise ArgumentError(
                f"{type(tuner).__name__}.{method} must return a pair: the next state, and a TunerDecision or None. "
                f"Received: {with_kind(answer)}. If nothing changes, `return state, None`."
            )
        decision: TunerDecision | None
        self.state, decision = answer
        return decision

    def _apply(self, decision: TunerDecision, candidate: PolicyRef | None) -> None:
        before = self._adapter.hyperparams.snapshot()
        if decision.keep is not None and not self._keep(decision.keep, candidate, before):
            return
        params = dict(decision.params)
        if decision.restore is not None:
            kept = self._find(decision.restore)
            self._adapter.set_state(kept.state)
            self._continue(kept.lineage)
            # A state is restored with its hyperparameters, except those that the tuner changes at the same time.
            params = kept.hyperparams | params
        changed = self._set(params) if params else False
        for name in decision.drop:
            self._kept.pop(name, None)
        if decision.params:
            self._record(params, decision.kind, permanent=decision.permanent)
        if decision.kind:
            self._note(EventKind.HYPERPARAMS, self._in_words(decision, before), decision.evidence, decision.cost)
        if decision.permanent:
            self._permanent |= params
        if changed or decision.restore is not None:
            self._disturb()

    def _tuned(self, tuner: BaseOptimizer) -> dict[str, float]:
        values = self._adapter.hyperparams.snapshot()
        return {name: values[name] for name in tuner.names}

    def _keep_now(self, decision: TunerDecision | None, tuned: dict[str, float]) -> None:
        """Stores the current state if the first decision of a tuner asks for it."""
        if decision is not None and decision.keep is not None:
            self._start = decision.keep, tuned
        if self._adapter.ready:
            self.keep_start()

    def _keep(self, name: str, candidate: PolicyRef | None, values: Mapping[str, float]) -> bool:
        """Stores the state of the candidate, if it is finite; returns whether it is. See `take_broken` if it is not."""
        if candidate is None or self._tuner is None:
            problem = "A tuner cannot store a state here, because no weights belong to this decision."
            raise StateError(describe(problem, keep=name))
        state = dict(candidate.state())
        if self._is_broken(state, candidate.window_id):
            if name not in self._kept:
                self._missing = name
            return False
        hyperparams = {tuned: values[tuned] for tuned in self._tuner.names}
        self._kept[name] = _Kept(state, hyperparams, self._lineage_of_candidate())
        return True

    def _is_broken(self, state: Arrays, window_id: int) -> bool:
        """Returns whether a state is not finite, and notes it."""
        wrong = self._adapter.not_finite_in(state)
        if wrong:
            self._broken = window_id, f"A weight, optimizer slot or statistic ({wrong})"
        return bool(wrong)

    def _find(self, name: str) -> _Kept:
        if name not in self._kept:
            raise StateError(describe("The tuner wants to restore a state that was not stored.", restore=name))
        return self._kept[name]

    def _lineage_of_candidate(self) -> Lineage:
        """Returns the lineage of the scored weights: before learning from the window, or at the end of the epoch."""
        return (
            self.lineage if self._adapter.scores_are_deterministic else replace(self.lineage, steps=self._steps_before)
        )

    def _set(self, params: Mapping[str, float]) -> bool:
        """Sets values and tells the callbacks; returns whether anything changed."""
        old = self._adapter.get_hyperparams()
        self._adapter.hyperparams.assign(params)
        new = HyperparamSet(self._adapter.hyperparams.snapshot(), self._window_id)
        self._in_force = dict(new.params)
        if new.params == old.params:
            return False
        for hook in self._hooks:
            hook.on_hyperparam_update(old, new)
        return True

    def _record(self, names: Iterable[str], kind: str, *, permanent: bool) -> None:
        """Adds the current values to the schedule."""
        tuned = () if self._tuner is None else self._tuner.names
        now = self._adapter.hyperparams.snapshot()
        mine = {name: now[name] for name in names if name in tuned}
        if mine:
            self._extend(ScheduleStep(self.lineage.steps, mine, kind, permanent))

    def _record_others(self, tuner: BaseOptimizer, current: Mapping[str, float]) -> None:
        """Adds values to the schedule that the tuner did not set: values before a rollback, or set by other code."""
        scheduled = self.lineage.schedule.latest
        other = {name: current[name] for name in tuner.names if current[name] != scheduled.get(name)}
        if other:
            self._extend(ScheduleStep(self._steps_before, other, "current", True))

    def _extend(self, step: ScheduleStep) -> None:
        self.lineage = replace(self.lineage, schedule=self.lineage.schedule.then(step))

    def _in_words(self, decision: TunerDecision, before: Mapping[str, float]) -> str:
        now = self._adapter.hyperparams.snapshot()
        if decision.permanent:
            before = {**before, **self._permanent}  # show the change from the last permanent value, not from a probe's
        changed = [name for name in decision.params if now[name] != before[name]]
        # Values that stay are only listed if all of them stay.
        values = ", ".join(f"{name} {before[name]:.4g} -> {now[name]:.4g}" for name in changed) or ", ".join(
            f"{name} stays {now[name]:.4g}" for name in decision.params
        )
        back = "" if decision.restore is None else f", back to the weights of {decision.restore!r}"
        cost = f" ({decision.cost:,} {self._adapter.step_name})" if decision.cost else ""
        return " ".join(filter(None, (decision.kind, values))) + back + cost

    def _look_for_other_owners(self, tuner: BaseOptimizer, current: Mapping[str, float]) -> None:
        """Warns once if other code changes a tuned hyperparameter."""
        for name in tuner.names:
            before = self._in_force.get(name, current[name])
            if self.warn_of_other_owners and not math.isclose(current[name], before, rel_tol=1e-5):
                self.warn_of_other_owners = False
                warnings.warn(
                    f"{name} has two owners: {type(tuner).__name__} left it at {before:g}, and something else (a "
                    f"ReduceLROnPlateau, a LearningRateScheduler, your own code) changed it to {current[name]:g}. "
                    "Neither knows of the other. Leave one of them out.",
                    stacklevel=2,
                )

    # Resuming

    def save(self) -> tuple[dict[str, np.ndarray], TuningState]:
        """Returns everything that a resumed run needs: the arrays, and the state without arrays."""
        arrays: dict[str, np.ndarray] = {}
        for name, kept in self._kept.items():
            arrays |= prefixed(f"{name}/", kept.state)
        return arrays, TuningState(
            tuner=None if self._tuner is None else self.state,
            kept={name: KeptState(kept.hyperparams, kept.lineage) for name, kept in self._kept.items()},
            promoted=tuple(self._promoted.items()),
            lineage=self.lineage,
            permanent=self._permanent,
            steps_before=self._steps_before,
            window_id=self._window_id,
        )

    def read_tuner(self, values: Any) -> Any:
        """Reads the state of the tuner of an interrupted run, without changing anything.

        Args:
            values: `TuningState.tuner`, as it was read.

        Returns:
            The state; the present state if that run had no tuner.

        Raises:
            StateError: The values are not a state of this tuner.
        """
        return self.state if self._tuner is None or values is None else self._tuner.read_state(values)

    def restore(self, arrays: Arrays, saved: TuningState, tuner: Any) -> None:
        """Restores what `save` returned.

        Args:
            arrays: The saved arrays.
            saved: The saved state.
            tuner: The state of the tuner that `read_tuner` returned.
        """
        self.state = tuner
        self._kept = {
            name: _Kept(under(f"{name}/", arrays), dict(kept.hyperparams), kept.lineage)
            for name, kept in saved.kept.items()
        }
        self._promoted = dict(saved.promoted)
        self.lineage = saved.lineage
        self._permanent = dict(saved.permanent)
        self._steps_before, self._window_id = saved.steps_before, saved.window_id
