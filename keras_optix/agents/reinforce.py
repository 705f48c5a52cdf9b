"""REINFORCE with a learned baseline."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_optix.agents.actor_critic import ActorCriticAgent, Rows
from keras_optix.agents.distributions import ActionDistribution
from keras_optix.experience.window import Window
from keras_optix.ops import losses
from keras_optix.ops.returns import discounted_returns

_MAX_RATIO = 2.0


@keras.saving.register_keras_serializable("keras_optix")
class ReinforceAgent(ActorCriticAgent):
    """REINFORCE (Williams 1992) with a learned baseline: one gradient step per window.

    Plays Discrete, MultiDiscrete, MultiBinary and Box actions. A Box policy is a Gaussian with a standard deviation
    that does not depend on the observation, unless the network gives one.

    The loss is ``-mean(log pi(a|s) A)``, where ``A`` is the discounted reward to go minus the value of the observation,
    standardised over the window. Returns end at episode ends. If the data ends earlier (at a truncation, the end of the
    window, or a row that is not a transition), the value network estimates the rest of the return. Actions are sampled.
    A window without any transition makes no gradient step, and its logs are 0.

    If an older policy acted (`prefetch=1`), each term is weighted by ``min(pi(a|s) / pi_old(a|s), 2)``, held constant.
    This is truncated importance sampling (Ionides 2008, "Truncated importance sampling"; the truncated weights of
    V-trace, Espeholt et al. 2018, arXiv 1802.01561). Otherwise the weight is 1.

    Its logs are those of the last window: `loss`, `policy_loss`, `value_loss`, `entropy` (nats), `explained_variance`,
    and `episode_return`, `episode_length` and `policy_lag` of every agent. If the networks have regularizers or call
    `add_loss`, `regularization_loss` is the part of `loss` that these add.

    `search_spaces`, in this order: learning_rate Log(1e-5, 1e-1), entropy_coefficient Linear(0, 0.05), gamma
    OneMinusLog(0.9, 0.9999).

    Args:
        policy: Maps observations to the parameters of a distribution over actions; see `Agent`. None builds a network.
        value: The baseline; maps observations to values ``[B, 1]``. None builds a network.
        gamma: Discount in [0, 1]. Tunable. Defaults to 0.99.
        entropy_coefficient: Weight of the entropy bonus. Tunable. Defaults to 0.
        value_coefficient: Weight of the value loss (half the mean squared error). Tunable. Defaults to 0.5.
        max_grad_norm: Largest global norm of the gradient. Tunable. Defaults to 0.5.
        normalize_observations: Centre and scale floating-point observations by their running mean and deviation.
            Defaults to False.
        normalize_rewards: Scale rewards by the running deviation of their discounted return; logged episode returns
            are those of the environment. Defaults to False.
        share_features: Whether the default networks for observations with images share the convolutions and the dense
            layer after them. Defaults to True.
        orthogonal_init: Whether the weights of the default networks begin orthogonal, the last ones of the policy near
            0, or uniform in +-1 / sqrt(inputs), as those of PyTorch. Defaults to True.
        distribution: The distribution over actions whose parameters are the outputs of the policy; see `Agent`. None
            uses the default of the action space.
        seed: Seed of the sampling in `act`.
        name: Name of the model.

    Raises:
        ConfigurationError: An argument is out of range.

    Examples:
        >>> agent = optix.ReinforceAgent(gamma=0.99)
        >>> agent.compile(optimizer="adam", jit_compile=False)
        >>> dataset = optix.dataset_from_env("CartPole-v1", agent, window_size=64, seed=0)
        >>> logs = agent.fit(dataset, steps_per_epoch=2, verbose=0).history
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
        normalize_observations: bool = False,
        normalize_rewards: bool = False,
        share_features: bool = True,
        orthogonal_init: bool = True,
        distribution: ActionDistribution | None = None,
        seed: int | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(
            policy,
            value,
            gamma=gamma,
            entropy_coefficient=entropy_coefficient,
            value_coefficient=value_coefficient,
            max_grad_norm=max_grad_norm,
            normalize_observations=normalize_observations,
            normalize_rewards=normalize_rewards,
            share_features=share_features,
            orthogonal_init=orthogonal_init,
            distribution=distribution,
            seed=seed,
            name=name,
        )

    def train_step(self, window: Window) -> dict[str, Any]:
        """See `Agent.train_step`."""
        values, next_values = self.values_of(window)
        returns = discounted_returns(
            self.rewards_of(window),
            next_values,
            window.terminated,
            window.truncated,
            window.valid,
            self.hyperparams.tensor("gamma"),
        )
        rows = self.rows_of(window, returns - values, returns)
        logs = self.minimize(
            lambda: self.compute_losses(rows),
            max_grad_norm=self.hyperparams.tensor("max_grad_norm"),
            # Without a transition there is no gradient, but an optimizer with momentum would move the weights.
            where=tf.reduce_any(window.valid),
        )
        self.update_statistics(window)
        explained = losses.explained_variance(rows.returns - rows.advantages, rows.returns, rows.weights)
        return logs | {"explained_variance": explained}

    def compute_losses(self, rows: Rows) -> tuple[Any, dict[str, Any]]:
        """Computes the loss of a window, and the logs.

        Returns:
            ``(loss, logs)``.
        """
        parameters, values = self.parameters_and_values(rows.observations, training=True)
        log_probs = self.head.distribution.log_prob(parameters, rows.actions)
        ratio = ops.stop_gradient(ops.minimum(ops.exp(log_probs - rows.log_probs), _MAX_RATIO))
        advantages = losses.standardise(rows.advantages, rows.weights)
        policy_loss = -losses.weighted_mean(ratio * log_probs * advantages, rows.weights)
        loss, value_loss, entropy = self.total_loss(policy_loss, parameters, values, rows)
        return loss, {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy}
