"""The procedures at the end of a run: has the best reached the target, and what do fresh episodes say of it?"""

from __future__ import annotations

import math

from keras_optix.loop import actions as do
from keras_optix.loop.ending import Ending
from keras_optix.loop.procedures import MOST_EPISODES, Asking, Procedure, Situation
from keras_optix.statistics.comparisons import EvaluationResult
from keras_optix.statistics.estimates import Estimate, compare, pool
from keras_optix.statistics.levels import LIKELY_Z
from keras_optix.store.manifest import PolicySnapshot

_BATCH = 20  # episodes
_ENOUGH = 60  # episodes
_PRECISE = 0.01  # share of the progress: a standard error below it needs no further episodes


def reach_target(at: Situation) -> Asking[bool]:
    """Ends the run if the best has reached the target.

    The best plays further episodes until its score lies significantly above or below the target, at most 100. Then the
    target is reached if the mean is not below it, which is how environments define that they are solved.

    Args:
        at: The situation.

    Returns:
        Whether the target is reached.
    """
    best: PolicySnapshot | None = yield do.ReadBest()
    score: Estimate | None = yield do.ReadBestScore()
    if at.target is None or best is None or score is None or score.mean < at.target:
        return False
    fresh: Estimate | None = None
    while not at.single and (fresh is None or (fresh.n < MOST_EPISODES and not _decided(fresh, at.target))):
        played: EvaluationResult | None = yield do.Evaluate(best, _BATCH, at_once=True)
        if played is None:
            break  # the episodes by which the best was confirmed have to do
        fresh = played.estimate if fresh is None else pool(fresh, played.estimate)
    if fresh is not None:
        yield do.Reassess(fresh)
    if (score if fresh is None else fresh).mean < at.target:
        return False
    yield do.Stop(Ending.TARGET)
    return True


def _decided(score: Estimate, target: float) -> bool:
    z = compare(score, Estimate(target, 0.0, 1), "").z
    return abs(z) > LIKELY_Z or (score.stderr == 0.0 and score.mean == target)


def announce(at: Situation, *, least: int) -> Procedure:
    """Lets the best play fresh episodes, whose score is the one that is announced.

    The score by which a best was confirmed is too high on average, because it was promoted for it.

    Args:
        at: The situation.
        least: Episodes that are played even if the evaluation budget is spent.
    """
    best: PolicySnapshot | None = yield do.ReadBest()
    score: Estimate | None = yield do.ReadBestScore()
    if at.single or best is None or score is None:
        return
    progress = 0.0 if at.first_score is None else abs(score.mean - at.first_score.mean)
    replayed: Estimate | None = yield do.ReadReplayed()
    fresh: Estimate | None = None
    while fresh is None or _is_rough(fresh if replayed is None else pool(replayed, fresh), progress):
        if (0 if fresh is None else fresh.n) >= least and not (yield do.MayEvaluate()):
            break
        played: EvaluationResult | None = yield do.Evaluate(best, _BATCH, at_once=True)
        if played is None or not math.isfinite(played.estimate.mean):
            break
        fresh = played.estimate if fresh is None else pool(fresh, played.estimate)
    if fresh is not None:
        yield do.Announce(fresh)


def _is_rough(score: Estimate, progress: float) -> bool:
    """Returns whether further episodes would say more. Few episodes without a failure do not show how rare it is."""
    return score.n < _ENOUGH or (score.n < MOST_EPISODES and score.stderr > _PRECISE * progress)
