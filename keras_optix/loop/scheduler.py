"""The state machine turns evaluations into transitions, each with its evidence.

::

    ACTIVE   --plateau_threshold evaluations without improvement-->  COOLING  (interval grows)
    COOLING  --improvement-->                                        ACTIVE
    COOLING  --dormant_threshold evaluations without improvement-->  DORMANT  (trained)
    DORMANT  --watch()-->                                            WATCHDOG (acts, is scored, does not learn)
    any      --degradation-->                                        ACTIVE

Improvement and degradation are decided by tests. An improvement begins as a *candidate*: an evaluation significantly
above the best. It is promoted only by `confirm`, with a second evaluation of the same weights, because the maximum of
many noisy scores lies far above the true mean. `loop/degradation.py` has the test for degradation, `loop/stopping.py`
the rules by which training ends.
"""

from __future__ import annotations

import dataclasses
import functools

from msgspec.structs import replace

from keras_optix.arguments import NamesChecked
from keras_optix.errors import ConfigurationError, StateError, describe
from keras_optix.evaluators.evaluation import Evaluation, finite_score
from keras_optix.loop import stopping
from keras_optix.loop.decisions import Decision, LoopEvent
from keras_optix.loop.degradation import Cusum
from keras_optix.loop.ending import Ending
from keras_optix.loop.improvement import ImprovementTest
from keras_optix.loop.scheduler_state import LoopState, SchedulerState
from keras_optix.loop.stopping import HISTORY, StoppingRule
from keras_optix.reprs import OneLineRepr
from keras_optix.statistics.estimates import Estimate, Evidence, compare, pool
from keras_optix.statistics.levels import one_sided
from keras_optix.validation import check_confidence, check_float, check_int

__all__ = ["BackoffScheduler", "Decision", "Ending", "LoopEvent", "LoopState", "SchedulerState"]


class BackoffScheduler(NamesChecked, OneLineRepr):
    """Decides from evaluations whether the loop improves, has reached a plateau, is trained, or has degraded.

    A scheduler is configuration only, so several callbacks may share it. Its knowledge of a run is a separate value,
    the state: `initial_state` makes the first one, and each method takes the state before and returns the state after.
    The state of a run is `OptixCallback.scheduler_state`.

    Patience counts evaluations. A run that has learned (its best is clearly better than its first score) ends after
    `dormant_threshold` evaluations without improvement, or earlier if the scores show that more training is futile, but
    neither before it has had `best_multiple` times the env steps of its best. A run that has not learned, or whose
    scores are deterministic, also waits until so many evaluations would have come at the intervals of COOLING.

    A window is ``window_size * num_envs`` env steps. With ``window_size=32``, ``num_envs=8`` (256 env steps) and the
    defaults, COOLING begins at least 5 windows (1,280 env steps) after the last improvement, and the 15 intervals from
    there are 2, 4, 8, 16, 32, 64 and nine times 100, in sum 1,026 windows (262,656 env steps). With ``max_interval=10``
    they are 134 windows (34,304 env steps). After `patience_env_steps` the number of evaluations is enough.

    Evaluations come more often than at these intervals: see `max_interval_share`. They may also come later, because an
    evaluation takes as many windows as it takes for `min_episodes` episodes (of the evaluator) to end.

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
        improvement_margin: By how much, in units of the score, an improvement must exceed the best, >= 0, and what a
            gain must be to be worth more training. Defaults to None: any significant improvement counts, and a gain is
            worth more training from 5 % of the progress.
        confidence: One-sided confidence of both tests of an improvement, between 0.5 and 1. Defaults to 0.95.
        cusum_slack: Slack `k` of the CUSUM in standard errors. Defaults to 0.5.
        cusum_limit: Limit `h` of the CUSUM in standard errors. Defaults to 5: with the slack, one false alarm in about
            900 evaluations, and a drop of 1, 2, 3 standard errors is detected after about 10, 4, 3 evaluations. A drop
            in the first evaluations after a promotion takes longer, because the reference itself is still uncertain.
        degradation_cooldown: Evaluations after a degradation during which the CUSUM does not accumulate, which gives
            time to recover. Defaults to 3; 0 means no cooldown.
        max_interval_share: The next evaluation is due at the latest after this share of the env steps so far, but not
            before `base_interval`. Defaults to 0.05. None means no such bound.
        max_interval_env_steps: The next evaluation is due at the latest after this many env steps, >= 1. Defaults to
            100,000. None means no such bound.
        max_degradations: Degradations since the best was promoted, at which the loop becomes DORMANT if the run is
            `best_multiple` times as long as that of the best, >= 1. Each one before gives time to recover: patience
            begins anew. Defaults to 5.
        best_multiple: Neither futility nor patience ends a run that has learned before its env steps are this multiple
            of those of the best, >= 1. After a degradation it gets as many env steps again. Defaults to 2.8.
        patience_env_steps: Env steps without improvement after which patience need not wait any longer for windows or
            `best_multiple`, >= 0. Defaults to 500,000.
        futility_confidence: One-sided confidence of the test for futility, between 0.5 and 1: whether a line through
            the scores since the best was promoted, or through those of the latest half of that time, stays below the
            best plus the margin. Defaults to 0.8. None turns it off.
        futility_evaluations: Evaluations since the best was promoted that futility needs, >= 3. Defaults to None: a
            fifth of `dormant_threshold`, at least 3.
        screening_confidence: Takes the place of `confidence` in the first test of an improvement if many fresh episodes
            can be played for the second one (`Evaluation.cheap_to_confirm`), between 0.5 and 1. Defaults to 0.8.

    Raises:
        ConfigurationError: An argument is out of range, or two contradict each other.

    Examples:
        >>> scheduler = optix.BackoffScheduler(plateau_threshold=10, dormant_threshold=40)  # twice the patience
        >>> callback = optix.OptixCallback(scheduler=scheduler)
    """

    def __init__(
        self,
        base_interval: int = 1,
        backoff_factor: float = 2.0,
        max_interval: int = 100,
        plateau_threshold: int = 5,
        dormant_threshold: int = 20,
        degradation_threshold: float = 0.95,
        improvement_margin: float | None = None,
        confidence: float = 0.95,
        cusum_slack: float = 0.5,
        cusum_limit: float = 5.0,
        degradation_cooldown: int = 3,
        max_interval_share: float | None = 0.05,
        max_interval_env_steps: int | None = 100_000,
        max_degradations: int = 5,
        best_multiple: float = 2.8,
        patience_env_steps: int = 500_000,
        futility_confidence: float | None = 0.8,
        futility_evaluations: int | None = None,
        screening_confidence: float = 0.8,
    ) -> None:
        self.base_interval = check_int("base_interval", base_interval, minimum=1)
        self.backoff_factor = check_float("backoff_factor", backoff_factor, low=1.0, low_open=True)
        self.max_interval = check_int("max_interval", max_interval, minimum=1)
        self.plateau_threshold = check_int("plateau_threshold", plateau_threshold, minimum=1)
        self.dormant_threshold = check_int("dormant_threshold", dormant_threshold, minimum=1)
        self.degradation_threshold = check_float("degradation_threshold", degradation_threshold, low=0.0, high=1.0)
        self.improvement_margin = None
        if improvement_margin is not None:
            self.improvement_margin = check_float("improvement_margin", improvement_margin, low=0.0)
        self.confidence = check_confidence("confidence", confidence)
        self.cusum_slack = check_float("cusum_slack", cusum_slack, low=0.0)
        self.cusum_limit = check_float("cusum_limit", cusum_limit, low=0.0, low_open=True)
        self.degradation_cooldown = check_int("degradation_cooldown", degradation_cooldown, minimum=0)
        self.max_interval_share = None
        if max_interval_share is not None:
            self.max_interval_share = check_float("max_interval_share", max_interval_share, low=0.0, low_open=True)
        self.max_interval_env_steps = None
        if max_interval_env_steps is not None:
            self.max_interval_env_steps = check_int("max_interval_env_steps", max_interval_env_steps, minimum=1)
        self.max_degradations = check_int("max_degradations", max_degradations, minimum=1)
        self.best_multiple = check_float("best_multiple", best_multiple, low=1.0)
        self.patience_env_steps = check_int("patience_env_steps", patience_env_steps, minimum=0)
        self.futility_confidence = None
        if futility_confidence is not None:
            self.futility_confidence = check_confidence("futility_confidence", futility_confidence)
        fifth = max(self.dormant_threshold // 5, 3)
        self.futility_evaluations = None
        if futility_evaluations is not None:
            self.futility_evaluations = fifth = check_int("futility_evaluations", futility_evaluations, minimum=3)
        self.screening_confidence = check_confidence("screening_confidence", screening_confidence)
        self._check_order()
        limit = one_sided(self.confidence)
        self._improvement = ImprovementTest(limit, one_sided(self.screening_confidence), self.improvement_margin or 0.0)
        self._cusum = Cusum(self.degradation_threshold, self.cusum_slack, self.cusum_limit)
        self._stopping = StoppingRule(
            evaluations=self.dormant_threshold,
            windows=stopping.windows_of_patience(
                self.dormant_threshold,
                self.base_interval,
                self.backoff_factor,
                self.max_interval,
                active=self.plateau_threshold,
            ),
            env_steps=self.patience_env_steps,
            multiple=self.best_multiple,
            trend_limit=limit,
            futility_evaluations=fifth,
            futility_limit=None if self.futility_confidence is None else one_sided(self.futility_confidence),
            margin=self.improvement_margin,
        )

    def _check_order(self) -> None:
        """Raises if two arguments contradict each other."""
        if self.max_interval < self.base_interval:
            raise ConfigurationError(
                describe(
                    "`max_interval` must not be below `base_interval`.",
                    base_interval=self.base_interval,
                    max_interval=self.max_interval,
                )
            )
        if self.dormant_threshold <= self.plateau_threshold:
            raise ConfigurationError(
                describe(
                    "`dormant_threshold` must be above `plateau_threshold`, because COOLING comes before DORMANT.",
                    plateau_threshold=self.plateau_threshold,
                    dormant_threshold=self.dormant_threshold,
                )
            )

    def initial_state(self) -> SchedulerState:
        """Returns the state at the beginning of a run."""
        return SchedulerState(interval=float(self.base_interval))

    def due(self, state: SchedulerState, window_id: int, env_steps: int = 0) -> bool:
        """Returns whether an evaluation is due.

        Args:
            state: The state so far.
            window_id: Number of the window.
            env_steps: Env steps of the run until then. Defaults to 0: they are not known, and only windows count.
        """
        if state.last_window is None or window_id - state.last_window >= state.interval:
            return True
        if not env_steps:
            return False
        waited = env_steps - state.last_env_steps
        if self.max_interval_env_steps is not None and waited >= self.max_interval_env_steps:
            return True
        if self.max_interval_share is None or window_id - state.last_window < self.base_interval:
            return False
        return waited >= self.max_interval_share * (env_steps - state.regime_env_steps)

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
        score = finite_score(evaluation)
        state = replace(
            state,
            last_window=evaluation.window_id,
            last_env_steps=stopping.now(evaluation),
            evaluations=state.evaluations + 1,
            history=(*state.history, score.mean)[-HISTORY:],
            baseline=score.mean if state.baseline is None else state.baseline,
        )
        if state.loop_state is LoopState.WATCHDOG:
            return self._watch(state, score, alarmed=evaluation.alarmed)
        screening, contender = evaluation.cheap_to_confirm, evaluation.contender
        candidate = self._improvement.candidate(state, score, screening=screening, contender=contender)
        if candidate is not None:
            decision = Decision(LoopEvent.CANDIDATE, state.loop_state, state.loop_state, candidate)
            return replace(state, pending=True), decision
        return self._no_improvement(state, score, evaluation)

    def confirm(
        self, state: SchedulerState, evaluation: Evaluation, *, verdict: tuple[bool, Evidence] | None = None
    ) -> tuple[SchedulerState, tuple[Decision, ...]]:
        """Adds the second, independent evaluation of the candidate's weights.

        Args:
            state: The state so far.
            evaluation: A finite score. If a sequential test has decided, all fresh episodes of the candidate together.
            verdict: Whether a sequential test has confirmed the candidate, and its evidence, whose reason is kept.
                Defaults to None: the score is compared with the best.

        Returns:
            The next state, and the decisions: an IMPROVEMENT; or REJECTED and any transition after one more evaluation
            without improvement. The reason of a rejection says whether there was too little evidence.

        Raises:
            NonFiniteError: The score is NaN or infinite.
            StateError: There is no candidate.
        """
        if not state.pending:
            raise StateError("There is no candidate to confirm; call `observe` first.")
        score = finite_score(evaluation)
        state = replace(state, pending=False)
        confirmed, evidence = self._improvement.confirmed(state, score) if verdict is None else verdict
        if confirmed:
            state, promoted = self._promote(state, score, evidence)
            return state, (promoted,)
        decision = Decision(LoopEvent.REJECTED, state.loop_state, state.loop_state, evidence)
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
        return self._promote(replace(state, pending=False), finite_score(evaluation), evidence)

    def doubts_best(self, state: SchedulerState, score: Estimate) -> bool:
        """Returns whether a score misses significance only because the best was measured too roughly.

        Then it is worth evaluating the best again. On CartPole, for example, no score can be significantly above
        480 +- 15.
        """
        return self._improvement.doubts_best(state, score)

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
        score = finite_score(evaluation)
        comparison = compare(score, state.best, "another evaluation of the best", history=state.history)
        pooled = pool(state.best, score)
        level = pooled if state.level == state.best else state.level
        return replace(state, best=pooled, level=level), comparison.evidence

    def adopt(self, state: SchedulerState, score: Estimate, *, env_steps: int = 0) -> SchedulerState:
        """Sets the score of the best, for a resumed run whose best was promoted after its state was written.

        Args:
            state: The state so far.
            score: Score of the best.
            env_steps: Env steps of the run when the best was found. Defaults to 0: those of the last evaluation.
        """
        state = replace(state, best=score, level=score, recent=(), cusum=0.0, pending=False)
        return self._begin_patience(state, env_steps)

    def promote(
        self, state: SchedulerState, score: Estimate, evidence: Evidence, *, env_steps: int = 0
    ) -> tuple[SchedulerState, Decision]:
        """Promotes weights that were not found by a candidate's evaluation; the loop becomes ACTIVE.

        Args:
            state: The state so far.
            score: Score of an evaluation that is independent of the one by which the weights were chosen.
            evidence: Why the weights are the best.
            env_steps: Env steps of the run now. Defaults to 0: those of the last evaluation.
        """
        return self._promote(replace(state, pending=False), score, evidence, env_steps)

    def worthwhile(self, state: SchedulerState) -> float | None:
        """Returns the score from which a gain over the best is worth more training; None if there is no best."""
        return None if state.best is None else self._stopping.worthwhile(state, state.best.mean)

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
            last_env_steps=state.last_env_steps,
            regime_env_steps=state.last_env_steps,
            learning_took=max(state.learning_took, state.best_env_steps - state.regime_env_steps),
            evaluations=state.evaluations,
            regime_index=state.regime_index + 1,
            cooldown_until=state.evaluations + self.degradation_cooldown,
        )

    def _promote(
        self, state: SchedulerState, score: Estimate, evidence: Evidence, env_steps: int = 0
    ) -> tuple[SchedulerState, Decision]:
        promoted = replace(
            state,
            loop_state=LoopState.ACTIVE,
            interval=float(self.base_interval),
            best=score,
            level=score,
            recent=(),
            cusum=0.0,
        )
        promoted = self._begin_patience(promoted, env_steps)
        return promoted, Decision(LoopEvent.IMPROVEMENT, state.loop_state, LoopState.ACTIVE, evidence)

    @staticmethod
    def _begin_patience(state: SchedulerState, env_steps: int = 0) -> SchedulerState:
        """Returns the state with patience beginning at a new best, of the last evaluation if `env_steps` is 0."""
        at = env_steps or state.last_env_steps
        window_id = 0 if state.last_window is None else state.last_window
        anew = stopping.begun_anew(state, at, window_id)
        # The best may have been trained a while ago, and compared only now: evaluations since then were not better.
        later = tuple(one for one in state.scores if one.env_steps > at)
        return replace(anew, since_best=len(later), scores=later, best_env_steps=at, degradations=0)

    def _no_improvement(
        self, state: SchedulerState, score: Estimate, evaluation: Evaluation
    ) -> tuple[SchedulerState, Decision]:
        before, fall, alarm = state.loop_state, self._plateau_evidence(state, score), False
        if evaluation.monitored:
            state, fall, alarm = self._cusum.update(state, score, alarmed=evaluation.alarmed)
        if evaluation.counts_towards_plateau:
            state = stopping.with_score(state, score, evaluation)
        if alarm:
            return self._degraded(state, score, evaluation, fall)
        if evaluation.counts_towards_plateau:
            ending = self._stopping.ending(state, evaluation)
            if ending is not None:
                return self._dormant(state, *ending, self._plateau_evidence(state, score))
            if before is LoopState.ACTIVE and state.since_active >= self.plateau_threshold:
                cooling = replace(state, loop_state=LoopState.COOLING, interval=self._next_interval(state))
                evidence = self._plateau_evidence(cooling, score)
                return cooling, Decision(LoopEvent.PLATEAU, before, LoopState.COOLING, evidence)
        if before is LoopState.COOLING:
            state = replace(state, interval=self._next_interval(state))
        return state, Decision(LoopEvent.NONE, before, before, self._plateau_evidence(state, score))

    def _degraded(
        self, state: SchedulerState, score: Estimate, evaluation: Evaluation, fall: Evidence
    ) -> tuple[SchedulerState, Decision]:
        """Gives time to recover: what counts since the best begins anew. After too many degradations training ends."""
        before = state.loop_state
        state = replace(state, degradations=state.degradations + 1)
        if state.degradations >= self.max_degradations and self._stopping.is_old(state, evaluation):
            times = "once" if state.degradations == 1 else f"{state.degradations} times"
            reason = f"degraded {times} in {stopping.since_best(state, evaluation)} since the best"
            return self._dormant(state, Ending.UNSTABLE, reason, fall)
        degraded = replace(
            stopping.begun_anew(state, stopping.now(evaluation), evaluation.window_id),
            loop_state=LoopState.ACTIVE,
            interval=float(self.base_interval),
            cusum=0.0,
            level=score,
            recent=(),
            cooldown_until=state.evaluations + self.degradation_cooldown,
        )
        return degraded, Decision(LoopEvent.DEGRADATION, before, LoopState.ACTIVE, fall)

    @staticmethod
    def _dormant(
        state: SchedulerState, ending: Ending, reason: str, evidence: Evidence
    ) -> tuple[SchedulerState, Decision]:
        evidence = dataclasses.replace(evidence, reason=reason)
        dormant = replace(state, loop_state=LoopState.DORMANT)
        return dormant, Decision(LoopEvent.DORMANT, state.loop_state, LoopState.DORMANT, evidence, ending)

    def _next_interval(self, state: SchedulerState) -> float:
        return min(state.interval * self.backoff_factor, float(self.max_interval))

    def _plateau_evidence(self, state: SchedulerState, score: Estimate) -> Evidence:
        recent = score if state.level is None else functools.reduce(pool, state.recent, state.level)
        reason = f"{state.since_best} evaluations without a significant improvement"
        if state.best is None:
            return Evidence(0.0, recent.stderr, recent.n, reason)
        return compare(recent, state.best, reason, history=state.history).evidence

    def _watch(self, state: SchedulerState, score: Estimate, *, alarmed: bool) -> tuple[SchedulerState, Decision]:
        state, evidence, alarm = self._cusum.update(state, score, alarmed=alarmed)
        if not alarm:
            return state, Decision(LoopEvent.NONE, state.loop_state, state.loop_state, evidence)
        return self.shifted(state), Decision(LoopEvent.DEGRADATION, LoopState.WATCHDOG, LoopState.ACTIVE, evidence)
