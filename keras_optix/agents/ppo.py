"""Proximal policy optimisation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import keras
from keras import ops

from keras_optix.agents.actor_critic import ActorCriticAgent, Rows
from keras_optix.agents.distributions import ActionDistribution
from keras_optix.agents.hyperparams import declared
from keras_optix.agents.minibatches import MinibatchAgent, run_minibatches
from keras_optix.agents.ppo_presets import PPO_PRESETS
from keras_optix.agents.presets import agent_from_preset
from keras_optix.agents.rows import flatten
from keras_optix.aliases import other_names
from keras_optix.experience.window import Window
from keras_optix.ops import losses
from keras_optix.ops.returns import gae
from keras_optix.records import LEARNING_RATE
from keras_optix.tuners.search_space import Linear, Log, OneMinusLog, SearchSpace

_LOGS = ("loss", "policy_loss", "value_loss", "entropy", "approx_kl", "clip_fraction")


@keras.saving.register_keras_serializable("keras_optix")
@other_names(epochs="update_epochs")
class PPOAgent(MinibatchAgent, ActorCriticAgent):
    """PPO with a clipped surrogate (Schulman et al. 2017, arXiv 1707.06347).

    Plays Discrete, MultiDiscrete, MultiBinary and Box actions. A Box policy is a Gaussian with a standard deviation
    that does not depend on the observation, unless the network gives one.

    Each window makes one update: advantages by GAE (truncated episodes are bootstrapped), then `update_epochs` passes
    over its transitions in shuffled minibatches, all inside one compiled step. Advantages are standardised per
    minibatch and gradients are clipped by their global norm (Huang et al. 2022, "The 37 implementation details of
    PPO"). No minibatch consists only of rows that are not transitions. A window without any transition makes no update,
    and its logs are 0.

    Its logs are means over the minibatches of the last window: `loss`, `policy_loss`, `value_loss`, `entropy` (nats),
    `approx_kl` and `clip_fraction`. `explained_variance` is the share of the returns' variance that the values before
    the update explain. `episode_return`, `episode_length` and `policy_lag` are those of every agent. If the networks
    have regularizers or call `add_loss`, `regularization_loss` is the part of `loss` that these add.

    `search_spaces`, in this order: learning_rate Log(1e-5, 1e-2), entropy_coefficient Linear(0, 0.05), gamma
    OneMinusLog(0.9, 0.9999), clip_ratio Linear(0.1, 0.4), gae_lambda OneMinusLog(0.8, 0.99). They contain all values
    that the tuned PPO agents in the RL Baselines3 Zoo (hyperparams/ppo.yml) begin with, except one lambda of 1.

    Args:
        policy: Maps observations to the parameters of a distribution over actions; see `Agent`. None builds a network.
        value: Maps observations to values ``[B, 1]``. None builds a network.
        gamma: Discount in [0, 1]. Tunable. Defaults to 0.99.
        gae_lambda: Lambda of GAE in [0, 1]. Tunable. Defaults to 0.95.
        clip_ratio: Clip range of the probability ratio. Tunable. Defaults to 0.2.
        entropy_coefficient: Weight of the entropy bonus. Tunable. Defaults to 0.
        value_coefficient: Weight of the value loss (half the mean squared error). Tunable. Defaults to 0.5.
        max_grad_norm: Largest global norm of the gradient. Tunable. Defaults to 0.5.
        update_epochs: Passes over a window; not to be confused with the epochs of `fit`. Defaults to 10. The name
            `epochs` works, too.
        minibatch_size: Transitions in a minibatch. Defaults to 64.
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
        >>> agent = optix.PPOAgent(gamma=0.98, update_epochs=4)
        >>> agent.compile(optimizer=keras.optimizers.Adam(3e-4), jit_compile=False)
        >>> dataset = optix.dataset_from_env("CartPole-v1", agent, window_size=16, num_envs=4, seed=0)
        >>> logs = agent.fit(dataset, steps_per_epoch=2, verbose=0).history
    """

    prefers_jit = True
    default_spaces: ClassVar[Mapping[str, SearchSpace | tuple[float, float]]] = {
        LEARNING_RATE: Log(1e-5, 1e-2),
        "clip_ratio": Linear(0.1, 0.4),
        "gae_lambda": OneMinusLog(0.8, 0.99),
    }

    def __init__(
        self,
        policy: Any = None,
        value: Any = None,
        *,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        clip_ratio: float = 0.2,
        entropy_coefficient: float = 0.0,
        value_coefficient: float = 0.5,
        max_grad_norm: float = 0.5,
        update_epochs: int = 10,
        minibatch_size: int = 64,
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
            hyperparams={
                "gae_lambda": declared("gae_lambda", gae_lambda, 0.0, 1.0),
                "clip_ratio": declared("clip_ratio", clip_ratio, 1e-6),
            },
            normalize_observations=normalize_observations,
            normalize_rewards=normalize_rewards,
            share_features=share_features,
            orthogonal_init=orthogonal_init,
            distribution=distribution,
            seed=seed,
            name=name,
        )
        self.update_epochs = update_epochs
        self.minibatch_size = minibatch_size

    @classmethod
    def preset(cls, env_id: str, **overrides: Any) -> Self:
        """Makes an agent with hyperparameters that were tuned for a task, compiled and ready for `fit`.

        They are those of the RL Baselines3 Zoo (Raffin 2020), hyperparams/ppo.yml, for CartPole-v1, Acrobot-v1,
        MountainCar-v0, MountainCarContinuous-v0, Pendulum-v1, LunarLander-v3, LunarLanderContinuous-v3,
        BipedalWalker-v3 and BipedalWalkerHardcore-v3. Other versions of an id have the same preset.
        `keras_optix.agents.ppo_presets` holds them, with the commit of the file and with what is different here.

        The optimizer is ``Adam(learning_rate, epsilon=1e-5)``. `dataset_from_env` takes the size of the windows and the
        number of environments from the agent if they are left out.

        Args:
            env_id: The id of the task.
            **overrides: What shall be different: arguments of this class, `learning_rate`, `window_size` (env steps of
                each environment in a window) and `num_envs`.

        Returns:
            The agent.

        Raises:
            ConfigurationError: There is no preset of this id, or an override is unknown or out of range.

        Examples:
            >>> agent = optix.PPOAgent.preset("CartPole-v1", gamma=0.99)
            >>> dataset = optix.dataset_from_env("CartPole-v1", agent)
            >>> next(iter(dataset)).observations.shape
            TensorShape([32, 8, 4])
        """
        agent: Self = agent_from_preset(cls, PPO_PRESETS, env_id, overrides)
        return agent

    def train_step(self, window: Window) -> dict[str, Any]:
        """See `Agent.train_step`."""
        rows, explained = self.prepare(window)
        logs = run_minibatches(
            self._update,
            rows,
            _LOGS,
            seed=window.seed,
            epochs=self.update_epochs,
            minibatch_size=self.minibatch_size,
        )
        self.update_statistics(window)
        return logs | {"explained_variance": explained}

    def prepare(self, window: Window) -> tuple[Rows, Any]:
        """Computes advantages and returns of a window.

        Returns:
            The rows ``[T * N, ...]``, and the explained variance of the returns.
        """
        values, next_values = self.values_of(window)
        advantages, returns = gae(
            self.rewards_of(window),
            values,
            next_values,
            window.terminated,
            window.truncated,
            window.valid,
            self.hyperparams.tensor("gamma"),
            self.hyperparams.tensor("gae_lambda"),
        )
        rows = self.rows_of(window, advantages, returns)
        return rows, losses.explained_variance(flatten(values), rows.returns, rows.weights)

    def compute_losses(self, rows: Rows) -> tuple[Any, dict[str, Any]]:
        """Computes the loss of a minibatch, and the logs.

        Returns:
            ``(loss, logs)``: `policy_loss`, `value_loss`, `entropy`, `approx_kl` and `clip_fraction`.
        """
        clip_ratio = self.hyperparams.tensor("clip_ratio")
        parameters, values = self.parameters_and_values(rows.observations, training=True)
        log_ratio = self.head.distribution.log_prob(parameters, rows.actions) - rows.log_probs
        # In rows without an action the ratio has no meaning and may be infinite; times a weight of 0 it would be NaN.
        log_ratio = ops.where(rows.weights > 0.0, log_ratio, 0.0)
        advantages = losses.standardise(rows.advantages, rows.weights)
        policy_loss = losses.clipped_surrogate(log_ratio, advantages, clip_ratio, rows.weights)
        loss, value_loss, entropy = self.total_loss(policy_loss, parameters, values, rows)
        kl = losses.approximate_kl(log_ratio, rows.weights)
        clipped = losses.clip_fraction(log_ratio, clip_ratio, rows.weights)
        return loss, {
            "policy_loss": policy_loss,
            "value_loss": value_loss,
            "entropy": entropy,
            "approx_kl": kl,
            "clip_fraction": clipped,
        }

    def _update(self, rows: Rows) -> dict[str, Any]:
        """Makes one gradient step, and returns its logs."""
        norm = self.hyperparams.tensor("max_grad_norm")
        return self.minimize(lambda: self.compute_losses(rows), max_grad_norm=norm)
