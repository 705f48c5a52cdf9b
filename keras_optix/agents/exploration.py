"""The probability of a random action, which falls while an agent trains."""

from __future__ import annotations

from typing import Any

from keras import ops

Tensor = Any


def epsilon_after(env_steps: Tensor, initial: Tensor, final: Tensor, duration: Tensor) -> Tensor:
    """Computes the epsilon of a linear schedule.

    It is that of DQN (Mnih et al. 2015, "Human-level control through deep reinforcement learning", Nature 518).

    Args:
        env_steps: Scalar, env steps of training so far.
        initial: Scalar, epsilon before the first env step.
        final: Scalar, epsilon from `duration` env steps on. It may be above `initial`.
        duration: Env steps from `initial` to `final`.

    Returns:
        Scalar float32.
    """
    share = ops.minimum(ops.cast(env_steps, "float32") / duration, 1.0)
    # At the end it is exactly `final`: `initial + share * (final - initial)` would be rounded.
    return (1.0 - share) * initial + share * final


class Exploration:
    """Epsilon and the number of env steps of training, two variables of an agent that belong to the run.

    It is a plain object, because the agent itself holds the variables: Keras then tracks each of them once.

    Args:
        env_steps: int64 variable, counts env steps.
        epsilon: float32 variable ``[1]``, the current epsilon; the weight of an `EpsilonGreedyDistribution`.
    """

    def __init__(self, env_steps: Any, epsilon: Any) -> None:
        self._env_steps = env_steps
        self._epsilon = epsilon

    @property
    def variables(self) -> list[Any]:
        """Both variables."""
        return [self._env_steps, self._epsilon]

    def advance(self, env_steps: Tensor, *, initial: float, final: Tensor, duration: int) -> Tensor:
        """Counts env steps, and sets epsilon for those that follow.

        Args:
            env_steps: Scalar, the env steps that the agent has been given.
            initial: Epsilon before the first env step.
            final: Scalar, epsilon from `duration` env steps on.
            duration: Env steps from `initial` to `final`.

        Returns:
            Scalar, the epsilon until now.
        """
        before = ops.copy(self._epsilon.value)[0]
        total = self._env_steps.value + ops.cast(env_steps, "int64")
        self._env_steps.assign(total)
        self._epsilon.assign(ops.reshape(epsilon_after(total, initial, final, duration), (1,)))
        return before

    def forget(self, share: float, *, initial: float, final: float, duration: int) -> None:
        """Takes the exploration back, outside of a compiled step.

        Args:
            share: The share of it so far that still counts, in [0, 1].
            initial: Epsilon before the first env step.
            final: Epsilon from `duration` env steps on.
            duration: Env steps from `initial` to `final`.
        """
        explored = min(int(ops.convert_to_numpy(self._env_steps.value)), duration)
        # One env step is left of any exploration: 0 means that the agent never trained, and takes that of others.
        left = min(max(round(share * explored), 1), explored)
        self._env_steps.assign(left)
        self._epsilon.assign(ops.reshape(epsilon_after(left, initial, final, duration), (1,)))
