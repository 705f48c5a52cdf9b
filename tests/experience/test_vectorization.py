"""How several environments are stepped that `dataset_from_env` makes: one by one, together, or in processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.classic_control.cartpole import CartPoleEnv, CartPoleVectorEnv
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

import keras_optix as optix
from keras_optix.errors import ConfigurationError
from keras_optix.experience.envs import SequentialEnvs
from keras_optix.experience.vector_envs import VectorEnvs
from keras_optix.experience.vectorization import make_several

MakeAgent = Callable[..., optix.PPOAgent]
CARTPOLE = "CartPole-v1"


class SavableCartPole(CartPoleEnv):
    """Has the two methods; what they do is of no interest here."""

    def save_state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: Any) -> None:
        del state


class OtherActions(CartPoleVectorEnv):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.single_action_space = gymnasium.spaces.Discrete(3)


class WithoutMode(CartPoleVectorEnv):
    """Does not say what it does at the end of an episode."""

    metadata = {"autoreset_mode": "its own"}  # noqa: RUF012


class WithoutArguments(CartPoleVectorEnv):
    def __init__(self, num_envs: int) -> None:
        super().__init__(num_envs)


@pytest.fixture
def registered() -> Iterator[Callable[..., str]]:
    """Registers environments for one test."""
    before = dict(gymnasium.registry)

    def register(**options: Any) -> str:
        options = {"entry_point": CartPoleEnv, "vector_entry_point": CartPoleVectorEnv} | options
        gymnasium.register("Vectorised-v0", max_episode_steps=50, **options)
        return "Vectorised-v0"

    yield register
    gymnasium.registry.clear()
    gymnasium.registry.update(before)


def made(env: Any, num_envs: int = 8, vectorization: str = "auto", **env_kwargs: Any) -> Any:
    envs, notice = make_several(env, num_envs, env_kwargs, vectorization, exactly=True)
    envs.close()
    assert bool(notice) == (isinstance(envs, VectorEnvs) and vectorization == "auto")
    return envs


# What is chosen


@pytest.mark.parametrize("env", [CARTPOLE, gymnasium.spec(CARTPOLE)], ids=["id", "spec"])
def test_the_registered_vector_environment_steps_eight(env: Any) -> None:
    envs = made(env)
    assert isinstance(envs, VectorEnvs)
    assert isinstance(envs.members()[0], CartPoleVectorEnv)
    assert (envs.num_envs, envs.episode_limit, envs.reward_threshold) == (8, 500, 475.0)


def test_few_environments_are_stepped_one_by_one() -> None:
    assert isinstance(made(CARTPOLE, 7), SequentialEnvs)
    assert isinstance(made(CARTPOLE, 7, "vector_entry_point"), VectorEnvs)  # a control: it could


@pytest.mark.parametrize("env", ["Acrobot-v1", lambda: gymnasium.make(CARTPOLE), "gymnasium.envs:Acrobot-v1"])
def test_what_has_no_vector_environment_is_stepped_one_by_one(env: Any) -> None:
    assert isinstance(made(env), SequentialEnvs)


@pytest.mark.parametrize(
    ("options", "kwargs"),
    [
        ({"entry_point": SavableCartPole, "max_episode_steps": None}, {}),
        ({"vector_entry_point": OtherActions}, {}),
        ({"vector_entry_point": WithoutMode}, {}),
        ({"vector_entry_point": WithoutArguments}, {}),
        ({"vector_entry_point": "a_package_that_is_missing:Env"}, {}),
        ({"additional_wrappers": (gymnasium.wrappers.TimeLimit.wrapper_spec(max_episode_steps=9),)}, {}),
        ({}, {"render_mode": "rgb_array"}),
        ({"kwargs": {"render_mode": "rgb_array"}}, {}),
    ],
    ids=["savable", "spaces", "no mode", "limit", "missing", "wrapper", "rendered", "rendered by its spec"],
)
@pytest.mark.filterwarnings("ignore:.*is not an instance of AutoresetMode")
def test_a_vector_environment_that_is_no_replacement_is_not_taken(
    registered: Callable[..., str], options: Any, kwargs: Any
) -> None:
    limit = options.pop("max_episode_steps", 50)
    env_id = registered(**options)
    gymnasium.registry[env_id].max_episode_steps = limit
    assert isinstance(made(env_id, **kwargs), SequentialEnvs)


def test_one_that_is_a_replacement_is_taken(registered: Callable[..., str]) -> None:
    """A control of the test above."""
    envs = made(registered(), sutton_barto_reward=True)
    assert isinstance(envs, VectorEnvs)
    assert envs.members()[0]._sutton_barto_reward
    assert envs.episode_limit == 50


def test_sync_steps_one_by_one() -> None:
    assert isinstance(made(CARTPOLE, 8, "sync"), SequentialEnvs)


def test_async_makes_a_process_for_each() -> None:
    envs = made("Acrobot-v1", 2, "async")
    assert isinstance(envs.members()[0], AsyncVectorEnv)
    assert (envs.num_envs, envs.episode_limit, envs.reward_threshold) == (2, 500, -100.0)


def test_async_takes_a_factory_too() -> None:
    envs = made(lambda: gymnasium.make("Acrobot-v1", max_episode_steps=20), 2, "async")
    assert isinstance(envs.members()[0], AsyncVectorEnv)
    assert (envs.num_envs, envs.episode_limit) == (2, 20)


# Errors


@pytest.mark.parametrize(
    ("env", "num_envs", "vectorization", "kwargs", "match"),
    [
        (gymnasium.make(CARTPOLE), 1, "async", {}, "says how several environments are made"),
        (SyncVectorEnv([lambda: gymnasium.make(CARTPOLE)]), 1, "sync", {}, "says how several environments are made"),
        (lambda: gymnasium.make(CARTPOLE), 2, "vector_entry_point", {}, "goes with the id"),
        (lambda: gymnasium.make_vec(CARTPOLE, 2), 2, "async", {}, "a factory of a gymnasium.Env.*CartPoleVectorEnv"),
        ("Acrobot-v1", 2, "vector_entry_point", {}, "cannot be made.*vector entry point.*Received: env='Acrobot-v1'"),
        (CARTPOLE, 2, "vector_entry_point", {"gravitas": 1}, r"cannot be made.*gravitas.*env_kwargs=\{'gravitas': 1\}"),
        (CARTPOLE, 2, "async", {"gravitas": 1}, r"does not take these arguments.*env_kwargs=\{'gravitas': 1\}"),
        (lambda: gymnasium.make(CARTPOLE), 2, "async", {"gravitas": 1}, "`env_kwargs` goes with the id"),
    ],
)
def test_what_cannot_be_made_is_explained(env: Any, num_envs: int, vectorization: str, kwargs: Any, match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        make_several(env, num_envs, kwargs, vectorization, exactly=True)


def test_the_option_is_checked(small_ppo: MakeAgent) -> None:
    with pytest.raises(ConfigurationError, match=r"`vectorization` must be.*'sync'.*Received: vectorization='fast'"):
        optix.dataset_from_env(CARTPOLE, small_ppo(4, 2), num_envs=8, vectorization="fast")


# What comes out


def next_state(state: np.ndarray, action: int) -> np.ndarray:
    """CartPole's equations (Florian 2005), one Euler step."""
    x, x_dot, theta, theta_dot = (float(value) for value in state)
    temp = ((10.0 if action == 1 else -10.0) + 0.05 * theta_dot**2 * math.sin(theta)) / 1.1
    turn = (9.8 * math.sin(theta) - math.cos(theta) * temp) / (0.5 * (4.0 / 3.0 - 0.1 * math.cos(theta) ** 2 / 1.1))
    push = temp - 0.05 * turn * math.cos(theta) / 1.1
    return np.array([x + 0.02 * x_dot, x_dot + 0.02 * push, theta + 0.02 * theta_dot, theta_dot + 0.02 * turn])


def test_every_valid_row_is_a_transition_and_no_other(small_ppo: MakeAgent) -> None:
    agent = small_ppo(4, 2)
    dataset = optix.dataset_from_env(CARTPOLE, agent, window_size=60, num_envs=8, seed=3)
    rows = invalid = 0
    for window in dataset.take(3).as_numpy_iterator():
        for t, i in np.ndindex(window.valid.shape):
            wanted = next_state(window.observations[t, i], int(window.actions[t, i]))
            if window.valid[t, i]:
                np.testing.assert_allclose(window.next_observations[t, i], wanted, rtol=1e-4, atol=1e-5)
                assert window.rewards[t, i] == 1.0
                rows += 1
            else:  # a control: the environment only reset
                assert not np.allclose(window.next_observations[t, i], wanted, rtol=1e-4, atol=1e-5)
                invalid += 1
    assert rows == agent.sources[-1].env_steps
    # 1,440 rows. Random play ends an episode after 22 steps on average, and never before 8.
    assert 20 < invalid < 180


def test_the_loop_says_once_what_was_chosen(small_ppo: MakeAgent) -> None:
    agent = small_ppo(4, 2)
    dataset = optix.dataset_from_env(CARTPOLE, agent, window_size=8, num_envs=8, seed=0)
    callback = optix.OptixCallback(max_windows=3, verbose=0)
    agent.fit(dataset, callbacks=[callback], verbose=0)
    said = [event.message for event in callback.events if "vector environment of its own" in event.message]
    assert len(said) == 1
    assert "CartPole-v1 has a vector environment of its own, which steps all 8 environments" in said[0]


def test_processes_give_whole_windows_and_are_started_again(small_ppo: MakeAgent) -> None:
    """Autoreset in the same step: every row is a transition."""
    agent = small_ppo(4, 2)
    dataset = optix.dataset_from_env(
        CARTPOLE, agent, window_size=40, num_envs=2, seed=0, vectorization="async", restarts=1
    )
    windows = dataset.take(2).as_numpy_iterator()
    assert next(windows).valid.all()
    source: Any = agent.sources[-1]
    vector = source.envs.members()[0]
    vector.processes[1].kill()
    window = next(windows)
    assert source.restarted == 1
    assert window.valid.all()
    assert window.terminated.any()  # random play ends an episode after 22 steps on average
    source.close()
