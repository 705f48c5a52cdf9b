"""How much faster a score rises under one value of a hyperparameter than under another, from one run of scores.

Training goes on while values alternate, so a score is the sum of what every step so far has given. With the signed
exposure ``x(t)`` (windows under the upper value minus windows under the lower one) the model is::

    y(t) = a + b t + c t^2 + effect x(t) + w(t) + e(t)

The line and the parabola are what the run would have done anyway: a learning curve is smooth over a probe. ``e`` is the
noise of a score, ``w`` a random walk, the noise of learning itself, which ordinary least squares would take for an
effect. How large ``w`` is beside ``e`` is not known: of a grid of ratios, all count whose restricted log likelihood
(Harville 1974, "Bayesian inference for variance components using only error contrasts", Biometrika 61) is within 1 of
the largest, and the effect is as significant as it is under the least favourable of these.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from keras_optix.statistics.estimates import Comparison, Evidence, as_normal_score

_RATIOS = (0.0, 1e-3, 1e-2, 0.03, 0.1, 0.3, 1.0, 10.0)  # variance of w per evaluation in that of e
_PLAUSIBLE = 1.0  # in log likelihood
_TREND_TERMS = 3
FEWEST_SCORES = _TREND_TERMS + 1 + 3  # three degrees of freedom are left


def exposure_effect(
    times: Sequence[float],
    exposures: Sequence[float],
    scores: Sequence[float],
    stderrs: Sequence[float],
    reason: str,
) -> Comparison:
    """Estimates the effect of the upper value against the lower one.

    Args:
        times: Windows of training behind each score, rising.
        exposures: Signed exposure in windows at each score.
        scores: The scores.
        stderrs: Their standard errors; only their ratios count (the scatter of the scores tells the rest). Unknown
            ones (infinite) and zeros are taken as equal.
        reason: One sentence for people.

    Returns:
        The evidence: the difference of the gains per window under the upper and the lower value, with its standard
        error, and how significant it is as a normal score. No significance with fewer than `FEWEST_SCORES` scores.
    """
    n = len(scores)
    y = np.asarray(scores, np.float64)
    spacing = (times[-1] - times[0]) / max(n - 1, 1)
    if n < FEWEST_SCORES or spacing <= 0.0:
        return Comparison(Evidence(0.0, math.inf, n, reason), 0.0)
    t = (np.asarray(times, np.float64) - times[0]) / spacing
    x = np.asarray(exposures, np.float64) / spacing
    centred = 2.0 * t / t[-1] - 1.0
    design = np.stack([np.ones(n), centred, centred**2, x], 1)
    noise, walk = np.diag(_relative_variances(stderrs)), np.minimum.outer(t, t)
    dof = n - design.shape[1]
    fits = [_fit(y, design, noise + ratio * walk, dof) for ratio in _RATIOS]
    likeliest = max(likelihood for _, _, likelihood in fits)
    plausible = [(effect, variance) for effect, variance, likelihood in fits if likelihood >= likeliest - _PLAUSIBLE]
    effect, variance = min(plausible, key=lambda fit: fit[0] ** 2 / fit[1])
    # Twice: the effect is that of one step up from the middle, the difference that of one from below to above.
    unit = 2.0 / spacing
    evidence = Evidence(unit * effect, unit * math.sqrt(variance), n, reason)
    return Comparison(evidence, as_normal_score(evidence.z, dof))


def _relative_variances(stderrs: Sequence[float]) -> np.ndarray:
    """Variances of the scores, one on average."""
    variances = np.square(np.asarray(stderrs, np.float64))
    usable = np.isfinite(variances) & (variances > 0.0)
    if not usable.any():
        return np.ones(len(stderrs))
    # A standard error of a few episodes that happened to agree is no certainty.
    typical = float(np.median(variances[usable]))
    variances = np.clip(np.where(usable, variances, typical), 0.1 * typical, 10.0 * typical)
    return np.asarray(variances / variances.mean())


def _fit(y: np.ndarray, design: np.ndarray, covariance: np.ndarray, dof: int) -> tuple[float, float, float]:
    """Generalised least squares: the last coefficient, its variance, and the restricted log likelihood."""
    factor = np.linalg.cholesky(covariance)
    white_y, white = np.linalg.solve(factor, y), np.linalg.solve(factor, design)
    q, r = np.linalg.qr(white)
    coefficients = np.linalg.solve(r, q.T @ white_y)
    residual = float(np.square(white_y - white @ coefficients).sum())
    # What rounding leaves of an exact fit is no noise, but no division by zero either.
    residual = max(residual, (1e-12 * float(np.abs(y).max())) ** 2, 1e-300)
    inverse = np.linalg.inv(r)
    scale = residual / dof
    variance = scale * float(np.square(inverse[-1]).sum())
    likelihood = -0.5 * dof * math.log(scale) - float(np.log(np.abs(np.diag(factor))).sum())
    return float(coefficients[-1]), variance, likelihood - float(np.log(np.abs(np.diag(r))).sum())
