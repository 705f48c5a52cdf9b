"""The state machine turns evaluations into transitions, each with its evidence.

::

    ACTIVE   --plateau_threshold evaluations without improvement-->  COOLING  (interval grows)
    COOLING  --improvement-->                                        ACTIVE
    COOLING  --dormant_threshold evaluations without improvement-->  DORMANT  (trained)
    DORMANT  --watch()-->                                            WATCHDOG (acts, is scored, does not learn)
    any      --degradation-->                                        ACTIVE

Improvement and degradation are decided by tests. An improvement begins as a *candidate*: an evaluation significantly
above the best. It is promoted only by `confirm`, with a second evaluation of the same weights, because the maximum of
many noisy scores lies far above the true mean. Degradation is detected by a one-sided CUSUM (Page 1954) of standardised
scores, with a margin measured in progress made, so that shifting or scaling all scores changes no decision. The
reference of the CUSUM is estimated during the run (a self-starting CUSUM, Hawkins 1987), and a standard error from few
samples gets less weight (`as_normal_score`). Without both, false alarms are up to four times as frequent as in its
table.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import math
from dataclasses import dataclass

from msgspec.structs import replace

from keras_optix.arguments import NamesChecked
from keras_optix.errors import ConfigurationError, NonFiniteError, StateError, describe
from keras_optix.evaluators.evaluation import Evaluation
from keras_optix.loop.scheduler_state import LoopState, SchedulerState
from keras_optix.reprs import OneLineRepr
from keras_optix.statistics.estimates import Comparison, Estimate, Evidence, compare, pool, trend
from keras_optix.statistics.levels import one_sided
from keras_optix.validation import check_float, check_int

_REFERENCE_LAG = 8  # evaluations after which a score becomes part of the reference of the CUSUM
_HISTORY = 64  # evaluations from which the noise is estimated if scores have no standard error


class LoopEvent(enum.Enum):
    """The result of an evaluation for the state machine."""

    NONE = "none"
    CANDIDATE = "candidate"  # significantly above the best: confirm it with a second evaluation of the same weights
    IMPROVEMENT = "improvement"  # a candidate was confirmed and is now the best
    REJECTED = "rejected"  # a candidate was not confirmed
    PLATEAU = "plateau"
    DORMANT = "dormant"
    WATCHDOG = "watchdog"
    DEGRADATION = "degradation"


@dataclass(frozen=True)
class Decision:
    """A transition with its evidence; `LoopEvent.NONE` if there is no transition."""

    event: LoopEvent
    before: LoopState
    after: LoopState
    evidence: Evidence


class BackoffScheduler(NamesChecked, OneLineRepr):
    """Decides from evaluations whether the loop improves, has reached a plateau, is trained, or has degraded.

    A scheduler is configuration only, so several callbacks may share it. Its knowledge of a run is a separate value,
    the state: `initial_state` makes the first one, and each method takes the state before and returns the state after.
    The state of a run is `OptixCallback.scheduler_state`.

    Patience counts evaluations. In env steps: an evaluation takes as many windows as it takes for `min_episodes`
    episodes (of the evaluator) to end, and at least `interval` windows; a window is ``window_size * num_envs`` env
    steps. With ``window_size=32``, ``num_envs=8`` (256 env steps) and the defaults, COOLING begins at least 5 windows
    (1,280 env steps) after the last improvement. The 15 evaluations from there to DORMANT have the intervals 2, 4, 8,
    16, 32, 64 and nine times 100, in sum 1,026 windows (262,656 env steps). A smaller `max_interval` shortens this
    most: with 10 it is 134 windows (34,304 env steps).

    Args:
        base_interval: Windows between evaluations while ACTIVE. Defaults to 1.
        backoff_factor: Growth of the interval per evaluation while COOLING, > 1. Defaults to 2.
        max_interval: Largest interval in windows. Defaults to 100.
        plateau_threshold: Evaluations without improvement until COOLING. Defaults to 5.
        dormant_threshold: Evaluations since the best was promoted until DORMANT, more than `plateau_threshold`. If
            scores rise significantly since then (the slope of a regression line), DORMANT is put off: slow progress is
            not a plateau, even if no single score stands out. Defaults to 20.
        degradation_threshold: Share of the progress (best minus first score) that must be kept: only a shortfall below
            it counts in the CUSUM. Defaults to 0.95.
        improvement_margin: By how much, in units of the score, an improvement must exceed the best, >= 0. Defaults
            to 0: any significant improvement counts.
        confidence: One-sided confidence of both tests of an improvement, between 0.5 and 1. Defaults to 0.95.
        cusum_slack: Slack `k` of the CUSUM in standard errors. Defaults to 0.5.
        cusum_limit: Limit `h` of the CUSUM in standard errors. Defaults to 5: with the slack, one false alarm in about
            900 evaluations, and a drop of 1, 2, 3 standard errors is detected after about 10, 4, 3 evaluations. A drop
            in the first evaluations after a promotion takes longer, because the reference itself is still uncertain.
        degradation_cooldown: Evaluations after a degradation during which the CUSUM does not accumulate, which gives
            time to recover. Defaults to 3; 0 means no cooldown.

    Raises:
        ConfigurationError: An argument is out of range, or two contradict each other.
    """

    def __init__(
        self,
        base_interval: int = 1,
        backoff_factor: float = 2.0,
        max_interval: int = 100,
        plateau_threshold: int = 5,
        dormant_threshold: int = 20,
        degradation_threshold: float = 0.95,
        improvement_margin: float = 0.0,
        confidence: float = 0.95,
        cusum_slack: float = 0.5,
        cusum_limit: float = 5.0,
        degradation_cooldown: int = 3,
    ) -> None:
        self.base_interval = check_int("base_interval", base_interval, minimum=1)
        self.backoff_factor = check_float("backoff_factor", backoff_factor, low=1.0, low_open=True)
        self.max_interval = check_int("max_interval", max_interval, minimum=1)
        self.plateau_threshold = check_int("plateau_threshold", plateau_threshold, minimum=1)
        self.dormant_threshold = check_int("dormant_threshold", dormant_threshold, minimum=1)
        self.degradation_threshold = check_float("degradation_threshold", degradation_threshold, low=0.0, high=1.0)
        self.improvement_margin = check_float("improvement_margin", improvement_margin, low=0.0)
        self.confidence = check_float("confidence", confidence, low=0.5, high=1.0)
        if confidence in (0.5, 1.0):
            problem = (
                "`confidence` must lie between 0.5 and 1: at 0.5 noise alone would pass, and no test reaches certainty."
            )
            raise ConfigurationError(describe(problem, fix="Such as 0.95.", confidence=confidence))
        self._limit = one_sided(self.confidence)
        self.cusum_slack = check_float("cusum_slack", cusum_slack, low=0.0)
        self.cusum_limit = check_float("cusum_limit", cusum_limit, low=0.0, low_open=True)
        self.degradation_cooldown = check_int("degradation_cooldown", degradation_cooldown, minimum=0)
        if self.max_interval < self.base_interval:
            raise ConfigurationError(
                describe(
                    "`max_interval` must not be below `base_interval`.",
                    base_interval=base_interval,
                    max_interval=max_interval,
                )
            )
        if self.dormant_threshold <= self.plateau_threshold:
            raise ConfigurationError(
                describe(
                    "`dormant_threshold` must be above `plateau_threshold`, because COOLING comes before DORMANT.",
                    plateau_threshold=plateau_threshold,
                    dormant_threshold=dormant_threshold,
                )
            )

    def initial_state(self) -> SchedulerState:
        """Returns the state at the beginning of a run."""
        return SchedulerState(interval=float(self.base_interval))

    def due(self, state: SchedulerState, window_id: int) -> bool:
        """Returns whether an evaluation is due at window `window_id`, `interval` windows after the last one."""
        last = state.last_window
        return last is None or window_id - last >= state.interval

    def observe(self, state: SchedulerState, evaluation: Evaluation) -> tuple[SchedulerState, Decision]:
        """Adds an evaluation and decides what follows.

        Args:
            state: The state so far.
            evaluation: A finite score.

        Returns:
            The next state, and the decision. After `LoopEvent.CANDIDATE`, evaluate the same weights again and call
            `confirm`.

        Raises:
            NonFiniteError: The score is NaN or infinite.
            StateError: A candidate waits for `confirm`.
        """
        if state.pending:
            raise StateError("A candidate waits for `confirm`. Call `confirm` before the next `observe`.")
        score = _finite(evaluation)
        state = replace(
            state,
            last_window=evaluation.window_id,
            evaluations=state.evaluations + 1,
            history=(*state.history, score.mean)[-_HISTORY:],
            baseline=score.mean if state.baseline is None else state.baseline,
        )
        if state.loop_state is LoopState.WATCHDOG:
            return self._watch(state, score)
        candidate = self._candidate(state, score)
        if candidate is not None:
            decision = Decision(LoopEvent.CANDIDATE, state.loop_state, state.loop_state, candidate)
            return replace(state, pending=True), decision
        return self._no_improvement(state, score, evaluation)

    def confirm(self, state: SchedulerState, evaluation: Evaluation) -> tuple[SchedulerState, tuple[Decision, ...]]:
        """Adds the second, independent evaluation of the candidate's weights.

        Args:
            state: The state so far.
            evaluation: A finite score.

        Returns:
            The next state, and the decisions: an IMPROVEMENT; or REJECTED and any transition after one more evaluation
            without improvement.

        Raises:
            NonFiniteError: The score is NaN or infinite.
            StateError: There is no candidate.
        """
        if not state.pending:
            raise StateError("There is no candidate to confirm; call `observe` first.")
        score = _finite(evaluation)
        state = replace(state, pending=False)
        if state.best is None:
            evidence = Evidence(0.0, score.stderr, score.n, "first confirmed score")
            state, promoted = self._promote(state, score, evidence)
            return state, (promoted,)
        evidence, z = self._above_best(state, score, state.best, "confirmed better than the best")
        if z > self._limit:
            state, promoted = self._promote(state, score, evidence)
            return state, (promoted,)
        rejected = dataclasses.replace(evidence, reason="a second evaluation did not confirm the improvement")
        decision = Decision(LoopEvent.REJECTED, state.loop_state, state.loop_state, rejected)
        state, follow_up = self._no_improvement(state, score, evaluation)
        return state, (decision,) if follow_up.event is LoopEvent.NONE else (decision, follow_up)

    def accept(
        self, state: SchedulerState, evaluation: Evaluation, evidence: Evidence
    ) -> tuple[SchedulerState, Decision]:
        """Promotes the candidate without a second evaluation, if the same weights would get the same score again.

        Args:
            state: The state so far.
            evaluation: The evaluation that made the candidate.
            evidence: The evidence of the decision that `observe` returned.

        Raises:
            NonFiniteError: The score is NaN or infinite.
            StateError: There is no candidate.
        """
        if not state.pending:
            raise StateError("There is no candidate to accept; call `observe` first.")
        return self._promote(replace(state, pending=False), _finite(evaluation), evidence)

    def doubts_best(self, state: SchedulerState, score: Estimate) -> bool:
        """Returns whether a score misses significance only because the best was measured too roughly.

        Then it is worth evaluating the best again. On CartPole, for example, no score can be significantly above
        480 +- 15.
        """
        best = state.best
        if best is None or state.loop_state is LoopState.WATCHDOG or best.stderr <= score.stderr:
            return False
        well_known = dataclasses.replace(best, stderr=0.0)
        alone = self._above_best(state, score, well_known, "")
        return alone.z > self._limit >= self._above_best(state, score, best, "").z

    def reassess(self, state: SchedulerState, evaluation: Evaluation) -> tuple[SchedulerState, Evidence]:
        """Pools another evaluation of the best weights with their score so far.

        Args:
            state: The state so far.
            evaluation: A finite score.

        Returns:
            The next state, and the difference between the new evaluation and the score so far.

        Raises:
            NonFiniteError: The score is NaN or infinite.
            StateError: There is no best.
        """
        if state.best is None:
            raise StateError("There is no best to evaluate again.")
        score = _finite(evaluation)
        comparison = compare(score, state.best, "another evaluation of the best", history=state.history)
        pooled = pool(state.best, score)
        level = pooled if state.level == state.best else state.level
        return replace(state, best=pooled, level=level), comparison.evidence

    def adopt(self, state: SchedulerState, score: Estimate) -> SchedulerState:
        """Sets the score of the best, for a resumed run whose best was promoted after its state was written."""
        return replace(
            state, best=score, level=score, recent=(), cusum=0.0, since_best=0, since_active=0, pending=False
        )

    def promote(self, state: SchedulerState, score: Estimate, evidence: Evidence) -> tuple[SchedulerState, Decision]:
        """Promotes weights that were not found by a candidate's evaluation; the loop becomes ACTIVE.

        Args:
            state: The state so far.
            score: Score of an evaluation that is independent of the one by which the weights were chosen.
            evidence: Why the weights are the best.
        """
        return self._promote(replace(state, pending=False), score, evidence)

    def rolled_back(self, state: SchedulerState) -> SchedulerState:
        """Makes the score of the best the reference of the CUSUM, after a rollback to the best weights."""
        return replace(state, level=state.best, recent=(), cusum=0.0)

    def watch(self, state: SchedulerState) -> tuple[SchedulerState, Decision]:
        """Moves from DORMANT to WATCHDOG: the best weights act and are scored, and do not learn.

        Raises:
            StateError: The loop is not DORMANT.
        """
        if state.loop_state is not LoopState.DORMANT:
            raise StateError(describe("Only a DORMANT loop can be watched.", state=state.loop_state.name))
        state = replace(
            state,
            loop_state=LoopState.WATCHDOG,
            interval=float(self.base_interval),
            level=state.best,
            recent=(),
            cusum=0.0,
        )
        evidence = Evidence(0.0, 0.0, 0, "trained; watching for a degradation")
        return state, Decision(LoopEvent.WATCHDOG, LoopState.DORMANT, LoopState.WATCHDOG, evidence)

    def shifted(self, state: SchedulerState) -> SchedulerState:
        """Begins a new regime after a change of the environment: the loop is ACTIVE and has no best.

        The best of the old regime is not a reference in the new one.
        """
        return SchedulerState(
            interval=float(self.base_interval),
            last_window=state.last_window,
            evaluations=state.evaluations,
            regime_index=state.regime_index + 1,
            cooldown_until=state.evaluations + self.degradation_cooldown,
        )

    def _candidate(self, state: SchedulerState, score: Estimate) -> Evidence | None:
        """Returns evidence that this evaluation, or the mean since the promotion of the best, is above the best."""
        if state.best is None:
            return Evidence(0.0, score.stderr, score.n, "first evaluation")
        limit = self._limit
        evidence, z = self._above_best(state, score, state.best, "better than the best")
        if z > limit:
            return evidence
        if state.level is not None and (state.since_best > 0 or state.recent):
            # Several small rises can be significant together although no single one is. The current evaluation must
            # lie above the best too, because its weights would be promoted.
            together = functools.reduce(pool, (*state.recent, score), state.level)
            evidence, z = self._above_best(state, together, state.best, "better than the best on average")
            if z > limit and score.mean > state.best.mean + self.improvement_margin:
                return evidence
        return None

    def _above_best(self, state: SchedulerState, score: Estimate, best: Estimate, reason: str) -> Comparison:
        return compare(score, best, reason, margin=self.improvement_margin, history=state.history)

    def _promote(self, state: SchedulerState, score: Estimate, evidence: Evidence) -> tuple[SchedulerState, Decision]:
        promoted = replace(
            state,
            loop_state=LoopState.ACTIVE,
            interval=float(self.base_interval),
            since_best=0,
            since_active=0,
            best=score,
            level=score,
            recent=(),
            cusum=0.0,
        )
        return promoted, Decision(LoopEvent.IMPROVEMENT, state.loop_state, LoopState.ACTIVE, evidence)

    def _no_improvement(
        self, state: SchedulerState, score: Estimate, evaluation: Evaluation
    ) -> tuple[SchedulerState, Decision]:
        before, fall, alarm = state.loop_state, self._plateau_evidence(state, score), False
        if evaluation.monitored:
            state, fall, alarm = self._update_cusum(state, score)
        if evaluation.counts_towards_plateau:
            state = replace(state, since_best=state.since_best + 1, since_active=state.since_active + 1)
        rising = trend(state.history[-min(state.since_best, _HISTORY) :]) > self._limit
        if evaluation.counts_towards_plateau and state.since_best >= self.dormant_threshold and not rising:
            # Counted since the promotion of the best, so that repeated degradations cannot put DORMANT off for ever.
            decision = Decision(LoopEvent.DORMANT, before, LoopState.DORMANT, self._plateau_evidence(state, score))
            return replace(state, loop_state=LoopState.DORMANT), decision
        if alarm:
            degraded = replace(
                state,
                loop_state=LoopState.ACTIVE,
                interval=float(self.base_interval),
                since_active=0,
                cusum=0.0,
                level=score,
                recent=(),
                cooldown_until=state.evaluations + self.degradation_cooldown,
            )
            return degraded, Decision(LoopEvent.DEGRADATION, before, LoopState.ACTIVE, fall)
        if (
            evaluation.counts_towards_plateau
            and before is LoopState.ACTIVE
            and state.since_active >= self.plateau_threshold
        ):
            cooling = replace(state, loop_state=LoopState.COOLING, interval=self._next_interval(state))
            evidence = self._plateau_evidence(cooling, score)
            return cooling, Decision(LoopEvent.PLATEAU, before, LoopState.COOLING, evidence)
        if before is LoopState.COOLING:
            state = replace(state, interval=self._next_interval(state))
        return state, Decision(LoopEvent.NONE, before, before, self._plateau_evidence(state, score))

    def _next_interval(self, state: SchedulerState) -> float:
        return min(state.interval * self.backoff_factor, float(self.max_interval))

    def _plateau_evidence(self, state: SchedulerState, score: Estimate) -> Evidence:
        recent = score if state.level is None else functools.reduce(pool, state.recent, state.level)
        reason = f"{state.since_best} evaluations without a significant improvement"
        if state.best is None:
            return Evidence(0.0, recent.stderr, recent.n, reason)
        return compare(recent, state.best, reason, history=state.history).evidence

    def _update_cusum(self, state: SchedulerState, score: Estimate) -> tuple[SchedulerState, Evidence, bool]:
        """Computes ``S = max(0, S + (level - margin - score) / stderr - k)``; there is an alarm if ``S > h``."""
        if state.level is None or state.best is None:
            evidence = Evidence(0.0, score.stderr, score.n, "no level to compare with")
            return replace(state, level=score), evidence, False
        progress = max(state.best.mean - (state.best.mean if state.baseline is None else state.baseline), 0.0)
        margin = (1.0 - self.degradation_threshold) * progress
        reason = "compared with the level since the best was promoted"
        evidence, z = compare(score, state.level, reason, margin=-margin, history=state.history)
        if state.evaluations <= state.cooldown_until:
            # After a rollback the score of the best is the reference. Otherwise the latest score is, because scores
            # may go on falling during the cooldown.
            level = state.level if state.level == state.best else score
            return replace(state, level=level, recent=()), evidence, False
        # The error of the reference shifts all of these comparisons alike. While it is large, it adds to the slack.
        shared = 0.5 * math.sqrt(score.n / (score.n + state.level.n))
        cusum = max(0.0, state.cusum - z - self.cusum_slack - shared)
        # All scores enter the level, because leaving out low ones would raise it and cause false alarms. They enter it
        # late, because otherwise a drop right after a promotion would soon be half of its own reference.
        level, recent = state.level, (*state.recent, score)
        if len(recent) > _REFERENCE_LAG:
            level, recent = pool(level, recent[0]), recent[1:]
        return replace(state, cusum=cusum, level=level, recent=recent), evidence, cusum > self.cusum_limit

    def _watch(self, state: SchedulerState, score: Estimate) -> tuple[SchedulerState, Decision]:
        state, evidence, alarm = self._update_cusum(state, score)
        if not alarm:
            return state, Decision(LoopEvent.NONE, state.loop_state, state.loop_state, evidence)
        return self.shifted(state), Decision(LoopEvent.DEGRADATION, LoopState.WATCHDOG, LoopState.ACTIVE, evidence)


def _finite(evaluation: Evaluation) -> Estimate:
    """Returns the score of an evaluation; raises if it is not finite."""
    score = evaluation.score
    if math.isfinite(score.mean) and not math.isnan(score.stderr):
        return score
    raise NonFiniteError(
        describe(
            "A score must be finite.",
            fix="Check the rewards, the evaluator and the losses of that window.",
            score=score.mean,
            stderr=score.stderr,
            window_id=evaluation.window_id,
        )
    )
