"""`agent.save` and `keras.saving.load_model`: a whole agent in a file."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces

import keras_optix as optix
from keras_optix.testing import RandomEnv

VECTOR = spaces.Box(-1.0, 1.0, (3,))
PARTS = spaces.Dict({"speed": spaces.Box(-1.0, 1.0, (2,)), "gear": spaces.Discrete(3)})
MOVES = spaces.Box(-1.0, 1.0, (2,))

SETTINGS: dict[str, Any] = {"update_epochs": 2, "minibatch_size": 8, "seed": 5}
NORMALIZED = SETTINGS | {"normalize_observations": True, "normalize_rewards": True}
AGENTS: dict[str, tuple[Callable[[], Any], gymnasium.Space[Any], gymnasium.Space[Any]]] = {
    "ppo": (lambda: optix.PPOAgent(**SETTINGS), VECTOR, spaces.Discrete(3)),
    "ppo_box": (lambda: optix.PPOAgent(name="mover", **NORMALIZED), VECTOR, MOVES),
    "ppo_dict": (lambda: optix.PPOAgent(**NORMALIZED), PARTS, spaces.MultiDiscrete([2, 3])),
    "reinforce": (lambda: optix.ReinforceAgent(normalize_rewards=True), VECTOR, spaces.Discrete(2, start=1)),
}


def windows(agent: Any, observation_space: Any, action_space: Any) -> tf.data.Dataset:
    env = RandomEnv(observation_space, action_space)
    return optix.dataset_from_env(env, agent, window_size=16, seed=3)


def trained(case: str, optimizer: Any = None) -> Any:
    make, observation_space, action_space = AGENTS[case]
    agent = make()
    agent.compile(optimizer=optimizer or keras.optimizers.Adam(1e-2), jit_compile=False)
    agent.fit(windows(agent, observation_space, action_space), steps_per_epoch=2, epochs=1, verbose=0)
    return agent


def reloaded(agent: Any, directory: Path, **options: Any) -> Any:
    path = directory / "agent.keras"
    if agent.bound:
        agent.save(path)
    else:
        with pytest.warns(UserWarning, match="has not yet been built"):
            agent.save(path)
    return keras.saving.load_model(path, **options)


def without_networks(agent: Any) -> dict[str, Any]:
    return {name: value for name, value in agent.get_config().items() if name not in ("policy", "value")}


def assert_same(values: list[Any], others: list[Any]) -> None:
    assert len(values) == len(others) > 0
    for one, other in zip(values, others, strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other), strict=True)


def observations_of(space: Any, count: int = 100) -> Any:
    space.seed(0)
    drawn = [space.sample() for _ in range(count)]
    return keras.tree.map_structure(lambda *values: np.stack(values), *drawn)


@pytest.mark.parametrize("case", AGENTS)
def test_everything_comes_back(case: str, tmp_path: Path) -> None:
    agent = trained(case)
    agent.set_hyperparams(optix.HyperparamSet({"gamma": 0.9, "entropy_coefficient": 0.003, "learning_rate": 5e-4}))
    again = reloaded(agent, tmp_path)

    assert type(again) is type(agent)
    assert again.name == agent.name
    assert again.get_hyperparams() == agent.get_hyperparams()
    assert again.hyperparams["learning_rate"] == 5e-4
    assert without_networks(agent) == without_networks(again)
    assert_same([v.numpy() for v in agent.variables], [v.numpy() for v in again.variables])
    assert_same([v.numpy() for v in agent.optimizer.variables], [v.numpy() for v in again.optimizer.variables])
    assert int(again.optimizer.iterations.numpy()) == again.policy_version == agent.policy_version > 0
    assert_same(list(agent.get_state().values()), list(again.get_state().values()))

    observations = observations_of(AGENTS[case][1])
    assert_same([agent.act(observations, deterministic=True)], [again.act(observations, deterministic=True)])


def test_a_policy_that_its_first_observations_built_comes_back_for_batches_of_any_size(tmp_path: Path) -> None:
    agent = optix.PPOAgent(keras.Sequential([keras.layers.Dense(4, "tanh"), keras.layers.Dense(2)]))
    agent.compile("adam", jit_compile=False)
    agent.bind(spaces.Box(-1.0, 1.0, (3,), np.float32), spaces.Discrete(2))
    again = reloaded(agent, tmp_path)
    for rows in (1, 2, 5):
        observations = np.ones((rows, 3), np.float32)
        assert_same([agent.predict_on_batch(observations)], [again.predict_on_batch(observations)])


@pytest.mark.parametrize("case", ["ppo", *(pytest.param(k, marks=pytest.mark.slow) for k in AGENTS if k != "ppo")])
def test_training_goes_on_alike(case: str, tmp_path: Path) -> None:
    agent = trained(case)
    again = reloaded(agent, tmp_path)
    window = next(iter(windows(agent, *AGENTS[case][1:])))
    again.attach_source(agent.sources[0])  # for the running returns of its environments
    for one in (agent, again):
        if one.reward_moments is not None:
            one._reward_scale.restore({"1": np.zeros(1, np.float32)})
        one.train_step(window)
    for one, other in zip(agent.variables, again.variables, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-5, atol=1e-5)

    before = again.policy_version
    again.fit(windows(again, *AGENTS[case][1:]), steps_per_epoch=2, epochs=1, verbose=0)
    assert again.policy_version > before


def test_normalizers_come_back(tmp_path: Path) -> None:
    agent = trained("ppo_box")
    again = reloaded(agent, tmp_path)
    assert float(agent.reward_moments.count.numpy()) > 0
    assert_same(agent.reward_moments.get_weights(), again.reward_moments.get_weights())
    for moments, others in zip(agent.observation_moments, again.observation_moments, strict=True):
        assert_same(moments.get_weights(), others.get_weights())
    assert np.any(agent.log_std.numpy() != 0)
    assert_same([agent.log_std.numpy()], [again.log_std.numpy()])


def test_arguments_come_back(tmp_path: Path) -> None:
    agent = optix.PPOAgent(gae_lambda=0.5, clip_ratio=0.3, value_coefficient=1.5, max_grad_norm=2.0, update_epochs=3)
    again = reloaded(agent, tmp_path)
    config = again.get_config()
    assert {
        "gae_lambda": 0.5,
        "clip_ratio": 0.3,
        "value_coefficient": 1.5,
        "max_grad_norm": 2.0,
    }.items() <= config.items()
    assert (config["update_epochs"], type(config["update_epochs"])) == (3, int)
    assert config["observation_space"] is None
    assert not again.bound
    assert not again.compiled
    assert again.policy_version == 0


def test_an_agent_that_is_compiled_but_not_bound(tmp_path: Path) -> None:
    agent = optix.PPOAgent(**SETTINGS)
    agent.compile(optimizer=keras.optimizers.SGD(0.25), jit_compile=False)
    agent.hyperparams["learning_rate"] = 0.5
    again = reloaded(agent, tmp_path)
    assert again.hyperparams["learning_rate"] == 0.5
    again.fit(windows(again, VECTOR, spaces.Discrete(2)), steps_per_epoch=1, epochs=1, verbose=0)


def test_an_agent_that_only_acts(tmp_path: Path) -> None:
    agent = trained("ppo")
    again = reloaded(agent, tmp_path, compile=False)
    assert not again.compiled
    observations = observations_of(VECTOR)
    assert_same([agent.act(observations, deterministic=True)], [again.act(observations, deterministic=True)])


def test_an_optimizer_by_name_and_its_options(tmp_path: Path) -> None:
    agent = trained("reinforce", "rmsprop")
    agent.hyperparams["learning_rate"] = 0.125
    again = reloaded(agent, tmp_path)
    assert isinstance(again.optimizer, keras.optimizers.RMSprop)
    assert again.hyperparams["learning_rate"] == 0.125
    assert again.jit_compile is False


def test_a_schedule_comes_back(tmp_path: Path) -> None:
    schedule = keras.optimizers.schedules.ExponentialDecay(1e-2, 10, 0.5)
    again = reloaded(trained("ppo", keras.optimizers.Adam(schedule)), tmp_path)
    assert again.optimizer.get_config()["learning_rate"]["config"] == schedule.get_config()
    assert "learning_rate" not in again.hyperparams
    again.fit(windows(again, VECTOR, spaces.Discrete(3)), steps_per_epoch=1, epochs=1, verbose=0)


def test_own_networks_come_back(small_network: Callable[[int, int], Any], tmp_path: Path) -> None:
    agent = optix.PPOAgent(small_network(3, 2), small_network(3, 1))
    agent.bind(VECTOR, spaces.Discrete(2))
    again = reloaded(agent, tmp_path)
    assert isinstance(again.policy, keras.Sequential)
    assert_same(agent.get_weights(), again.get_weights())


def test_networks_that_share_weights_come_back_sharing(tmp_path: Path) -> None:
    inputs = keras.layers.Input((3,))
    torso = keras.layers.Dense(4, activation="tanh")(inputs)
    policy = keras.Model(inputs, keras.layers.Dense(2)(torso))
    agent = optix.PPOAgent(policy, keras.Model(inputs, keras.layers.Dense(1)(torso)))
    agent.bind(VECTOR, spaces.Discrete(2))
    again = reloaded(agent, tmp_path)
    assert len(again.variables) == len(agent.variables) == 6
    assert_same([v.numpy() for v in agent.variables], [v.numpy() for v in again.variables])


def test_one_network_given(small_network: Callable[[int, int], Any], tmp_path: Path) -> None:
    # Weights and slots are in the order in which the networks came.
    agent = optix.PPOAgent(value=small_network(3, 1), **SETTINGS)
    agent.compile(optimizer="adam", jit_compile=False)
    agent.fit(windows(agent, VECTOR, spaces.Discrete(2)), steps_per_epoch=1, epochs=1, verbose=0)
    again = reloaded(reloaded(agent, tmp_path), tmp_path)
    assert_same(list(agent.get_state().values()), list(again.get_state().values()))


@keras.saving.register_keras_serializable("tests")
class Tempered(optix.ReinforceAgent):
    """Names a hyperparameter unlike its argument, and passes the rest on."""

    def __init__(self, policy: Any = None, *, depth: int = 1, **kwargs: Any) -> None:
        super().__init__(policy, **kwargs)
        self.depth = depth

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"depth": self.depth}


@keras.saving.register_keras_serializable("tests")
class Own(optix.Agent):
    def __init__(self, policy: Any = None, *, temperature: float = 1.0, **kwargs: Any) -> None:
        own = {"temperature": optix.Hyperparam(temperature), "margin": optix.Hyperparam(0.5)}
        super().__init__(policy, hyperparams=own, **kwargs)


def test_agents_of_ones_own(tmp_path: Path) -> None:
    tempered = Tempered(depth=3, gamma=0.5)
    tempered.hyperparams["gamma"] = 0.25
    again = reloaded(tempered, tmp_path)
    assert (type(again), again.depth, again.hyperparams["gamma"]) == (Tempered, 3, 0.25)

    own = Own(temperature=2.0)
    own.hyperparams["margin"] = 0.75
    assert dict(reloaded(own, tmp_path).hyperparams) == {"temperature": 2.0, "margin": 0.75}


class Unregistered(keras.Model):  # type: ignore[misc]
    def __init__(self, units: int) -> None:
        super().__init__()
        self.units = units
        self.dense = keras.layers.Dense(units)

    def call(self, observations: Any) -> Any:
        return self.dense(observations)

    def get_config(self) -> dict[str, Any]:
        return {"units": self.units}


def test_a_network_of_an_unregistered_class(tmp_path: Path) -> None:
    agent = optix.PPOAgent(Unregistered(2))
    agent.bind(VECTOR, spaces.Discrete(2))
    with pytest.raises(TypeError, match="Unregistered"):
        reloaded(agent, tmp_path)
    again = keras.saving.load_model(tmp_path / "agent.keras", custom_objects={"Unregistered": Unregistered})
    assert_same(agent.get_weights(), again.get_weights())


def test_a_fresh_program(tmp_path: Path) -> None:
    agent = trained("ppo_box")
    agent.save(tmp_path / "agent.keras")
    observation = np.full(3, 0.5, np.float32)
    np.save(tmp_path / "action.npy", agent.act(observation, deterministic=True))
    program = (
        "import keras, numpy as np\n"
        "from keras_optix import PPOAgent\n"
        "agent = keras.saving.load_model('agent.keras')\n"
        "assert isinstance(agent, PPOAgent)\n"
        "action = agent.act(np.full(3, 0.5, np.float32), deterministic=True)\n"
        "np.testing.assert_array_equal(action, np.load('action.npy'))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
