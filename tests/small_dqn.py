"""Small DQN agents for tests, which are not compiled by XLA, and an environment for them."""

from __future__ import annotations

from typing import Any

import gymnasium
import keras

import keras_optix as optix
from keras_optix.testing import IdentityEnv

STATES = 3


def identity_env() -> gymnasium.Env:
    """Rewards the action that the observation shows; 10 env steps in an episode."""
    return IdentityEnv(STATES)


def linear(inputs: int, outputs: int) -> keras.Sequential:
    """A network with one layer."""
    return keras.Sequential([keras.layers.Input((inputs,)), keras.layers.Dense(outputs)])


def small_dqn(
    rate: float = 0.01, *, inputs: int = STATES, actions: int = STATES, kind: Any = optix.DQNAgent, **kwargs: Any
) -> Any:
    """An agent that learns from the first window on."""
    settings: dict[str, Any] = {
        "buffer_size": 400,
        "batch_size": 8,
        "learning_starts": 0,
        "gradient_steps_per_env_step": 0.5,
        "exploration_env_steps": 200,
        "target_update_interval": 20,
        "seed": 0,
    }
    agent = kind(linear(inputs, actions), **(settings | kwargs))
    agent.compile(keras.optimizers.Adam(rate), jit_compile=False)
    return agent
