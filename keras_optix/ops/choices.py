"""Choices as integers: the index of the largest value, which is computed in another way while a policy is lowered.

`keras.ops.argmax` tells -0.0 from 0.0 on TensorFlow, by operations that LiteRT has no kernels for. Which form converts
is known to whoever lowers a policy (`keras_optix.experience.lowering`), who says it here for as long as tracing takes.
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
    """Values as integers: int64 on TensorFlow, int32 on other backends, where Keras has no wider ones."""
    return ops.cast(values, result_type("int64"))


def _argmax(values: Tensor) -> Tensor:
    return as_choices(ops.argmax(values, axis=-1))


# Of a thread: a policy may be lowered in one while a step is traced in another.
_FORM: ContextVar[Callable[[Tensor], Tensor]] = ContextVar("argmax", default=_argmax)


def argmax(values: Tensor) -> Tensor:
    """The index of the largest along the last axis, the first of several.

    Args:
        values: ``[..., n]``.

    Returns:
        ``[...]``, integers as of `as_choices`.
    """
    return _FORM.get()(values)


@contextlib.contextmanager
def argmax_as(form: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Has `argmax` computed by another function, inside of it and in this thread.

    Args:
        form: ``[..., n]`` to ``[...]``: the same index as `argmax`.
    """
    token = _FORM.set(form)
    try:
        yield
    finally:
        _FORM.reset(token)
