"""Epochs of shuffled minibatches over the rows of a window, in one compiled step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import tensorflow as tf

from keras_optix.agents.agent import Agent
from keras_optix.agents.gradient_step import REGULARIZATION
from keras_optix.validation import check_int


class WeightedRows(Protocol):
    """Rows of a window: a named tuple of tensors ``[B, ...]``.

    Attributes:
        weights: ``[B]``, 0 for rows that are not transitions, otherwise 1.
    """

    @property
    def weights(self) -> Any:
        """The weights."""
        ...


Rows = TypeVar("Rows", bound=WeightedRows)


def run_minibatches(
    step: Callable[[Rows], Mapping[str, Any]],
    rows: Rows,
    names: Sequence[str],
    *,
    seed: Any,
    epochs: int,
    minibatch_size: int,
) -> dict[str, Any]:
    """Makes gradient steps on minibatches of rows, in several passes, each in a new order.

    In each pass, rows that are not transitions come last, so that no minibatch has only such rows: without a gradient,
    an optimizer with momentum would still move the weights. The last minibatch may have fewer transitions than the
    others; it is filled up with rows of weight 0. If all rows fit into one minibatch, they are not shuffled.

    Args:
        step: Makes a gradient step on a minibatch with `Agent.minimize`, and returns its logs. It is traced once or
            twice.
        rows: The rows, ``[B, ...]``; B is known when the step is compiled.
        names: Names of those logs of `step` that are returned.
        seed: ``[2]`` integers, from which the orders are drawn, such as ``window.seed``.
        epochs: Passes over the rows.
        minibatch_size: Rows in a minibatch.

    Returns:
        The means over all minibatches of the logs `names`, and of `regularization_loss` if the networks have losses of
        their own. They are 0 if no row is a transition.
    """
    size = int(rows.weights.shape[0])
    batch = min(minibatch_size, size)
    batches = -(-size // batch)
    filled = (tf.math.count_nonzero(rows.weights, dtype=tf.int32) + batch - 1) // batch
    regularized = False

    def update(minibatch: Rows) -> Any:
        """Makes a gradient step, and returns its logs as a vector."""
        nonlocal regularized
        logs = step(minibatch)
        # Only after the networks were called once is it known whether they have losses of their own.
        regularized = REGULARIZATION in logs
        return tf.stack([*(logs[name] for name in names), logs.get(REGULARIZATION, tf.zeros(()))])

    if batches == 1:
        sums = _repeated(lambda _: update(rows), epochs * filled, epochs, len(names) + 1)
    else:

        def epoch(e: Any) -> Any:
            cut = _shuffled(rows, seed + tf.stack([e, 0]), batch, batches)
            return _repeated(
                lambda m: update(tf.nest.map_structure(lambda v: v[m], cut)), filled, batches, len(names) + 1
            )

        sums = _repeated(epoch, epochs, epochs, len(names) + 1)
    means = sums * (1.0 / tf.cast(tf.maximum(epochs * filled, 1), tf.float32))
    named = {name: means[k] for k, name in enumerate((*names, REGULARIZATION))}
    if not regularized:
        del named[REGULARIZATION]
    return named


def _repeated(vector_of: Callable[[Any], Any], times: Any, at_most: int, size: int) -> Any:
    """Calls a function for 0, 1, ..., as often as the tensor `times` says, and returns the sum of its vectors."""

    def body(k: Any, sums: Any) -> tuple[Any, Any]:
        return k + 1, sums + vector_of(k)

    # A Python loop would be unrolled and take half a minute to compile.
    return tf.while_loop(lambda k, _: k < times, body, (0, tf.zeros(size)), maximum_iterations=at_most)[1]


def _shuffled(rows: Rows, seed: Any, batch: int, batches: int) -> Rows:
    """Returns the rows in a random order, cut into minibatches ``[batches, batch, ...]``; transitions come first."""
    size = int(rows.weights.shape[0])
    padding = batches * batch - size
    behind = 2.0 * (1.0 - rows.weights)  # sorts the rows that are not transitions behind all others
    order = tf.argsort(tf.random.stateless_uniform((size,), seed) + behind)
    shuffled: Any = tf.nest.map_structure(lambda values: tf.gather(values, order), rows)
    if padding:
        # The last minibatch is filled up with rows of weight 0, so that shapes are static.
        shuffled = tf.nest.map_structure(lambda v: tf.concat([v, v[:padding]], 0), shuffled)
        shuffled = shuffled._replace(weights=tf.concat([shuffled.weights[:size], tf.zeros(padding)], 0))
    cut: Rows = tf.nest.map_structure(lambda v: tf.reshape(v, (batches, batch, *v.shape[1:])), shuffled)
    return cut


class MinibatchAgent(Agent):
    """An agent that learns from each window in several epochs of minibatches; base of `PPOAgent` and `PQNAgent`.

    The constructor of a derived class sets `update_epochs` and `minibatch_size`, and its `train_step` gives them to
    `run_minibatches`.
    """

    @property
    def update_epochs(self) -> int:
        """Passes over a window. A new value takes effect in the next `fit`, which compiles the step again."""
        return self._update_epochs

    @update_epochs.setter
    def update_epochs(self, update_epochs: int) -> None:
        self._update_epochs = check_int("update_epochs", update_epochs, minimum=1)
        self.train_function = None

    @property
    def minibatch_size(self) -> int:
        """Transitions in a minibatch. A new value takes effect in the next `fit`, which compiles the step again."""
        return self._minibatch_size

    @minibatch_size.setter
    def minibatch_size(self, minibatch_size: int) -> None:
        self._minibatch_size = check_int("minibatch_size", minibatch_size, minimum=1)
        self.train_function = None

    def get_config(self) -> dict[str, Any]:
        """See `Agent.get_config`."""
        return super().get_config() | {"update_epochs": self.update_epochs, "minibatch_size": self.minibatch_size}
