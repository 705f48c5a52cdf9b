"""Held-out environments: what fits, what is refused, what is closed, and what is recorded of an episode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces, wrappers
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorWrapper

from keras_optix.errors import ArgumentError, ConfigurationError, SpaceError
from keras_optix.experience.collector import Collector
from keras_optix.experience.held_out import HeldOutEnvs, check_held_out, held_out_names
from keras_optix.experience.policy_params import PolicyParams
from keras_optix.testing import CountingEnv
from tests.experience.conftest import FixedActor

SPACES = (CountingEnv().observation_space, CountingEnv().action_space)
PARAMS = PolicyParams(3, (np.zeros(1, np.float32),))
MakeCollector = Callable[..., Collector]


class Told(CountingEnv):
    """Says in each info how many steps its episode has taken, and from some step on another key."""

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, _ = super().step(action)
        info = {"step": self._step, "deep": {"step": self._step}}
        return observation, reward, terminated, truncated, info | ({"late": True} if self._step > 3 else {})


def held_out(collector: MakeCollector, given: Any, *, episodes: int = 4, env: Any = CountingEnv, **options: Any) -> Any:
    settings = {"spaces": SPACES, "make_actor": lambda n: FixedActor(), "records": "steps"} | options
    return HeldOutEnvs(check_held_out(given), [collector(env, 1)], episodes=episodes, **settings)


def play(envs: HeldOutEnvs, episodes: int = 4, seed: int = 7) -> Any:
    envs.open()
    return envs.play(PARAMS, episodes, seed=seed, deterministic=False, needed_by="")


# What is refused


class Wide(CountingEnv):
    def __init__(self) -> None:
        super().__init__()
        self.observation_space = spaces.Box(-1.0, np.inf, (3,), np.float32)


def broken() -> Any:
    raise OSError("no such market")


def many_actions() -> Any:
    return CountingEnv(actions=3)


ONE = CountingEnv()


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        (Wide, SpaceError, r"`eval_env` has other spaces than the agent.*\(3,\).*training=.*\(2,\)"),
        (many_actions, SpaceError, r"`eval_env` has other spaces.*Discrete\(3\)"),
        ({"a": CountingEnv, "wide": Wide}, SpaceError, r"`eval_env\['wide'\]` has other spaces"),
        (broken, ConfigurationError, r"`eval_env` cannot be made \(OSError: no such market\)"),
        ({"a": CountingEnv, "b": broken}, ConfigurationError, r"`eval_env\['b'\]` cannot be made"),
        ("CartPole-v99", ConfigurationError, r"`eval_env` cannot be made\. The environment is not registered"),
        (lambda: ONE, ConfigurationError, r"`eval_env` cannot be made\. Each call of a factory must make a new"),
        ({"a": ONE, "b": wrappers.TimeLimit(ONE, 9)}, ConfigurationError, r"`eval_env\['b'\]` is the same environment"),
        ({"a": ONE, "b": ONE}, ConfigurationError, r"`eval_env` has the same environment under two names"),
        ({}, ConfigurationError, r"must name at least one environment"),
        ({"": CountingEnv}, ConfigurationError, r"no name may be empty"),
        ({1: CountingEnv}, ArgumentError, r"a key of `eval_env` must be a string"),
        ({"a": 5}, ArgumentError, r"`eval_env\['a'\]` must be a Gymnasium id"),
        ([CountingEnv], ArgumentError, r"`eval_env` must be a Gymnasium id"),
        (lambda seed: CountingEnv(), ArgumentError, r"`eval_env` must be a factory that needs no arguments"),
    ],
)
def test_what_does_not_do(collector: MakeCollector, given: Any, kind: Any, words: str) -> None:
    with pytest.raises(kind, match=words):
        held_out(collector, given).open()


def test_the_training_environment_is_not_held_out(collector: MakeCollector) -> None:
    words = r"`eval_env` is an environment that the agent is trained on, so it is not held out"
    env = CountingEnv()
    for same in (env, wrappers.TimeLimit(env, 100)):
        with pytest.raises(ConfigurationError, match=words):
            held_out(collector, same, env=env).open()
    vector = SyncVectorEnv([CountingEnv, CountingEnv])
    with pytest.raises(ConfigurationError, match=words):
        held_out(collector, vector.envs[1], env=wrappers.TimeLimit(vector.envs[1], 9)).open()
    held_out(collector, CountingEnv(), env=env).open()  # a control: another one


def test_only_the_bounds_of_observations_may_differ(collector: MakeCollector) -> None:
    def wider() -> Any:
        env = CountingEnv()
        env.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        return env

    assert len(play(held_out(collector, wider))) == 4


# What is closed


def test_what_was_made_is_closed_and_what_was_passed_in_stays_open(collector: MakeCollector) -> None:
    mine, inner, made = CountingEnv(), [CountingEnv(), CountingEnv()], list[Any]()
    vector = SyncVectorEnv([lambda: inner[0], lambda: inner[1]])

    def make() -> Any:
        made.append(CountingEnv())
        return made[-1]

    envs = held_out(collector, {"mine": mine, "vector": vector, "made": make})
    play(envs)
    envs.close()
    assert mine.steps > 0
    assert all(env.steps > 0 for env in (*inner, *made))
    assert not mine.closed
    assert not any(env.closed for env in inner)
    assert not vector.closed
    assert made
    assert all(env.closed for env in made)


# What is played


def test_each_of_several_environments_plays_as_often_with_seeds_of_its_own(collector: MakeCollector) -> None:
    class Seeded(CountingEnv):
        seeds: list[int] = []  # noqa: RUF012

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            if seed is not None:
                Seeded.seeds.append(seed)
            return super().reset(seed=seed, options=options)

    Seeded.seeds.clear()
    envs = held_out(collector, {"a": Seeded, "b": Seeded, "c": Seeded}, episodes=5)
    episodes = play(envs, 5)
    assert [episode.env_name for episode in episodes] == ["a", "a", "b", "b", "c", "c"]
    assert sorted(Seeded.seeds) == [7, 8, 9, 10, 11, 12]
    assert envs.env_steps == 18
    assert envs.num_envs == 6
    assert held_out_names({"a": 1, "b": 2}) == ("a", "b")
    assert held_out_names("CartPole-v1") == ()


@pytest.mark.parametrize("mode", [None, *AutoresetMode])
def test_all_kinds_of_environments_record_the_same(collector: MakeCollector, mode: AutoresetMode | None) -> None:
    lengths = (3, 5)
    if mode is None:
        waiting = iter(lengths)
        given: Any = lambda: Told(next(waiting))  # noqa: E731
    else:
        # The wrapper hides that its environments could be stepped one by one.
        makers = [lambda length=length: Told(length) for length in lengths]
        given = VectorWrapper(SyncVectorEnv(makers, autoreset_mode=mode))
    episodes = play(held_out(collector, given, episodes=2), 4 if mode else 2)
    assert [episode.length for episode in episodes] == ([3, 3, 5, 5] if mode else [3, 5])
    for episode in episodes:
        n = episode.length
        assert episode.info["step"] == episode.info["deep"]["step"] == n
        assert ("late" in episode.info) is (n > 3)
        assert [info["step"] for info in episode.steps.infos] == list(range(1, n + 1))
        np.testing.assert_array_equal(episode.steps.observations[:, 1], np.arange(n))
        np.testing.assert_array_equal(episode.steps.rewards, np.arange(1, n + 1))
        assert episode.steps.terminated
        assert not episode.steps.truncated
        assert episode.total_reward == n * (n + 1) / 2
        assert episode.first_version == episode.last_version == 3


def test_only_the_last_info_is_kept_unless_all_steps_are_needed(collector: MakeCollector) -> None:
    (episode, _) = play(held_out(collector, Told, records="info"), 2)
    assert episode.steps is None
    assert episode.info["step"] == 3


# Statistics


def test_statistics_on_one_side_only_are_told(collector: MakeCollector) -> None:
    def normalized() -> Any:
        return wrappers.NormalizeObservation(CountingEnv())

    def told(trained: Any, other: Any) -> list[str]:
        envs = held_out(collector, other, env=trained)
        play(envs)
        envs.play(PARAMS, 2, seed=1, deterministic=True, needed_by="")
        return envs.take_notices()

    (lacks,) = told(normalized, CountingEnv)
    assert "`eval_env` lacks NormalizeObservation.obs_rms of the training environments" in lacks
    (has,) = told(CountingEnv, normalized)
    assert "`eval_env` has NormalizeObservation.obs_rms, which the training environments lack" in has
    (both,) = told(normalized, normalized)
    assert "held-out evaluations use NormalizeObservation.obs_rms of the training environments" in both
    assert told(CountingEnv, CountingEnv) == []
    assert told(lambda: wrappers.NormalizeReward(CountingEnv()), CountingEnv) == []  # returns are those beneath it


def test_the_threshold_is_the_mean_if_all_have_one(collector: MakeCollector) -> None:
    def solved_at(threshold: float | None) -> Any:
        def make() -> Any:
            env = CountingEnv()
            env.spec = gymnasium.envs.registration.EnvSpec("Counting-v0", reward_threshold=threshold)
            return env

        return make

    def threshold(given: Any) -> Any:
        envs = held_out(collector, given)
        envs.open()
        return envs.reward_threshold

    assert threshold(solved_at(3.0)) == 3.0
    assert threshold({"a": solved_at(3.0), "b": solved_at(5.0)}) == 4.0
    assert threshold({"a": solved_at(3.0), "b": solved_at(None)}) is None
