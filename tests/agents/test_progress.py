"""The line in the terminal: one line, redrawn in place, no wider than the screen."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

import keras_optix as optix
from keras_optix.agents import progress
from keras_optix.testing import CountingEnv, CountingFeed


def run(agent: optix.PPOAgent, windows: int, **options: Any) -> None:
    dataset = optix.dataset_from_env(CountingEnv, agent, window_size=4)
    callback = optix.OptixCallback(optix.ReturnEvaluator(2), max_windows=windows, verbose=0)
    agent.fit(dataset, callbacks=[callback], **options)


def test_a_terminal_sees_one_line_with_return_best_and_state(
    small_ppo: Callable[..., optix.PPOAgent], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setattr(progress, "_TTY_INTERVAL", 0.0)
    monkeypatch.setenv("COLUMNS", "60")
    run(small_ppo(), 6)
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    lines = out.rstrip("\n").split("\r")[1:]
    assert len(lines) == 9
    assert all(len(line) < 60 for line in lines)
    # The first step compiles: until it is through, the line says so, and it is no part of the time per window.
    assert lines[:2] == ["compiling", ""]
    assert re.match(r"1 window · \d+s · return ", lines[2])
    assert re.match(r"6 windows · \d+s · [\d.]+ms/window · return 6\.0 · best 6\.0", lines[-1])


def test_a_step_that_is_compiled_already_is_not_announced(
    small_ppo: Callable[..., optix.PPOAgent], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    agent = small_ppo()
    run(agent, 2)
    assert "compiling" in capsys.readouterr().out
    run(agent, 2)
    assert "compiling" not in capsys.readouterr().out


def test_the_time_per_window_is_that_of_the_latest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not that of compiling, nor of a time long ago."""
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    shown = progress.FitProgress([])
    model = SimpleNamespace(train_function=lambda: None)
    shown.set_model(model)
    shown.set_params({"verbose": 0, "epochs": 1, "steps": None})
    shown.on_epoch_begin(0)
    rates = []
    for batch, seconds in enumerate([40.0] + 60 * [2.0] + 60 * [0.02]):
        now += seconds
        shown.on_train_batch_end(batch)
        rates.append(shown._rate())
    assert rates[0] == []
    assert rates[1] == rates[60] == ["2000ms/window"]
    assert rates[-1] == ["20ms/window"]


def test_a_file_sees_whole_lines(small_ppo: Callable[..., optix.PPOAgent], capsys: pytest.CaptureFixture[str]) -> None:
    run(small_ppo(), 6)
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert "state ACTIVE" in out
    assert "\r" not in out


def test_silence(small_ppo: Callable[..., optix.PPOAgent], capsys: pytest.CaptureFixture[str]) -> None:
    run(small_ppo(), 3, verbose=0)
    assert capsys.readouterr().out == ""


def test_epochs_have_a_line_each(small_ppo: Callable[..., optix.PPOAgent], capsys: pytest.CaptureFixture[str]) -> None:
    agent = small_ppo()
    dataset = optix.dataset_from_env(CountingEnv, agent, window_size=4)
    agent.fit(dataset, steps_per_epoch=2, epochs=3)
    out = capsys.readouterr().out
    assert re.findall(r"Epoch \d/3", out) == ["Epoch 1/3", "Epoch 2/3", "Epoch 3/3"]
    assert out.count("2/2 windows") == 3


def test_a_live_feed_shows_how_it_is_answered_and_what_was_lost(
    small_ppo: Callable[..., optix.PPOAgent], capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken(CountingFeed):
        def stream(self) -> Any:
            items = super().stream()
            item = next(items)
            for _ in range(20):
                item = items.send((yield item))
            if self.connections == 1:
                raise ConnectionResetError

    agent = small_ppo()
    agent.fit(optix.dataset_from_stream(Broken(), agent, boundary=optix.live.every_n_steps(4), overflow="block"))
    assert re.search(r"latency p99 \d+\.\dms · reconnects 1\n", capsys.readouterr().out)
