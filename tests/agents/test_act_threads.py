"""`act` from several threads: each call gets the action of its own observation, under one version of the weights."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import keras
import numpy as np
import pytest
from gymnasium import spaces
from step_counter import bound_counter

import keras_optix as optix
from keras_optix.agents.acting import ActActors
from keras_optix.experience.actor import LiteRTActor
from keras_optix.experience.stderr import STDERR
from keras_optix.testing import CountingEnv

MakeAgent = Callable[..., optix.PPOAgent]

ACTIONS, THREADS, CALLS = 8, 8, 60
BOX = spaces.Box(-1.0, 1.0, (ACTIONS,), np.float32)


class Reversed(keras.layers.Layer):
    """An operation that has no LiteRT kernel, so that the agent acts through a compiled function."""

    def call(self, inputs: Any) -> Any:
        return keras.ops.real(keras.ops.fft2((inputs[..., None, None], 0.0 * inputs[..., None, None]))[0])[..., 0, 0]


def largest(*layers: Any) -> optix.PPOAgent:
    """Chooses the action whose observation is the largest: any other one is improbable by a factor of e^1000."""
    scale = keras.layers.Dense(ACTIONS, use_bias=False, kernel_initializer=keras.initializers.Identity(1000.0))
    agent = optix.PPOAgent(keras.Sequential([keras.layers.Input((ACTIONS,)), *layers, scale]), seed=0)
    agent.bind(BOX, spaces.Discrete(ACTIONS))
    return agent


def in_threads(work: Callable[[int], int], threads: int = THREADS) -> list[int]:
    """What `work` returns in each thread; all begin at once."""
    start = threading.Barrier(threads)

    def one(k: int) -> int:
        start.wait()
        return work(k)

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(one, range(threads)))


def wrong_actions(agent: optix.PPOAgent, k: int, *, batch: int = 0, calls: int = CALLS) -> int:
    """The number of actions of thread k that are not those of its observations."""
    rng = np.random.default_rng(k)
    wrong = 0
    for call in range(calls):
        observations = rng.permuted(np.tile(np.linspace(-1, 1, ACTIONS, dtype=np.float32), (batch or 1, 1)), axis=1)
        chosen = agent.act(observations if batch else observations[0], deterministic=call % 2 == 0)
        wrong += int(np.sum(np.atleast_1d(chosen) != observations.argmax(-1)))
    return wrong


@pytest.mark.parametrize("batch", [0, 3])
def test_each_thread_gets_the_actions_of_its_own_observations(batch: int) -> None:
    agent = largest()
    assert in_threads(lambda k: wrong_actions(agent, k, batch=batch)) == [0] * THREADS


def test_threads_share_the_compiled_function_of_a_policy_that_cannot_be_lowered(
    recwarn: pytest.WarningsRecorder,
) -> None:
    agent = largest(Reversed())
    assert in_threads(lambda k: wrong_actions(agent, k, calls=10)) == [0] * THREADS
    assert len([one for one in recwarn if "falls back" in str(one.message)]) == 1


def test_an_ensemble_acts_from_several_threads(tmp_path: Any) -> None:
    manager = optix.PolicyManager(optix.CheckpointRegistry(tmp_path))
    members = [largest() for _ in range(3)]
    for member in members:
        member.compile(optimizer="sgd")
        manager.add_agent(member)
    ensemble = optix.EnsembleAgent(manager, primary_agent=members[0])
    ensemble.bind(BOX, spaces.Discrete(ACTIONS))
    assert in_threads(lambda k: wrong_actions(ensemble, k, calls=30)) == [0] * THREADS


def test_each_thread_keeps_its_own_carry() -> None:
    agent = bound_counter(BOX, spaces.Discrete(2))

    def steps(k: int) -> int:
        carry, wrong = agent.initial_carry(), 0
        for step in range(CALLS):
            _, carry = agent.act(np.zeros(ACTIONS, np.float32), carry=carry)
            wrong += int(carry[0][0] != step + 1)
        return wrong

    assert in_threads(steps) == [0] * THREADS


def test_one_thread_uses_one_actor_and_a_failed_call_loses_it() -> None:
    agent = largest()
    made: list[Any] = []
    lowered = agent.lowered_policy(1)

    class Counting(LiteRTActor):
        def __init__(self, *_: Any) -> None:
            super().__init__(lowered)
            made.append(self)

        def another(self) -> LiteRTActor:
            return Counting()

    actors = agent._act_actors = ActActors()
    agent.make_actor = lambda size: Counting()
    observation = np.zeros(ACTIONS, np.float32)
    for _ in range(5):
        agent.act(observation)
    assert len(made) == 1
    made[0].act = None  # the call fails in the middle
    with pytest.raises(TypeError):
        agent.act(observation)
    agent.act(observation)
    assert len(made) == 2
    assert actors.take(agent, 1) is made[1]


def test_weights_that_change_between_calls_are_those_of_the_next_call() -> None:
    agent = largest()
    observation = np.linspace(-1, 1, ACTIONS, dtype=np.float32)
    assert in_threads(lambda k: int(agent.act(observation))) == [ACTIONS - 1] * THREADS
    agent.set_weights([-weight for weight in agent.get_weights()])
    assert in_threads(lambda k: int(agent.act(observation))) == [0] * THREADS


class Gate(CountingEnv):
    """Waits in its steps."""

    inside, go_on = threading.Event(), threading.Event()

    def step(self, action: Any) -> Any:
        Gate.inside.set()
        assert Gate.go_on.wait(60)
        return super().step(action)


def test_while_fit_changes_weights_other_threads_get_one_version_as_a_whole(small_ppo: MakeAgent) -> None:
    agent = small_ppo()
    dataset = optix.dataset_from_env(Gate, agent, window_size=2, seed=0)
    before = agent.policy_params()
    fit = threading.Thread(target=lambda: agent.fit(dataset, steps_per_epoch=1, verbose=0))
    fit.start()
    assert Gate.inside.wait(60)
    kernel = agent.policy.weights[0]
    kernel.assign(kernel + 1.0)  # half of an update
    there = agent.policy_params()
    Gate.go_on.set()
    fit.join()
    assert there.version == before.version
    for mine, first in zip(there.arrays, before.arrays, strict=True):
        np.testing.assert_array_equal(mine, first)
    after = agent.policy_params()
    assert after.version > before.version
    assert np.abs(after.arrays[0] - before.arrays[0]).max() > 0.5


def test_threads_that_silence_stderr_at_the_same_time_leave_it_as_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    import os

    def silence(k: int) -> int:
        for _ in range(50):
            with STDERR.without_all():
                pass
        return 0

    in_threads(silence)
    os.write(2, b"heard")
    assert capfd.readouterr().err == "heard"
