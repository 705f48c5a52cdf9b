"""The seam between the algorithms and how a backend differentiates.

An algorithm is losses, written in `keras.ops`, and a schedule of steps with them; how a gradient is taken is said here
alone, for TensorFlow. On JAX, which differentiates functions of arrays and not what a tape has seen, it would be
``jax.value_and_grad(..., has_aux=True)`` of a function of the variables' values that calls the loss in a
`keras.StatelessScope`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import tensorflow as tf

Aux = TypeVar("Aux")


def value_and_grad(
    loss: Callable[[], tuple[Any, Aux]], variables: Sequence[Any]
) -> tuple[tuple[Any, Aux], Sequence[Any]]:
    """The value of a loss and its gradient.

    Args:
        loss: Called once, without arguments: a pure function of the values of the variables, and of tensors that do not
            depend on them. Returns ``(value, aux)``: a scalar, and tensors that are not differentiated.
        variables: The `keras.Variable`s.

    Returns:
        ``((value, aux), gradients)``, a gradient for each variable, None for one that the loss does not depend on.
    """
    with tf.GradientTape() as tape:
        value, aux = loss()
    gradients: Sequence[Any] = tape.gradient(value, variables)
    return (value, aux), gradients
