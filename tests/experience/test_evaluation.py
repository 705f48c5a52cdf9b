"""Whole episodes, the same number on every environment."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import keras_optix as optix
from keras_optix.testing import CountingEnv, IdentityEnv


def test_returns_of_known_episodes(small_ppo: Callable[..., optix.PPOAgent]) -> None:
    metrics = optix.evaluate(small_ppo(), lambda: CountingEnv(4), episodes=13, seed=0)
    assert (metrics.primary_score, metrics.stderr, metrics.episodes) == (10.0, 0.0, 13)
    assert metrics.metrics["episode_length"] == 4.0


def test_environments_that_were_made_are_closed_and_one_that_was_given_is_not(
    small_ppo: Callable[..., optix.PPOAgent],
) -> None:
    made: list[CountingEnv] = []

    def factory() -> CountingEnv:
        made.append(CountingEnv())
        return made[-1]

    optix.evaluate(small_ppo(), factory, episodes=3)
    assert len(made) == 3
    assert all(env.closed for env in made)
    given = CountingEnv()
    optix.evaluate(small_ppo(), given, episodes=3)
    assert not given.closed
    assert given.resets >= 3


def test_equal_seeds_give_equal_episodes(small_ppo: Callable[..., optix.PPOAgent]) -> None:
    agent = small_ppo(4, 4)

    def play(seed: int) -> optix.EvalMetrics:
        return optix.evaluate(agent, lambda: IdentityEnv(4), episodes=8, seed=seed, deterministic=False)

    assert play(3) == play(3)
    assert play(3) != play(4)


def test_arguments_are_checked(small_ppo: Callable[..., optix.PPOAgent]) -> None:
    with pytest.raises(optix.ConfigurationError, match="episodes"):
        optix.evaluate(small_ppo(), CountingEnv(), episodes=0)
    with pytest.raises(optix.SpaceError, match="policy"):
        optix.evaluate(small_ppo(3, 2), CountingEnv())
