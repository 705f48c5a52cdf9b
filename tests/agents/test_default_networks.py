"""Default networks for whatever an observation space has: images in any layout, keys of any name, bytes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from gymnasium import spaces

import keras_optix as optix
from keras_optix.agents.default_networks import default_network
from keras_optix.experience.observations import ObservationLayout
from keras_optix.testing import RandomEnv

LAYOUTS = ("channels_last", "channels_first")


def image(*shape: int) -> spaces.Box:
    return spaces.Box(0, 255, shape, np.uint8)


def vector(size: int = 2) -> spaces.Box:
    return spaces.Box(-1.0, 1.0, (size,))


@pytest.fixture
def image_data_format(request: pytest.FixtureRequest) -> Iterator[str]:
    before = keras.config.image_data_format()
    keras.config.set_image_data_format(request.param)
    yield request.param
    keras.config.set_image_data_format(before)


def learns(space: spaces.Space[Any], **options: Any) -> optix.PPOAgent:
    """An agent that has learned from a window of this space, in all layers."""
    keras.utils.set_random_seed(0)
    agent = optix.PPOAgent(update_epochs=1, minibatch_size=6, seed=0, **options)
    agent.compile("adam", jit_compile=False)
    dataset = optix.dataset_from_env(lambda: RandomEnv(space, spaces.Discrete(2)), agent, window_size=6)
    before = [variable.numpy() for variable in agent.trainable_variables]
    logs = agent.train_step(next(iter(dataset)))
    assert all(np.isfinite(value) for value in logs.values())
    moved = [not np.array_equal(old, new.numpy()) for old, new in zip(before, agent.trainable_variables, strict=True)]
    assert all(moved)
    return agent


def convolutions(agent: Any) -> list[Any]:
    return [layer for layer in agent.policy.layers if isinstance(layer, keras.layers.Conv2D)]


def frames_of(agent: Any) -> tuple[int, ...]:
    """What the first convolution sees: height, width, channels."""
    return tuple(convolutions(agent)[0].input.shape[1:])


IMAGES = {
    "rgb": (image(40, 44, 3), (40, 44, 3)),
    "channels_in_front": (image(3, 40, 44), (40, 44, 3)),
    "atari": (image(4, 84, 84), (84, 84, 4)),
    "grey": (image(40, 44, 1), (40, 44, 1)),
    "grey_in_front": (image(1, 40, 44), (40, 44, 1)),
    "plane": (image(40, 44), (40, 44, 1)),
    "minatar": (image(10, 10, 4), (10, 10, 4)),
    "minatar_in_front": (image(4, 10, 10), (10, 10, 4)),
    "stack": (image(2, 40, 44, 3), (40, 44, 6)),
    "stack_in_front": (image(2, 3, 40, 44), (40, 44, 6)),
    "in_a_dict": (spaces.Dict(camera=image(3, 10, 12), speed=vector()), (10, 12, 3)),
}


@pytest.mark.parametrize("image_data_format", LAYOUTS, indirect=True)
@pytest.mark.parametrize("name", IMAGES)
def test_images_of_any_layout_under_any_setting(name: str, image_data_format: str) -> None:
    space, wanted = IMAGES[name]
    agent = learns(space)
    assert frames_of(agent) == wanted
    assert {layer.data_format for layer in convolutions(agent)} == {"channels_last"}


def test_pixels_reach_the_convolution_where_they_are() -> None:
    """The same image in five layouts is the same to the network."""
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (12, 14, 3), np.uint8)
    in_layouts = {
        "last": frame,
        "first": frame.transpose(2, 0, 1),
        "stack_last": frame[None],
        "stack_first": frame.transpose(2, 0, 1)[None],
    }
    outputs = []
    for given in in_layouts.values():
        keras.utils.set_random_seed(3)
        network = default_network(ObservationLayout(image(*given.shape)), 2, output_gain=1.0, name="policy")
        outputs.append(np.asarray(network(given[None])))
    for other in outputs[1:]:
        np.testing.assert_allclose(other, outputs[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("image_data_format", LAYOUTS, indirect=True)
def test_without_a_short_axis_the_setting_says_which_are_channels(image_data_format: str) -> None:
    agent = optix.PPOAgent()
    agent.bind(image(9, 9, 9), spaces.Discrete(2))
    permuted = any(isinstance(layer, keras.layers.Permute) for layer in agent.policy.layers)
    assert permuted == (image_data_format == "channels_first")


def test_a_saved_agent_loads_under_another_setting(tmp_path: Path) -> None:
    space = image(40, 44, 3)
    agent = learns(space)
    agent.save(tmp_path / "agent.keras")
    observations = np.stack([space.sample() for _ in range(5)])
    keras.config.set_image_data_format("channels_first")
    try:
        again = keras.saving.load_model(tmp_path / "agent.keras")
        np.testing.assert_array_equal(
            agent.act(observations, deterministic=True), again.act(observations, deterministic=True)
        )
        np.testing.assert_allclose(agent(observations), again(observations), rtol=1e-5, atol=1e-6)
    finally:
        keras.config.set_image_data_format("channels_last")


def test_bytes_that_are_no_image_are_scaled_too() -> None:
    memory = spaces.Box(0, 255, (128,), np.uint8)
    agent = learns(memory)
    assert not convolutions(agent)
    scaled = keras.Model(agent.policy.input, agent.policy.get_layer("features").output)
    np.testing.assert_allclose(scaled(np.full((1, 128), 255.0)), 1.0, rtol=1e-6)
    board = optix.PPOAgent()
    board.bind(spaces.Box(0, 2, (9,), np.uint8), spaces.Discrete(2))
    unscaled = keras.Model(board.policy.input, board.policy.get_layer("features").output)
    np.testing.assert_allclose(unscaled(np.full((1, 9), 2.0)), 2.0)


NAMES: dict[str, spaces.Dict] = {
    "nested_and_joined": spaces.Dict(a=spaces.Dict(b=vector()), a_b=vector()),
    "slash_and_underscore": spaces.Dict({"agent/pos": vector(), "agent_pos": vector()}),
    "slash_and_nested": spaces.Dict({"a/b": vector(), "a": spaces.Dict(b=vector())}),
    "layers_of_the_network": spaces.Dict(
        {name: vector() for name in ("dense", "dense_1", "features", "concatenate", "input_layer")}
    ),
    "operations_of_the_network": spaces.Dict(one_hot=spaces.Discrete(3), get_item=spaces.MultiDiscrete([2, 3])),
    "inputs_of_the_network": spaces.Dict({"observation": vector(), "observation_1": vector(), "x y": vector()}),
    "models": spaces.Dict(policy=vector(), value=vector(), agent=vector()),
    "punctuation": spaces.Dict({"a.b": vector(), "a-b": vector(), "a b": vector(), "a:b": vector(), "^": vector()}),
    "letters": spaces.Dict({"Größe": vector(), "Grosse": vector(), "速度": vector(), "🎮": vector()}),
    "cases": spaces.Dict(Speed=vector(), speed=vector()),
    "empty": spaces.Dict({"": vector(), " ": vector()}),
    "digits": spaces.Dict({"0": vector(), "1": spaces.Tuple((vector(), vector()))}),
    "reserved": spaces.Dict({"training": vector(), "mask": vector(), "inputs": vector(), "self": vector()}),
    "images": spaces.Dict({"cam/0": image(10, 10, 3), "cam_0": image(10, 10, 3), "conv2d": image(3, 10, 10)}),
    "deep": spaces.Dict(a=spaces.Dict(a=spaces.Dict({"a/a": vector(), "a": vector()})), a_a=vector()),
    "numbers": spaces.Dict({1: vector(), 2: vector()}),
}


@pytest.mark.parametrize("name", NAMES)
def test_keys_may_be_any(name: str) -> None:
    agent = learns(NAMES[name])
    assert agent.act(NAMES[name].sample()) in (0, 1)


@pytest.mark.parametrize("name", ["nested_and_joined", "slash_and_underscore", "letters", "images"])
def test_keys_of_any_name_are_saved(name: str, tmp_path: Path) -> None:
    agent = learns(NAMES[name])
    agent.save(tmp_path / "agent.keras")
    again = keras.saving.load_model(tmp_path / "agent.keras")
    NAMES[name].seed(0)
    observation = NAMES[name].sample()
    batch = keras.tree.map_structure(lambda leaf: np.stack([leaf] * 3), observation)
    np.testing.assert_allclose(agent(batch), again(batch), rtol=1e-5, atol=1e-6)


def test_a_readable_key_is_the_name_of_its_input() -> None:
    agent = optix.PPOAgent()
    agent.bind(spaces.Dict(speed=vector(), gear=spaces.Discrete(3)), spaces.Discrete(2))
    assert sorted(tensor.name for tensor in agent.policy.inputs) == ["gear", "speed"]


def test_no_layer_of_a_default_network_takes_the_name_of_a_key() -> None:
    """The keys are what Keras would call the layers of such a network."""
    space = spaces.Dict(
        a=image(40, 40, 3), b=image(3, 10, 10), c=image(2, 40, 40, 3), d=spaces.Discrete(2), e=vector(), f=image(9, 9)
    )
    agent = optix.PPOAgent()
    agent.bind(space, spaces.Discrete(2))
    names = [operation.name.rstrip("_0123456789") for operation in agent.policy.operations]
    keras.backend.clear_session()  # so that the next network begins to count anew
    keys = {name for name in names if len(name) > 1} | {f"{name}_1" for name in names if len(name) > 1}
    assert {"conv2d", "one_hot", "permute", "rescaling"} <= keys
    again = optix.PPOAgent()
    again.bind(
        spaces.Dict({**{key: vector() for key in keys}, "x": spaces.MultiDiscrete([2, 2]), "y": image(3, 9, 9)}),
        spaces.Discrete(2),
    )


def test_the_weights_of_a_q_network_begin_as_those_of_pytorch() -> None:
    """Uniform in +-1 / sqrt(inputs), in each layer; orthogonal weights of so many units would lie beyond."""
    agent = optix.DQNAgent()
    agent.bind(spaces.Box(-1.0, 1.0, (4,)), spaces.Discrete(2))
    for layer in (one for one in agent.policy.layers if isinstance(one, keras.layers.Dense)):
        biases = np.abs(np.asarray(layer.bias))
        assert 0.0 < biases.max() <= 1.0 / np.sqrt(layer.kernel.shape[0])
    for kernel in (one.kernel for one in agent.policy.layers if isinstance(one, keras.layers.Dense)):
        weights, most = np.asarray(kernel), 1.0 / np.sqrt(kernel.shape[0])
        # Of 512 weights or more, the largest is below 0.9 of the bound in 4e-24 of the cases.
        assert 0.9 * most < np.abs(weights).max() <= most
        assert weights.std() == pytest.approx(most / np.sqrt(3.0), rel=0.15)


@pytest.mark.parametrize("kind", ["PPOAgent", "ReinforceAgent"])
def test_networks_of_an_actor_and_a_critic_begin_in_either_way(kind: str) -> None:
    """Without orthogonal weights, actions depend on the first weights, also where observations are 0."""
    for space in (vector(), image(36, 36, 3)):
        agents = [getattr(optix, kind)(orthogonal_init=begins) for begins in (True, False)]
        for agent in agents:
            agent.bind(space, spaces.Discrete(2))
        small, large = (
            [np.asarray(variable) for variable in (*agent.policy.trainable_variables, *agent.value.trainable_variables)]
            for agent in agents
        )
        assert [one.shape for one in small] == [one.shape for one in large]
        assert all(not one.any() for one in small if one.ndim == 1)
        assert all(one.any() for one in large if one.ndim == 1)
        last = [np.asarray(agent.policy.layers[-1].kernel) for agent in agents]
        bound = 1.0 / np.sqrt(last[0].shape[0])
        assert np.abs(last[0]).max() <= 0.01  # the gain: no weight of an orthogonal matrix is above 1
        assert 0.5 * bound < np.abs(last[1]).max() <= bound
        again = type(agents[1]).from_config(agents[1].get_config())
        assert not again.orthogonal_init
        assert "orthogonal_init" not in agents[0].get_config()


def test_an_initial_value_that_would_be_ignored_is_refused() -> None:
    network = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)])
    with pytest.raises(optix.ConfigurationError, match=r"both networks are given.*orthogonal_init=False"):
        optix.PPOAgent(network, keras.models.clone_model(network), orthogonal_init=False)
    with pytest.raises(optix.ConfigurationError, match="orthogonal_init='no'"):
        optix.PPOAgent(orthogonal_init="no")
