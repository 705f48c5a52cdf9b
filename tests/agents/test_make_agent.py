"""`make_agent`: a preset if there is one, otherwise defaults for the spaces, and it says which of the two."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import keras
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv

import keras_optix as optix
from keras_optix.records import CollectionDefaults
from keras_optix.testing import CountingEnv, RandomEnv

VECTOR = spaces.Box(-1.0, 1.0, (24,), np.float32)
IMAGE = spaces.Box(0, 255, (84, 84, 4), np.uint8)
TORQUES = spaces.Box(-1.0, 1.0, (4,), np.float32)


def random_env(observations: Any, actions: Any) -> Callable[[], gymnasium.Env[Any, Any]]:
    return lambda: RandomEnv(observations, actions)


def shape_of(env: Any, agent: optix.Agent, **arguments: Any) -> tuple[int, int]:
    steps, number = optix.dataset_from_env(env, agent, **arguments).element_spec.rewards.shape
    return int(steps), int(number)


# With a preset


def test_an_id_with_a_preset_gets_it_and_a_line_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    agent = optix.make_agent("CartPole-v1")
    assert capsys.readouterr().out == (
        "make_agent: PPOAgent with the preset of CartPole-v1 from the RL Baselines3 Zoo, which reports 500.0 ± 0 after "
        "100,000 env steps; 8 environments x 32 env steps in a window\n"
    )
    preset = optix.PPOAgent.preset("CartPole-v1")
    assert type(agent) is optix.PPOAgent
    assert agent.compiled
    assert not agent.bound
    assert dict(agent.hyperparams) == dict(preset.hyperparams)
    assert agent.collection_defaults == preset.collection_defaults
    assert shape_of("CartPole-v1", agent) == (32, 8)


def test_overrides_replace_what_was_chosen_and_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    agent = optix.make_agent("CartPole-v1", gamma=0.9, window_size=64, num_envs=1, learning_rate=5e-4, seed=3)
    assert capsys.readouterr().out.endswith(
        "; 1 environment x 64 env steps in a window; changed: gamma, window_size, num_envs, learning_rate\n"
    )
    assert agent.hyperparams["gamma"] == pytest.approx(0.9)
    assert agent.hyperparams["learning_rate"] == pytest.approx(5e-4)
    assert agent.hyperparams["gae_lambda"] == pytest.approx(0.8)
    assert shape_of("CartPole-v1", agent) == (64, 1)


def test_nothing_is_printed_if_that_is_not_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    optix.make_agent("CartPole-v1", verbose=0)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: gymnasium.make("CartPole-v1"), (256, 1)),
        (lambda: gymnasium.spec("CartPole-v1"), (32, 8)),
        (lambda: lambda: gymnasium.make("CartPole-v1"), (32, 8)),
        (lambda: gymnasium.make_vec("CartPole-v1", 2, vectorization_mode="sync"), (128, 2)),
        (lambda: gymnasium.make_vec("CartPole-v1", 2, vectorization_mode="vector_entry_point"), (128, 2)),
        (lambda: lambda: gymnasium.make_vec("CartPole-v1", 1, vectorization_mode="sync"), (256, 1)),
    ],
    ids=["env", "spec", "factory", "vector env", "vector env of its own", "factory of a vector env"],
)
def test_all_that_a_dataset_takes_has_the_preset_of_its_id(make: Callable[[], Any], expected: tuple[int, int]) -> None:
    """A number of environments that is fixed makes windows longer, so that an update has as many env steps."""
    env = make()
    agent = optix.make_agent(env, verbose=0)
    assert agent.hyperparams["gae_lambda"] == pytest.approx(0.8)
    assert shape_of(env, agent) == expected


def test_a_preset_is_not_used_for_other_spaces(capsys: pytest.CaptureFixture[str]) -> None:
    class Pixels(gymnasium.ObservationWrapper):  # type: ignore[type-arg]
        observation_space = IMAGE

        def observation(self, observation: Any) -> Any:
            return np.zeros(IMAGE.shape, np.uint8)

    agent = optix.make_agent(lambda: Pixels(gymnasium.make("CartPole-v1")))
    assert "defaults for images of 84 x 84 x 4 and Discrete actions" in capsys.readouterr().out
    assert agent.collection_defaults == CollectionDefaults(window_size=128, num_envs=8)


def test_arguments_of_the_environment_reach_it(capsys: pytest.CaptureFixture[str]) -> None:
    def make(size: int) -> RandomEnv:
        return RandomEnv(spaces.Box(-1.0, 1.0, (size,)), TORQUES)

    gymnasium.register("OfSize-v0", make, disable_env_checker=True)
    try:
        optix.make_agent("OfSize-v0", env_kwargs={"size": 7})
        assert "defaults for a Box of 7 numbers" in capsys.readouterr().out
        with pytest.raises(optix.ConfigurationError, match=r"does not take these arguments.*colour"):
            optix.make_agent("OfSize-v0", env_kwargs={"colour": 7})
    finally:
        del gymnasium.registry["OfSize-v0"]


# Without a preset


@pytest.mark.parametrize(
    ("observations", "actions", "words", "normalized", "entropy", "collection"),
    [
        (VECTOR, TORQUES, "a Box of 24 numbers and Box actions", True, 0.0, (256, 8)),
        (VECTOR, spaces.Discrete(3), "a Box of 24 numbers and Discrete actions", True, 0.01, (256, 8)),
        (spaces.Box(0.0, 1.0, ()), spaces.MultiBinary(2), "a Box of 1 number and MultiBinary", True, 0.01, (256, 8)),
        (spaces.Discrete(16), spaces.Discrete(4), "Discrete observations and Discrete", False, 0.01, (256, 8)),
        (IMAGE, spaces.Discrete(6), "images of 84 x 84 x 4 and Discrete actions", False, 0.01, (128, 8)),
        (spaces.Dict(a=VECTOR, b=spaces.Discrete(3)), TORQUES, "a Dict of 2 spaces and Box", True, 0.0, (256, 8)),
        (spaces.Tuple((IMAGE, VECTOR)), TORQUES, "a Tuple of 2 spaces and Box actions", True, 0.0, (128, 8)),
    ],
    ids=lambda value: str(value)[:40].replace(" ", "-"),
)
def test_defaults_go_by_the_kinds_of_spaces(
    observations: Any,
    actions: Any,
    words: str,
    normalized: bool,
    entropy: float,
    collection: tuple[int, int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    env = random_env(observations, actions)
    agent = optix.make_agent(env)
    assert f"make_agent: PPOAgent with defaults for {words}" in capsys.readouterr().out
    config = agent.get_config()
    assert (config["normalize_observations"], config["normalize_rewards"]) == (normalized, True)
    assert agent.hyperparams["entropy_coefficient"] == pytest.approx(entropy)
    assert agent.collection_defaults == CollectionDefaults(*collection)
    agent.bind(observations, actions)  # the agent can play them


def test_the_agent_learns_from_a_window_at_once() -> None:
    env = random_env(spaces.Dict(a=VECTOR, b=spaces.Discrete(3)), TORQUES)
    agent = optix.make_agent(env, window_size=4, num_envs=2, verbose=0, seed=0)
    agent.compile(optimizer=agent.optimizer, jit_compile=False)  # compiles faster
    history = agent.fit(optix.dataset_from_env(env, agent, seed=0), steps_per_epoch=2, epochs=1, verbose=0)
    assert np.isfinite(history.history["loss"]).all()


def test_an_environment_that_was_made_is_closed_and_one_that_was_given_is_left_alone() -> None:
    made: list[CountingEnv] = []

    def factory() -> CountingEnv:
        made.append(CountingEnv())
        return made[-1]

    optix.make_agent(factory, verbose=0)
    assert [env.closed for env in made] == [True]
    optix.make_agent(lambda: SyncVectorEnv([factory, factory]), verbose=0)
    assert [env.closed for env in made] == [True] * 3
    given = CountingEnv()
    optix.make_agent(given, verbose=0)
    assert not given.closed
    optix.make_agent(SyncVectorEnv([lambda: given]), verbose=0)
    assert not given.closed


def test_it_survives_a_file(tmp_path: Path) -> None:
    env = random_env(VECTOR, TORQUES)
    agent = optix.make_agent(env, verbose=0, gamma=0.95)
    optix.dataset_from_env(env, agent)
    agent.save(tmp_path / "agent.keras")
    again = keras.saving.load_model(tmp_path / "agent.keras")
    assert dict(again.hyperparams) == dict(agent.hyperparams)
    assert shape_of(env, again) == (256, 8)


# Mistakes


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: optix.make_agent(), "make_agent needs `env`"),
        (lambda: optix.make_agent("CartPole-v1", 3), "make_agent takes 1 argument by position"),
        (lambda: optix.make_agent("CartPole-v1", gama=1.0), r"make_agent has no argument `gama`.*Did you mean 'gamma'"),
        (lambda: optix.make_agent("CartPole-v1", n_steps=8), "make_agent has no argument `n_steps`.*`window_size`"),
        (lambda: optix.make_agent("CartPole-v1", num_envs=0), "`num_envs` must be an integer >= 1"),
        (
            lambda: optix.make_agent(CountingEnv(), num_envs=8),
            "`env` is or makes 1 environment and cannot",
        ),
        (lambda: optix.make_agent(lambda: SyncVectorEnv([CountingEnv] * 2), num_envs=8), "makes 2 environments"),
        (lambda: optix.make_agent("CartPole-v1", verbose=-1), "`verbose` must be an integer >= 0"),
        (lambda: optix.make_agent("CartPole-v9"), "not registered"),
        (lambda: optix.make_agent(optix.PPOAgent()), r"`env` must be a Gymnasium id.*an agent"),
        (lambda: optix.make_agent(lambda: 3), "The factory must return a gymnasium.Env or VectorEnv"),
        (lambda: optix.make_agent(CountingEnv(), env_kwargs={"a": 1}), "`env_kwargs` goes with the id"),
        (lambda: optix.make_agent(random_env(spaces.Text(5), TORQUES)), "Text"),
    ],
)
def test_a_mistake_is_answered_at_the_call(call: Callable[[], Any], match: str) -> None:
    with pytest.raises(optix.ConfigurationError, match=match):
        call()


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "Box2D", None)
    for name in [name for name in sys.modules if name.startswith("gymnasium.envs.box2d")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(optix.ConfigurationError, match=r"cannot be made.*gymnasium\[box2d\].*LunarLander-v3"):
        optix.make_agent("LunarLander-v3")


# Where env steps are expensive


def test_where_env_steps_are_expensive_the_agent_learns_from_replay(capsys: pytest.CaptureFixture[str]) -> None:
    agent = optix.make_agent("CartPole-v1", env_steps_are="expensive")
    assert type(agent) is optix.DQNAgent
    preset = optix.DQNAgent.preset("CartPole-v1")
    assert dict(agent.hyperparams) == dict(preset.hyperparams)
    assert agent.replay_plan == preset.replay_plan
    assert capsys.readouterr().out == (
        "make_agent: DQNAgent with the preset of CartPole-v1 from the RL Baselines3 Zoo, which reports 500.0 ± 0 after "
        "50,000 env steps; 1 environment x 256 env steps in a window\n"
    )
    batch = next(iter(optix.dataset_from_env("CartPole-v1", agent)))
    assert batch.rewards.shape == (128, 64, 1)


@pytest.mark.parametrize("observations", [VECTOR, IMAGE, spaces.Dict({"a": VECTOR, "b": spaces.Discrete(3)})])
def test_without_a_preset_there_are_defaults_for_replay(observations: Any) -> None:
    env = random_env(observations, spaces.Discrete(3))
    agent = optix.make_agent(env, env_steps_are="expensive", verbose=0)
    assert type(agent) is optix.DQNAgent
    agent.train_on_batch(next(iter(optix.dataset_from_env(env, agent))))


def test_where_actions_are_numbers_the_agent_with_replay_is_sac() -> None:
    agent = optix.make_agent("Pendulum-v1", env_steps_are="expensive", verbose=0)
    assert type(agent) is optix.SACAgent
    assert dict(agent.hyperparams) == dict(optix.SACAgent.preset("Pendulum-v1").hyperparams)
    env = random_env(VECTOR, spaces.Box(-1.0, 1.0, (2,)))
    agent = optix.make_agent(env, env_steps_are="expensive", verbose=0, buffer_size=2_000)
    assert type(agent) is optix.SACAgent
    assert agent.normalize_observations


@pytest.mark.parametrize("actions", [spaces.MultiBinary(3), spaces.Box(-np.inf, np.inf, (2,))])
def test_actions_that_no_replay_agent_plays_are_left_to_ppo(actions: Any) -> None:
    env = random_env(VECTOR, actions)
    assert type(optix.make_agent(env, env_steps_are="expensive", verbose=0)) is optix.PPOAgent


def test_another_cost_of_env_steps_is_refused() -> None:
    with pytest.raises(optix.ConfigurationError, match="env_steps_are"):
        optix.make_agent("CartPole-v1", env_steps_are="free")
