"""Procedures decide what follows from an evaluation: generators that yield actions and are sent the results.

The actions that it yields are the only effects of a procedure: it reads no clock, and gets every random number as a
result. So an interrupted procedure is resumed by running it again with the results that it already got. Only the engine
decides how an action is performed: at once, or during the next windows.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from keras_optix.evaluators.evaluation import Evaluation
from keras_optix.loop import actions as do
from keras_optix.loop.actions import CANDIDATE, Action
from keras_optix.loop.record import EventKind
from keras_optix.loop.scheduler import Decision, LoopEvent
from keras_optix.loop.scheduler_state import LoopState
from keras_optix.statistics.comparisons import EvaluationResult
from keras_optix.statistics.estimates import Estimate
from keras_optix.store.manifest import PolicySnapshot

MOST_EPISODES = 100  # of a second evaluation

_R = TypeVar("_R")
Asking = Generator[Action, Any, _R]
Procedure = Asking[None]


class Interrupted(Exception):
    """Thrown into a procedure that cannot continue, so that it undoes what it began.

    Args:
        why: The reason, one sentence.
    """


@dataclass(frozen=True)
class Situation:
    """The facts that do not change while a procedure runs.

    Attributes:
        single: Whether a score cannot be measured again for the same weights, so that candidates are not confirmed.
        scores_are_deterministic: Whether the same weights would get the same score again.
        watches: Whether DORMANT leads to WATCHDOG instead of ending `fit`.
        rolls_back: Whether the loop rolls back after a degradation.
        managed: Whether there is a policy manager that evolves policies.
        stores: Whether the policy manager stores a policy for each regime.
        spawns: Largest number of variants in a regime; 0 for no variants.
        variant_windows: Number of windows for which a variant learns.
        mutates: Whether a function of the user changes each variant.
        best: The best before the current evaluation.
        scores: The latest scores, oldest first.
    """

    single: bool = False
    scores_are_deterministic: bool = False
    watches: bool = False
    rolls_back: bool = False
    managed: bool = False
    stores: bool = False
    spawns: int = 0
    variant_windows: int = 0
    mutates: bool = False
    best: PolicySnapshot | None = None
    scores: Sequence[float] = ()


def confirm(
    evaluation: Evaluation, decision: Decision, at: Situation, values: Mapping[str, float]
) -> Asking[tuple[tuple[Decision, ...], bool]]:
    """Evaluates a candidate a second time, independently, and promotes it if this evaluation lies above the best too.

    Args:
        evaluation: The evaluation that made the candidate.
        decision: The decision that it is a candidate.
        at: The situation.
        values: Hyperparameters with which the candidate was trained.

    Returns:
        The decisions, and whether the second evaluation took place in the training environments.
    """
    if at.single:
        accepted = yield do.Accept(evaluation, decision.evidence)
        return (accepted,), False
    # Play as many episodes as in the first evaluation, because fewer could not detect the same difference.
    again: Any = yield do.Evaluate(CANDIDATE, min(evaluation.score.n, MOST_EPISODES), at_once=True)
    in_place = again is None
    if in_place:
        again = yield do.Evaluate(CANDIDATE, leave=True)
    yield from reassess(again.estimate)
    decisions: tuple[Decision, ...] = yield do.Confirm(evaluation, again, dict(values))
    # This comes before the decisions are followed, because one of them may pause learning or restore weights itself.
    yield do.EndEvaluation(keep=decisions[0].event is LoopEvent.IMPROVEMENT)
    return decisions, in_place


def reassess(score: Estimate) -> Procedure:
    """Evaluates the best once more if `score` misses significance only because the best was measured too roughly."""
    best: PolicySnapshot | None = yield do.DoubtBest(score)
    if best is not None:
        yield from evaluate_best(best)


def evaluate_best(best: PolicySnapshot, episodes: int = 0) -> Procedure:
    """Evaluates the best again, if this is possible at once, and pools the result with its score so far."""
    again: EvaluationResult | None = yield do.Evaluate(best, episodes, at_once=True)
    if again is not None:
        yield do.Reassess(again.estimate)


def rest(at: Situation, *, announce: bool) -> Procedure:
    """Ends `fit` or begins to watch the best weights, because the loop is DORMANT.

    Args:
        at: The situation.
        announce: Whether to call the hooks for DORMANT.
    """
    if at.watches:
        best: PolicySnapshot | None = yield do.ReadBest()
        if best is not None:
            # The score of the best is the reference for a drop, so it is measured more exactly first.
            yield from evaluate_best(best, MOST_EPISODES)
            best = yield do.ReadBest()
        if best is not None:
            yield do.Restore(best)
        yield do.PauseLearning()
    else:
        yield do.Stop()
    if announce:
        yield do.AnnounceDormant()
    if at.watches:
        decision: Decision = yield do.Watch()
        yield do.RecordDecision(decision)


def recover(at: Situation) -> Procedure:
    """Learns again after a degradation, without a policy manager, and rolls back first if this was asked for."""
    present: PolicySnapshot | None = yield do.ReadBest()
    best = present or at.best  # an alarm in WATCHDOG has already begun a regime without a best
    if at.rolls_back and best is not None:
        yield do.PauseTuner()
        yield do.Restore(best, rolled_back=True)
        yield do.Record(EventKind.ROLLBACK, f"rolled back to snapshot {best.snapshot_id}")
    yield do.LearnAgain()


def was_watched(decision: Decision) -> bool:
    """Returns whether a degradation was detected while the best weights acted without learning."""
    return decision.before is LoopState.WATCHDOG
