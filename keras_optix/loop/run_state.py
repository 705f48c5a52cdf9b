"""The state of a whole run, from which an interrupted run continues."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from keras_optix.evaluators.evaluation import Evaluation
from keras_optix.evaluators.score_pool import PoolState
from keras_optix.evaluators.scorer import ScorerState
from keras_optix.loop.adapter import Adapter
from keras_optix.loop.after_evaluation import after_evaluation
from keras_optix.loop.contender import Contender
from keras_optix.loop.ending import Ending
from keras_optix.loop.evaluations import Evaluations, EvaluationsState
from keras_optix.loop.history import LoopHistory
from keras_optix.loop.lineage import TuningState
from keras_optix.loop.manager import Manager
from keras_optix.loop.procedures import Procedure, Situation
from keras_optix.loop.record import LoopRecord
from keras_optix.loop.regime_library import RegimesState
from keras_optix.loop.runner import Runner
from keras_optix.loop.scheduler_state import SchedulerState
from keras_optix.loop.tuning import Tuning
from keras_optix.states import FIX, Count, NonNegative, Positive, State, read_state
from keras_optix.statistics.estimates import Estimate
from keras_optix.store.files import Arrays, under


class Begun(State, frozen=True):
    """The inputs of a procedure, with which it can be run again.

    Attributes:
        evaluation: The evaluation after which the procedure began.
        at: The facts that do not change while it runs.
        values: Hyperparameters when the evaluation was made, by name.
    """

    evaluation: Evaluation
    at: Situation
    values: dict[str, float]

    def procedure(self) -> Procedure:
        """Returns the procedure, at its beginning."""
        return after_evaluation(self.evaluation, self.at, self.values)


class ProcedureState(State, frozen=True):
    """The state of a procedure that waits for windows.

    Attributes:
        begun: The inputs of the procedure.
        sent: The name of each action so far, and its result.
    """

    begun: Begun
    sent: tuple[tuple[str, Any], ...]


class EngineState(State, frozen=True):
    """The state of the engine in a run, without arrays.

    Attributes:
        history: Names of the columns of the table.
        seconds: Seconds of the run.
        units: Number of windows (epochs) taken.
        window_id: Number of the latest window (epoch); -1 before the first.
        env_steps: Environment steps (batches) of training.
        recoveries: Number of recoveries from values that were not finite.
        halved: For each learning rate that is halved because of one, the value before and the one since.
        scheduler: The state of the scheduler.
        evaluator: The state of the evaluator, of a type that the evaluator defines.
        evaluations: The rest of the state of evaluations.
        first_score: The score with which the run began, or None.
        best_played_at: Env steps when the best was promoted or played for the last time.
        replayed: The score of the best in episodes since it was promoted, or None.
        contender: Weights of which it is not decided yet whether they are better than the best, or None.
        tuning: The state of the tuner, its stored states, and schedules.
        manager: The state of the policy manager; None without one.
        regimes: The state of the library of regimes.
        variants: Number of variants tried in this regime.
        procedure: The procedure that waits for windows, or None.
        windows_left: Windows of learning left before the procedure goes on.
        ending: Why the run ends, if that is known: the loop was DORMANT, and may try variants before it ends.
        why: The reason in words.
        pool: Scores that wait for the next evaluation.
        best: Number of the best snapshot, or None.
        records: The events so far.
    """

    history: tuple[str, ...]
    seconds: NonNegative
    units: Count
    window_id: Annotated[int, msgspec.Meta(ge=-1)]
    env_steps: Count
    recoveries: Count
    halved: dict[str, tuple[float, float]]
    scheduler: SchedulerState
    evaluator: ScorerState
    evaluations: EvaluationsState
    first_score: Estimate | None
    best_played_at: Count
    replayed: Estimate | None
    contender: Contender | None
    tuning: TuningState
    manager: Any
    regimes: RegimesState
    variants: Count
    procedure: ProcedureState | None
    windows_left: int
    ending: Ending | None
    why: str
    pool: PoolState
    best: Positive | None
    records: tuple[LoopRecord, ...]


class RunState(State, frozen=True):
    """The state of a whole run, without arrays.

    Attributes:
        loop: The state of the engine.
        adapter: The state of the adapter, of a type that the adapter defines.
        in_place: The state of an evaluation in the training environments; None if there is none.
    """

    loop: EngineState
    adapter: Any
    in_place: Any


def read_run(values: Mapping[str, Any], fix: str = FIX) -> RunState:
    """Reads what `Engine.save` returned, except the parts whose types the evaluator, the tuner and others define.

    Args:
        values: JSON values.
        fix: Advice for messages, one sentence.

    Raises:
        StateError: An entry is missing, unknown, or has the wrong type.
    """
    return read_state(RunState, values, "resume point", fix)


@dataclass(frozen=True)
class Reading:
    """The whole state of a run after reading, with each part read by the object that defines its type.

    Attributes:
        saved: The state as `read_run` returned it.
        history: The table of the run.
        evaluator: The state of the evaluator.
        training: The state of the evaluator that scores the windows of training.
        tuner: The state of the tuner.
        manager: The state of the policy manager; None if there was none.
        adapter: The state of the adapter.
        in_place: The state of an evaluation in the training environments; None if there was none.
    """

    saved: RunState
    history: LoopHistory
    evaluator: ScorerState
    training: ScorerState
    tuner: Any
    manager: Any
    adapter: Any
    in_place: Any


def read_parts(
    arrays: Arrays, saved: RunState, *, adapter: Adapter, evaluations: Evaluations, tuning: Tuning, manager: Manager
) -> Reading:
    """Lets every object read its part of a state, so that all errors are found before anything is changed.

    Args:
        arrays: The saved arrays.
        saved: The rest, read by `read_run`.
        adapter: Access to the trained agent or model.
        evaluations: Makes the evaluations.
        tuning: The tuner, with its stored states and schedules.
        manager: The policy manager.

    Raises:
        StateError: A part does not fit this run. The message names it.
    """
    loop, history = saved.loop, LoopHistory()
    history.restore(under("history/", arrays), loop.history)
    if loop.procedure is not None:
        Runner(lambda action: None).replay(loop.procedure.begun.procedure(), loop.procedure.sent)
    return Reading(
        saved,
        history,
        evaluator=evaluations.read_scorer(loop.evaluator, fell_back=loop.evaluations.fell_back),
        training=evaluations.training.read(loop.evaluations.training),
        tuner=tuning.read_tuner(loop.tuning.tuner),
        manager=None if loop.manager is None else manager.read(loop.manager),
        adapter=adapter.read(under("adapter/", arrays), saved.adapter),
        in_place=None if saved.in_place is None else adapter.read_in_place(saved.in_place),
    )
