"""Whether training and copies of its environments agree: false alarms under learning, and what is found."""

from __future__ import annotations

import numpy as np
import pytest
from drivers import through_json

from keras_optix.states import read_state
from keras_optix.statistics.agreement import Agreement, AgreementState
from keras_optix.statistics.estimates import Estimate, Evidence, estimate_from_samples

EPISODES = 10


def scored(rng: np.random.Generator, mean: float, deviation: float = 1.0) -> Estimate:
    return estimate_from_samples(mean + deviation * rng.standard_normal(EPISODES))


def run(
    seed: int, *, other: float = 0.0, slope: float = 0.0, scale: float = 1.0, comparisons: int = 32
) -> tuple[Evidence | None, int]:
    """A run in which each score in training may be chosen for being high; `other` is what copies earn more."""
    rng, agreement = np.random.default_rng(seed), Agreement()
    for k in range(comparisons):
        level = slope * k
        # The highest of five, as a candidate is.
        before = max((scored(rng, level - slope / 2, scale) for _ in range(5)), key=lambda estimate: estimate.mean)
        agreement.played(before, scored(rng, level + other, scale))
        found = agreement.observe(scored(rng, level + slope / 2, scale))
        if found is not None:
            return found, k + 1
    return None, comparisons


@pytest.mark.parametrize("slope", [0.0, 0.5, -0.5])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_the_same_environments_agree_whatever_is_learned(slope: float, scale: float) -> None:
    """None of 9 x 60 runs, where a false alarm in 1,000 is promised and the margin leaves far fewer."""
    assert all(run(seed, slope=slope * scale, scale=scale)[0] is None for seed in range(60))


@pytest.mark.parametrize(("other", "within"), [(4.0, 2), (-4.0, 2), (2.0, 8), (-2.0, 8), (1.5, 32), (-1.5, 16)])
def test_other_environments_are_found(other: float, within: int) -> None:
    """Above takes longer than below: a score before that was chosen for being high hides some of it."""
    for seed in range(20):
        found, comparisons = run(seed, other=other)
        assert found is not None
        assert comparisons <= within
        assert np.sign(found.difference) == np.sign(other)
        assert found.n == comparisons
        assert 0.0 < found.stderr < 1.0


def test_scores_without_noise_that_differ_are_found_at_once() -> None:
    agreement = Agreement()
    exact = Estimate(10.0, 0.0, 5)
    for copies, other in ((exact, False), (Estimate(11.0, 0.0, 5), True)):
        agreement.reset()
        agreement.played(exact, copies)
        assert (agreement.observe(exact) is not None) == other


@pytest.mark.parametrize("scale", [1.0, -1.0])
def test_without_noise_neither_fast_learning_nor_rounding_is_another_environment(scale: float) -> None:
    """The weights of the copies earn 2.0, in every case; the scores around them are those of other weights, too."""
    agreement = Agreement()
    for before, after in ((2.0, 9.0), (-7.0, 2.0), (1.0, 2.5), (2.0 + 1e-6, 2.0 + 1e-6)):
        agreement.reset()
        agreement.played(Estimate(scale * before, 0.0, 100), Estimate(scale * 2.0, 0.0, 100))
        assert agreement.observe(Estimate(scale * after, 0.0, 100)) is None
    agreement.played(Estimate(scale * 3.0, 0.0, 100), Estimate(scale * 2.0, 0.0, 100))
    assert agreement.observe(Estimate(scale * 9.0, 0.0, 100)) is not None  # below both


def test_nothing_is_compared_without_all_three_scores() -> None:
    rng, agreement = np.random.default_rng(0), Agreement()
    assert agreement.observe(scored(rng, 9.0)) is None
    agreement.played(scored(rng, 0.0), scored(rng, 9.0))
    agreement.cancel()
    assert agreement.observe(scored(rng, 0.0)) is None
    agreement.played(scored(rng, 0.0), Estimate(9.0, np.inf, 1))
    assert agreement.observe(scored(rng, 0.0)) is None
    assert agreement.comparisons == 0


def test_it_goes_on_after_a_pause() -> None:
    rng, agreement, again = np.random.default_rng(0), Agreement(), Agreement()
    agreement.played(scored(rng, 0.0), scored(rng, 2.0))
    agreement.observe(scored(rng, 0.0))
    agreement.played(scored(rng, 0.0), scored(rng, 2.0))
    again.state = read_state(AgreementState, through_json(agreement.state), "agreement")
    last = scored(rng, 0.0)
    assert again.observe(last) == agreement.observe(last)
    assert again.state == agreement.state
