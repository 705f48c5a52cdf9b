"""Estimates how much faster a score rises under one value of a hyperparameter than under another, in one run.

Training goes on while the values alternate, so a score is the sum of the gains of all steps so far. With the signed
exposure ``x(t)`` (windows under the upper value minus windows under the lower one) the model is::

    y(t) = a + b t + c t^2 + effect x(t) + w(t) + e(t)

The line and the parabola describe the progress of the run without the effect, because a learning curve is smooth over a
probe. ``e`` is the noise of a score. ``w`` is a random walk, the noise of learning itself, which ordinary least squares
would mistake for an effect. The ratio of ``w`` to ``e`` is unknown. From a grid of ratios, all are plausible whose
restricted log likelihood (Harville 1974, "Bayesian inference for variance components using only error contrasts",
Biometrika 61) is within 1 of the largest, and the significance is that of the least favourable plausible ratio.

Training may be undone: then times and exposures go back, and the run branches. Two scores share the walk up to the time
at which their branches part.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from keras_optix.statistics.estimates import Comparison, Evidence, as_normal_score

_RATIOS = (0.0, 1e-3, 1e-2, 0.03, 0.1, 0.3, 1.0, 10.0)  # variance of w per evaluation, relative to that of e
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
    """Estimates the effect of the upper value compared with the lower one.

    Args:
        times: Windows of training behind each score, in the order of the scores. They rise, except that they go back
            where training was undone.
        exposures: Signed exposure in windows at each score.
        scores: The scores.
        stderrs: The standard errors of the scores. Only their ratios count; the scatter of the scores gives the scale.
            Unknown (infinite) and zero standard errors are replaced by a typical one.
        reason: One sentence for logs.

    Returns:
        The evidence, which is the difference of the gains per window under the upper and the lower value with its
        standard error, and its significance as a normal score. With fewer than `FEWEST_SCORES` scores, the significance
        is 0.
    """
    n = len(scores)
    y = np.asarray(scores, np.float64)
    steps = np.diff(np.asarray(times, np.float64))
    forwards = steps[steps > 0.0]
    if n < FEWEST_SCORES or not forwards.size:
        return Comparison(Evidence(0.0, math.inf, n, reason), 0.0)
    spacing = float(forwards.mean())
    t = (np.asarray(times, np.float64) - min(times)) / spacing
    x = np.asarray(exposures, np.float64) / spacing
    centred = 2.0 * t / t.max() - 1.0
    design = np.stack([np.ones(n), centred, centred**2, x], 1)
    noise, walk = np.diag(_relative_variances(stderrs)), _shared(t)
    dof = n - design.shape[1]
    fits = [_fit(y, design, noise + ratio * walk, dof) for ratio in _RATIOS]
    likeliest = max(likelihood for _, _, likelihood in fits)
    plausible = [(effect, variance) for effect, variance, likelihood in fits if likelihood >= likeliest - _PLAUSIBLE]
    effect, variance = min(plausible, key=lambda fit: fit[0] ** 2 / fit[1])
    # The effect is per step from the middle to the upper value; from the lower to the upper value it is twice as large.
    unit = 2.0 / spacing
    evidence = Evidence(unit * effect, unit * math.sqrt(variance), n, reason)
    return Comparison(evidence, as_normal_score(evidence.z, dof))


def _shared(times: np.ndarray) -> np.ndarray:
    """Returns, for each two scores, the time up to which they share their past.

    Where times go back, the first score of the new branch has been trained by up to one step since the branches part.
    """
    parts = times.copy()
    parts[1:] -= np.where(times[1:] < times[:-1], 1.0, 0.0)
    shared = np.diag(times)
    for k in range(len(times) - 1):
        shared[k, k + 1 :] = np.minimum(times[k], np.minimum.accumulate(parts[k + 1 :]))
        shared[k + 1 :, k] = shared[k, k + 1 :]
    return np.maximum(shared, 0.0)


def _relative_variances(stderrs: Sequence[float]) -> np.ndarray:
    """Returns the variances of the scores, scaled to a mean of one."""
    variances = np.square(np.asarray(stderrs, np.float64))
    usable = np.isfinite(variances) & (variances > 0.0)
    if not usable.any():
        return np.ones(len(stderrs))
    # A few episodes may agree by chance, so that a very small standard error is limited here.
    typical = float(np.median(variances[usable]))
    variances = np.clip(np.where(usable, variances, typical), 0.1 * typical, 10.0 * typical)
    return np.asarray(variances / variances.mean())


def _fit(y: np.ndarray, design: np.ndarray, covariance: np.ndarray, dof: int) -> tuple[float, float, float]:
    """Fits generalised least squares; returns the last coefficient, its variance, and the restricted log likelihood."""
    factor = np.linalg.cholesky(covariance)
    white_y, white = np.linalg.solve(factor, y), np.linalg.solve(factor, design)
    q, r = np.linalg.qr(white)
    coefficients = np.linalg.solve(r, q.T @ white_y)
    residual = float(np.square(white_y - white @ coefficients).sum())
    # An exact fit leaves only rounding errors; the lower bound avoids a division by zero.
    residual = max(residual, (1e-12 * float(np.abs(y).max())) ** 2, 1e-300)
    inverse = np.linalg.inv(r)
    scale = residual / dof
    variance = scale * float(np.square(inverse[-1]).sum())
    likelihood = -0.5 * dof * math.log(scale) - float(np.log(np.abs(np.diag(factor))).sum())
    return float(coefficients[-1]), variance, likelihood - float(np.log(np.abs(np.diag(r))).sum())
