"""The base of agents that learn the value of each action: the network, its epsilon-greedy choice, and exploration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium

from keras_optix.agents.agent import Agent
from keras_optix.agents.default_networks import HiddenLayers, default_network
from keras_optix.agents.distributions import ActionDistribution
from keras_optix.agents.epsilon_greedy import EpsilonGreedyDistribution
from keras_optix.agents.exploration import Exploration
from keras_optix.agents.hyperparams import Hyperparam, declared
from keras_optix.experience.observations import ObservationLayout
from keras_optix.ops.values import value_of_choice
from keras_optix.tuners.search_space import Log, OneMinusLog, SearchSpace
from keras_optix.validation import check_float, check_int


class QAgent(Agent):
    """An agent that learns the value of each action, its expected discounted return; base of `PQNAgent`.

    Plays Discrete actions: the action with the largest value, or with probability epsilon a random one, see
    `EpsilonGreedyDistribution`. Evaluations are greedy, as for every agent.

    Epsilon falls linearly from `initial_epsilon` to the hyperparameter `epsilon`, over the first
    `exploration_env_steps` env steps of training. It stays the same within a window. The `train_step` of a derived
    class calls `note_env_steps`, which sets epsilon for the windows that follow. How far exploration has come is saved
    in files and in resume points; restoring an older policy version, as a rollback does, does not begin it again. Only
    an agent that has not trained yet takes it from the state that it is given, such as a snapshot. After a change point
    it begins again if ``AfterShift(exploration=...)`` says so.

    `search_spaces` has, after the learning rate, gamma OneMinusLog(0.9, 0.9999) and epsilon Log(0.005, 0.2). The tuned
    DQN agents in the RL Baselines3 Zoo (hyperparams/dqn.yml) have a final epsilon of 0.01 to 0.2.

    Args:
        policy: Maps observations to the value of each action, ``[B, n]``. None builds a network when the environment is
            known.
        gamma: Discount in [0, 1].
        epsilon: Probability of a random action at the end of exploration, in [0, 1].
        initial_epsilon: Probability of a random action before the first env step, in [0, 1].
        exploration_env_steps: Env steps of training over which epsilon falls.
        max_grad_norm: Largest global norm of the gradient.
        hyperparams: Further hyperparameters of the algorithm.
        **kwargs: As for `Agent`, except `distribution`.

    Attributes:
        hidden_layers: The hidden layers of the network that is built if none is given: 120 and 84 ReLU units here, as
            in CleanRL (Huang et al. 2022, "CleanRL", JMLR 23).
        output_gain: Gain of the orthogonal weights of its last layer.

    Raises:
        ConfigurationError: An argument is out of range.
    """

    supported_action_spaces = (gymnasium.spaces.Discrete,)
    hidden_layers: ClassVar[HiddenLayers] = HiddenLayers((120, 84), "relu")
    output_gain: ClassVar[float] = 2.0**0.5
    default_spaces: ClassVar[Mapping[str, SearchSpace | tuple[float, float]]] = {
        "gamma": OneMinusLog(0.9, 0.9999),
        "epsilon": Log(0.005, 0.2),
    }

    def __init__(
        self,
        policy: Any = None,
        *,
        gamma: float,
        epsilon: float,
        initial_epsilon: float,
        exploration_env_steps: int,
        max_grad_norm: float,
        hyperparams: Mapping[str, Hyperparam] | None = None,
        **kwargs: Any,
    ) -> None:
        shared = {
            "gamma": declared("gamma", gamma, 0.0, 1.0),
            "epsilon": declared("epsilon", epsilon, 0.0, 1.0),
            "max_grad_norm": declared("max_grad_norm", max_grad_norm, 1e-6),
        }
        super().__init__(policy, hyperparams=shared | dict(hyperparams or {}), **kwargs)
        self.initial_epsilon = initial_epsilon
        self.exploration_env_steps = exploration_env_steps
        self._env_steps: Any = None

    @property
    def initial_epsilon(self) -> float:
        """Epsilon before the first env step. A new value takes effect in the next `fit`, which compiles again."""
        return self._initial_epsilon

    @initial_epsilon.setter
    def initial_epsilon(self, initial_epsilon: float) -> None:
        self._initial_epsilon = check_float("initial_epsilon", initial_epsilon, low=0.0, high=1.0)
        self.train_function = None

    @property
    def exploration_env_steps(self) -> int:
        """Env steps over which epsilon falls. A new value takes effect in the next `fit`, which compiles again."""
        return self._exploration_env_steps

    @exploration_env_steps.setter
    def exploration_env_steps(self, exploration_env_steps: int) -> None:
        fix = "For an epsilon that is always the same, give initial_epsilon=epsilon."
        checked = check_int("exploration_env_steps", exploration_env_steps, minimum=1, fix=fix)
        self._exploration_env_steps = checked
        self.train_function = None

    def get_config(self) -> dict[str, Any]:
        """See `Agent.get_config`."""
        own = {"initial_epsilon": self.initial_epsilon, "exploration_env_steps": self.exploration_env_steps}
        return super().get_config() | own

    # Networks

    def _distribution_wanted(self) -> ActionDistribution:
        return EpsilonGreedyDistribution(self.initial_epsilon)

    def _default_policy(self, layout: ObservationLayout, distribution: ActionDistribution) -> Any:
        sizes: dict[str, Any] = {"output_gain": self.output_gain, "name": "policy", "hidden": self.hidden_layers}
        return default_network(layout, distribution.outputs[0], **sizes)

    def build_networks(self, layout: ObservationLayout) -> None:
        """See `Agent.build_networks`."""
        super().build_networks(layout)
        self._env_steps = self.add_weight(
            shape=(), initializer="zeros", dtype="int64", trainable=False, name="explored_env_steps"
        )

    def call(self, observations: Any, training: bool | None = None) -> Any:
        """Computes the value of each action, ``[B, n]``.

        Args:
            observations: ``[B, ...]``.
            training: As for `keras.Model.call`.
        """
        # The last of the parameters is epsilon.
        return self.head.parameters(observations, training=bool(training))[:, :-1]

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """See `WindowTrainer.compute_output_shape`."""
        batch = super().compute_output_shape(input_shape)[:-1]
        return (*batch, self.head.distribution.parameters - 1)

    # Values

    def values_of_actions(self, observations: Any, actions: Any, training: bool) -> Any:
        """Computes the values ``[B]`` of actions ``[B]`` for observations ``[B, ...]``."""
        return value_of_choice(self.call(observations, training=training), actions)

    # Exploration

    def note_env_steps(self, env_steps: Any) -> Any:
        """Counts env steps of training, and sets epsilon for those that follow. Call it once in each `train_step`.

        Args:
            env_steps: Scalar, the new env steps: the number of valid rows of the window.

        Returns:
            Scalar, the epsilon until now, for the log `epsilon`.
        """
        return self._exploration().advance(
            env_steps,
            initial=self.initial_epsilon,
            final=self.hyperparams.tensor("epsilon"),
            duration=self.exploration_env_steps,
        )

    def forget_exploration(self, share: float) -> None:
        """See `Agent.forget_exploration`: epsilon is what it was after this share of its schedule."""
        if self.explored_env_steps:
            self._exploration().forget(
                check_float("share", share, low=0.0, high=1.0),
                initial=self.initial_epsilon,
                final=self.hyperparams["epsilon"],
                duration=self.exploration_env_steps,
            )

    @property
    def explored_env_steps(self) -> int:
        """The env steps of training so far, from which epsilon follows; 0 for an agent that knows no environment."""
        return 0 if self._env_steps is None else int(self._env_steps.numpy())

    @property
    def exploration_left(self) -> int | None:
        """See `Agent.exploration_left`: until epsilon is no longer lowered."""
        left = self.exploration_env_steps - self.explored_env_steps
        others = super().exploration_left
        return left if others is None else max(left, others)

    @property
    def run_variables(self) -> list[Any]:
        """See `ActingAgent.run_variables`: the counted env steps, and epsilon.

        Empty until the first env step of training: an agent that takes the state of another one before it has trained
        goes on with the exploration of that agent, so that it acts as that agent did.
        """
        return [*super().run_variables, *(self._exploration().variables if self.explored_env_steps else [])]

    def _exploration(self) -> Exploration:
        return Exploration(self._env_steps, self.head.weight)
