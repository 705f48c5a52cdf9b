"""What the spaces of an environment mean for a window: the layout of observations, the mapping of actions."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from keras_optix.errors import SpaceError, describe
from keras_optix.experience.actor import NoiseSpec


class DiscreteActions:
    """Actions of a `Discrete` space of n actions: the policy chooses 0 .. n - 1, the environment gets `start` more.

    Args:
        space: The action space of one environment.
    """

    def __init__(self, space: spaces.Discrete) -> None:
        self.n = int(space.n)
        self._start = int(space.start)
        self.noise = NoiseSpec("gumbel", (self.n,))

    def to_env(self, actions: np.ndarray) -> np.ndarray:
        """``[N]`` choices to ``[N]`` int64 actions of the environment."""
        return actions.astype(np.int64) + self._start


def actions_for(space: spaces.Space[Any]) -> DiscreteActions:
    """Returns the action mapping of a space.

    Raises:
        SpaceError: The space is not supported.
    """
    if isinstance(space, spaces.Discrete):
        return DiscreteActions(space)
    raise SpaceError(
        describe(
            "This action space is not supported yet; `ReinforceAgent` and `PPOAgent` play Discrete spaces.",
            action_space=space,
        )
    )


def observation_layout(space: spaces.Space[Any]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Returns shape and dtype of one observation in a window; float64 spaces are stored as float32.

    Raises:
        SpaceError: The space is not supported.
    """
    if isinstance(space, spaces.Box):
        dtype = np.dtype(np.float32) if space.dtype == np.float64 else np.dtype(space.dtype)
        return tuple(space.shape), dtype
    raise SpaceError(
        describe(
            "This observation space is not supported yet; Box spaces are.",
            fix="Wrap the environment, for example in gymnasium.wrappers.FlattenObservation.",
            observation_space=space,
        )
    )
