"""Collecting without an agent: parameters are handed in, and any process is a place to collect."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from step_counter import StepCounter, check_counts

import keras_optix as optix
from keras_optix.errors import StateError
from keras_optix.experience.policy_params import PolicyParams
from keras_optix.experience.window import CollectedWindow, Window

WINDOWS, N = 3, 4
OPTIONS: dict[str, Any] = {"window_size": 50, "seed": 7}

# A process in which nothing can import TensorFlow or Keras.
ELSEWHERE = """
import pickle, sys
sys.modules["tensorflow"] = sys.modules["keras"] = None
from keras_optix.experience.actor import LiteRTActor
from keras_optix.experience.env_runner import EnvRunner
from keras_optix.experience.making import make_envs
lowered, params, env, num_envs, windows, options = pickle.load(sys.stdin.buffer)
envs = make_envs(env, num_envs)
runner = EnvRunner(envs, LiteRTActor(lowered), **options)
state, collected = runner.initial_state(), []
for _ in range(windows):
    window, state = runner.collect(params, state)
    collected.append(window)
envs.close()
sys.stdout.buffer.write(pickle.dumps(collected))
"""


def collect_elsewhere(agent: optix.Agent, params: PolicyParams) -> list[CollectedWindow]:
    """What a process without TensorFlow collects."""
    sent = pickle.dumps((agent.lowered_policy(N), params, "CartPole-v1", N, WINDOWS, OPTIONS))
    done = subprocess.run([sys.executable, "-c", ELSEWHERE], input=sent, capture_output=True, check=True, timeout=120)
    return pickle.loads(done.stdout)  # type: ignore[no-any-return]


def same(one: Window, other: Window) -> bool:
    mine, theirs = ([*window[:-1], *window.carry] for window in (one, other))
    return all(np.array_equal(a, b, equal_nan=True) and a.dtype == b.dtype for a, b in zip(mine, theirs, strict=True))


def test_a_process_without_tensorflow_collects_the_same_windows(small_ppo: Callable[..., optix.PPOAgent]) -> None:
    agent = small_ppo(4)
    optix.dataset_from_env("CartPole-v1", agent, num_envs=N, **OPTIONS)
    params = agent.policy_params()
    here = [agent.sources[0].collect() for _ in range(WINDOWS)]
    there = collect_elsewhere(agent, params)
    for mine, theirs in zip(here, there, strict=True):
        assert same(mine.window, theirs.window)
        assert (mine.episodes, mine.env_steps) == (theirs.episodes, theirs.env_steps)
    assert len({one.window.actions.tobytes() for one in here}) == WINDOWS
    # A control: other parameters, another window.
    other = PolicyParams(params.version, tuple(array + np.float32(0.5) for array in params.arrays))
    assert not same(collect_elsewhere(agent, other)[0].window, here[0].window)


def test_a_policy_that_remembers_does_so_in_a_process_without_tensorflow() -> None:
    agent = StepCounter(seed=0)
    optix.dataset_from_env("CartPole-v1", agent, num_envs=N, **OPTIONS)
    here = [agent.sources[0].collect().window for _ in range(WINDOWS)]
    there = [collected.window for collected in collect_elsewhere(agent, agent.policy_params())]
    for mine, theirs in zip(here, there, strict=True):
        check_counts(theirs)
        assert same(mine, theirs)
    # Each window but the first one begins in the middle of episodes, and others begin in it.
    assert all((window.carry[0] > 0).any() and window.begins.any() for window in there[1:])


def test_only_the_source_of_a_window_knows_what_its_policy_was(small_ppo: Callable[..., optix.PPOAgent]) -> None:
    agent = small_ppo(4)
    optix.dataset_from_env("CartPole-v1", agent, num_envs=N, **OPTIONS)
    params = agent.policy_params()
    here, there = agent.sources[0].collect().policy, collect_elsewhere(agent, params)[0].policy
    assert here.version == there.version == params.version
    assert here.available
    assert here.state()
    assert not there.available
    with pytest.raises(StateError, match="only the version"):
        there.state()


def test_parameters_through_pickle_are_the_same(small_ppo: Callable[..., optix.PPOAgent]) -> None:
    agent = small_ppo(4)
    optix.dataset_from_env("CartPole-v1", agent)
    params = agent.policy_params()
    again: PolicyParams = pickle.loads(pickle.dumps(params))
    assert again.version == params.version
    assert again.fingerprint() == params.fingerprint() != 0
    for array, copied in zip(params.arrays, again.arrays, strict=True):
        np.testing.assert_array_equal(array, copied, strict=True)
