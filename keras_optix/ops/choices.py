"""Choices as integers: the index of the largest value, which is computed in another way while a policy is lowered.

On TensorFlow, `keras.ops.argmax` distinguishes -0.0 from 0.0, with operations that LiteRT has no kernels for. The code
that lowers a policy (`keras_optix.experience.lowering`) sets a form that converts here, while it traces the policy.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

from keras import ops
from keras.backend import result_type

Tensor = Any


def as_choices(values: Tensor) -> Tensor:
    """Casts values to integers: int64 on TensorFlow, int32 on other backends, where Keras has no wider integers."""
    return ops.cast(values, result_type("int64"))


def _argmax(values: Tensor) -> Tensor:
    return as_choices(ops.argmax(values, axis=-1))


# Each thread has its own value, because one thread may lower a policy while another traces a step.
_FORM: ContextVar[Callable[[Tensor], Tensor]] = ContextVar("argmax", default=_argmax)


def argmax(values: Tensor) -> Tensor:
    """Returns the index of the largest value along the last axis. Of several equal values, it is the first.

    Args:
        values: ``[..., n]``.

    Returns:
        ``[...]``, integers of the dtype of `as_choices`.
    """
    return _FORM.get()(values)


@contextlib.contextmanager
def argmax_as(form: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Replaces the function that computes `argmax`, inside the context and only in this thread.

    Args:
        form: ``[..., n]`` to ``[...]``: the same index as `argmax`.
    """
    token = _FORM.set(form)
    try:
        yield
    finally:
        _FORM.reset(token)
