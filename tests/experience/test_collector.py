"""Every row of a window, by hand, across episode ends, for each kind of environment and autoreset mode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from keras_optix.errors import ConfigurationError, EnvError, SpaceError, StateError
from keras_optix.experience.actor import NoiseSpec
from keras_optix.experience.collector import Collector
from keras_optix.experience.envs import make_envs, recipe_of
from keras_optix.experience.window import PublishedPolicy
from keras_optix.testing import CountingEnv, IdentityEnv, RaisingEnv


class FixedActor:
    """Chooses the larger noise: a uniform random policy."""

    noise = NoiseSpec("gumbel", (2,))

    def set_weights(self, arrays: Sequence[np.ndarray]) -> None:
        self.arrays = arrays

    def act(self, observations: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return noise.argmax(-1), np.full(len(observations), -0.7, np.float32)


class Publisher:
    """Publishes a new version for every window."""

    def __init__(self) -> None:
        self.version = -1

    def publish(self) -> PublishedPolicy:
        self.version += 1
        return PublishedPolicy(self.version, (np.zeros(1, np.float32),))

    def make_actor(self, batch_size: int) -> FixedActor:
        return FixedActor()


def collector(env: Any, num_envs: int = 1, *, window_size: int = 8, **options: Any) -> Collector:
    return Collector(make_envs(env, num_envs), Publisher(), window_size=window_size, **options)


def vector(mode: AutoresetMode, *, truncate: bool) -> SyncVectorEnv:
    return SyncVectorEnv([lambda: CountingEnv(3, truncate=truncate)] * 2, autoreset_mode=mode)


KINDS = {
    "sequential": lambda truncate: lambda: CountingEnv(3, truncate=truncate),
    "same_step": lambda truncate: vector(AutoresetMode.SAME_STEP, truncate=truncate),
    "disabled": lambda truncate: vector(AutoresetMode.DISABLED, truncate=truncate),
}


@pytest.mark.parametrize("truncate", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_rows_across_episode_ends(kind: str, truncate: bool) -> None:
    """Episodes of 3 steps in windows of 8: rows 2 and 5 end an episode, the window cuts the third one."""
    collected = collector(KINDS[kind](truncate), 2).collect()
    w = collected.window
    ended = np.array([0, 0, 1, 0, 0, 1, 0, 0], bool)
    for i in range(2):
        np.testing.assert_array_equal(w.observations[:, i, 1], [0, 1, 2, 0, 1, 2, 0, 1])
        np.testing.assert_array_equal(w.next_observations[:, i, 1], [1, 2, 3, 1, 2, 3, 1, 2])
        np.testing.assert_array_equal(w.observations[:, i, 0], [0, 0, 0, 1, 1, 1, 2, 2])
        np.testing.assert_array_equal(w.next_observations[:, i, 0], [0, 0, 0, 1, 1, 1, 2, 2])
        np.testing.assert_array_equal(w.rewards[:, i], [1, 2, 3, 1, 2, 3, 1, 2])
        np.testing.assert_array_equal((w.truncated if truncate else w.terminated)[:, i], ended)
        assert not (w.terminated if truncate else w.truncated)[:, i].any()
        assert w.valid[:, i].all()
    assert collected.env_steps == 16
    assert [(e.total_reward, e.length) for e in collected.episodes] == [(6.0, 3)] * 4


@pytest.mark.parametrize("truncate", [False, True])
def test_rows_of_a_next_step_autoreset(truncate: bool) -> None:
    """Rows 3 and 7 are resets: no transition, no reward, no step, no end."""
    collected = collector(vector(AutoresetMode.NEXT_STEP, truncate=truncate), 2).collect()
    w = collected.window
    valid = np.array([1, 1, 1, 0, 1, 1, 1, 0], bool)
    ended = np.array([0, 0, 1, 0, 0, 0, 1, 0], bool)
    for i in range(2):
        np.testing.assert_array_equal(w.valid[:, i], valid)
        np.testing.assert_array_equal((w.truncated if truncate else w.terminated)[:, i], ended)
        np.testing.assert_array_equal(w.observations[:, i, 1][valid], [0, 1, 2, 0, 1, 2])
        np.testing.assert_array_equal(w.next_observations[:, i, 1][valid], [1, 2, 3, 1, 2, 3])
        np.testing.assert_array_equal(w.rewards[:, i], [1, 2, 3, 0, 1, 2, 3, 0])
    assert collected.env_steps == 12
    assert [(e.total_reward, e.length) for e in collected.episodes] == [(6.0, 3)] * 4


@pytest.mark.parametrize("kind", [*KINDS, "next_step"])
def test_windows_continue_where_the_last_one_stopped(kind: str) -> None:
    env = vector(AutoresetMode.NEXT_STEP, truncate=False) if kind == "next_step" else KINDS[kind](False)
    source = collector(env, 2, window_size=5)
    windows = [source.collect() for _ in range(6)]
    for i in range(2):
        rows = np.concatenate([c.window.next_observations[:, i][c.window.valid[:, i]] for c in windows])
        np.testing.assert_array_equal(rows[:, 1], [1 + k % 3 for k in range(len(rows))])
        np.testing.assert_array_equal(rows[:, 0], [k // 3 for k in range(len(rows))])
    assert [c.window_id for c in windows] == list(range(6))
    assert all(e.total_reward == 6.0 and e.length == 3 for c in windows for e in c.episodes)


def test_an_episode_knows_the_versions_that_played_it() -> None:
    source = collector(CountingEnv(6), window_size=4)
    episodes = [e for _ in range(4) for e in source.collect().episodes]
    assert [(e.first_version, e.last_version) for e in episodes] == [(0, 1), (1, 2)]


def test_the_logs_are_over_the_last_hundred_episodes() -> None:
    source = collector(CountingEnv(3), window_size=2)
    first, second = source.collect().window, source.collect().window
    assert np.isnan(first.episode_return)
    assert (second.episode_return, second.episode_length) == (6.0, 3.0)


def test_one_seed_gives_equal_windows_and_another_gives_others() -> None:
    def windows(seed: int) -> list[np.ndarray]:
        source = collector(lambda: IdentityEnv(4), 3, seed=seed)
        return [np.concatenate([w.actions, w.observations.argmax(-1)]) for w in (source.collect().window,) * 1]

    np.testing.assert_array_equal(windows(5), windows(5))
    assert not np.array_equal(windows(5), windows(6))


def test_deterministic_windows_take_the_most_likely_action() -> None:
    assert not collector(CountingEnv(), deterministic=True).collect().window.actions.any()
    assert collector(CountingEnv(), seed=0).collect().window.actions.any()


def test_actions_start_where_the_space_starts() -> None:
    env = CountingEnv()
    env.action_space = spaces.Discrete(2, start=5)
    window = collector(env).collect().window
    assert set(env.taken) <= {5, 6}
    np.testing.assert_array_equal(np.array(env.taken) - 5, window.actions[:, 0])


def test_delivered_windows_wait_only_when_somebody_wants_them() -> None:
    source = collector(CountingEnv())
    source.collect()
    assert source.take_delivered(9) == []
    source.keep_delivered(True)
    for _ in range(3):
        source.collect()
    assert [c.window_id for c in source.take_delivered(2)] == [1, 2]
    assert [c.window_id for c in source.take_delivered(9)] == [3]


def test_what_an_environment_raises_is_kept_and_the_environments_are_closed() -> None:
    env = RaisingEnv(5, ZeroDivisionError("in the env"))
    source = collector(env)
    with pytest.raises(ZeroDivisionError, match="in the env"):
        source.collect()
    assert isinstance(source.error, ZeroDivisionError)
    assert env.closed
    with pytest.raises(StateError, match="closed"):
        source.collect()


class Spoiled(CountingEnv):
    """Returns what `spoil` makes of the second observation and reward."""

    def __init__(self, spoil: Any) -> None:
        super().__init__()
        self.spoil = spoil

    def step(self, action: Any) -> Any:
        observation, reward, *rest = super().step(action)
        if self.steps == 2:
            observation, reward = self.spoil(observation, reward)
        return observation, reward, *rest


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda o, r: (o * np.nan, r), "not finite in its observation.*row 1 of window 0"),
        (lambda o, r: (o, np.inf), "not finite in its reward"),
        (lambda o, r: (o[:1], r), r"shape \(1,\).*\(2,\)"),
    ],
)
def test_environments_that_break_their_contract_are_named(spoil: Any, match: str) -> None:
    env = Spoiled(spoil)
    with pytest.raises(EnvError, match=match):
        collector(env).collect()
    assert env.closed


def test_a_same_step_environment_without_final_observations_is_refused() -> None:
    env = vector(AutoresetMode.SAME_STEP, truncate=True)
    step = env.step
    env.step = lambda actions: (*step(actions)[:4], {})  # type: ignore[method-assign]
    with pytest.raises(EnvError, match="final_obs"):
        collector(env, 2).collect()


def test_a_vector_environment_must_say_how_it_resets() -> None:
    env = vector(AutoresetMode.SAME_STEP, truncate=True)
    env.metadata = {}
    with pytest.raises(ConfigurationError, match="autoreset_mode"):
        make_envs(env, 2)


@pytest.mark.parametrize(
    ("env", "num_envs", "match"),
    [
        ("NoSuchEnv-v0", 1, "NoSuchEnv"),
        (CountingEnv(), 2, "cannot be stepped as several"),
        (lambda: 7, 1, "factory"),
        (3, 1, "must be a Gymnasium id"),
        (SyncVectorEnv([CountingEnv] * 3), 2, "vector environment"),
    ],
)
def test_what_is_no_environment_is_refused(env: Any, num_envs: int, match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        make_envs(env, num_envs)


def test_unsupported_spaces_are_named() -> None:
    env = CountingEnv()
    env.action_space = spaces.Box(-1, 1, (2,))  # type: ignore[assignment]
    with pytest.raises(SpaceError, match="Box"):
        collector(env)
    env = CountingEnv()
    env.observation_space = spaces.Dict({"a": spaces.Discrete(2)})  # type: ignore[assignment]
    with pytest.raises(SpaceError, match="Dict"):
        collector(env)


def test_what_makes_one_more_environment() -> None:
    assert recipe_of("CartPole-v1") == "CartPole-v1"
    assert recipe_of(CountingEnv()) is None
    again = recipe_of(gymnasium.make("CartPole-v1", max_episode_steps=7))
    made = make_envs(again, 1)  # type: ignore[arg-type]
    assert made.observation_space.shape == (4,)
    made.close()
