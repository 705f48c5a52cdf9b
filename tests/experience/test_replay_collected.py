"""The replay buffer with the windows of real environments, in all autoreset modes and with Gymnasium's frame stacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import FrameStackObservation
from replay_oracle import Oracle, check

from keras_optix.experience.collector import Collector
from keras_optix.experience.observations import ObservationLayout
from keras_optix.experience.replay import ReplayBuffer
from keras_optix.experience.replay_frames import Stack


def cartpole() -> gymnasium.Env[Any, Any]:
    return gymnasium.make("CartPole-v1", max_episode_steps=17)  # most episodes are truncated, some fall before


def checked(collector: Collector, env: Any, windows: int, *, capacity: int = 300, n_step: int = 3) -> ReplayBuffer:
    """Adds collected windows to a buffer, which holds what a list of transitions holds."""
    space = getattr(env, "single_observation_space", env.observation_space)
    actions = getattr(env, "single_action_space", env.action_space)
    buffer = ReplayBuffer(ObservationLayout(space), actions, capacity=capacity)
    oracle = Oracle(ObservationLayout(space))
    for _ in range(windows):
        window = collector.collect().window
        buffer.add(window)
        oracle.add(window)
        check(buffer, oracle, n_step)
    return buffer


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("window_size", [1, 8, 40])
def test_vector_environments(collector: Callable[..., Collector], mode: AutoresetMode, window_size: int) -> None:
    env = SyncVectorEnv([cartpole] * 3, autoreset_mode=mode)
    buffer = checked(collector(env, window_size=window_size, seed=0), env, max(12, 60 // window_size))
    drawn = buffer.sample(np.random.default_rng(0), 1, 2000)
    assert drawn is not None
    assert drawn.terminated.any()


@pytest.mark.parametrize("padding", ["reset", "zero"])
def test_frame_stacks_of_gymnasium(collector: Callable[..., Collector], padding: str) -> None:
    env = FrameStackObservation(cartpole(), 3, padding_type=padding)
    buffer = checked(collector(env, window_size=5, seed=0), env, 20, n_step=2)
    assert buffer._rows is not None
    assert buffer._rows.stacks == (Stack(0, 3),)
    assert buffer._rows.leaves[0].data.shape == (300, 4)


def test_an_episode_that_other_code_interrupts_is_cut_off(collector: Callable[..., Collector]) -> None:
    env = cartpole()
    source = collector(env, window_size=5, seed=0)
    buffer = ReplayBuffer(ObservationLayout(env.observation_space), env.action_space, capacity=300)
    buffer.add(source.collect().window)
    env.reset(seed=7)
    with pytest.warns(UserWarning, match="its running episode was cut off"):
        again = source.collect()
    assert again.interrupted
    buffer.add(again.window)
    drawn = buffer.sample(np.random.default_rng(0), 1, 400, 5)
    assert drawn is not None
    assert drawn.steps.max() == 5
    assert not drawn.terminated.any()
    assert len(np.unique(drawn.next_observations[0], axis=0)) == 2  # behind each of the two parts
