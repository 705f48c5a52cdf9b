"""A watch over the scores of training windows, which cost no env steps: have they moved since the last evaluation?

Training goes on between two evaluations, and its windows show returns. While evaluations are rare, these returns are
the first sign that the policy has changed. The watch is a two-sided CUSUM (Page 1954) of standardised differences: an
alarm up says that an evaluation may find a better policy, an alarm down that the policy may have degraded. An alarm is
a reason to evaluate, not a decision, because returns of training and of an evaluation need not measure the same.

Its reference is the level of training at the last evaluation: the mean of the latest scores then. A level of fewer than
`lag` scores is estimated further while the watch runs (a self-starting CUSUM, Hawkins 1987), and the standard error of
the level adds to the slack. Otherwise false alarms would be several times as frequent as with a known level. A level of
`lag` scores does not change any more: training may change slowly, and a level that follows would hide that, and would
take in a fall that was not noticed at once. `benchmarks/loop.py` measures the run lengths.
"""

from __future__ import annotations

import enum
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from keras_optix.states import Count, Finite, State, Unbounded
from keras_optix.statistics.estimates import Estimate, Evidence, compare, compare_alike, pool
from keras_optix.validation import check_float, check_int

_HISTORY = 64  # scores from which the noise is estimated if scores have no standard error


class Alarm(enum.Enum):
    """The direction in which the scores of training have moved."""

    UP = "up"
    DOWN = "down"


class WatchState(State, frozen=True):
    """The memory of a `Watch`.

    Attributes:
        level: Mean of the scores with which new ones are compared; None until there is a score.
        latest: The latest scores, oldest first, from which the level begins anew after an evaluation.
        held: How many scores the level is the mean of.
        waiting: How many of the latest scores are not part of the level.
        up: Cumulative sum of rises, in standard errors.
        down: Cumulative sum of falls, in standard errors.
        risen: Mean of the scores since `up` was last 0; None while it is 0.
        fallen: Mean of the scores since `down` was last 0; None while it is 0.
        history: Means of earlier scores, oldest first, for the noise of scores without a standard error.
    """

    level: Estimate | None = None
    latest: tuple[Estimate, ...] = ()
    held: Count = 0
    waiting: Count = 0
    up: Unbounded = 0.0
    down: Unbounded = 0.0
    risen: Estimate | None = None
    fallen: Estimate | None = None
    history: tuple[Finite, ...] = ()


@dataclass(frozen=True)
class Watch:
    """Detects that the scores of training have moved since the last evaluation.

    A score is the mean return of the episodes (ten, for example) that ended in the latest training windows, with the
    standard error that these episodes give; each episode belongs to one score. A watch is configuration only; what it
    has seen is its state. Shifting or scaling all scores changes no alarm.

    Attributes:
        slack: Slack `k` of both sums in standard errors of a score, at least 0. Defaults to 0.5, which detects moves of
            one standard error fastest.
        up_limit: Limit `h` of the sum of rises in standard errors, above 0. Defaults to 4, because a false alarm costs
            only one evaluation. With a known level there would be one in 335 scores, and a rise of 1, 2, 3 standard
            errors would be seen after 8, 3, 2 scores on average.
        down_limit: Limit `h` of the sum of falls in standard errors, above 0. Defaults to 5. With a known level there
            would be one false alarm in 931 scores, and a fall of 1, 2, 3 standard errors would be seen after 10, 4, 3
            scores on average.
        lag: Number of scores that make a level, at least 1: the latest so many scores at an evaluation. While the level
            holds fewer, scores are added to it so many scores late. Defaults to 10: a level of 100 episodes, where a
            score is the mean of ten.

    Raises:
        ConfigurationError: A value is out of range.
    """

    slack: float = 0.5
    up_limit: float = 4.0
    down_limit: float = 5.0
    lag: int = 10

    def __post_init__(self) -> None:
        check_float("slack", self.slack, low=0.0)
        check_float("up_limit", self.up_limit, low=0.0, low_open=True)
        check_float("down_limit", self.down_limit, low=0.0, low_open=True)
        check_int("lag", self.lag, minimum=1)

    def initial_state(self) -> WatchState:
        """Returns the state before the first score."""
        return WatchState()

    def observe(
        self, state: WatchState, score: Estimate, history: Sequence[float] = ()
    ) -> tuple[WatchState, tuple[Alarm, Evidence] | None]:
        """Adds a score.

        Args:
            state: The state so far.
            score: A score; its mean is finite. Its standard error may be infinite (unknown).
            history: Earlier scores, from whose noise an unknown standard error is estimated (see `compare`). Defaults
                to the scores that the watch has seen.

        Returns:
            The next state; and the alarm with its evidence, or None. The evidence compares the mean of the scores since
            the sum was last 0 with the level. These scores were selected by the alarm, so their difference is larger
            than the true one on average. After an alarm the state holds no level: the next score begins it.
        """
        noise = history or state.history
        state = replace(state, history=(*state.history, score.mean)[-_HISTORY:])
        if state.level is None:
            return replace(state, level=score, latest=(score,), held=1), None
        level = state.level
        z = compare_alike(score, level, "", history=noise).z
        # The error of the level shifts all of these comparisons alike. While it is large, it adds to the slack.
        slack = self.slack + 0.5 * math.sqrt(score.n / (score.n + level.n))
        up, risen = _added(state.up, state.risen, z - slack, score)
        down, fallen = _added(state.down, state.fallen, -z - slack, score)
        for alarm, total, limit, moved in (
            (Alarm.UP, up, self.up_limit, risen),
            (Alarm.DOWN, down, self.down_limit, fallen),
        ):
            if total > limit and moved is not None:
                verb = "above" if alarm is Alarm.UP else "below"
                reason = f"training returns {verb} their level at the last evaluation"
                evidence = compare(moved, level, reason, history=noise).evidence
                # The scores that led to the alarm were selected for being high or low. As a level they would be too far
                # from the mean of the scores to come, and would cause an alarm in the other direction.
                return WatchState(history=state.history), (alarm, evidence)
        return self._learn(replace(state, up=up, down=down, risen=risen, fallen=fallen), score), None

    def restart(self, state: WatchState) -> WatchState:
        """Begins anew after an evaluation: what training has reached by now is its new level.

        The level becomes the mean of the latest `lag` scores, because the question is what moves from now on. Both sums
        begin at 0, because the evaluation has answered what they asked. The latest scores are kept, so that the level
        is known at once and evaluations in quick succession do not leave it to a single score; and so is the history,
        because the noise of a score does not depend on the level.

        Args:
            state: The state so far.
        """
        level = functools.reduce(pool, state.latest) if state.latest else None
        return WatchState(level=level, latest=state.latest, held=len(state.latest), history=state.history)

    def _learn(self, state: WatchState, score: Estimate) -> WatchState:
        """Adds the score to the latest ones; and the one from `lag` scores ago to the level, if that holds too few.

        A score enters the level late, because otherwise a drop would soon be half of its own reference.
        """
        latest, waiting = (*state.latest, score), state.waiting + 1
        state = replace(state, latest=latest[-self.lag :], waiting=min(waiting, self.lag))
        if state.level is None or state.held >= self.lag or waiting <= self.lag:
            return state
        return replace(state, level=pool(state.level, latest[-waiting]), held=state.held + 1)


def _added(total: float, moved: Estimate | None, step: float, score: Estimate) -> tuple[float, Estimate | None]:
    """Adds a step to a sum, and the score to the mean of the scores since the sum was last 0."""
    if step == -math.inf or total + step <= 0.0:  # an infinite sum and an infinite step back have no sum
        return 0.0, None
    return total + step, score if moved is None else pool(moved, score)
