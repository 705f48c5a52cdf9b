"""An evaluation is what the loop decides on: a score, and which weights earned it when.

Inside the loop a score is an `Estimate`. Evaluators return and snapshots keep `EvalMetrics`, in which an unknown
standard error is None. Only this module converts between the two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from keras_optix.errors import NonFiniteError, describe
from keras_optix.records import EvalMetrics
from keras_optix.statistics.estimates import Estimate


@dataclass(frozen=True)
class Evaluation:
    """A score that the loop decides on.

    Attributes:
        score: Mean, standard error (`math.inf` if unknown) and number of samples.
        window_id: The (last) window in which the score was collected.
        policy_version: Version of the weights that acted in that window.
        env_steps: Environment steps of the run until then.
        training_lag_windows: How many windows of training the weights that earned the score are behind `window_id`, on
            average: 1 for the weights that collected that window, 0 for an epoch that was scored when it ended.
        counts_towards_plateau: False while a tuner runs an experiment.
        monitored: Whether a lower score counts as a degradation. False while a tuner tests weights that may be worse on
            purpose.
        scores_are_deterministic: Whether the same weights would get exactly the same score again, as on a validation
            set. Two such scores are compared without error, although the scores of a run are noisy.
        cheap_to_confirm: Whether fresh episodes of the same weights can be played at once elsewhere, so that a
            sequential test follows if this score suggests an improvement.
        training_rises: Whether the returns of training may still rise by a share of their progress that matters.
        training_may_pass_best: Whether they may rise to more than the best. If they do both, the run does not end,
            however long nothing was better.
        training_reaches_best: Whether they are as high as the best by now, whose own episodes may be worse for a while.
        explores_until: Env steps of the run at which exploration has fallen, or will have fallen, to its last level.
            What is found before that says little about what is found later, so only the time after it counts for the
            end. 0 if exploration stays the same.
        alarmed: Whether the evaluation was made because the returns of training fell.
        contender: Score of a candidate whose comparison with the best is not decided yet; None if there is none.
        contender_env_steps: Env steps of the run when the contender was trained.

    Examples:
        >>> score = optix.statistics.Estimate(mean=195.0, stderr=2.5, n=10)
        >>> optix.evaluators.Evaluation(score, window_id=12, env_steps=3_072).score.mean
        195.0
    """

    score: Estimate
    window_id: int
    policy_version: int = 0
    env_steps: int = 0
    training_lag_windows: float = 0.0
    counts_towards_plateau: bool = True
    monitored: bool = True
    scores_are_deterministic: bool = False
    cheap_to_confirm: bool = False
    training_rises: bool = False
    training_may_pass_best: bool = True
    training_reaches_best: bool = False
    explores_until: int = 0
    alarmed: bool = False
    contender: Estimate | None = None
    contender_env_steps: int = 0


def estimate_of(metrics: EvalMetrics) -> Estimate | None:
    """Returns the score in the metrics of an evaluator as an estimate.

    Args:
        metrics: The metrics that the evaluator returned.

    Returns:
        The score; None if the metrics are no evidence: there is no score, or it is not finite (0 / 0).
    """
    if metrics.primary_score is None or not math.isfinite(metrics.primary_score):
        return None
    stderr = math.inf if metrics.stderr is None else float(metrics.stderr)
    return Estimate(float(metrics.primary_score), stderr, 1 if metrics.episodes is None else int(metrics.episodes))


def metrics_of(score: Estimate, window_id: int = 0, *, of_episodes: bool = True) -> EvalMetrics:
    """Returns a score in the form that users and snapshots get.

    Args:
        score: The score.
        window_id: Number of the window that the score belongs to.
        of_episodes: Whether `n` counts episodes. Otherwise it counts windows.
    """
    stderr = score.stderr if math.isfinite(score.stderr) else None
    return EvalMetrics(score.mean, window_id=window_id, stderr=stderr, episodes=score.n if of_episodes else None)


def finite_score(evaluation: Evaluation) -> Estimate:
    """Returns the score of an evaluation.

    Raises:
        NonFiniteError: The score is NaN or infinite, or its standard error is NaN.
    """
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
