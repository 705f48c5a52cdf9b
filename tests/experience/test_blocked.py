"""Environments that do not return: interrupts are heard, calls are given up, and the errors name the environment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv

import keras_optix as optix
from keras_optix.errors import ConfigurationError, EnvError, EnvTimeoutError, EnvWorkerError, SpaceError, StateError
from keras_optix.experience.closing import HURRY
from keras_optix.experience.collector import Collector
from keras_optix.experience.workers import WorkerGuard, end_workers, workers_of
from keras_optix.testing import CountingEnv

MakeAgent = Callable[..., Any]  # the workers import this file, and need no TensorFlow
MakeCollector = Callable[..., Collector]
LIMIT = 60.0  # seconds after which a test that waits has failed


@pytest.fixture(autouse=True)
def calm() -> Iterator[None]:
    """An interrupt is over when its test is."""
    yield
    HURRY.asked = False


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does return, gets all the time that a busy machine may need."""
    monkeypatch.setattr("keras_optix.experience.collector._RETURN_SECONDS", LIMIT)


class Blocking(CountingEnv):
    """Waits in call number `at` of `method` until `released`, and interrupts the main thread meanwhile if it should."""

    def __init__(self, method: str = "step", at: int = 1, *, interrupts: bool = False) -> None:
        super().__init__(3)
        self._method, self._left, self._interrupts = method, at, interrupts
        self.released, self.was_closed = threading.Event(), threading.Event()

    def _block(self, method: str) -> None:
        if method == self._method:
            self._left -= 1
            if not self._left:
                if self._interrupts:
                    os.kill(os.getpid(), signal.SIGINT)
                assert self.released.wait(LIMIT)

    def reset(self, **options: Any) -> Any:
        self._block("reset")
        return super().reset(**options)

    def step(self, action: Any) -> Any:
        self._block("step")
        return super().step(action)

    def close(self) -> None:
        self._block("close")
        super().close()
        self.was_closed.set()


class Told(CountingEnv):
    """Interrupts the main thread in a step, and goes on."""

    def __init__(self, at: int) -> None:
        super().__init__(3)
        self.at = at

    def step(self, action: Any) -> Any:
        if self.steps == self.at:
            os.kill(os.getpid(), signal.SIGINT)
        return super().step(action)


@pytest.fixture(autouse=True)
def _interrupts_are_heard() -> Iterator[None]:
    """A shell that starts the tests in the background lets them ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


# Interrupts


@pytest.mark.parametrize(("method", "at"), [("step", 11), ("reset", 5)])
def test_an_interrupt_is_heard_and_what_does_not_return_is_given_up_and_closed_late(
    collector: MakeCollector, method: str, at: int
) -> None:
    env = Blocking(method, at, interrupts=True)
    source = collector(env)
    source.prepare()
    source.collect()
    with pytest.raises(KeyboardInterrupt):
        source.prepare()
    source.leave()
    source.drain()
    source.close()
    assert not env.closed  # it is still being stepped
    with pytest.raises(StateError, match="closed"):
        source.collect()
    arrays, values = source.save()  # a resume point of what was delivered
    assert values["window_id"] == 1
    assert arrays
    env.released.set()
    assert env.was_closed.wait(LIMIT)


def test_an_interrupt_does_not_wait_for_a_close(collector: MakeCollector) -> None:
    class Broken(Blocking):
        def step(self, action: Any) -> Any:
            raise ZeroDivisionError("in the env")

    env = Broken("close", interrupts=True)
    source = collector(env)
    with pytest.raises(KeyboardInterrupt):
        source.prepare()
    env.released.set()
    assert env.was_closed.wait(LIMIT)


def test_a_window_that_is_completed_in_a_moment_is_delivered_after_the_interrupt(
    collector: MakeCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keras_optix.experience.collector._COMPLETE_SECONDS", LIMIT)
    told, calm = Told(11), CountingEnv(3)
    source, other = collector(told, seed=0), collector(calm, seed=0)
    other.collect()
    source.collect()
    with pytest.raises(KeyboardInterrupt):
        source.prepare()
    np.testing.assert_array_equal(source.collect().window.observations, other.collect().window.observations)


@pytest.mark.usefixtures("patient")
def test_a_window_that_takes_longer_is_cut_between_two_steps_and_the_next_begins_new_episodes(
    collector: MakeCollector,
) -> None:
    class Slow(Told):
        def step(self, action: Any) -> Any:
            result = super().step(action)
            while self.steps == self.at + 1 and not source._runner.cut:  # type: ignore[union-attr]
                time.sleep(0.01)
            return result

    env = Slow(11)
    source = collector(env)
    source.collect()
    with pytest.raises(KeyboardInterrupt):
        source.prepare()
    assert env.steps == 12
    assert not env.closed
    resets = env.resets
    window = source.collect().window
    assert window.begins[0, 0]
    assert window.window_id == 1
    assert env.resets > resets


@pytest.mark.parametrize("how", ["fit", "executions", "prefetch", "evaluate"])
def test_fit_and_evaluate_hear_an_interrupt(small_ppo: MakeAgent, how: str) -> None:
    agent = small_ppo(steps_per_execution=4 if how == "executions" else 1)
    env = Blocking("step", 30, interrupts=True)
    dataset = optix.dataset_from_env(env, agent, window_size=8, prefetch=int(how == "prefetch"))
    run = (
        partial(agent.evaluate, dataset, steps=20)
        if how == "evaluate"
        else partial(agent.fit, dataset, steps_per_epoch=20, verbose=0)
    )
    with pytest.raises(KeyboardInterrupt):
        run()
    env.released.set()
    assert env.was_closed.wait(LIMIT)


# Timeouts


@pytest.mark.parametrize(("method", "at"), [("step", 5), ("reset", 2)])
def test_a_call_that_does_not_return_in_time_is_named(collector: MakeCollector, method: str, at: int) -> None:
    made = iter([CountingEnv(3), Blocking(method, at)])
    envs: list[Any] = []
    source = collector(lambda: envs.append(next(made)) or envs[-1], 2, env_timeout=0.05)
    with pytest.raises(EnvTimeoutError, match=rf"Environment 1 \(<Blocking.*in `{method}`.*env_timeout=0.05 seconds"):
        source.collect()
    assert isinstance(source.error, EnvError | TimeoutError)
    with pytest.raises(StateError, match="closed"):
        source.collect()
    envs[1].released.set()
    assert envs[1].was_closed.wait(LIMIT)


def test_fit_raises_the_timeout_and_calls_that_return_in_time_are_none(small_ppo: MakeAgent) -> None:
    agent = small_ppo()
    env = Blocking("step", 30)
    dataset = optix.dataset_from_env(env, agent, window_size=8, env_timeout=0.5)
    agent.fit(dataset, steps_per_epoch=3, verbose=0)
    with pytest.raises(EnvTimeoutError, match="in `step`"):
        agent.fit(dataset, steps_per_epoch=3, verbose=0)
    env.released.set()


# Workers


class Sleeper(CountingEnv):
    """Never returns from a step, in a process of its own."""

    def step(self, action: Any) -> Any:
        time.sleep(1000.0)


class LateSleeper(CountingEnv):
    """Never returns from a reset."""

    def reset(self, **options: Any) -> Any:
        time.sleep(1000.0)


class Mortal(CountingEnv):
    """Dies in its second step, as often as there are files in `folder`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(3)
        self._folder = folder

    def step(self, action: Any) -> Any:
        lives = sorted(self._folder.iterdir())
        if self.steps == 1 and lives:
            lives[0].unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(action)


@pytest.fixture
def processes() -> Iterator[Callable[..., AsyncVectorEnv]]:
    """Makes environments in processes, and ends these after the test in any case."""
    made: list[AsyncVectorEnv] = []

    def make(*envs: Any) -> AsyncVectorEnv:
        made.append(AsyncVectorEnv(envs, context="forkserver"))
        return made[-1]

    yield make
    for env in made:
        end_workers(env)


def test_a_worker_that_does_not_answer_is_named_and_ended(
    collector: MakeCollector, processes: Callable[..., AsyncVectorEnv]
) -> None:
    env = processes(CountingEnv, Sleeper, CountingEnv)
    source = collector(env, 3, env_timeout=0.5)
    with pytest.raises(EnvTimeoutError, match=r"Environment 1 of the vector environment .*in `step`"):
        source.collect()
    assert not any(worker.is_alive() for worker in env.processes)


def test_a_worker_that_died_is_found_while_another_one_does_not_answer(
    collector: MakeCollector, processes: Callable[..., AsyncVectorEnv]
) -> None:
    env = processes(LateSleeper, CountingEnv)
    os.kill(env.processes[1].pid, signal.SIGKILL)  # type: ignore[arg-type]
    env.processes[1].join()
    env.parent_pipes[1].send = lambda _: None  # or the parent would notice when it asks the dead one
    with pytest.raises(EnvWorkerError, match="worker process has died"):
        collector(env, 2).collect()


@pytest.mark.parametrize("deaths", [0, 1, 2])
def test_workers_are_started_again_within_the_budget(
    collector: MakeCollector, processes: Callable[..., AsyncVectorEnv], tmp_path: Path, deaths: int
) -> None:
    for k in range(deaths):
        (tmp_path / str(k)).touch()
    source = collector(lambda: processes(CountingEnv, partial(Mortal, tmp_path)), 2, restarts=1)
    if deaths > 1:
        with pytest.raises(EnvWorkerError, match="worker process of environment 1") as raised:
            source.collect()
        assert raised.value.__notes__ == ["They were started again 1 times, and restarts=1."]
        return
    window = source.collect().window
    assert source.restarted == deaths
    assert window.begins[0].all()
    assert window.window_id == 0
    assert source.env_steps == np.count_nonzero(window.valid)
    told = [notice for notice in source.drain_notices() if "started again" in notice]
    assert len(told) == deaths
    assert source.collect().window_id == 1


def test_fit_counts_restarts_and_says_why(
    small_ppo: MakeAgent, processes: Callable[..., AsyncVectorEnv], tmp_path: Path
) -> None:
    (tmp_path / "once").touch()
    agent = small_ppo()
    env_fn = partial(processes, CountingEnv, partial(Mortal, tmp_path))
    dataset = optix.dataset_from_env(env_fn, agent, window_size=8, restarts=3)
    callback = optix.OptixCallback(optix.ReturnEvaluator(), max_windows=2, verbose=0)
    history = agent.fit(dataset, callbacks=[callback], verbose=0).history
    assert history["env_restarts"][-1] == 1.0
    (told,) = [record.message for record in callback.events if "started again" in record.message]
    assert "(1 of 3 times)" in told
    assert "worker process of environment 1" in told


def test_a_worker_that_does_not_answer_is_started_again(
    collector: MakeCollector, processes: Callable[..., AsyncVectorEnv], tmp_path: Path
) -> None:
    kinds = iter([Sleeper, CountingEnv])
    source = collector(lambda: processes(CountingEnv, next(kinds)), 2, restarts=1, env_timeout=0.5)
    assert source.collect().window.begins[0].all()
    (notice,) = source.drain_notices()
    assert "Environment 1 of the vector environment" in notice
    assert "env_timeout=0.5" in notice


def test_a_factory_that_makes_another_vector_environment_the_second_time_is_refused(
    collector: MakeCollector, processes: Callable[..., AsyncVectorEnv], tmp_path: Path
) -> None:
    (tmp_path / "once").touch()
    sizes = iter([2, 3])
    mortal = partial(Mortal, tmp_path)
    source = collector(lambda: processes(*[mortal] * next(sizes)), 2, restarts=1)
    with pytest.raises(SpaceError, match="same vector environment"):
        source.collect()


def test_restarts_need_a_factory_of_processes(small_ppo: MakeAgent) -> None:
    with pytest.raises(ConfigurationError, match=r"`restarts` needs environments .*Received: restarts=2"):
        optix.dataset_from_env(CountingEnv, small_ppo(), restarts=2)


ORPHANS = """
import gymnasium, os, sys, time
from gymnasium.vector import AsyncVectorEnv
from keras_optix.testing import CountingEnv
from keras_optix.experience.workers import WorkerGuard

class Sleeper(CountingEnv):
    def step(self, action):
        time.sleep(1000.0)

if __name__ == "__main__":
    env = AsyncVectorEnv([Sleeper] * 3, shared_memory=False)
    guard = WorkerGuard(env) if sys.argv[1] == "guarded" else None
    env.reset()
    env.step_async(env.action_space.sample())
    print(*(worker.pid for worker in env.processes), flush=True)
    time.sleep(1000.0)
"""


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")
@pytest.mark.parametrize("guarded", [True, False])
def test_workers_end_with_their_parent_even_if_it_is_killed(guarded: bool) -> None:
    """The control without a guard: workers that do not answer outlive their parent."""
    command = [sys.executable, "-c", ORPHANS, "guarded" if guarded else "alone"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(workers) == 3
        if guarded:
            time.sleep(1.0)  # the guard needs a moment to begin
        parent.kill()
        parent.wait()
        end = time.monotonic() + (LIMIT if guarded else 1.5)
        while any(map(runs, workers)) and time.monotonic() < end:
            time.sleep(0.05)
        left = [pid for pid in workers if runs(pid)]
        for pid in left:
            os.kill(pid, signal.SIGKILL)
    assert bool(left) is not guarded


def test_a_guard_that_is_stopped_leaves_the_workers_alone(processes: Callable[..., AsyncVectorEnv]) -> None:
    env = processes(CountingEnv)
    WorkerGuard(env).stop()
    assert all(worker.is_alive() for worker in workers_of(env))
    assert not workers_of(gymnasium.vector.SyncVectorEnv([CountingEnv]))
    WorkerGuard(CountingEnv()).stop()
