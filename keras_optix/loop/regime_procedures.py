"""The procedures of a policy manager: comparison at DORMANT, variants, alarms, and the policies of known regimes."""

from __future__ import annotations

from dataclasses import dataclass

from keras_optix.evaluators.evaluation import estimate_of
from keras_optix.loop import actions as do
from keras_optix.loop.actions import CURRENT, UNTRAINED, KnownPolicy, Policy, Variant
from keras_optix.loop.procedures import Asking, Interrupted, Procedure, Situation, rest
from keras_optix.loop.record import EventKind
from keras_optix.statistics.comparisons import EvaluationResult, compare_policies, still_achieves
from keras_optix.statistics.estimates import Comparison, Estimate, Evidence, pool
from keras_optix.statistics.levels import CERTAIN_Z, LIKELY_Z, SURE_Z
from keras_optix.store.manifest import PolicySnapshot

_SCREENING = 10  # least episodes (windows) to detect a changed environment and to find a stored policy that fits it
_COMPARISON = 30  # least episodes (windows) to compare two policies in one regime
_KNOWN_AGAINST = "the stored policy of the regime against the current weights, same seeds"


@dataclass(frozen=True)
class HeadToHead:
    """The result of comparing the current weights with the best.

    Attributes:
        z: How much better the current weights are (negative: worse) in the last comparison, as a standard normal score.
        better: Whether the current weights won both comparisons.
        score: Score of the current weights in the last comparison.
        evidence: Evidence of the last comparison.
        theirs: Result of the best in the last comparison.
        fell: Evidence that the best no longer reaches its recorded score, because the environment has changed; or None.
    """

    z: float
    better: bool
    score: Estimate
    evidence: Evidence
    theirs: EvaluationResult
    fell: Evidence | None = None


def _evaluate(policy: Policy, episodes: int, seed: int) -> Asking[EvaluationResult]:
    result: EvaluationResult = yield do.Evaluate(policy, episodes, seed)
    return result


def _known(snapshot: PolicySnapshot | None) -> Estimate | None:
    return None if snapshot is None else estimate_of(snapshot.eval_metrics)


def at_dormant(at: Situation) -> Procedure:
    """Continues from the better of the current and the best weights, then tries variants, then rests."""
    best: PolicySnapshot | None = yield do.ReadBest()
    if best is not None:
        found = yield from compare_with_best(best, "the current weights against the best, same seeds", at)
        if found.fell is not None:
            yield from change_regime(best, found.theirs, found.fell, at)
            return
        if found.z < -LIKELY_Z:
            yield do.Restore(best)
            yield do.Record(EventKind.ROLLBACK, f"rolled back to snapshot {best.snapshot_id}", found.evidence)
        elif found.better:
            yield do.Promote(found.score, found.evidence)
            return  # the loop is ACTIVE again: there was progress that no single evaluation could show
        else:
            message = f"kept the weights: snapshot {best.snapshot_id} is not better"
            yield do.Record(EventKind.KEPT, message, found.evidence)
    yield do.AnnounceDormant()
    while True:
        parent: PolicySnapshot | None = yield do.ReadBest()
        tried: int = yield do.CountVariants()
        if parent is None or tried >= at.spawns:
            break
        found = yield from try_variant(parent, at)
        if found.fell is not None:
            yield from change_regime(parent, found.theirs, found.fell, at)
        if found.fell is not None or found.better:
            return  # the loop is ACTIVE again
    yield from rest(at, announce=False)


def try_variant(parent: PolicySnapshot, at: Situation) -> Asking[HeadToHead]:
    """Trains a variant for a number of windows and compares it with its parent, then adopts or discards it."""
    variant: Variant = yield do.DrawVariant(parent)
    try:
        found = yield from _learn_and_compare(parent, variant, at)
    except Interrupted as interrupted:
        yield from _discard(variant, str(interrupted))
        raise
    if found.better:
        yield do.Record(EventKind.VARIANT, f"adopted variant {variant.number}", found.evidence)
        yield do.Promote(found.score, found.evidence)
    else:
        why = "not better than its parent" if found.fell is None else "the environment changed"
        yield from _discard(variant, why, found.evidence)
    return found


def _learn_and_compare(parent: PolicySnapshot, variant: Variant, at: Situation) -> Asking[HeadToHead]:
    yield do.Restore(parent)
    yield do.SetHyperparams(variant.values, "variant")
    if at.mutates:
        yield do.Mutate()
    before = parent.hyperparams.params
    changes = ", ".join(f"{k} {before[k]:.4g} -> {v:.4g}" for k, v in variant.values.items() if v != before[k])
    of = f"variant {variant.number} of {at.spawns} of snapshot {parent.snapshot_id}"
    learns = f"learns for {at.variant_windows} windows"
    yield do.Record(EventKind.VARIANT, f"{of}: {changes or 'no hyperparameters'}; {learns}")
    yield do.Train(at.variant_windows)
    found = yield from compare_with_best(parent, "the variant against its parent, same seeds", at)
    return found


def _discard(variant: Variant, why: str, evidence: Evidence | None = None) -> Procedure:
    """Restores the parent and the hyperparameters from before the variant."""
    best: PolicySnapshot | None = yield do.ReadBest()
    if best is not None:
        yield do.Restore(best)
    yield do.SetHyperparams(variant.before, "variant discarded")
    yield do.Record(EventKind.VARIANT, f"discarded variant {variant.number}: {why}", evidence)


def compare_with_best(best: PolicySnapshot, reason: str, at: Situation) -> Asking[HeadToHead]:
    """Compares the current weights with the best. They must win twice; the second score is then an unbiased one."""
    known, wins = _known(best), 0
    while True:
        seed: int = yield do.DrawSeed()
        mine = yield from _evaluate(CURRENT, _COMPARISON, seed)
        theirs = yield from _evaluate(best, _COMPARISON, seed)
        evidence, z = compare_policies(mine, theirs, reason, at.scores)
        if known is not None:
            as_before, fell = still_achieves(theirs, known, CERTAIN_Z, at.scores)
            if not as_before:
                return HeadToHead(z, False, mine.estimate, evidence, theirs, fell)
        yield do.Reassess(theirs.estimate)
        wins += z > LIKELY_Z
        if z <= LIKELY_Z or wins == 2:
            return HeadToHead(z, wins == 2, mine.estimate, evidence, theirs)


def after_alarm(alarm: Evidence, at: Situation, *, watched: bool) -> Procedure:
    """Finds out whether learning went wrong (the best still reaches its score) or the environment has changed.

    Args:
        alarm: Evidence of the degradation.
        at: The situation.
        watched: Whether the best acted without learning at the alarm. Then the environment must have changed.
    """
    present: PolicySnapshot | None = yield do.ReadBest()
    best = present or at.best  # an alarm in WATCHDOG has already begun a regime without a best
    known = _known(best)
    seed: int = yield do.DrawSeed()
    if best is None or known is None:
        yield do.LearnAgain()
        return
    if watched:
        yield from enter_unknown_regime(best, None, alarm, at)
        yield do.LearnAgain()
        return
    result = yield from _evaluate(best, _SCREENING, seed)
    as_before, evidence = still_achieves(result, known, SURE_Z, at.scores)
    if as_before:
        yield do.Reassess(result.estimate)
        yield from _roll_back(best, result, seed, at)
        yield do.LearnAgain()
    else:
        yield from change_regime(best, result, evidence, at)


def suspect_change(score: Estimate, at: Situation) -> Asking[bool]:
    """Lets the best play again if a score is far below its own, and begins a new regime if the best has fallen too.

    The alarm of a degradation comes only once. If learning has gone wrong, and the environment changes after that, no
    score would show it.

    Args:
        score: The score of the present evaluation.
        at: The situation.

    Returns:
        Whether a new regime has begun.
    """
    best: PolicySnapshot | None = yield do.SuspectChange(score)
    known, played = _known(best), None
    if best is None or known is None:
        return False
    # A first look that is often wrong, and then a proof in other episodes.
    for limit in (LIKELY_Z, CERTAIN_Z):
        seed: int = yield do.DrawSeed()
        result: EvaluationResult | None = yield do.Evaluate(best, _SCREENING, seed, at_once=True)
        if result is None:
            return False
        played = result.estimate if played is None else pool(played, result.estimate)
        as_before, evidence = still_achieves(result, known, limit, at.scores)
        if as_before:
            yield do.Reassess(played)
            return False
        fallen = result
    yield do.PauseTuner()
    yield from change_regime(best, fallen, evidence, at)
    yield do.Finish()
    return True


def change_regime(best: PolicySnapshot, fallen: EvaluationResult, evidence: Evidence, at: Situation) -> Procedure:
    """Begins a new regime, because the best no longer reaches its score.

    Args:
        best: The best of the regime that has ended.
        fallen: The present result of the best.
        evidence: Evidence that the best earned more before.
        at: The situation.
    """
    yield do.BeginRegime()
    yield from enter_unknown_regime(best, fallen, evidence, at)
    yield do.LearnAgain()


def _roll_back(best: PolicySnapshot, there: EvaluationResult, seed: int, at: Situation) -> Procedure:
    if not at.rolls_back:
        return
    current = yield from _evaluate(CURRENT, _SCREENING, seed)
    reason = "the best against the current weights, same seeds"
    evidence, z = compare_policies(there, current, reason, at.scores)
    if z > LIKELY_Z:
        yield do.Restore(best, rolled_back=True)
        yield do.Record(EventKind.ROLLBACK, f"rolled back to snapshot {best.snapshot_id}", evidence)
    else:
        yield do.Record(EventKind.KEPT, f"kept the weights: snapshot {best.snapshot_id} is not better", evidence)


def enter_unknown_regime(
    best: PolicySnapshot, fallen: EvaluationResult | None, evidence: Evidence, at: Situation
) -> Procedure:
    """Evaluates the stored policies of other regimes. A policy that reaches its recorded score is restored at once.

    Then its regime has returned. Otherwise training continues from the best of the policies and the current weights.

    Args:
        best: The best of the regime that has ended.
        fallen: The present result of the best, if it is known.
        evidence: Evidence that the regime has ended.
        at: The situation.
    """
    others: list[KnownPolicy] = yield do.LeaveRegime(best, evidence)
    seed: int = yield do.DrawSeed()
    current = yield from _evaluate(CURRENT, _SCREENING, seed)
    highest: tuple[Policy, EvaluationResult] | None = None if fallen is None else (best, fallen)
    for other in others:
        result = yield from _evaluate(other.snapshot, _SCREENING, seed)
        better, z = compare_policies(result, current, _KNOWN_AGAINST, at.scores)
        known = _known(other.snapshot)
        if z > LIKELY_Z and known is not None and still_achieves(result, known, SURE_Z, at.scores)[0]:
            yield from _return_to(other, result, better)
            return
        if highest is None or result.estimate.mean > highest[1].estimate.mean:
            highest = (other.snapshot, result)
    if at.stores:
        # Weights that learned an earlier regime too well may explore too little to learn again.
        result = yield from _evaluate(UNTRAINED, _SCREENING, seed)
        if highest is None or result.estimate.mean > highest[1].estimate.mean:
            highest = (UNTRAINED, result)
    yield do.EnterRegime(None)
    if highest is not None and highest[1].estimate.mean > current.estimate.mean:
        yield from _go_on_from(highest[0], at)
    yield do.RestartTuner()


def _go_on_from(policy: Policy, at: Situation) -> Procedure:
    """Continues from the policy with the highest score in a new regime if it is better than the current weights.

    It was chosen as the highest of several, so the comparison plays new episodes.
    """
    name = f"snapshot {policy.snapshot_id}" if isinstance(policy, PolicySnapshot) else policy.value
    seed: int = yield do.DrawSeed()
    current = yield from _evaluate(CURRENT, _COMPARISON, seed)
    result = yield from _evaluate(policy, _COMPARISON, seed)
    reason = "the best of those tried against the current weights, same seeds"
    evidence, z = compare_policies(result, current, reason, at.scores)
    if z <= LIKELY_Z:
        yield do.Record(EventKind.KEPT, "goes on with the current weights", evidence)
        return
    yield do.Restore(policy) if isinstance(policy, PolicySnapshot) else do.RestoreUntrained()
    # The restored statistics belong to the regime in which the weights were trained.
    yield do.ForgetStatistics()
    yield do.Record(EventKind.ROLLBACK, f"goes on from {name}", evidence)


def _return_to(known: KnownPolicy, result: EvaluationResult, evidence: Evidence) -> Procedure:
    yield do.Restore(known.snapshot)
    yield do.EnterRegime(known.regime)
    yield do.RestartTuner()
    message = f"{known.regime} is back: restored snapshot {known.snapshot.snapshot_id}"
    yield do.Record(EventKind.REGIME, message, evidence)
    yield do.Promote(result.estimate, evidence)


def go_back_if_better(
    best: PolicySnapshot, episodes: int, seed: int, limit: float
) -> Asking[tuple[EvaluationResult, EvaluationResult, Comparison]]:
    """Compares the current weights with the best once, and restores the best if it is significantly better.

    Args:
        best: The best.
        episodes: Number of episodes for each of the two.
        seed: Seed of the episodes of both.
        limit: Limit of significance, as a standard normal score.

    Returns:
        The results of the current weights and of the best, and the comparison of the best with the current weights.
    """
    current = yield from _evaluate(CURRENT, episodes, seed)
    result = yield from _evaluate(best, episodes, seed)
    reason = "the best weights against the current ones, on the same seeds"
    compared = compare_policies(result, current, reason)
    if compared.z > limit:
        yield do.Restore(best)
    return current, result, compared


def after_return(known: KnownPolicy, at: Situation) -> Procedure:
    """Evaluates the stored policy of a regime that the detector named, and restores it if it is better.

    Args:
        known: The regime and its policy.
        at: The situation.
    """
    seed: int = yield do.DrawSeed()
    current = yield from _evaluate(CURRENT, _SCREENING, seed)
    result = yield from _evaluate(known.snapshot, _SCREENING, seed)
    evidence, z = compare_policies(result, current, _KNOWN_AGAINST, at.scores)
    if z > LIKELY_Z:
        yield do.BeginRegime()
        yield do.ForgetScores()
        yield from _return_to(known, result, evidence)
    else:
        message = f"kept the weights: snapshot {known.snapshot.snapshot_id} of {known.regime} is not better"
        yield do.Record(EventKind.KEPT, message, evidence)
