"""Nothing of a `fit` stays in memory once its agent, dataset and callback are deleted."""

from __future__ import annotations

import gc
import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import pytest
from tensorflow.python.framework.func_graph import FuncGraph

import keras_optix as optix
from keras_optix.testing import CountingFeed, IdentityEnv
from tests.threads import BegunThreads

MakeAgent = Callable[..., optix.PPOAgent]
PATIENCE = 20.0  # seconds until a thread that stays fails a test


class Parts:
    """Weak references to what a `fit` used."""

    def __init__(self) -> None:
        self._alive: list[tuple[str, Any]] = []

    def see(self, *parts: Any) -> None:
        self._alive += [(type(part).__name__, weakref.ref(part)) for part in parts]

    def env(self) -> IdentityEnv:
        made = IdentityEnv(4)
        self.see(made)
        return made

    @property
    def seen(self) -> int:
        return len(self._alive)

    def left(self) -> list[str]:
        return [name for name, alive in self._alive if alive() is not None]


def callback(directory: Path, **options: Any) -> optix.OptixCallback:
    return optix.OptixCallback(checkpoint_dir=directory, log_dir=directory, max_windows=4, verbose=0, **options)


def run(agent: optix.Agent, dataset: Any, loop: Any, parts: Parts) -> None:
    agent.fit(dataset, callbacks=[loop], verbose=0)
    parts.see(agent, agent.optimizer, dataset, loop, loop._loop, *agent.sources)


def plain(make: MakeAgent, directory: Path, parts: Parts) -> None:
    """With the default evaluator, which plays in copies of the environments."""
    agent = make(4, 4)
    dataset = optix.dataset_from_env(parts.env, agent, window_size=8, num_envs=2, seed=0)
    run(agent, dataset, callback(directory), parts)


def tuned(make: MakeAgent, directory: Path, parts: Parts) -> None:
    agent = make(4, 4)
    tuner = optix.BackoffOptimizer({"learning_rate": (1e-4, 1e-2)}, block=2)
    dataset = optix.dataset_from_env(parts.env, agent, window_size=8, num_envs=2, seed=0, prefetch=1)
    run(agent, dataset, callback(directory, evaluator=optix.ReturnEvaluator(2), tuner=tuner), parts)
    parts.see(tuner)


def ensemble(make: MakeAgent, directory: Path, parts: Parts) -> None:
    manager = optix.PolicyManager()
    members = [make(4, 4) for _ in range(2)]
    for member in members:
        manager.add_agent(member)
    agent = optix.EnsembleAgent(manager, members[0])
    agent.compile(jit_compile=False)
    dataset = optix.dataset_from_env(parts.env, agent, window_size=8, num_envs=2, seed=0)
    run(agent, dataset, callback(directory, policy_manager=manager), parts)
    parts.see(manager, *members)


def live(make: MakeAgent, directory: Path, parts: Parts) -> None:
    agent = make(2, 2)
    feed = CountingFeed(episode_length=5)
    dataset = optix.dataset_from_stream(feed, agent, boundary=optix.live.every_n_steps(8), window_size=8)
    run(agent, dataset, callback(directory), parts)
    parts.see(feed)


def graphs() -> set[int]:
    """The traced functions: each holds the whole graph of a step."""
    # That of `Dataset.counter` stays for ever, and is small.
    return {id(one) for one in gc.get_objects() if isinstance(one, FuncGraph) and one.name != "Dataset_scan_lambda"}


def collected() -> None:
    for _ in range(3):
        gc.collect()


@pytest.mark.parametrize("fit", [plain, tuned, ensemble, live])
def test_nothing_of_a_fit_stays(fit: Callable[..., None], small_ppo: MakeAgent, tmp_path: Path) -> None:
    collected()
    files, traced, running = len(os.listdir("/proc/self/fd")), graphs(), BegunThreads()
    parts = Parts()
    fit(small_ppo, tmp_path, parts)
    assert parts.seen >= 6
    collected()
    assert not running.wait(PATIENCE)
    collected()
    assert not parts.left()
    assert not graphs() - traced
    assert len(os.listdir("/proc/self/fd")) <= files


def test_the_control_a_step_of_keras_own_trainer_stays() -> None:
    """TensorFlow keeps the graph in which gradients are summed over replicas."""
    collected()
    traced = graphs()
    network = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)])
    network.compile(optimizer="sgd", loss="mse", jit_compile=False)
    network.fit(keras.ops.ones((4, 2)), keras.ops.ones((4, 1)), verbose=0)
    alive = weakref.ref(network)
    del network
    collected()
    assert alive() is None
    assert graphs() - traced


def test_the_optimizer_is_as_before_outside_of_the_step(small_ppo: MakeAgent) -> None:
    agent = small_ppo(4, 4)
    agent.compile(optimizer=keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(1e-3)), jit_compile=False)
    dataset = optix.dataset_from_env(lambda: IdentityEnv(4), agent, window_size=8, num_envs=2, seed=0)
    agent.fit(dataset, steps_per_epoch=1, verbose=0)
    for part in (agent.optimizer, agent.optimizer.inner_optimizer):
        assert "_all_reduce_sum_gradients" not in vars(part)
