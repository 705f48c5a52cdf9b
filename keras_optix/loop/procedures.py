"""What follows from an evaluation, from top to bottom: procedures that yield actions and are sent results.

A procedure is a generator. It has no other effect than the actions that it yields, reads no clock and draws no number
that it was not sent. So one that was cut off is resumed by running it again with the results that it already had, and
the engine alone decides how an action is performed: at once, or over windows to come.
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
    """Thrown into a procedure that cannot go on; it undoes what it began.

    Args:
        why: One sentence.
    """


@dataclass(frozen=True)
class Situation:
    """What does not change while a procedure runs.

    Attributes:
        single: Whether a score cannot be had a second time for the same weights: then none is confirmed.
        scores_are_deterministic: Whether the same weights would get the same score again.
        watches: Whether DORMANT becomes WATCHDOG, and does not end `fit`.
        rolls_back: Whether a degradation is answered by a rollback.
        managed: Whether a policy manager evolves policies.
        stores: Whether it keeps a policy of each regime.
        spawns: Variants of a regime at most; 0: none.
        variant_windows: Windows that a variant learns.
        mutates: Whether the user's function changes a variant.
        best: The best before the evaluation at hand.
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
    """A candidate becomes the best if a second, independent evaluation of its weights says so too.

    Args:
        evaluation: The one that made it a candidate.
        decision: That it did.
        at: The situation.
        values: Hyperparameters that it was trained with.

    Returns:
        What was decided, and whether that was in the windows to come.
    """
    if at.single:
        accepted = yield do.Accept(evaluation, decision.evidence)
        return (accepted,), False
    # As many episodes as it rested on: fewer would miss what it could see.
    again: Any = yield do.Evaluate(CANDIDATE, min(evaluation.score.n, MOST_EPISODES), at_once=True)
    in_place = again is None
    if in_place:
        again = yield do.Evaluate(CANDIDATE, leave=True)
    yield from reassess(again.estimate)
    decisions: tuple[Decision, ...] = yield do.Confirm(evaluation, again, dict(values))
    # Before the decisions are followed: one of them may pause learning or restore weights itself.
    yield do.EndEvaluation(keep=decisions[0].event is LoopEvent.IMPROVEMENT)
    return decisions, in_place


def reassess(score: Estimate) -> Procedure:
    """Evaluates the best once more if only its own uncertainty keeps `score` from being better."""
    best: PolicySnapshot | None = yield do.DoubtBest(score)
    if best is not None:
        yield from evaluate_best(best)


def evaluate_best(best: PolicySnapshot, episodes: int = 0) -> Procedure:
    """Evaluates the best again where that can be had at once, and pools what comes out with what was known."""
    again: EvaluationResult | None = yield do.Evaluate(best, episodes, at_once=True)
    if again is not None:
        yield do.Reassess(again.estimate)


def rest(at: Situation, *, announce: bool) -> Procedure:
    """DORMANT: `fit` ends, or the best weights are watched.

    Args:
        at: The situation.
        announce: Call the hooks of a DORMANT.
    """
    if at.watches:
        best: PolicySnapshot | None = yield do.ReadBest()
        if best is not None:
            # What is known of the best is what a drop is measured from.
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
    """After a degradation, without a policy manager: roll back if asked for, and learn again."""
    present: PolicySnapshot | None = yield do.ReadBest()
    best = present or at.best  # an alarm of the watchdog has begun a regime without a best already
    if at.rolls_back and best is not None:
        yield do.PauseTuner()
        yield do.Restore(best, rolled_back=True)
        yield do.Record(EventKind.ROLLBACK, f"rolled back to snapshot {best.snapshot_id}")
    yield do.LearnAgain()


def was_watched(decision: Decision) -> bool:
    """Whether the best weights acted when a degradation was seen, and did not learn."""
    return decision.before is LoopState.WATCHDOG
