"""Where evaluations beside training are played: in how many environments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

import keras_optix as optix
from keras_optix.experience.evaluation_envs import TrainingCopies
from keras_optix.testing import CountingEnv


def test_a_resumed_run_plays_in_as_many_environments_as_before(small_ppo: Callable[..., optix.PPOAgent]) -> None:
    """Their number follows from the first evaluation, and the seeds of all environments from their number."""
    agent = small_ppo()
    optix.dataset_from_env(CountingEnv, agent, window_size=4)
    (source,) = agent.sources

    def play(envs: TrainingCopies, episodes: int) -> None:
        assert envs.play(agent.policy_params(), episodes, seed=5, deterministic=True, needed_by="")

    first, resumed, new = (TrainingCopies(source, agent.make_actor) for _ in range(3))
    play(first, 8)
    assert first.num_envs == 8
    resumed.restore(num_envs=first.num_envs, env_steps=first.env_steps, in_place="")
    before = resumed.env_steps
    play(resumed, 3)
    play(new, 3)
    assert (resumed.num_envs, new.num_envs) == (8, 3)
    assert resumed.env_steps > before == first.env_steps
    for envs in (first, resumed, new):
        envs.close()


class Door(gymnasium.Env[np.ndarray, np.int64]):
    """An episode ends when the door (action 1) is taken, and only then."""

    observation_space = gymnasium.spaces.Box(0.0, 1.0, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> Any:
        return np.zeros(2, np.float32), -1.0, bool(action == 1), False, {}


def stays(agent: optix.PPOAgent) -> optix.PPOAgent:
    """The most likely action is 0; sampled ones are 1 in almost half of the cases."""
    kernel, bias = agent.policy.layers[-1].weights
    kernel.assign(np.zeros(kernel.shape))
    bias.assign([0.1, 0.0])
    return agent


def test_an_episode_that_never_ends_is_cut_off_where_training_was_never_near(
    small_ppo: Callable[..., optix.PPOAgent],
) -> None:
    """100,000 env steps for each episode of each evaluation would be minutes without a word."""
    agent = small_ppo()
    dataset = optix.dataset_from_env(Door, agent, window_size=300, num_envs=1, seed=0)
    envs = TrainingCopies(agent.sources[-1], stays(agent).make_actor)
    next(iter(dataset))

    def lengths() -> set[int]:
        played = envs.play(agent.policy_params(), 2, seed=5, deterministic=True, needed_by="")
        return {episode.length for episode in played or ()}

    assert agent.sources[-1].longest_episode < 100
    assert lengths() == lengths() == {1000}
    (notice,) = envs.take_notices()
    assert notice.startswith("an episode of an evaluation was cut off after 1,000 env steps")
    envs.close()


def test_it_may_be_ten_times_as_long_as_those_of_training(small_ppo: Callable[..., optix.PPOAgent]) -> None:
    agent = small_ppo()
    dataset = optix.dataset_from_env(Door, agent, window_size=300, num_envs=1, seed=0, deterministic=True)
    envs = TrainingCopies(agent.sources[-1], stays(agent).make_actor)
    next(iter(dataset))  # one episode that still runs
    assert agent.sources[-1].longest_episode == 300
    (played,) = envs.play(agent.policy_params(), 1, seed=5, deterministic=True, needed_by="") or ()
    assert played.length == 3000
    envs.close()


def test_a_time_limit_is_left_to_the_environment(small_ppo: Callable[..., optix.PPOAgent]) -> None:
    agent = small_ppo()
    spec = gymnasium.envs.registration.EnvSpec("Door-v0", Door, max_episode_steps=2500)
    optix.dataset_from_env(spec, agent, window_size=8, num_envs=1, seed=0)
    envs = TrainingCopies(agent.sources[-1], stays(agent).make_actor)
    (played,) = envs.play(agent.policy_params(), 1, seed=5, deterministic=True, needed_by="") or ()
    assert played.length == 2500
    assert envs.take_notices() == []
    envs.close()
