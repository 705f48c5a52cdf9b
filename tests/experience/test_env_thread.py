"""The thread in which environments are stepped: it runs calls in order, and ends when there are none."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable

import pytest

from keras_optix.experience import env_thread
from keras_optix.experience.env_thread import EnvThread
from tests.threads import BegunThreads

PATIENCE = 20.0  # seconds until a test that hangs fails


def until(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.005)


def test_calls_run_in_order_and_their_errors_belong_to_them() -> None:
    thread, seen = EnvThread(), []

    def fail() -> None:
        raise KeyError("mine")

    first = thread.submit(lambda: seen.append(threading.get_ident()))
    failed, last = thread.submit(fail), thread.submit(lambda: seen.append(threading.get_ident()))
    first.result(PATIENCE)
    last.result(PATIENCE)
    with pytest.raises(KeyError, match="mine"):
        failed.result(PATIENCE)
    assert seen[0] == seen[1] != threading.get_ident()
    thread.stop()


def test_the_thread_ends_without_calls_and_begins_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(env_thread, "_IDLE_SECONDS", 0.01)
    threads = BegunThreads("keras_optix_envs")
    thread = EnvThread()
    for _ in range(3):
        assert thread.submit(lambda: 7).result(PATIENCE) == 7
        assert not threads.wait(PATIENCE)


def test_no_call_is_lost_where_the_thread_is_about_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(env_thread, "_IDLE_SECONDS", 0.0005)
    thread = EnvThread()
    for k in range(400):
        assert thread.submit(lambda k=k: k).result(PATIENCE) == k  # type: ignore[misc]
        time.sleep(0.0005 * (k % 3))


def test_while_it_waits_the_thread_keeps_nothing_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(env_thread, "_IDLE_SECONDS", 10.0 * PATIENCE)  # otherwise it could be gone with the thread

    class Environment:
        def step(self) -> int:
            return 1

    environment, thread = Environment(), EnvThread()
    thread.submit(environment.step).result(PATIENCE)
    kept = weakref.ref(environment)
    del environment

    def is_gone() -> bool:
        gc.collect()
        return kept() is None

    until(is_gone)
    thread.stop()


def test_after_stop_another_thread_begins_although_a_call_never_returns() -> None:
    thread, hold = EnvThread(), threading.Event()
    thread.submit(hold.wait)
    thread.stop()
    assert thread.submit(lambda: 3).result(PATIENCE) == 3
    thread.stop()
    hold.set()
