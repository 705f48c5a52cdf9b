"""What a user may name environments by, and what is said when one cannot be made."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces, wrappers
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import vector as vector_wrappers

from keras_optix.errors import ConfigurationError, SpaceError
from keras_optix.experience.collector import Collector
from keras_optix.experience.envs import SequentialEnvs
from keras_optix.experience.making import env_fn_of, is_env_fn, make_envs
from keras_optix.experience.vector_envs import VectorEnvs
from keras_optix.testing import CountingEnv

MakeCollector = Callable[..., Collector]


def environments(envs: Any) -> list[gymnasium.Env]:
    assert isinstance(envs, SequentialEnvs)
    return envs._envs


# Ids and specs


def test_an_id_makes_as_many_environments_as_wanted() -> None:
    envs = make_envs("CartPole-v1", 3)
    made = environments(envs)
    assert envs.num_envs == len({id(env.unwrapped) for env in made}) == 3
    assert all(env.spec.id == "CartPole-v1" for env in made if env.spec)
    envs.close()


def test_the_arguments_of_an_id_reach_the_environment() -> None:
    envs = make_envs("FrozenLake-v1", 2, {"map_name": "8x8", "max_episode_steps": 7})
    assert envs.observation_space == spaces.Discrete(64)
    assert [env.spec.max_episode_steps for env in environments(envs) if env.spec] == [7, 7]


def test_a_spec_makes_environments() -> None:
    spec = gymnasium.spec("FrozenLake-v1")
    assert make_envs(spec, 2).observation_space == spaces.Discrete(16)
    assert make_envs(spec, 2, {"map_name": "8x8"}).observation_space == spaces.Discrete(64)
    spec = gymnasium.make("CartPole-v1", max_episode_steps=7).spec
    assert spec is not None
    (made,) = environments(make_envs(spec, 1))
    assert made.spec is not None
    assert made.spec.max_episode_steps == 7


def test_a_spec_that_is_not_registered_makes_environments() -> None:
    spec = gymnasium.envs.registration.EnvSpec("Counting-v0", CountingEnv, kwargs={"episode_length": 5})
    (made,) = environments(make_envs(spec, 1))
    assert made.unwrapped.episode_length == 5  # type: ignore[attr-defined]
    (made,) = environments(make_envs(spec, 1, {"episode_length": 6}))
    assert made.unwrapped.episode_length == 6  # type: ignore[attr-defined]


@pytest.mark.parametrize("env", [CountingEnv(), CountingEnv, SyncVectorEnv([CountingEnv])], ids=["env", "class", "vec"])
def test_arguments_without_an_id_are_refused(env: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"`env_kwargs` goes with the id.*env_kwargs=\{'actions': 3\}"):
        make_envs(env, 1, {"actions": 3})
    make_envs(env, 1, {}).close()


def test_arguments_that_the_environment_does_not_take_are_named() -> None:
    with pytest.raises(ConfigurationError, match=r"gravitas.*env='CartPole-v1'.*env_kwargs=\{'gravitas': 1\}"):
        make_envs("CartPole-v1", 1, {"gravitas": 1})


def test_what_an_environment_raises_when_it_is_made_is_not_covered_up() -> None:
    with pytest.raises(KeyError, match="9x9"):
        make_envs("FrozenLake-v1", 1, {"map_name": "9x9"})


@pytest.mark.parametrize(
    ("env_id", "package", "register"),
    [
        ("ALE/Pong-v5", "ale-py", r"register_envs\(ale_py\)"),
        # The module `minatar` registers nothing; `minatar.gym` has the function that does.
        ("MinAtar/Breakout-v1", "minatar", r"minatar\.gym"),
        ("MiniGrid-Empty-5x5-v0", "minigrid", r"register_envs\(minigrid\)"),
        ("BabyAI-GoToObj-v0", "minigrid", r"register_envs\(minigrid\)"),
        ("dm_control/cartpole-balance-v0", r"shimmy\[dm-control\]", r"register_envs\(shimmy\)"),
        ("highway-v0", "highway-env", r"register_envs\(highway_env\)"),
        ("FetchReach-v4", "gymnasium-robotics", r"register_envs\(gymnasium_robotics\)"),
    ],
)
def test_an_environment_of_a_package_that_is_missing_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, env_id: str, package: str, register: str
) -> None:
    monkeypatch.delitem(gymnasium.registry, env_id, raising=False)
    with pytest.raises(ConfigurationError, match=rf"not registered.*env='{env_id}'.*pip install \"{package}\"") as info:
        make_envs(env_id, 1)
    assert info.match(register)


@pytest.mark.parametrize(
    ("env_id", "match"),
    [
        ("CartPol-v1", "Did you mean: `CartPole`.*check the spelling"),
        ("CartPole-v9", "version `v9`.*`v1`"),
        ("NoSuchNamespace/Thing-v0", "NoSuchNamespace.*Import the package"),
        ("no_such_module:Thing-v0", "cannot be made.*no_such_module"),
        ("Cart Pole", "cannot be made.*Malformed"),
    ],
)
def test_an_id_that_is_misspelled_says_so(env_id: str, match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        make_envs(env_id, 1)


@pytest.mark.parametrize(
    ("env_id", "module", "extra"), [("LunarLander-v3", "Box2D", "box2d"), ("HalfCheetah-v5", "mujoco", "mujoco")]
)
def test_an_extra_that_is_missing_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, env_id: str, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigurationError, match=rf"cannot be made.*pip install.*gymnasium\[{extra}\].*{env_id}"):
        make_envs(env_id, 1)


# Factories


class Factory:
    """Makes the n-th of `envs` in its n-th call, or raises it."""

    def __init__(self, *envs: Any) -> None:
        self.envs = list(envs)

    def __call__(self) -> Any:
        env = self.envs.pop(0)
        if isinstance(env, Exception):
            raise env
        return env


def odd_env(**spaces_by_name: Any) -> CountingEnv:
    env = CountingEnv()
    for name, space in spaces_by_name.items():
        setattr(env, name, space)
    return env


@pytest.mark.parametrize(
    ("other", "match"),
    [
        (odd_env(observation_space=spaces.Box(-1, 1, (2,), np.float32)), "same spaces.*first=.*other="),
        (odd_env(action_space=spaces.Discrete(3)), r"same spaces.*first=.*Discrete\(2\).*other=.*Discrete\(3\)"),
    ],
    ids=["observations", "actions"],
)
def test_environments_with_different_spaces_are_refused_and_closed(other: CountingEnv, match: str) -> None:
    first = CountingEnv()
    with pytest.raises(SpaceError, match=match):
        make_envs(Factory(first, other), 2)
    assert first.closed
    assert other.closed


def test_environments_with_an_unsupported_space_are_closed() -> None:
    env = odd_env(observation_space=spaces.Text(3))
    with pytest.raises(SpaceError, match="Text"):
        make_envs(Factory(env), 1)
    assert env.closed


def test_what_a_factory_raises_surfaces_and_what_it_made_before_is_closed() -> None:
    first = CountingEnv()
    with pytest.raises(ZeroDivisionError, match="in the factory"):
        make_envs(Factory(first, ZeroDivisionError("in the factory")), 2)
    assert first.closed


@pytest.mark.parametrize("wrong", [7, None, SyncVectorEnv([CountingEnv])], ids=["number", "nothing", "vector"])
def test_a_factory_of_something_else_is_named_and_what_it_made_before_is_closed(wrong: Any) -> None:
    first = CountingEnv()
    with pytest.raises(ConfigurationError, match=rf"factory must return a gymnasium.Env.*{type(wrong).__name__}"):
        make_envs(Factory(first, wrong), 2)
    assert first.closed


# One more such environment


def test_what_makes_one_more_environment() -> None:
    assert is_env_fn("CartPole-v1")
    assert is_env_fn(gymnasium.spec("CartPole-v1"))
    assert is_env_fn(CountingEnv)
    assert not is_env_fn(CountingEnv())
    assert not is_env_fn(SyncVectorEnv([CountingEnv]))


@pytest.mark.parametrize(
    "env",
    [
        "CartPole-v1",
        gymnasium.spec("CartPole-v1"),
        partial(gymnasium.make, "CartPole-v1"),
        gymnasium.make("CartPole-v1"),
        gymnasium.make_vec("CartPole-v1", num_envs=2, vectorization_mode="sync"),
        gymnasium.make_vec("CartPole-v1", num_envs=2, vectorization_mode="vector_entry_point"),
    ],
    ids=["id", "spec", "factory", "env", "sync", "vector_entry_point"],
)
def test_a_env_fn_makes_one_environment(env: Any) -> None:
    env_fn = env_fn_of(env)
    assert env_fn is not None
    one, other = env_fn(), env_fn()
    assert one is not other
    assert isinstance(one, gymnasium.Env)
    assert one.spec is not None
    assert one.spec.id == "CartPole-v1"


def test_a_env_fn_has_the_arguments_and_the_wrappers() -> None:
    again = env_fn_of("FrozenLake-v1", {"map_name": "8x8"})
    assert again is not None
    assert again().observation_space == spaces.Discrete(64)
    again = env_fn_of(wrappers.RescaleObservation(gymnasium.make("MountainCar-v0", max_episode_steps=7), -1, 1))
    assert again is not None
    assert again().observation_space == spaces.Box(-1.0, 1.0, (2,), np.float32)
    assert again().spec.max_episode_steps == 7  # type: ignore[union-attr]


def test_a_env_fn_of_a_vector_has_the_arguments_and_the_wrappers_of_each() -> None:
    stacked = partial(wrappers.FrameStackObservation, stack_size=3)
    env = gymnasium.make_vec("FrozenLake-v1", 2, wrappers=[stacked], map_name="8x8", max_episode_steps=7)
    again = env_fn_of(env)
    assert again is not None
    assert again().observation_space == env.single_observation_space == spaces.MultiDiscrete([64] * 3)
    assert again().spec.max_episode_steps == 7  # type: ignore[union-attr]


class OwnWrapper(gymnasium.ObservationWrapper):
    def observation(self, observation: Any) -> Any:
        return observation


@pytest.mark.parametrize(
    "env",
    [
        CountingEnv(),
        SyncVectorEnv([CountingEnv]),
        # Gymnasium cannot make a wrapper again that does not record its arguments.
        OwnWrapper(gymnasium.make("CartPole-v1")),
        # One more environment would be without the wrappers of the vector.
        vector_wrappers.NormalizeObservation(gymnasium.make_vec("CartPole-v1", 2, vectorization_mode="sync")),
    ],
    ids=["env", "sync", "own wrapper", "vector wrapper"],
)
def test_what_nothing_can_make_again_has_no_env_fn(env: Any) -> None:
    assert env_fn_of(env) is None


# Gymnasium's wrappers


def test_a_time_limit_truncates_and_the_last_observation_is_kept(collector: MakeCollector) -> None:
    source = collector(lambda: wrappers.TimeLimit(CountingEnv(5), 3))
    collected = source.collect()
    w = collected.window
    np.testing.assert_array_equal(w.truncated[:, 0], [0, 0, 1, 0, 0, 1, 0, 0])
    assert not w.terminated.any()
    np.testing.assert_array_equal(w.observations[:, 0, 1], [0, 1, 2, 0, 1, 2, 0, 1])
    np.testing.assert_array_equal(w.next_observations[:, 0], [[k // 3, 1 + k % 3] for k in range(8)])
    assert [(e.total_reward, e.length) for e in collected.episodes] == [(6.0, 3)] * 2


def test_an_episode_that_ends_at_its_time_limit_is_terminated_too(collector: MakeCollector) -> None:
    w = collector(lambda: wrappers.TimeLimit(CountingEnv(3), 3)).collect().window
    for flags in (w.terminated, w.truncated):
        np.testing.assert_array_equal(flags[:, 0], [0, 0, 1, 0, 0, 1, 0, 0])


def test_stacked_frames(collector: MakeCollector) -> None:
    w = collector(lambda: wrappers.FrameStackObservation(CountingEnv(3, truncate=True), 2)).collect().window
    seen = [[0, 0], [0, 1], [1, 2], [0, 0], [0, 1], [1, 2], [0, 0], [0, 1]]
    followed = [[0, 1], [1, 2], [2, 3], [0, 1], [1, 2], [2, 3], [0, 1], [1, 2]]
    np.testing.assert_array_equal(w.observations[:, 0, :, 1], seen)
    np.testing.assert_array_equal(w.next_observations[:, 0, :, 1], followed)
    assert w.observations.shape == (8, 1, 2, 2)


def test_recorded_statistics_are_in_the_infos(collector: MakeCollector) -> None:
    collected = collector(lambda: wrappers.RecordEpisodeStatistics(CountingEnv(3)), 2).collect()
    ended = [[info["episode"]["r"] for info in row if "episode" in info] for row in collected.infos]
    assert ended == [[], [], [6.0, 6.0], [], [], [6.0, 6.0], [], []]


WRAPPED: dict[str, Callable[[], gymnasium.Env]] = {
    "time limit": lambda: wrappers.TimeLimit(CountingEnv(5), 3),
    "stacked frames": lambda: wrappers.FrameStackObservation(CountingEnv(3), 3, padding_type="zero"),
    "statistics": lambda: wrappers.RecordEpisodeStatistics(CountingEnv(3)),
    "normalized": lambda: wrappers.NormalizeObservation(CountingEnv(3)),
    "normalized rewards": lambda: wrappers.NormalizeReward(CountingEnv(3)),
    "other rewards": lambda: wrappers.TransformReward(CountingEnv(3), lambda reward: 2.0 * reward - 1.0),
    "delayed": lambda: wrappers.DelayObservation(CountingEnv(3), 2),
    "time aware": lambda: wrappers.TimeAwareObservation(wrappers.TimeLimit(CountingEnv(5), 3), flatten=False),
    "flat": lambda: wrappers.FlattenObservation(
        wrappers.TimeAwareObservation(wrappers.TimeLimit(CountingEnv(5), 3), flatten=False)
    ),
    "several": lambda: wrappers.NormalizeObservation(
        wrappers.FrameStackObservation(wrappers.TimeLimit(wrappers.RecordEpisodeStatistics(CountingEnv(5)), 3), 2)
    ),
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_wrappers_compose(collector: MakeCollector, kind: str) -> None:
    """A window has what a plain loop over the same environment sees."""
    w = collector(WRAPPED[kind], seed=0).collect().window
    env = WRAPPED[kind]()
    observation, _ = env.reset(seed=0)
    flat = partial(spaces.flatten, env.observation_space)

    def row(observations: Any, t: int) -> np.ndarray:
        if isinstance(observations, dict):
            return flat({name: array[t, 0] for name, array in observations.items()})
        return flat(observations[t, 0])

    for t in range(8):
        np.testing.assert_allclose(row(w.observations, t), flat(observation), rtol=1e-6)
        observation, reward, terminated, truncated, _ = env.step(w.actions[t, 0])
        np.testing.assert_allclose(row(w.next_observations, t), flat(observation), rtol=1e-6)
        np.testing.assert_allclose(w.rewards[t, 0], reward, rtol=1e-6)
        assert (w.terminated[t, 0], w.truncated[t, 0]) == (terminated, truncated)
        if terminated or truncated:
            observation, _ = env.reset()


# Vector environments that are more than a plain SyncVectorEnv


def counting_vector(kind: type[SyncVectorEnv] = SyncVectorEnv) -> SyncVectorEnv:
    return kind([CountingEnv] * 2, autoreset_mode=AutoresetMode.SAME_STEP)


class DoubledRewards(SyncVectorEnv):
    def step(self, actions: Any) -> Any:
        observations, rewards, *rest = super().step(actions)
        return observations, 2.0 * rewards, *rest


@pytest.mark.parametrize(
    ("env", "factor"),
    [
        (counting_vector(DoubledRewards), 2.0),
        (vector_wrappers.TransformReward(counting_vector(), lambda rewards: 3.0 * rewards), 3.0),
        (vector_wrappers.RecordEpisodeStatistics(counting_vector()), 1.0),
    ],
    ids=["subclass", "wrapped", "statistics"],
)
def test_a_vector_environment_that_does_more_is_stepped_as_it_is(
    collector: MakeCollector, env: Any, factor: float
) -> None:
    source = collector(env, 2, unpacked=True)
    assert isinstance(source.envs, VectorEnvs)
    collected = source.collect()
    w = collected.window
    for i in range(2):
        np.testing.assert_array_equal(w.rewards[:, i], factor * np.array([1, 2, 3, 1, 2, 3, 1, 2]))
        np.testing.assert_array_equal(w.next_observations[:, i, 1], [1, 2, 3, 1, 2, 3, 1, 2])
    assert w.valid.all()
    assert [(e.total_reward, e.length) for e in collected.episodes] == [(6.0 * factor, 3)] * 4


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_vector_resets_as_it_does_itself_whatever_another_one_noted(collector: MakeCollector, wrapped: bool) -> None:
    """Gymnasium 1.1 keeps the mode in metadata that all environments of a class share."""
    env: Any = counting_vector()
    env.metadata["autoreset_mode"] = AutoresetMode.NEXT_STEP  # as the next vector does there
    if wrapped:
        env = vector_wrappers.TransformReward(env, lambda rewards: 1.0 * rewards)
    w = collector(env, 2, unpacked=True).collect().window
    for i in range(2):
        np.testing.assert_array_equal(w.rewards[:, i], [1, 2, 3, 1, 2, 3, 1, 2])
    assert w.valid.all()


def test_recorded_statistics_of_a_vector_are_in_the_infos(collector: MakeCollector) -> None:
    env = vector_wrappers.RecordEpisodeStatistics(SyncVectorEnv([CountingEnv] * 2))
    collected = collector(env, 2, unpacked=True).collect()
    assert [t for t, info in enumerate(collected.infos) if "episode" in info] == [2, 6]
    np.testing.assert_array_equal(collected.infos[2]["episode"]["r"], [6.0, 6.0])
    np.testing.assert_array_equal(collected.window.valid[:, 0], [1, 1, 1, 0, 1, 1, 1, 0])


@pytest.mark.parametrize("num_envs", [1, 2])
def test_a_vector_environment_knows_how_many_it_is(num_envs: int) -> None:
    assert make_envs(counting_vector(), num_envs).num_envs == 2
    assert make_envs(counting_vector(DoubledRewards), num_envs).num_envs == 2
    with pytest.raises(ConfigurationError, match=r"num_envs=3.*vector_env_num_envs=2"):
        make_envs(counting_vector(), 3)
