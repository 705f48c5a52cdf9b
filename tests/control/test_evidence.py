"""Estimates, their pooling, and noise that a trend does not inflate."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_optix.control.evidence import (
    Estimate,
    Evidence,
    compare,
    estimate_from_samples,
    noise_from_differences,
    pool,
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
    evidence = compare(Estimate(12.0, 3.0, 5), Estimate(2.0, 4.0, 5), "higher", margin=5.0)
    assert (evidence.difference, evidence.stderr, evidence.z) == (5.0, 5.0, 1.0)
    assert compare(Estimate(2.0, 0.0, 5), Estimate(1.0, 0.0, 5), "").z == math.inf
    assert compare(Estimate(1.0, 0.0, 5), Estimate(1.0, 0.0, 5), "").z == 0.0
    assert compare(Estimate(9.0, math.inf, 1), Estimate(1.0, 0.0, 5), "").z == 0.0
    assert "standard error 5" in str(evidence)
    assert isinstance(evidence, Evidence)


def test_a_straight_line_has_no_noise_and_few_scores_say_nothing() -> None:
    assert noise_from_differences([0.1 * k for k in range(30)]) == 0.0
    assert math.isinf(noise_from_differences([1.0, 2.0, 3.0]))


def test_noise_is_found_under_a_trend_and_beside_a_jump() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(0.0, 5.0, 400) + 3.0 * np.arange(400)
    scores[200:] += 1000.0
    assert noise_from_differences(list(scores)) == pytest.approx(5.0, rel=0.15)
