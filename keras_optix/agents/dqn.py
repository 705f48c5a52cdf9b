"""Deep Q-learning: DQN with double Q-learning, n-step returns, a dueling head and prioritized replay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import keras
import tensorflow as tf
from keras import ops

from keras_optix.agents.default_networks import HiddenLayers, dueling_network
from keras_optix.agents.distributions import ActionDistribution
from keras_optix.agents.dqn_presets import DQN_PRESETS
from keras_optix.agents.networks import network_inputs
from keras_optix.agents.off_policy import OffPolicyAgent, Transitions
from keras_optix.agents.presets import agent_from_preset
from keras_optix.agents.q_learning import QAgent
from keras_optix.agents.twins import twin_of
from keras_optix.errors import ConfigurationError, describe
from keras_optix.experience.observations import ObservationLayout
from keras_optix.experience.replay_batch import ReplayBatch
from keras_optix.ops.targets import soft_update
from keras_optix.ops.values import huber, value_of_choice
from keras_optix.validation import check_bool, check_float, check_int


@keras.saving.register_keras_serializable("keras_optix")
class DQNAgent(QAgent, OffPolicyAgent):
    """Deep Q-learning from replay (DQN), for Discrete actions.

    Mnih et al. 2015, "Human-level control through deep reinforcement learning", Nature 518. The policy is a Q-network:
    it maps observations to the value of each action ``[B, n]``, and acts by the largest. While windows are collected, a
    random action is taken with probability epsilon; see `epsilon`.

    The loss is the Huber loss of ``Q(s, a) - (G + gamma^m Q_target(s', a'))``, where ``G`` are the rewards of the env
    steps that a transition spans. ``a'`` is the best action by the Q-network (double Q-learning, van Hasselt et al.
    2016, arXiv 1509.06461), or by the target network. The target network is a copy of the Q-network that follows it.

    Its logs are `loss`, `q_values` (mean value of the stored actions), `td_error` (mean absolute error), `epsilon`,
    `gradient_steps`, `replay_size` and `effective_step_size` (see `OffPolicyAgent.train_step`), and `episode_return`,
    `episode_length` and `policy_lag` of every agent.

    `search_spaces`, in this order: learning_rate Log(1e-5, 1e-1), gamma OneMinusLog(0.9, 0.9999), epsilon
    Log(0.005, 0.2).

    Args:
        policy: The Q-network; None builds two hidden layers of 256 ReLU units (images: convolutions).
        gamma: Discount in [0, 1]. Tunable. Defaults to 0.99.
        epsilon: Probability of a random action, once `exploration_env_steps` are over. Tunable. Defaults to 0.05.
        initial_epsilon: The probability at first, from which it falls linearly. Defaults to 1.
        exploration_env_steps: Env steps of training over which it falls. Defaults to 10,000.
        buffer_size: The observations that the replay buffer holds. Defaults to 100,000.
        batch_size: Transitions in the batch of a gradient step. Defaults to 64.
        learning_starts: Env steps that are stored before the first gradient step. Defaults to 1,000.
        gradient_steps_per_env_step: Gradient steps for each env step. Defaults to 0.25.
        target_update_interval: Env steps after which the target network becomes a copy of the Q-network, at the
            beginning of a window. Defaults to 1,000 if `tau` is None.
        tau: Instead of `target_update_interval`: the share by which the target network moves towards the Q-network
            after each gradient step. None, the default, copies.
        double: Whether the Q-network chooses the next action, and not the target network. Defaults to True.
        dueling: Whether the default network has a value and an advantage stream (Wang et al. 2016, arXiv 1511.06581,
            eq. 9). A network of your own decides this itself. Defaults to False.
        n_step: Env steps that a transition spans at most. Defaults to 1.
        prioritized_replay: Whether transitions with larger errors are drawn more often; see `OffPolicyAgent`. Defaults
            to False.
        priority_exponent: Exponent of the priorities, with `prioritized_replay`. Tunable. Defaults to 0.6.
        importance_exponent: Exponent of the importance weights, with `prioritized_replay`. Tunable. Defaults to 0.4.
        max_grad_norm: Largest global norm of the gradient. Tunable. Defaults to 10.
        normalize_observations: Centre and scale floating-point observations by their running mean and deviation.
            Defaults to False.
        seed: Seed of the sampling in `act`.
        name: Name of the model.

    Raises:
        ConfigurationError: An argument is out of range, or `tau` and `target_update_interval` are both given.

    Examples:
        >>> agent = optix.DQNAgent(buffer_size=1_000, learning_starts=50, gradient_steps_per_env_step=0.5)
        >>> agent.compile(optimizer="adam", jit_compile=False)
        >>> dataset = optix.dataset_from_env("CartPole-v1", agent, window_size=32, seed=0)
        >>> logs = agent.fit(dataset, steps_per_epoch=3, verbose=0).history
    """

    # As PyTorch's networks begin, with which the presets were tuned. On MountainCar a greedy episode returned -122 with
    # these weights and -197 with orthogonal ones (a run of each): values that begin near 0 are too high there, which
    # makes the agent try what it has not tried.
    hidden_layers = HiddenLayers((256, 256), "relu", orthogonal=False)

    def __init__(
        self,
        policy: Any = None,
        *,
        gamma: float = 0.99,
        epsilon: float = 0.05,
        initial_epsilon: float = 1.0,
        exploration_env_steps: int = 10_000,
        buffer_size: int = 100_000,
        batch_size: int = 64,
        learning_starts: int = 1_000,
        gradient_steps_per_env_step: float = 0.25,
        target_update_interval: int | None = None,
        tau: float | None = None,
        double: bool = True,
        dueling: bool = False,
        n_step: int = 1,
        prioritized_replay: bool = False,
        priority_exponent: float = 0.6,
        importance_exponent: float = 0.4,
        max_grad_norm: float = 10.0,
        normalize_observations: bool = False,
        seed: int | None = None,
        name: str | None = None,
    ) -> None:
        if tau is not None and target_update_interval is not None:
            problem = "The target network is either copied at an interval, or moves a little after each gradient step."
            fix = "Leave out `tau` or `target_update_interval`."
            raise ConfigurationError(describe(problem, fix=fix, tau=tau, target_update_interval=target_update_interval))
        if check_bool("dueling", dueling) and policy is not None:
            problem = "`dueling` changes the default network, but the agent was given a network of its own."
            raise ConfigurationError(describe(problem, fix="Leave one of them out.", dueling=dueling, policy=policy))
        super().__init__(
            policy,
            gamma=gamma,
            epsilon=epsilon,
            initial_epsilon=initial_epsilon,
            exploration_env_steps=exploration_env_steps,
            buffer_size=buffer_size,
            batch_size=batch_size,
            learning_starts=learning_starts,
            gradient_steps_per_env_step=gradient_steps_per_env_step,
            n_step=n_step,
            prioritized_replay=prioritized_replay,
            priority_exponent=priority_exponent,
            importance_exponent=importance_exponent,
            max_grad_norm=max_grad_norm,
            normalize_observations=normalize_observations,
            seed=seed,
            name=name,
        )
        self.double = check_bool("double", double)
        self.dueling = dueling
        if tau is None:
            self.target_update_interval: int | None = check_int(
                "target_update_interval", 1_000 if target_update_interval is None else target_update_interval, minimum=1
            )
            self.tau = None
        else:
            self.target_update_interval, self.tau = None, check_float("tau", tau, low=0.0, high=1.0, low_open=True)

    @classmethod
    def preset(cls, env_id: str, **overrides: Any) -> Self:
        """Makes an agent with hyperparameters that were tuned for a task, compiled and ready for `fit`.

        They are those of the RL Baselines3 Zoo, hyperparams/dqn.yml, for CartPole-v1, MountainCar-v0, Acrobot-v1 and
        LunarLander-v3. Other versions of an id have the same preset. `keras_optix.agents.dqn_presets` holds them, with
        the commit of the file and with what is different here.

        The optimizer is ``Adam(learning_rate, epsilon=1e-8)``. `dataset_from_env` takes the size of the windows and the
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
            >>> agent = optix.DQNAgent.preset("CartPole-v1", seed=0)
            >>> dataset = optix.dataset_from_env("CartPole-v1", agent)
            >>> next(iter(dataset)).observations.shape
            TensorShape([128, 64, 4])
        """
        agent: Self = agent_from_preset(cls, DQN_PRESETS, env_id, overrides)
        return agent

    def get_config(self) -> dict[str, Any]:
        """See `Agent.get_config`."""
        names = ("target_update_interval", "tau", "double", "dueling")
        return super().get_config() | {name: getattr(self, name) for name in names}

    def _default_policy(self, layout: ObservationLayout, distribution: ActionDistribution) -> Any:
        if not self.dueling:
            return super()._default_policy(layout, distribution)
        return dueling_network(layout, distribution.outputs[0], name="policy", hidden=self.hidden_layers)

    def build_networks(self, layout: ObservationLayout) -> None:
        """See `Agent.build_networks`."""
        super().build_networks(layout)
        zeros = layout.pack([tf.zeros((1, *leaf.shape), leaf.dtype) for leaf in layout.leaves])
        example = network_inputs(self.policy, zeros, layout)
        target = twin_of(self.policy, example, "policy", same_weights=True)
        self.add_network("target_network", target, trainable=False)

    def before_gradient_steps(self, batch: ReplayBatch) -> Mapping[str, Any]:
        """See `OffPolicyAgent.before_gradient_steps`."""
        interval = self.target_update_interval
        if interval is not None:
            now = batch.env_steps
            before = now - tf.math.count_nonzero(batch.window.valid)
            tf.cond(now // interval > before // interval, self._copy_to_target, lambda: None)
        return {"epsilon": self.note_env_steps(tf.math.count_nonzero(batch.window.valid))}

    def gradient_step(self, batch: Transitions, seed: Any) -> tuple[dict[str, Any], Any]:
        """See `OffPolicyAgent.gradient_step`."""
        later = self._target_values(batch.next_observations)
        chooser = self.call(batch.next_observations, training=False) if self.double else later
        following = value_of_choice(later, ops.argmax(chooser, axis=-1))
        targets = ops.stop_gradient(batch.returns + batch.discounts * following)
        found: list[Any] = []

        def compute() -> tuple[Any, dict[str, Any]]:
            values = self.values_of_actions(batch.observations, batch.actions, training=True)
            errors = values - targets
            found[:] = [ops.stop_gradient(ops.abs(errors))]
            loss = ops.mean(batch.weights * huber(errors))
            return loss, {"q_values": ops.mean(values), "td_error": ops.mean(found[0])}

        logs = self.minimize(compute, max_grad_norm=self.hyperparams.tensor("max_grad_norm"))
        if self.tau is not None:
            soft_update(self.target_network.variables, self.policy.variables, self.tau)
        return logs, found[0]

    def predictions(self, batch: Transitions) -> Any:
        """See `OffPolicyAgent.predictions`: the values of the stored actions."""
        return self.values_of_actions(batch.observations, batch.actions, training=False)

    def _target_values(self, observations: Any) -> Any:
        """Computes the values ``[B, n]`` that the target network gives."""
        head = self.head
        inputs = network_inputs(self.target_network, head.inputs(observations), head.layout)
        return ops.cast(self.target_network(inputs, training=False), "float32")

    def _copy_to_target(self) -> None:
        soft_update(self.target_network.variables, self.policy.variables, 1.0)
