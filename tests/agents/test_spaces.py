"""Every space goes through the whole way: default networks, collection, an update, acting, evaluation."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from gymnasium import spaces

import keras_optix as optix
from keras_optix.experience.actor import LiteRTActor
from keras_optix.testing import MatchEnv, RandomEnv

VECTOR = spaces.Box(-1.0, 1.0, (3,))
IMAGE = spaces.Box(0, 255, (40, 44, 3), np.uint8)

OBSERVATIONS = {
    "box": VECTOR,
    "box_float64": spaces.Box(-1.0, 1.0, (3,), np.float64),
    "matrix": spaces.Box(-np.inf, np.inf, (2, 3)),
    "bools": spaces.Box(0, 1, (4, 4, 2), np.bool_),
    "image": IMAGE,
    "small_image": spaces.Box(0, 255, (10, 10, 4), np.uint8),
    "channels_first": spaces.Box(0, 255, (3, 40, 44), np.uint8),
    "frame_stack": spaces.Box(0, 255, (4, 40, 44, 3), np.uint8),
    "discrete": spaces.Discrete(5, start=2),
    "multi_discrete": spaces.MultiDiscrete([[3, 4], [2, 2]], start=[[1, 1], [0, 5]]),
    "multi_binary": spaces.MultiBinary([2, 2]),
    "dict": spaces.Dict(camera=IMAGE, speed=VECTOR, gear=spaces.Discrete(4)),
    "dict_of_one": spaces.Dict(speed=VECTOR),
    "tuple": spaces.Tuple((VECTOR, spaces.Discrete(3))),
    "nested": spaces.Dict(arm=spaces.Dict(x=VECTOR, y=spaces.MultiBinary(2)), rest=spaces.Tuple((VECTOR, VECTOR))),
}
ACTIONS = {
    "discrete": spaces.Discrete(3, start=-1),
    "multi_discrete": spaces.MultiDiscrete([[3, 2], [2, 2]]),
    "multi_binary": spaces.MultiBinary([3, 2]),
    "bounded": spaces.Box(-2.0, 5.0, (2,)),
    "unbounded": spaces.Box(-np.inf, np.inf, (2, 2)),
    "half_bounded": spaces.Box(np.array([0.0, -np.inf]), np.array([np.inf, 1.0]), dtype=np.float64),
}


def agent_for(seed: int = 0, **options: Any) -> optix.PPOAgent:
    keras.utils.set_random_seed(seed)
    agent = optix.PPOAgent(update_epochs=1, minibatch_size=64, seed=0, **options)
    agent.compile(optimizer="adam", jit_compile=False)
    return agent


@pytest.mark.parametrize("name", OBSERVATIONS)
def test_observation_spaces(name: str) -> None:
    space = OBSERVATIONS[name]
    space.seed(0)
    agent = agent_for()
    dataset = optix.dataset_from_env(lambda: RandomEnv(space, spaces.Discrete(2)), agent, window_size=6, num_envs=2)
    window = next(iter(dataset))
    layout = agent.head.layout
    for leaf, values in zip(layout.leaves, layout.flatten(window.observations), strict=True):
        assert tuple(values.shape) == (6, 2, *leaf.shape)
        assert values.dtype.as_numpy_dtype == leaf.dtype
    logs = agent.train_step(window)
    assert all(np.isfinite(value) for value in logs.values())
    one = space.sample()
    assert agent.act(one) in (0, 1)
    batch = layout.pack([np.stack([np.asarray(leaf)] * 3) for leaf in layout.flatten(one)])
    assert agent.act(batch, deterministic=True).shape == (3,)
    assert isinstance(agent.make_actor(1), LiteRTActor)


@pytest.mark.parametrize("name", ACTIONS)
def test_action_spaces(name: str) -> None:
    """RandomEnv refuses actions outside its space."""
    space = ACTIONS[name]
    agent = agent_for(normalize_observations=True, normalize_rewards=True)
    dataset = optix.dataset_from_env(lambda: RandomEnv(VECTOR, space), agent, window_size=6, num_envs=2, seed=0)
    window = next(iter(dataset))
    parameters = agent.head.parameters(np.reshape(window.observations, (12, 3)), training=False)
    choices = np.reshape(window.actions, (12, *window.actions.shape[2:]))
    expected = np.reshape(agent.head.distribution.log_prob(parameters, choices), (6, 2))
    np.testing.assert_allclose(window.log_probs, expected, atol=1e-4)
    logs = agent.train_step(window)
    # Nothing has been learned yet: the ratio of the first minibatch, the only one, is 1.
    assert float(logs["approx_kl"]) == pytest.approx(0.0, abs=1e-5)
    observation = np.zeros(3, np.float32)
    assert space.contains(agent.act(observation))
    assert all(space.contains(action) for action in agent.act(np.stack([observation] * 3)))
    metrics = optix.evaluate_policy(agent, lambda: RandomEnv(VECTOR, space), episodes=2, seed=0)
    assert metrics.primary_score == 5.0


def test_a_gaussian_policy_may_give_its_own_deviations() -> None:
    space = spaces.Box(-1.0, 1.0, (2,))
    means_only, both = agent_for(), agent_for()
    both.policy = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(4)])
    for agent in (means_only, both):
        agent.bind(VECTOR, space)
    assert means_only.log_std.shape == (2,)
    assert means_only.log_std.trainable
    assert both.log_std is None
    assert both.act(np.zeros(3, np.float32)).shape == (2,)


@pytest.mark.parametrize(
    ("space", "match"),
    [
        (spaces.Text(5), "No agent plays.*PPOAgent.*Text"),
        (spaces.Dict(a=spaces.Discrete(2)), "No agent plays.*Discrete, MultiDiscrete, MultiBinary"),
        (spaces.Box(0, 5, (2,), np.int64), "floating-point Box"),
    ],
)
def test_actions_that_nobody_plays_are_refused(space: Any, match: str) -> None:
    with pytest.raises(optix.errors.SpaceError, match=match):
        agent_for().bind(VECTOR, space)


def test_an_algorithm_says_what_it_plays_and_who_plays_the_rest() -> None:
    class Picky(optix.Agent):
        supported_action_spaces = (spaces.Discrete,)

    with pytest.raises(
        optix.errors.SpaceError, match=r"Picky plays Discrete actions only.*Box.*PPOAgent and ReinforceAgent"
    ):
        Picky().bind(VECTOR, spaces.Box(-1.0, 1.0, (2,)))


@pytest.mark.parametrize(
    ("inputs", "match"),
    [
        ({"speed": (3,), "sped": (3,)}, "input 'sped' that the environment's observations do not have"),
        ({"speed": (4,)}, r"inputs 'speed' of shape \(None, 4\).*\(None, 3\)"),
        (None, "single array.*dict of"),
    ],
)
def test_a_network_that_does_not_fit_dict_observations_is_refused(inputs: Any, match: str) -> None:
    layers = keras.layers
    if inputs is None:
        policy = keras.Sequential([layers.Input((3,)), layers.Dense(2)])
    else:
        tensors = {key: layers.Input(shape, name=key) for key, shape in inputs.items()}
        joined = layers.Concatenate()(list(tensors.values())) if len(tensors) > 1 else tensors["speed"]
        policy = keras.Model(tensors, layers.Dense(2)(joined))
    agent = optix.PPOAgent(policy)
    with pytest.raises(optix.errors.SpaceError, match=match):
        agent.bind(spaces.Dict(speed=VECTOR, gear=spaces.Discrete(4)), spaces.Discrete(2))


def test_a_network_may_look_at_a_part_of_the_observations() -> None:
    speed = keras.layers.Input((3,), name="speed")
    policy = keras.Model({"speed": speed}, keras.layers.Dense(2)(speed))
    agent = optix.PPOAgent(policy)
    agent.compile(jit_compile=False)
    space = spaces.Dict(speed=VECTOR, gear=spaces.Discrete(4))
    dataset = optix.dataset_from_env(lambda: RandomEnv(space, spaces.Discrete(2)), agent, window_size=4)
    agent.train_step(next(iter(dataset)))


def test_observations_of_another_shape_are_refused_when_acting() -> None:
    agent = agent_for()
    agent.bind(spaces.Dict(speed=VECTOR), spaces.Discrete(2))
    with pytest.raises(optix.errors.SpaceError, match=r"'speed': \(3,\).*Received: shape=\{'speed': \(4,\)\}"):
        agent.act({"speed": np.zeros(4, np.float32)})
    with pytest.raises(optix.errors.EnvError, match="'speed'"):
        agent.act({"velocity": np.zeros(3, np.float32)})


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["ppo", "reinforce"])
@pytest.mark.parametrize("name", ["discrete", "multi_discrete", "multi_binary", "bounded"])
def test_every_kind_of_action_is_learned(algorithm: str, name: str, two_of_seven_seeds: Any) -> None:
    """Random play gives about 5 to 6.7 of 10, the target 10."""
    space = ACTIONS[name]
    ppo = algorithm == "ppo"

    def score(seed: int) -> float:
        keras.utils.set_random_seed(seed)
        agent: Any = optix.PPOAgent(gamma=0.5, entropy_coefficient=0.02) if ppo else optix.ReinforceAgent(gamma=0.5)
        agent.compile(optimizer=keras.optimizers.Adam(3e-3 if ppo else 1e-2))
        dataset = optix.dataset_from_env(lambda: MatchEnv(space), agent, window_size=50, num_envs=8, seed=seed)
        agent.fit(dataset, steps_per_epoch=80 if ppo else 400, verbose=0)
        return float(optix.evaluate_policy(agent, lambda: MatchEnv(space), 20, seed=seed + 1).primary_score or 0.0)

    two_of_seven_seeds(score, lambda found: found > 9.0)


def test_rewards_of_the_matching_environment() -> None:
    env = MatchEnv(spaces.Box(-2.0, 2.0, (1,)))
    observation, _ = env.reset(seed=0)
    assert env.step(2.0 * observation)[1] == pytest.approx(1.0, abs=1e-6)
