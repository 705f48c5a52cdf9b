"""Distributions against NumPy: probabilities sum to one, samples follow them, entropies are their mean surprise."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from arrays import WithArrays

from keras_optix.experience.actor import NoiseSpec
from keras_optix.ops.distributions import Bernoulli, Categorical, DiagonalGaussian, Distribution, MultiCategorical

RNG = np.random.default_rng(0)
FINITE: dict[str, tuple[Distribution, NoiseSpec, list[Any]]] = {
    "categorical": (WithArrays(Categorical(3)), NoiseSpec("gumbel", (3,)), [0, 1, 2]),
    "multi": (
        WithArrays(MultiCategorical((3, 2))),
        NoiseSpec("gumbel", (5,)),
        [list(pair) for pair in itertools.product(range(3), range(2))],
    ),
    "bernoulli": (
        WithArrays(Bernoulli(2)),
        NoiseSpec("logistic", (2,)),
        [list(pair) for pair in itertools.product(range(2), range(2))],
    ),
}


def probabilities(distribution: Distribution, parameters: np.ndarray, outcomes: list[Any]) -> np.ndarray:
    repeated = np.repeat(parameters[None], len(outcomes), 0)
    return np.exp(np.asarray(distribution.log_prob(repeated, np.array(outcomes, np.int64))))


@pytest.mark.parametrize("name", FINITE)
def test_probabilities_sum_to_one_and_entropy_is_the_mean_surprise(name: str) -> None:
    distribution, _, outcomes = FINITE[name]
    parameters = RNG.normal(size=distribution.parameters).astype(np.float32)
    p = probabilities(distribution, parameters, outcomes)
    assert p.sum() == pytest.approx(1.0, abs=1e-5)
    entropy = float(np.asarray(distribution.entropy(parameters[None]))[0])
    assert entropy == pytest.approx(-(p * np.log(p)).sum(), abs=1e-5)


@pytest.mark.parametrize("name", FINITE)
def test_samples_follow_the_probabilities(name: str) -> None:
    distribution, noise, outcomes = FINITE[name]
    parameters = RNG.normal(size=distribution.parameters).astype(np.float32)
    n = 40_000
    drawn = noise.draw(np.random.default_rng(1), (n,))
    samples = np.asarray(distribution.sample(np.repeat(parameters[None], n, 0), drawn)).reshape(n, -1)
    shares = [np.mean((samples == np.ravel(outcome)).all(-1)) for outcome in outcomes]
    # Four standard errors of the largest share.
    np.testing.assert_allclose(shares, probabilities(distribution, parameters, outcomes), atol=4 * 0.5 / math.sqrt(n))


@pytest.mark.parametrize("name", FINITE)
def test_no_noise_gives_the_most_likely_choice(name: str) -> None:
    distribution, noise, outcomes = FINITE[name]
    for _ in range(20):
        parameters = RNG.normal(size=distribution.parameters).astype(np.float32)
        choice = np.asarray(distribution.sample(parameters[None], noise.zeros((1,))))[0]
        best = outcomes[int(np.argmax(probabilities(distribution, parameters, outcomes)))]
        np.testing.assert_array_equal(choice, best)


def test_gaussian_density_entropy_and_samples() -> None:
    distribution = WithArrays(DiagonalGaussian(2))
    mean, std = np.array([0.5, -1.0]), np.array([0.3, 2.0])
    parameters = np.concatenate([mean, np.log(std)]).astype(np.float32)[None]
    x = np.array([[0.1, 0.7]], np.float32)
    expected = sum(-0.5 * ((x[0] - mean) / std) ** 2 - np.log(std) - 0.5 * math.log(2 * math.pi))
    assert float(np.asarray(distribution.log_prob(parameters, x))[0]) == pytest.approx(expected, abs=1e-5)
    entropy = sum(0.5 * np.log(2 * math.pi * math.e * std**2))
    assert float(np.asarray(distribution.entropy(parameters))[0]) == pytest.approx(entropy, abs=1e-5)
    noise = NoiseSpec("normal", (2,)).draw(np.random.default_rng(0), (40_000,))
    samples = np.asarray(distribution.sample(np.repeat(parameters, 40_000, 0), noise))
    np.testing.assert_allclose(samples.mean(0), mean, atol=0.05)
    np.testing.assert_allclose(samples.std(0), std, rtol=0.02)
    np.testing.assert_allclose(distribution.sample(parameters, np.zeros((1, 2), np.float32))[0], mean, atol=1e-6)
