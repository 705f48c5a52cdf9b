"""Shared by the tests of networks of one's own: small networks and agents, saved and compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from gymnasium import spaces

import keras_optix as optix
from keras_optix.testing import RandomEnv

VECTOR = spaces.Box(-1.0, 1.0, (3,))
layers = keras.layers
registered = keras.saving.register_keras_serializable("test_own_networks")


def dense(*units: int, inputs: int = 3, **options: Any) -> Any:
    return keras.Sequential([layers.Input((inputs,)), *(layers.Dense(n, **options) for n in units)])


def windows(agent: Any) -> tf.data.Dataset:
    return optix.dataset_from_env(RandomEnv(VECTOR, spaces.Discrete(2)), agent, window_size=16, seed=3)


def trained(agent: Any, steps: int = 2) -> Any:
    agent.compile(keras.optimizers.Adam(1e-2), jit_compile=False)
    agent.fit(windows(agent), steps_per_epoch=steps, epochs=1, verbose=0)
    return agent


def reloaded(agent: Any, directory: Path) -> Any:
    agent.save(directory / "agent.keras")
    return keras.saving.load_model(directory / "agent.keras")


def assert_same(values: Any, others: Any) -> None:
    values, others = list(values), list(others)
    assert len(values) == len(others) > 0
    for one, other in zip(values, others, strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other), strict=True)


def assert_alike(agent: Any, again: Any) -> None:
    """All that an agent has came back, and sharing with it: a layer that is there twice would have more weights."""
    assert list(again.networks) == list(agent.networks)
    for name, network in agent.networks.items():
        assert_same(network.get_weights(), again.networks[name].get_weights())
    assert_same([v.numpy() for v in agent.variables], [v.numpy() for v in again.variables])
    assert len(again.trainable_variables) == len(agent.trainable_variables)
    assert_same(agent.get_state().values(), again.get_state().values())


SETTINGS: dict[str, Any] = {"minibatch_size": 8, "seed": 1}
