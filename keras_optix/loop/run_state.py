"""All that a run needs to go on after it was cut off, as one state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from keras_optix.evaluators.evaluation import Evaluation
from keras_optix.evaluators.score_pool import PoolState
from keras_optix.evaluators.scorer import Scorer, ScorerState
from keras_optix.loop.adapter import Adapter
from keras_optix.loop.after_evaluation import after_evaluation
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
from keras_optix.statistics.agreement import AgreementState
from keras_optix.store.files import Arrays, under


class Begun(State, frozen=True):
    """How a procedure began, so that it can be run again.

    Attributes:
        evaluation: The evaluation that it follows from.
        at: What does not change while it runs.
        values: Hyperparameters when the evaluation was made, by name.
    """

    evaluation: Evaluation
    at: Situation
    values: dict[str, float]

    def procedure(self) -> Procedure:
        """The procedure, from its beginning."""
        return after_evaluation(self.evaluation, self.at, self.values)


class ProcedureState(State, frozen=True):
    """A procedure that waits for windows.

    Attributes:
        begun: How it began.
        sent: The name of each action that it asked for, and the result that it was sent.
    """

    begun: Begun
    sent: tuple[tuple[str, Any], ...]


class EngineState(State, frozen=True):
    """What the engine knows of a run, beside arrays.

    Attributes:
        history: Names of the columns of the table.
        seconds: Seconds of the run.
        units: Windows (epochs) taken.
        window_id: Number of the latest one; -1 before the first.
        env_steps: Environment steps (batches) of training.
        recoveries: How often something was not finite.
        scheduler: The state of the scheduler.
        evaluator: What the evaluator remembers; it knows of what kind that is.
        agreement: Whether copies of the environment earn what the environment does.
        tuning: The tuner, its states that are kept, and schedules.
        manager: The state of the policy manager; None without one.
        regimes: The regimes that were met.
        variants: Variants tried in this regime.
        procedure: What the loop was deciding, or None.
        windows_left: Windows that are still to be learned from before the procedure goes on.
        pool: Scores on their way to an evaluation.
        best: Number of the best snapshot, or None.
        records: What the loop did.
    """

    history: tuple[str, ...]
    seconds: NonNegative
    units: Count
    window_id: Annotated[int, msgspec.Meta(ge=-1)]
    env_steps: Count
    recoveries: Count
    scheduler: SchedulerState
    evaluator: ScorerState
    agreement: AgreementState
    tuning: TuningState
    manager: Any
    regimes: RegimesState
    variants: Count
    procedure: ProcedureState | None
    windows_left: int
    pool: PoolState
    best: Positive | None
    records: tuple[LoopRecord, ...]


class RunState(State, frozen=True):
    """What a run needs to go on, beside arrays.

    Attributes:
        loop: What the engine knows.
        adapter: What the adapter needs, which knows of what kind it is.
        in_place: The same of an evaluation in the training environments; None where none is under way.
    """

    loop: EngineState
    adapter: Any
    in_place: Any


def read_run(values: Mapping[str, Any], fix: str = FIX) -> RunState:
    """Reads what `Engine.save` returned, as far as it does not depend on what the run is resumed with.

    Args:
        values: JSON values.
        fix: What to do if it cannot be read, one sentence.

    Raises:
        StateError: Something is missing, is unknown, or is of another kind.
    """
    return read_state(RunState, values, "resume point", fix)


@dataclass(frozen=True)
class Reading:
    """All of a run that was read, each part by who knows of what kind it is.

    Attributes:
        saved: What does not depend on what the run is resumed with.
        history: Its table.
        evaluator: What the evaluator remembers.
        tuner: The state of the tuner.
        manager: That of the policy manager; None where there was none.
        adapter: What the adapter restores.
        in_place: The same of an evaluation in the training environments; None where none was under way.
    """

    saved: RunState
    history: LoopHistory
    evaluator: ScorerState
    tuner: Any
    manager: Any
    adapter: Any
    in_place: Any


def read_parts(
    arrays: Arrays, saved: RunState, *, adapter: Adapter, scorer: Scorer, tuning: Tuning, manager: Manager
) -> Reading:
    """Has everybody read what is theirs, so that nothing is found to be wrong after something was changed.

    Args:
        arrays: As they were saved.
        saved: The rest, read by `read_run`.
        adapter: What is trained.
        scorer: Scores.
        tuning: The tuner and what it needs.
        manager: Evolves policies.

    Raises:
        StateError: Something in it is not what this run needs. The message names it.
    """
    loop, history = saved.loop, LoopHistory()
    history.restore(under("history/", arrays), loop.history)
    if loop.procedure is not None:
        Runner(lambda action: None).replay(loop.procedure.begun.procedure(), loop.procedure.sent)
    return Reading(
        saved,
        history,
        evaluator=scorer.read(loop.evaluator),
        tuner=tuning.read_tuner(loop.tuning.tuner),
        manager=None if loop.manager is None else manager.read(loop.manager),
        adapter=adapter.read(under("adapter/", arrays), saved.adapter),
        in_place=None if saved.in_place is None else adapter.read_in_place(saved.in_place),
    )
