"""The procedure that runs after every evaluation: it decides, confirms a candidate, and carries decisions out."""

from __future__ import annotations

from collections.abc import Mapping

from keras_optix.evaluators.evaluation import Evaluation
from keras_optix.loop import actions as do
from keras_optix.loop.actions import KnownPolicy
from keras_optix.loop.confirmation import compare_contender, confirm
from keras_optix.loop.final import reach_target
from keras_optix.loop.procedures import Asking, Procedure, Situation, reassess, recover, rest, was_watched
from keras_optix.loop.regime_procedures import after_alarm, after_return, at_dormant, suspect_change
from keras_optix.loop.scheduler import Decision, LoopEvent

_ENDINGS = (LoopEvent.DORMANT, LoopEvent.DEGRADATION)  # events after which the loop may restore other weights
_UNDECIDED = (LoopEvent.NONE, LoopEvent.PLATEAU)  # events that leave time for the contender


def after_evaluation(evaluation: Evaluation, at: Situation, values: Mapping[str, float]) -> Procedure:
    """Does everything that follows from an evaluation.

    Args:
        evaluation: The evaluation.
        at: The situation.
        values: Hyperparameters with which the evaluated weights were trained.
    """
    if not evaluation.cheap_to_confirm:
        yield from reassess(evaluation.score)  # otherwise the comparison of a candidate evaluates the best if need be
    decision: Decision = yield do.Observe(evaluation)
    decisions: tuple[Decision, ...] = (decision,)
    later = gone = False
    if decision.event is LoopEvent.CANDIDATE:
        yield do.RecordDecision(decision)
        decisions, later = yield from confirm(evaluation, decision, at, values)
    elif at.scores_are_deterministic:
        yield do.SaveIfHigher()
    for decided in decisions:
        yield do.Follow(decided)
        if decided.event is LoopEvent.IMPROVEMENT and (yield from reach_target(at)):
            return
        if decided.event in _ENDINGS:
            yield from _after_ending(decided, at)
            gone = at.managed or at.rolls_back  # the evaluated weights, or their regime, may no longer be current
    if later:
        return
    gone = gone or (at.managed and (yield from _begin_regime(evaluation, decisions[0], at)))
    if gone:
        return
    yield do.Tune(evaluation)
    if decisions[0].event in _UNDECIDED:
        yield from _let_contender_play(at)


def _let_contender_play(at: Situation) -> Procedure:
    """Compares the contender with the best again, and ends the run if it is promoted and has reached the target."""
    promoted = yield from compare_contender(at, progress=True)
    if promoted:
        yield from reach_target(at)


def _begin_regime(evaluation: Evaluation, decision: Decision, at: Situation) -> Asking[bool]:
    """Returns whether a regime has begun, or a known one may have returned, without an alarm."""
    if (yield from _return_to_known_regime(at)):
        return True
    if decision.event not in _UNDECIDED:
        return False
    changed = yield from suspect_change(evaluation.score, at)
    return changed


def _return_to_known_regime(at: Situation) -> Asking[bool]:
    """Returns whether the detector named a known regime, after its policy was compared with the current weights."""
    known: KnownPolicy | None = yield do.OfferPolicy()
    if known is None:
        return False
    yield do.PauseTuner()
    yield from after_return(known, at)
    yield do.Finish()
    return True


def _after_ending(decision: Decision, at: Situation) -> Procedure:
    """Does what follows when the loop becomes DORMANT, or after a degradation."""
    dormant = decision.event is LoopEvent.DORMANT
    if dormant:
        yield from compare_contender(at, progress=False, insists=True)
    if not at.managed:
        yield from rest(at, announce=True) if dormant else recover(at)
        return
    yield do.PauseTuner()
    yield from at_dormant(at) if dormant else after_alarm(decision.evidence, at, watched=was_watched(decision))
    yield do.Finish()
