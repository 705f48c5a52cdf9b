"""Estimates with standard errors, how they pool, and the record of why a decision was taken."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """A mean with its standard error.

    Attributes:
        mean: The estimate.
        stderr: Its standard error; `math.inf` where the noise is not known yet.
        n: How many samples (episodes, or windows where episodes are not counted) it rests on.
    """

    mean: float
    stderr: float
    n: int


@dataclass(frozen=True)
class Evidence:
    """Why a decision was taken: a difference, its standard error and the number of samples behind it.

    Attributes:
        difference: Score in question minus the score it was compared with.
        stderr: Standard error of `difference`.
        n: Samples behind the score in question.
        reason: One sentence for people.
    """

    difference: float
    stderr: float
    n: int
    reason: str

    @property
    def z(self) -> float:
        """`difference` in standard errors; infinite (with its sign) without noise, 0 where nothing differs."""
        return standardised(self.difference, self.stderr)

    def __str__(self) -> str:
        return f"{self.reason} (difference {self.difference:+.4g}, standard error {self.stderr:.3g}, n {self.n})"


def standardised(difference: float, stderr: float) -> float:
    """``difference / stderr`` without a division by zero: a noise-free difference is infinitely significant."""
    if difference == 0.0 or math.isinf(stderr):
        return 0.0
    if stderr == 0.0:
        return math.copysign(math.inf, difference)
    return difference / stderr


def estimate_from_samples(samples: Sequence[float] | np.ndarray) -> Estimate:
    """Mean and standard error of independent samples; the standard error of a single sample is infinite (unknown)."""
    values = np.asarray(samples, dtype=np.float64)
    if values.size == 0:
        raise ValueError("An estimate needs at least one sample. Received: samples=[].")
    if values.size == 1:
        return Estimate(float(values[0]), math.inf, 1)
    return Estimate(float(values.mean()), float(values.std(ddof=1) / math.sqrt(values.size)), int(values.size))


def pool(first: Estimate, second: Estimate) -> Estimate:
    """Pools two independent estimates of one mean by their sample counts.

    The spread between the two means counts as noise (the combined sum of squares of Chan, Golub and LeVeque 1983), so
    pooling estimates that disagree does not look certain.
    """
    n = first.n + second.n
    mean = (first.n * first.mean + second.n * second.mean) / n
    # A single sample has no spread of its own (its standard error is infinite), but adds to the spread of the pool.
    squares = sum(e.stderr**2 * e.n * max(e.n - 1, 1) for e in (first, second) if math.isfinite(e.stderr))
    squares += first.n * second.n / n * (first.mean - second.mean) ** 2
    return Estimate(mean, math.sqrt(squares / max(n - 1, 1) / n), n)


def compare(score: Estimate, reference: Estimate, reason: str, *, margin: float = 0.0) -> Evidence:
    """Evidence that `score` exceeds `reference` by more than `margin` (Welch's standard error of the difference)."""
    stderr = math.hypot(score.stderr, reference.stderr)
    return Evidence(score.mean - reference.mean - margin, stderr, score.n, reason)


def noise_from_differences(scores: Sequence[float]) -> float:
    """Standard deviation of one score, from successive differences, so that a trend does not count as noise.

    ``sd = sd(x[t+1] - x[t]) / sqrt(2)``, where the spread is a median absolute deviation (times 1.4826) around the
    median difference: a straight line has no noise at all, and one jump does not inflate the estimate.

    Returns:
        The standard deviation, or `math.inf` from fewer than four scores.
    """
    if len(scores) < 4:
        return math.inf
    differences = np.diff(np.asarray(scores, dtype=np.float64))
    spread = float(np.median(np.abs(differences - np.median(differences)))) * 1.4826
    # A line that is straight but for rounding is noise free.
    rounding = 1e-12 * float(np.max(np.abs(scores)))
    return 0.0 if spread <= rounding else spread / math.sqrt(2.0)
