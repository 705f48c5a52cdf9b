"""Mixtures of the distributions of several policies: pure functions of the outputs of their networks.

A mixture takes the parameters of its M members, ``[M, B, P]``, and their weights, ``[M, B]``, or ``[M, 1]`` if all rows
have the same. The weights of a row sum to 1, and a weight of 0 leaves a member out. As in `distributions`, `sample`
gets its randomness as an argument, and zeros give a greedy choice.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, Protocol

from keras import ops

from keras_optix.ops.choices import argmax, as_choices

Tensor = Any

_NEVER = -1e30  # log-weight of a member that is left out; minus infinity would give NaN in a difference
_TINY = 1e-30
_SMALLEST = 1e-12  # least exponential variable: with zero noise, a smaller one would round the log-weights away


class Mixture(Protocol):
    """A mixture of M members' distributions over choices."""

    def sample(self, parameters: Tensor, weights: Tensor, noise: Tensor) -> Tensor:
        """Samples choices ``[B, ...]`` from parameters ``[M, B, P]``, weights ``[M, B]`` and noise ``[B, ...]``."""
        ...

    def log_prob(self, parameters: Tensor, weights: Tensor, choices: Tensor) -> Tensor:
        """Computes the log-probability (log-density if continuous) of choices ``[B, ...]``: ``[B]``."""
        ...


class CategoricalMixture:
    """A mixture of `Categorical`s: the members' parameters are logits ``[M, B, n]``.

    Args:
        n: Number of categories.
    """

    def __init__(self, n: int) -> None:
        self._n = n

    def sample(self, parameters: Tensor, weights: Tensor, noise: Tensor) -> Tensor:
        """See `Mixture.sample`; noise ``[B, n]`` is Gumbel; choices are ``[B]`` integers."""
        return argmax(self._log_probs(parameters, weights) + noise)

    def log_prob(self, parameters: Tensor, weights: Tensor, choices: Tensor) -> Tensor:
        """See `Mixture.log_prob`."""
        log_probs = self._log_probs(parameters, weights)
        return ops.sum(ops.one_hot(choices, self._n, dtype=log_probs.dtype) * log_probs, axis=-1)

    def _log_probs(self, parameters: Tensor, weights: Tensor) -> Tensor:
        """Computes the log-probabilities ``[B, n]``: ``log sum_i w_i p_i``."""
        return _log_sum_exp(_log_weights(weights)[:, :, None] + ops.log_softmax(parameters, axis=-1))


class MultiCategoricalMixture:
    """A mixture of `MultiCategorical`s: the members' parameters are the logits of each choice, one after the other.

    Under the mixture the choices are not independent, because the first ones show which member is likely acting. They
    are drawn from the joint mixture one after the other. Each is drawn from the mixture of the members' probabilities,
    with the members' posterior given the choices before it as weights, ``w_i p_i(a_1) .. p_i(a_j-1)`` (ancestral
    sampling; Bishop 2006, "Pattern recognition and machine learning", section 8.1.2).

    Args:
        sizes: Number of categories of each choice.
    """

    def __init__(self, sizes: tuple[int, ...]) -> None:
        ends = list(itertools.accumulate(sizes))
        self._parts = [(end - n, end) for end, n in zip(ends, sizes, strict=True)]

    def sample(self, parameters: Tensor, weights: Tensor, noise: Tensor) -> Tensor:
        """See `Mixture.sample`; noise ``[B, P]`` is Gumbel; choices are ``[B, k]`` integers."""
        posterior = _log_weights(weights)
        chosen = []
        for a, b in self._parts:
            log_probs = ops.log_softmax(parameters[:, :, a:b], axis=-1)
            mixed = _log_sum_exp(posterior[:, :, None] + log_probs)
            chosen.append(argmax(mixed + noise[:, a:b]))
            posterior = posterior + _picked(log_probs, chosen[-1])
        return ops.stack(chosen, axis=-1)

    def log_prob(self, parameters: Tensor, weights: Tensor, choices: Tensor) -> Tensor:
        """See `Mixture.log_prob`."""
        joint = _log_weights(weights)
        for k, (a, b) in enumerate(self._parts):
            joint = joint + _picked(ops.log_softmax(parameters[:, :, a:b], axis=-1), choices[:, k])
        return _log_sum_exp(joint)


class BernoulliMixture:
    """A mixture of `Bernoulli`s: the members' parameters are logits of yes, ``[M, B, n]``.

    It is sampled as in `MultiCategoricalMixture`.

    Args:
        n: Number of choices.
    """

    def __init__(self, n: int) -> None:
        self._n = n

    def sample(self, parameters: Tensor, weights: Tensor, noise: Tensor) -> Tensor:
        """See `Mixture.sample`; noise ``[B, n]`` is logistic; choices are ``[B, n]`` integers."""
        # log sigmoid(x) = -softplus(-x)
        log_yes, log_no = -ops.softplus(-parameters), -ops.softplus(parameters)
        posterior = _log_weights(weights)
        chosen = []
        for k in range(self._n):
            yes, no = log_yes[:, :, k], log_no[:, :, k]
            logit = _log_sum_exp(posterior + yes) - _log_sum_exp(posterior + no)
            chosen.append(ops.cast(logit + noise[:, k] > 0.0, "float32"))
            posterior = posterior + chosen[-1] * yes + (1.0 - chosen[-1]) * no
        return as_choices(ops.stack(chosen, axis=-1))

    def log_prob(self, parameters: Tensor, weights: Tensor, choices: Tensor) -> Tensor:
        """See `Mixture.log_prob`."""
        chosen = ops.cast(choices, parameters.dtype)
        each = chosen * parameters - ops.softplus(parameters)
        return _log_sum_exp(_log_weights(weights) + ops.sum(each, axis=-1))


class AveragedGaussian:
    """The weighted average of the choices of `DiagonalGaussian` members; their parameters are ``[M, B, 2 d]``.

    With the same noise e for all, ``sum w_i (mu_i + sigma_i e) / sum w_i`` is again a Gaussian, with mean
    ``sum w_i mu_i`` and standard deviation ``sum w_i sigma_i``, because the weights sum to 1. It is not a mixture: if
    one member passes an obstacle on the left and another on the right, the average runs into it.

    Args:
        d: Number of axes.
    """

    def __init__(self, d: int) -> None:
        self._d = d

    def sample(self, parameters: Tensor, weights: Tensor, noise: Tensor) -> Tensor:
        """See `Mixture.sample`; noise ``[B, d]`` is standard normal; choices are ``[B, d]`` float32."""
        mean, std = self._moments(parameters, weights)
        return mean + std * noise

    def log_prob(self, parameters: Tensor, weights: Tensor, choices: Tensor) -> Tensor:
        """See `Mixture.log_prob`: the density of the averaged choice."""
        mean, std = self._moments(parameters, weights)
        each = -0.5 * ops.square((choices - mean) / std) - ops.log(std)
        return ops.sum(each, axis=-1) - 0.5 * self._d * math.log(2.0 * math.pi)

    def _moments(self, parameters: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Computes mean and standard deviation, ``[B, d]`` each."""
        share = weights[:, :, None]
        means, stds = parameters[:, :, : self._d], ops.exp(parameters[:, :, self._d :])
        return ops.sum(share * means, axis=0), ops.sum(share * stds, axis=0)


class GaussianMixture:
    """A mixture of `DiagonalGaussian`s: the members' parameters are ``[M, B, 2 d]``.

    A member is drawn with the Gumbel-max trick, then a choice from its Gaussian. All noise is normal, so that one kind
    of noise is enough: half the sum of two squared standard normals is an exponential variable, whose negative
    logarithm is Gumbel.

    Args:
        d: Number of axes.
        members: M, the number of members.
    """

    def __init__(self, d: int, members: int) -> None:
        self._d = d
        self._members = members

    def sample(self, parameters: Tensor, weights: Tensor, noise: Tensor) -> Tensor:
        """See `Mixture.sample`; noise ``[B, d + 2 M]`` is standard normal; choices are ``[B, d]`` float32.

        Zero noise gives the mean of the member with the largest weight.
        """
        d, middle = self._d, self._d + self._members
        squares = ops.square(noise[:, d:middle]) + ops.square(noise[:, middle:])
        gumbel = -ops.log(ops.maximum(0.5 * squares, _SMALLEST))
        member = argmax(ops.transpose(_log_weights(weights)) + gumbel)
        mine = ops.transpose(ops.one_hot(member, self._members, dtype=parameters.dtype))
        chosen = ops.sum(mine[:, :, None] * parameters, axis=0)
        return chosen[:, :d] + ops.exp(chosen[:, d:]) * noise[:, :d]

    def log_prob(self, parameters: Tensor, weights: Tensor, choices: Tensor) -> Tensor:
        """See `Mixture.log_prob`."""
        means, log_stds = parameters[:, :, : self._d], parameters[:, :, self._d :]
        each = -0.5 * ops.square((choices - means) * ops.exp(-log_stds)) - log_stds
        members = ops.sum(each, axis=-1) - 0.5 * self._d * math.log(2.0 * math.pi)
        return _log_sum_exp(_log_weights(weights) + members)


def _log_weights(weights: Tensor) -> Tensor:
    """Computes the logarithms of weights, which are finite even if a weight is 0."""
    return ops.where(weights > 0.0, ops.log(ops.maximum(weights, _TINY)), _NEVER)


def _log_sum_exp(values: Tensor) -> Tensor:
    """Computes log-sum-exp over the first axis, the members. `keras.ops.logsumexp` does not convert to LiteRT."""
    largest = ops.max(values, axis=0)
    return largest + ops.log(ops.sum(ops.exp(values - largest), axis=0))


def _picked(log_probs: Tensor, choices: Tensor) -> Tensor:
    """Picks the members' log-probabilities ``[M, B]`` of choices ``[B]`` from those of all n, ``[M, B, n]``."""
    return ops.sum(ops.one_hot(choices, log_probs.shape[-1], dtype=log_probs.dtype) * log_probs, axis=-1)
