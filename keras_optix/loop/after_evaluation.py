"""The procedure that runs after every evaluation: it decides, confirms a candidate, and carries decisions out."""

from __future__ import annotations

from collections.abc import Mapping

from keras_optix.evaluators.evaluation import Evaluation
from keras_optix.loop import actions as do
from keras_optix.loop.actions import KnownPolicy
from keras_optix.loop.procedures import Procedure, Situation, confirm, reassess, recover, rest, was_watched
from keras_optix.loop.regime_procedures import after_alarm, after_return, at_dormant
from keras_optix.loop.scheduler import Decision, LoopEvent

_ENDINGS = (LoopEvent.DORMANT, LoopEvent.DEGRADATION)  # events after which the loop may restore other weights


def after_evaluation(evaluation: Evaluation, at: Situation, values: Mapping[str, float]) -> Procedure:
    """Does everything that follows from an evaluation.

    Args:
        evaluation: The evaluation.
        at: The situation.
        values: Hyperparameters with which the evaluated weights were trained.
    """
    yield from reassess(evaluation.score)
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
        if decided.event in _ENDINGS:
            yield from _after_ending(decided, at)
            gone = at.managed  # the evaluated weights, or their regime, may no longer be current
    if later:
        return
    if at.managed:
        known: KnownPolicy | None = yield do.OfferPolicy()
        if known is not None:
            yield do.PauseTuner()
            yield from after_return(known, at)
            yield do.Finish()
            gone = True
    if not gone:
        yield do.Tune(evaluation)


def _after_ending(decision: Decision, at: Situation) -> Procedure:
    """Does what follows when the loop becomes DORMANT, or after a degradation."""
    dormant = decision.event is LoopEvent.DORMANT
    if not at.managed:
        yield from rest(at, announce=True) if dormant else recover(at)
        return
    yield do.PauseTuner()
    yield from at_dormant(at) if dormant else after_alarm(decision.evidence, at, watched=was_watched(decision))
    yield do.Finish()
