"""Presets: their numbers are those of their source, they can be overridden, and they survive what an agent survives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import keras
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv

import keras_optix as optix
from keras_optix.agents.ppo_presets import PPO_PRESETS
from keras_optix.agents.presets import AgentSettings, StateDependentExploration, find_preset
from keras_optix.errors import ArgumentError
from keras_optix.records import CollectionDefaults
from keras_optix.testing import CountingEnv

# Stable-Baselines3's PPO, and the rows of the zoo's hyperparams/ppo.yml, in the words of the file.
STABLE_BASELINES = {
    "learning_rate": 3e-4,
    "n_steps": 2048,
    "batch_size": 64,
    "n_epochs": 10,
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "clip_range": 0.2,
    "ent_coef": 0.0,
    "vf_coef": 0.5,
    "max_grad_norm": 0.5,
    "n_envs": 1,
    "normalize": False,
    "ortho_init": True,
}
LANDER: dict[str, Any] = {
    "n_envs": 16,
    "n_steps": 1024,
    "batch_size": 64,
    "gae_lambda": 0.98,
    "gamma": 0.999,
    "n_epochs": 4,
    "ent_coef": 0.01,
}
ROWS: dict[str, dict[str, Any]] = {
    "CartPole-v1": {
        "n_envs": 8,
        "n_steps": 32,
        "batch_size": 256,
        "gae_lambda": 0.8,
        "gamma": 0.98,
        "n_epochs": 20,
        "ent_coef": 0.0,
        "learning_rate": 0.001,
        "clip_range": 0.2,
    },
    "Acrobot-v1": {
        "normalize": True,
        "n_envs": 16,
        "n_steps": 256,
        "gae_lambda": 0.94,
        "gamma": 0.99,
        "n_epochs": 4,
        "ent_coef": 0.0,
    },
    "MountainCar-v0": {
        "normalize": True,
        "n_envs": 16,
        "n_steps": 16,
        "gae_lambda": 0.98,
        "gamma": 0.99,
        "n_epochs": 4,
        "ent_coef": 0.0,
    },
    "MountainCarContinuous-v0": {
        "normalize": True,
        "n_envs": 1,
        "batch_size": 256,
        "n_steps": 8,
        "gamma": 0.9999,
        "learning_rate": 7.77e-5,
        "ent_coef": 0.00429,
        "clip_range": 0.1,
        "n_epochs": 10,
        "gae_lambda": 0.9,
        "max_grad_norm": 5.0,
        "vf_coef": 0.19,
        "ortho_init": False,
    },
    "Pendulum-v1": {
        "n_envs": 4,
        "n_steps": 1024,
        "gae_lambda": 0.95,
        "gamma": 0.9,
        "n_epochs": 10,
        "ent_coef": 0.0,
        "learning_rate": 1e-3,
        "clip_range": 0.2,
    },
    "LunarLander-v3": LANDER,
    "LunarLanderContinuous-v3": LANDER,
    "BipedalWalker-v3": {
        "normalize": True,
        "n_envs": 32,
        "n_steps": 2048,
        "batch_size": 64,
        "gae_lambda": 0.95,
        "gamma": 0.999,
        "n_epochs": 10,
        "ent_coef": 0.0,
        "learning_rate": 3e-4,
        "clip_range": 0.18,
    },
    "BipedalWalkerHardcore-v3": {
        "normalize": True,
        "n_envs": 16,
        "n_steps": 2048,
        "batch_size": 64,
        "gae_lambda": 0.95,
        "gamma": 0.99,
        "n_epochs": 10,
        "ent_coef": 0.001,
        "learning_rate": 2.5e-4,
        "clip_range": 0.2,
    },
}


def in_words_of_the_file(agent: optix.PPOAgent) -> dict[str, Any]:
    config, collection = agent.get_config(), agent.collection_defaults
    assert config["normalize_observations"] == config["normalize_rewards"]
    return {
        "learning_rate": agent.hyperparams["learning_rate"],
        "n_steps": collection.window_size,
        "batch_size": agent.minibatch_size,
        "n_epochs": agent.update_epochs,
        "gamma": agent.hyperparams["gamma"],
        "gae_lambda": agent.hyperparams["gae_lambda"],
        "clip_range": agent.hyperparams["clip_ratio"],
        "ent_coef": agent.hyperparams["entropy_coefficient"],
        "vf_coef": agent.hyperparams["value_coefficient"],
        "max_grad_norm": agent.hyperparams["max_grad_norm"],
        "n_envs": collection.num_envs,
        "normalize": config["normalize_observations"],
        "ortho_init": agent.orthogonal_init,
    }


def shape_of(env: Any, agent: optix.Agent, **arguments: Any) -> tuple[int, int]:
    steps, number = optix.dataset_from_env(env, agent, **arguments).element_spec.rewards.shape
    return int(steps), int(number)


@pytest.mark.parametrize("env_id", ROWS)
def test_the_numbers_are_those_of_the_zoo(env_id: str) -> None:
    agent = optix.PPOAgent.preset(env_id)
    assert in_words_of_the_file(agent) == pytest.approx(STABLE_BASELINES | ROWS[env_id])
    assert isinstance(agent.optimizer, keras.optimizers.Adam)
    assert agent.optimizer.epsilon == 1e-5


def test_the_rows_are_those_that_the_docstring_names() -> None:
    ids = [one for preset in PPO_PRESETS for one in preset.ids]
    assert sorted(ids) == sorted(ROWS)
    assert all(one in (optix.PPOAgent.preset.__doc__ or "") for one in ids)
    assert all("ppo.yml, commit 208b6fd" in preset.provenance for preset in PPO_PRESETS)


@pytest.mark.parametrize(
    ("env_id", "row"),
    [
        ("CartPole-v0", "CartPole-v1"),
        ("CartPole", "CartPole-v1"),
        ("LunarLander-v2", "LunarLander-v3"),
        ("LunarLanderContinuous-v2", "LunarLanderContinuous-v3"),
        ("BipedalWalker-v2", "BipedalWalker-v3"),
        ("BipedalWalkerHardcore-v3", "BipedalWalkerHardcore-v3"),
    ],
)
def test_versions_of_a_task_share_a_row(env_id: str, row: str) -> None:
    found = find_preset(PPO_PRESETS, env_id)
    assert found is not None
    assert row in found.ids


@pytest.mark.parametrize("env_id", ["", "phys2d/CartPole-v1", "CartPoleLong-v1", "CartPole-v1x", "Taxi-v3"])
def test_control_another_id_has_no_row(env_id: str) -> None:
    assert find_preset(PPO_PRESETS, env_id) is None


@pytest.mark.parametrize(
    ("env_id", "match"),
    [
        ("LunarLandr-v3", r"PPOAgent.preset knows no preset.*'LunarLandr-v3'\. Did you mean 'LunarLander-v3'\?"),
        ("cartpole-v1", r"Did you mean 'CartPole-v1'\?"),
        ("Taxi-v3", r"'Taxi-v3'\. There are presets of CartPole-v1, .*BipedalWalkerHardcore-v3\. optix\.make_agent"),
        ("", "`env_id` must be the id"),
        (None, "`env_id` must be the id of an environment.*Received: env_id=None"),
        (CountingEnv(), "`env_id` must be the id.*make_agent"),
    ],
)
def test_an_id_without_a_preset_is_an_error_that_lists_the_others(env_id: Any, match: str) -> None:
    with pytest.raises(optix.ConfigurationError, match=match):
        optix.PPOAgent.preset(env_id)


# Overrides


def test_whatever_is_given_replaces_the_preset() -> None:
    agent = optix.PPOAgent.preset(
        "CartPole-v1",
        gamma=0.9,
        learning_rate=1e-2,
        window_size=4,
        num_envs=2,
        minibatch_size=8,
        epochs=3,
        normalize_observations=True,
        seed=5,
        name="mine",
    )
    found = agent.get_config()
    assert found.items() >= {"minibatch_size": 8, "update_epochs": 3, "normalize_observations": True, "seed": 5}.items()
    assert (agent.name, agent.hyperparams["gamma"], agent.hyperparams["gae_lambda"]) == ("mine", 0.9, 0.8)
    assert agent.hyperparams["learning_rate"] == pytest.approx(1e-2)
    assert shape_of("CartPole-v1", agent) == (4, 2)


def test_the_presets_themselves_are_not_changed() -> None:
    optix.PPOAgent.preset("CartPole-v1", gamma=0.5, window_size=4)
    assert in_words_of_the_file(optix.PPOAgent.preset("CartPole-v1"))["gamma"] == 0.98


def test_the_learning_rate_may_be_a_schedule() -> None:
    schedule = keras.optimizers.schedules.PolynomialDecay(1e-3, 100)
    agent = optix.PPOAgent.preset("CartPole-v1", learning_rate=schedule)
    assert agent.optimizer.get_config()["learning_rate"]["config"] == schedule.get_config()
    assert agent.optimizer.epsilon == 1e-5


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        (
            {"gama": 0.9},
            r"PPOAgent.preset has no argument `gama`\. Received: gama=0.9 \(a float\)\. Did you mean 'gamma'",
        ),
        ({"windowsize": 3}, "Did you mean 'window_size'"),
        ({"learning_rat": 3}, "Did you mean 'learning_rate'"),
        ({"n_steps": 128}, "Here it is `window_size`"),
        ({"n_envs": 4}, r"Here it is `num_envs`\.$"),
        ({"lr": 1e-3}, r"Here it is `learning_rate`\.$"),
        ({"clip_range": 0.1}, r"Here it is `clip_ratio`\.$"),
        ({"xyz": 1}, "It takes: learning_rate, window_size, num_envs, policy, value, gamma, "),
        ({"epochs": 3, "update_epochs": 3}, "`update_epochs` twice"),
        ({"learning_rate": "fast"}, r"`learning_rate` must be .*'fast'"),
        ({"learning_rate": 0.0}, r"`learning_rate` must be .*learning_rate=0"),
        ({"learning_rate": True}, "`learning_rate` must be"),
        ({"learning_rate": keras.optimizers.Adam(1e-3)}, r"`learning_rate` must be .*agent\.compile"),
        ({"window_size": 0}, r"`window_size` must be an integer >= 1\. Received: window_size=0"),
        ({"num_envs": 2.5}, r"`num_envs` must be an integer >= 1"),
        ({"gamma": 2.0}, "gamma"),
    ],
)
def test_an_override_that_is_wrong_is_refused(overrides: dict[str, Any], match: str) -> None:
    with pytest.raises(optix.ConfigurationError, match=match):
        optix.PPOAgent.preset("CartPole-v1", **overrides)


class Deeper(optix.PPOAgent):
    """A user's own class."""

    def __init__(self, depth: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.depth = depth


def test_a_class_of_your_own_has_the_presets_too() -> None:
    agent = Deeper.preset("CartPole-v1", depth=3, clip_ratio=0.3)
    assert type(agent) is Deeper
    assert (agent.depth, agent.hyperparams["clip_ratio"], agent.hyperparams["gae_lambda"]) == (3, 0.3, 0.8)
    with pytest.raises(ArgumentError, match=r"Deeper.preset has no argument `dept`.*'depth'"):
        Deeper.preset("CartPole-v1", dept=3)


def test_a_policy_of_your_own_gets_the_default_distribution() -> None:
    special = optix.distributions.GaussianDistribution()
    settings = AgentSettings({"distribution": special}, 1e-3, CollectionDefaults())
    policy = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(1)])

    def arguments(**overrides: Any) -> dict[str, Any]:
        return dict(settings.overridden(optix.PPOAgent, overrides, called="test").arguments)

    assert arguments()["distribution"] is special
    assert arguments(policy=None)["distribution"] is special
    assert "distribution" not in arguments(policy=policy)
    assert arguments(policy=policy, distribution=special)["distribution"] is special


def test_networks_of_your_own_begin_as_you_made_them() -> None:
    """The row of this task says how the default networks begin; if there are none, that is no contradiction."""
    networks = {
        name: keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)]) for name in ("policy", "value")
    }
    assert optix.PPOAgent.preset("MountainCarContinuous-v0", **networks).orthogonal_init
    assert not optix.PPOAgent.preset("MountainCarContinuous-v0", policy=networks["policy"]).orthogonal_init
    with pytest.raises(optix.ConfigurationError, match="both networks are given"):
        optix.PPOAgent.preset("MountainCarContinuous-v0", orthogonal_init=False, **networks)


# The size of windows and the number of environments


def test_a_dataset_takes_them_from_the_agent_where_they_are_left_out() -> None:
    def agent() -> optix.PPOAgent:
        return optix.PPOAgent.preset("CartPole-v1")

    assert shape_of("CartPole-v1", agent()) == (32, 8)
    assert shape_of(lambda: gymnasium.make("CartPole-v1"), agent()) == (32, 8)
    assert shape_of("CartPole-v1", agent(), window_size=5) == (5, 8)
    assert shape_of("CartPole-v1", agent(), num_envs=3) == (32, 3)
    assert shape_of("CartPole-v1", agent(), window_size=None, num_envs=None) == (32, 8)


def test_environments_that_exist_keep_their_number() -> None:
    agent = optix.PPOAgent.preset("CartPole-v1")
    assert shape_of(gymnasium.make("CartPole-v1"), agent) == (32, 1)
    assert shape_of(gymnasium.make_vec("CartPole-v1", 3, vectorization_mode="sync"), agent) == (32, 3)
    assert shape_of(lambda: SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * 2), agent) == (32, 2)
    with pytest.raises(optix.ConfigurationError, match="One environment cannot be stepped as several"):
        optix.dataset_from_env(gymnasium.make("CartPole-v1"), agent, num_envs=8)


def test_control_an_agent_without_a_preset_collects_as_before() -> None:
    assert shape_of("CartPole-v1", optix.PPOAgent()) == (200, 1)
    assert shape_of("CartPole-v1", optix.PPOAgent(), num_envs=2) == (200, 2)


def test_they_can_be_set_on_any_agent() -> None:
    agent = optix.ReinforceAgent()
    agent.collection_defaults = CollectionDefaults(window_size=7, num_envs=2)
    assert shape_of("CartPole-v1", agent) == (7, 2)
    with pytest.raises(ArgumentError, match="`collection_defaults` must be a CollectionDefaults"):
        agent.collection_defaults = (7, 2)  # type: ignore[assignment]
    with pytest.raises(optix.ConfigurationError, match="`num_envs` must be an integer >= 1"):
        CollectionDefaults(num_envs=0)


def test_an_ensemble_collects_as_its_primary_agent_does() -> None:
    members = [optix.PPOAgent(), optix.PPOAgent.preset("CartPole-v1")]
    ensemble = optix.EnsembleAgent(members, members[1])
    assert shape_of("CartPole-v1", ensemble) == (32, 8)
    again = optix.EnsembleAgent.from_config(ensemble.get_config())
    assert again.collection_defaults == CollectionDefaults(window_size=32, num_envs=8)
    again.collection_defaults = CollectionDefaults(window_size=3)
    assert again.primary_agent.collection_defaults.window_size == 3


@pytest.mark.parametrize(
    ("before", "num_envs", "window_size"),
    [
        ((1024, 16), 16, 1024),
        ((1024, 16), 1, 16384),
        ((1024, 16), 64, 256),
        ((1024, 16), 4096, 16),
        ((256, 8), 3, 683),
        ((32, 8), 100, 16),
        ((8, 1), 4, 8),
    ],
)
def test_a_fixed_number_of_environments_changes_the_size_of_windows(
    before: tuple[int, int], num_envs: int, window_size: int
) -> None:
    settings = AgentSettings({}, 1e-3, CollectionDefaults(*before))
    assert settings.for_num_envs(num_envs).collection == CollectionDefaults(window_size, num_envs)


# Saving


@pytest.mark.parametrize("bound", [True, False])
def test_a_preset_comes_back_from_a_file(tmp_path: Path, bound: bool) -> None:
    agent = optix.PPOAgent.preset("Acrobot-v1", clip_ratio=0.25, num_envs=4)
    if bound:
        optix.dataset_from_env("Acrobot-v1", agent)
        agent.save(tmp_path / "agent.keras")
    else:
        with pytest.warns(UserWarning, match="has not yet been built"):
            agent.save(tmp_path / "agent.keras")
    again = keras.saving.load_model(tmp_path / "agent.keras")
    assert in_words_of_the_file(again) == pytest.approx(in_words_of_the_file(agent))
    assert again.collection_defaults == CollectionDefaults(window_size=256, num_envs=4)
    assert again.optimizer.epsilon == 1e-5
    assert shape_of("Acrobot-v1", again) == (256, 4)


def test_a_preset_comes_back_from_a_config() -> None:
    agent = Deeper.preset("CartPole-v1", depth=2)
    again = Deeper.from_config(agent.get_config())
    assert (again.depth, again.collection_defaults) == (2, CollectionDefaults(window_size=32, num_envs=8))
    assert again.hyperparams["gae_lambda"] == agent.hyperparams["gae_lambda"] == 0.8


def test_control_without_them_the_config_is_as_before() -> None:
    assert "collection_defaults" not in optix.PPOAgent().get_config()
    assert "collection_defaults" in optix.PPOAgent.preset("CartPole-v1").get_config()


# For what spaces a preset is


def test_a_preset_is_for_vectors_of_numbers_only() -> None:
    preset = find_preset(PPO_PRESETS, "Pendulum-v1")
    assert preset is not None
    assert preset.exploration == StateDependentExploration(resample_every=4, log_std=pytest.approx(np.log(0.5)))
    vector, torque = spaces.Box(-1.0, 1.0, (3,)), spaces.Box(-2.0, 2.0, (1,))
    assert preset.fits(vector, torque)
    assert not preset.fits(vector, spaces.Discrete(3))  # a wrapper that makes actions discrete
    lander = find_preset(PPO_PRESETS, "LunarLander-v3")
    assert lander is not None
    assert lander.fits(vector, spaces.Discrete(4))
    assert lander.fits(vector, torque)  # LunarLander-v3 with continuous=True
    assert not preset.fits(spaces.Box(0, 255, (64, 64, 3), np.uint8), torque)
    assert not preset.fits(spaces.Box(0, 255, (3,), np.uint8), torque)
    assert not preset.fits(spaces.Dict(a=vector), torque)
