"""The lowered actor agrees with Keras in every form; what cannot be lowered falls back with a warning that names it."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces

import keras_optix as optix
from keras_optix.errors import LoweringError
from keras_optix.experience import lowering
from keras_optix.experience.actor import LiteRTActor, NoiseSpec
from keras_optix.testing import CountingEnv

L = keras.layers
NOISE = NoiseSpec("gumbel", (2,))
VECTOR = spaces.Box(-np.inf, np.inf, (6,))
SERIES = spaces.Box(-np.inf, np.inf, (7, 3))
FIELD = spaces.Box(-np.inf, np.inf, (10, 10, 4))
IMAGE = spaces.Box(0, 255, (12, 12, 3), np.uint8)


def bound_agent(policy: Any = None, space: Any = None) -> optix.PPOAgent:
    space = CountingEnv().observation_space if space is None else space
    agent = optix.PPOAgent(policy)
    agent.bind(space, spaces.Discrete(2))
    return agent


LAYERS: dict[str, tuple[spaces.Box, Callable[[], list[Any]]]] = {
    "dense": (VECTOR, lambda: [L.Dense(8, activation="tanh"), L.Dense(8, activation="gelu")]),
    "activations": (VECTOR, lambda: [L.Dense(8), L.LeakyReLU(), L.Dense(8, activation="elu"), L.ReLU(), L.Softmax()]),
    "layer_norm": (VECTOR, lambda: [L.Dense(8), L.LayerNormalization()]),
    "rms_norm": (VECTOR, lambda: [L.Dense(8), L.RMSNormalization()]),
    "batch_norm": (VECTOR, lambda: [L.Dense(8), L.BatchNormalization()]),
    "group_norm": (FIELD, lambda: [L.Conv2D(8, 3), L.GroupNormalization(4), L.Flatten()]),
    "normalization": (VECTOR, lambda: [L.Normalization(mean=np.arange(6.0), variance=np.full(6, 4.0)), L.Dense(8)]),
    "spectral_norm": (VECTOR, lambda: [L.SpectralNormalization(L.Dense(8))]),
    "dropout": (VECTOR, lambda: [L.Dense(8), L.Dropout(0.5), L.GaussianNoise(1.0)]),
    "conv1d": (SERIES, lambda: [L.Conv1D(8, 3, padding="causal"), L.MaxPooling1D(2), L.Flatten()]),
    "conv2d": (FIELD, lambda: [L.Conv2D(16, 3, activation="relu"), L.Flatten(), L.Dense(16)]),
    "separable": (FIELD, lambda: [L.SeparableConv2D(8, 3), L.DepthwiseConv2D(3), L.GlobalAveragePooling2D()]),
    "transpose": (FIELD, lambda: [L.Conv2DTranspose(4, 3), L.AveragePooling2D(2), L.Flatten()]),
    "uint8_image": (IMAGE, lambda: [L.Rescaling(1 / 255), L.Conv2D(8, 3, activation="relu"), L.Flatten()]),
    "lstm": (SERIES, lambda: [L.LSTM(8)]),
    "gru": (SERIES, lambda: [L.GRU(8)]),
    "simple_rnn": (SERIES, lambda: [L.SimpleRNN(8, unroll=True)]),
    "rnn_of_a_cell": (SERIES, lambda: [L.RNN(L.LSTMCell(8))]),
    "time_distributed": (SERIES, lambda: [L.TimeDistributed(L.Dense(4)), L.Flatten()]),
    "discretization": (VECTOR, lambda: [L.Discretization([-1.0, 0.0, 1.0]), L.Embedding(4, 3), L.Flatten()]),
    "many_weights": (VECTOR, lambda: [L.Dense(160, activation="relu"), L.Dense(160, activation="relu")]),
}


def policy_of(name: str) -> tuple[Any, spaces.Box]:
    space, layers = LAYERS[name]
    dtype = "uint8" if space.dtype == np.uint8 else "float32"
    return keras.Sequential([L.Input(space.shape, dtype=dtype), *layers(), L.Dense(2)]), space


def check_best(actions: Any, values: np.ndarray, scale: float = 1.0) -> None:
    """Actions are those of the largest values, up to what two compilations differ by where two are as good as equal."""
    chosen = np.take_along_axis(values, np.asarray(actions)[:, None], -1)[:, 0]
    np.testing.assert_allclose(chosen / scale, values.max(-1) / scale, atol=1e-5)


def check_against_keras(agent: optix.PPOAgent, policy: Any, actor: Any, space: Any, batch_size: int) -> None:
    rng = np.random.default_rng(0)
    space.seed(0)
    for _ in range(2):
        # New weights, by assignment: the flatbuffer is converted once. Scaled up, so that actions depend on them.
        weights = agent.policy.get_weights()
        agent.policy.set_weights([w + 0.1 * rng.random(w.shape).astype(w.dtype) for w in weights])
        actor.set_weights(agent.policy_params().arrays)
        observations = np.stack([space.sample() for _ in range(batch_size)])
        noise = NOISE.draw(rng, (batch_size,))
        actions, log_probs, _ = actor.act([observations], noise)
        logits = np.asarray(policy(observations, training=False))
        expected = np.asarray(keras.ops.log_softmax(logits))
        scale = max(1.0, float(np.abs(logits).max()))
        check_best(actions, logits + noise, scale)
        np.testing.assert_allclose(log_probs / scale, expected[np.arange(batch_size), actions] / scale, atol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_values_agree_with_keras(name: str) -> None:
    policy, space = policy_of(name)
    agent = bound_agent(policy, space)
    actor = lowering.make_actor(agent.lowerable(), 3)
    check_against_keras(agent, policy, actor, space, 3)
    # Where weights cannot be packed as constants, the compiled function is faster, and taken without a warning.
    assert isinstance(actor, LiteRTActor) or any(w.ndim > 2 for w in policy.get_weights())


@pytest.mark.parametrize("name", ["dense", "conv2d", "uint8_image", "batch_norm", "lstm"])
@pytest.mark.parametrize("as_constants", [False, True])
def test_both_forms_of_weights_agree_with_keras(name: str, as_constants: bool) -> None:
    policy, space = policy_of(name)
    agent = bound_agent(policy, space)
    lowered = lowering.lower(agent.lowerable(), 2, as_constants=as_constants)
    check_against_keras(agent, policy, LiteRTActor(lowered), space, 2)
    if not as_constants:
        assert not lowered.constants


@pytest.mark.parametrize(("name", "constants"), [("dense", False), ("many_weights", True), ("uint8_image", True)])
def test_large_and_convolutional_networks_get_constants(name: str, constants: bool) -> None:
    """And all of their weights are found, also the kernel into which a rescaling was folded."""
    policy, space = policy_of(name)
    lowered = lowering.lower(bound_agent(policy, space).lowerable(), 1)
    assert len(lowered.constants) == (len(policy.weights) if constants else 0)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_integers_of_the_graph_are_not_taken_for_weights(batch_size: int) -> None:
    """Shapes and strides lie in the flatbuffer too, and the normaliser's count is a weight of one number."""
    space = spaces.Dict(camera=IMAGE, gear=spaces.Discrete(5), speed=spaces.Box(-1, 1, (3,)))
    agent = optix.PPOAgent(normalize_observations=True)
    agent.bind(space, spaces.Box(-1.0, 1.0, (2,)))
    lowered = lowering.lower(agent.lowerable(), batch_size)
    assert len(lowered.constants) >= len(agent.policy.weights)
    assert isinstance(agent.make_actor(batch_size), LiteRTActor)


def test_a_weight_that_goes_missing_is_noticed() -> None:
    """The control of the check: a place that is off by one weight computes other values."""
    agent = bound_agent(*policy_of("uint8_image"))
    lowered = lowering.lower(agent.lowerable(), 1)
    places = dict(lowered.constants)
    places.pop(next(iter(places)))
    with pytest.raises(LoweringError, match="other values"):
        lowering._check(agent.lowerable(), lowering.replace(lowered, constants=places))


class Subclassed(keras.Model):  # type: ignore[misc]
    """A subclass without symbolic inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = L.Dense(8, activation="relu")
        self.outer = L.Dense(2)

    def call(self, observations: Any) -> Any:
        return self.outer(self.inner(observations))


def test_a_subclassed_model_is_lowered() -> None:
    policy = Subclassed()
    agent = bound_agent(policy, VECTOR)
    check_against_keras(agent, policy, lowering.make_actor(agent.lowerable(), 2), VECTOR, 2)


def test_dict_observations_with_preprocessing_layers() -> None:
    space = spaces.Dict(camera=IMAGE, kind=spaces.Discrete(5), speed=spaces.Box(-1, 1, (3,)))
    camera = L.Input((12, 12, 3), dtype="uint8", name="camera")
    kind = L.Input((), dtype="int32", name="kind")
    speed = L.Input((3,), name="speed")
    joined = L.Concatenate()(
        [
            L.Flatten()(L.Conv2D(4, 3, 2)(L.Rescaling(1 / 255)(camera))),
            L.Embedding(5, 4)(kind),
            L.LayerNormalization()(speed),
        ]
    )
    policy = keras.Model({"camera": camera, "kind": kind, "speed": speed}, L.Dense(2)(joined))
    agent = bound_agent(policy, space)
    actor = agent.make_actor(2)
    assert isinstance(actor, LiteRTActor)
    actor.set_weights(agent.policy_params().arrays)
    layout = agent.head.layout
    space.seed(0)
    batch = [np.stack(leaves) for leaves in zip(*(layout.convert(space.sample()) for _ in range(2)), strict=True)]
    actions, log_probs, _ = actor.act(batch, NOISE.zeros((2,)))
    logits = np.asarray(policy(layout.pack(batch)))
    check_best(actions, logits)
    expected = np.asarray(keras.ops.log_softmax(logits)).max(-1)
    np.testing.assert_allclose(log_probs, expected, atol=1e-5)


def test_sampled_actions_follow_the_policy() -> None:
    agent = bound_agent()
    agent.policy.layers[-1].bias.assign([0.0, 1.0])
    actor = agent.make_actor(1000)
    actor.set_weights(agent.policy_params().arrays)
    observations = np.zeros((1000, 2), np.float32)
    rng = np.random.default_rng(0)
    share = np.mean([actor.act([observations], NOISE.draw(rng, (1000,)))[0] for _ in range(20)])
    # Five standard errors of 20,000 draws.
    assert share == pytest.approx(1 / (1 + np.exp(-1.0)), abs=0.0157)


@pytest.mark.parametrize("as_constants", [False, True])
def test_a_lowered_policy_can_be_pickled(as_constants: bool) -> None:
    agent = bound_agent()
    policy = lowering.lower(agent.lowerable(), 2, as_constants=as_constants)
    actor = LiteRTActor(pickle.loads(pickle.dumps(policy)))
    actor.set_weights(agent.policy_params().arrays)
    actions, _, _ = actor.act([np.zeros((2, 2), np.float32)], NOISE.zeros((2,)))
    assert actions.shape == (2,)


def test_a_layer_that_is_used_twice_does_not_hide_the_reason() -> None:
    given = L.Input((6,))
    shared = L.Dense(6)
    odd = Unlowerable(name="odd_one")
    policy = keras.Model(given, L.Dense(2)(odd(shared(shared(given)))))
    agent = bound_agent(policy, VECTOR)
    with pytest.warns(UserWarning, match=r"(?i)erfinv.*in the way is odd_one \(Unlowerable\)"):
        agent.make_actor(1)


def test_equal_weights_do_not_make_another_interpreter() -> None:
    agent = bound_agent(*policy_of("conv2d"))
    actor = agent.make_actor(1)
    actor.set_weights(agent.policy_params().arrays)
    made = actor._interpreter
    actor.set_weights(agent.policy_params().arrays)
    assert actor._interpreter is made
    agent.policy.layers[0].bias.assign(np.ones(16, np.float32))
    actor.set_weights(agent.policy_params().arrays)
    assert actor._interpreter is not made


def test_an_actor_without_weights_refuses_to_act() -> None:
    policy = bound_agent().lowerable()
    for actor in (LiteRTActor(lowering.lower(policy, 1)), lowering.FunctionActor(policy)):
        with pytest.raises(LoweringError, match="no weights"):
            actor.act([np.zeros((1, 2), np.float32)], NOISE.zeros((1,)))


@keras.saving.register_keras_serializable("tests")
class Unlowerable(keras.layers.Layer):  # type: ignore[misc]
    """Uses an operation without a LiteRT kernel."""

    def call(self, inputs: Any) -> Any:
        return tf.math.erfinv(tf.clip_by_value(inputs, -0.9, 0.9))


def test_what_cannot_be_lowered_falls_back_to_a_compiled_function_and_says_so() -> None:
    policy = keras.Sequential([L.Input((2,)), L.Dense(2, name="innocent"), Unlowerable(name="odd_one"), L.Dense(2)])
    agent = bound_agent(policy)
    message = r"(?i)erfinv.*the layer in the way is odd_one \(Unlowerable\).*compiled TensorFlow function"
    with pytest.warns(UserWarning, match=message) as caught:
        actor = agent.make_actor(3)
    assert len(caught) == 1
    assert isinstance(actor, lowering.FunctionActor)
    actor.set_weights(agent.policy_params().arrays)
    observations = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
    actions, _, _ = actor.act([observations], NOISE.zeros((3,)))
    check_best(actions, np.asarray(policy(observations)))


def test_attention_is_lowered() -> None:
    series = L.Input((7, 3))
    wide = L.Dense(16)(series)
    attended = L.LayerNormalization()(L.Add()([wide, L.MultiHeadAttention(2, 8)(wide, wide)]))
    policy = keras.Model(series, L.Dense(2)(L.Flatten()(attended)))
    agent = bound_agent(policy, SERIES)
    actor = lowering.make_actor(agent.lowerable(), 1)
    assert isinstance(actor, LiteRTActor)
    check_against_keras(agent, policy, actor, SERIES, 1)
