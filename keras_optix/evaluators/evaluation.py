"""What the loop decides on: a score, and which weights earned it when.

Inside the loop a score is an `Estimate`. What evaluators answer and what snapshots keep is an `EvalMetrics`, in which a
standard error that is not known is None; these two are made of each other here and nowhere else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from keras_optix.records import EvalMetrics
from keras_optix.statistics.estimates import Estimate


@dataclass(frozen=True)
class Evaluation:
    """A score that the loop decides on.

    Attributes:
        score: Mean, standard error (`math.inf` if unknown) and number of samples.
        window_id: The (last) window that it was collected in.
        policy_version: Version of the weights that acted in that window.
        env_steps: Environment steps of the run until then.
        lag: How many windows of training the weights that earned the score are behind `window_id`, on average: 1 for
            those that collected that window, 0 for an epoch that was scored at its end.
        counts_towards_plateau: It does not while a tuner experiments.
        monitored: Whether a lower score is a degradation. Of an experiment's weights it is not.
        scores_are_deterministic: Whether the same weights would get the same score again, as from a validation set:
            then two of them are compared without error, although the scores of a run are noisy.
    """

    score: Estimate
    window_id: int
    policy_version: int = 0
    env_steps: int = 0
    lag: float = 0.0
    counts_towards_plateau: bool = True
    monitored: bool = True
    scores_are_deterministic: bool = False


def estimate_of(metrics: EvalMetrics) -> Estimate | None:
    """The score in the answer of an evaluator.

    Args:
        metrics: The answer.

    Returns:
        The score; None where the answer is no evidence: there is no score, or it is not finite (0 / 0).
    """
    if metrics.primary_score is None or not math.isfinite(metrics.primary_score):
        return None
    stderr = math.inf if metrics.stderr is None else float(metrics.stderr)
    return Estimate(float(metrics.primary_score), stderr, 1 if metrics.episodes is None else int(metrics.episodes))


def metrics_of(score: Estimate, window_id: int = 0, *, of_episodes: bool = True) -> EvalMetrics:
    """A score as people and snapshots get it.

    Args:
        score: The score.
        window_id: Number of the window that it belongs to.
        of_episodes: Whether `n` counts episodes, and not windows.
    """
    stderr = score.stderr if math.isfinite(score.stderr) else None
    return EvalMetrics(score.mean, window_id=window_id, stderr=stderr, episodes=score.n if of_episodes else None)
