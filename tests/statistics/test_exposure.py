"""The estimate of an effect beside a learning curve: right on known curves, honest about its error on noise."""

from __future__ import annotations

import math

import numpy as np
import pytest

from keras_optix.statistics.exposure import FEWEST_SCORES, exposure_effect

SIGNS = np.repeat([1, -1, -1, 1, -1, 1, 1, -1], 6)
TIMES = np.arange(len(SIGNS) + 1, dtype=float)
EXPOSURES = np.concatenate([[0.0], np.cumsum(SIGNS)])
UNKNOWN = [math.inf] * len(TIMES)


def estimate(scores: np.ndarray, spacing: float = 1.0) -> tuple[float, float, float]:
    comparison = exposure_effect(list(TIMES * spacing), list(EXPOSURES * spacing), list(scores), UNKNOWN, "")
    return comparison.evidence.difference, comparison.evidence.stderr, comparison.z


@pytest.mark.parametrize("spacing", [1.0, 7.0])
def test_it_finds_the_effect_beside_a_line_and_a_parabola_exactly(spacing: float) -> None:
    scores = 5.0 - 0.3 * TIMES + 0.01 * TIMES**2 + 0.02 * EXPOSURES
    difference, stderr, z = estimate(scores, spacing)
    assert difference == pytest.approx(2 * 0.02 / spacing, rel=1e-6)
    assert stderr < 1e-9
    assert z > 5


def test_a_curve_that_saturates_is_no_effect() -> None:
    rng = np.random.default_rng(0)
    found = [estimate(1.0 - np.exp(-TIMES / 30.0) + 0.05 * rng.normal(size=len(TIMES)))[2] for _ in range(300)]
    assert np.mean(np.abs(found) > 1.96) < 0.08


@pytest.mark.parametrize("walk", [0.0, 0.1, 1.0])
def test_its_error_is_honest_also_where_learning_itself_is_noisy(walk: float) -> None:
    rng = np.random.default_rng(1)
    found = []
    for _ in range(400):
        skill = np.cumsum(walk * rng.normal(size=len(TIMES)))
        found.append(estimate(skill + rng.normal(size=len(TIMES)))[2])
    assert np.mean(np.abs(found) > 1.96) < 0.08
    assert np.std(found) > 0.5  # nor is it so careful that it sees nothing


def test_ordinary_least_squares_would_take_a_random_walk_for_an_effect() -> None:
    """The control: what the grid of ratios is for."""
    rng = np.random.default_rng(2)
    design = np.stack([np.ones(len(TIMES)), TIMES, TIMES**2, EXPOSURES], 1)
    inverse, wrong = np.linalg.inv(design.T @ design), 0
    for _ in range(400):
        y = np.cumsum(rng.normal(size=len(TIMES)))
        coefficients = inverse @ design.T @ y
        residual = np.square(y - design @ coefficients).sum() / (len(y) - 4)
        wrong += abs(coefficients[-1]) > 1.96 * math.sqrt(residual * inverse[-1, -1])
    assert wrong / 400 > 0.2


def test_scores_that_are_known_worse_count_less() -> None:
    scores = 0.02 * EXPOSURES
    stderrs = np.full(len(TIMES), 0.1)
    scores[20], stderrs[20] = 50.0, 1.0
    weighed = exposure_effect(list(TIMES), list(EXPOSURES), list(scores), list(stderrs), "").evidence
    alike = exposure_effect(list(TIMES), list(EXPOSURES), list(scores), UNKNOWN, "").evidence
    assert abs(weighed.difference - 0.04) < abs(alike.difference - 0.04)


def test_shift_and_scale_change_nothing() -> None:
    rng = np.random.default_rng(3)
    scores = 0.02 * EXPOSURES + 0.1 * rng.normal(size=len(TIMES))
    difference, _, z = estimate(scores)
    scaled = estimate(1000.0 * scores - 5e4)
    assert scaled[0] == pytest.approx(1000.0 * difference, rel=1e-6)
    assert scaled[2] == pytest.approx(z, rel=1e-6)


def test_too_few_scores_say_nothing() -> None:
    few = FEWEST_SCORES - 1
    comparison = exposure_effect(
        list(TIMES[:few]), list(EXPOSURES[:few]), [float(k) for k in range(few)], UNKNOWN[:few], ""
    )
    assert comparison.z == 0.0
    assert exposure_effect([0.0] * 9, [0.0] * 9, [1.0] * 9, [1.0] * 9, "").z == 0.0


def test_training_that_was_undone_is_a_branch() -> None:
    """Times and exposures go back; the effect is exact, and a walk that was undone is no effect."""
    times = np.array([0, 1, 2, 3, 4, 5, 6, 3, 4, 5, 6, 7, 8, 9], dtype=float)
    exposures = np.array([0, 1, 2, 3, 4, 5, 6, 3, 2, 1, 0, -1, -2, -3], dtype=float)
    scores = 2.0 + 0.1 * times - 0.001 * times**2 + 0.03 * exposures
    found = exposure_effect(list(times), list(exposures), list(scores), [1.0] * 14, "").evidence
    assert found.difference == pytest.approx(2 * 0.03, rel=1e-6)


def test_its_error_is_honest_where_noisy_learning_was_undone() -> None:
    """5 % of 400 tests are 20 +- 4.4: more than 8 % (32) would come by chance in 1 of 150 runs."""
    rng = np.random.default_rng(3)
    times = np.concatenate([np.arange(13.0), np.arange(7.0, 13.0), np.arange(13.0, 25.0)])
    exposures = np.concatenate([np.arange(13.0), np.arange(5.0, -1.0, -1.0), np.arange(1.0, 13.0)])
    exposures[7:13] = 6.0 + np.arange(1.0, 7.0)
    found = []
    for _ in range(400):
        first, second = np.cumsum(rng.normal(size=13)), rng.normal(size=18)
        skill = np.concatenate([first, first[6] + np.cumsum(second)])
        scores = skill + rng.normal(size=len(skill))
        found.append(exposure_effect(list(times), list(exposures), list(scores), [1.0] * len(times), "").z)
    assert np.mean(np.abs(found) > 1.96) < 0.08
