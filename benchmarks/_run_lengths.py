"""Exact run lengths of a one-sided CUSUM ``S = max(0, S + x - k)`` with an alarm at ``S > h``, for normal scores.

Average run lengths solve Page's (1954) integral equation, ``L(s) = 1 + L(0) F(k - s) + int_0^h L(y) f(y + k - s) dy``,
where `F` and `f` are distribution and density of a score. Replacing the integral by Gauss and Legendre's quadrature
makes the sum a Markov chain over the nodes and zero, as in Brook and Evans (1972, Biometrika 59), who divide the
interval into equal parts; the quadrature converges much faster. The powers of its matrix give the whole distribution.

Where mean and deviation of the scores were estimated from the first m scores and are then taken for the true ones, the
distribution is the mean over that of the two estimates (Jones, Champ and Rigdon 2004, Journal of Quality Technology
36(1)).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

SLACK = 0.5
_NODES = 32
_erf = np.vectorize(math.erf, otypes=[float])


def _distribution(x: np.ndarray) -> np.ndarray:
    return np.asarray(0.5 * (1.0 + _erf(x / math.sqrt(2.0))))


def _chain(limit: float, means: np.ndarray, deviations: np.ndarray) -> np.ndarray:
    """Returns transition matrices without alarm, ``[case, from, to]``; state 0 is zero, the others are the nodes."""
    roots, weights = np.polynomial.legendre.leggauss(_NODES)
    nodes, weights = 0.5 * limit * (roots + 1.0), 0.5 * limit * weights
    places = np.concatenate([[0.0], nodes])
    mean, deviation = means[:, None, None], deviations[:, None, None]
    to_zero = _distribution((SLACK - places[None, :, None] - mean) / deviation)
    z = (nodes[None, None, :] + SLACK - places[None, :, None] - mean) / deviation
    density = np.exp(-0.5 * z * z) / (math.sqrt(2.0 * math.pi) * deviation)
    return np.concatenate([to_zero, density * weights], axis=2)


def average_run_length(limit: float, mean: float = 0.0) -> float:
    """Returns the average run length from ``S = 0`` if scores are normal with this mean and deviation 1.

    Args:
        limit: The limit `h`.
        mean: Mean of a score, counted in the direction of the alarm.
    """
    chain = _chain(limit, np.array([mean]), np.ones(1))[0]
    return float(np.linalg.solve(np.eye(len(chain)) - chain, np.ones(len(chain)))[0])


class RunLengths(NamedTuple):
    """A distribution of run lengths.

    Attributes:
        median: The shortest run length that at least half of all runs do not exceed.
        within: Share of the runs that have an alarm among the first 100 scores.
    """

    median: float
    within: float


def run_lengths(limit: float, estimated_from: int | None = None) -> RunLengths:
    """Returns the distribution of run lengths without a change.

    Args:
        limit: The limit `h`.
        estimated_from: Number of scores from which mean and deviation were estimated. Defaults to None: both are known.
    """
    means, deviations, shares = _cases(estimated_from)
    powers = [_chain(limit, means, deviations)]
    while len(powers) < 20:
        powers.append(powers[-1] @ powers[-1])
    return RunLengths(_median(powers, shares), 1.0 - _running(powers, shares, 100))


def _cases(estimated_from: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns means and deviations of standardised scores for a grid of estimates, and the share of each case."""
    if estimated_from is None:
        return np.zeros(1), np.ones(1), np.ones(1)
    roots, weights = np.polynomial.hermite_e.hermegauss(16)
    dof = estimated_from - 1
    # The density of the estimated deviation: a chi variable with `dof` degrees of freedom over the root of these.
    nodes, lengths = np.polynomial.legendre.leggauss(16)
    low, high = max(1e-3, 1.0 - 5.0 / math.sqrt(2.0 * dof)), 1.0 + 5.0 / math.sqrt(2.0 * dof)
    sizes = low + 0.5 * (high - low) * (nodes + 1.0)
    log_density = (dof - 1) * np.log(sizes) - 0.5 * dof * sizes**2
    density = np.exp(log_density - log_density.max()) * lengths
    shares = np.outer(density / density.sum(), weights / weights.sum()).ravel()
    size, root = (grid.ravel() for grid in np.meshgrid(sizes, roots, indexing="ij"))
    return root / math.sqrt(estimated_from) / size, 1.0 / size, shares


def _running(powers: list[np.ndarray], shares: np.ndarray, length: int) -> float:
    """Returns the share of the runs without an alarm among the first `length` scores."""
    state = np.zeros((len(shares), 1, powers[0].shape[1]))
    state[:, 0, 0] = 1.0
    for bit, power in enumerate(powers):
        if length >> bit & 1:
            state = state @ power
    return float(shares @ state.sum(axis=(1, 2)))


def _median(powers: list[np.ndarray], shares: np.ndarray) -> float:
    length = 0
    for bit in reversed(range(len(powers))):
        if _running(powers, shares, length + (1 << bit)) > 0.5:
            length += 1 << bit
    return float(length + 1)
