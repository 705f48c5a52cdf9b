"""One compiled step for each kind of window: `fit` after `fit` with other sizes, environments, boundaries and feeds."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_optix as optix
from keras_optix.testing import CountingEnv, CountingFeed

MakeAgent = Callable[..., optix.PPOAgent]


class LikeTheFeed(CountingEnv):
    """A simulation of `CountingFeed`."""

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = CountingFeed().observation_space


def small(outputs: int) -> Any:
    return keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(4), keras.layers.Dense(outputs)])


class Mean(optix.Agent):
    """An algorithm of one's own that counts on the size of its windows."""

    def train_step(self, window: optix.Window) -> dict[str, Any]:
        steps, n = (int(k) for k in window.rewards.shape)

        def compute() -> tuple[Any, dict[str, Any]]:
            logits = self(tf.reshape(window.observations, (steps * n, 2)), training=True)
            return tf.reduce_mean(logits**2), {"rows": tf.constant(float(steps * n))}

        return self.minimize(compute)


def ensemble() -> optix.Agent:
    members = [optix.ReinforceAgent(small(2), small(1)) for _ in range(2)]
    manager = optix.PolicyManager()
    for member in members:
        member.compile("sgd", jit_compile=False)
        manager.add_agent(member)
    return optix.EnsembleAgent(manager, members[0], learn="all", credit="turns", solo_windows=1)


AGENTS: dict[str, Callable[[], optix.Agent]] = {
    "ppo": lambda: optix.PPOAgent(small(2), small(1), update_epochs=1, minibatch_size=16),
    "reinforce": lambda: optix.ReinforceAgent(small(2), small(1), normalize_rewards=True),
    "own": lambda: Mean(small(2)),
    "ensemble": ensemble,
}


def counted(agent: optix.Agent, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The shapes of windows that the agent's step was traced with."""
    seen: list[tuple[Any, ...]] = []
    original = agent.train_step

    def spy(window: optix.Window) -> dict[str, Any]:
        seen.append(tuple(window.rewards.shape))
        return original(window)

    monkeypatch.setitem(agent.__dict__, "train_step", spy)
    return seen


@pytest.mark.parametrize("name", AGENTS)
def test_another_fit_may_have_windows_of_another_kind(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind is traced once, whatever comes between; a new dataset of a known kind is not traced again."""
    agent = AGENTS[name]()
    if name == "ensemble":
        agent.compile(jit_compile=False)
    else:
        agent.compile("sgd", jit_compile=False)
    seen = counted(agent, monkeypatch)
    for size, envs in ((8, 2), (12, 2), (8, 3), (12, 2), (8, 2)):
        dataset = optix.dataset_from_env(CountingEnv, agent, window_size=size, num_envs=envs, seed=0)
        agent.fit(dataset, steps_per_epoch=2, verbose=0)
    assert seen == [(8, 2), (12, 2), (8, 3)]
    agent.evaluate(optix.dataset_from_env(CountingEnv, agent, window_size=5, deterministic=True), steps=1, verbose=0)


def test_simulate_then_live_then_simulate(small_ppo: MakeAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    """From an environment to a feed of other windows, to another boundary, and back; warmed up for each kind."""
    agent = small_ppo()
    seen = counted(agent, monkeypatch)
    versions = [agent.policy_version]

    def simulate(size: int) -> None:
        dataset = optix.dataset_from_env(LikeTheFeed, agent, window_size=size, num_envs=2, seed=0)
        agent.fit(dataset, steps_per_epoch=2, verbose=0)
        versions.append(agent.policy_version)

    def live(boundary: Any, **options: Any) -> None:
        dataset = optix.dataset_from_stream(CountingFeed(), agent, boundary=boundary, **options)
        agent.fit(dataset, steps_per_epoch=2, verbose=0)
        versions.append(agent.policy_version)

    simulate(8)
    live(optix.live.every_n_steps(8))
    live(optix.live.every_n_steps(6))
    live(optix.live.on_done(), window_size=6)  # the same windows: the boundary is none of the learner's business
    simulate(8)
    live(optix.live.every_n_steps(8))
    assert seen == [(8, 2), (8, 1), (6, 1)]
    assert all(later > earlier for earlier, later in itertools.pairwise(versions))


def test_the_compiled_step_is_what_it_was_before_another_kind_came(small_ppo: MakeAgent) -> None:
    """A fit of another kind in between changes nothing of how a window of the first kind is learned from."""
    moves = []
    for between in (False, True):
        agent = small_ppo()
        dataset = optix.dataset_from_env(CountingEnv, agent, window_size=8, seed=0)
        agent.fit(dataset, steps_per_epoch=1, verbose=0)
        state = agent.get_state()
        if between:
            other = optix.dataset_from_env(CountingEnv, agent, window_size=5, seed=1)
            agent.fit(other, steps_per_epoch=1, verbose=0)
        agent.set_state({name: np.ones_like(array) * 0.1 for name, array in state.items()})
        agent.fit(dataset, steps_per_epoch=1, verbose=0)
        moves.append(agent.get_weights())
    for a, b in zip(*moves, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("make", [optix.PPOAgent, optix.ReinforceAgent])
def test_a_dataset_that_hides_the_size_of_its_windows_is_refused(make: Any) -> None:
    agent = make(small(2), small(1))
    agent.compile("sgd", jit_compile=False)
    dataset = optix.dataset_from_env(CountingEnv, agent, window_size=8, seed=0)

    def forget(window: optix.Window) -> optix.Window:
        rewards = tf.py_function(lambda values: values, [window.rewards], tf.float32)
        return window._replace(rewards=tf.ensure_shape(rewards, (None, 1)))

    hidden = dataset.map(forget)
    with pytest.raises(optix.ConfigurationError, match=r"one size, known beforehand.*shape=\(None, 1\)"):
        agent.fit(hidden, steps_per_epoch=1, verbose=0)
