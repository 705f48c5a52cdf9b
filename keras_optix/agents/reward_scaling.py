"""The part of an agent that scales rewards by the running deviation of their discounted return."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from keras_optix.agents.agent import Agent
from keras_optix.agents.normalization import RewardScale
from keras_optix.experience.source import WindowSource
from keras_optix.experience.window import Window
from keras_optix.validation import check_bool

_RUNNING = "running_return/"  # begins the names, in a saved run, of arrays that belong to the running episodes


class RewardScalingAgent(Agent):
    """An agent with the option `normalize_rewards` and the hyperparameter `gamma`; see `RewardScale`.

    A derived class calls `_begin_scaling` in its constructor.
    """

    _reward_scale: RewardScale | None = None

    def _begin_scaling(self, normalize_rewards: bool) -> None:
        """Makes the statistics of the rewards, if rewards shall be scaled.

        Raises:
            ConfigurationError: `normalize_rewards` is not a bool.
        """
        self._reward_scale = RewardScale() if check_bool("normalize_rewards", normalize_rewards) else None
        self.reward_moments = None if self._reward_scale is None else self._reward_scale.moments

    def get_config(self) -> dict[str, Any]:
        """See `Agent.get_config`."""
        return super().get_config() | {"normalize_rewards": self._reward_scale is not None}

    def attach_source(self, source: WindowSource) -> None:
        """See `Agent.attach_source`."""
        super().attach_source(source)
        if self._reward_scale is not None:
            self._reward_scale.prepare(source.num_envs)

    def save_run(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """See `Agent.save_run`."""
        arrays, values = super().save_run()
        running = {} if self._reward_scale is None else self._reward_scale.save()
        return arrays | {_RUNNING + name: array for name, array in running.items()}, values

    def restore_run(
        self, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any], *, same_episodes: bool = True
    ) -> None:
        """See `Agent.restore_run`."""
        running = {name.removeprefix(_RUNNING): arrays[name] for name in arrays if name.startswith(_RUNNING)}
        own = {name: array for name, array in arrays.items() if not name.startswith(_RUNNING)}
        super().restore_run(own, values, same_episodes=same_episodes)
        if self._reward_scale is not None and same_episodes:
            self._reward_scale.restore(running)

    def rewards_of(self, window: Window) -> Any:
        """Returns the window's rewards ``[T, N]``, scaled if `normalize_rewards` is set."""
        if self._reward_scale is None:
            return window.rewards
        done = tf.logical_or(window.terminated, window.truncated)
        return self._reward_scale(window.rewards, done, window.valid, self.hyperparams.tensor("gamma"))
