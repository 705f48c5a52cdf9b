"""The procedures that confirm a candidate: fresh episodes, in growing batches, until its comparison is decided."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from keras_optix.evaluators.evaluation import Evaluation
from keras_optix.loop import actions as do
from keras_optix.loop.actions import CANDIDATE, Policy
from keras_optix.loop.contender import Contender
from keras_optix.loop.procedures import MOST_EPISODES, Asking, Procedure, Situation, reassess
from keras_optix.loop.scheduler import Decision, LoopEvent
from keras_optix.statistics.comparisons import EvaluationResult
from keras_optix.statistics.estimates import Estimate, Evidence, pool
from keras_optix.statistics.sequential import Batch, Outcome, SequentialState, SequentialTest
from keras_optix.store.manifest import PolicySnapshot

_FEWEST, _MOST = 10, 80  # fresh episodes after which a comparison is over at the earliest, and at the latest
_WELL_KNOWN = 4  # times as many episodes of the best as of the candidate: then its score is known well enough

_FIRST = "first confirmed score"


@dataclass(frozen=True)
class FreshComparison:
    """How weights compare with the best in fresh episodes.

    Attributes:
        result: Their score in all fresh episodes.
        outcome: Whether they are better, are not better, or whether this is still open.
        evidence: The evidence.
        test: The state of the sequential test.
    """

    result: EvaluationResult
    outcome: Outcome
    evidence: Evidence
    test: SequentialState

    @property
    def fresh(self) -> Estimate:
        """Their score in all fresh episodes."""
        return self.result.estimate


def confirm(
    evaluation: Evaluation, decision: Decision, at: Situation, values: Mapping[str, float]
) -> Asking[tuple[tuple[Decision, ...], bool]]:
    """Evaluates a candidate in fresh episodes, and promotes it if these show that it is better than the best.

    Episodes are added until that is decided either way, or until the evaluation budget is spent. A candidate for which
    it is then still open becomes the contender.

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
    first = min(max(evaluation.score.n, at.fewest), MOST_EPISODES)
    compared: FreshComparison | None = None
    again: Any = None
    if math.isfinite(evaluation.score.stderr):
        compared = yield from compare_fresh(CANDIDATE, None, at, first=first)
    else:
        again = yield do.Evaluate(CANDIDATE, first, at_once=True)  # the noise of the scores so far has to do
    in_place = compared is None and again is None
    if compared is None:
        if in_place:
            again = yield do.Evaluate(CANDIDATE, leave=True)
        yield from reassess(again.estimate)
        confirmed = do.Confirm(evaluation, again, dict(values))
    else:
        better = compared.outcome is Outcome.BETTER
        confirmed = do.Confirm(evaluation, compared.result, dict(values), better, compared.evidence)
    decisions: tuple[Decision, ...] = yield confirmed
    # This comes before the decisions are followed, because one of them may pause learning or restore weights itself.
    promoted = decisions[0].event is LoopEvent.IMPROVEMENT
    yield do.EndEvaluation(keep=promoted)
    if promoted:
        yield from _review_contender()
    elif compared is not None and compared.outcome is Outcome.OPEN:
        contender: Contender | None = yield do.ReadContender()
        if contender is None or compared.fresh.mean > contender.fresh.mean:
            yield do.KeepContender(CANDIDATE, compared.fresh, compared.test, dict(values))
    return decisions, in_place


def compare_contender(at: Situation, *, progress: bool, insists: bool = False) -> Asking[bool]:
    """Lets the contender play further episodes, and promotes it if they show that it is better.

    Args:
        at: The situation.
        progress: Whether a new best counts as progress, after which the loop is ACTIVE.
        insists: Whether one batch of episodes is played even if the budget is spent (but not if it is 0): at the end of
            a run, after which nothing would be known of the contender. Defaults to False.

    Returns:
        Whether it was promoted.
    """
    contender: Contender | None = yield do.ReadContender()
    if contender is None or not (yield do.MayEvaluate(insists)):
        return False
    compared = yield from compare_fresh(contender.snapshot, contender, at)
    if compared is None or compared.outcome is Outcome.NOT_BETTER:
        yield do.DropContender()
    elif compared.outcome is Outcome.BETTER:
        yield do.PromoteContender(compared.fresh, compared.evidence, progress)
        return True
    else:
        yield do.KeepContender(contender.snapshot, compared.fresh, compared.test, {})
    return False


def compare_fresh(
    policy: Policy, earlier: Contender | None, at: Situation, *, first: int = 0
) -> Asking[FreshComparison | None]:
    """Compares weights with the best in fresh episodes, until it is decided or the budget is spent.

    The best plays episodes of the same seeds while its own score is not known much better than theirs, or if the
    comparison in pairs needs fewer episodes.

    Args:
        policy: The weights.
        earlier: Their fresh episodes in an earlier comparison that ended undecided; None if there was none.
        at: The situation.
        first: Least number of episodes of the first batch.

    Returns:
        The comparison; None if no episodes can be played at once.
    """
    fresh, state, pairs, paired = None, SequentialState(), _Pairs(), False
    if earlier is not None and earlier.fresh.n < _MOST:
        fresh, state = earlier.fresh, earlier.test
    # What the budget does not allow is not planned: the test then decides with the episodes that there are. Half of
    # them are for the best.
    left: int = yield do.CountEpisodes()
    test = SequentialTest(max_episodes=min(max(left // 2, _FEWEST, 2 * (0 if fresh is None else fresh.n)), _MOST))
    while True:
        known: Estimate | None = yield do.ReadBestScore()
        best: PolicySnapshot | None = yield do.ReadBest()
        batch = Batch(first, 0) if known is None else test.next_batch(fresh, known, paired=paired)
        mine = max(batch.challenger, first if fresh is None else 0)
        seed: int | None = None
        if best is not None and known is not None and (batch.best or (fresh is None and known.n < _WELL_KNOWN * mine)):
            seed = yield do.DrawSeed()
        played: EvaluationResult | None = yield do.Evaluate(policy, mine, seed, at_once=True)
        if played is None:
            return None
        result = played if fresh is None else EvaluationResult(pool(fresh, played.estimate))
        fresh = result.estimate
        if known is None:
            evidence = Evidence(0.0, fresh.stderr, fresh.n, _FIRST)
            return FreshComparison(result, Outcome.BETTER, evidence, state)
        if seed is not None and best is not None:
            other: EvaluationResult | None = yield do.Evaluate(best, mine, seed, at_once=True)
            if other is not None:
                pairs.add(played, other)
                yield do.Reassess(other.estimate)
                known = yield do.ReadBestScore()
        if state.looks and known is not None and known.n < state.looks[-1].best:
            state = SequentialState()  # there is another best by now
        state, verdict = test.observe(state, fresh, known or fresh, pairs=pairs.scores, margin=at.margin)
        open_still = verdict.outcome is Outcome.OPEN and fresh.n < test.max_episodes
        if not open_still or not (yield do.MayEvaluate()):
            return FreshComparison(result, verdict.outcome, verdict.evidence, state)
        paired = verdict.paired


class _Pairs:
    """The scores of episodes that two policies played on the same seeds."""

    def __init__(self) -> None:
        self._mine: list[float] = []
        self._theirs: list[float] = []

    def add(self, mine: EvaluationResult, theirs: EvaluationResult) -> None:
        """Adds a batch, if it has a score for each episode."""
        if mine.episodes is not None and theirs.episodes is not None and len(mine.episodes) == len(theirs.episodes):
            self._mine += mine.episodes
            self._theirs += theirs.episodes

    @property
    def scores(self) -> tuple[list[float], list[float]] | None:
        """The scores of both; None if there are none."""
        return (self._mine, self._theirs) if self._mine else None


def _review_contender() -> Procedure:
    """Gives up the contender after a new best, unless its score still lies above that of the best."""
    contender: Contender | None = yield do.ReadContender()
    best: Estimate | None = yield do.ReadBestScore()
    if contender is not None and best is not None and contender.fresh.mean <= best.mean:
        yield do.DropContender()
