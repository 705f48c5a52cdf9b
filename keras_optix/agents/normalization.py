"""Running statistics of observations and returns. They are part of the model: saved, restored and lowered with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_optix.ops.returns import linear_recurrence

_CLIP = 10.0
_EPSILON = 1e-8


@keras.saving.register_keras_serializable("keras_optix")
class RunningMoments(keras.layers.Layer):  # type: ignore[misc]
    """The running mean and variance, for each axis, of all rows so far.

    Batches are merged exactly (Chan et al. 1979, "Updating formulae and a pairwise algorithm for computing sample
    variances"). Before the first update the mean is 0 and the variance 1.

    Args:
        shape: Shape of one row.
        name: Name of the layer.
    """

    def __init__(self, shape: tuple[int, ...], name: str | None = None) -> None:
        super().__init__(name=name, trainable=False, dtype="float32")
        self._shape = tuple(shape)
        self.mean = self.add_weight(shape=self._shape, initializer="zeros", trainable=False, name="mean")
        self.variance = self.add_weight(shape=self._shape, initializer="ones", trainable=False, name="variance")
        self.count = self.add_weight(shape=(), initializer="zeros", trainable=False, name="count")
        self.built = True

    def call(self, values: Any) -> Any:
        """Centres values ``[B, ...]``, scales them to unit variance and clips them to -10 .. 10."""
        scaled = (ops.cast(values, "float32") - self.mean) * ops.rsqrt(self.variance + _EPSILON)
        return ops.clip(scaled, -_CLIP, _CLIP)

    def update(self, values: Any, weights: Any) -> None:
        """Updates the statistics with new rows.

        Args:
            values: ``[B, ...]``.
            weights: ``[B]``, 0 for rows that do not count, otherwise 1.
        """
        values = ops.cast(values, "float32")
        weights = ops.reshape(weights, (-1,) + (1,) * len(self._shape))
        added = ops.sum(weights)
        mean = ops.sum(values * weights, axis=0) / ops.maximum(added, 1.0)
        variance = ops.sum(ops.square(values - mean) * weights, axis=0) / ops.maximum(added, 1.0)
        total = ops.maximum(self.count + added, 1.0)
        share = added / total
        difference = mean - self.mean
        # Before the first row the count is 0, so that the placeholder variance of 1 gets no weight here.
        merged = (1.0 - share) * self.variance + share * variance + share * (1.0 - share) * ops.square(difference)
        self.variance.assign(ops.where(added > 0.0, merged, self.variance))
        self.mean.assign(self.mean + share * difference)
        self.count.assign_add(added)

    def forget(self, share: float) -> None:
        """Gives the rows so far less weight. Mean and variance do not change until new rows come.

        Args:
            share: The share of the count that is kept, in [0, 1].
        """
        self.count.assign(self.count * share)

    def get_config(self) -> dict[str, Any]:
        """See `keras.layers.Layer.get_config`."""
        return {"shape": self._shape, "name": self.name}


def moments_in(model: Any) -> list[RunningMoments]:
    """Returns the running statistics in a model and in its inner models, each once."""
    found: dict[int, RunningMoments] = {}
    for layer in model.layers:
        if isinstance(layer, RunningMoments):
            found[id(layer)] = layer
        elif isinstance(layer, keras.Model):
            found |= {id(moments): moments for moments in moments_in(layer)}
    return list(found.values())


class RewardScale:
    """Divides rewards by the running deviation of their discounted return, and clips them to -10 .. 10.

    It follows OpenAI's baselines (`VecNormalize`; Engstrom et al. 2020, arXiv 2005.12729, section 3): the return of
    each environment, ``R[t] = gamma R[t-1] + r[t]``, starts at 0 with each episode. A row that is not a transition
    leaves R unchanged. Rewards are not centred, because that would change the task.
    """

    def __init__(self) -> None:
        self.moments = RunningMoments((), name="discounted_return")
        # The returns of the running episodes, by number of environments. They belong to the environments, not to the
        # model.
        self._running: dict[int, Any] = {}

    def prepare(self, num_envs: int) -> None:
        """Makes the variables for `num_envs` environments, because a compiled step cannot make them."""
        if num_envs not in self._running:
            self._running[num_envs] = tf.Variable(tf.zeros(num_envs), trainable=False, name="running_return")

    def save(self) -> dict[str, np.ndarray]:
        """Returns the returns so far of the running episodes, by number of environments."""
        return {str(num_envs): running.numpy() for num_envs, running in self._running.items()}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Restores what `save` returned."""
        for num_envs, values in arrays.items():
            self.prepare(int(num_envs))
            self._running[int(num_envs)].assign(values)

    def __call__(self, rewards: Any, done: Any, valid: Any, gamma: Any) -> Any:
        """Updates the statistics with the rewards of a window, and scales the rewards.

        Args:
            rewards: ``[T, N]``.
            done: ``[T, N]`` bool.
            valid: ``[T, N]`` bool, False on rows that are not transitions.
            gamma: Scalar, discount.

        Returns:
            ``[T, N]``, zero on invalid rows.
        """
        running = self._running[int(rewards.shape[1])]
        rewards = tf.where(valid, rewards, 0.0)
        goes_on = 1.0 - tf.cast(tf.logical_and(done, valid), tf.float32)
        discounts = tf.where(valid, gamma, 1.0)
        inputs = tf.concat([rewards[:1] + discounts[:1] * running[None], rewards[1:]], 0)
        # The recurrence runs backwards in time, but returns accumulate forwards.
        coefficients = tf.concat([tf.reverse(discounts[1:] * goes_on[:-1], [0]), tf.zeros_like(goes_on[:1])], 0)
        returns = tf.reverse(linear_recurrence(tf.reverse(inputs, [0]), coefficients), [0])
        running.assign(returns[-1] * goes_on[-1])
        self.moments.update(tf.reshape(returns, [-1]), tf.reshape(tf.cast(valid, tf.float32), [-1]))
        scaled = rewards * tf.math.rsqrt(self.moments.variance.value + _EPSILON)
        return tf.clip_by_value(scaled, -_CLIP, _CLIP)
