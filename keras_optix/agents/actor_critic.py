"""The base of agents with a policy and a value network: it holds the value network and flattens windows to rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import tensorflow as tf
from keras import ops

from keras_optix.agents.default_networks import HiddenLayers, default_network, default_network_beside, has_images
from keras_optix.agents.distributions import ActionDistribution
from keras_optix.agents.epsilon_greedy import EpsilonGreedyDistribution
from keras_optix.agents.hyperparams import Hyperparam, declared
from keras_optix.agents.network_checks import check_kind, check_network
from keras_optix.agents.networks import network_inputs
from keras_optix.agents.reward_scaling import RewardScalingAgent
from keras_optix.agents.rows import flatten, size_of
from keras_optix.agents.shared_layers import JointNetwork, join
from keras_optix.errors import ConfigurationError, SpaceError, describe
from keras_optix.experience.observations import ObservationLayout
from keras_optix.experience.window import Window
from keras_optix.ops import losses
from keras_optix.tuners.search_space import Linear, OneMinusLog, SearchSpace
from keras_optix.validation import check_bool


class Rows(NamedTuple):
    """The rows of a window, flattened from ``[T, N, ...]`` to ``[B, ...]``, for a loss.

    Attributes:
        observations: ``[B, ...]``, as in the window.
        actions: ``[B, ...]``.
        log_probs: ``[B]``, log-probabilities of the actions under the policy that acted.
        advantages: ``[B]``.
        returns: ``[B]``, targets of the value network.
        weights: ``[B]``, 0 for rows that are not transitions, otherwise 1.
    """

    observations: Any
    actions: Any
    log_probs: Any
    advantages: Any
    returns: Any
    weights: Any


class ActorCriticAgent(RewardScalingAgent):
    """An agent with a value network; base of `ReinforceAgent` and `PPOAgent`.

    `search_spaces` has, after the learning rate, entropy_coefficient Linear(0, 0.05), whose scale includes 0, and gamma
    OneMinusLog(0.9, 0.9999). The tuned agents in the RL Baselines3 Zoo have discounts of 0.9 to 0.9999 and entropy
    weights of at most 0.01. The weight of the value loss and the largest gradient norm are left out, because they
    matter little if the networks share no weights and the optimizer rescales gradients, as Adam does.

    Policy and value network may share layers: ``value=keras.Model(policy.inputs, Dense(1)(features))``, where
    ``features`` is a tensor inside the policy, or two models that begin with the same layer objects. Shared layers get
    the gradients of both losses. If both networks are functional or sequential models, shared layers are computed once
    in a gradient step, and saved once.

    Args:
        policy: Maps observations to the parameters of a distribution over actions; see `Agent`. None builds one.
        value: Maps observations to values ``[B, 1]``. None builds a network.
        gamma: Discount in [0, 1].
        entropy_coefficient: Weight of the entropy bonus.
        value_coefficient: Weight of the value loss.
        max_grad_norm: Largest global norm of the gradient.
        normalize_rewards: Scale rewards by the running deviation of their discounted return; see `RewardScale`. Logged
            episode returns are those of the environment. Defaults to False.
        share_features: Whether the default networks for observations with images share the convolutions and the dense
            layer after them. Defaults to True. In networks that you give, share layers yourself.
        orthogonal_init: Whether the weights of the default networks begin orthogonal, with a gain of 0.01 in the last
            layer of the policy, so that its actions are all alike at first. If not, all weights begin uniform in
            +-1 / sqrt(inputs), as those of PyTorch do. Defaults to True.
        hyperparams: Further hyperparameters of the algorithm.
        **kwargs: As for `Agent`.

    Raises:
        ConfigurationError: An argument is out of range.
        SpaceError: A network is not a `keras.Model`.
    """

    default_spaces: ClassVar[Mapping[str, SearchSpace | tuple[float, float]]] = {
        "entropy_coefficient": Linear(0.0, 0.05),
        "gamma": OneMinusLog(0.9, 0.9999),
    }

    def __init__(
        self,
        policy: Any = None,
        value: Any = None,
        *,
        gamma: float,
        entropy_coefficient: float,
        value_coefficient: float,
        max_grad_norm: float,
        normalize_rewards: bool = False,
        share_features: bool = True,
        orthogonal_init: bool = True,
        hyperparams: Mapping[str, Hyperparam] | None = None,
        **kwargs: Any,
    ) -> None:
        shared = {
            "gamma": declared("gamma", gamma, 0.0, 1.0),
            "entropy_coefficient": declared("entropy_coefficient", entropy_coefficient),
            "value_coefficient": declared("value_coefficient", value_coefficient),
            "max_grad_norm": declared("max_grad_norm", max_grad_norm, 1e-6),
        }
        check_kind(policy, "policy")
        check_kind(value, "value")
        check_bool("share_features", share_features)
        if not check_bool("orthogonal_init", orthogonal_init) and policy is not None and value is not None:
            problem = "`orthogonal_init` says how the default networks begin, but both networks are given."
            fix = "Leave it out, and give your layers the initializers that you want."
            raise ConfigurationError(describe(problem, fix=fix, orthogonal_init=orthogonal_init))
        super().__init__(policy, hyperparams=shared | dict(hyperparams or {}), **kwargs)
        self._distribution_wanted()  # raises if the algorithm cannot use it
        self.value = value
        self.share_features, self.orthogonal_init = share_features, orthogonal_init
        self._joint: JointNetwork | None = None
        self._begin_scaling(normalize_rewards)

    def _distribution_wanted(self) -> ActionDistribution | None:
        if isinstance(self.distribution, EpsilonGreedyDistribution):
            name = type(self).__name__
            problem = f"{name} learns from log-probabilities, which have no gradient in an epsilon-greedy choice."
            fix = "Use PQNAgent, which learns the value of each action, or leave `distribution` out."
            raise ConfigurationError(describe(problem, fix=fix, distribution=self.distribution))
        return super()._distribution_wanted()

    def _hidden(self) -> HiddenLayers:
        return HiddenLayers(orthogonal=self.orthogonal_init)

    def build_networks(self, layout: ObservationLayout) -> None:
        """See `Agent.build_networks`."""
        if self.value is None:
            share = self.share_features and has_images(layout) and "policy" in self._registered.while_binding
            sizes: dict[str, Any] = {"output_gain": 1.0, "name": "value", "hidden": self._hidden()}
            if "value" in self._registered.waiting:
                self.add_network("value", self._registered.waiting["value"])
            elif share:
                self.add_network("value", default_network_beside(self.policy, layout, 1, **sizes))
            else:
                self.add_network("value", default_network(layout, 1, **sizes))
        if self.value is self.policy:
            raise SpaceError(
                describe(
                    "`policy` and `value` are one model, so both losses would train the same output.",
                    fix="Give each its own last layer; they may share the layers before it.",
                    policy=self.policy,
                )
            )
        check_network(self.value, "value", layout=layout, outputs=(1,))
        self._joint = join(self.policy, self.value)

    def get_config(self) -> dict[str, Any]:
        """See `Agent.get_config`."""
        # Only what differs from the defaults, as in files of earlier versions.
        own = {"share_features": self.share_features, "orthogonal_init": self.orthogonal_init}
        return super().get_config() | {name: value for name, value in own.items() if not value}

    def value_of(self, observations: Any, training: bool) -> Any:
        """Computes values ``[B]`` of observations ``[B, ...]``, which are normalised as for the policy."""
        head = self.head
        inputs = network_inputs(self.value, head.inputs(observations), head.layout)
        return ops.cast(self.value(inputs, training=training), "float32")[:, 0]

    def parameters_and_values(self, observations: Any, training: bool) -> tuple[Any, Any]:
        """Computes the outputs of both networks for observations; layers that they share are computed once.

        Args:
            observations: ``[B, ...]``.
            training: As for `keras.Model.call`.

        Returns:
            Parameters of the policy's distribution ``[B, P]``, and values ``[B]``.
        """
        if self._joint is None:
            return self.head.parameters(observations, training), self.value_of(observations, training)
        outputs, values = self._joint(self.head.inputs(observations), training)
        return self.head.parameters_of(outputs), ops.cast(values, "float32")[:, 0]

    def values_of(self, window: Window) -> tuple[Any, Any]:
        """Computes values of the observations and of the next observations, both ``[T, N]``, in one network call."""
        steps, n = size_of(window)
        both = tf.nest.map_structure(
            lambda now, later: tf.concat([flatten(now), flatten(later)], 0),
            window.observations,
            window.next_observations,
        )
        return tuple(tf.unstack(tf.reshape(self.value_of(both, training=False), (2, steps, n))))

    def total_loss(self, policy_loss: Any, parameters: Any, values: Any, rows: Rows) -> tuple[Any, Any, Any]:
        """Adds the value loss and the entropy bonus to the policy's loss.

        Args:
            policy_loss: Scalar.
            parameters: Parameters of the policy's distribution, ``[B, P]``.
            values: Values of the observations, ``[B]``.
            rows: The rows.

        Returns:
            ``(loss, value_loss, entropy)``.
        """
        errors = rows.returns - values
        value_loss = losses.weighted_mean(0.5 * ops.square(errors), rows.weights)
        entropy = losses.weighted_mean(self.head.distribution.entropy(parameters), rows.weights)
        value_coefficient = self.hyperparams.tensor("value_coefficient")
        loss = policy_loss + value_coefficient * value_loss - self.hyperparams.tensor("entropy_coefficient") * entropy
        return loss, value_loss, entropy

    def rows_of(self, window: Window, advantages: Any, returns: Any) -> Rows:
        """Flattens a window to rows."""
        return Rows(
            observations=tf.nest.map_structure(flatten, window.observations),
            actions=flatten(window.actions),
            log_probs=flatten(window.log_probs),
            advantages=flatten(advantages),
            returns=flatten(returns),
            weights=tf.cast(flatten(window.valid), tf.float32),
        )
