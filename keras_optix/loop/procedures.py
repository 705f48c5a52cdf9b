"""Procedures decide what follows from an evaluation: generators that yield actions and are sent the results.

The actions that it yields are the only effects of a procedure: it reads no clock, and gets every random number as a
result. So an interrupted procedure is resumed by running it again with the results that it already got. Only the engine
decides how an action is performed: at once, or during the next windows.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from keras_optix.loop import actions as do
from keras_optix.loop.actions import Action
from keras_optix.loop.record import EventKind
from keras_optix.loop.scheduler import Decision
from keras_optix.loop.scheduler_state import LoopState
from keras_optix.statistics.comparisons import EvaluationResult
from keras_optix.statistics.estimates import Comparison, Estimate, compare, pool
from keras_optix.statistics.levels import LIKELY_Z, SURE_Z
from keras_optix.store.manifest import PolicySnapshot

MOST_EPISODES = 100  # of a second evaluation
_FIRST_PROOF, _PROOF = 5, 20  # episodes of the current weights that show whether they are worse than the best
_FALLEN = "the current weights in fresh episodes, compared with the best"

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
        target: Score at which the run ends, as the loop counts it (higher is better); None for no target.
        first_score: The score with which the run began, that of the untrained policy; None if there is none.
        fewest: Least number of episodes of the first comparison of a candidate.
        margin: By how much a candidate must exceed the best.
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
    target: float | None = None
    first_score: Estimate | None = None
    fewest: int = 0
    margin: float = 0.0


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
    """Learns again after a degradation, without a policy manager, and rolls back first if the fall is proven.

    Fresh episodes prove it where they can be played at once. Elsewhere the alarm has to do.
    """
    present: PolicySnapshot | None = yield do.ReadBest()
    best = present or at.best  # an alarm in WATCHDOG has already begun a regime without a best
    if at.rolls_back and best is not None:
        known: Estimate | None = yield do.ReadBestScore()
        compared = None if known is None or at.single else (yield from _compare_current(known))
        if compared is not None and compared.z > -LIKELY_Z:
            message = f"kept the weights: they are not proven to be worse than snapshot {best.snapshot_id}"
            yield do.Record(EventKind.KEPT, message, compared.evidence)
        else:
            yield do.PauseTuner()
            yield do.Restore(best, rolled_back=True)
            evidence = None if compared is None else compared.evidence
            yield do.Record(EventKind.ROLLBACK, f"rolled back to snapshot {best.snapshot_id}", evidence)
    yield do.LearnAgain()


def _compare_current(best: Estimate) -> Asking[Comparison | None]:
    """Compares the current weights with the best in fresh episodes: few if the fall is clear by then.

    Returns:
        The comparison; None if no episodes can be played at once.
    """
    fresh: Estimate | None = None
    compared: Comparison | None = None
    for episodes in (_FIRST_PROOF, _PROOF - _FIRST_PROOF):
        again: EvaluationResult | None = yield do.Evaluate(do.CURRENT, episodes, at_once=True)
        if again is None:
            break
        fresh = again.estimate if fresh is None else pool(fresh, again.estimate)
        compared = compare(fresh, best, _FALLEN)
        if compared.z < -SURE_Z:
            break
    return compared


def was_watched(decision: Decision) -> bool:
    """Returns whether a degradation was detected while the best weights acted without learning."""
    return decision.before is LoopState.WATCHDOG
