"""The epsilon-greedy choice of actions, for networks that give the value of each action."""

from __future__ import annotations

from typing import Any

import keras

from keras_optix.agents.distributions import OverActions
from keras_optix.experience.actions import DiscreteActions
from keras_optix.experience.actor import NoiseSpec
from keras_optix.ops.distributions import EpsilonGreedy
from keras_optix.validation import check_float


@keras.saving.register_keras_serializable("keras_optix")
class EpsilonGreedyDistribution(OverActions):
    """The action with the largest value, or with probability epsilon a random one.

    See Watkins 1989, "Learning from delayed rewards", and Sutton and Barto 2018, "Reinforcement learning", section 2.2.

    For Discrete actions. A network gives the value of each action ``[B, n]``. Epsilon is a further parameter: a weight
    of the agent, ``agent.head.weight``, which no optimizer changes. `PQNAgent` lowers it while it trains. Its noise is
    uniform ``[n + 1]``; zeros give the greedy action.

    An algorithm that learns from the gradient of log-probabilities, such as `PPOAgent`, cannot use it, because that
    gradient is zero.

    Args:
        epsilon: The probability of a random action, which may also be the greedy one, in [0, 1]. It is the first value
            of the weight. Defaults to 1.

    Raises:
        ConfigurationError: `epsilon` is not a number in [0, 1].

    Examples:
        >>> agent = optix.DQNAgent(epsilon=0.05)  # has one
        >>> optix.distributions.EpsilonGreedyDistribution(epsilon=0.1).epsilon
        0.1
    """

    takes_values = True
    learns_weight = False
    _kind = DiscreteActions
    _over: EpsilonGreedy

    def __init__(self, epsilon: float = 1.0) -> None:
        self.epsilon = check_float("epsilon", epsilon, low=0.0, high=1.0)
        self.initial_weight = self.epsilon

    def _parts(self, actions: Any) -> tuple[EpsilonGreedy, NoiseSpec]:
        return EpsilonGreedy(actions.n), NoiseSpec("uniform", (actions.n + 1,))

    def logits(self, parameters: Any) -> Any:
        """Computes logits of the same probabilities, ``[B, n]``; see `keras_optix.ops.distributions.EpsilonGreedy`."""
        return self._over.logits(parameters)

    @property
    def outputs(self) -> tuple[int, ...]:
        """See `ActionDistribution.outputs`: the value of each action."""
        return (self.parameters - 1,)

    def meaning(self, action_space: Any) -> str:
        """See `ActionDistribution.meaning`."""
        return f"the value of each action of {action_space}"

    def get_config(self) -> dict[str, Any]:
        """See `ActionDistribution.get_config`."""
        return {"epsilon": self.epsilon}
