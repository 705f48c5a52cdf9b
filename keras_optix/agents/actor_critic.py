"""What agents with a policy and a value network share: the value network, and a window seen as rows."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from keras_optix.agents.agent import Agent
from keras_optix.agents.networks import check_network, default_network
from keras_optix.experience.window import Window


class Rows(NamedTuple):
    """Transitions of a window, flattened from ``[T, N, ...]`` to ``[B, ...]``, as a loss sees them.

    Attributes:
        observations: ``[B, ...]`` float32.
        actions: ``[B]``.
        log_probs: ``[B]``, of the actions under the policy that acted.
        advantages: ``[B]``.
        returns: ``[B]``, targets of the value network.
        weights: ``[B]``, 0 on rows that are no transition, else 1.
    """

    observations: Any
    actions: Any
    log_probs: Any
    advantages: Any
    returns: Any
    weights: Any


class ActorCriticAgent(Agent):
    """An agent with a value network; base of `ReinforceAgent` and `PPOAgent`.

    Args:
        policy: Maps observations ``[B, ...]`` to one logit per action ``[B, n]``. None builds an MLP.
        value: Maps observations to values ``[B, 1]``. None builds an MLP.
        **kwargs: As for `Agent`.
    """

    def __init__(self, policy: Any = None, value: Any = None, **kwargs: Any) -> None:
        super().__init__(policy, **kwargs)
        self.value = value

    def build_networks(self, observation_shape: tuple[int, ...]) -> None:
        """See `Agent.build_networks`."""
        if self.value is None:
            self.value = default_network(observation_shape, 1, output_gain=1.0, name="value")
        check_network(self.value, "value", observation_shape=observation_shape, outputs=1, action_space=None)

    def values_of(self, window: Window) -> tuple[Any, Any]:
        """Values of the observations and of their successors, both ``[T, N]``, in one call of the network."""
        steps, n = (int(k) for k in window.rewards.shape)
        both = tf.concat([flatten(window.observations), flatten(window.next_observations)], 0)
        values = self.value(tf.cast(both, tf.float32), training=False)
        return tuple(tf.unstack(tf.reshape(values, (2, steps, n))))

    def rows_of(self, window: Window, advantages: Any, returns: Any) -> Rows:
        """Flattens a window."""
        return Rows(
            observations=tf.cast(flatten(window.observations), tf.float32),
            actions=flatten(window.actions),
            log_probs=flatten(window.log_probs),
            advantages=flatten(advantages),
            returns=flatten(returns),
            weights=tf.cast(flatten(window.valid), tf.float32),
        )

    def apply_clipped(self, tape: Any, loss: Any) -> None:
        """One optimizer step, the gradient clipped to the global norm `max_grad_norm`."""
        variables = self.trainable_variables
        gradients, _ = tf.clip_by_global_norm(tape.gradient(loss, variables), self.hyperparams.tensor("max_grad_norm"))
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))


def flatten(values: Any) -> Any:
    """``[T, N, ...]`` to ``[T * N, ...]``."""
    steps, n = (int(k) for k in values.shape[:2])
    return tf.reshape(values, (steps * n, *values.shape[2:]))
