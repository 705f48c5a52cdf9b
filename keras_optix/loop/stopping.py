"""When training ends: nothing was better for as long as patience lasts, or the scores show that more is not worth it.

Both conclusions wait until the run is a multiple of the env steps that it took to find the best, because progress in
training takes about as long as it took before, whatever the task. That holds for a new regime, too: it takes as long as
the ones before took, even if a first best came sooner. Neither can be drawn from the scores of a policy that
has not learned yet; then only patience ends the run.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from keras_optix.evaluators.evaluation import Evaluation
from keras_optix.loop.ending import Ending
from keras_optix.loop.scheduler_state import SchedulerState, TimedScore
from keras_optix.statistics.estimates import Estimate, compare, pool, trend
from keras_optix.statistics.lines import Forecast, forecast

HISTORY = 64  # scores that are kept: to estimate the noise if scores have no standard error, and for the trend
_LEVEL_Z = 1.0  # by how many standard errors scores that hold the level of the best may lie below it
_LEARNED_Z = 3.0  # by how many standard errors the best of a policy that has learned exceeds the first score
PROGRESS_SHARE = 0.05  # of the progress (best minus first score): gains below it are not worth more training


def windows_of_patience(evaluations: int, base: int, factor: float, largest: int, *, active: int) -> float:
    """Returns the windows that evaluations without improvement take, if each comes when its interval is over.

    Args:
        evaluations: Number of evaluations.
        base: Windows between evaluations while ACTIVE.
        factor: Growth of the interval while COOLING.
        largest: Largest interval.
        active: Evaluations until COOLING.
    """
    interval, windows = float(base), float(base * min(active, evaluations))
    for done in range(active, evaluations):
        interval = min(interval * factor, float(largest))
        if interval == largest:  # it stays so, and there may be millions of evaluations
            return windows + interval * (evaluations - done)
        windows += interval
    return windows


def now(evaluation: Evaluation) -> int:
    """Returns the env steps at an evaluation; the number of windows if it has none."""
    return evaluation.env_steps or evaluation.window_id + 1


def with_score(state: SchedulerState, score: Estimate, evaluation: Evaluation) -> SchedulerState:
    """Counts an evaluation without improvement, and keeps its score."""
    scores = state.scores
    if evaluation.monitored or evaluation.training_rises:  # those of weights that a tuner tests are left out
        scores = (*scores, TimedScore(now(evaluation), score))[-HISTORY:]
    return replace(state, since_best=state.since_best + 1, since_active=state.since_active + 1, scores=scores)


def begun_anew(state: SchedulerState, env_steps: int, window_id: int) -> SchedulerState:
    """Returns the state with patience, trend and futility beginning at this time."""
    return replace(state, since_best=0, since_active=0, since_env_steps=env_steps, since_window=window_id, scores=())


@dataclass(frozen=True)
class StoppingRule:
    """Decides after each evaluation without improvement whether training ends.

    Attributes:
        evaluations: Evaluations without improvement until patience ends.
        windows: Windows without improvement until patience ends, if the policy has not learned.
        env_steps: Env steps without improvement that are always enough for patience to end.
        multiple: Multiple of the env steps of the best that the run must have had.
        trend_limit: Significance (a standard normal score) of a rise that puts the end of patience off.
        futility_evaluations: Evaluations without improvement that futility needs.
        futility_limit: Significance of futility as a standard normal score; None for no test.
        margin: Gain that is worth more training, in units of the score; None for a share of the progress.
    """

    evaluations: int
    windows: float
    env_steps: int
    multiple: float
    trend_limit: float
    futility_evaluations: int
    futility_limit: float | None
    margin: float | None

    def ending(self, state: SchedulerState, evaluation: Evaluation) -> tuple[Ending, str] | None:
        """Returns why training ends, with a sentence for logs; None if it goes on."""
        if now(evaluation) < evaluation.explores_until:
            return None
        known = _best_known(state, evaluation)
        elapsed = now(evaluation) - max(state.since_env_steps, known.env_steps, evaluation.explores_until)
        waited = time_since(known.env_steps, evaluation)
        ripe = self._is_ripe(state, max(known.env_steps, evaluation.explores_until), elapsed)
        if evaluation.training_rises and evaluation.training_may_pass_best:
            # Greedy episodes can fail for a while although training makes progress. But where they have returned as
            # much as the best all the time, and training less, it is only the sampled actions that become better.
            only_sampled = not evaluation.training_reaches_best and self._holds_best(state, evaluation, known, elapsed)
            ripe = ripe and only_sampled
            if not ripe:
                return None
        if ripe and self._is_futile(state, evaluation, known, elapsed):
            worth = "5 % of the progress" if self.margin is None else "`improvement_margin`"
            return Ending.FUTILE, f"nothing better in {waited}, and another {elapsed:,} would bring less than {worth}"
        # Patience of an ordinary fit counts epochs, as in Keras' EarlyStopping.
        if evaluation.scores_are_deterministic or not _has_learned(state):
            enough = evaluation.window_id - state.since_window >= self.windows
        else:
            enough = ripe
        enough = enough or evaluation.env_steps == 0 or elapsed >= self.env_steps
        rising = trend(state.history[-min(state.since_best, HISTORY) :]) > self.trend_limit
        if state.since_best >= self.evaluations and enough and not rising:
            return Ending.PLATEAU, f"nothing better in {waited}"
        return None

    def worthwhile(self, state: SchedulerState, score: float) -> float:
        """Returns the score above which a gain over `score` is worth more training."""
        if self.margin is not None:
            return score + self.margin
        return score + PROGRESS_SHARE * (score - (score if state.baseline is None else state.baseline))

    def is_old(self, state: SchedulerState, evaluation: Evaluation) -> bool:
        """Returns whether the run has had `multiple` times the env steps of the best."""
        took = state.best_env_steps - state.regime_env_steps
        return now(evaluation) - state.regime_env_steps >= self.multiple * took

    def _is_ripe(self, state: SchedulerState, at: int, elapsed: int) -> bool:
        """Returns whether the policy has learned, and the run was long enough since `at` for a conclusion."""
        took = max(at - state.regime_env_steps, 0 if state.regime_returned else state.learning_took)
        return elapsed >= (self.multiple - 1.0) * took and _has_learned(state)

    def _is_futile(self, state: SchedulerState, evaluation: Evaluation, known: TimedScore, elapsed: int) -> bool:
        """Returns whether a line through the scores stays below the best that is known plus the margin.

        One line is drawn through all scores since then, and one through those of the latest half of that time. Scores
        often fall after a best, and rise to its level again. Then the first line goes up although nothing is gained.
        """
        if self.futility_limit is None or state.best is None or state.baseline is None:
            return False
        if state.since_best < self.futility_evaluations:
            return False
        later = _since(state, known)
        every = later if state.degradations else (known, *later)
        latest = self._latest(state, evaluation, known, elapsed)
        limit = self.worthwhile(state, known.score.mean)
        # As long again as nothing was better.
        lines = [_forecast(scores, now(evaluation) + elapsed) for scores in (every, latest)]
        return any(line is not None and line.below(limit) > self.futility_limit for line in lines)

    def _holds_best(self, state: SchedulerState, evaluation: Evaluation, known: TimedScore, elapsed: int) -> bool:
        """Returns whether the latest scores are enough, and as high as the best that is known."""
        latest = self._latest(state, evaluation, known, elapsed)
        if not latest:
            return False
        return compare(functools.reduce(pool, (one.score for one in latest)), known.score, "").z > -_LEVEL_Z

    def _latest(
        self, state: SchedulerState, evaluation: Evaluation, known: TimedScore, elapsed: int
    ) -> tuple[TimedScore, ...]:
        """Returns the scores of the latest half of the time since the best; none if they are too few for futility."""
        latest = tuple(one for one in _since(state, known) if 2 * (now(evaluation) - one.env_steps) <= elapsed)
        return latest if len(latest) >= self.futility_evaluations else ()


def _since(state: SchedulerState, known: TimedScore) -> tuple[TimedScore, ...]:
    """Returns the scores since the best that is known."""
    return tuple(one for one in state.scores if one.env_steps > known.env_steps)


def _forecast(scores: Sequence[TimedScore], env_steps: int) -> Forecast | None:
    return forecast([one.env_steps for one in scores], [one.score for one in scores], env_steps)


def _best_known(state: SchedulerState, evaluation: Evaluation) -> TimedScore:
    """Returns the score of the best, or of a contender that scored higher: it is compared again when training ends.

    Otherwise a run would wait for scores to fall below a best that is known to be passed.
    """
    best, contender = state.best, evaluation.contender
    if contender is not None and best is not None and contender.mean > best.mean:
        return TimedScore(evaluation.contender_env_steps, contender)
    return TimedScore(state.best_env_steps, best if best is not None else evaluation.score)


def since_best(state: SchedulerState, evaluation: Evaluation) -> str:
    """Returns how long ago the best was found, with the unit: ``"150,000 env steps"``."""
    return time_since(state.best_env_steps, evaluation)


def time_since(env_steps: int, evaluation: Evaluation) -> str:
    """Returns the time from some env steps to an evaluation, with the unit: ``"150,000 env steps"``."""
    count = max(now(evaluation) - env_steps, 0)
    if not evaluation.env_steps:
        return f"{count:,} window" if count == 1 else f"{count:,} windows"
    if evaluation.scores_are_deterministic:
        return f"{count:,} batch" if count == 1 else f"{count:,} batches"
    return f"{count:,} env step" if count == 1 else f"{count:,} env steps"


def _has_learned(state: SchedulerState) -> bool:
    """Returns whether the best is clearly better than the first score, so that progress is not noise."""
    if state.best is None or state.baseline is None:
        return False
    first = Estimate(state.baseline, math.inf, 1)  # its error is found from the history
    return compare(state.best, first, "progress", history=state.history).z > _LEARNED_Z
