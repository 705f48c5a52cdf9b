"""What `jit_compile="auto"` comes to: by the layers and the machine, when the networks are known, and said once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces

import keras_optix as optix
from keras_optix.agents import jit
from keras_optix.agents.jit import choose_jit
from keras_optix.testing import RandomEnv

layers = keras.layers
VECTOR = spaces.Box(-1.0, 1.0, (3,))
IMAGE = spaces.Box(0, 255, (10, 10, 3), np.uint8)
TWO = spaces.Discrete(2)


def windows(agent: Any, space: Any = VECTOR) -> tf.data.Dataset:
    return optix.dataset_from_env(lambda: RandomEnv(space, TWO), agent, window_size=4)


def network(*inner: Any, shape: tuple[int, ...] = (16, 8)) -> Any:
    return keras.Sequential([layers.Input(shape), *inner, layers.Flatten(), layers.Dense(2)])


@keras.saving.register_keras_serializable("test_jit")
class Own(layers.Dense):  # type: ignore[misc]
    """Somebody's layer."""


class OwnModel(keras.Model):  # type: ignore[misc]
    """Somebody's model, of layers that would be fast."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = layers.Dense(2)

    def call(self, observations: Any) -> Any:
        return self.dense(observations)


FAST: dict[str, Callable[[], Any]] = {
    "dense": lambda: network(layers.Dense(64, activation="tanh"), shape=(3,)),
    "normalised": lambda: network(layers.BatchNormalization(), layers.LayerNormalization(), layers.PReLU()),
    "nested": lambda: network(keras.Sequential([layers.Dense(4), layers.ReLU()])),
    "operations": lambda: keras.Model(
        x := layers.Input((3,)), keras.ops.sqrt(keras.ops.stop_gradient(layers.Dense(2)(x)))
    ),
    "distributed": lambda: network(layers.TimeDistributed(layers.Dense(4))),
    "attention": lambda: keras.Model(
        x := layers.Input((16, 8)), layers.Dense(2)(layers.Flatten()(layers.MultiHeadAttention(2, 4)(x, x)))
    ),
    "pooled": lambda: network(layers.MaxPooling2D(2), layers.AveragePooling2D(2), shape=(8, 8, 2)),
    "embedded": lambda: network(layers.Embedding(5, 4), shape=(3,)),
}
SLOW: dict[str, Callable[[], Any]] = {
    "conv1d": lambda: network(layers.Conv1D(4, 3)),
    "conv2d": lambda: network(layers.Conv2D(4, 3), shape=(8, 8, 2)),
    "separable": lambda: network(layers.SeparableConv2D(4, 3), shape=(8, 8, 2)),
    "transposed": lambda: network(layers.Conv2DTranspose(4, 3), shape=(8, 8, 2)),
    "conv3d": lambda: network(layers.Conv3D(4, 2), shape=(4, 4, 4, 1)),
    "nested": lambda: network(keras.Sequential([layers.Input((16, 8)), layers.Conv1D(4, 3)])),
    "distributed slow": lambda: network(layers.TimeDistributed(layers.Conv1D(4, 3)), shape=(2, 16, 8)),
    "operation": lambda: keras.Model(
        x := layers.Input((8, 8, 2)),
        layers.Dense(2)(layers.Flatten()(keras.ops.conv(x, np.ones((3, 3, 2, 4), np.float32)))),
    ),
    "dropout": lambda: network(layers.Dropout(0.1)),
    "recurrent": lambda: network(layers.LSTM(4, return_sequences=True), layers.GRU(4, return_sequences=True)),
    "recurrent wrapped": lambda: network(layers.Bidirectional(layers.LSTM(4)), layers.Reshape((2, 4))),
    "dropout of attention": lambda: keras.Model(
        x := layers.Input((16, 8)),
        layers.Dense(2)(layers.Flatten()(layers.MultiHeadAttention(2, 4, dropout=0.1)(x, x))),
    ),
    "own_layer": lambda: network(Own(4)),
    "lambda": lambda: network(layers.Lambda(lambda x: 2.0 * x)),
    "own_model": OwnModel,
}


@pytest.mark.parametrize("name", FAST)
def test_on_a_cpu_layers_that_gain_are_compiled(name: str) -> None:
    assert choose_jit([("policy", FAST[name]())]).use


@pytest.mark.parametrize("name", SLOW)
def test_on_a_cpu_one_layer_that_loses_or_is_unknown_is_enough(name: str) -> None:
    choice = choose_jit([("policy", FAST["dense"]()), ("value", SLOW[name]())])
    assert not choice.use
    assert "the value's" in choice.reason


def test_on_an_accelerator_all_that_supports_it_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    device = tf.config.PhysicalDevice("/physical_device:GPU:0", "GPU")
    monkeypatch.setattr(jit.tf.config, "get_visible_devices", lambda: [device])
    assert choose_jit([("policy", SLOW["conv2d"]())]).use
    unsupported = network(layers.Dense(4))
    unsupported.layers[0].supports_jit = False
    choice = choose_jit([("policy", unsupported)])
    assert (choice.use, "does not support it" in choice.reason) == (False, True)


@pytest.mark.parametrize("compiled_first", [True, False])
def test_default_networks_are_known_only_after_binding(compiled_first: bool) -> None:
    for space, use in ((VECTOR, True), (IMAGE, False)):
        agent = optix.PPOAgent()
        steps = [lambda agent=agent: agent.compile("adam"), lambda agent=agent, space=space: agent.bind(space, TWO)]
        for step in steps if compiled_first else reversed(steps):
            assert agent.jit_choice is None
            step()
        assert agent.jit_compile is use
        assert agent.jit_choice.use is use


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("space", [VECTOR, IMAGE], ids=["vector", "image"])
def test_what_the_user_says_is_kept(given: bool, space: Any, tmp_path: Path) -> None:
    agent = optix.PPOAgent()
    agent.compile("adam", jit_compile=given)
    agent.bind(space, TWO)
    agent.save(tmp_path / "agent.keras")
    again = keras.saving.load_model(tmp_path / "agent.keras")
    for one in (agent, again):
        assert one.jit_compile is given
        assert one.jit_choice is None


def test_auto_is_chosen_anew_where_an_agent_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = optix.PPOAgent()
    agent.compile("adam")
    agent.bind(IMAGE, TWO)
    assert not agent.jit_compile
    agent.save(tmp_path / "agent.keras")
    device = tf.config.PhysicalDevice("/physical_device:GPU:0", "GPU")
    monkeypatch.setattr(jit.tf.config, "get_visible_devices", lambda: [device])
    again = keras.saving.load_model(tmp_path / "agent.keras")
    assert again.jit_compile
    again.compile("adam", jit_compile=False)
    assert (again.jit_compile, again.jit_choice) == (False, None)
    again.compile("adam")
    assert again.jit_compile


@pytest.mark.filterwarnings("ignore:.*falls back to a compiled TensorFlow function")
def test_it_is_what_the_step_is_traced_with() -> None:
    """Control: an operation that XLA cannot compile fails exactly where it is chosen."""

    class OnlyPython(layers.Layer):  # type: ignore[misc]
        def call(self, x: Any) -> Any:
            noise = tf.numpy_function(lambda value: np.zeros_like(value), [x], tf.float32)
            return x + tf.stop_gradient(tf.reshape(noise, tf.shape(x)))

    for given in ("auto", True):
        agent = optix.PPOAgent(network(OnlyPython(), shape=(3,)), epochs=1)
        agent.compile("adam", jit_compile=given)
        dataset = windows(agent)
        if given is True:
            with pytest.raises(tf.errors.InvalidArgumentError, match="unsupported operations"):
                agent.fit(dataset, steps_per_epoch=1, verbose=0)
        else:
            agent.fit(dataset, steps_per_epoch=1, verbose=0)


def test_an_algorithm_of_your_own_leaves_it_to_keras() -> None:
    class Mine(optix.Agent):
        pass

    agent = Mine()
    agent.compile("adam")
    agent.bind(VECTOR, TWO)
    assert agent.jit_choice is None
    assert agent.jit_compile is False  # on a CPU


def test_eager_steps_are_not_compiled() -> None:
    agent = optix.PPOAgent()
    agent.compile("adam", run_eagerly=True)
    agent.bind(VECTOR, TWO)
    assert agent.jit_compile is False


@pytest.mark.parametrize("given", ["yes", 1, None, "xla"])
def test_other_values_are_refused(given: Any) -> None:
    with pytest.raises(optix.ConfigurationError, match=r"`jit_compile` must be True, False or 'auto'"):
        optix.PPOAgent().compile("adam", jit_compile=given)


def test_fit_says_once_what_was_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    agent = optix.PPOAgent(update_epochs=1)
    agent.compile("adam")
    dataset = windows(agent, IMAGE)
    agent.fit(dataset, steps_per_epoch=1, verbose=0)
    assert capsys.readouterr().out == ""
    for said in (1, 0):
        agent.fit(dataset, steps_per_epoch=1, verbose=2)
        out = capsys.readouterr().out
        assert out.count("jit_compile='auto' compiles the train step without XLA: on a CPU the policy's conv2d") == said


def test_an_ensemble_is_compiled_as_its_members_are() -> None:
    class Two:
        weights = (0.5, 0.5)

        def __init__(self, agents: Any) -> None:
            self.agents = agents

        def subscribe(self, listener: Any) -> None:
            pass

    for space, use in ((VECTOR, True), (IMAGE, False)):
        members = [optix.PPOAgent(), optix.PPOAgent()]
        members[0].compile("adam")
        ensemble = optix.EnsembleAgent(Two(members), members[0])
        ensemble.compile()
        ensemble.bind(space, TWO)
        assert ensemble.jit_compile is members[0].jit_compile is use
        members[0].compile("adam", jit_compile=not use)
        ensemble.compile()
        assert ensemble.jit_compile is not use
