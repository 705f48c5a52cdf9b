"""Whether training still rises: curves of returns with noise of 10 % of their progress, each over many seeds.

A bound on a share of 200 seeds lies at least 3 standard deviations of a binomial from what was seen (0.9 or more where
"nearly all" is meant), so that it fails by chance for less than one in 700 generators of random numbers.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from keras_optix.loop.course import Course
from keras_optix.statistics.estimates import Estimate, estimate_from_samples

SEEDS, WINDOWS, EPISODES, SD = 200, 200, 10, 30.0
Curve = Callable[[np.ndarray], np.ndarray]


def course_of(curve: Curve, seed: int, windows: int = WINDOWS) -> Course:
    """Returns of training whose mean follows a curve of the time, which is 1 at the end of the run."""
    rng, course = np.random.default_rng(seed), Course()
    for k, mean in enumerate(curve(np.arange(1, windows + 1) / windows)):
        course = course.add(1000 * (k + 1), estimate_from_samples(rng.normal(mean, SD, EPISODES)))
    return course


def share_that_rises(curve: Curve) -> float:
    return sum(course_of(curve, seed).rises() for seed in range(SEEDS)) / SEEDS


CURVES: dict[str, Curve] = {
    "straight": lambda t: 100.0 * t,
    "the second half only": lambda t: 100.0 * np.maximum(t - 0.5, 0.0),
    "in steps": lambda t: 100.0 * np.floor(10.0 * t) / 10.0,
    "slow": lambda t: 100.0 * np.minimum(4.0 * t, 1.0) + 15.0 * np.maximum(t - 0.25, 0.0) / 0.75,
}
FLAT: dict[str, Curve] = {
    "flat since a quarter": lambda t: 100.0 * np.minimum(4.0 * t, 1.0),
    "flat since the middle": lambda t: 100.0 * np.minimum(2.0 * t, 1.0),
    "falling": lambda t: 100.0 * np.minimum(2.0 * t, 2.0 - 2.0 * t),
    "never learned": lambda t: np.zeros_like(t),
}


@pytest.mark.parametrize("name", CURVES)
def test_curves_that_rise(name: str) -> None:
    assert share_that_rises(CURVES[name]) > 0.8


@pytest.mark.parametrize("name", FLAT)
def test_curves_that_do_not_rise(name: str) -> None:
    assert share_that_rises(FLAT[name]) < 0.3


@pytest.mark.parametrize(("limit", "least", "most"), [(70.0, 0.99, 1.0), (100.0, 0.6, 0.97), (130.0, 0.0, 0.02)])
def test_whether_training_has_come_to_a_limit(limit: float, least: float, most: float) -> None:
    """It stands at 100 now: below 100, at a one-sided error of 20 %, in one of five runs."""
    reached = sum(course_of(CURVES["straight"], seed).reaches(limit) for seed in range(SEEDS)) / SEEDS
    assert least <= reached <= most


def test_returns_that_reached_their_maximum_without_noise_do_not_rise() -> None:
    """Like those of CartPole, which end at 500: the second half of the run as a whole still goes up."""
    course = Course()
    for k in range(100):
        course = course.add(1000 * (k + 1), Estimate(min(7.0 * k, 500.0), 0.0 if k > 71 else 5.0, 10))
    assert not course.rises()


@pytest.mark.parametrize(("limit", "share"), [(105.0, 1.0), (400.0, 0.0)])
def test_training_may_pass_what_its_line_reaches_after_as_long_again(limit: float, share: float) -> None:
    """A straight line to 100 is at 200 then, with a standard error of about 5."""
    course = [course_of(CURVES["straight"], seed) for seed in range(20)]
    assert sum(one.may_pass(limit) for one in course) == share * len(course)


def test_too_few_scores_rule_nothing_out() -> None:
    assert Course().may_pass(1e9)
    assert Course().add(1000, Estimate(0.0, 1.0, 10)).may_pass(1e9)


def test_it_is_too_early_to_tell_with_few_scores() -> None:
    course = Course().add(1000, Estimate(0.0, 1.0, 10))
    assert course.rises()
    for k in range(2, 7):
        course = course.add(1000 * k, Estimate(0.0, 1.0, 10))
    assert course.rises()


def test_without_scores_nothing_rises() -> None:
    assert not Course().rises()
