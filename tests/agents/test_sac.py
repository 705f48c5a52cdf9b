"""SAC as an agent: networks, acting, saving, snapshots, hyperparameters, presets, and errors."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from gymnasium import spaces

import keras_optix as optix
from keras_optix.agents.presets import find_preset
from keras_optix.agents.sac_presets import SAC_PRESETS
from keras_optix.distributions import GaussianDistribution, SquashedGaussianDistribution, SquashedStateDependentNoise
from keras_optix.errors import ArgumentError, ConfigurationError, NetworkError, SpaceError
from keras_optix.experience.actor import LiteRTActor
from keras_optix.experience.lowering import FunctionActor
from keras_optix.testing import RandomEnv
from keras_optix.tuners import Log, OneMinusLog

VECTOR, MOVES = spaces.Box(-1.0, 1.0, (3,)), spaces.Box(np.array([-2.0, 0.0], "f4"), np.array([2.0, 5.0], "f4"))
PARTS = spaces.Dict({"action": spaces.Box(-1.0, 1.0, (2,)), "gear": spaces.Discrete(3)})
IMAGE = spaces.Box(0, 255, (12, 12, 3), np.uint8)
SMALL: dict[str, Any] = {"buffer_size": 200, "batch_size": 8, "learning_starts": 8, "hidden_units": (8, 8), "seed": 5}


def made(observations: Any = VECTOR, actions: Any = MOVES, **options: Any) -> optix.SACAgent:
    agent = optix.SACAgent(**{**SMALL, **options})
    agent.compile(optimizer=keras.optimizers.Adam(1e-2), jit_compile=False)
    agent.bind(observations, actions)
    return agent


def trained(agent: optix.SACAgent, windows: int = 6) -> optix.SACAgent:
    env = RandomEnv(*agent.env_spaces)
    dataset = optix.dataset_from_env(env, agent, window_size=4, seed=3)
    agent.fit(dataset, steps_per_epoch=windows, epochs=1, verbose=0)
    return agent


def samples(space: Any, count: int) -> Any:
    space.seed(0)
    drawn = [space.sample() for _ in range(count)]
    return (
        {key: np.stack([one[key] for one in drawn]) for key in drawn[0]}
        if isinstance(space, spaces.Dict)
        else np.stack(drawn)
    )


# Networks


def test_the_second_critic_has_other_weights_and_the_slow_copies_the_same() -> None:
    agent = made()
    pairs = zip(agent.critic.weights, agent.second_critic.weights, strict=True)
    assert all(not np.array_equal(a, b) for a, b in pairs if np.any(a))
    for critic, target in ((agent.critic, agent.target_critic), (agent.second_critic, agent.second_target_critic)):
        assert all(map(np.array_equal, critic.get_weights(), target.get_weights()))
        assert not target.trainable_variables


def test_a_critic_whose_layers_have_seeds_gets_another_twin() -> None:
    observation, action = keras.layers.Input((3,)), keras.layers.Input((2,))
    hidden = keras.layers.Dense(8, kernel_initializer=keras.initializers.GlorotUniform(seed=1))
    joined = hidden(keras.layers.Concatenate()([observation, action]))
    agent = made(critic=keras.Model([observation, action], keras.layers.Dense(1)(joined)), hidden_units=None)
    assert not np.array_equal(agent.critic.get_weights()[0], agent.second_critic.get_weights()[0])


def test_a_subclass_of_model_can_be_a_critic() -> None:
    @keras.saving.register_keras_serializable("test_sac")
    class Critic(keras.Model):  # type: ignore[misc]
        def __init__(self, units: int = 4, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.units = units
            self.hidden, self.last = keras.layers.Dense(units, "relu"), keras.layers.Dense(1)

        def call(self, inputs: Any) -> Any:
            return self.last(self.hidden(keras.ops.concatenate(inputs, axis=-1)))

        def get_config(self) -> dict[str, Any]:
            return {"units": self.units}

    agent = trained(made(critic=Critic(5), hidden_units=None))
    assert agent.second_critic.units == 5
    assert len(agent.trainable_variables) == 6 + 4 + 4 + 1


@pytest.mark.parametrize("observations", [PARTS, IMAGE], ids=["dict", "image"])
def test_it_learns_from_any_observations(observations: Any) -> None:
    agent = made(observations)
    untrained = agent.get_weights()
    trained(agent)
    assert all(np.all(np.isfinite(weight)) for weight in agent.get_weights())
    assert not all(map(np.array_equal, untrained, agent.get_weights()))
    actions = agent.act(samples(observations, 4))
    assert all(action in MOVES for action in actions)


def test_it_learns_in_mixed_precision() -> None:
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        agent = trained(made(normalize_observations=True))
    finally:
        keras.config.set_dtype_policy("float32")
    assert agent.critic.layers[-1].compute_dtype == "bfloat16"
    assert agent.log_temperature.dtype == "float32"
    assert all(np.all(np.isfinite(np.asarray(v, np.float32))) for v in agent.variables)
    assert agent.log_temperature.numpy() != 0.0


# Acting


@pytest.mark.parametrize("distribution", [None, SquashedStateDependentNoise(3, features=8)], ids=["gaussian", "smooth"])
def test_the_lowered_policy_acts_as_the_function(distribution: Any) -> None:
    agent = made(distribution=distribution)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lowered: Any = agent.make_actor(4)
    function = FunctionActor(agent.lowerable())
    assert isinstance(lowered, LiteRTActor)
    found = []
    for actor in (lowered, function):
        actor.set_weights(agent.policy_params().arrays)
        noise = actor.noise.draw(np.random.default_rng(0), (4,))
        found.append(actor.act([samples(VECTOR, 4)], noise, agent.initial_carry(4) if distribution else ()))
    for one, other in zip(found[0][:2], found[1][:2], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)
    assert np.all(np.abs(found[0][0]) <= 1.0)


def test_a_policy_with_actions_at_their_bounds_is_lowered(monkeypatch: pytest.MonkeyPatch) -> None:
    """There, rounding changes log-densities by more than the tolerance: without smaller weights it is refused."""
    agent = made(hidden_units=(64, 64))
    agent.policy.set_weights([4.0 * weight for weight in agent.policy.get_weights()])
    assert isinstance(agent.make_actor(16), LiteRTActor)
    other = made(hidden_units=(64, 64))
    other.policy.set_weights(agent.policy.get_weights())
    monkeypatch.setattr("keras_optix.experience.lowering._SCALES", (1.0,))
    with pytest.warns(UserWarning, match="other values"):
        other.make_actor(16)


def test_the_greedy_action_is_the_tangent_of_the_mean_between_the_bounds() -> None:
    agent = made()
    observations = samples(VECTOR, 5)
    mean = np.tanh(np.asarray(agent.policy(observations))[:, :2])
    wanted = MOVES.low + (mean + 1.0) / 2.0 * (MOVES.high - MOVES.low)
    np.testing.assert_allclose(agent.act(observations, deterministic=True), wanted, atol=1e-5)


def test_ppo_can_have_a_squashed_policy() -> None:
    agent = optix.PPOAgent(distribution=SquashedGaussianDistribution(), update_epochs=2, minibatch_size=8)
    agent.compile(optimizer=keras.optimizers.Adam(1e-3), jit_compile=False)
    dataset = optix.dataset_from_env(RandomEnv(VECTOR, MOVES), agent, window_size=16, seed=0)
    logs = agent.fit(dataset, steps_per_epoch=2, epochs=1, verbose=0).history
    assert np.isfinite(logs["loss"][0])
    assert np.isfinite(logs["entropy"][0])


def test_an_ensemble_averages_before_the_tangent(tmp_path: Path) -> None:
    members = [made(name=f"member{k}") for k in range(2)]
    manager = optix.PolicyManager(optix.CheckpointRegistry(tmp_path))
    for member in members:
        member.policy.layers[-1].bias.assign(np.random.default_rng(len(member.name)).normal(size=4))
        manager.add_agent(member)
    ensemble = optix.EnsembleAgent(manager, members[0])
    ensemble.bind(VECTOR, MOVES)
    observations = samples(VECTOR, 5)
    mean = np.tanh(np.mean([np.asarray(member.policy(observations))[:, :2] for member in members], 0))
    wanted = MOVES.low + (mean + 1.0) / 2.0 * (MOVES.high - MOVES.low)
    np.testing.assert_allclose(ensemble.act(observations, deterministic=True), wanted, atol=1e-4)
    gaussian = optix.PPOAgent(name="gaussian")
    gaussian.compile()
    gaussian.bind(VECTOR, MOVES)
    manager = optix.PolicyManager(optix.CheckpointRegistry(tmp_path))
    for member in (members[0], gaussian):
        manager.add_agent(member)
    with pytest.raises(SpaceError, match="cannot be mixed with Gaussians"):
        optix.EnsembleAgent(manager, members[0]).bind(VECTOR, MOVES)


# Saving


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="learned"),
        pytest.param(
            {
                "temperature": 0.2,
                "normalize_observations": True,
                "max_grad_norm": 1.0,
                "prioritized_replay": True,
                "distribution": SquashedStateDependentNoise(3, features=8),
            },
            id="fixed",
        ),
    ],
)
def test_a_loaded_agent_is_the_same(options: dict[str, Any], tmp_path: Path) -> None:
    agent = trained(made(**options))
    agent.save(tmp_path / "agent.keras")
    loaded = keras.saving.load_model(tmp_path / "agent.keras")
    assert all(map(np.array_equal, agent.get_weights(), loaded.get_weights()))
    assert all(np.array_equal(a, b) for a, b in zip(agent.optimizer.variables, loaded.optimizer.variables, strict=True))
    assert agent.hyperparams == loaded.hyperparams
    assert list(agent.networks) == list(loaded.networks)
    mine, its = agent.get_config(), loaded.get_config()
    assert {k: v for k, v in mine.items() if k not in ("policy", "critic")} == {
        k: v for k, v in its.items() if k not in ("policy", "critic")
    }
    carry = {"carry": agent.initial_carry(3)} if "distribution" in options else {}
    one, other = (each.act(samples(VECTOR, 3), deterministic=True, **carry) for each in (agent, loaded))
    assert np.array_equal(one[0] if carry else one, other[0] if carry else other)


def test_an_agent_without_an_environment_is_loaded_without_one(tmp_path: Path) -> None:
    agent = optix.SACAgent(**SMALL, initial_temperature=0.5)
    with pytest.warns(UserWarning, match="has not yet been built"):
        agent.save(tmp_path / "agent.keras")
    loaded = keras.saving.load_model(tmp_path / "agent.keras")
    loaded.bind(VECTOR, MOVES)
    assert loaded.hyperparams["target_entropy"] == -2.0
    assert loaded.hidden_units == (8, 8)
    np.testing.assert_allclose(loaded.log_temperature.numpy(), np.log(0.5), rtol=1e-6)


def test_a_state_has_critics_slow_copies_temperature_and_optimizer() -> None:
    agent = trained(made())
    state = agent.get_state()
    before = agent.get_weights()
    trained(agent)
    assert sum(map(np.array_equal, before, agent.get_weights())) == 0, "all of them learn"
    agent.set_state(state)
    assert all(map(np.array_equal, before, agent.get_weights()))
    assert all(np.array_equal(state[name], value) for name, value in agent.get_state().items())


# Hyperparameters


def test_the_search_spaces_are_those_of_the_docstring() -> None:
    shared = {"learning_rate": Log(1e-5, 1e-2), "gamma": OneMinusLog(0.9, 0.9999), "tau": Log(1e-3, 1e-1)}
    assert list(made().search_spaces.items()) == list(shared.items())
    fixed = made(temperature=0.1)
    assert list(fixed.search_spaces.items()) == [*shared.items(), ("temperature", Log(1e-3, 1.0))]
    for name, space in fixed.search_spaces.items():
        for value in (space.low, space.high):
            fixed.hyperparams[name] = value
    doc = " ".join((optix.SACAgent.__doc__ or "").split())
    written = [eval(text) for text in re.findall(r"(?:OneMinusLog|Log|Linear)\([^)]*\)", doc)]
    assert written == list(fixed.search_spaces.values())


def test_a_target_entropy_that_was_set_before_binding_stays() -> None:
    agent = optix.SACAgent(**SMALL)
    agent.hyperparams["target_entropy"] = -0.25
    agent.bind(VECTOR, MOVES)
    assert agent.hyperparams["target_entropy"] == -0.25
    assert made(target_entropy=-1.0).hyperparams["target_entropy"] == -1.0
    assert made().hyperparams["target_entropy"] == -2.0


# Presets

ZOO: dict[str, dict[str, Any]] = {  # the words of the zoo's hyperparams/sac.yml
    "Pendulum-v1": {"learning_rate": 1e-3},
    "MountainCarContinuous-v0": {
        "learning_rate": 3e-4,
        "buffer_size": 50_000,
        "batch_size": 512,
        "ent_coef": 0.1,
        "gamma": 0.9999,
        "tau": 0.01,
        "learning_starts": 0,
        "net_arch": (64, 64),
        "log_std_init": -3.67,
    },
    "LunarLanderContinuous-v3": {
        "learning_rate": 7.3e-4,
        "tau": 0.01,
        "learning_starts": 10_000,
        "net_arch": (400, 300),
    },
    "BipedalWalker-v3": {
        "learning_rate": 7.3e-4,
        "buffer_size": 300_000,
        "gamma": 0.98,
        "tau": 0.02,
        "learning_starts": 10_000,
        "net_arch": (400, 300),
        "log_std_init": -3.0,
    },
    "BipedalWalkerHardcore-v3": {
        "learning_rate": 7.3e-4,
        "ent_coef": 0.005,
        "tau": 0.01,
        "learning_starts": 10_000,
        "net_arch": (400, 300),
    },
}
STABLE_BASELINES = {
    "learning_rate": 3e-4,
    "buffer_size": 1_000_000,
    "batch_size": 256,
    "ent_coef": "auto",
    "gamma": 0.99,
    "tau": 0.005,
    "learning_starts": 100,
    "net_arch": (256, 256),
    "log_std_init": None,
}


@pytest.mark.parametrize("env_id", ZOO)
def test_presets_are_the_rows_of_the_zoo(env_id: str) -> None:
    agent, row = optix.SACAgent.preset(env_id), STABLE_BASELINES | ZOO[env_id]
    config, distribution = agent.get_config(), agent.distribution
    assert agent.hyperparams["learning_rate"] == pytest.approx(row["learning_rate"])
    assert config["temperature"] == row["ent_coef"]
    assert tuple(config.get("hidden_units", (256, 256))) == row["net_arch"]
    for name in ("buffer_size", "batch_size", "gamma", "tau", "learning_starts"):
        assert config[name] == row[name]
    assert config["gradient_steps_per_env_step"] == 1.0
    if row["log_std_init"] is None:
        assert distribution is None
    else:
        assert isinstance(distribution, SquashedStateDependentNoise)
        assert distribution.log_std == row["log_std_init"]
        assert distribution.features == row["net_arch"][-1]
        assert distribution.resample_every == agent.collection_defaults.window_size
    assert agent.collection_defaults.num_envs == 1
    assert agent.optimizer.epsilon == 1e-8
    assert {preset.ids[0] for preset in SAC_PRESETS} == set(ZOO)
    found = find_preset(SAC_PRESETS, env_id)
    assert found is not None
    assert f"row {env_id}" in found.provenance


def test_presets_can_be_overridden_and_fit_their_environment() -> None:
    agent = optix.SACAgent.preset("MountainCarContinuous", gamma=0.99, learning_rate=1e-4, window_size=8, num_envs=2)
    dataset = optix.dataset_from_env("MountainCarContinuous-v0", agent)
    assert next(iter(dataset)).window.rewards.shape == (8, 2)
    assert agent.hyperparams["gamma"] == 0.99
    assert agent.head.weight.shape == (64,)
    with pytest.raises(ArgumentError, match="clip_ratio"):
        optix.SACAgent.preset("Pendulum-v1", clip_ratio=0.1)


# Errors

NETWORK = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(4)])


def critic_of(shape: int = 3, axes: int = 2, outputs: int = 1, activation: Any = None) -> Any:
    inputs = [keras.layers.Input((shape,)), keras.layers.Input((axes,))]
    return keras.Model(inputs, keras.layers.Dense(outputs, activation)(keras.layers.Concatenate()(inputs)))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"temperature": "automatic"}, ConfigurationError, "temperature"),
        ({"temperature": -1.0}, ConfigurationError, "temperature"),
        ({"temperature": 0.1, "target_entropy": -1.0}, ConfigurationError, "belongs to a temperature that is learned"),
        ({"temperature": 0.1, "initial_temperature": 0.5}, ConfigurationError, "belongs to a temperature"),
        ({"initial_temperature": 0.0}, ConfigurationError, "initial_temperature"),
        ({"tau": 1.5}, ConfigurationError, "tau"),
        ({"hidden_units": 64}, ConfigurationError, "hidden_units"),
        ({"hidden_units": (0,)}, ConfigurationError, "hidden_units"),
        ({"policy": NETWORK, "critic": critic_of(), "hidden_units": (8,)}, ConfigurationError, "default networks"),
        ({"learning_starts": 300}, ConfigurationError, "learning_starts"),
        ({"critic": "mlp"}, NetworkError, "critic"),
        ({"critic": NETWORK}, SpaceError, "two inputs"),
        ({"critic": critic_of(shape=4)}, SpaceError, "cannot be called"),
        ({"critic": critic_of(axes=3)}, SpaceError, "cannot be called"),
        ({"critic": critic_of(outputs=2)}, SpaceError, "one value"),
        ({"critic": critic_of(activation="tanh")}, SpaceError, "ends in tanh"),
        ({"distribution": GaussianDistribution()}, SpaceError, "SquashedGaussianDistribution"),
        ({"distribution": SquashedStateDependentNoise(features=9)}, SpaceError, "features=8"),
    ],
)
def test_mistakes_are_refused_in_words(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        made(**options)


@pytest.mark.parametrize(
    ("actions", "words"),
    [
        (spaces.Discrete(3), "plays Box actions only"),
        (spaces.Box(-np.inf, np.inf, (2,)), "have none"),
        (spaces.Box(np.array([-1.0, -1.0], "f4"), np.array([1.0, np.inf], "f4")), r"axes=\[1\]"),
    ],
)
def test_action_spaces_without_bounds_are_refused(actions: Any, words: str) -> None:
    with pytest.raises(SpaceError, match=words):
        made(actions=actions)
    if isinstance(actions, spaces.Box):
        with pytest.raises(SpaceError, match=words):
            optix.PPOAgent(distribution=SquashedGaussianDistribution()).bind(VECTOR, actions)
