"""What algorithms that learn the value of actions compute. Shapes are ``[B]``, a batch of transitions."""

from __future__ import annotations

from typing import Any

from keras import ops

Tensor = Any


def value_of_choice(values: Tensor, choices: Tensor) -> Tensor:
    """Returns the values ``[B]`` of choices ``[B]``, given the values of all actions ``[B, n]``."""
    # A product with a one-hot matrix and not a gather, whose gradient would be a scatter.
    return ops.sum(values * ops.one_hot(choices, values.shape[-1], dtype=values.dtype), axis=-1)


def huber(errors: Tensor) -> Tensor:
    """Computes the Huber loss of errors, elementwise: ``e^2 / 2`` up to 1, ``|e| - 1/2`` beyond.

    Its gradient is the error clipped to -1 .. 1, as in Mnih et al. 2015 ("Human-level control through deep
    reinforcement learning", methods).
    """
    size = ops.abs(errors)
    return ops.where(size <= 1.0, 0.5 * ops.square(errors), size - 0.5)
