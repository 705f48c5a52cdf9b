"""The state of the scheduler, as one value."""

from __future__ import annotations

import enum
import sys
from typing import Annotated

import msgspec

from keras_optix.states import Count, Finite, State, Unbounded
from keras_optix.statistics.estimates import Estimate


class LoopState(enum.Enum):
    """The four states of the loop.

    Examples:
        >>> optix.LoopState.DORMANT.name
        'DORMANT'
    """

    ACTIVE = "active"
    COOLING = "cooling"
    DORMANT = "dormant"
    WATCHDOG = "watchdog"


class TimedScore(State, frozen=True):
    """A score, and when it was earned.

    Attributes:
        env_steps: Env steps of the run until then.
        score: The score.
    """

    env_steps: Count
    score: Estimate


class SchedulerState(State, frozen=True):
    """The state of a `BackoffScheduler` in a run.

    Env steps are those of the run, as evaluations have them (`Evaluation.env_steps`; of an ordinary model batches). If
    evaluations have none (0), windows are counted instead.

    Attributes:
        loop_state: The state of the loop.
        interval: Windows between evaluations. It is a float, so that a backoff factor such as 1.5 lets it grow from 1.
        last_window: Window of the last evaluation, or None.
        last_env_steps: Env steps at the last evaluation.
        evaluations: Evaluations so far.
        since_best: Evaluations since the best was promoted or the scores degraded.
        since_active: Evaluations without improvement since the loop last became ACTIVE.
        since_window: Window from which `since_best` counts.
        since_env_steps: Env steps from which `since_best` counts.
        scores: The latest of these scores, oldest first.
        degradations: Degradations since the best was promoted.
        best: Confirmed score of the best weights of this regime.
        best_env_steps: Env steps at the evaluation that found the best.
        baseline: First score of this regime; progress is measured from it.
        level: Mean of the scores since the promotion of the best or a degradation, except the `recent` ones. It is the
            reference of the CUSUM.
        recent: The latest scores, which are not yet part of the level.
        cusum: The CUSUM statistic, in standard errors; infinite after a drop without noise.
        cooldown_until: Number of the last evaluation of the cooldown after a degradation.
        history: The latest scores, oldest first.
        pending: Whether a candidate waits for `confirm`.
        regime_index: Number of change points so far. After each one there is no best.
        regime_env_steps: Env steps at the latest change point, 0 before the first one.
        regime_returned: Whether this regime was known before, and its policy was restored.
        learning_took: Largest number of env steps from the beginning of an earlier regime to its best.
    """

    loop_state: LoopState = LoopState.ACTIVE
    interval: Annotated[float, msgspec.Meta(ge=1.0, le=sys.float_info.max)] = 1.0
    last_window: Count | None = None
    last_env_steps: Count = 0
    evaluations: Count = 0
    since_best: Count = 0
    since_active: Count = 0
    since_window: Count = 0
    since_env_steps: Count = 0
    scores: tuple[TimedScore, ...] = ()
    degradations: Count = 0
    best: Estimate | None = None
    best_env_steps: Count = 0
    baseline: Finite | None = None
    level: Estimate | None = None
    recent: tuple[Estimate, ...] = ()
    cusum: Unbounded = 0.0
    cooldown_until: Count = 0
    history: tuple[Finite, ...] = ()
    pending: bool = False
    regime_index: Count = 0
    regime_env_steps: Count = 0
    regime_returned: bool = False
    learning_took: Count = 0
