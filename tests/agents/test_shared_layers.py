"""Policy and value networks that share layers: computed once, learned from both losses, saved once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces

import keras_optix as optix
from keras_optix.agents.shared_layers import join
from keras_optix.testing import RandomEnv

IMAGE = spaces.Box(0, 255, (10, 10, 3), np.uint8)
VECTOR = spaces.Box(-1.0, 1.0, (3,))
BOTH = spaces.Dict({"cam/regime_index": IMAGE, "gear": spaces.Discrete(3), "speed": VECTOR})
layers = keras.layers


@keras.saving.register_keras_serializable("test_shared_layers")
class Counting(keras.layers.Dense):  # type: ignore[misc]
    """Counts in which way it is called."""

    calls = 0

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        Counting.calls += 1
        return super().call(inputs, training=training)


def on_one_input() -> tuple[Any, Any]:
    inputs = layers.Input((3,))
    features = Counting(8, activation="tanh")(inputs)
    return keras.Model(inputs, layers.Dense(2)(features)), keras.Model(inputs, layers.Dense(1)(features))


def of_one_layer() -> tuple[Any, Any]:
    shared = Counting(8, activation="tanh")
    heads = [keras.Sequential([layers.Input((3,)), shared, layers.Dense(n)]) for n in (2, 1)]
    return heads[0], heads[1]


def of_a_nested_model() -> tuple[Any, Any]:
    trunk = keras.Sequential([layers.Input((3,)), layers.Rescaling(0.5), Counting(8, activation="tanh")])
    inputs = layers.Input((3,))
    return keras.Model(inputs, layers.Dense(2)(trunk(inputs))), keras.Sequential([trunk, layers.Dense(1)])


def through_operations() -> tuple[Any, Any]:
    shared = Counting(8)

    def head(outputs: int) -> Any:
        inputs = layers.Input((3,))
        return keras.Model(inputs, layers.Dense(outputs)(keras.ops.tanh(shared(2.0 * inputs))))

    return head(2), head(1)


def one_looks_deeper() -> tuple[Any, Any]:
    inputs = layers.Input((3,))
    features = Counting(8, activation="tanh")(inputs)
    deeper = layers.Concatenate()([layers.Dense(4)(features), inputs])
    return keras.Model(inputs, layers.Dense(2)(deeper)), keras.Model([inputs], layers.Dense(1)(features))


SHARING = {
    make.__name__: make
    for make in (on_one_input, of_one_layer, of_a_nested_model, through_operations, one_looks_deeper)
}


def windows(agent: Any, space: Any = VECTOR) -> tf.data.Dataset:
    env = RandomEnv(space, spaces.Discrete(2))
    return optix.dataset_from_env(env, agent, window_size=16, seed=3)


def agent_of(networks: tuple[Any, Any], kind: Any = optix.PPOAgent) -> Any:
    options = {"update_epochs": 2, "minibatch_size": 8} if kind is optix.PPOAgent else {}
    agent = kind(*networks, seed=0, **options)
    agent.compile(keras.optimizers.SGD(0.1, momentum=0.9), jit_compile=False)
    return agent


@pytest.mark.parametrize("name", SHARING)
def test_what_is_shared_is_computed_once(name: str) -> None:
    agent = agent_of(SHARING[name]())
    agent.bind(VECTOR, spaces.Discrete(2))
    observations = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
    Counting.calls = 0
    parameters, values = agent.parameters_and_values(observations, training=True)
    assert Counting.calls == 1
    expected = agent.head.parameters(observations, training=True), agent.value_of(observations, training=True)
    assert Counting.calls == 3  # the control: each for itself
    np.testing.assert_allclose(parameters, expected[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(values, expected[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", SHARING)
def test_gradients_are_those_of_two_passes(name: str) -> None:
    agent = agent_of(SHARING[name]())
    window = next(iter(windows(agent)))
    rows, _ = agent.prepare(window)
    gradients = []
    for joint in (agent._joint, None):
        agent._joint = joint
        with tf.GradientTape() as tape:
            loss, _ = agent.compute_losses(rows)
        gradients.append(tape.gradient(loss, agent.trainable_variables))
    for one, other in zip(*gradients, strict=True):
        assert np.abs(other).max() > 0
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", [optix.PPOAgent, optix.ReinforceAgent])
def test_shared_weights_are_one_in_optimizer_snapshot_and_penalty(kind: Any) -> None:
    inputs = layers.Input((3,))
    features = layers.Dense(8, kernel_regularizer="l2")(inputs)
    agent = agent_of(
        (keras.Model(inputs, layers.Dense(2)(features)), keras.Model(inputs, layers.Dense(1)(features))), kind
    )
    agent.fit(windows(agent), steps_per_epoch=2, verbose=0)
    assert len(agent.trainable_variables) == 6
    weights = [name for name in agent.get_state() if name.startswith("model/")]
    assert len(weights) == len(agent.variables) == 6
    assert len(agent.optimizer.variables) == 2 + 6  # iterations, learning rate, a momentum of each
    assert len(agent.losses) == 1
    state = agent.get_state()
    agent.train_step(next(iter(windows(agent))))
    agent.set_state(state)
    for name, array in agent.get_state().items():
        np.testing.assert_array_equal(array, state[name])


@pytest.mark.parametrize("name", SHARING)
def test_it_is_saved_once(name: str, tmp_path: Path) -> None:
    agent = agent_of(SHARING[name]())
    agent.fit(windows(agent), steps_per_epoch=1, verbose=0)
    agent.save(tmp_path / "agent.keras")
    again = keras.saving.load_model(tmp_path / "agent.keras")
    assert len(agent.variables) == len(again.variables)
    for one, other in zip(agent.variables, again.variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
    observations = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
    Counting.calls = 0
    outputs = again.parameters_and_values(observations, training=False)
    assert Counting.calls == 1
    for one, other in zip(outputs, agent.parameters_and_values(observations, training=False), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    # And once more, of what was loaded, after it has learned.
    again.fit(windows(again), steps_per_epoch=1, verbose=0)
    again.save(tmp_path / "again.keras")
    third = keras.saving.load_model(tmp_path / "again.keras")
    for one, other in zip(again.optimizer.variables, third.optimizer.variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
    assert third._joint is not None


@pytest.mark.parametrize("space", [IMAGE, BOTH], ids=["image", "dict"])
def test_default_networks_share_what_looks_at_images(space: Any, tmp_path: Path) -> None:
    agent = optix.PPOAgent(update_epochs=1, minibatch_size=8, seed=0)
    agent.compile("adam", jit_compile=False)
    agent.train_step(next(iter(windows(agent, space))))

    def kernels(network: Any) -> set[int]:
        return {id(variable) for variable in network.variables if len(variable.shape) == 4}

    assert kernels(agent.policy) == kernels(agent.value) != set()
    assert agent._joint is not None
    agent.save(tmp_path / "agent.keras")
    again = keras.saving.load_model(tmp_path / "agent.keras")
    assert kernels(again.policy) == kernels(again.value)
    assert len(again.variables) == len(agent.variables)

    apart = optix.PPOAgent(share_features=False)
    apart.bind(space, spaces.Discrete(2))
    assert not kernels(apart.policy) & kernels(apart.value)
    assert apart._joint is None
    assert apart.get_config()["share_features"] is False
    assert "share_features" not in agent.get_config()


def test_vectors_are_not_shared() -> None:
    agent = optix.PPOAgent()
    agent.bind(VECTOR, spaces.Discrete(2))
    assert not {id(v) for v in agent.policy.variables} & {id(v) for v in agent.value.variables}


def test_a_network_that_is_given_shares_nothing_by_itself() -> None:
    policy = keras.Sequential([layers.Input((10, 10, 3)), layers.Flatten(), layers.Dense(2)])
    agent = optix.PPOAgent(policy)
    agent.bind(IMAGE, spaces.Discrete(2))
    assert agent._joint is None


@keras.saving.register_keras_serializable("test_shared_layers")
class Wrapped(keras.Model):  # type: ignore[misc]
    """Hides a layer of another network."""

    def __init__(self, shared: Any, outputs: int) -> None:
        super().__init__()
        self.shared, self.last = shared, layers.Dense(outputs)

    def call(self, observations: Any) -> Any:
        return self.last(self.shared(observations))


def test_what_cannot_be_joined_learns_and_says_that_it_cannot_be_saved(tmp_path: Path) -> None:
    shared = Counting(8)
    agent = agent_of((Wrapped(shared, 2), Wrapped(shared, 1)))
    agent.fit(windows(agent), steps_per_epoch=1, verbose=0)
    assert agent._joint is None
    assert len(agent.trainable_variables) == 6
    with pytest.raises(optix.errors.StateError, match=r"share weights.*save_weights"):
        agent.save(tmp_path / "agent.keras")


def test_layers_that_see_different_things_are_not_joined() -> None:
    """The first half of the observation and the second, through one layer."""
    shared, inputs = layers.Dense(4), layers.Input((6,))
    policy = keras.Model(inputs, layers.Dense(2)(shared(inputs[:, :3])))
    value = keras.Model(inputs, layers.Dense(1)(shared(inputs[:, 3:])))
    assert join(policy, value) is None


def test_one_model_cannot_be_both() -> None:
    network = keras.Sequential([layers.Input((3,)), layers.Dense(1)])
    with pytest.raises(optix.errors.SpaceError, match="one model"):
        optix.PPOAgent(network, network).bind(VECTOR, spaces.Box(-1.0, 1.0, (1,)))


def test_only_a_bool_says_whether_to_share() -> None:
    with pytest.raises(optix.ConfigurationError, match="share_features='no'"):
        optix.PPOAgent(share_features="no")


def test_shared_dict_inputs_of_which_each_uses_some() -> None:
    speed, gear = layers.Input((3,), name="speed"), layers.Input((2,), name="gear")
    shared = Counting(8)(speed)
    policy = keras.Model({"speed": speed, "gear": gear}, layers.Dense(2)(layers.Concatenate()([shared, gear])))
    value = keras.Model({"speed": speed}, layers.Dense(1)(shared))
    agent = agent_of((policy, value))
    space = spaces.Dict(gear=spaces.Box(-1.0, 1.0, (2,)), speed=VECTOR, unused=VECTOR)
    agent.train_step(next(iter(windows(agent, space))))
    Counting.calls = 0
    agent.parameters_and_values({"gear": np.ones((4, 2)), "speed": np.ones((4, 3)), "unused": 0}, training=False)
    assert Counting.calls == 1
