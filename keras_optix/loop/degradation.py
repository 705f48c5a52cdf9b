"""Degradation is detected by a one-sided CUSUM (Page 1954) of standardised scores.

Its margin is measured in progress made, so that shifting or scaling all scores changes no decision. The reference is
estimated during the run (a self-starting CUSUM, Hawkins 1987), and a standard error from few samples gets less weight
(`as_normal_score`). Without both, false alarms are up to four times as frequent as in the table of the CUSUM.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from msgspec.structs import replace

from keras_optix.loop.scheduler_state import SchedulerState
from keras_optix.statistics.estimates import Estimate, Evidence, compare_alike, pool
from keras_optix.statistics.levels import LIKELY_Z

_REFERENCE_LAG = 8  # evaluations after which a score becomes part of the reference


@dataclass(frozen=True)
class Cusum:
    """The test for a degradation.

    Attributes:
        threshold: Share of the progress (best minus first score) that must be kept.
        slack: Slack `k` in standard errors.
        limit: Limit `h` in standard errors.
    """

    threshold: float
    slack: float
    limit: float

    def update(
        self, state: SchedulerState, score: Estimate, *, alarmed: bool = False
    ) -> tuple[SchedulerState, Evidence, bool]:
        """Computes ``S = max(0, S + (level - margin - score) / stderr - k)``; there is an alarm if ``S > h``.

        Args:
            state: The state so far.
            score: The score of an evaluation.
            alarmed: Whether the evaluation was made because of another sign of a fall. Then there is also an alarm if
                this score alone lies below the level, less the margin, at a one-sided confidence of 95 %.

        Returns:
            The next state, the difference from the level, and whether there is an alarm.
        """
        if state.level is None or state.best is None:
            evidence = Evidence(0.0, score.stderr, score.n, "no level to compare with")
            return replace(state, level=score), evidence, False
        progress = max(state.best.mean - (state.best.mean if state.baseline is None else state.baseline), 0.0)
        margin = (1.0 - self.threshold) * progress
        reason = "compared with the level since the best was promoted"
        evidence, z = compare_alike(score, state.level, reason, margin=-margin, history=state.history)
        if state.evaluations <= state.cooldown_until:
            # After a rollback the score of the best is the reference. Otherwise the latest score is, because scores
            # may go on falling during the cooldown.
            level = state.level if state.level == state.best else score
            return replace(state, level=level, recent=()), evidence, False
        # The error of the reference shifts all of these comparisons alike. While it is large, it adds to the slack.
        shared = 0.5 * math.sqrt(score.n / (score.n + state.level.n))
        cusum = max(0.0, state.cusum - z - self.slack - shared)
        # All scores enter the level, because leaving out low ones would raise it and cause false alarms. They enter it
        # late, because otherwise a drop right after a promotion would soon be half of its own reference.
        level, recent = state.level, (*state.recent, score)
        if len(recent) > _REFERENCE_LAG:
            level, recent = pool(level, recent[0]), recent[1:]
        alarm = cusum > self.limit or (alarmed and z < -LIKELY_Z)
        return replace(state, cusum=cusum, level=level, recent=recent), evidence, alarm
