"""Soft actor-critic."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self, cast

import gymnasium
import keras
import tensorflow as tf
from keras import ops

from keras_optix.agents.acting import PolicyHead
from keras_optix.agents.critics import action_values, check_critic, critic_inputs, fixed_action_values
from keras_optix.agents.default_networks import HiddenLayers, default_critic
from keras_optix.agents.distributions import ActionDistribution
from keras_optix.agents.hyperparams import declared
from keras_optix.agents.network_checks import check_kind
from keras_optix.agents.off_policy import OffPolicyAgent, Transitions
from keras_optix.agents.presets import agent_from_preset
from keras_optix.agents.sac_presets import SAC_PRESETS
from keras_optix.agents.squashed import ReparameterizedDistribution, SquashedGaussianDistribution, check_bounded
from keras_optix.agents.twins import twin_of
from keras_optix.errors import ConfigurationError, SpaceError, describe
from keras_optix.experience.actions import Actions
from keras_optix.experience.observations import ObservationLayout
from keras_optix.ops.targets import soft_update
from keras_optix.records import LEARNING_RATE
from keras_optix.tuners.search_space import Log, SearchSpace
from keras_optix.validation import check_float, check_int, refuse_kind

AUTO = "auto"

_HIDDEN = (256, 256)
_PER_AXIS = -1.0  # the default target entropy of an axis


@keras.saving.register_keras_serializable("keras_optix")
class SACAgent(OffPolicyAgent):
    """Soft actor-critic (Haarnoja et al. 2018, arXiv 1812.05905), for Box actions whose axes all have bounds.

    The policy maximises the return plus its own entropy times a temperature. Two critics learn the value of actions,
    ``Q(s, a)``. Their targets are ``G + gamma^m (min(Q1', Q2')(s', a') - temperature * log p(a' | s'))``, where ``G``
    are the rewards of the m env steps that a transition spans, ``a'`` is drawn from the policy, and ``Q1'`` and ``Q2'``
    are copies of the critics that follow them slowly. The policy learns from the gradient of
    ``temperature * log p(a | s) - min(Q1, Q2)(s, a)`` for actions ``a`` that it draws anew. The temperature, unless it
    is fixed, rises while the entropy of the policy is below `target_entropy`, and falls while it is above.

    A gradient step is one step of the optimizer for the sum of the three losses. Each variable gets only the gradient
    of its own loss, so that with an optimizer that treats each number on its own, as Adam does, this equals one
    optimizer for each loss with the same learning rate. All losses are those of the weights before the step, also where
    the policy's loss uses the critics. Layers that you share between policy and critic get the gradients of both.

    The untrained policy, not a uniform distribution, acts before learning starts. With n-step returns, the entropy of
    the policy counts only after the last of these steps.

    Its logs are means over the gradient steps of the last window: `loss`, `critic_loss` (half the mean squared error of
    each critic, summed), `policy_loss`, `temperature`, `entropy` (of the policy in nats, estimated from one action for
    each observation), `q_values` (mean value of the stored actions), `td_error` (mean absolute error of the critics).
    `gradient_steps`, `replay_size`, `effective_step_size`, `episode_return`, `episode_length` and `policy_lag` are
    those of every such agent.

    `search_spaces`, in this order: learning_rate Log(1e-5, 1e-2), gamma OneMinusLog(0.9, 0.9999), tau Log(1e-3, 1e-1),
    and temperature Log(1e-3, 1) if it is fixed. They contain the values of the RL Baselines3 Zoo
    (hyperparams/sac.yml). The target entropy is left out: it depends on the task's number of axes, and the temperature
    adapts to it.

    Args:
        policy: Maps observations to the parameters of the distribution: the mean and the log standard deviation of each
            axis, or the means alone. None builds a network with `hidden_units` (images: convolutions).
        critic: Maps ``[observations, actions [B, k]]`` to values ``[B, 1]``. The second critic has the same layers and
            other initial weights, and the two slow copies are made of these. Actions are -1 .. 1, whatever the bounds.
            None builds networks with `hidden_units` (images: convolutions before them).
        gamma: Discount in [0, 1]. Tunable. Defaults to 0.99.
        tau: Share by which the slow copies move towards the critics after each gradient step. Tunable. Defaults to
            0.005.
        temperature: Weight of the entropy, or ``"auto"``, which learns it. A number is tunable. Defaults to ``"auto"``.
        initial_temperature: The first value if it is learned. Defaults to 1.
        target_entropy: The entropy in nats that the temperature aims at if it is learned. A hyperparameter. None stands
            for minus the number of axes, once the environment is known.
        buffer_size: The observations that the replay buffer holds, each once; it is allocated when the first window is
            stored. A million images of 84 x 84 bytes take 7 GB. Defaults to 1,000,000.
        batch_size: Transitions in the batch of a gradient step. Defaults to 256.
        learning_starts: Env steps that are stored before the first gradient step. Defaults to 100.
        gradient_steps_per_env_step: Gradient steps for each env step, all of them after each window. Defaults to 1.
        n_step: Env steps that a transition spans at most. Defaults to 1.
        prioritized_replay: Whether transitions with larger errors are drawn more often; see `OffPolicyAgent`. Only the
            critics' loss is corrected for it. Defaults to False.
        priority_exponent: Exponent of the priorities, with `prioritized_replay`. Tunable. Defaults to 0.6.
        importance_exponent: Exponent of the importance weights, with `prioritized_replay`. Tunable. Defaults to 0.4.
        max_grad_norm: Largest global norm of the gradient of all three losses together. Tunable. None, the default,
            does not clip.
        hidden_units: Units of the hidden ReLU layers of the default networks. None stands for two layers of 256.
        normalize_observations: Centre and scale floating-point observations by their running mean and deviation.
            Defaults to False.
        distribution: The distribution over actions, a `ReparameterizedDistribution`. None stands for
            `SquashedGaussianDistribution`; `SquashedStateDependentNoise` explores smoothly.
        seed: Seed of the sampling in `act`.
        name: Name of the model.

    Attributes:
        log_temperature: The variable of the temperature's logarithm; None if the temperature is fixed.

    Raises:
        ConfigurationError: An argument is out of range, or has no effect beside another one.

    Examples:
        >>> agent = optix.SACAgent(buffer_size=1_000, learning_starts=20, batch_size=16)
        >>> agent.compile(optimizer="adam", jit_compile=False)
        >>> dataset = optix.dataset_from_env("Pendulum-v1", agent, window_size=16, seed=0)
        >>> logs = agent.fit(dataset, steps_per_epoch=2, verbose=0).history
    """

    supported_action_spaces = (gymnasium.spaces.Box,)
    network_roles = ("policy", "critic")
    fixed_when_bound = OffPolicyAgent.fixed_when_bound | {"critic"}
    default_spaces: ClassVar[Mapping[str, SearchSpace | tuple[float, float]]] = {
        LEARNING_RATE: Log(1e-5, 1e-2),
        "tau": Log(1e-3, 1e-1),
        "temperature": Log(1e-3, 1.0),
    }

    def __init__(
        self,
        policy: Any = None,
        critic: Any = None,
        *,
        gamma: float = 0.99,
        tau: float = 0.005,
        temperature: float | str = AUTO,
        initial_temperature: float = 1.0,
        target_entropy: float | None = None,
        buffer_size: int = 1_000_000,
        batch_size: int = 256,
        learning_starts: int = 100,
        gradient_steps_per_env_step: float = 1.0,
        n_step: int = 1,
        prioritized_replay: bool = False,
        priority_exponent: float = 0.6,
        importance_exponent: float = 0.4,
        max_grad_norm: float | None = None,
        hidden_units: Sequence[int] | None = None,
        normalize_observations: bool = False,
        distribution: ActionDistribution | None = None,
        seed: int | None = None,
        name: str | None = None,
    ) -> None:
        learned = _check_temperature(temperature, initial_temperature, target_entropy)
        hyperparams = {"tau": declared("tau", tau, 0.0, 1.0)}
        if learned:
            entropy = _PER_AXIS if target_entropy is None else target_entropy
            hyperparams["target_entropy"] = declared("target_entropy", entropy, -math.inf)
        else:
            hyperparams["temperature"] = declared("temperature", temperature)
        if max_grad_norm is not None:
            hyperparams["max_grad_norm"] = declared("max_grad_norm", max_grad_norm, 1e-6)
        if hidden_units is not None and policy is not None and critic is not None:
            problem = "`hidden_units` are those of default networks, but the agent was given both networks."
            raise ConfigurationError(describe(problem, fix="Leave it out.", hidden_units=hidden_units))
        check_kind(policy, "policy")
        check_kind(critic, "critic")
        super().__init__(
            policy,
            gamma=gamma,
            buffer_size=buffer_size,
            batch_size=batch_size,
            learning_starts=learning_starts,
            gradient_steps_per_env_step=gradient_steps_per_env_step,
            n_step=n_step,
            prioritized_replay=prioritized_replay,
            priority_exponent=priority_exponent,
            importance_exponent=importance_exponent,
            hyperparams=hyperparams,
            normalize_observations=normalize_observations,
            distribution=distribution,
            seed=seed,
            name=name,
        )
        self.critic = critic
        self.initial_temperature = float(initial_temperature)
        self.hidden_units = None if hidden_units is None else _check_units(hidden_units)
        self.log_temperature: Any = None
        self._axes = 0  # until the agent is bound
        self._learns_temperature = learned
        self._entropy_by_axes = learned and target_entropy is None

    @classmethod
    def preset(cls, env_id: str, **overrides: Any) -> Self:
        """Makes an agent with hyperparameters that were tuned for a task, compiled and ready for `fit`.

        They are those of the RL Baselines3 Zoo (Raffin 2020), hyperparams/sac.yml, for Pendulum-v1,
        MountainCarContinuous-v0, LunarLanderContinuous-v3, BipedalWalker-v3 and BipedalWalkerHardcore-v3. Other
        versions of an id have the same preset. `keras_optix.agents.sac_presets` holds them, with the commit of the file
        and with what is different here.

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
            >>> agent = optix.SACAgent.preset("Pendulum-v1", gamma=0.98)
            >>> agent.hyperparams["learning_rate"]
            0.001
        """
        agent: Self = agent_from_preset(cls, SAC_PRESETS, env_id, overrides)
        return agent

    def get_config(self) -> dict[str, Any]:
        """See `Agent.get_config`."""
        own: dict[str, Any] = {"initial_temperature": self.initial_temperature}
        if self._learns_temperature:
            own["temperature"] = AUTO
            if self._entropy_by_axes and not self.bound:
                own["target_entropy"] = None
        if self.hidden_units is not None:
            own["hidden_units"] = list(self.hidden_units)
        return super().get_config() | own

    # Networks

    def _distribution_wanted(self) -> ActionDistribution | None:
        return SquashedGaussianDistribution() if self.distribution is None else self.distribution

    def _built_head(
        self, layout: ObservationLayout, actions: Actions, distribution: ActionDistribution, action_space: Any
    ) -> PolicyHead:
        name = type(self).__name__
        if not isinstance(distribution, ReparameterizedDistribution):
            problem = f"{name} needs actions that are differentiable functions of the policy, with their log-density."
            fix = "Give SquashedGaussianDistribution() or SquashedStateDependentNoise() of optix.distributions."
            raise SpaceError(describe(problem, fix=fix, distribution=distribution))
        check_bounded(name, action_space)
        self._axes = int(actions.shape[0])
        return super()._built_head(layout, actions, distribution, action_space)

    def _hidden(self) -> HiddenLayers:
        # As PyTorch's networks begin, with which the presets were tuned.
        return HiddenLayers(self.hidden_units or _HIDDEN, "relu", orthogonal=False)

    def build_networks(self, layout: ObservationLayout) -> None:
        """See `Agent.build_networks`."""
        super().build_networks(layout)
        axes = self._axes
        if self.critic is None:
            saved = self._registered.waiting.get("critic")
            self.add_network("critic", saved or default_critic(layout, axes, hidden=self._hidden(), name="critic"))
        check_critic(self.critic, layout=layout, axes=axes, policy=self.policy)
        zeros = layout.pack([tf.zeros((1, *leaf.shape), leaf.dtype) for leaf in layout.leaves])
        example = critic_inputs(self.critic, zeros, tf.zeros((1, axes)), layout)
        self.add_network("second_critic", twin_of(self.critic, example, "critic", same_weights=False))
        for name, critic in (("target_critic", self.critic), ("second_target_critic", self.second_critic)):
            self.add_network(name, twin_of(critic, example, "critic", same_weights=True), trainable=False)
        if self._learns_temperature:
            begins = keras.initializers.Constant(math.log(self.initial_temperature))
            self.log_temperature = self.add_weight(
                shape=(), initializer=begins, dtype="float32", name="log_temperature"
            )
            if self._entropy_by_axes and self.hyperparams["target_entropy"] == _PER_AXIS:
                self.hyperparams["target_entropy"] = _PER_AXIS * axes

    # Learning

    def gradient_step(self, batch: Transitions, seed: Any) -> tuple[dict[str, Any], Any]:
        """See `OffPolicyAgent.gradient_step`."""
        temperature, targets = self._temperature(), self._targets(batch, seed)
        noise = self._noise(batch, seed + tf.constant([0, 1]))
        found: list[Any] = []

        def compute() -> tuple[Any, dict[str, Any]]:
            choices, log_probs = self._choose(batch.observations, noise, training=True)
            entropy = -ops.mean(log_probs)
            best = [fixed_action_values(one, self.head, batch.observations, choices) for one in self._critics]
            policy_loss = ops.mean(temperature * log_probs - ops.minimum(*best))
            values = [
                action_values(one, self.head, batch.observations, batch.actions, training=True) for one in self._critics
            ]
            errors = [one - targets for one in values]
            found[:] = [ops.stop_gradient(0.5 * (ops.abs(errors[0]) + ops.abs(errors[1])))]
            critic_loss = 0.5 * ops.mean(batch.weights * (ops.square(errors[0]) + ops.square(errors[1])))
            loss = policy_loss + critic_loss + self._temperature_loss(ops.stop_gradient(entropy))
            return loss, {
                "critic_loss": critic_loss,
                "policy_loss": policy_loss,
                "temperature": temperature,
                "entropy": entropy,
                "q_values": 0.5 * (ops.mean(values[0]) + ops.mean(values[1])),
                "td_error": ops.mean(found[0]),
            }

        norm = self.hyperparams.tensor("max_grad_norm") if "max_grad_norm" in self.hyperparams else None
        logs = self.minimize(compute, max_grad_norm=norm)
        for target, critic in zip((self.target_critic, self.second_target_critic), self._critics, strict=True):
            soft_update(target.variables, critic.variables, self.hyperparams.tensor("tau"))
        return logs, found[0]

    def predictions(self, batch: Transitions) -> Any:
        """See `OffPolicyAgent.predictions`: the values of the stored actions by the first critic."""
        return action_values(self.critic, self.head, batch.observations, batch.actions, training=False)

    @property
    def _critics(self) -> tuple[Any, Any]:
        return self.critic, self.second_critic

    def _targets(self, batch: Transitions, seed: Any) -> Any:
        """Computes the targets ``[B]`` of the critics."""
        following, log_probs = self._choose(batch.next_observations, self._noise(batch, seed), training=False)
        values = [
            action_values(one, self.head, batch.next_observations, following, training=False)
            for one in (self.target_critic, self.second_target_critic)
        ]
        soft = ops.minimum(*values) - self._temperature() * log_probs
        return ops.stop_gradient(batch.returns + batch.discounts * soft)

    def _choose(self, observations: Any, noise: Any, *, training: bool) -> tuple[Any, Any]:
        """Draws actions ``[B, k]`` from the policy, and computes their log-densities ``[B]``."""
        head = self.head
        distribution = cast(ReparameterizedDistribution, head.distribution)  # `_built_head` has checked it
        return distribution.sample_with_log_prob(head.parameters(observations, training), noise)

    def _noise(self, batch: Transitions, seed: Any) -> Any:
        return tf.random.stateless_normal((int(batch.returns.shape[0]), self._axes), seed)

    def _temperature(self) -> Any:
        """Returns the temperature, without a gradient."""
        if self.log_temperature is None:
            return self.hyperparams.tensor("temperature")
        return ops.stop_gradient(ops.exp(ops.convert_to_tensor(self.log_temperature)))

    def _temperature_loss(self, entropy: Any) -> Any:
        """Computes ``log(temperature) * (entropy - target_entropy)``.

        Haarnoja et al. 2018, eq. 18, with the logarithm in place of the temperature, as in the authors' code.
        """
        if self.log_temperature is None:
            return 0.0
        return ops.convert_to_tensor(self.log_temperature) * (entropy - self.hyperparams.tensor("target_entropy"))


def _check_temperature(temperature: Any, initial: Any, target_entropy: Any) -> bool:
    """Checks the arguments of the temperature, and returns whether it is learned."""
    check_float("initial_temperature", initial, low=0.0, low_open=True)
    if isinstance(temperature, str):
        if temperature != AUTO:
            refuse_kind("temperature", temperature, 'a number, or "auto"')
        return True
    if target_entropy is not None or initial != 1.0:
        name, value = ("initial_temperature", initial) if target_entropy is None else ("target_entropy", target_entropy)
        problem = f"`{name}` belongs to a temperature that is learned, but `temperature` is a number."
        fix = f'Leave `{name}` out, or give temperature="auto".'
        raise ConfigurationError(describe(problem, fix=fix, temperature=temperature, **{name: value}))
    return False


def _check_units(hidden_units: Any) -> tuple[int, ...]:
    if isinstance(hidden_units, str) or not isinstance(hidden_units, Sequence) or not hidden_units:
        refuse_kind("hidden_units", hidden_units, "the units of each hidden layer, such as (256, 256)")
    return tuple(check_int("hidden_units", units, minimum=1) for units in hidden_units)
