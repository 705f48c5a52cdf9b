"""Whoever resets or steps an environment between two windows cuts the episode that is running there."""

from __future__ import annotations

import copy
import gc
import pickle
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import wrappers
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import keras_optix as optix
from keras_optix.experience.collector import Collector
from keras_optix.experience.envs import SequentialEnvs
from keras_optix.experience.evaluation import EpisodePlayer
from keras_optix.experience.making import make_envs
from keras_optix.testing import CountingEnv

MakeCollector = Callable[..., Collector]
OTHERS = "reset or stepped by other code"


def steps_seen(source: Collector, env: int = 0) -> list[float]:
    """The step counts that `CountingEnv` showed in a window."""
    return np.asarray(source.collect().window.observations)[:, env, 1].tolist()


def wrapped(env: gymnasium.Env) -> gymnasium.Env:
    return wrappers.TimeLimit(wrappers.RecordEpisodeStatistics(env), 100)


def use_reset(env: Any) -> None:
    env.reset(seed=3)


def use_step(env: Any) -> None:
    env.step(env.action_space.sample())


def use_inside(env: Any) -> None:
    env.unwrapped.reset()


@pytest.mark.parametrize("wrap", [lambda env: env, wrapped], ids=["bare", "wrapped"])
@pytest.mark.parametrize("use", [use_reset, use_step, use_inside])
def test_a_new_episode_begins_where_somebody_else_was(collector: MakeCollector, wrap: Any, use: Any) -> None:
    env = wrap(CountingEnv(20))
    source = collector(env, window_size=6)
    assert steps_seen(source) == [0, 1, 2, 3, 4, 5]
    assert steps_seen(source) == [6, 7, 8, 9, 10, 11]
    use(env)
    with pytest.warns(UserWarning, match=OTHERS):
        assert steps_seen(source) == [0, 1, 2, 3, 4, 5]
    use(env)  # said once
    assert steps_seen(source) == [0, 1, 2, 3, 4, 5]
    assert steps_seen(source) == [6, 7, 8, 9, 10, 11]


def test_what_was_cut_counts_nowhere(collector: MakeCollector) -> None:
    env = CountingEnv(8)
    source = collector(env, window_size=6)
    source.collect()
    env.reset()
    with pytest.warns(UserWarning, match=OTHERS):
        source.collect()
    episodes = source.collect().episodes
    assert [(e.total_reward, e.length, e.first_version) for e in episodes] == [(36.0, 8, 1)]


def test_only_the_environment_that_was_used_begins_anew(collector: MakeCollector) -> None:
    envs = [CountingEnv(20), CountingEnv(20)]
    made = iter(envs)
    source = collector(lambda: next(made), 2, window_size=6)
    source.collect()
    envs[1].step(0)
    with pytest.warns(UserWarning, match=OTHERS):
        window = source.collect().window
    np.testing.assert_array_equal(window.observations[:, :, 1].T, [range(6, 12), range(6)])


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("unpacked", [False, True])
def test_a_vector_environment_begins_anew(collector: MakeCollector, mode: AutoresetMode, unpacked: bool) -> None:
    env = SyncVectorEnv([lambda: CountingEnv(20)] * 2, autoreset_mode=mode)
    source = collector(env, 2, window_size=6, unpacked=unpacked)
    source.collect()
    env.reset()
    with pytest.warns(UserWarning, match=OTHERS):
        assert steps_seen(source, 1) == [0, 1, 2, 3, 4, 5]
    assert steps_seen(source, 1) == [6, 7, 8, 9, 10, 11]


def test_an_evaluation_and_a_second_dataset_are_noticed_beneath_any_wrapper(
    collector: MakeCollector, trainer: Any
) -> None:
    base = CountingEnv(20)
    first = collector(wrapped(base), window_size=6)
    second = collector(wrappers.RecordEpisodeStatistics(base), window_size=6)
    first.collect()
    second.collect()
    with pytest.warns(UserWarning, match=OTHERS):
        assert steps_seen(first)[0] == 0
    with pytest.warns(UserWarning, match=OTHERS):
        assert steps_seen(second)[0] == 0
    envs = SequentialEnvs([base])
    EpisodePlayer(envs, trainer.make_actor(1)).play(trainer.policy_params(), 1, seed=0, deterministic=True)
    assert steps_seen(second)[0] == 0
    assert steps_seen(second)[0] == 6


def test_a_watched_environment_beneath_a_wrapper_does_not_disturb_it(collector: MakeCollector) -> None:
    """Two datasets over one environment, of which one is not used: its listening must not look like use."""
    base = CountingEnv(100)
    collector(base, window_size=6)
    source = collector(wrapped(base), window_size=6)
    assert [step for _ in range(3) for step in steps_seen(source)] == list(range(18))


def test_evaluate_on_the_training_environment(small_ppo: Callable[..., optix.PPOAgent]) -> None:
    env = CountingEnv(20)
    agent = small_ppo()
    dataset = optix.dataset_from_env(env, agent, window_size=6, seed=0)
    next(iter(dataset))
    optix.evaluate_policy(agent, env, episodes=2, seed=1)
    with pytest.warns(UserWarning, match=OTHERS):
        window = next(iter(dataset))
    np.testing.assert_array_equal(window.observations.numpy()[:, 0, 1], range(6))


def test_nobody_else_no_new_episode(collector: MakeCollector) -> None:
    env = wrapped(CountingEnv(100))
    source = collector(env, window_size=6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        seen = [step for _ in range(4) for step in steps_seen(source)]
    assert seen == list(range(24))
    assert source.drain_notices() == []


def test_a_window_collected_ahead_keeps_its_episode(collector: MakeCollector) -> None:
    env = CountingEnv(100)
    source = collector(env, window_size=6, prefetch=1)
    source.keep_delivered(True)  # as the loop does, which is told then
    source.collect()
    source.drain()
    env.reset()
    assert steps_seen(source) == [6, 7, 8, 9, 10, 11]  # from before
    source.drain()
    assert any(OTHERS in notice for notice in source.drain_notices())
    assert steps_seen(source)[0] == 0


def test_the_environment_is_as_it_was_when_the_collector_is_gone(collector: MakeCollector) -> None:
    env = wrapped(CountingEnv())
    before = dict(vars(env)), dict(vars(env.unwrapped))
    source = collector(env)
    assert "step" in vars(env)
    assert "reset" in vars(env.unwrapped)
    assert "step" not in vars(env.unwrapped)  # ours would be slower
    source.envs.release()
    assert (set(vars(env)), set(vars(env.unwrapped))) == tuple(map(set, before))
    own = CountingEnv()
    mine = own.step = lambda action: CountingEnv.step(own, action)  # type: ignore[method-assign]
    source = collector(own)
    assert own.step is not mine
    source.envs.release()
    assert own.step is mine


def test_what_is_known_of_an_environment_does_not_keep_it_alive(trainer: Any) -> None:
    source = Collector(make_envs(CountingEnv, 1), trainer, window_size=4)
    (env,) = source.envs.members()
    alive = weakref.ref(env)
    source.collect()
    del env, source
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_a_copy_of_a_watched_environment_has_methods_of_its_own(collector: MakeCollector, copied: Any) -> None:
    """Who plans ahead steps deep copies; these must not step the environment that is trained on."""
    env = CountingEnv(20)
    source = collector(env, window_size=6)
    source.collect()
    other = copied(env)
    assert (other.steps, env.steps) == (6, 6)
    other.step(0)
    assert (other.steps, env.steps) == (7, 6)
    assert steps_seen(source) == [6, 7, 8, 9, 10, 11]  # a copy is nobody's business


def test_a_run_that_is_saved_after_somebody_else_begins_new_episodes(collector: MakeCollector) -> None:
    env = CountingEnv(20)
    source = collector(env, window_size=6)
    source.collect()
    env.step(0)
    _, values = source.save()
    assert values["environments"] is None
