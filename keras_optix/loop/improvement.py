"""Whether a score is above the best: the two tests that a candidate passes."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass

from keras_optix.loop.scheduler_state import LoopState, SchedulerState
from keras_optix.statistics.estimates import Comparison, Estimate, Evidence, compare, pool


@dataclass(frozen=True)
class ImprovementTest:
    """The tests for an improvement.

    Attributes:
        limit: Significance that both tests need, as a standard normal score.
        screening_limit: Takes the place of `limit` in the first test if a sequential test follows.
        margin: By how much, in units of the score, an improvement must exceed the best.
    """

    limit: float
    screening_limit: float
    margin: float

    def candidate(
        self, state: SchedulerState, score: Estimate, *, screening: bool, contender: Estimate | None = None
    ) -> Evidence | None:
        """Returns evidence that this score, or the mean since the promotion of the best, is above the best.

        A score that is not above that of the contender makes no candidate: the contender has played episodes already
        that would be lost on another one.
        """
        if state.best is None:
            return Evidence(0.0, score.stderr, score.n, "first evaluation")
        if contender is not None and score.mean <= contender.mean:
            return None
        limit = self.screening_limit if screening else self.limit
        evidence, z = self._compare(state, score, state.best, "better than the best")
        if z > limit:
            return evidence
        if state.level is not None and (state.since_best > 0 or state.recent):
            # Several small rises can be significant together although no single one is. The current evaluation must
            # lie above the best too, because its weights would be promoted.
            together = functools.reduce(pool, (*state.recent, score), state.level)
            evidence, z = self._compare(state, together, state.best, "better than the best on average")
            if z > limit and score.mean > state.best.mean + self.margin:
                return evidence
        return None

    def confirmed(self, state: SchedulerState, score: Estimate) -> tuple[bool, Evidence]:
        """Decides by one comparison with the best whether a second evaluation confirms a candidate."""
        if state.best is None:
            return True, Evidence(0.0, score.stderr, score.n, "first confirmed score")
        evidence, z = self._compare(state, score, state.best, "confirmed better than the best")
        if z > self.limit:
            return True, evidence
        reason = "a second evaluation did not confirm the improvement"
        if evidence.difference > 0.0:
            reason = "undecided: a second evaluation was better, but not significantly; kept as a contender"
        return False, dataclasses.replace(evidence, reason=reason)

    def doubts_best(self, state: SchedulerState, score: Estimate) -> bool:
        """Returns whether a score misses significance only because the best was measured too roughly."""
        best = state.best
        if best is None or state.loop_state is LoopState.WATCHDOG or best.stderr <= score.stderr:
            return False
        well_known = dataclasses.replace(best, stderr=0.0)
        alone = self._compare(state, score, well_known, "")
        return alone.z > self.limit >= self._compare(state, score, best, "").z

    def _compare(self, state: SchedulerState, score: Estimate, best: Estimate, reason: str) -> Comparison:
        return compare(score, best, reason, margin=self.margin, history=state.history)
