"""Where a compiled step leaves the errors of the transitions that it learned from."""

from __future__ import annotations

import numpy as np
import tensorflow as tf


class ReplayErrors:
    """Variables ``[G, B]``, one for each size of batches. It is a plain object, so that they are not weights."""

    def __init__(self) -> None:
        self._variables: dict[tuple[int, ...], tf.Variable] = {}

    def prepare(self, shape: tuple[int, ...]) -> None:
        """Makes the variable of a size, unless there is one. A compiled step that made it would be traced twice."""
        if shape not in self._variables:
            with tf.init_scope():
                nothing = tf.fill(shape, np.float32(np.nan))
                self._variables[shape] = tf.Variable(nothing, trainable=False, name="replay_errors")

    def write(self, errors: tf.Tensor) -> None:
        """Writes errors, in a compiled step."""
        shape = tuple(int(size) for size in errors.shape)
        self.prepare(shape)
        self._variables[shape].assign(errors)

    def read(self, shape: tuple[int, ...]) -> np.ndarray:
        """Returns the errors that a step with batches of this size wrote since the last call; NaN where none did.

        A window that is not learned from, such as that of a paused agent, so leaves no errors of other transitions.
        """
        variable = self._variables[shape]
        errors: np.ndarray = variable.numpy()
        variable.assign(tf.fill(shape, np.float32(np.nan)))
        return errors
