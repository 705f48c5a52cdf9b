"""weights_from_scores against closed forms, and what must hold for any scores."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from keras_optix.errors import ConfigurationError, NonFiniteError
from keras_optix.statistics import member_weights
from keras_optix.statistics.member_weights import weights_from_scores


def sample(mean: float, error: float, n: int) -> list[float]:
    """`n` scores (even) of exactly this mean and standard error."""
    spread = error * math.sqrt(n - 1)
    return [mean - spread, mean + spread] * (n // 2)


@pytest.mark.parametrize("difference", [-3.0, -0.5, 0.0, 1.0, 2.0])
@pytest.mark.parametrize("errors", [(1.0, 1.0), (0.1, 2.0), (1e-4, 1.0)])
def test_two_members_of_known_errors(difference: float, errors: tuple[float, float]) -> None:
    scores = [sample(10 + difference, errors[0], 1000), sample(10, errors[1], 1000)]
    expected = scipy.stats.norm.cdf(difference / math.hypot(*errors))
    assert weights_from_scores(scores, [0.5, 0.5], 0.0)[0] == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("n", [2, 4, 6, 10])
def test_few_scores_have_the_tails_of_student(n: int) -> None:
    """Against a member without noise, the probability is the distribution function of Student's t."""
    ours, best = weights_from_scores([sample(0.0, 1.0, n), [1.5] * 10], [0.5, 0.5], 0.0)
    assert ours == pytest.approx(scipy.stats.t.sf(1.5, n - 1), abs=1e-3)
    assert ours + best == pytest.approx(1)


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 7, 30, 199, 200])
def test_student_distribution_function(degrees: int) -> None:
    t = np.concatenate((-np.geomspace(1e6, 1e-3, 50), [0.0], np.geomspace(1e-3, 1e6, 50)))
    np.testing.assert_allclose(
        member_weights._student_cdf(t, degrees), scipy.stats.t.cdf(t, degrees), atol=1e-13, rtol=0
    )


def test_three_members_against_simulation() -> None:
    scores = [sample(1.0, 0.5, 4), sample(1.3, 0.2, 8), sample(0.8, 1.0, 6)]
    rng = np.random.default_rng(0)
    draws = [m + e * rng.standard_t(n - 1, 400_000) for m, e, n in ((1.0, 0.5, 4), (1.3, 0.2, 8), (0.8, 1.0, 6))]
    expected = np.bincount(np.argmax(draws, axis=0)) / 400_000
    assert weights_from_scores(scores, [1, 1, 1], 0.0) == pytest.approx(expected, abs=4e-3)


def test_contrast_follows_the_errors() -> None:
    clear = weights_from_scores([sample(490, 2, 10), sample(500, 2, 10)], [0.5, 0.5], 0.0)
    vague = weights_from_scores([sample(490, 50, 10), sample(500, 50, 10)], [0.5, 0.5], 0.0)
    assert clear[1] > 0.98
    assert 0.5 < vague[1] < 0.6


def test_negative_scores_as_positive_ones() -> None:
    """The original divided by the sum of clipped scores and gave -100 and -50 the weights 1e-8 and 50."""
    bad, good = weights_from_scores([sample(-100, 5, 10), sample(-50, 5, 10)], [0.5, 0.5], 0.05)
    assert bad == pytest.approx(0.05, abs=1e-3)
    assert bad + good == pytest.approx(1)
    assert good < 1


def test_without_noise() -> None:
    assert weights_from_scores([[0.1] * 3, [0.1] * 7, [0.1] * 2], [1, 0, 0], 0.0) == pytest.approx([1 / 3] * 3)
    assert weights_from_scores([[0, 0], [1, 1], [1, 1]], [1, 1, 1], 0.1) == pytest.approx([0.1, 0.45, 0.45])
    assert weights_from_scores([[-7, -7], [-7.001, -7.001]], [1, 1], 0.1) == pytest.approx([0.9, 0.1])
    assert weights_from_scores([[1e308] * 2, [-1e308] * 2], [1, 1], 0.1) == pytest.approx([0.9, 0.1])


def test_a_single_score_has_the_pooled_spread() -> None:
    alone, known = weights_from_scores([[1.0], sample(0.0, 1.0, 10)], [0.5, 0.5], 0.0)
    draws = np.random.default_rng(0).standard_t(9, (2, 400_000))
    assert alone == pytest.approx(np.mean(1 + math.sqrt(10) * draws[0] > draws[1]), abs=4e-3)
    assert alone + known == pytest.approx(1)


def test_members_without_evidence_keep_their_share() -> None:
    weights = weights_from_scores([[], [0, 0], [1, 1]], [0.5, 0.3, 0.2], 0.1)
    assert weights == pytest.approx([0.5, 0.1, 0.4])
    assert weights_from_scores([[], []], [3, 1], 0.0) == pytest.approx([0.75, 0.25])
    assert weights_from_scores([[1], [9]], [0.75, 0.25], 0.0) == pytest.approx([0.75, 0.25])  # no spread is known
    assert weights_from_scores([[], [1, 2]], [1, 0], 0.2) == pytest.approx([0.8, 0.2])
    assert weights_from_scores([[]], [1], 0.0) == (1.0,)


SCORE = st.integers(-1000, 1000).map(float)
MEMBERS = st.lists(st.lists(SCORE, max_size=6), min_size=1, max_size=5)


@given(MEMBERS, st.floats(0, 1), st.randoms(use_true_random=False))
def test_for_any_scores(scores: list[list[float]], share: float, random: object) -> None:
    members = len(scores)
    floor = share / members
    current = [1.0 + i for i in range(members)]
    weights = weights_from_scores(scores, current, floor)
    assert sum(weights) == pytest.approx(1, abs=1e-9)
    assert min(weights) >= floor - 1e-12
    moved = [[4 * score + 32 for score in member] for member in scores]
    assert weights_from_scores(moved, current, floor) == pytest.approx(weights, abs=1e-6)
    turned = weights_from_scores(scores[::-1], current[::-1], floor)
    assert turned[::-1] == pytest.approx(weights, abs=1e-9)


@given(st.lists(SCORE, min_size=2, max_size=5), st.floats(0.01, 500), st.sampled_from([2, 4, 20]))
def test_a_higher_mean_never_gets_less_at_equal_errors(means: list[float], error: float, n: int) -> None:
    weights = weights_from_scores([sample(mean, error, n) for mean in means], [1.0] * len(means), 0.0)
    ordered = [weight for _, weight in sorted(zip(means, weights, strict=True))]
    assert all(low <= high + 1e-6 for low, high in itertools.pairwise(ordered))


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_scores_that_are_not_finite_are_refused(score: float) -> None:
    with pytest.raises(NonFiniteError, match="member=1"):
        weights_from_scores([[1.0], [score]], [0.5, 0.5], 0.0)


@pytest.mark.parametrize(
    ("scores", "current", "floor"),
    [([], [], 0), ([[1]], [1, 1], 0), ([[1]], [-1], 0), ([[1]], [0], 0), ([[1], [2]], [1, 1], 0.51), ([[1]], [1], -1)],
)
def test_arguments_are_checked(scores: list[list[float]], current: list[float], floor: float) -> None:
    with pytest.raises(ConfigurationError):
        weights_from_scores(scores, current, floor)
