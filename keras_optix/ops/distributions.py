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
