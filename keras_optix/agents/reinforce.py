"""REINFORCE with a learned baseline, for discrete actions."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from keras import ops

from keras_optix.agents.actor_critic import ActorCriticAgent, Rows
from keras_optix.agents.hyperparameters import Hyperparameter
from keras_optix.experience.window import Window
from keras_optix.ops import losses
from keras_optix.ops.distributions import categorical_entropy, categorical_log_prob, categorical_log_probs
from keras_optix.ops.returns import discounted_returns


class ReinforceAgent(ActorCriticAgent):
    """REINFORCE (Williams 1992) with a learned baseline, for Discrete actions: one gradient step per window.

    The loss is ``-mean(log pi(a|s) A)``, where ``A`` is the discounted reward to go minus the value of the observation,
    standardised over the window. Returns stop at episode ends; where the data stops early (truncation, the end of the
    window) the value network stands in for what would have followed. Actions are sampled.

    Logs, each of the last window: `policy_loss`, `value_loss`, `entropy` (nats), `explained_variance`, with
    `episode_return`, `episode_length` and `policy_lag` of every agent.

    Args:
        policy: Maps observations ``[B, ...]`` to one logit per action ``[B, n]``. None builds an MLP.
        value: The baseline; maps observations to values ``[B, 1]``. None builds an MLP.
        gamma: Discount in [0, 1]. Tunable. Defaults to 0.99.
        entropy_coefficient: Weight of the entropy bonus. Tunable. Defaults to 0.
        value_coefficient: Weight of the value loss (half the mean squared error). Tunable. Defaults to 0.5.
        max_grad_norm: Largest global norm of the gradient. Tunable. Defaults to 0.5.
        seed: Seeds `act`.
        name: Name of the model.

    Raises:
        ConfigurationError: An argument is out of range.
    """

    prefers_jit = True

    def __init__(
        self,
        policy: Any = None,
        value: Any = None,
        *,
        gamma: float = 0.99,
        entropy_coefficient: float = 0.0,
        value_coefficient: float = 0.5,
        max_grad_norm: float = 0.5,
        seed: int | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(
            policy,
            value,
            hyperparams={
                "gamma": Hyperparameter(gamma, 0.0, 1.0),
                "entropy_coefficient": Hyperparameter(entropy_coefficient),
                "value_coefficient": Hyperparameter(value_coefficient),
                "max_grad_norm": Hyperparameter(max_grad_norm, 1e-6),
            },
            seed=seed,
            name=name,
        )

    def train_step(self, window: Window) -> dict[str, Any]:
        """See `Agent.train_step`."""
        values, next_values = self.values_of(window)
        returns = discounted_returns(
            window.rewards,
            next_values,
            window.terminated,
            window.truncated,
            window.valid,
            self.hyperparams.tensor("gamma"),
        )
        rows = self.rows_of(window, returns - values, returns)
        with tf.GradientTape() as tape:
            loss, logs = self.compute_losses(rows)
        self.apply_clipped(tape, loss)
        explained = losses.explained_variance(rows.returns - rows.advantages, rows.returns, rows.weights)
        return logs | {"explained_variance": explained}

    def compute_losses(self, rows: Rows) -> tuple[Any, dict[str, Any]]:
        """The loss of a window, and what is logged of it.

        Returns:
            ``(loss, logs)``.
        """
        log_probs = categorical_log_probs(self.policy(rows.observations, training=True))
        advantages = losses.standardise(rows.advantages, rows.weights)
        chosen = categorical_log_prob(log_probs, rows.actions)
        policy_loss = -losses.weighted_mean(chosen * advantages, rows.weights)
        values = self.value(rows.observations, training=True)[:, 0]
        value_loss = losses.weighted_mean(0.5 * ops.square(rows.returns - values), rows.weights)
        entropy = losses.weighted_mean(categorical_entropy(log_probs), rows.weights)
        loss = (
            policy_loss
            + self.hyperparams.tensor("value_coefficient") * value_loss
            - self.hyperparams.tensor("entropy_coefficient") * entropy
        )
        return loss, {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy}
