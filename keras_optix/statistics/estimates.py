"""Estimates with standard errors, pooling and tests of estimates, and the evidence for decisions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from keras_optix.errors import ConfigurationError, describe
from keras_optix.formatting import format_number
from keras_optix.states import Count, Finite, Positive, Unbounded

_ROUNDING = 1e-12  # a difference below this share of the numbers themselves counts as zero
_DOF_PER_DIFFERENCE = 0.25  # for `noise_from_differences`: found by simulation with 4 to 64 normal scores


@dataclass(frozen=True)
class Estimate:
    """A mean with its standard error.

    Attributes:
        mean: The mean.
        stderr: The standard error of the mean; `math.inf` while the noise is unknown.
        n: Number of samples: episodes, or windows if episodes are not counted. A finite standard error of a single
            sample is taken as known; one of several samples is taken as estimated from them.

    Examples:
        >>> optix.statistics.Estimate(mean=195.0, stderr=2.5, n=10).stderr
        2.5
    """

    mean: Finite
    stderr: Unbounded
    n: Positive

    @property
    def dof(self) -> float:
        """Degrees of freedom of `stderr`; infinite if it is known and not estimated."""
        return float(self.n - 1) if self.n > 1 else math.inf


@dataclass(frozen=True)
class Evidence:
    """The evidence for a decision: a difference, its standard error and the number of samples behind it.

    Attributes:
        difference: The score minus the score with which it was compared. Positive is better, even if the score is the
            negative of a loss.
        stderr: Standard error of `difference`.
        n: Number of samples behind the score.
        reason: One sentence for logs.

    Examples:
        >>> optix.statistics.Evidence(difference=12.0, stderr=3.0, n=20, reason="better").difference
        12.0
    """

    difference: float
    stderr: Unbounded
    n: Count
    reason: str

    @property
    def z(self) -> float:
        """`difference` in standard errors; infinite (with its sign) without noise, 0 without a difference."""
        return standardised(self.difference, self.stderr)

    def __str__(self) -> str:
        difference = format_number(self.difference, signed=True)
        return f"{self.reason} (difference {difference}, standard error {self.stderr:.3g}, n {self.n})"


class Comparison(NamedTuple):
    """A comparison of two estimates.

    Attributes:
        evidence: The difference with its standard error.
        z: Significance of the difference as a standard normal score: `as_normal_score` of ``evidence.z``. Decisions use
            this number.
    """

    evidence: Evidence
    z: float


def standardised(difference: float, stderr: float) -> float:
    """Returns ``difference / stderr``; without noise, a difference is infinitely significant (with its sign)."""
    if difference == 0.0 or math.isinf(stderr):
        return 0.0
    if stderr == 0.0:
        return math.copysign(math.inf, difference)
    return difference / stderr


def estimate_from_samples(samples: Sequence[float] | np.ndarray) -> Estimate:
    """Returns mean and standard error of independent samples. A single sample has an infinite (unknown) error."""
    values = np.asarray(samples, dtype=np.float64)
    if values.size == 0:
        raise ValueError("An estimate needs at least one sample. Received: samples=[].")
    if values.size == 1:
        return Estimate(float(values[0]), math.inf, 1)
    return Estimate(float(values.mean()), float(values.std(ddof=1) / math.sqrt(values.size)), int(values.size))


def as_normal_score(t: float, dof: float) -> float:
    """Maps a Student `t` to the standard normal score of equal probability.

    A standard error that was estimated from a few samples is often too small by chance, and then noise looks
    significant. The approximation is from Wallace (1959), "Bounds on normal approximations to Student's and the
    chi-square distributions", Annals of Mathematical Statistics 30(4). Up to t = 5 its error is below 4 % with one
    degree of freedom, and smaller with more.

    Args:
        t: A difference in standard errors; may be infinite.
        dof: Degrees of freedom of the standard error; infinite if it is known.
    """
    if math.isinf(dof) or math.isinf(t) or t == 0.0:
        return t
    z = math.sqrt(dof * math.log1p(t * t / dof)) * (8.0 * dof + 1.0) / (8.0 * dof + 3.0)
    return math.copysign(z, t)


def pool(first: Estimate, second: Estimate) -> Estimate:
    """Pools two independent estimates of one mean by their sample counts.

    The spread between the two means counts as noise (the combined sum of squares of Chan, Golub and LeVeque 1983), so
    that two estimates that disagree give a large standard error.
    """
    n = first.n + second.n
    difference = second.mean - first.mean
    squares, dof = first.n * second.n / n * difference * difference, 1.0  # `**` raises an error where `*` is infinite
    for estimate in (first, second):
        # An estimate with unknown error adds only its mean. A known error of a single sample counts like one of two.
        if math.isfinite(estimate.stderr):
            weight = max(estimate.n - 1, 1)
            squares += estimate.stderr * estimate.stderr * estimate.n * weight
            dof += weight
    # This form is exact for equal means: without noise, a rounding error would be infinitely significant.
    return Estimate(first.mean + difference * (second.n / n), math.sqrt(squares / dof / n), n)


def compare(
    score: Estimate, reference: Estimate, reason: str, *, margin: float = 0.0, history: Sequence[float] = ()
) -> Comparison:
    """Tests whether `score` exceeds `reference` by more than `margin`, with Welch's standard error of the difference.

    Args:
        score: The score.
        reference: The score with which it is compared.
        reason: One sentence for logs.
        margin: Margin in units of the score. Defaults to 0.
        history: Earlier scores, from whose noise an unknown standard error is estimated. With fewer than four, no
            difference is significant.
    """
    (first, first_dof), (second, second_dof) = _variance(score, history), _variance(reference, history)
    variance = first + second
    difference = score.mean - reference.mean - margin
    if abs(difference) <= _ROUNDING * max(abs(score.mean), abs(reference.mean)):
        difference = 0.0
    evidence = Evidence(difference, math.sqrt(variance), score.n, reason)
    # Welch and Satterthwaite's degrees of freedom.
    spread = first * first / first_dof + second * second / second_dof
    dof = variance * variance / spread if 0.0 < spread < math.inf else math.inf
    return Comparison(evidence, as_normal_score(evidence.z, dof))


def compare_alike(
    score: Estimate, reference: Estimate, reason: str, *, margin: float = 0.0, history: Sequence[float] = ()
) -> Comparison:
    """Tests whether a score exceeds a reference, where both come from one distribution if nothing has changed.

    This is Student's test with one deviation for both. Use it for a score of few samples that is compared again and
    again with a reference of many. Welch's test would estimate the error of the score from its own samples alone, and
    where returns are skewed, that error depends on the mean: ten episodes of CartPole that all reach 500 would have no
    error, and look significantly better than a reference of 480. Errors that are known (of a single sample), and those
    that are estimated from the history, are used as in `compare`.

    Args:
        score: The score.
        reference: The score with which it is compared.
        reason: One sentence for logs.
        margin: Margin in units of the score. Defaults to 0.
        history: Earlier scores; see `compare`.
    """
    comparison = compare(score, reference, reason, margin=margin, history=history)
    if min(score.n, reference.n) < 2 or math.isinf(score.stderr) or math.isinf(reference.stderr):
        return comparison
    dof = score.n + reference.n - 2
    squares = sum(each.stderr * each.stderr * each.n * (each.n - 1) for each in (score, reference))
    stderr = math.sqrt(squares / dof * (1.0 / score.n + 1.0 / reference.n))
    evidence = Evidence(comparison.evidence.difference, stderr, score.n, reason)
    return Comparison(evidence, as_normal_score(evidence.z, dof))


def compare_pairs(scores: Sequence[float], references: Sequence[float], reason: str) -> Comparison:
    """Tests whether scores exceed the references that they are paired with, such as episodes of the same seeds.

    This is Student's paired test: the influence of the seed on both scores of a pair cancels in their difference. A
    single pair does not show the noise, so its difference is never significant.

    Args:
        scores: The scores.
        references: The reference of each score.
        reason: One sentence for logs.

    Returns:
        The mean difference with its standard error; `n` counts the pairs.

    Raises:
        ConfigurationError: The lengths differ, or there is no pair.
    """
    if len(scores) != len(references) or len(scores) == 0:
        problem = "Scores and references must come in pairs, and there must be at least one pair."
        raise ConfigurationError(describe(problem, scores=len(scores), references=len(references)))
    pairs = np.asarray([scores, references], dtype=np.float64)
    estimate = estimate_from_samples(pairs[0] - pairs[1])
    # Equal pairs, and pairs that differ by a constant, have no noise except rounding.
    rounding = _ROUNDING * float(np.max(np.abs(pairs)))
    difference = estimate.mean if abs(estimate.mean) > rounding else 0.0
    stderr = estimate.stderr if estimate.stderr > rounding else 0.0
    evidence = Evidence(difference, stderr, estimate.n, reason)
    return Comparison(evidence, as_normal_score(evidence.z, estimate.dof))


def trend(scores: Sequence[float]) -> float:
    """Returns how significantly scores rise over time: the slope of a regression line as a standard normal score.

    It is infinite for a straight line up, and 0 for fewer than three scores.
    """
    n = len(scores)
    if n < 3:
        return 0.0
    times = np.arange(n) - (n - 1) / 2.0
    values = np.asarray(scores, dtype=np.float64)
    values = values - values.mean()
    slope = float(times @ values / (times @ times))
    residual = float(np.square(values - slope * times).sum())
    rounding = _ROUNDING * float(np.max(np.abs(scores)))
    rounding *= rounding
    if residual <= rounding and slope * slope * float(times @ times) <= rounding:
        return 0.0
    stderr = math.sqrt(residual / (n - 2) / float(times @ times)) if residual > rounding else 0.0
    return as_normal_score(standardised(slope, stderr), n - 2)


def _variance(estimate: Estimate, history: Sequence[float]) -> tuple[float, float]:
    """Returns the squared standard error of an estimate, and its degrees of freedom."""
    if math.isfinite(estimate.stderr):
        return estimate.stderr * estimate.stderr, estimate.dof
    # Each score of the history is one evaluation, so its noise is that of an evaluation with any number of samples.
    noise = noise_from_differences(history)
    return noise * noise, _DOF_PER_DIFFERENCE * max(len(history) - 1, 1)


def noise_from_differences(scores: Sequence[float]) -> float:
    """Estimates the standard deviation of one score from successive differences, so that a trend is not noise.

    ``sd = sd(x[t+1] - x[t]) / sqrt(2)``, where the spread is a median absolute deviation (times 1.4826) around the
    median difference. So a straight line has no noise at all, and a single jump does not inflate the estimate.

    Returns:
        The standard deviation, or `math.inf` for fewer than four scores.
    """
    if len(scores) < 4:
        return math.inf
    differences = np.diff(np.asarray(scores, dtype=np.float64))
    spread = float(np.median(np.abs(differences - np.median(differences)))) * 1.4826
    # A line that is straight except for rounding has no noise.
    rounding = _ROUNDING * float(np.max(np.abs(scores)))
    return 0.0 if spread <= rounding else spread / math.sqrt(2.0)
