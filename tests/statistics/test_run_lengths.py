"""The exact run lengths of `benchmarks/_run_lengths.py`, against the published table and against simulation."""

from __future__ import annotations

import numpy as np
import pytest

from tests.benchmark_modules import load_benchmark

exact = load_benchmark("_run_lengths")


@pytest.mark.parametrize(
    ("limit", "published"),
    [(4.0, [168, 26.6, 8.38, 4.75, 3.34, 2.19, 1.71]), (5.0, [465, 38.0, 10.4, 5.75, 4.01, 2.57, 2.01])],
)
def test_average_run_lengths_are_those_of_the_published_table(limit: float, published: list[float]) -> None:
    """Montgomery, Introduction to Statistical Quality Control: the tabular CUSUM, k = 0.5, moves in deviations.

    The table is about two sums: without a move it has half the run length, and after one the other sum hardly counts.
    """
    found = [exact.average_run_length(limit, move) for move in (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)]
    assert [0.5 * found[0], *found[1:]] == pytest.approx(published, rel=4e-3)


def test_a_chain_of_equal_parts_gives_the_same() -> None:
    """Brook and Evans' own chain, with 400 parts."""
    limit, parts = 4.0, 400
    width = 2.0 * limit / (2 * parts - 1)
    states = np.arange(parts)
    steps = (states[None, :] - states[:, None]) * width + exact.SLACK
    distribution = exact._distribution
    chain = distribution(steps + 0.5 * width) - distribution(steps - 0.5 * width)
    chain[:, 0] = distribution(steps[:, 0] + 0.5 * width)
    average = np.linalg.solve(np.eye(parts) - chain, np.ones(parts))[0]
    assert exact.average_run_length(limit) == pytest.approx(average, rel=1e-4)
    within = 1.0 - np.linalg.matrix_power(chain, 100)[0].sum()
    assert exact.run_lengths(limit).within == pytest.approx(within, rel=1e-3)


@pytest.mark.parametrize("estimated_from", [None, 10, 50])
def test_the_distribution_is_that_of_simulated_runs(estimated_from: int | None) -> None:
    """With 20,000 runs, five standard errors of the share: by chance this fails in one of a million."""
    rng, runs, limit = np.random.default_rng(0), 20_000, 4.0
    mean, deviation = np.zeros(runs), np.ones(runs)
    if estimated_from is not None:
        first = rng.normal(0.0, 1.0, (runs, estimated_from))
        mean, deviation = first.mean(axis=1), first.std(axis=1, ddof=1)
    cusum, over = np.zeros(runs), np.zeros(runs, bool)
    expected, lengths = exact.run_lengths(limit, estimated_from), 0
    for lengths in range(1, int(expected.median) + 1):
        cusum = np.maximum(0.0, cusum + (rng.normal(0.0, 1.0, runs) - mean) / deviation - exact.SLACK)
        over |= cusum > limit
        if lengths == 100:
            assert over.mean() == pytest.approx(expected.within, abs=5.0 * 0.5 / runs**0.5)
    assert lengths == expected.median
    assert over.mean() == pytest.approx(0.5, abs=5.0 * 0.5 / runs**0.5)
