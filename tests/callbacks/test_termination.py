"""SIGTERM during `fit`: the run ends after its window with a resume point, and the signal does what it did before."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import keras_optix as optix
from keras_optix.callbacks import termination
from keras_optix.callbacks.termination import TerminatedError, Termination
from keras_optix.experience.closing import HURRY
from keras_optix.testing import CountingEnv

MakeAgent = Callable[..., optix.PPOAgent]
LIMIT = 60.0


@pytest.fixture
def heard() -> Iterator[list[int]]:
    """A handler of the program, which notes the signals that it gets."""
    signals: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: signals.append(number))
    yield signals
    signal.signal(signal.SIGTERM, before)
    HURRY.asked = False


class Preempted(CountingEnv):
    """Gets the signal in a step."""

    at = 20

    def step(self, action: Any) -> Any:
        if self.steps == self.at:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().step(action)


def loop(folder: Path, **options: Any) -> optix.OptixCallback:
    return optix.OptixCallback(optix.ReturnEvaluator(), checkpoint_dir=folder, verbose=0, **options)


def points(folder: Path) -> list[Path]:
    return list(folder.glob("*/resume.npz"))


def test_fit_ends_after_its_window_and_the_run_continues_there(
    small_ppo: MakeAgent, tmp_path: Path, heard: list[int]
) -> None:
    agent = small_ppo()
    mine = signal.getsignal(signal.SIGTERM)
    env = Preempted(3)
    dataset = optix.dataset_from_env(env, agent, window_size=8, seed=0)
    with pytest.raises(TerminatedError) as raised:
        agent.fit(dataset, callbacks=[loop(tmp_path, resume_interval=1e6)], verbose=0)
    assert raised.value.code == 143
    assert heard == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is mine
    assert env.steps == 24  # the third window was completed and learned from
    assert env.closed
    assert len(points(tmp_path)) == 1
    again = small_ppo()
    dataset = optix.dataset_from_env(CountingEnv(3), again, window_size=8, seed=0)
    callback = loop(tmp_path, resume=True, max_windows=5)
    versions: list[int] = []
    see = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: versions.append(again.last_window_id))
    again.fit(dataset, callbacks=[callback, see], verbose=0)
    assert versions == [3, 4]
    assert not points(tmp_path)


def test_a_signal_between_two_windows_needs_no_further_one(
    small_ppo: MakeAgent, tmp_path: Path, heard: list[int]
) -> None:
    agent = small_ppo()
    env = CountingEnv(3)
    dataset = optix.dataset_from_env(env, agent, window_size=8, seed=0)
    tell = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: batch == 2 and os.kill(os.getpid(), signal.SIGTERM)
    )
    with pytest.raises(TerminatedError):
        agent.fit(dataset, callbacks=[tell, loop(tmp_path)], verbose=0)
    assert env.steps == 24
    assert len(points(tmp_path)) == 1


def test_an_environment_that_does_not_return_is_given_up_with_a_resume_point(
    small_ppo: MakeAgent, tmp_path: Path, heard: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(termination, "_PATIENCE_SECONDS", 0.2)
    release = threading.Event()

    class Blocked(Preempted):
        def step(self, action: Any) -> Any:
            result = super().step(action)
            if self.steps == 21:
                assert release.wait(LIMIT)
            return result

    agent = small_ppo()
    dataset = optix.dataset_from_env(Blocked(3), agent, window_size=8, seed=0)
    agent.make_train_function()
    monkeypatch.setattr(os, "_exit", lambda code: None)  # a busy machine may take longer than this patience
    with pytest.raises(TerminatedError):
        agent.fit(dataset, callbacks=[loop(tmp_path, resume_interval=1e6)], verbose=0)
    release.set()
    assert len(points(tmp_path)) == 1
    assert heard == [signal.SIGTERM]


def test_an_ordinary_model_ends_after_its_epoch(tmp_path: Path, heard: list[int]) -> None:
    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)])
    model.compile(optimizer="sgd", loss="mse")
    x, y = np.zeros((8, 2), np.float32), np.zeros((8, 1), np.float32)
    epochs: list[int] = []
    tell = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: (
            len(epochs) == 1 and not batch and os.kill(os.getpid(), signal.SIGTERM)
        ),
        on_epoch_begin=lambda epoch, logs: epochs.append(epoch),
    )
    callback = optix.OptixCallback(monitor="loss", checkpoint_dir=tmp_path, verbose=0, resume_interval=1e6)
    with pytest.raises(TerminatedError):
        model.fit(x, y, batch_size=4, epochs=9, callbacks=[tell, callback], verbose=0)
    assert epochs == [0]
    assert heard == [signal.SIGTERM]
    assert len(points(tmp_path)) == 1


def test_a_fit_that_is_not_told_to_end_leaves_the_handler_as_it_was(
    small_ppo: MakeAgent, tmp_path: Path, heard: list[int]
) -> None:
    mine = signal.getsignal(signal.SIGTERM)
    agent = small_ppo()
    dataset = optix.dataset_from_env(CountingEnv, agent, window_size=8, seed=0)
    agent.fit(dataset, callbacks=[loop(tmp_path, max_windows=2)], verbose=0)
    assert signal.getsignal(signal.SIGTERM) is mine
    assert not heard


def test_the_next_fit_takes_over_from_one_that_failed(tmp_path: Path, heard: list[int]) -> None:
    """Keras does not say that the `fit` of an ordinary model failed."""
    mine = signal.getsignal(signal.SIGTERM)
    x, y = np.zeros((8, 2), np.float32), np.zeros((8, 1), np.float32)

    def fit(folder: Path, fails: bool) -> None:
        def fail(batch: int, logs: Any) -> None:
            if fails:
                raise RuntimeError("a callback")

        model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)])
        model.compile(optimizer="sgd", loss="mse")
        loop = optix.OptixCallback(monitor="loss", checkpoint_dir=folder, verbose=0)
        other = keras.callbacks.LambdaCallback(on_train_batch_end=fail)
        model.fit(x, y, batch_size=4, epochs=1, callbacks=[loop, other], verbose=0)

    with pytest.raises(RuntimeError, match="a callback"):
        fit(tmp_path / "a", fails=True)
    fit(tmp_path / "b", fails=False)
    assert signal.getsignal(signal.SIGTERM) is mine
    assert not heard


def test_a_signal_that_the_program_ignores_is_ignored(heard: list[int]) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    handling = Termination()
    handling.begin()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    handling.end()


def test_another_thread_and_a_fit_within_a_fit_leave_the_handler_alone(heard: list[int]) -> None:
    mine = signal.getsignal(signal.SIGTERM)
    outer, inner, other = Termination(), Termination(), Termination()
    thread = threading.Thread(target=other.begin)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is mine
    outer.begin()
    inner.begin()
    inner.end()
    os.kill(os.getpid(), signal.SIGTERM)
    assert outer.asked
    assert not inner.asked
    outer.end()
    assert heard == [signal.SIGTERM]


PROGRAM = """
import os, signal, sys, time
from gymnasium.vector import AsyncVectorEnv
from keras_optix.testing import CountingEnv

class Sleeper(CountingEnv):
    def step(self, action):
        time.sleep(1000.0)

if __name__ == "__main__":
    from keras_optix.callbacks.termination import Termination, TerminatedError
    handling = Termination()
    handling.begin()
    env = AsyncVectorEnv([Sleeper] * 2, shared_memory=False)
    print(*(worker.pid for worker in env.processes), flush=True)
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        handling.leave_if_asked()
    finally:
        handling.end()
    print("not reached", flush=True)
"""


def test_by_default_the_process_ends_by_the_signal_and_leaves_no_workers() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == -signal.SIGTERM, done.stderr
    workers = [int(pid) for pid in done.stdout.split()]
    assert len(workers) == 2
    for pid in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
