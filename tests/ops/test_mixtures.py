"""Mixtures against enumeration in NumPy: probabilities, samples, greedy choices, and members that are out."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from arrays import WithArrays

from keras_optix.experience.actor import NoiseSpec
from keras_optix.ops.distributions import Bernoulli, Categorical, DiagonalGaussian, Distribution, MultiCategorical
from keras_optix.ops.mixtures import (
    AveragedGaussian,
    BernoulliMixture,
    CategoricalMixture,
    GaussianMixture,
    Mixture,
    MultiCategoricalMixture,
)

WEIGHTS = np.array([[0.3], [0.7]], np.float32)  # of all rows alike
FINITE: dict[str, tuple[Mixture, Distribution, NoiseSpec, list[Any]]] = {
    "categorical": (
        WithArrays(CategoricalMixture(3)),
        WithArrays(Categorical(3)),
        NoiseSpec("gumbel", (3,)),
        [0, 1, 2],
    ),
    "multi": (
        WithArrays(MultiCategoricalMixture((3, 2))),
        WithArrays(MultiCategorical((3, 2))),
        NoiseSpec("gumbel", (5,)),
        [list(pair) for pair in itertools.product(range(3), range(2))],
    ),
    "bernoulli": (
        WithArrays(BernoulliMixture(3)),
        WithArrays(Bernoulli(3)),
        NoiseSpec("logistic", (3,)),
        [list(bits) for bits in itertools.product(range(2), repeat=3)],
    ),
}
CONTINUOUS: dict[str, tuple[Mixture, NoiseSpec]] = {
    "average": (WithArrays(AveragedGaussian(2)), NoiseSpec("normal", (2,))),
    "mixture": (WithArrays(GaussianMixture(2, 2)), NoiseSpec("normal", (6,))),
}


def members_of(distribution: Distribution, scale: float = 2.0) -> np.ndarray:
    """Parameters ``[2, 1, P]`` of two members that disagree."""
    rng = np.random.default_rng(3)
    return (scale * rng.normal(size=(2, 1, distribution.parameters))).astype(np.float32)


def by_hand(distribution: Distribution, parameters: np.ndarray, weights: np.ndarray, outcomes: list[Any]) -> Any:
    """Probabilities of the outcomes: the weighted sum of the members' own."""
    choices = np.array(outcomes, np.int64)
    each = [np.exp(distribution.log_prob(np.repeat(p, len(outcomes), 0), choices)) for p in parameters]
    return np.sum(weights * np.array(each), 0)


@pytest.mark.parametrize("name", FINITE)
def test_probabilities_are_the_weighted_sums_of_the_members(name: str) -> None:
    mixture, distribution, _, outcomes = FINITE[name]
    parameters = members_of(distribution)
    repeated = np.repeat(parameters, len(outcomes), 1)
    found = np.exp(mixture.log_prob(repeated, WEIGHTS, np.array(outcomes, np.int64)))
    np.testing.assert_allclose(found, by_hand(distribution, parameters, WEIGHTS, outcomes), rtol=1e-5)
    assert found.sum() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("name", FINITE)
def test_samples_follow_the_joint_mixture(name: str) -> None:
    mixture, distribution, noise, outcomes = FINITE[name]
    parameters, n = members_of(distribution), 60_000
    drawn = noise.draw(np.random.default_rng(1), (n,))
    samples = np.asarray(mixture.sample(np.repeat(parameters, n, 1), WEIGHTS, drawn)).reshape(n, -1)
    shares = np.array([np.mean((samples == np.ravel(outcome)).all(-1)) for outcome in outcomes])
    # Four standard errors of the largest share.
    tolerance = 4 * 0.5 / math.sqrt(n)
    np.testing.assert_allclose(shares, by_hand(distribution, parameters, WEIGHTS, outcomes), atol=tolerance)
    if name != "categorical":
        # Control: drawing each choice for itself, from the mixture of the marginals, would be seen.
        marginals = [
            {v: shares[[o[k] == v for o in outcomes]].sum() for v in range(3)} for k in range(len(outcomes[0]))
        ]
        independent = [math.prod(marginals[k][v] for k, v in enumerate(outcome)) for outcome in outcomes]
        assert np.abs(shares - independent).max() > 3 * tolerance


@pytest.mark.parametrize("name", FINITE)
def test_a_member_with_all_the_weight_is_the_ensemble(name: str) -> None:
    mixture, distribution, noise, outcomes = FINITE[name]
    n = 2_000
    parameters = np.repeat(members_of(distribution, 20.0), n, 1)
    drawn = noise.draw(np.random.default_rng(1), (n,))
    weights = np.array([[0.0], [1.0]], np.float32)
    choices = mixture.sample(parameters, weights, drawn)
    np.testing.assert_array_equal(choices, distribution.sample(parameters[1], drawn))
    every = np.resize(np.array(outcomes, np.int64), np.shape(choices))
    found = mixture.log_prob(parameters, weights, every)
    np.testing.assert_allclose(found, distribution.log_prob(parameters[1], every), rtol=1e-5)


@pytest.mark.parametrize("name", FINITE)
def test_no_noise_gives_a_likely_choice(name: str) -> None:
    """Alone, two members would choose each its own; the mixture follows the heavier one, where both are sure."""
    mixture, distribution, noise, _ = FINITE[name]
    light = members_of(distribution, 20.0)[:1]
    parameters = np.concatenate([light, -light])
    zeros = noise.zeros((1,))
    choice = mixture.sample(parameters, WEIGHTS, zeros)
    np.testing.assert_array_equal(choice, distribution.sample(parameters[1], zeros))
    assert not np.array_equal(choice, distribution.sample(parameters[0], zeros))


@pytest.mark.parametrize("name", CONTINUOUS)
def test_densities_integrate_to_one_and_samples_follow_them(name: str) -> None:
    mixture, noise = CONTINUOUS[name]
    parameters = np.array([[[-1.0, 0.5, -0.5, 0.1]], [[1.5, -0.5, -0.2, -0.7]]], np.float32)
    axis = np.linspace(-8.0, 8.0, 321, dtype=np.float32)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    density = np.exp(mixture.log_prob(np.repeat(parameters, len(grid), 1), WEIGHTS, grid))
    area = float(axis[1] - axis[0]) ** 2
    assert density.sum() * area == pytest.approx(1.0, abs=1e-3)
    n = 40_000
    drawn = noise.draw(np.random.default_rng(2), (n,))
    samples = np.asarray(mixture.sample(np.repeat(parameters, n, 1), WEIGHTS, drawn))
    mean = (density[:, None] * grid).sum(0) * area
    second = (density[:, None] * grid**2).sum(0) * area
    # Four standard errors of the mean; squares vary by less than ten.
    np.testing.assert_allclose(samples.mean(0), mean, atol=4 * np.sqrt(second.max() / n))
    np.testing.assert_allclose((samples**2).mean(0), second, atol=4 * np.sqrt(10.0 / n))
    product = (density * grid[:, 0] * grid[:, 1]).sum() * area
    assert (samples[:, 0] * samples[:, 1]).mean() == pytest.approx(product, abs=4 * math.sqrt(10.0 / n))


def test_the_average_is_that_of_the_members_actions() -> None:
    gaussian, rng = WithArrays(DiagonalGaussian(2)), np.random.default_rng(0)
    parameters = rng.normal(size=(2, 5, 4)).astype(np.float32)
    noise = rng.normal(size=(5, 2)).astype(np.float32)
    one, other = (np.asarray(gaussian.sample(p, noise)) for p in parameters)
    found = WithArrays(AveragedGaussian(2)).sample(parameters, WEIGHTS, noise)
    np.testing.assert_allclose(found, (0.3 * one + 0.7 * other) / (0.3 + 0.7), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", CONTINUOUS)
@pytest.mark.parametrize("member", [0, 1])
def test_a_gaussian_with_all_the_weight_is_the_ensemble(name: str, member: int) -> None:
    mixture, noise = CONTINUOUS[name]
    gaussian, rng = WithArrays(DiagonalGaussian(2)), np.random.default_rng(0)
    parameters = rng.normal(size=(2, 500, 4)).astype(np.float32)
    drawn = noise.draw(rng, (500,))
    weights = np.eye(2, dtype=np.float32)[:, [member]]
    choices = mixture.sample(parameters, weights, drawn)
    np.testing.assert_allclose(choices, gaussian.sample(parameters[member], drawn[:, :2]), rtol=1e-5, atol=1e-6)
    expected = gaussian.log_prob(parameters[member], choices)
    np.testing.assert_allclose(mixture.log_prob(parameters, weights, choices), expected, rtol=1e-4, atol=1e-5)


def test_without_noise_a_gaussian_mixture_takes_the_mean_of_the_heaviest_member() -> None:
    parameters = np.array([[[-1.0, 0.5, 0.0, 0.0]], [[1.5, -0.5, 0.0, 0.0]]], np.float32)
    for weights, mean in ((WEIGHTS, [1.5, -0.5]), (WEIGHTS[::-1], [-1.0, 0.5])):
        choice = WithArrays(GaussianMixture(2, 2)).sample(parameters, weights, np.zeros((1, 6), np.float32))
        np.testing.assert_array_equal(choice, [mean])
