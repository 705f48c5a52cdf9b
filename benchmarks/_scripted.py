"""An agent whose true score is known, because it is its only weight: what the loop decides can be held against it.

`benchmarks/loop.py` and `tests/callbacks/test_original_defects.py` share it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium
import keras
import numpy as np
import tensorflow as tf

import keras_optix as optix

EPISODES = 10  # in a window and in an evaluation


class PayingEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """Pays for the action itself: the expected return of an episode is the policy's mean action.

    Args:
        noise: Standard deviation of the return of an episode that repeats one action.
        episode_length: Steps of an episode, which share its return.
    """

    def __init__(self, noise: float = 0.0, episode_length: int = 1) -> None:
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (1,), np.float32)
        self.action_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self._noise = noise / episode_length**0.5
        self._length = episode_length
        self._step = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begins the next episode."""
        super().reset(seed=seed)
        self._step = 0
        return np.ones(1, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Pays the action's share, with noise."""
        self._step += 1
        reward = float(action[0]) / self._length + self._noise * self.np_random.standard_normal()
        return np.ones(1, np.float32), reward, self._step >= self._length, False, {}


class ScriptedAgent(optix.Agent):
    """Its weight is the true score; the update after window k makes it ``script[k + 1]``, and at the end the last.

    Args:
        script: True scores, one a window.
    """

    def __init__(self, script: Sequence[float]) -> None:
        weight = keras.layers.Dense(1, use_bias=False, kernel_initializer=keras.initializers.Constant(script[0]))
        super().__init__(keras.Sequential([keras.layers.Input((1,)), weight]))
        self._script = tf.constant(script, tf.float32)
        # With this learning rate, a step down the gradient of half the squared distance ends at its goal.
        self.compile(keras.optimizers.SGD(1.0))

    def bind(self, observation_space: Any, action_space: Any) -> None:
        """See `Agent.bind`. Actions have next to no deviation."""
        super().bind(observation_space, action_space)
        self.log_std.assign([-30.0])

    def train_step(self, window: optix.Window) -> dict[str, Any]:
        """Goes where the script says."""
        following = tf.minimum(window.window_id + 1, len(self._script) - 1)
        weight = self.policy.trainable_variables[0]
        self.optimizer.apply([weight.value - self._script[following]], [weight])
        return {}

    @property
    def true_score(self) -> float:
        """The expected return of an episode with the current weights."""
        return float(self.policy.get_weights()[0].item())


class Notes(optix.LoopCallback):
    """Counts the calls of hooks, and holds what the loop did against the truth.

    Attributes:
        improvements: Snapshots that were promoted, each with the true score of the weights in it.
        after_degradations: True scores of the weights that each degradation left in force.
        dormant: Calls of `on_dormant`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.registry: Any = None
        self.improvements: list[tuple[optix.PolicySnapshot, float]] = []
        self.after_degradations: list[float] = []
        self.dormant = 0

    def on_improvement(self, snapshot: optix.PolicySnapshot) -> None:
        """See `LoopCallback`."""
        (weight,) = (array for array in self.registry.load(snapshot).values() if array.shape == (1, 1))
        self.improvements.append((snapshot, float(weight.item())))

    def on_degradation(self, window_id: int) -> None:
        """See `LoopCallback`."""
        self.after_degradations.append(self.model.true_score)

    def on_dormant(self, window_id: int) -> None:
        """See `LoopCallback`."""
        self.dormant += 1


class Run(NamedTuple):
    """A run of the loop that has ended."""

    agent: ScriptedAgent
    loop: optix.OptixCallback
    notes: Notes

    def windows_of(self, event: str) -> list[int]:
        """Numbers of the windows in which something happened, counted from 1."""
        return [record.window_id + 1 for record in self.loop.events if record.kind == event]

    def count(self, event: str) -> int:
        """How often something happened."""
        return len(self.windows_of(event))


def run(
    script: Sequence[float],
    *,
    noise: float = 0.0,
    seed: int = 0,
    window_size: int = EPISODES,
    episode_length: int = 1,
    **options: Any,
) -> Run:
    """Runs the whole loop on an agent that follows a script.

    Args:
        script: True scores, one a window.
        noise: Standard deviation of the return of an episode.
        seed: Seeds the environments.
        window_size: Steps of a window.
        episode_length: Steps of an episode.
        **options: Of `OptixCallback`.
    """
    agent, notes = ScriptedAgent(script), Notes()
    loop = optix.OptixCallback(**({"evaluator": optix.ReturnEvaluator(), "callbacks": [notes], "verbose": 0} | options))
    notes.registry = loop.registry
    dataset = optix.dataset_from_env(
        lambda: PayingEnv(noise, episode_length), agent, window_size=window_size, seed=seed
    )
    agent.fit(dataset, callbacks=[loop], verbose=0)
    agent.sources[0].close()
    return Run(agent, loop, notes)


def every_window() -> optix.BackoffScheduler:
    """The scheduler with its defaults, but that every window is an evaluation also while COOLING."""
    return optix.BackoffScheduler(max_interval=1)
