"""Distributions against NumPy: probabilities sum to one, samples follow them, entropies are their mean surprise."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from arrays import WithArrays
from scipy import stats

from keras_optix.experience.actor import NoiseSpec
from keras_optix.ops.distributions import (
    Bernoulli,
    Categorical,
    DiagonalGaussian,
    Distribution,
    EpsilonGreedy,
    MultiCategorical,
    StateDependentGaussian,
)

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


FEATURES, AXES = 5, 2


def state_dependent(rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Random parameters, and the means, features and standard deviations in them."""
    mean = RNG.normal(size=(rows, AXES)).astype(np.float32)
    features = RNG.uniform(-1.0, 1.0, (rows, FEATURES)).astype(np.float32)
    log_std = RNG.normal(-1.0, 0.5, (FEATURES, AXES)).astype(np.float32)
    flat = np.repeat(log_std.reshape(1, -1), rows, 0)
    return np.concatenate([mean, features, flat], -1), mean, features, np.exp(log_std)


@pytest.mark.parametrize("learn_features", [False, True])
def test_state_dependent_density_and_entropy_are_those_over_all_matrices(learn_features: bool) -> None:
    distribution = WithArrays(StateDependentGaussian(AXES, FEATURES, learn_features))
    parameters, mean, features, std = state_dependent(4)
    assert parameters.shape[1] == distribution.parameters
    choices = (mean + RNG.normal(size=mean.shape)).astype(np.float32)
    marginal = stats.norm(mean, np.sqrt(features**2 @ std**2 + 1e-6))
    np.testing.assert_allclose(distribution.log_prob(parameters, choices), marginal.logpdf(choices).sum(-1), rtol=1e-4)
    np.testing.assert_allclose(distribution.entropy(parameters), marginal.entropy().sum(-1), rtol=1e-4, atol=1e-5)


def test_state_dependent_features_of_zero_have_a_density() -> None:
    distribution = WithArrays(StateDependentGaussian(AXES, FEATURES, False))
    parameters, mean, _, _ = state_dependent(1)
    parameters[:, AXES : AXES + FEATURES] = 0.0
    wanted = AXES * stats.norm.logpdf(0.0, scale=1e-3)
    np.testing.assert_allclose(distribution.log_prob(parameters, mean), [wanted], rtol=1e-4)


def test_state_dependent_noise_is_linear_in_the_features_and_has_the_closed_variance() -> None:
    """A sample variance of Gaussian noise follows a chi-squared distribution.

    Each of the four bounds fails for one generator in a million.
    """
    distribution = WithArrays(StateDependentGaussian(AXES, FEATURES, False))
    parameters, mean, features, std = state_dependent(2)
    n = 20_000
    matrices = NoiseSpec("normal", (FEATURES, AXES)).draw(np.random.default_rng(2), (n,))
    for row in range(2):
        noise = distribution.sample(np.repeat(parameters[row : row + 1], n, 0), matrices) - mean[row]
        np.testing.assert_allclose(noise, np.einsum("f,nfd->nd", features[row], std * matrices), atol=1e-5)
        ratios = np.sum(np.square(noise), 0) / (features[row] ** 2 @ std**2)
        low, high = stats.chi2.ppf([5e-7, 1 - 5e-7], n)
        assert np.all((low < ratios) & (ratios < high))
    zeros = np.zeros((2, FEATURES, AXES), np.float32)
    np.testing.assert_array_equal(distribution.sample(parameters, zeros), mean)


VALUES = np.array([0.3, -1.0, 2.5, 2.5], np.float32)  # the first of the two largest is the greedy action


def epsilon_greedy(epsilon: float, rows: int = 1) -> tuple[Any, np.ndarray, np.ndarray]:
    """The distribution, its parameters, and the probabilities by definition."""
    expected = np.full(4, epsilon / 4)
    expected[2] += 1.0 - epsilon
    parameters = np.repeat(np.append(VALUES, np.float32(epsilon))[None], rows, 0)
    return WithArrays(EpsilonGreedy(4)), parameters, expected


@pytest.mark.parametrize("epsilon", [0.0, 0.05, 0.6, 1.0])
def test_epsilon_greedy_has_the_probabilities_of_its_definition(epsilon: float) -> None:
    distribution, parameters, expected = epsilon_greedy(epsilon, 4)
    np.testing.assert_allclose(distribution.probabilities(parameters), [expected] * 4, rtol=1e-6)
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(distribution.log_prob(parameters, np.arange(4)), np.log(expected), rtol=1e-5)
    surprise = -sum(p * math.log(p) for p in expected if p > 0.0)
    np.testing.assert_allclose(distribution.entropy(parameters), [surprise] * 4, rtol=1e-5, atol=1e-7)
    logits = np.asarray(distribution.logits(parameters))
    assert np.isfinite(logits).all()
    assert (logits.argmax(-1) == 2).all(), "even if all actions are as likely"
    softmax = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(softmax, [expected] * 4, rtol=1e-4, atol=1e-9)  # epsilon counts as 1 - 1e-5 there


@pytest.mark.parametrize("epsilon", [0.0, 0.2, 1.0])
def test_epsilon_greedy_samples_follow_the_probabilities(epsilon: float) -> None:
    """Chi-squared over 40,000 samples: fails though nothing is wrong in 1e-6 of the cases; the control always fails."""
    n = 40_000
    distribution, parameters, expected = epsilon_greedy(epsilon, n)
    noise = NoiseSpec("uniform", (5,)).draw(np.random.default_rng(2), (n,))
    assert noise.dtype == np.float32
    assert noise.min() >= 0.0
    assert noise.max() < 1.0
    counts = np.bincount(np.asarray(distribution.sample(parameters, noise)), minlength=4)
    possible = expected > 0.0
    assert counts[~possible].sum() == 0

    def p_value(shares: np.ndarray) -> float:
        return float(stats.chisquare(counts[possible], n * shares[possible]).pvalue)

    if possible.sum() > 1:
        assert p_value(expected) > 1e-6
        control = 0.9 * expected + 0.1 * np.array([0.5, 0.5, 0.0, 0.0])
        assert p_value(control) < 1e-6


@pytest.mark.parametrize("epsilon", [-0.5, 0.0, 0.7, 1.0, 1.5])
def test_no_noise_gives_the_greedy_action_for_any_epsilon(epsilon: float) -> None:
    distribution, parameters, _ = epsilon_greedy(epsilon)
    noise = NoiseSpec("uniform", (5,)).zeros((1,))
    np.testing.assert_array_equal(distribution.sample(parameters, noise), [2])
    clipped = epsilon_greedy(float(np.clip(epsilon, 0.0, 1.0)))[1]
    np.testing.assert_array_equal(distribution.probabilities(parameters), distribution.probabilities(clipped))
