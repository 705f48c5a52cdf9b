"""The computation of gradients, which is the only part of the algorithms that depends on the backend.

An algorithm consists of losses, written in `keras.ops`, and a schedule of gradient steps. Only this module computes
gradients, for TensorFlow. JAX differentiates functions of arrays instead of recording a tape; for it, this would be
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
    """Computes the value of a loss and its gradients.

    Args:
        loss: Called once, without arguments. It is a pure function of the values of the variables, and of tensors that
            do not depend on them. It returns ``(value, aux)``: a scalar, and tensors that are not differentiated.
        variables: The `keras.Variable`s.

    Returns:
        ``((value, aux), gradients)``, a gradient for each variable, None for one that the loss does not depend on.
    """
    with tf.GradientTape() as tape:
        value, aux = loss()
    gradients: Sequence[Any] = tape.gradient(value, variables)
    return (value, aux), gradients
