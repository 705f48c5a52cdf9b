"""Ctrl-C ends `fit` while an environment does not return, however its dataset was transformed."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import keras_optix as optix
from keras_optix.experience.closing import HURRY
from keras_optix.experience.interrupts import INTERRUPTS, Interrupts
from keras_optix.testing import CountingEnv

MakeAgent = Callable[..., optix.PPOAgent]
LIMIT = 60.0  # seconds after which a test that waits has failed


@pytest.fixture(autouse=True)
def _interrupts_are_heard() -> Iterator[None]:
    """A shell that starts the tests in the background lets them ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
    HURRY.asked = False


class Blocking(CountingEnv):
    """Interrupts the process in a step, and waits there until it is released."""

    def __init__(self, at: int) -> None:
        super().__init__(3)
        self.at = at
        self.blocked, self.released = threading.Event(), threading.Event()

    def step(self, action: Any) -> Any:
        if self.steps == self.at:
            self.blocked.set()
            os.kill(os.getpid(), signal.SIGINT)
            assert self.released.wait(LIMIT)
        return super().step(action)


WRAPPED: dict[str, Callable[[Any], Any]] = {
    "as_made": lambda data: data,
    "take": lambda data: data.take(9),
    "map": lambda data: data.map(lambda window: window),
    "map_take": lambda data: data.map(lambda window: window).take(9),
    "skip": lambda data: data.skip(1),
    "filter": lambda data: data.filter(lambda window: window.window_id % 2 == 0),
    "take_while": lambda data: data.take_while(lambda window: window.window_id < 9),
    "repeat": lambda data: data.take(9).repeat(2),
}


@pytest.mark.parametrize("prefetch", [0, 1])
@pytest.mark.parametrize("wrapped", WRAPPED)
def test_an_interrupt_ends_fit_however_the_dataset_was_transformed(
    small_ppo: MakeAgent, wrapped: str, prefetch: int
) -> None:
    agent, env = small_ppo(), Blocking(20)
    agent.run_eagerly = True
    made = optix.dataset_from_env(lambda: env, agent, window_size=8, num_envs=1, seed=0, prefetch=prefetch)
    dataset = WRAPPED[wrapped](made)
    end = threading.Timer(LIMIT, env.released.set)  # so that a `fit` that hears nothing fails, and does not wait
    end.start()
    with pytest.raises(KeyboardInterrupt):
        agent.fit(dataset, steps_per_epoch=9, verbose=0)
    assert env.blocked.is_set()
    assert not env.released.is_set()
    end.cancel()
    env.released.set()
    assert signal.set_wakeup_fd(-1) == -1


def test_an_interrupt_ends_evaluate(small_ppo: MakeAgent) -> None:
    agent, env = small_ppo(), Blocking(20)
    dataset = optix.dataset_from_env(lambda: env, agent, window_size=8, num_envs=1, seed=0).take(5)
    end = threading.Timer(LIMIT, env.released.set)
    end.start()
    with pytest.raises(KeyboardInterrupt):
        agent.evaluate(dataset, verbose=0)
    assert not env.released.is_set()
    end.cancel()
    env.released.set()


# What is noted


def checked_elsewhere(interrupts: Interrupts) -> str:
    """What `check` raises in another thread."""
    found: list[str] = []

    def check() -> None:
        try:
            interrupts.check()
        except BaseException as error:
            found.append(type(error).__name__)

    thread = threading.Thread(target=check)
    thread.start()
    thread.join()
    return "".join(found)


def test_only_what_ends_fit_is_told_and_only_until_it_was_handled() -> None:
    interrupts, handled = Interrupts(), []
    signal.signal(signal.SIGINT, lambda number, frame: handled.append(number))
    with interrupts.noted():
        signal.raise_signal(signal.SIGINT)
        assert checked_elsewhere(interrupts) == ""  # the handler of the program ends nothing
        interrupts.ending.add(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        interrupts.check()  # in the main thread, where the handler runs
        assert checked_elsewhere(interrupts) == "KeyboardInterrupt"
        interrupts.forget()
        assert checked_elsewhere(interrupts) == ""
        signal.raise_signal(signal.SIGINT)
    assert checked_elsewhere(interrupts) == ""  # `fit` has ended
    assert len(handled) == 3


def test_a_signal_to_end_waits_for_the_window_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupts, before = Interrupts(), signal.signal(signal.SIGTERM, lambda number, frame: None)
    interrupts.ending.add(signal.SIGTERM)
    try:
        with interrupts.noted():
            signal.raise_signal(signal.SIGTERM)
            assert checked_elsewhere(interrupts) == ""
            monkeypatch.setitem(_patience(), signal.SIGTERM, 0.0)
            assert checked_elsewhere(interrupts) == "KeyboardInterrupt"
    finally:
        signal.signal(signal.SIGTERM, before)


def _patience() -> dict[int, float]:
    from keras_optix.experience import interrupts

    return interrupts._PATIENCE_SECONDS  # type: ignore[return-value]


def test_signals_that_other_code_notes_are_left_to_it() -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write)
    try:
        with INTERRUPTS.noted():
            assert signal.set_wakeup_fd(write) == write
    finally:
        assert signal.set_wakeup_fd(-1) == write
        os.close(read)
        os.close(write)


def test_in_another_thread_nothing_is_noted() -> None:
    def fit() -> None:
        with INTERRUPTS.noted():
            assert INTERRUPTS._read is None

    thread = threading.Thread(target=fit)
    thread.start()
    thread.join()
