"""Action distributions: pure functions of the outputs of a policy network.

`sample` takes its randomness as an argument, so that it is the same function in the learner, in a test and in an actor
that runs without TensorFlow. Zeros give the most likely choice.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, Protocol

from keras import ops

from keras_optix.ops.choices import argmax, as_choices

Tensor = Any

_LEAST_VARIANCE = 1e-6  # of `StateDependentGaussian`


class Distribution(Protocol):
    """A distribution over choices.

    Attributes:
        parameters: The number of parameters per observation: `P`.
    """

    parameters: int

    def sample(self, parameters: Tensor, noise: Tensor) -> Tensor:
        """Samples choices ``[B, ...]`` from parameters ``[B, P]`` and noise ``[B, ...]``."""
        ...

    def log_prob(self, parameters: Tensor, choices: Tensor) -> Tensor:
        """Computes the log-probability (log-density if continuous) of choices: ``[B]``."""
        ...

    def entropy(self, parameters: Tensor) -> Tensor:
        """Computes the entropy in nats: ``[B]``."""
        ...


class Categorical:
    """A choice of one of n categories; the parameters are logits ``[B, n]``.

    It is sampled with the Gumbel-max trick (Maddison et al. 2014, arXiv 1411.0030): ``argmax(logits + gumbel noise)``.

    Args:
        n: Number of categories.
    """

    def __init__(self, n: int) -> None:
        self.parameters = n

    def sample(self, parameters: Tensor, noise: Tensor) -> Tensor:
        """See `Distribution.sample`; noise ``[B, n]`` is Gumbel; choices are ``[B]`` integers."""
        return argmax(parameters + noise)

    def log_prob(self, parameters: Tensor, choices: Tensor) -> Tensor:
        """See `Distribution.log_prob`.

        Uses a one-hot product instead of a gather: the gradient of a product is a product, that of a gather a scatter.
        """
        log_probs = ops.log_softmax(parameters, axis=-1)
        return ops.sum(ops.one_hot(choices, self.parameters, dtype=log_probs.dtype) * log_probs, axis=-1)

    def entropy(self, parameters: Tensor) -> Tensor:
        """See `Distribution.entropy`."""
        log_probs = ops.log_softmax(parameters, axis=-1)
        return -ops.sum(ops.exp(log_probs) * log_probs, axis=-1)


class MultiCategorical:
    """Several independent categorical choices; the parameters are their logits one after the other.

    Args:
        sizes: Number of categories of each choice.
    """

    def __init__(self, sizes: tuple[int, ...]) -> None:
        self.parameters = sum(sizes)
        ends = list(itertools.accumulate(sizes))
        self._parts = [(end - n, end, Categorical(n)) for end, n in zip(ends, sizes, strict=True)]

    def sample(self, parameters: Tensor, noise: Tensor) -> Tensor:
        """See `Distribution.sample`; noise ``[B, P]`` is Gumbel; choices are ``[B, k]`` integers."""
        return ops.stack([part.sample(parameters[:, a:b], noise[:, a:b]) for a, b, part in self._parts], axis=-1)

    def log_prob(self, parameters: Tensor, choices: Tensor) -> Tensor:
        """See `Distribution.log_prob`."""
        parts = enumerate(self._parts)
        return sum(part.log_prob(parameters[:, a:b], choices[:, k]) for k, (a, b, part) in parts)

    def entropy(self, parameters: Tensor) -> Tensor:
        """See `Distribution.entropy`."""
        return sum(part.entropy(parameters[:, a:b]) for a, b, part in self._parts)


class Bernoulli:
    """n independent yes or no choices; the parameters are logits of yes, ``[B, n]``.

    Args:
        n: Number of choices.
    """

    def __init__(self, n: int) -> None:
        self.parameters = n

    def sample(self, parameters: Tensor, noise: Tensor) -> Tensor:
        """See `Distribution.sample`; noise ``[B, n]`` is logistic; choices are ``[B, n]`` integers."""
        return as_choices(parameters + noise > 0.0)

    def log_prob(self, parameters: Tensor, choices: Tensor) -> Tensor:
        """See `Distribution.log_prob`."""
        chosen = ops.cast(choices, parameters.dtype)
        # log sigmoid(x) = -softplus(-x)
        each = chosen * parameters - ops.softplus(parameters)
        return ops.sum(each, axis=-1)

    def entropy(self, parameters: Tensor) -> Tensor:
        """See `Distribution.entropy`."""
        each = ops.softplus(parameters) - parameters * ops.sigmoid(parameters)
        return ops.sum(each, axis=-1)


class DiagonalGaussian:
    """A Gaussian with independent axes; the parameters are means and log standard deviations, ``[B, 2 d]``.

    Args:
        d: Number of axes.
    """

    def __init__(self, d: int) -> None:
        self.parameters = 2 * d
        self._d = d

    def sample(self, parameters: Tensor, noise: Tensor) -> Tensor:
        """See `Distribution.sample`; noise ``[B, d]`` is standard normal; choices are ``[B, d]`` float32."""
        return parameters[:, : self._d] + ops.exp(parameters[:, self._d :]) * noise

    def log_prob(self, parameters: Tensor, choices: Tensor) -> Tensor:
        """See `Distribution.log_prob`."""
        mean, log_std = parameters[:, : self._d], parameters[:, self._d :]
        each = -0.5 * ops.square((choices - mean) * ops.exp(-log_std)) - log_std
        return ops.sum(each, axis=-1) - 0.5 * self._d * math.log(2.0 * math.pi)

    def entropy(self, parameters: Tensor) -> Tensor:
        """See `Distribution.entropy`."""
        return ops.sum(parameters[:, self._d :], axis=-1) + 0.5 * self._d * math.log(2.0 * math.pi * math.e)


class StateDependentGaussian:
    """A Gaussian whose noise is a random linear function of features of the observation.

    Generalised state-dependent exploration (Raffin, Kober and Stulp 2021, "Smooth Exploration for Robotic Reinforcement
    Learning", arXiv 2005.05719): ``choice = mean + features @ matrix``, where each entry of the matrix ``[f, d]`` is
    drawn from ``N(0, std[j, k] ** 2)``. With the same matrix, the noise is a function of the observation. Over all
    matrices, a choice is Gaussian with independent axes, and the variance of axis k is
    ``sum_j features[j] ** 2 * std[j, k] ** 2``, to which 1e-6 is added here, as in Stable-Baselines3, so that features
    of zero do not give a density without bound.

    The parameters ``[B, d + f + f * d]`` are the means, the features, and the log standard deviations of the matrix row
    by row.

    Args:
        d: Number of axes.
        features: f, the number of features.
        learn_features: Whether the log-probability and the entropy have gradients with respect to the features.
    """

    def __init__(self, d: int, features: int, learn_features: bool) -> None:
        self.parameters = d + features + features * d
        self._shape = (features, d)
        self._learn_features = learn_features

    def sample(self, parameters: Tensor, noise: Tensor) -> Tensor:
        """See `Distribution.sample`; noise ``[B, f, d]`` is standard normal; choices are ``[B, d]`` float32."""
        mean, features, log_std = self._parts(parameters)
        return mean + ops.sum(features * ops.exp(log_std) * noise, axis=1)

    def log_prob(self, parameters: Tensor, choices: Tensor) -> Tensor:
        """See `Distribution.log_prob`; the log-density over all matrices."""
        mean, variance = self.moments(parameters)
        each = ops.square(choices - mean) / variance + ops.log(2.0 * math.pi * variance)
        return -0.5 * ops.sum(each, axis=-1)

    def entropy(self, parameters: Tensor) -> Tensor:
        """See `Distribution.entropy`; the entropy over all matrices."""
        _, variance = self.moments(parameters)
        return 0.5 * ops.sum(ops.log(2.0 * math.pi * math.e * variance), axis=-1)

    def moments(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Computes mean and variance of the choices over all matrices, ``[B, d]`` each."""
        mean, features, log_std = self._parts(parameters)
        if not self._learn_features:
            features = ops.stop_gradient(features)
        return mean, ops.sum(ops.square(features) * ops.exp(2.0 * log_std), axis=1) + _LEAST_VARIANCE

    def _parts(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns means ``[B, d]``, features ``[B, f, 1]``, and log standard deviations ``[B, f, d]``."""
        f, d = self._shape
        mean, features, log_std = parameters[:, :d], parameters[:, d : d + f], parameters[:, d + f :]
        return mean, features[:, :, None], ops.reshape(log_std, (-1, f, d))


class EpsilonGreedy:
    """The action with the largest value, or with probability epsilon a uniformly random one.

    The parameters ``[B, n + 1]`` are the value of each action, and epsilon, which is clipped to [0, 1]. Of equal values
    the first is the largest. The log-probability and the entropy have no gradient with respect to the values.

    Args:
        n: Number of actions.
    """

    def __init__(self, n: int) -> None:
        self.parameters = n + 1
        self._n = n

    def sample(self, parameters: Tensor, noise: Tensor) -> Tensor:
        """See `Distribution.sample`; noise ``[B, n + 1]`` is uniform in [0, 1); choices are ``[B]`` integers.

        The last number decides whether the action is random, and the largest of the others which one it then is. It is
        random above ``1 - epsilon``, so that zeros give the greedy action for any epsilon.
        """
        values, epsilon = self._parts(parameters)
        random = noise[:, self._n :] > 1.0 - epsilon
        return argmax(ops.where(random, noise[:, : self._n], values))

    def log_prob(self, parameters: Tensor, choices: Tensor) -> Tensor:
        """See `Distribution.log_prob`; minus infinity for an action that is never chosen (epsilon 0)."""
        chosen = ops.one_hot(choices, self._n, dtype=parameters.dtype)
        return ops.log(ops.sum(chosen * self.probabilities(parameters), axis=-1))

    def entropy(self, parameters: Tensor) -> Tensor:
        """See `Distribution.entropy`."""
        probabilities = self.probabilities(parameters)
        logarithms = ops.log(ops.where(probabilities > 0.0, probabilities, 1.0))
        return -ops.sum(probabilities * logarithms, axis=-1)

    def logits(self, parameters: Tensor) -> Tensor:
        """Computes logits ``[B, n]`` of a `Categorical` with these probabilities.

        They are finite, and the greedy action has the largest of them: epsilon counts as at most ``1 - 1e-5``, and
        probabilities as at least 1e-30.
        """
        values, epsilon = self._parts(parameters)
        capped = ops.concatenate([values, ops.minimum(epsilon, 1.0 - 1e-5)], axis=-1)
        return ops.log(ops.maximum(self.probabilities(capped), 1e-30))

    def probabilities(self, parameters: Tensor) -> Tensor:
        """Computes the probability of each action, ``[B, n]``."""
        values, epsilon = self._parts(parameters)
        greedy = ops.one_hot(argmax(values), self._n, dtype=parameters.dtype)
        return epsilon / self._n + (1.0 - epsilon) * greedy

    def _parts(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the values ``[B, n]``, and epsilon ``[B, 1]``."""
        return parameters[:, : self._n], ops.clip(parameters[:, self._n :], 0.0, 1.0)
