"""Weighs the members of an ensemble by the probability that each is the best one, given their scores.

This is probability matching (Thompson, 1933, "On the likelihood that one unknown probability exceeds another in view of
the evidence of two samples"). It is computed and not sampled, so that equal scores give equal weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from keras_optix.errors import ConfigurationError, NonFiniteError, describe
from keras_optix.validation import check_float, is_finite_number

_NODES = np.sinh(np.linspace(-16.0, 16.0, 801))  # dense in the middle, out to 4e6 standard errors
_MAX_DEGREES = 200  # above it, Student's t equals the normal distribution to 1e-3
_NOISE_FREE = 1e-9  # standard error of scores without noise, as a share of the largest difference of scores


def weights_from_scores(scores: Sequence[Sequence[float]], current: Sequence[float], floor: float) -> tuple[float, ...]:
    """Weighs each member by the probability that its mean score is the highest.

    The mean of member i has the posterior of a normal sample under the reference prior: Student's t with ``n_i - 1``
    degrees of freedom about the mean of its scores, scaled by their standard error (Gelman et al., "Bayesian Data
    Analysis", section 3.2). A member with a single score gets the spread pooled over the members. Then
    ``w_i = P(mean_i > mean_j for all j != i)``, by quadrature (to about 1e-4). Shifting all scores, or scaling them by
    a positive factor, does not change the weights. Without noise the best member gets everything except the floors, and
    equally good members get equal weights.

    A member without scores keeps its current share, and the others share the rest. If no member has two scores, the
    noise is unknown, and all members keep their share. Shares below the floor are raised first, see `floor`.

    Args:
        scores: Rolling scores of each member, higher is better; may be empty.
        current: Current share of each member: >= 0, with a positive sum, by which the shares are divided.
        floor: Least weight of a member, in [0, 1 / members]: ``w`` becomes ``floor + (1 - members * floor) * w``.

    Returns:
        One weight for each member, none below `floor`, with a sum of one (to rounding).

    Raises:
        ConfigurationError: There is no member, the lengths differ, a share is negative or not a number, all shares are
            zero, or the floor is out of range.
        NonFiniteError: A score is NaN, infinite or not a number.
    """
    shares = _check_shares(scores, current)
    members = len(shares)
    floor = check_float("floor", floor, low=0.0, high=1.0 / members, fix="All floors together cannot exceed 1.")
    if np.min(shares) < floor:
        shares = floor + (1.0 - members * floor) * shares
    samples = _check_scores(scores)
    scored = [i for i, sample in enumerate(samples) if sample.size]
    if max(sample.size for sample in samples) >= 2:
        free = float(np.sum(shares[scored])) - len(scored) * floor
        shares[scored] = floor + max(free, 0.0) * _probability_of_best([samples[i] for i in scored])
    return tuple(float(share) for share in shares)


def _check_shares(scores: Sequence[Sequence[float]], current: Sequence[float]) -> np.ndarray:
    if len(scores) != len(current) or len(current) == 0:
        problem = "`scores` and `current` must have one entry for each of one or more members."
        raise ConfigurationError(describe(problem, scores=len(scores), current=len(current)))
    shares = np.array([check_float("current", share, low=0.0) for share in current], dtype=np.float64)
    largest = np.max(shares)
    if largest == 0:
        raise ConfigurationError(describe("`current` must have a positive sum.", current=tuple(current)))
    shares /= largest
    return np.asarray(shares / np.sum(shares))


def _check_scores(scores: Sequence[Sequence[float]]) -> list[np.ndarray]:
    for member, sample in enumerate(scores):
        for score in sample:
            if not is_finite_number(score):
                raise NonFiniteError(describe("A member's score is not a finite number.", member=member, score=score))
    return [np.array(sample, dtype=np.float64) for sample in scores]


def _probability_of_best(samples: list[np.ndarray]) -> np.ndarray:
    """Returns for each sample the probability that its mean is the highest. At least one needs two scores."""
    samples = _standardised(samples)
    counts = np.array([sample.size for sample in samples])
    means = np.array([math.fsum(sample) / sample.size for sample in samples])
    squares = np.array([np.sum((sample - mean) ** 2) for sample, mean in zip(samples, means, strict=True)])
    single = counts == 1
    pooled_degrees = int(np.sum(counts - 1))
    degrees = np.where(single, pooled_degrees, counts - 1)
    variances = np.where(single, np.sum(squares) / pooled_degrees, squares / np.maximum(counts - 1, 1))
    errors = np.maximum(np.sqrt(variances / counts), _NOISE_FREE)
    degrees = np.where(errors > _NOISE_FREE, degrees, _MAX_DEGREES)  # without noise, the number of scores is irrelevant
    # The grid has the nodes of every member, so that each posterior is resolved, however much their widths differ.
    grid = np.sort((means[:, np.newaxis] + errors[:, np.newaxis] * _NODES).ravel())
    below = np.stack(
        [
            np.concatenate(([0.0], _student_cdf((grid - mean) / error, min(int(nu), _MAX_DEGREES)), [1.0]))
            for mean, error, nu in zip(means, errors, degrees, strict=True)
        ]
    )
    best = np.empty(len(samples))
    for i in range(len(samples)):
        others = np.prod(np.delete(below, i, axis=0), axis=0)
        best[i] = max(np.sum(np.diff(below[i]) * (others[1:] + others[:-1]) / 2), 0.0)  # rounding: -1e-17
    return np.asarray(best / np.sum(best))


def _standardised(samples: list[np.ndarray]) -> list[np.ndarray]:
    """Returns the samples, shifted and scaled so that the largest score is 0 and the smallest -1 (or all are 0)."""
    together = np.concatenate(samples)
    peak = float(np.max(np.abs(together))) or 1.0  # divided first, so that no difference overflows
    top = float(np.max(together)) / peak
    width = top - float(np.min(together)) / peak or 1.0
    return [(sample / peak - top) / width for sample in samples]


def _student_cdf(t: np.ndarray, degrees: int) -> np.ndarray:
    """Computes the distribution function of Student's t (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    angle = np.arctan(t / math.sqrt(degrees))
    odd = degrees % 2
    squared = np.cos(angle) ** 2
    term = np.cos(angle) if odd else np.ones_like(angle)
    total = np.zeros_like(angle)
    for power in range(odd, degrees - 1, 2):
        total += term
        term = term * squared * ((power + 1) / (power + 2))
    inside = np.sin(angle) * total
    if odd:
        inside = (angle + inside) * (2 / math.pi)
    return np.asarray(0.5 + inside / 2)
