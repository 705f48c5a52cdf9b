"""Copies of environments: what they take over, when they are suspected, when they cannot be had."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import wrappers
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import vector as vector_wrappers
from versions import older

import keras_optix as optix
from keras_optix.errors import ConfigurationError
from keras_optix.experience.collector import Collector
from keras_optix.experience.copies import Copies
from keras_optix.experience.envs import SequentialEnvs
from keras_optix.experience.making import make_envs
from keras_optix.experience.rollout import Rollout
from keras_optix.experience.statistics import read_all, statistics_of
from keras_optix.experience.vector_envs import VectorEnvs
from keras_optix.testing import CountingEnv

MakeCollector = Callable[..., Collector]


def normalized() -> gymnasium.Env:
    return wrappers.TransformReward(
        wrappers.NormalizeReward(wrappers.NormalizeObservation(CountingEnv(7))), lambda reward: min(reward, 0.5)
    )


def played(envs: Any, steps: int, action: Any = 0) -> Rollout:
    rollout = Rollout(envs.layout, steps, envs.num_envs, own_rewards=envs.own_rewards)
    with envs.use():
        envs.reset(0, rollout.observations)
        for t in range(steps):
            envs.step(np.full(envs.num_envs, action), rollout, t)
        envs.finish(rollout)
    return rollout


# Statistics


def test_copy_i_takes_what_environment_i_has_seen_and_sees_no_more() -> None:
    trained = make_envs(normalized, 2)
    first, second = trained.members()
    for _ in range(3):
        first.reset()
        first.step(0)
    copies = Copies(normalized, 3, trained)
    assert copies.copy_statistics() == ["NormalizeObservation.obs_rms", "NormalizeReward.return_rms"]
    for env, source in zip(copies.envs.members(), (first, second, first), strict=True):
        for mine, theirs in zip(statistics_of(env), statistics_of(source), strict=True):
            assert [str(mine)] != []
            for name, value in theirs.read().items():
                np.testing.assert_array_equal(mine.read()[name], value)
    before = read_all(copies.envs.members())
    played(copies.envs, 20)
    assert {name: value.tolist() for name, value in read_all(copies.envs.members()).items()} == {
        name: value.tolist() for name, value in before.items()
    }
    # What is learned from goes on seeing.
    count = statistics_of(first)[0].read()["count"]
    first.reset()
    assert statistics_of(first)[0].read()["count"] > count


class Statistics:
    """As other libraries have them."""

    def __init__(self) -> None:
        self.mean, self.var, self.count = np.zeros(2), np.ones(2), 0

    def update(self, row: Any) -> None:
        self.count += 1
        self.mean = self.mean + (row - self.mean) / self.count


class OwnNormalizer(gymnasium.ObservationWrapper):
    """Somebody's own wrapper, with statistics that look like everybody's."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self.seen = Statistics()

    def observation(self, observation: Any) -> Any:
        self.seen.update(observation)
        return (observation - self.seen.mean).astype(np.float32)


def test_statistics_of_other_wrappers_are_known_by_their_fields() -> None:
    def make() -> gymnasium.Env:
        env = OwnNormalizer(CountingEnv(7))
        env.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        return env

    trained = make_envs(make, 1)
    played(trained, 20)
    copies = Copies(make, 1, trained)
    assert copies.copy_statistics() == ["OwnNormalizer.seen"]
    copies.begin_looking()
    played(copies.envs, 20)
    (mine,), (theirs,) = (statistics_of(envs.members()[0]) for envs in (copies.envs, trained))
    np.testing.assert_array_equal(mine.read()["mean"], theirs.read()["mean"])
    assert copies.suspicion() == ""


def test_statistics_go_into_a_point_to_resume_from(collector: MakeCollector) -> None:
    source, again = collector(normalized, 2), collector(normalized, 2)
    source.collect()
    again.restore(*source.save())
    mine, theirs = (read_all(one.envs.members()) for one in (again, source))
    assert len(mine) == 2 * 2 * 3
    for name, value in theirs.items():
        np.testing.assert_array_equal(mine[name], value)


# Rewards


@pytest.mark.parametrize(
    "make",
    [
        lambda: make_envs(normalized, 2),
        lambda: make_envs(lambda: wrappers.NormalizeReward(wrappers.NormalizeReward(CountingEnv(7))), 2),
        lambda: VectorEnvs(vector_wrappers.NormalizeReward(SyncVectorEnv([lambda: CountingEnv(7)] * 2))),
        lambda: VectorEnvs(SyncVectorEnv([lambda: CountingEnv(7)] * 2)),
    ],
    ids=["single", "nested", "vector", "none"],
)
def test_what_is_scored_are_the_rewards_beneath(make: Any) -> None:
    envs = make()
    rollout = played(envs, 6)
    np.testing.assert_array_equal(rollout.own_rewards[:, 1], [1, 2, 3, 4, 5, 6])
    assert (rollout.rewards[2:, 1] < 2.9).all() == envs.own_rewards


@pytest.mark.skipif(older("gymnasium", "1.3"), reason="Gymnasium has `RepeatAction` since 1.3")
def test_repeated_actions_earn_all_that_lies_beneath() -> None:
    envs = make_envs(lambda: wrappers.RepeatAction(wrappers.NormalizeReward(CountingEnv(9)), 3), 1)
    np.testing.assert_array_equal(played(envs, 3).own_rewards[:, 0], [6, 15, 24])


def test_returns_of_episodes_in_training_are_those_beneath(collector: MakeCollector) -> None:
    episodes = collector(wrappers.NormalizeReward(CountingEnv(4)), window_size=8).collect().episodes
    assert [episode.total_reward for episode in episodes] == [1 + 2 + 3 + 4] * 2


def test_what_others_earned_is_not_counted(collector: MakeCollector) -> None:
    env = wrappers.NormalizeReward(CountingEnv(30))
    source = collector(env, window_size=4)
    assert source.collect().own_rewards is not None
    for _ in range(3):
        env.step(0)
    with pytest.warns(UserWarning, match="reset or stepped by other code"):
        collected = source.collect()
    np.testing.assert_array_equal(collected.window_data().rewards[:, 0], [1, 2, 3, 4])


def test_rows_that_are_no_transition_earn_nothing() -> None:
    env = vector_wrappers.NormalizeReward(
        SyncVectorEnv([lambda: CountingEnv(3)] * 2, autoreset_mode=AutoresetMode.NEXT_STEP)
    )
    np.testing.assert_array_equal(played(VectorEnvs(env), 8).own_rewards[:, 0], [1, 2, 3, 0, 1, 2, 3, 0])


def test_evaluate_takes_over_statistics_and_tells_own_rewards(small_ppo: Callable[..., optix.PPOAgent]) -> None:
    seen: list[float] = []

    class Telling(wrappers.NormalizeObservation):
        def observation(self, observation: Any) -> Any:
            seen.append(float(self.obs_rms.count))
            return super().observation(observation)

    def make() -> gymnasium.Env:
        return wrappers.NormalizeReward(Telling(CountingEnv(5)))

    agent = small_ppo()
    dataset = optix.dataset_from_env(make, agent, window_size=20, seed=0)
    next(iter(dataset))
    (count,) = {float(statistics_of(env)[0].read()["count"]) for env in agent.sources[0].envs.members()}
    seen.clear()
    metrics = optix.evaluate_policy(agent, make, episodes=2, seed=0)
    assert metrics.primary_score == 15.0
    assert set(seen) == {count}
    assert count > 20


# Suspicion


class Curriculum(gymnasium.Wrapper):
    """Gets harder with every episode that ends, for good."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self.level = 0.0

    def step(self, action: Any) -> Any:
        result = super().step(action)
        self.level += 0.5 * (result[2] or result[3])
        return result


class Leveled(gymnasium.Wrapper):
    """Gets harder by what somebody sets, or by what training achieves."""

    def __init__(self, env: gymnasium.Env, level: int = 0) -> None:
        super().__init__(env)
        self.level = level


class Logging(gymnasium.Wrapper):
    """Counts, as many wrappers do; the counts change nothing."""

    made = 0

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        Logging.made += 1
        self.port, self.total_steps, self.name = 5000 + Logging.made, 0, "log"

    def step(self, action: Any) -> Any:
        self.total_steps += 1
        return super().step(action)


def suspicion(make: Callable[[], gymnasium.Env], trained: Any = None, copies: int = 2) -> str:
    trained = trained or make_envs(make, 2)
    played(trained, 30)
    of = Copies(make, copies, trained)
    of.copy_statistics()
    of.begin_looking()
    played(of.envs, 30)
    return of.suspicion()


@pytest.mark.parametrize(
    "make",
    [
        CountingEnv,
        normalized,
        lambda: Logging(CountingEnv(7)),
        lambda: Leveled(CountingEnv(7), 3),
        lambda: wrappers.RecordEpisodeStatistics(gymnasium.make("CartPole-v1", max_episode_steps=9)),
        *(
            (lambda name=name: gymnasium.make(name, max_episode_steps=9))
            for name in ("CartPole-v1", "Acrobot-v1", "MountainCar-v0", "FrozenLake-v1")
        ),
        lambda: wrappers.FrameStackObservation(gymnasium.make("CartPole-v1"), 3),
        lambda: wrappers.StickyAction(gymnasium.make("CartPole-v1"), 0.3),
    ],
)
def test_what_is_alike_is_not_suspected(make: Any) -> None:
    assert suspicion(make) == ""


def test_what_outlives_an_episode_is_suspected() -> None:
    assert suspicion(lambda: Curriculum(CountingEnv(7))) == (
        "`Curriculum.level` outlives episodes, and copies do not share it"
    )


def test_what_was_set_on_the_training_environment_is_suspected() -> None:
    trained = make_envs(lambda: Leveled(CountingEnv(7)), 2)
    for env in trained.members():
        env.level = 4
    assert suspicion(lambda: Leveled(CountingEnv(7)), trained) == (
        "`Leveled.level` of the training environment is 4, but a new one has 0"
    )
    env = gymnasium.make("CartPole-v1")
    env.unwrapped.gravity = 20.0  # type: ignore[attr-defined]
    assert suspicion(lambda: gymnasium.make("CartPole-v1"), make_envs(env, 1)) == (
        "`CartPoleEnv.gravity` of the training environment is 20.0, but a new one has 9.8"
    )


# What cannot be had


class Licensed(CountingEnv):
    """There are so many licenses."""

    left = 0

    def __init__(self) -> None:
        super().__init__()
        if Licensed.left == 0:
            raise OSError("no license left")
        Licensed.left -= 1


def test_as_many_copies_are_made_as_can_be() -> None:
    Licensed.left = 4
    trained = make_envs(Licensed, 2)
    copies = Copies(Licensed, 8, trained)
    assert (copies.envs.num_envs, copies.shortage) == (2, "OSError: no license left")
    with pytest.raises(OSError, match="no license left"):
        Copies(Licensed, 8, trained)


def test_a_factory_that_returns_the_training_environment_makes_no_copy() -> None:
    env = CountingEnv()

    def make() -> gymnasium.Env:
        return wrappers.TimeLimit(env, 5)

    trained = make_envs(make, 1)
    with pytest.raises(
        ConfigurationError, match="the factory returned the environment that is trained on, not a new one"
    ):
        Copies(make, 4, trained)
    with pytest.raises(ConfigurationError, match="returned the same one again"):
        make_envs(make, 2)


def test_a_copy_with_other_spaces_is_none() -> None:
    made = iter([CountingEnv(), CountingEnv(actions=3)])
    trained = make_envs(lambda: next(made), 1)
    with pytest.raises(ConfigurationError, match=r"a second one has other spaces.*Discrete\(3\)"):
        Copies(lambda: next(made), 1, trained)


def test_a_factory_of_a_vector_environment_makes_copies() -> None:
    def make() -> Any:
        return vector_wrappers.NormalizeReward(SyncVectorEnv([lambda: CountingEnv(7)] * 3))

    trained = make_envs(make, 1)
    assert (type(trained), trained.num_envs) == (VectorEnvs, 3)
    played(trained, 20)
    copies = Copies(make, 8, trained)
    assert copies.envs.num_envs == 3
    assert copies.copy_statistics() == ["NormalizeReward.return_rms"]
    assert not isinstance(copies.envs, SequentialEnvs)
    with pytest.raises(ConfigurationError, match="num_envs=2"):
        make_envs(make, 2)


def test_a_validation_sees_what_training_sees(small_ppo: Callable[..., optix.PPOAgent]) -> None:
    agent = small_ppo()
    training = optix.dataset_from_env(normalized, agent, window_size=20, seed=0)
    validation = optix.dataset_from_env(normalized, agent, window_size=20, seed=1, deterministic=True)
    next(iter(training))
    next(iter(validation))
    mine, theirs = (read_all(source.envs.members()) for source in agent.sources)
    for name, value in theirs.items():
        np.testing.assert_array_equal(mine[name], value)


def test_a_factory_of_a_vector_environment_can_be_evaluated(small_ppo: Callable[..., optix.PPOAgent]) -> None:
    metrics = optix.evaluate_policy(small_ppo(), lambda: SyncVectorEnv([lambda: CountingEnv(4)] * 3), episodes=5)
    assert (metrics.primary_score, metrics.episodes) == (10.0, 5)
