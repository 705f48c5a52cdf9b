"""Estimates, their pooling, and noise that a trend does not inflate."""

from __future__ import annotations

import dataclasses
import json
import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import keras_optix as optix
from keras_optix.states import read_state, to_json
from keras_optix.statistics.estimates import (
    Estimate,
    Evidence,
    as_normal_score,
    compare,
    compare_alike,
    compare_pairs,
    estimate_from_samples,
    noise_from_differences,
    pool,
    trend,
)

SAMPLES = st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=20)


@given(SAMPLES, SAMPLES)
def test_pooling_equals_estimating_from_all_samples(first: list[float], second: list[float]) -> None:
    pooled = pool(estimate_from_samples(first), estimate_from_samples(second))
    together = estimate_from_samples(first + second)
    assert pooled.n == together.n
    assert pooled.mean == pytest.approx(together.mean, abs=1e-6)
    assert pooled.stderr == pytest.approx(together.stderr, abs=1e-6)


def test_one_sample_has_no_known_error() -> None:
    assert math.isinf(estimate_from_samples([3.0]).stderr)
    with pytest.raises(ValueError, match="at least one sample"):
        estimate_from_samples([])


def test_comparison_is_in_standard_errors() -> None:
    evidence, z = compare(Estimate(12.0, 3.0, 1), Estimate(2.0, 4.0, 1), "higher", margin=5.0)
    assert (evidence.difference, evidence.stderr, evidence.z, z) == (5.0, 5.0, 1.0, 1.0)
    assert compare(Estimate(2.0, 0.0, 5), Estimate(1.0, 0.0, 5), "").z == math.inf
    assert compare(Estimate(1.0, 0.0, 5), Estimate(1.0, 0.0, 5), "").z == 0.0
    assert compare(Estimate(9.0, math.inf, 1), Estimate(1.0, 0.0, 5), "").z == 0.0
    assert "standard error 5" in str(evidence)
    assert isinstance(evidence, Evidence)


def test_a_standard_error_from_few_samples_counts_for_less() -> None:
    reference = Estimate(0.0, 0.0, 100)
    known, from_ten, from_two = (compare(Estimate(3.0, 1.0, n), reference, "").z for n in (1, 10, 2))
    assert known == 3.0
    assert from_ten == pytest.approx(2.43, abs=0.01)  # Student's t with 9 degrees of freedom: p = 0.0075
    assert from_two == pytest.approx(1.27, abs=0.03)  # with 1: p = 0.102


@pytest.mark.parametrize(("t", "tolerance"), [(0.5, 0.03), (1.0, 0.02), (2.0, 0.02), (5.0, 0.04)])
def test_normal_scores_are_those_of_students_t(t: float, tolerance: float) -> None:
    exact = {1: 0.5 + math.atan(t) / math.pi, 2: 0.5 + t / (2.0 * math.sqrt(2.0 + t * t))}
    for dof, probability in exact.items():
        assert as_normal_score(t, dof) == pytest.approx(NormalDist().inv_cdf(probability), rel=tolerance)
        assert as_normal_score(-t, dof) == -as_normal_score(t, dof)
    assert as_normal_score(t, math.inf) == t
    assert as_normal_score(t, 1e6) == pytest.approx(t, rel=1e-4)
    assert as_normal_score(-math.inf, 3.0) == -math.inf


def test_an_unknown_error_is_that_of_the_history_however_many_samples() -> None:
    history = [0.0, 2.0, -1.0, 1.0, 0.5, -2.0, 0.0]
    noise = noise_from_differences(history)
    for n in (1, 10):
        evidence, _ = compare(Estimate(4.0, math.inf, n), Estimate(0.0, 0.0, 5), "", history=history)
        assert evidence.stderr == pytest.approx(noise)
    assert compare(Estimate(4.0, math.inf, 1), Estimate(0.0, 0.0, 5), "", history=history[:3]).z == 0.0


def test_rounding_is_no_difference_where_there_is_no_noise() -> None:
    level = Estimate(0.1, 0.0, 10)
    for _ in range(50):
        level = pool(level, Estimate(0.1, 0.0, 10))
    assert level == Estimate(0.1, 0.0, 510)
    assert compare(Estimate(0.1 + 1e-16, 0.0, 10), level, "").z == 0.0
    assert compare(Estimate(0.1 + 1e-9, 0.0, 10), level, "").z == math.inf


def test_pooling_standard_errors_that_are_known_or_unknown() -> None:
    """The variance of a pooled mean is right on average, whatever is known of its parts."""
    rng = np.random.default_rng(0)
    for part in (Estimate(0.0, 1.0, 1), Estimate(0.0, math.inf, 1), Estimate(0.0, math.inf, 10)):
        variances = []
        for _ in range(500):
            pooled = dataclasses.replace(part, mean=float(rng.normal()))
            for _ in range(3):
                pooled = pool(pooled, dataclasses.replace(part, mean=float(rng.normal())))
            variances.append(pooled.stderr**2)
        assert np.mean(variances) == pytest.approx(0.25, rel=0.15)


def test_an_estimate_survives_json() -> None:
    for estimate in (Estimate(-3.5, 0.25, 10), Estimate(1.0, math.inf, 1)):
        assert read_state(Estimate, json.loads(json.dumps(to_json(estimate), allow_nan=False)), "estimate") == estimate


def test_a_straight_line_has_no_noise_and_few_scores_say_nothing() -> None:
    assert noise_from_differences([0.1 * k for k in range(30)]) == 0.0
    assert math.isinf(noise_from_differences([1.0, 2.0, 3.0]))


def test_noise_is_found_under_a_trend_and_beside_a_jump() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(0.0, 5.0, 400) + 3.0 * np.arange(400)
    scores[200:] += 1000.0
    assert noise_from_differences(list(scores)) == pytest.approx(5.0, rel=0.15)


def test_a_trend_is_a_regression_slope_in_standard_errors() -> None:
    """Without a trend it exceeds the 95 % quantile 5 times in 100, also for few scores."""
    rng = np.random.default_rng(0)
    for n in (5, 20):
        found = [trend(rng.normal(3.0, 2.0, n).tolist()) for _ in range(4000)]
        assert np.mean(np.array(found) > 1.645) == pytest.approx(0.05, abs=0.012)
    assert trend((0.2 * np.arange(60) + rng.normal(size=60)).tolist()) > 5.0
    assert trend([3.0, 4.0, 5.0, 6.0]) == math.inf
    assert trend([0.1] * 9) == trend([1.0, 2.0]) == trend([]) == 0.0


def test_pairs_are_compared_by_their_differences() -> None:
    """Against a t test by hand: what a seed does to both cancels."""
    scores, references = [11.0, 103.0, 8.0, 54.0], [10.0, 100.0, 7.0, 51.0]
    evidence, z = compare_pairs(scores, references, "better on each seed")
    assert (evidence.difference, evidence.n, evidence.reason) == (2.0, 4, "better on each seed")
    assert evidence.stderr == pytest.approx(math.sqrt(4 / 3) / 2)  # differences 1, 3, 1, 3
    assert z == as_normal_score(evidence.z, 3)
    assert 1.645 < z < evidence.z
    assert compare_pairs(references, scores, "").z == -z
    unpaired = compare(estimate_from_samples(scores), estimate_from_samples(references), "")
    assert unpaired.z < 0.1


def test_pairs_without_noise() -> None:
    assert compare_pairs([1.0, 5.0], [1.0, 5.0], "").z == 0.0
    # Differences of 0.3, but for rounding: neither noise nor, in the second case, a difference.
    references = [0.1 * k for k in range(9)]
    assert compare_pairs([r + 0.3 for r in references], references, "").z == math.inf
    assert compare_pairs([r - 0.3 for r in references], references, "").z == -math.inf
    assert compare_pairs([(r + 0.3) - 0.3 for r in references], references, "").z == 0.0
    assert compare_pairs([1e9, 3.0], [1e9, 3.0 + 1e-9], "").z == 0.0


def test_one_pair_says_nothing_and_none_is_an_error() -> None:
    evidence, z = compare_pairs([9.0], [1.0], "")
    assert (evidence.difference, evidence.stderr, evidence.n, z) == (8.0, math.inf, 1, 0.0)
    for scores, references in (([], []), ([1.0, 2.0], [1.0])):
        with pytest.raises(optix.ConfigurationError, match=r"in pairs.*Received: scores=\d, references=\d"):
            compare_pairs(scores, references, "")


def test_equal_pairs_are_found_different_as_often_as_asked_for() -> None:
    rng = np.random.default_rng(0)
    for n in (3, 20):
        seeds = rng.normal(0.0, 50.0, (4000, n))
        found = [
            compare_pairs(one.tolist(), other.tolist(), "").z
            for one, other in zip(
                seeds + rng.normal(size=seeds.shape), seeds + rng.normal(size=seeds.shape), strict=True
            )
        ]
        assert np.mean(np.array(found) > 1.645) == pytest.approx(0.05, abs=0.012)


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20), st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20))
def test_comparing_alike_is_students_test_with_one_deviation(first: list[float], second: list[float]) -> None:
    evidence, z = compare_alike(estimate_from_samples(first), estimate_from_samples(second), "why", margin=1.0)
    a, b = np.array(first), np.array(second)
    dof = len(a) + len(b) - 2
    squares = np.square(a - a.mean()).sum() + np.square(b - b.mean()).sum()
    stderr = math.sqrt(squares / dof * (1 / len(a) + 1 / len(b)))
    assert evidence.difference == pytest.approx(a.mean() - b.mean() - 1.0, abs=1e-6)
    assert evidence.stderr == pytest.approx(stderr, rel=1e-6, abs=1e-9)
    assert (evidence.n, evidence.reason) == (len(a), "why")
    assert z == as_normal_score(evidence.z, dof)


@pytest.mark.parametrize("first", [Estimate(3.0, 1.0, 1), Estimate(3.0, math.inf, 10), Estimate(3.0, math.inf, 1)])
def test_comparing_alike_uses_errors_that_are_known_or_of_the_history_as_they_are(first: Estimate) -> None:
    other, history = Estimate(1.0, 0.5, 20), [0.0, 2.0, -1.0, 1.0, 0.5]
    assert compare_alike(first, other, "", history=history) == compare(first, other, "", history=history)
    assert compare_alike(other, first, "", history=history) == compare(other, first, "", history=history)


def test_equal_samples_at_a_limit_are_not_significant_when_compared_alike() -> None:
    """All of ten episodes reach 500, of a reference whose episodes reach it nine times of ten."""
    reference = estimate_from_samples([*[500.0] * 72, *[300.0] * 8])
    score = estimate_from_samples([500.0] * 10)
    assert compare(score, reference, "").z > 2.5
    assert compare_alike(score, reference, "").z < 1.5
