"""The shape of a window of tensors, and its rows."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from keras_optix.errors import ConfigurationError, describe
from keras_optix.experience.window import Window


def size_of(window: Window) -> tuple[int, int]:
    """Returns ``(T, N)`` of a window of tensors.

    Raises:
        ConfigurationError: The dataset does not say how large its windows are.
    """
    steps, n = window.rewards.shape
    if steps is None or n is None:
        raise ConfigurationError(
            describe(
                "All windows of a dataset must have one size, known beforehand, because the train step is compiled for "
                "this size.",
                fix="Do not batch, unbatch or filter the rows of the dataset; transform whole windows with `.map`.",
                shape=tuple(window.rewards.shape),
            )
        )
    return int(steps), int(n)


def flatten(values: Any) -> Any:
    """Flattens ``[T, N, ...]`` to ``[T * N, ...]``."""
    steps, n = (int(k) for k in values.shape[:2])
    return tf.reshape(values, (steps * n, *values.shape[2:]))
