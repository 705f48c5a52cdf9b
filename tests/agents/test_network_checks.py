"""A network that does not fit its role is refused in words, when the agent learns of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from gymnasium import spaces

import keras_optix as optix
from keras_optix.agents.network_checks import last_activation

VECTOR = spaces.Box(-1.0, 1.0, (3,))
TWO = spaces.Discrete(2)
layers = keras.layers


def sequential(*last: Any) -> Any:
    return keras.Sequential([layers.Input((3,)), layers.Dense(4, activation="tanh"), *last])


def functional(outputs: Callable[[Any], Any]) -> Any:
    inputs = layers.Input((3,))
    return keras.Model(inputs, outputs(layers.Dense(4, activation="tanh")(inputs)))


class Subclass(keras.Model):  # type: ignore[misc]
    def __init__(self, last: Callable[[Any], Any]) -> None:
        super().__init__()
        self.dense, self.last = layers.Dense(2), last

    def call(self, observations: Any) -> Any:
        return self.last(self.dense(observations))


def network_function(observations: Any) -> Any:
    return observations[:, :2]


@pytest.mark.parametrize("role", ["policy", "value"])
@pytest.mark.parametrize(
    ("given", "match"),
    [
        (
            Subclass,
            r"is a class\. Received: {role}=the class Subclass.*Make an object of the class: {role}=Subclass\(\.\.\.\)",
        ),
        (layers.Dense(2), r"is a layer\. Received: {role}=a Dense.*keras\.Sequential"),
        (network_function, r"is a function\. Received: {role}=the function network_function.*subclass keras\.Model"),
        (lambda x: x, r"is a function"),
        ([64, 64], r"must be a keras\.Model\. Received: {role}=\[64, 64\].*keras\.Sequential"),
        ("MlpPolicy", r"must be a keras\.Model\. Received: {role}='MlpPolicy'.*default network"),
        (2, r"must be a keras\.Model\. Received: {role}=2"),
        ({"layers": 2}, r"must be a keras\.Model\. Received: {role}=.'layers': 2"),
        (np.zeros(3), r"must be a keras\.Model\. Received: {role}=array"),
        (VECTOR, r"must be a keras\.Model\. Received: {role}=Box"),
    ],
)
def test_what_is_no_network_is_refused_by_the_constructor(role: str, given: Any, match: str) -> None:
    with pytest.raises(optix.errors.SpaceError, match=match.format(role=role)):
        optix.PPOAgent(**{role: given})


def test_an_agent_is_no_network() -> None:
    with pytest.raises(optix.errors.SpaceError, match=r"`policy` is an agent.*`agent\.policy`"):
        optix.PPOAgent(optix.ReinforceAgent())


PROBABILITIES: dict[str, Callable[[], Any]] = {
    "softmax": lambda: sequential(layers.Dense(2, activation="softmax")),
    "function": lambda: sequential(layers.Dense(2, activation=keras.activations.softmax)),
    "sigmoid": lambda: sequential(layers.Dense(2, activation="sigmoid")),
    "hard_sigmoid": lambda: sequential(layers.Dense(2, activation="hard_sigmoid")),
    "softmax_layer": lambda: sequential(layers.Dense(2), layers.Softmax()),
    "activation_layer": lambda: sequential(layers.Dense(2), layers.Activation("softmax")),
    "then_dropout": lambda: sequential(layers.Dense(2, activation="softmax"), layers.Dropout(0.1)),
    "then_reshaped": lambda: sequential(layers.Dense(2, activation="softmax"), layers.Reshape((2,))),
    "functional": lambda: functional(lambda x: layers.Dense(2, activation="softmax")(x)),
    "operation": lambda: functional(lambda x: keras.ops.softmax(layers.Dense(2)(x))),
    "sigmoid_operation": lambda: functional(lambda x: keras.ops.sigmoid(layers.Dense(2)(x))),
    "called_activation": lambda: functional(lambda x: keras.activations.softmax(layers.Dense(2)(x))),
    "nested": lambda: keras.Sequential(
        [layers.Input((3,)), keras.Sequential([layers.Dense(4), layers.Dense(2, activation="softmax")])]
    ),
    "nested_functional": lambda: sequential(
        keras.Model(inner := layers.Input((4,)), layers.Dense(2, activation="softmax")(inner))
    ),
    "einsum": lambda: sequential(layers.EinsumDense("bi,io->bo", 2, activation="softmax")),
    "subclass": lambda: Subclass(keras.ops.softmax),
    "lambda": lambda: sequential(layers.Dense(2), layers.Lambda(keras.ops.softmax)),
    "not_built": lambda: keras.Sequential([layers.Dense(2, activation="softmax")]),
}


@pytest.mark.parametrize("name", PROBABILITIES)
def test_probabilities_in_the_place_of_logits_are_refused(name: str) -> None:
    with pytest.raises(
        optix.errors.SpaceError, match=r"probabilities, but logits are needed\. Received.*Leave the last"
    ):
        optix.PPOAgent(PROBABILITIES[name]()).bind(VECTOR, TWO)


@pytest.mark.parametrize("space", [spaces.MultiDiscrete([2, 2]), spaces.MultiBinary(4)], ids=["multi", "bits"])
def test_choices_of_all_kinds_want_logits(space: Any) -> None:
    with pytest.raises(optix.errors.SpaceError, match="sigmoid"):
        optix.PPOAgent(sequential(layers.Dense(4, activation="sigmoid"))).bind(VECTOR, space)


ALLOWED: dict[str, Callable[[], Any]] = {
    "linear": lambda: sequential(layers.Dense(2)),
    "log_softmax_is_logits_too": lambda: sequential(layers.Dense(2, activation="log_softmax")),
    "tanh": lambda: sequential(layers.Dense(2, activation="tanh")),
    "softmax_inside": lambda: sequential(layers.Dense(2, activation="softmax"), layers.Dense(2)),
    "attention_of_a_softmax": lambda: functional(lambda x: layers.Dense(2)(layers.Softmax()(x))),
    "zeros": lambda: sequential(layers.Dense(2, kernel_initializer="zeros")),
    "subclass": lambda: Subclass(lambda x: x),
    "not_built": lambda: keras.Sequential([layers.Dense(2)]),
    "scaled": lambda: functional(lambda x: 10.0 * layers.Dense(2, activation="sigmoid")(x)),
    "residual": lambda: functional(lambda x: layers.Dense(2)(x) + layers.Dense(2, activation="softmax")(x)),
}


@pytest.mark.parametrize("name", ALLOWED)
def test_logits_are_taken(name: str) -> None:
    agent = optix.PPOAgent(ALLOWED[name]())
    agent.bind(VECTOR, TWO)
    assert agent.bound


def test_a_box_may_have_means_of_any_activation() -> None:
    agent = optix.PPOAgent(sequential(layers.Dense(2, activation="softmax")))
    agent.bind(VECTOR, spaces.Box(0.0, 1.0, (2,)))
    assert agent.bound


def test_a_value_of_a_softmax_is_always_one() -> None:
    with pytest.raises(
        optix.errors.SpaceError, match=r"The value network ends in softmax, which is always 1 for a single output"
    ):
        optix.PPOAgent(value=sequential(layers.Dense(1, activation="softmax"))).bind(VECTOR, TWO)


@pytest.mark.parametrize("role", ["policy", "value"])
def test_several_outputs_are_refused_with_what_to_do(role: str) -> None:
    outputs = {
        "list": lambda x: [layers.Dense(2)(x), layers.Dense(1)(x)],
        "dict": lambda x: {"logits": layers.Dense(2)(x), "value": layers.Dense(1)(x)},
        "three": lambda x: [layers.Dense(2)(x), layers.Dense(1)(x), layers.Dense(1)(x)],
    }
    matches = {
        "list": r"a list of 2 outputs.*outputs=\[\(None, 2\), \(None, 1\)\].*may share layers: "
        r"policy=keras\.Model\(model\.inputs, model\.outputs\[0\]\), value=",
        "dict": r"a dict of 2 outputs \('logits', 'value'\)",
        "three": rf"a list of 3 outputs.*as `{role}`",
    }
    for name, match in matches.items():
        with pytest.raises(optix.errors.SpaceError, match=match):
            optix.PPOAgent(**{role: functional(outputs[name])}).bind(VECTOR, TWO)


def test_a_model_with_two_outputs_is_taken_apart_as_the_message_says() -> None:
    model = functional(lambda x: [layers.Dense(2)(x), layers.Dense(1)(x)])
    agent = optix.PPOAgent(keras.Model(model.inputs, model.outputs[0]), keras.Model(model.inputs, model.outputs[1]))
    agent.bind(VECTOR, TWO)
    assert agent._joint is not None


@pytest.mark.parametrize(
    ("network", "match"),
    [
        (lambda: sequential(layers.Dense(3)), r"shape \(None, 3\), but \(None, 2\) is needed: one logit per action"),
        (
            lambda: sequential(layers.Reshape((4, 1)), layers.Dense(2)),
            r"\(None, 4, 2\).*one vector for each observation",
        ),
        (lambda: functional(lambda x: keras.ops.argmax(layers.Dense(2)(x), -1)), r"shape \(None,\)"),
        (lambda: functional(lambda x: keras.ops.cast(layers.Dense(2)(x) > 0, "int32")), "gives integers.*logits"),
        (lambda: functional(lambda x: layers.Dense(2)(x) > 0), "gives integers.*dtype='bool'"),
        (lambda: Subclass(lambda x: keras.ops.reshape(x, (-1, 2))[:1]), "mixes the rows of a batch"),
        (lambda: keras.Sequential([layers.Input((4,)), layers.Dense(2)]), r"\(None, 4\).*\(None, 3\)"),
        (lambda: keras.Sequential([layers.Input(batch_shape=(1, 3)), layers.Dense(2)]), r"batches of 1 only"),
        (lambda: Subclass(lambda x: x + keras.ops.zeros((7, 9))), "cannot be called on observations"),
    ],
)
def test_outputs_of_other_shapes_and_kinds_are_refused(network: Callable[[], Any], match: str) -> None:
    with pytest.raises(optix.errors.SpaceError, match=match):
        optix.PPOAgent(network()).bind(VECTOR, TWO)


def test_swapped_networks_are_named() -> None:
    with pytest.raises(optix.errors.SpaceError, match=r"\(None, 1\), but \(None, 2\) is needed.*swapped"):
        optix.PPOAgent(sequential(layers.Dense(1)), sequential(layers.Dense(2))).bind(VECTOR, TWO)


def test_a_refused_network_leaves_the_agent_unbound() -> None:
    agent = optix.PPOAgent(sequential(layers.Dense(3)))
    with pytest.raises(optix.errors.SpaceError):
        agent.bind(VECTOR, TWO)
    assert not agent.bound
    agent.policy = sequential(layers.Dense(2))
    agent.bind(VECTOR, TWO)
    assert agent.bound


def test_a_compiled_model_is_a_network_like_any_other() -> None:
    policy = sequential(layers.Dense(2))
    policy.compile("sgd", "mse")
    policy.fit(np.zeros((4, 3)), np.zeros((4, 2)), verbose=0)
    agent = optix.PPOAgent(policy)
    agent.bind(VECTOR, TWO)
    assert agent.bound


@pytest.mark.parametrize(
    ("network", "name"),
    [
        (lambda: sequential(layers.Dense(2)), "linear"),
        (lambda: sequential(layers.Dense(2), layers.LeakyReLU()), "linear"),
        (lambda: sequential(layers.Dense(2, activation="relu")), "relu"),
        (lambda: sequential(layers.Dense(2), layers.Lambda(lambda x: x)), None),
        (lambda: Subclass(lambda x: x), None),
    ],
)
def test_the_last_activation_by_name(network: Callable[[], Any], name: str | None) -> None:
    assert last_activation(network()) == name
