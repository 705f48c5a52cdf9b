"""The lowered actor agrees with Keras; what cannot be lowered falls back with a warning that names it."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_optix as optix
from keras_optix.errors import LoweringError
from keras_optix.experience import lowering
from keras_optix.experience.actor import LiteRTActor, NoiseSpec
from keras_optix.testing import CountingEnv

NOISE = NoiseSpec("gumbel", (2,))


def bound_agent(policy: Any = None) -> optix.PPOAgent:
    agent = optix.PPOAgent(policy)
    env = CountingEnv()
    agent.bind(env.observation_space, env.action_space)
    return agent


def lowered(agent: optix.PPOAgent, batch_size: int) -> Any:
    return lowering.lower(
        agent.choose,
        agent.publish().arrays,
        observation_shape=(2,),
        observation_dtype=np.dtype(np.float32),
        noise=NOISE,
        batch_size=batch_size,
    )


LAYERS: dict[str, Callable[[], list[Any]]] = {
    "dense": lambda: [keras.layers.Dense(8, activation="tanh")],
    "layer_norm": lambda: [keras.layers.Dense(8), keras.layers.LayerNormalization()],
    "batch_norm": lambda: [keras.layers.Dense(8), keras.layers.BatchNormalization()],
    "dropout": lambda: [keras.layers.Dense(8), keras.layers.Dropout(0.5)],
}


@pytest.mark.parametrize("batch_size", [1, 8])
@pytest.mark.parametrize("name", LAYERS)
def test_values_agree_with_keras(name: str, batch_size: int) -> None:
    policy = keras.Sequential([keras.layers.Input((2,)), *LAYERS[name](), keras.layers.Dense(2)])
    agent = bound_agent(policy)
    actor = agent.make_actor(batch_size)
    assert isinstance(actor, LiteRTActor)
    rng = np.random.default_rng(0)
    for _ in range(3):
        # New weights, by assignment: the flatbuffer is converted once.
        agent.policy.set_weights([w + 0.1 * rng.random(w.shape).astype(w.dtype) for w in agent.policy.get_weights()])
        actor.set_weights(agent.publish().arrays)
        observations = rng.normal(size=(batch_size, 2)).astype(np.float32)
        noise = NOISE.draw(rng, (batch_size,))
        actions, log_probs = actor.act(observations, noise)
        logits = np.asarray(policy(observations, training=False))
        expected = np.asarray(keras.ops.log_softmax(logits))
        np.testing.assert_array_equal(actions, (logits + noise).argmax(-1))
        np.testing.assert_allclose(log_probs, expected[np.arange(batch_size), actions], atol=1e-5)


def test_sampled_actions_follow_the_policy() -> None:
    agent = bound_agent()
    agent.policy.layers[-1].bias.assign([0.0, 1.0])
    actor = agent.make_actor(1000)
    actor.set_weights(agent.publish().arrays)
    observations = np.zeros((1000, 2), np.float32)
    rng = np.random.default_rng(0)
    share = np.mean([actor.act(observations, NOISE.draw(rng, (1000,)))[0] for _ in range(20)])
    assert share == pytest.approx(1 / (1 + np.exp(-1.0)), abs=0.01)


def test_a_lowered_policy_can_be_pickled() -> None:
    agent = bound_agent()
    policy = lowered(agent, 2)
    actor = LiteRTActor(pickle.loads(pickle.dumps(policy)))
    actor.set_weights(agent.publish().arrays)
    actions, _ = actor.act(np.zeros((2, 2), np.float32), NOISE.zeros((2,)))
    assert actions.shape == (2,)


def test_an_actor_without_weights_refuses_to_act() -> None:
    agent = bound_agent()
    for actor in (LiteRTActor(lowered(agent, 1)), lowering.FunctionActor(agent.choose, NOISE)):
        with pytest.raises(LoweringError, match="no weights"):
            actor.act(np.zeros((1, 2), np.float32), NOISE.zeros((1,)))


@keras.saving.register_keras_serializable("tests")
class Unlowerable(keras.layers.Layer):
    """Uses an operation without a LiteRT kernel."""

    def call(self, inputs: Any) -> Any:
        return tf.math.erfinv(tf.clip_by_value(inputs, -0.9, 0.9))


def test_what_cannot_be_lowered_falls_back_to_a_compiled_function_and_says_so() -> None:
    policy = keras.Sequential([keras.layers.Input((2,)), Unlowerable(name="odd_one"), keras.layers.Dense(2)])
    agent = bound_agent(policy)
    with pytest.warns(
        UserWarning, match=r"(?i)erfinv.*compiled TensorFlow function.*odd_one \(Unlowerable\)"
    ) as caught:
        actor = agent.make_actor(3)
    assert len(caught) == 1
    assert isinstance(actor, lowering.FunctionActor)
    actor.set_weights(agent.publish().arrays)
    observations = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
    actions, _ = actor.act(observations, NOISE.zeros((3,)))
    np.testing.assert_array_equal(actions, np.asarray(policy(observations)).argmax(-1))
