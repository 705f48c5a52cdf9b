"""Parallelised Q-learning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Self

import keras
import tensorflow as tf
from keras import ops

from keras_optix.agents.default_networks import HiddenLayers
from keras_optix.agents.hyperparams import declared
from keras_optix.agents.minibatches import MinibatchAgent, run_minibatches
from keras_optix.agents.pqn_presets import PQN_PRESETS
from keras_optix.agents.presets import agent_from_preset
from keras_optix.agents.q_learning import QAgent
from keras_optix.agents.reward_scaling import RewardScalingAgent
from keras_optix.agents.rows import flatten, size_of
from keras_optix.experience.window import Window
from keras_optix.ops import losses
from keras_optix.ops.returns import q_lambda_returns
from keras_optix.records import LEARNING_RATE
from keras_optix.tuners.search_space import Linear, Log, SearchSpace

_LOGS = ("loss", "td_error", "q_values")


class QRows(NamedTuple):
    """The rows of a window, flattened from ``[T, N, ...]`` to ``[B, ...]``, for the loss of Q-learning.

    Attributes:
        observations: ``[B, ...]``, as in the window.
        actions: ``[B]``.
        targets: ``[B]``, Q(lambda) returns.
        weights: ``[B]``, 0 for rows that are not transitions, otherwise 1.
    """

    observations: Any
    actions: Any
    targets: Any
    weights: Any


@keras.saving.register_keras_serializable("keras_optix")
class PQNAgent(MinibatchAgent, RewardScalingAgent, QAgent):
    """PQN, parallelised Q-learning (Gallici et al. 2024, arXiv 2407.04811).

    Q-learning from the windows of several environments, without replay data and without a target network. Layer
    normalisation in the network keeps it stable: build it into a network of your own, before each activation.

    Plays Discrete actions: the one with the largest value, or with probability epsilon a random one. Epsilon falls
    linearly from `initial_epsilon` to `epsilon` over the first `exploration_env_steps` env steps of training; see
    `QAgent`.

    Each window makes one update: Q(lambda) targets (`keras_optix.ops.returns.q_lambda_returns`; truncated episodes are
    bootstrapped), then `update_epochs` passes over its transitions in shuffled minibatches, all inside one compiled
    step. The loss is the mean squared error, as in CleanRL (the paper has half of it). A window without any transition
    makes no update, and its logs are 0.

    The reference implementations use RAdam, which Keras does not have.

    Its logs: `loss`, `td_error` (mean absolute difference of targets and values) and `q_values` (mean value of the
    chosen actions) are means over the minibatches of the last window. `policy_change` is the share of the window's
    observations for which the update changed the greedy action. `epsilon` is the one with which the window was
    collected. `episode_return`, `episode_length` and `policy_lag` are those of every agent. If the network has
    regularizers or calls `add_loss`, `regularization_loss` is the part of `loss` that these add.

    `search_spaces`, in this order: learning_rate Log(1e-5, 1e-2), gamma OneMinusLog(0.9, 0.9999), epsilon
    Log(0.005, 0.2), q_lambda Linear(0.3, 0.95).

    Args:
        policy: Maps observations to the value of each action, ``[B, n]``. None builds a network: hidden layers of 120
            and 84 units, for images the convolutions of `PPOAgent`, with layer normalisation before each ReLU.
        gamma: Discount in [0, 1]. Tunable. Defaults to 0.99.
        q_lambda: Lambda of the targets in [0, 1]: 0 is one-step Q-learning, 1 uses the rewards up to the end of the
            window or episode. Tunable. Defaults to 0.65.
        epsilon: Probability of a random action at the end of exploration, in [0, 1]. Tunable. Defaults to 0.05.
        initial_epsilon: Probability of a random action before the first env step, in [0, 1]. Defaults to 1.
        exploration_env_steps: Env steps of training over which epsilon falls. Defaults to 100,000.
        max_grad_norm: Largest global norm of the gradient. Tunable. Defaults to 10.
        update_epochs: Passes over a window; not to be confused with the epochs of `fit`. Defaults to 4.
        minibatch_size: Transitions in a minibatch. Defaults to 128.
        normalize_observations: Centre and scale floating-point observations by their running mean and deviation.
            Defaults to False.
        normalize_rewards: Scale rewards by the running deviation of their discounted return; logged episode returns
            are those of the environment. Defaults to False.
        seed: Seed of the sampling in `act`.
        name: Name of the model.

    Raises:
        ConfigurationError: An argument is out of range.

    Examples:
        >>> agent = optix.PQNAgent(exploration_env_steps=1_000)
        >>> agent.compile(optimizer="adam", jit_compile=False)
        >>> dataset = optix.dataset_from_env("CartPole-v1", agent, window_size=16, num_envs=4, seed=0)
        >>> logs = agent.fit(dataset, steps_per_epoch=2, verbose=0).history
    """

    prefers_jit = True
    hidden_layers = HiddenLayers((120, 84), "relu", normalized=True)
    default_spaces: ClassVar[Mapping[str, SearchSpace | tuple[float, float]]] = {
        LEARNING_RATE: Log(1e-5, 1e-2),
        "q_lambda": Linear(0.3, 0.95),
    }

    def __init__(
        self,
        policy: Any = None,
        *,
        gamma: float = 0.99,
        q_lambda: float = 0.65,
        epsilon: float = 0.05,
        initial_epsilon: float = 1.0,
        exploration_env_steps: int = 100_000,
        max_grad_norm: float = 10.0,
        update_epochs: int = 4,
        minibatch_size: int = 128,
        normalize_observations: bool = False,
        normalize_rewards: bool = False,
        seed: int | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(
            policy,
            gamma=gamma,
            epsilon=epsilon,
            initial_epsilon=initial_epsilon,
            exploration_env_steps=exploration_env_steps,
            max_grad_norm=max_grad_norm,
            hyperparams={"q_lambda": declared("q_lambda", q_lambda, 0.0, 1.0)},
            normalize_observations=normalize_observations,
            seed=seed,
            name=name,
        )
        self._begin_scaling(normalize_rewards)
        self.update_epochs = update_epochs
        self.minibatch_size = minibatch_size

    @classmethod
    def preset(cls, env_id: str, **overrides: Any) -> Self:
        """Makes an agent with hyperparameters that were tuned for a task, compiled and ready for `fit`.

        They are those of CleanRL's pqn.py (Huang et al. 2022), for CartPole-v1. Other versions of the id have the same
        preset. `keras_optix.agents.pqn_presets` holds it, with the commit of the file and with what is different here:
        the learning rate is constant, and the optimizer is ``Adam(learning_rate, epsilon=1e-8)``.

        `dataset_from_env` takes the size of the windows and the number of environments from the agent if they are left
        out.

        Args:
            env_id: The id of the task.
            **overrides: What shall be different: arguments of this class, `learning_rate`, `window_size` (env steps of
                each environment in a window) and `num_envs`.

        Returns:
            The agent.

        Raises:
            ConfigurationError: There is no preset of this id, or an override is unknown or out of range.

        Examples:
            >>> agent = optix.PQNAgent.preset("CartPole-v1", seed=0)
            >>> dataset = optix.dataset_from_env("CartPole-v1", agent)
            >>> next(iter(dataset)).observations.shape
            TensorShape([128, 4, 4])
        """
        agent: Self = agent_from_preset(cls, PQN_PRESETS, env_id, overrides)
        return agent

    def train_step(self, window: Window) -> dict[str, Any]:
        """See `Agent.train_step`."""
        rows, next_values = self.prepare(window)
        logs = run_minibatches(
            self._update, rows, _LOGS, seed=window.seed, epochs=self.update_epochs, minibatch_size=self.minibatch_size
        )
        following = tf.nest.map_structure(flatten, window.next_observations)
        changed = ops.argmax(next_values, -1) != ops.argmax(self.call(following), -1)
        logs["policy_change"] = losses.weighted_mean(ops.cast(changed, "float32"), rows.weights)
        self.update_statistics(window)
        return logs | {"epsilon": self.note_env_steps(tf.math.count_nonzero(window.valid))}

    def prepare(self, window: Window) -> tuple[QRows, Any]:
        """Computes the targets of a window.

        Returns:
            The rows ``[T * N, ...]``, and the values of all actions in the next observations ``[T * N, n]``.
        """
        next_values = self.call(tf.nest.map_structure(flatten, window.next_observations))
        targets = q_lambda_returns(
            self.rewards_of(window),
            ops.reshape(ops.max(next_values, axis=-1), size_of(window)),
            window.terminated,
            window.truncated,
            window.valid,
            self.hyperparams.tensor("gamma"),
            self.hyperparams.tensor("q_lambda"),
        )
        rows = QRows(
            observations=tf.nest.map_structure(flatten, window.observations),
            actions=flatten(window.actions),
            targets=flatten(targets),
            weights=tf.cast(flatten(window.valid), tf.float32),
        )
        return rows, next_values

    def compute_losses(self, rows: QRows) -> tuple[Any, dict[str, Any]]:
        """Computes the loss of a minibatch, and the logs.

        Returns:
            ``(loss, logs)``: `td_error` and `q_values`.
        """
        values = self.values_of_actions(rows.observations, rows.actions, training=True)
        errors = rows.targets - values
        loss = losses.weighted_mean(ops.square(errors), rows.weights)
        error = losses.weighted_mean(ops.abs(errors), rows.weights)
        return loss, {"td_error": error, "q_values": losses.weighted_mean(values, rows.weights)}

    def _update(self, rows: QRows) -> dict[str, Any]:
        """Makes one gradient step, and returns its logs."""
        norm = self.hyperparams.tensor("max_grad_norm")
        return self.minimize(lambda: self.compute_losses(rows), max_grad_norm=norm)
