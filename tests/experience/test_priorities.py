"""The sum tree: sampling frequencies against closed forms. Statistical bounds fail falsely once in a million runs."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from keras_optix.experience.priorities import Priorities, importance_weights

FALSE_FAILURE = 1e-6


def chi_squared(drawn: np.ndarray, probabilities: np.ndarray) -> tuple[float, float]:
    """The statistic of the counts of `drawn`, and the value that it exceeds once in a million times."""
    counts = np.bincount(drawn, minlength=len(probabilities))
    likely = probabilities > 0.0
    assert not counts[~likely].any()
    expected = probabilities[likely] * len(drawn)
    statistic = float(((counts[likely] - expected) ** 2 / expected).sum())
    return statistic, float(stats.chi2.ppf(1.0 - FALSE_FAILURE, int(likely.sum()) - 1))


def some_priorities(size: int, exponent: float, seed: int = 0) -> tuple[Priorities, np.ndarray]:
    """A tree whose priorities were set in small parts, some of them to 0, and the probabilities of its rows."""
    rng = np.random.default_rng(seed)
    tree = Priorities(size)
    tree.use_exponent(exponent)
    for _ in range(40):
        rows = rng.integers(0, size, max(1, size // 10))
        tree.set(rows, rng.exponential(size=len(rows)) + 0.2)
    tree.set(np.unique(rng.integers(0, size, size // 4)), 0.0)
    powers = np.where(tree.values > 0.0, tree.values.astype(np.float64) ** exponent, 0.0)
    return tree, powers / powers.sum()


@pytest.mark.parametrize("size", [1, 2, 7, 300, 2049, 5001])
@pytest.mark.parametrize("exponent", [0.0, 0.6, 1.0])
def test_rows_are_drawn_in_proportion_to_powers_of_their_priorities(size: int, exponent: float) -> None:
    """Batches of one row are independent draws, so that the counts are multinomial."""
    tree, probabilities = some_priorities(size, exponent)
    if not np.isfinite(probabilities).all():
        tree.set(np.array([0]), 1.0)
        probabilities = np.array([1.0, *np.zeros(size - 1)])
    rows, said = tree.draw(np.random.default_rng(1), max(20_000, 40 * size), 1)
    np.testing.assert_allclose(said, probabilities[rows], rtol=1e-5)
    if size > 2:
        statistic, bound = chi_squared(rows, probabilities)
        assert statistic < bound


def test_control_another_exponent_is_noticed() -> None:
    tree, probabilities = some_priorities(300, 0.6)
    tree.use_exponent(0.7)
    rows, _ = tree.draw(np.random.default_rng(1), 200_000, 1)
    statistic, bound = chi_squared(rows, probabilities)
    assert statistic > bound


def test_a_batch_is_stratified() -> None:
    """Each of the B equal ranges of the sum gives one row: counts differ from their expectations by less than 2."""
    tree, probabilities = some_priorities(300, 0.6)
    rows, _ = tree.draw(np.random.default_rng(2), 50, 1000)
    for batch in rows.reshape(50, 1000):
        counts = np.bincount(batch, minlength=300)
        assert (np.abs(counts - 1000 * probabilities) < 2.0).all()
    independent = np.random.default_rng(2).choice(300, 1000, p=probabilities)  # control
    assert (np.abs(np.bincount(independent, minlength=300) - 1000 * probabilities) > 2.0).any()


@pytest.mark.parametrize("size", [9, 5001])
def test_the_tree_depends_on_nothing_but_the_priorities(size: int) -> None:
    tree, _ = some_priorities(size, 0.6)
    other = Priorities(size)
    known = np.flatnonzero(tree.values)
    other.restore(known, tree.values[known], 3.0)
    for one, two in zip(tree._levels, other._levels, strict=True):
        assert np.array_equal(one, two)
    assert other.largest == 3.0
    tree.use_exponent(1.0)
    tree.use_exponent(0.6)
    for one, two in zip(tree._levels, other._levels, strict=True):
        assert np.array_equal(one, two)


def test_rows_with_priority_zero_are_never_drawn_however_the_sums_are_rounded() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        tree = Priorities(8192)
        rows = np.unique(rng.integers(0, 8192, 40))
        tree.set(rows, 10.0 ** rng.uniform(-6, 6, len(rows)))
        drawn, probabilities = tree.draw(rng, 4, 512)
        assert np.isin(drawn, rows).all()
        assert (probabilities > 0.0).all()


def test_new_rows_get_the_largest_priority_so_far() -> None:
    tree = Priorities(10)
    tree.set_stored(np.array([0]), np.zeros(0, np.int64))
    assert tree.values[0] == 1.0
    tree.set_errors(np.array([0, 0]), np.array([-7.0, 0.5]))
    assert tree.values[0] == np.float32(0.5 + 1e-6)  # the last one counts
    tree.set_stored(np.array([1, 2]), np.array([0, 1]))
    np.testing.assert_allclose(tree.values[:3], [0.0, 7.0, 7.0], rtol=1e-6)


def test_errors_that_are_not_finite_change_nothing() -> None:
    tree = Priorities(4)
    tree.set(np.arange(4), 1.0)
    tree.set_errors(np.arange(4), np.array([np.nan, 2.0, np.inf, -np.inf]))
    np.testing.assert_allclose(tree.values, [1.0, 2.0, 1.0, 1.0], rtol=1e-5)
    assert tree.largest == pytest.approx(2.0, rel=1e-5)
    tree.set_errors(np.arange(2), np.array([np.nan, np.nan]))
    tree.set(np.zeros(0, np.int64), 1.0)
    np.testing.assert_allclose(tree.values, [1.0, 2.0, 1.0, 1.0], rtol=1e-5)


def test_importance_weights_are_those_of_the_paper() -> None:
    probabilities = np.array([[0.1, 0.2, 0.4], [0.05, 0.05, 0.3]])
    for exponent in (0.0, 0.4, 1.0):
        expected = (1.0 / (7 * probabilities)) ** exponent
        expected /= expected.max(axis=1, keepdims=True)
        np.testing.assert_allclose(importance_weights(probabilities, 7, exponent), expected, rtol=1e-6)
    fully = importance_weights(probabilities, 7, 1.0)
    np.testing.assert_allclose(fully[0], [1.0, 0.5, 0.25], rtol=1e-6)
    assert fully.dtype == np.float32


def test_weighted_draws_are_unbiased() -> None:
    """With an exponent of 1, ``w / w_max`` corrects the draws: the weighted counts are the same for all rows."""
    tree, probabilities = some_priorities(100, 0.6)
    rows, said = tree.draw(np.random.default_rng(3), 1, 1_000_000)
    weights = importance_weights(said[None], 100, 1.0)[0].astype(np.float64)
    totals = np.bincount(rows, weights, minlength=100)[probabilities > 0.0]
    # Stratified: each count is within 2 of its expectation, which is above 1000 here.
    assert probabilities[probabilities > 0.0].min() > 1e-3
    np.testing.assert_allclose(totals, totals.mean(), rtol=4e-3)
