"""What an agent has of Keras' trainer: single windows, predictions, export; and what it refuses, in words."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from gymnasium import spaces
from versions import older

import keras_optix as optix
from keras_optix.testing import CountingEnv

MakeAgent = Callable[..., optix.PPOAgent]
SPACES: dict[str, Any] = {
    "dict": spaces.Dict({"b": spaces.Box(-1, 1, (3,)), "a": spaces.Discrete(4)}),
    "tuple": spaces.Tuple((spaces.Box(-1, 1, (2,)), spaces.MultiBinary(2))),
    "image": spaces.Box(0, 255, (6, 6, 1), np.uint8),
    "float64": spaces.Box(-1, 1, (2,), np.float64),
}


def bound(space: Any) -> tuple[optix.PPOAgent, Any]:
    """An agent for observations of a space, and a batch of five of them."""
    agent = optix.PPOAgent(normalize_observations=space is not SPACES["image"], seed=0)
    agent.bind(space, spaces.Discrete(3))
    space.seed(0)
    layout = agent.head.layout
    drawn = zip(*(layout.flatten(space.sample()) for _ in range(5)), strict=True)
    # In the dtypes that a network gets, as in windows.
    return agent, layout.pack(
        [np.stack(rows).astype(leaf.dtype) for rows, leaf in zip(drawn, layout.leaves, strict=True)]
    )


def outputs(agent: optix.Agent, rows: Any) -> np.ndarray:
    return np.asarray(agent(keras.tree.map_structure(tf.convert_to_tensor, rows)))


@pytest.fixture
def fitting(small_ppo: MakeAgent) -> tuple[optix.PPOAgent, tf.data.Dataset]:
    """An agent with a dataset of `CountingEnv`."""
    agent = small_ppo()
    return agent, optix.dataset_from_env(CountingEnv, agent, window_size=8, seed=0)


# On windows


def test_one_window_is_learned_from_as_in_fit(small_ppo: MakeAgent, fitting: Any) -> None:
    agent, dataset = fitting
    state = agent.get_state()
    kept: list[optix.Window] = []
    windows = dataset.map(lambda window: window)
    for window in windows.take(1):
        kept.append(optix.Window(*(np.asarray(field) for field in window)))
    logs = agent.train_on_batch(kept[0], return_dict=True)
    assert set(logs) >= {"loss", "episode_return", "policy_lag"}
    assert all(isinstance(value, float) for value in logs.values())
    after, version = agent.get_weights(), agent.policy_version
    agent.set_state(state)
    twin = small_ppo()
    again = optix.dataset_from_env(CountingEnv, twin, window_size=8, seed=0)
    twin.set_state(state)
    twin.fit(again, steps_per_epoch=1, verbose=0)
    for a, b in zip(after, twin.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    assert version == 2  # two epochs of one minibatch
    listed = dict(zip(sorted(logs), agent.train_on_batch(kept[0]), strict=True))
    assert listed["policy_lag"] == 3.0  # the window is of version 0, and the state that came back a new one


def test_one_window_is_watched_and_not_learned_from(fitting: Any) -> None:
    agent, dataset = fitting
    before = agent.get_weights()
    logs = agent.test_on_batch(next(iter(dataset)), return_dict=True)
    assert set(logs) == {"episode_return", "episode_length", "policy_lag"}
    for a, b in zip(before, agent.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("method", ["train_on_batch", "test_on_batch"])
def test_what_is_no_window_of_the_environment_is_refused(fitting: Any, small_ppo: MakeAgent, method: str) -> None:
    agent, dataset = fitting
    call = getattr(agent, method)
    window = next(iter(dataset))
    with pytest.raises(optix.errors.StateError, match=rf"knows no environment, but `{method}` needs one"):
        getattr(small_ppo(), method)(window)
    with pytest.raises(optix.ConfigurationError, match=r"learns from windows.*Received: x='ndarray'"):
        call(np.zeros((8, 2)))
    with pytest.raises(optix.errors.SpaceError, match=r"`Window\.actions` must have shape \(8, 1\).*shape=\(3, 3\)"):
        call(window._replace(actions=np.zeros((3, 3))))
    with pytest.raises(optix.errors.SpaceError, match="observations do not have the structure of the environment"):
        call(window._replace(observations={"a": window.observations}))
    for name in ("y", "sample_weight"):
        with pytest.raises(optix.ConfigurationError, match=rf"`{name}` has no meaning for an agent"):
            call(window, **{name: np.zeros(8)})
    if method == "train_on_batch":
        with pytest.raises(optix.ConfigurationError, match="`class_weight` has no meaning"):
            call(window, class_weight={0: 1.0})


# On observations


@pytest.mark.parametrize("name", SPACES)
def test_predictions_are_the_parameters_of_the_distribution(name: str) -> None:
    agent, rows = bound(SPACES[name])
    wanted = outputs(agent, rows)
    np.testing.assert_allclose(agent.predict(rows, verbose=0), wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(agent.predict(rows, batch_size=2, verbose=0), wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(agent.predict_on_batch(rows), wanted, rtol=1e-5, atol=1e-6)
    batches = tf.data.Dataset.from_tensor_slices((rows,)).batch(3)
    np.testing.assert_allclose(agent.predict(batches, verbose=0), wanted, rtol=1e-5, atol=1e-6)
    assert agent.compute_output_shape(None) == (None, 3)


def test_a_single_observation_is_for_act() -> None:
    agent, rows = bound(SPACES["dict"])
    one = keras.tree.map_structure(lambda leaf: leaf[0], rows)
    with pytest.raises(optix.ConfigurationError, match=r"batch.*act\(observation"):
        agent.predict(one, verbose=0)
    with pytest.raises(optix.ConfigurationError, match=r"batch.*act\(observation"):
        agent.predict_on_batch(one)


@pytest.mark.parametrize("name", SPACES)
def test_what_is_exported_is_call(name: str, tmp_path: Path) -> None:
    agent, rows = bound(SPACES[name])
    agent.export(str(tmp_path / "served"), verbose=False)
    served = tf.saved_model.load(str(tmp_path / "served"))
    given = keras.tree.map_structure(tf.convert_to_tensor, rows)
    np.testing.assert_allclose(served.serve(given), outputs(agent, rows), rtol=1e-5, atol=1e-6)


def test_a_format_that_is_not_there_is_refused(fitting: Any, tmp_path: Path) -> None:
    agent, dataset = fitting
    agent.fit(dataset, steps_per_epoch=1, verbose=0)
    with pytest.raises(ValueError, match="Unrecognized format"):
        agent.export(tmp_path / "x", format="pickle")


@pytest.mark.skipif(older("keras", "3.13"), reason="Keras exports to LiteRT since 3.13")
def test_an_agent_is_exported_for_litert_after_fit(fitting: Any, tmp_path: Path) -> None:
    agent, dataset = fitting
    agent.fit(dataset, steps_per_epoch=1, verbose=0)
    agent.export(tmp_path / "policy.tflite", format="litert", verbose=False)
    interpreter = Interpreter(str(tmp_path / "policy.tflite"))
    interpreter.allocate_tensors()
    place = interpreter.get_input_details()[0]["index"]
    interpreter.set_tensor(place, np.ones((1, 2), np.float32))
    interpreter.invoke()
    found = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_allclose(found, outputs(agent, np.ones((1, 2), np.float32)), rtol=1e-4, atol=1e-5)


# Keras' model


def test_a_summary_is_there_before_and_after_the_environment_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    agent = optix.PPOAgent()
    agent.summary()
    with pytest.raises(optix.errors.StateError, match=r"knows no environment, but `count_params` needs one"):
        agent.count_params()
    with pytest.raises(optix.errors.StateError, match=r"knows no environment, but `export` needs one"):
        agent.export("nowhere")
    agent.bind(CountingEnv().observation_space, CountingEnv().action_space)
    agent.summary()
    assert "policy" in capsys.readouterr().out
    assert agent.count_params() == agent.policy.count_params() + agent.value.count_params()


@pytest.mark.parametrize(
    "copied",
    [
        copy.deepcopy,
        keras.models.clone_model,
        lambda agent: pickle.loads(pickle.dumps(agent)),
        lambda agent: keras.models.model_from_json(agent.to_json()),
    ],
    ids=["deepcopy", "clone_model", "pickle", "json"],
)
def test_copies_of_an_agent_are_agents_of_their_own(copied: Callable[[Any], Any], fitting: Any) -> None:
    agent, dataset = fitting
    agent.fit(dataset, steps_per_epoch=1, verbose=0)
    twin = copied(agent)
    assert twin.bound
    assert twin.env_spaces == agent.env_spaces
    if copied in (copy.deepcopy,):
        for a, b in zip(agent.get_weights(), twin.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
    before = agent.get_weights()
    twin.compile("sgd", jit_compile=False)
    twin.fit(optix.dataset_from_env(CountingEnv, twin, window_size=8, seed=0), steps_per_epoch=1, verbose=0)
    for a, b in zip(before, agent.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_state_tree_goes_round(fitting: Any) -> None:
    agent, dataset = fitting
    agent.fit(dataset, steps_per_epoch=1, verbose=0)
    tree = agent.get_state_tree(value_format="numpy_array")
    before = agent.get_weights()
    agent.set_weights([np.zeros_like(weights) for weights in before])
    agent.set_state_tree(tree)
    for a, b in zip(before, agent.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_is_trainable_is_settled_when_the_agent_is_compiled(fitting: Any) -> None:
    agent, dataset = fitting
    agent.fit(dataset, steps_per_epoch=1, verbose=0)
    agent.policy.trainable = False
    with pytest.raises(optix.errors.StateError, match=r"trainable has changed.*compile\(optimizer=\.\.\.\)` again"):
        agent.fit(dataset, steps_per_epoch=1, verbose=0)
    with pytest.raises(optix.errors.StateError, match="trainable has changed"):
        agent.train_on_batch(next(iter(dataset)))
    agent.compile("adam", jit_compile=False)
    policy, value = agent.policy.get_weights(), agent.value.get_weights()
    agent.fit(dataset, steps_per_epoch=1, verbose=0)
    for a, b in zip(policy, agent.policy.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert any(not np.array_equal(a, b) for a, b in zip(value, agent.value.get_weights(), strict=True))
    agent.value.trainable = False
    with pytest.raises(optix.errors.StateError, match="Nothing of the agent is trainable"):
        agent.fit(dataset, steps_per_epoch=1, verbose=0)


# What windows have no place for


@pytest.mark.parametrize(
    ("method", "arguments", "match"),
    [
        ("compute_loss", (), "Override `train_step"),
        ("compiled_loss", (1, 2), "Override `train_step"),
        ("stateless_compute_loss", ([], [], []), "Override `train_step"),
        ("compute_metrics", (1, 2, 3), "from `train_step`"),
        ("add_metric", ("mean",), "from `train_step`"),
        ("quantize", ("int8",), "Quantise a copy"),
    ],
)
def test_methods_without_a_meaning_say_so(method: str, arguments: Any, match: str) -> None:
    agent, _ = bound(SPACES["float64"])  # Keras itself refuses to quantise a model that is not built
    with pytest.raises(optix.ConfigurationError, match=rf"`{method}` has no meaning for an agent.*{match}"):
        getattr(agent, method)(*arguments)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"loss": "mse"}, "takes no `loss`"),
        ({"loss_weights": [1.0]}, "takes no `loss_weights`"),
        ({"metrics": ["mse"]}, "takes no `metrics`"),
        ({"weighted_metrics": ["mse"]}, "takes no `weighted_metrics`"),
        ({"steps_per_execution": 0}, "steps_per_execution"),
        ({"optimizer": None}, "optimizer"),
    ],
)
def test_compile_refuses_what_would_be_ignored(options: dict[str, Any], match: str) -> None:
    with pytest.raises(optix.ConfigurationError, match=match):
        optix.PPOAgent().compile(**options)


@pytest.fixture(params=["tf.distribute", "keras.distribution"])
def spread(request: pytest.FixtureRequest) -> Iterator[str]:
    """Within a strategy of `tf.distribute`, or with a distribution of Keras."""
    if request.param == "tf.distribute":
        with tf.distribute.OneDeviceStrategy("/cpu:0").scope():
            yield "OneDeviceStrategy"
        return
    if older("keras", "3.15"):
        pytest.skip("Keras makes no distribution on TensorFlow before 3.15")
    devices = keras.distribution.DeviceMesh((1,), ["batch"], ["cpu:0"])
    keras.distribution.set_distribution(keras.distribution.DataParallel(device_mesh=devices))
    yield "DataParallel"
    keras.distribution.set_distribution(None)


def test_a_model_that_is_spread_over_devices_is_refused_when_it_is_made(spread: str) -> None:
    with pytest.raises(optix.ConfigurationError, match=rf"spread over devices.*{spread}.*num_envs"):
        optix.PPOAgent()


def test_and_when_it_is_compiled_or_trained(fitting: Any) -> None:
    agent, dataset = fitting
    with tf.distribute.MirroredStrategy(["/cpu:0"]).scope():
        with pytest.raises(optix.ConfigurationError, match="spread over devices"):
            agent.compile("sgd")
        with pytest.raises(optix.ConfigurationError, match="spread over devices"):
            agent.fit(dataset, steps_per_epoch=1, verbose=0)
