"""An agent with a replay buffer begins with episodes that were recorded elsewhere."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
from gymnasium import spaces
from small_dqn import STATES, identity_env, small_dqn

import keras_optix as optix
from keras_optix.errors import ArgumentError, SpaceError, StateError


def episode(steps: int, seed: int = 0, scale: float = 1.0) -> Any:
    """Of `identity_env`, with random actions."""
    rng = np.random.default_rng(seed)
    seen = rng.integers(0, STATES, steps + 1)
    actions = rng.integers(0, STATES, steps)
    ends = np.arange(steps) == steps - 1
    return SimpleNamespace(
        observations=np.eye(STATES, dtype=np.float32)[seen] * scale,
        actions=actions,
        rewards=(actions == seen[:-1]).astype(np.float64),
        terminations=ends,
        truncations=np.zeros(steps, bool),
    )


def bound(**options: Any) -> Any:
    agent = small_dqn(**options)
    dataset = optix.dataset_from_env(identity_env, agent, window_size=4, num_envs=2, seed=0)
    return agent, dataset


def test_it_counts_for_the_start_of_learning_and_asks_for_no_gradient_steps() -> None:
    agent, dataset = bound(learning_starts=50)
    batch = next(iter(dataset))
    assert (int(batch.gradient_steps), int(batch.env_steps)) == (0, 8)  # a control: learning has not started
    agent, dataset = bound(learning_starts=50)
    assert agent.add_experience(episode(20, seed) for seed in range(3)) == 60
    assert len(agent.replay) == 60
    batch = next(iter(dataset))
    assert (int(batch.gradient_steps), int(batch.env_steps)) == (4, 68)  # half a gradient step for each of 8 env steps


def test_it_learns_from_it() -> None:
    """The environment gives no reward here, so that all the agent knows of rewards is from the episodes.

    2,000 gradient steps on rewards of 0 and 1 with a discount of 0: the values are those of a table. A control without
    the episodes knows none. Three runs, of which one may fail.
    """

    def values(episodes: list[Any], seed: int) -> np.ndarray:
        keras.utils.set_random_seed(seed)
        agent = small_dqn(0.02, gamma=0.0, buffer_size=4000, gradient_steps_per_env_step=20.0)
        env = lambda: Unrewarded()  # noqa: E731
        dataset = optix.dataset_from_env(env, agent, window_size=10, num_envs=1, seed=seed)
        agent.add_experience(episodes)
        agent.fit(dataset, steps_per_epoch=10, verbose=0)
        return np.asarray(agent.policy(np.eye(STATES, dtype=np.float32)))

    learned = [values([episode(500, 10 * run + part) for part in range(4)], run) for run in range(3)]
    right = [(one.argmax(axis=1) == range(STATES)).all() and one.diagonal().min() > 0.7 for one in learned]
    assert sum(right) >= 2
    assert values([], 0).max() < 0.3


class Unrewarded(optix.testing.IdentityEnv):
    """Rewards nothing."""

    def __init__(self) -> None:
        super().__init__(STATES)

    def step(self, action: Any) -> Any:
        """See `gymnasium.Env.step`."""
        observation, _, terminated, truncated, info = super().step(action)
        return observation, 0.0, terminated, truncated, info


def test_normalised_observations_are_those_of_the_episodes_too() -> None:
    agent, _ = bound(normalize_observations=True)
    agent.add_experience([episode(300, scale=100.0)])
    given = np.concatenate([episode(300, scale=100.0).observations[:-1]])
    inputs = np.asarray(agent.head.inputs(given))
    np.testing.assert_allclose(inputs.mean(axis=0), 0.0, atol=0.05)
    np.testing.assert_allclose(inputs.std(axis=0), 1.0, atol=0.05)


def test_an_agent_that_knows_no_spaces_says_so() -> None:
    with pytest.raises(StateError, match="bind"):
        small_dqn().add_experience([])


def test_an_episode_that_does_not_fit_is_named_and_those_before_it_stay() -> None:
    agent, _ = bound()
    with pytest.raises(SpaceError, match="episode 1"):
        agent.add_experience([episode(5), SimpleNamespace(**vars(episode(5)) | {"actions": np.full(5, 9)})])
    assert len(agent.replay) == 5
    with pytest.raises(ArgumentError, match="must be a Minari dataset"):
        agent.add_experience(3)
    assert agent.add_experience([]) == 0


def test_continuous_actions_are_scaled_to_those_of_the_policy() -> None:
    agent = optix.SACAgent(buffer_size=100, learning_starts=0)
    agent.bind(spaces.Box(-1.0, 1.0, (3,), np.float32), spaces.Box(-2.0, 2.0, (1,), np.float32))
    given = episode(4)
    given.actions = np.array([[-2.0], [0.0], [1.0], [2.0]])
    agent.add_experience([given])
    drawn = agent.replay.sample(np.random.default_rng(0), 1, 200)
    assert drawn is not None
    assert sorted({float(one) for one in drawn.actions.ravel()}) == [-1.0, 0.0, 0.5, 1.0]
