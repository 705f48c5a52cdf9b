"""Whole episodes, the same number on every environment."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import keras_optix as optix
from keras_optix.experience.envs import Envs, SequentialEnvs
from keras_optix.experience.evaluation import MAX_EPISODE_STEPS, EpisodePlayer
from keras_optix.experience.vector_envs import VectorEnvs
from keras_optix.testing import CountingEnv, IdentityEnv

ENDLESS = 10**9


def test_returns_of_known_episodes(small_ppo: Callable[..., optix.PPOAgent]) -> None:
    metrics = optix.evaluate_policy(small_ppo(), lambda: CountingEnv(4), episodes=13, seed=0)
    assert (metrics.primary_score, metrics.stderr, metrics.episodes) == (10.0, 0.0, 13)
    assert metrics.metrics["episode_length"] == 4.0


def test_environments_that_were_made_are_closed_and_one_that_was_given_is_not(
    small_ppo: Callable[..., optix.PPOAgent],
) -> None:
    made: list[CountingEnv] = []

    def factory() -> CountingEnv:
        made.append(CountingEnv())
        return made[-1]

    optix.evaluate_policy(small_ppo(), factory, episodes=3)
    assert len(made) == 3
    assert all(env.closed for env in made)
    given = CountingEnv()
    optix.evaluate_policy(small_ppo(), given, episodes=3)
    assert not given.closed
    assert given.resets >= 3


def test_equal_seeds_give_equal_episodes(small_ppo: Callable[..., optix.PPOAgent]) -> None:
    agent = small_ppo(4, 4)

    def play(seed: int) -> optix.EvalMetrics:
        return optix.evaluate_policy(agent, lambda: IdentityEnv(4), episodes=8, seed=seed, deterministic=False)

    assert play(3) == play(3)
    assert play(3) != play(4)


def test_arguments_are_checked(small_ppo: Callable[..., optix.PPOAgent]) -> None:
    with pytest.raises(optix.ConfigurationError, match="episodes"):
        optix.evaluate_policy(small_ppo(), CountingEnv(), episodes=0)
    with pytest.raises(optix.errors.SpaceError, match="policy"):
        optix.evaluate_policy(small_ppo(3, 2), CountingEnv())


# Episodes that never end


def played(envs: Envs, trainer: Any, episodes: int, max_steps: int) -> tuple[list[tuple[float, int]], int]:
    player = EpisodePlayer(envs, trainer.make_actor(envs.num_envs), max_steps=max_steps)
    records = player.play(trainer.policy_params(), episodes, seed=0, deterministic=True)
    return [(record.total_reward, record.length) for record in records], player.env_steps


def test_an_episode_that_never_ends_is_cut_and_the_next_one_begins_afresh(trainer: Any) -> None:
    env = CountingEnv(ENDLESS)
    assert played(SequentialEnvs([env]), trainer, 3, max_steps=7) == ([(28.0, 7)] * 3, 21)
    assert env.resets == 3


def test_an_environment_whose_episodes_end_plays_them_beside_one_whose_do_not(trainer: Any) -> None:
    endless, ending = CountingEnv(ENDLESS), CountingEnv(3)
    records, env_steps = played(SequentialEnvs([endless, ending]), trainer, 5, max_steps=7)
    assert records == [(28.0, 7)] * 3 + [(6.0, 3)] * 2
    assert env_steps == 3 * 7 + 2 * 3 == endless.steps + ending.steps


def test_an_episode_that_ends_with_its_last_step_is_not_cut(trainer: Any) -> None:
    env = CountingEnv(7)
    assert played(SequentialEnvs([env]), trainer, 3, max_steps=7) == ([(28.0, 7)] * 3, 21)
    assert env.resets == 1 + 3


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_episodes_are_cut_in_every_autoreset_mode(trainer: Any, mode: AutoresetMode) -> None:
    makers: list[Callable[[], gymnasium.Env]] = [partial(CountingEnv, ENDLESS), partial(CountingEnv, 3)]
    envs = VectorEnvs(SyncVectorEnv(makers, autoreset_mode=mode))
    records, env_steps = played(envs, trainer, 5, max_steps=7)
    assert records == [(28.0, 7)] * 3 + [(6.0, 3)] * 2
    assert env_steps == 3 * 7 + 2 * 3


def test_rounds_after_a_cut_do_not_repeat_the_first(trainer: Any) -> None:
    """The symbols of `IdentityEnv` come from its generator; the same name is always given."""

    def play() -> list[tuple[float, int]]:
        return played(SequentialEnvs([IdentityEnv(2, ENDLESS)]), trainer, 6, max_steps=40)[0]

    assert play() == play()
    assert len(set(play())) > 1


def test_evaluating_a_policy_that_cannot_fail_comes_to_an_end(
    small_ppo: Callable[..., optix.PPOAgent], monkeypatch: pytest.MonkeyPatch
) -> None:
    defaults: Any = EpisodePlayer.__init__.__kwdefaults__
    assert defaults["max_steps"] == MAX_EPISODE_STEPS == 100_000
    monkeypatch.setitem(defaults, "max_steps", 50)
    metrics = optix.evaluate_policy(small_ppo(), CountingEnv(ENDLESS), episodes=2)
    assert (metrics.primary_score, metrics.metrics["episode_length"]) == (1275.0, 50.0)
