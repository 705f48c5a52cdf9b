"""Lines through scores over time: what a score would be later if it went on as it did."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from keras_optix.statistics.estimates import Estimate, as_normal_score, standardised

_ROUNDING = 1e-12  # a residual below this share of the numbers themselves counts as zero


class Forecast(NamedTuple):
    """The value of a line at a later time.

    Attributes:
        mean: The value.
        stderr: Its standard error: that of the line, not of a single score.
        dof: Degrees of freedom of `stderr`.
    """

    mean: float
    stderr: float
    dof: float

    def below(self, limit: float) -> float:
        """Returns how significantly the value lies below `limit`, as a standard normal score."""
        return as_normal_score(standardised(limit - self.mean, self.stderr), self.dof)


def forecast(times: Sequence[float], scores: Sequence[Estimate], at: float) -> Forecast | None:
    """Extrapolates the regression line of scores over time, weighted by their numbers of samples.

    The variance of a sample is the larger one of two estimates: from the standard errors of the scores, which leave out
    how far the weights themselves wander, and from the residuals, of which there may be few.

    Args:
        times: When the scores were earned.
        scores: The scores.
        at: Time for which the value is wanted.

    Returns:
        The value at that time; None for fewer than three scores, or if all were earned at the same time.
    """
    if len(scores) < 3:
        return None
    weights = np.array([score.n for score in scores], dtype=np.float64)
    values = np.array([score.mean for score in scores], dtype=np.float64)
    t = np.asarray(times, dtype=np.float64)
    total = float(weights.sum())
    centre, mean = float(weights @ t) / total, float(weights @ values) / total
    spread = float(weights @ np.square(t - centre))
    if spread == 0.0:
        return None
    slope = float(weights @ ((t - centre) * (values - mean))) / spread
    residuals = values - mean - slope * (t - centre)
    residuals[np.abs(residuals) <= _ROUNDING * float(np.max(np.abs(values)))] = 0.0
    dof = float(len(scores) - 2)
    variance = float(weights @ np.square(residuals)) / dof
    known, known_dof = _sample_variance(scores)
    if known > variance:
        variance, dof = known, known_dof
    stderr = math.sqrt(variance * (1.0 / total + (at - centre) ** 2 / spread))
    return Forecast(mean + slope * (at - centre), stderr, dof)


def _sample_variance(scores: Sequence[Estimate]) -> tuple[float, float]:
    """Returns the variance of a sample by the standard errors of the scores, and its degrees of freedom."""
    known = [score for score in scores if math.isfinite(score.stderr)]
    # A known error of a single sample counts like one of two, as in `pool`.
    dof = float(sum(max(score.n - 1, 1) for score in known))
    if not known:
        return 0.0, 1.0
    return sum(score.stderr * score.stderr * score.n * max(score.n - 1, 1) for score in known) / dof, dof
