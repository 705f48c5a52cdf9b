"""Squashed Gaussians against SciPy and numerical integration: densities, samples, entropies, and the float32 limits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from arrays import WithArrays
from scipy import integrate, stats

from keras_optix.ops.distributions import DiagonalGaussian
from keras_optix.ops.mixtures import AveragedGaussian, GaussianMixture
from keras_optix.ops.squashed import SquashedGaussian, SquashedMixture, SquashedStateDependentGaussian

CASES = [(0.0, 0.0), (0.7, -1.0), (-1.5, 0.5), (2.0, -2.5), (0.0, 0.9)]  # mean, log standard deviation


def parameters(*moments: tuple[float, float]) -> np.ndarray:
    means, log_stds = zip(*moments, strict=True)
    return np.array([[*means, *log_stds]], np.float32)


def log_slope(u: Any) -> Any:
    """``log(1 - tanh(u) ** 2)`` in float64, from its definition by exponentials."""
    u = np.asarray(u, np.float64)
    return np.log(4.0) - 2.0 * np.logaddexp(u, -u)


@pytest.mark.parametrize(("mean", "log_std"), CASES)
def test_the_density_integrates_to_one(mean: float, log_std: float) -> None:
    """A Gaussian without the slope of the hyperbolic tangent is the control, which must fail."""
    ends = np.tanh(np.linspace(-8.0, 8.0, 4001))
    squashed = WithArrays(SquashedGaussian(1))
    repeated = np.repeat(parameters((mean, log_std)), len(ends), 0)
    values = np.exp(squashed.log_prob(repeated, ends[:, None].astype(np.float32)))
    assert integrate.trapezoid(values, ends) == pytest.approx(1.0, abs=2e-3)
    gaussian = np.exp(WithArrays(DiagonalGaussian(1)).log_prob(repeated, ends[:, None].astype(np.float32)))
    assert abs(integrate.trapezoid(gaussian, ends) - 1.0) > 0.01


def test_the_log_density_is_that_of_a_change_of_variables() -> None:
    rng = np.random.default_rng(0)
    mean, log_std = rng.normal(size=(50, 3)), rng.uniform(-2.0, 1.0, (50, 3))
    u = rng.uniform(-4.0, 4.0, (50, 3))
    given = np.concatenate([mean, log_std], -1).astype(np.float32)
    found = WithArrays(SquashedGaussian(3)).log_prob(given, np.tanh(u).astype(np.float32))
    wanted = (stats.norm(mean, np.exp(log_std)).logpdf(u) - log_slope(u)).sum(-1)
    np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=2e-3)


def test_a_sample_has_its_log_density_also_where_the_action_rounds_to_its_bound() -> None:
    rng = np.random.default_rng(0)
    mean, log_std = rng.uniform(-20.0, 20.0, (200, 2)), rng.uniform(-5.0, 2.0, (200, 2))
    noise = rng.normal(size=(200, 2)).astype(np.float32)
    given = np.concatenate([mean, log_std], -1).astype(np.float32)
    choices, found = WithArrays(SquashedGaussian(2)).sample_with_log_prob(given, noise)
    u = given[:, :2].astype(np.float64) + np.exp(given[:, 2:].astype(np.float64)) * noise
    wanted = (stats.norm.logpdf(noise) - given[:, 2:] - log_slope(u)).sum(-1)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(choices, np.tanh(u), atol=1e-6)
    assert np.any(np.abs(choices) == 1.0), "some must be at the bound"


def test_a_stored_action_at_its_bound_has_a_finite_log_density() -> None:
    found = WithArrays(SquashedGaussian(2)).log_prob(parameters((0.0, 0.0), (3.0, -1.0)), np.array([[1.0, -1.0]], "f4"))
    assert np.isfinite(found).all()
    largest = np.arctanh(1.0 - 2.0**-24)
    wanted = stats.norm([0.0, 3.0], np.exp([0.0, -1.0])).logpdf([largest, -largest]) - log_slope(largest)
    np.testing.assert_allclose(found, [wanted.sum()], rtol=1e-3)


@pytest.mark.parametrize("u", [0.1, 1.0, 2.0, 4.0, 6.0])
def test_the_documented_error_of_what_is_computed_from_a_stored_action(u: float) -> None:
    """About 3e-8 / (1 - a ** 2) for the number before the hyperbolic tangent; checked with a factor of 4 to spare."""
    a = np.tanh(np.linspace(u - 0.01, u, 200)).astype(np.float32)
    true = np.linspace(u - 0.01, u, 200)
    mean, log_std = 0.0, np.log(0.5)
    repeated = np.repeat(parameters((mean, log_std)), 200, 0)
    found = WithArrays(SquashedGaussian(1)).log_prob(repeated, a[:, None])
    wanted = stats.norm(mean, 0.5).logpdf(true) - log_slope(true)
    error = 4.0 * 3e-8 / (1.0 - np.tanh(u) ** 2)
    slope = np.abs(true / 0.25) + 2.0
    assert np.all(np.abs(found - wanted) <= error * slope + 1e-5 + 2e-6 * np.abs(wanted))


@pytest.mark.parametrize(("mean", "log_std"), CASES)
def test_the_entropy_is_the_mean_surprise(mean: float, log_std: float) -> None:
    std = np.exp(log_std)

    def surprise(z: float) -> float:
        u = mean + std * z
        return float(stats.norm.pdf(z) * (log_slope(u) + log_std - stats.norm.logpdf(z)))

    wanted = integrate.quad(surprise, -12.0, 12.0, limit=500)[0]
    found = WithArrays(SquashedGaussian(1)).entropy(parameters((mean, log_std)))
    np.testing.assert_allclose(found, [wanted], atol=0.02 if std > 2.0 else 3e-4)


def test_axes_are_independent() -> None:
    both = WithArrays(SquashedGaussian(2))
    one = WithArrays(SquashedGaussian(1))
    a, b = (0.3, -0.5), (-1.0, 0.2)
    choices = np.array([[0.4, -0.9]], np.float32)
    for method, given in (("log_prob", True), ("entropy", False)):
        parts = [
            getattr(one, method)(parameters(part), *([choices[:, k : k + 1]] if given else []))
            for k, part in enumerate((a, b))
        ]
        whole = getattr(both, method)(parameters(a, b), *([choices] if given else []))
        np.testing.assert_allclose(whole, parts[0] + parts[1], rtol=1e-5)


def test_no_noise_gives_the_tangent_of_the_mean_and_deviations_are_clipped() -> None:
    distribution = WithArrays(SquashedGaussian(2))
    given = parameters((0.5, 9.0), (-2.0, -90.0))
    np.testing.assert_allclose(distribution.sample(given, np.zeros((1, 2), "f4")), np.tanh([[0.5, -2.0]]), rtol=1e-6)
    clipped = parameters((0.5, 2.0), (-2.0, -20.0))
    noise = np.ones((1, 2), np.float32)
    np.testing.assert_array_equal(distribution.sample(given, noise), distribution.sample(clipped, noise))
    np.testing.assert_array_equal(distribution.entropy(given), distribution.entropy(clipped))


@pytest.mark.parametrize("kind", ["average", "mixture"])
def test_a_mixture_is_squashed_as_a_whole(kind: str) -> None:
    """Two members; the density of their mixture is the sum of their own, and a sample is the tangent of one before."""
    plain: Any = AveragedGaussian(2) if kind == "average" else GaussianMixture(2, 2)
    squashed = WithArrays(SquashedMixture(plain, 2))
    members = np.stack([parameters((0.5, -1.0), (-1.0, 0.2)), parameters((-0.3, 9.0), (1.5, -0.5))])
    clipped = np.minimum(members, 2.0)
    weights = np.array([[0.3], [0.7]], np.float32)
    noise = np.random.default_rng(0).normal(size=(1, 2 if kind == "average" else 6)).astype(np.float32)
    u = WithArrays(plain).sample(clipped, weights, noise)
    choices = squashed.sample(members, weights, noise)
    np.testing.assert_allclose(choices, np.tanh(u), rtol=1e-6)
    found = squashed.log_prob(members, weights, np.array([[0.3, -0.8]], np.float32))
    if kind == "mixture":
        each = [WithArrays(SquashedGaussian(2)).log_prob(one, np.array([[0.3, -0.8]], np.float32)) for one in members]
        wanted = np.log(0.3 * np.exp(each[0]) + 0.7 * np.exp(each[1]))
    else:
        v = np.arctanh([0.3, -0.8])
        mean, std = 0.3 * members[0, 0, :2] + 0.7 * members[1, 0, :2], 0.3 * np.exp(members[0, 0, 2:])
        std = std + 0.7 * np.exp(clipped[1, 0, 2:])
        wanted = [(stats.norm(mean, std).logpdf(v) - log_slope(v)).sum()]
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


FEATURES, AXES = 5, 2


def state_dependent(rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random parameters, and the means and standard deviations of the Gaussian over all matrices."""
    rng = np.random.default_rng(3)
    mean = rng.normal(0.0, 2.0, (rows, AXES)).astype(np.float32)
    features = rng.uniform(-1.0, 1.0, (rows, FEATURES)).astype(np.float32)
    log_std = rng.normal(-1.0, 0.5, (FEATURES, AXES)).astype(np.float32)
    given = np.concatenate([mean, features, np.repeat(log_std.reshape(1, -1), rows, 0)], -1)
    std = np.sqrt(features**2 @ np.exp(2.0 * log_std) + 1e-6)
    return given, np.clip(mean, -2.0, 2.0), std


def test_state_dependent_noise_has_the_density_over_all_matrices() -> None:
    distribution = WithArrays(SquashedStateDependentGaussian(AXES, FEATURES, True))
    given, mean, std = state_dependent(20)
    assert np.any(np.abs(given[:, :AXES]) > 2.0), "some means must be clipped"
    noise = np.random.default_rng(0).normal(size=(20, AXES)).astype(np.float32)
    choices, found = distribution.sample_with_log_prob(given, noise)
    u = mean + std * noise
    wanted = (stats.norm(mean, std).logpdf(u) - log_slope(u)).sum(-1)
    np.testing.assert_allclose(choices, np.tanh(u), atol=1e-5)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(distribution.log_prob(given, choices), wanted, rtol=1e-3, atol=1e-2)


def test_state_dependent_samples_follow_the_matrix() -> None:
    distribution = WithArrays(SquashedStateDependentGaussian(AXES, FEATURES, True))
    given, mean, _ = state_dependent(4)
    matrices = np.random.default_rng(1).normal(size=(4, FEATURES, AXES)).astype(np.float32)
    std = np.exp(given[:, AXES + FEATURES :]).reshape(4, FEATURES, AXES)
    u = mean + np.einsum("bf,bfd->bd", given[:, AXES : AXES + FEATURES], std * matrices)
    np.testing.assert_allclose(distribution.sample(given, matrices), np.tanh(u), atol=1e-5)
    np.testing.assert_allclose(distribution.sample(given, np.zeros_like(matrices)), np.tanh(mean), atol=1e-6)
