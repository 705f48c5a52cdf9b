"""`optix.plot`: what the figure shows, that nothing in it overlaps, and its errors."""

from __future__ import annotations

import dataclasses
import itertools
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest

import keras_optix as optix
from keras_optix.loggers.plotting import _NEAR_ONE, _digits_of_nine, _round_numbers
from keras_optix.loop.history import LoopHistory
from keras_optix.loop.record import EventKind, LoopRecord
from keras_optix.testing import CountingEnv
from keras_optix.tuners import Int, Log, OneMinusLog

agg = pytest.importorskip(
    "matplotlib.backends.backend_agg", reason="matplotlib is not installed: pip install 'keras_optix[plot]'"
)
ACTIVE, COOLING, DORMANT, WATCHDOG = optix.LoopState
KIND = EventKind


def event(steps: int, kind: EventKind, state: optix.LoopState = ACTIVE, message: str = "") -> LoopRecord:
    return LoopRecord(kind, steps // 500, steps, state, message)


def long_run(rows: int = 200) -> Any:
    """A run with everything that a figure can hold: states, regimes, ten kinds of events, three hyperparameters."""
    table = LoopHistory()
    for k in range(rows):
        steps = 500 * (k + 1)
        values = {
            "learning_rate": 1e-3 * 3 ** math.sin(k / 20),
            "gamma": 1 - 0.01 * 2 ** math.cos(k / 30),
            "update_epochs": 4 + k // 60,
            "clip_ratio": 0.2,
        }
        row = {"window": k, "env_steps": steps, "seconds": k, "state": ACTIVE, "score": float(k), "stderr": 2.0}
        best = {"n": 8, "best": float(k // 10 * 10) if k >= 10 else math.nan}
        table.append(row | best, values, {"episode_return": 0.8 * k, "policy_loss": 0.1})
    events = [
        event(8_000, KIND.IMPROVEMENT),
        event(20_000, KIND.PLATEAU, COOLING),
        event(24_000, KIND.IMPROVEMENT),
        event(30_000, KIND.DORMANT, DORMANT),
        event(30_500, KIND.WATCHDOG, WATCHDOG),
        event(34_000, KIND.DEGRADATION),
        event(34_000, KIND.CHANGE_POINT),
        event(45_000, KIND.REJECTED),
        event(46_000, KIND.ROLLBACK),
        event(50_000, KIND.VARIANT),
        event(60_000, KIND.NON_FINITE),
        event(68_000, KIND.CHANGE_POINT),
        event(68_500, KIND.REGIME, message="regime bull -> bear"),
        event(75_000, KIND.HYPERPARAMS),
        event(90_000, KIND.FEED),
        event(91_000, KIND.RESUMED),
        event(99_000, KIND.NOTICE),
    ]
    events = [dataclasses.replace(one, env_steps=one.env_steps * rows // 200) for one in events]
    spaces = {"learning_rate": Log(1e-4, 1e-2), "gamma": OneMinusLog(0.9, 0.999), "update_epochs": Int(1, 20)}
    return SimpleNamespace(
        history=table,
        events=events,
        env_steps=500 * rows + 100,
        step_name="env steps",
        search_spaces=spaces,
        best_snapshot=None,
        evaluator=optix.GreedyEvaluator(),
    )


def line(axis: Any, label: str) -> Any:
    (found,) = (one for one in axis.lines if one.get_label() == label)
    return found


def names(figure: Any) -> list[str]:
    """What each part is called: its axis label, or the label of its only tick."""
    found = []
    for axis in figure.axes:
        ticks = [tick.get_text() for tick in axis.get_yticklabels()]
        found.append(axis.get_ylabel().replace("\n", "_") or ticks[0])
    return found


def test_the_figure_holds_the_numbers_of_the_run(tmp_path: Path) -> None:
    run = long_run()
    figure = optix.plot(run, tmp_path / "run.png")
    assert (tmp_path / "run.png").read_bytes()[:4] == b"\x89PNG"
    assert figure._repr_png_()[:4] == b"\x89PNG"
    assert names(figure) == ["score", "state", "regime", "improvement", "learning_rate", "gamma", "update_epochs"]
    score, state, regime, events, rate, gamma, epochs = figure.axes
    table = run.history
    assert np.array_equal(line(score, "score").get_xdata(), table["env_steps"])
    assert np.array_equal(line(score, "score").get_ydata(), table["score"])
    best = line(score, "best")
    assert (best.get_xdata()[-1], best.get_ydata()[-1]) == (100_100, 190.0)  # it holds until the end
    (area,) = score.collections
    bottom, top = area.get_datalim(score.transData).intervaly
    assert bottom == pytest.approx(0.0 - 1.96 * 2.0)
    assert top == pytest.approx(199.0 + 1.96 * 2.0)
    bands = [(band.get_x(), band.get_x() + band.get_width()) for band in state.patches]
    assert bands == [
        (0, 20_000),
        (20_000, 24_000),
        (24_000, 30_000),
        (30_000, 30_500),
        (30_500, 34_000),
        (34_000, 100_100),
    ]
    legend = [text.get_text() for text in score.get_legend().get_texts()]
    assert legend == ["ACTIVE", "COOLING", "DORMANT", "WATCHDOG"]
    assert [band.get_x() for band in regime.patches] == [0, 34_000, 68_000, 68_500]
    assert [text.get_text() for text in regime.texts] == ["1", "2", "bear"]  # the third is too narrow for a name
    kinds = [tick.get_text() for tick in events.get_yticklabels()]
    assert "notice" not in kinds
    assert "change point" in kinds
    marks = {tuple(one.get_xdata()): one.get_ydata()[0] for one in events.lines if one.get_marker() not in ("None", "")}
    assert kinds[int(marks[8_000, 24_000])] == "improvement"
    assert kinds[int(marks[(46_000,)])] == "rollback"
    assert rate.get_yscale() == "log"
    assert gamma.get_yscale() == "function"
    assert [tick.get_text() for tick in gamma.get_yticklabels()] == ["0.98", "0.99", "0.995"]
    assert epochs.get_yscale() == "linear"
    assert figure.axes[-1].get_xlabel() == "env steps of training"


def labels(axis: Any) -> list[Any]:
    """Returns the labels of the ticks within the limits; those of others are not drawn."""
    low, high = sorted(axis.get_view_interval())
    return [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]


@pytest.mark.parametrize("rows", [200, 40, 5, 1])
def test_no_two_texts_overlap(rows: int) -> None:
    figure = optix.plot(long_run(rows))
    canvas = agg.FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    texts = [text for axis in figure.axes for text in [*axis.texts, *labels(axis.yaxis), axis.yaxis.label]]
    texts += [*labels(figure.axes[-1].xaxis), figure.axes[-1].xaxis.label]
    texts += [text for legend in [*figure.legends, figure.axes[0].get_legend()] for text in legend.get_texts()]
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in texts if text.get_text()]
    width, height = canvas.get_width_height()
    for name, box in boxes:
        assert -2 <= box.x0 <= box.x1 <= width + 2, name
        assert -2 <= box.y0 <= box.y1 <= height + 2, name
    for (one, first), (two, second) in itertools.combinations(boxes, 2):
        assert not first.shrunk(0.98, 0.9).overlaps(second.shrunk(0.98, 0.9)), (one, two)


def test_few_evaluations_have_their_intervals_one_by_one() -> None:
    figure = optix.plot(long_run(20))
    (bars,) = figure.axes[0].collections
    assert len(bars.get_segments()) == 20
    assert bars.get_segments()[3][:, 1].tolist() == pytest.approx([3 - 3.92, 3 + 3.92])


def test_a_run_of_an_agent(small_ppo: Callable[..., optix.PPOAgent]) -> None:
    agent = small_ppo()
    dataset = optix.dataset_from_env(CountingEnv, agent, window_size=4, num_envs=2, seed=0)
    callback = optix.OptixCallback(optix.ReturnEvaluator(2), max_windows=12, verbose=0)
    with pytest.raises(optix.errors.StateError, match="nothing to draw"):
        optix.plot(callback)
    agent.fit(dataset, callbacks=[callback], verbose=0)
    assert callback.step_name == "env steps"
    figure = optix.plot(callback)
    assert names(figure)[:2] == ["score", "state"]
    assert np.array_equal(line(figure.axes[0], "score").get_ydata(), callback.history["score"])


def test_a_run_of_an_ordinary_model() -> None:
    model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    inputs = np.random.default_rng(0).normal(size=(64, 3)).astype("float32")
    callback = optix.OptixCallback(verbose=0)
    model.fit(inputs, inputs[:, :1], validation_split=0.5, epochs=4, callbacks=[callback], verbose=0)
    figure = optix.plot(callback)
    assert names(figure)[:2] == ["val_loss", "state"]
    assert figure.axes[-1].get_xlabel() == "steps of training"
    assert np.array_equal(line(figure.axes[0], "score").get_ydata(), callback.history["score"])


def test_evaluations_without_a_score_leave_gaps_and_no_warnings() -> None:
    run = long_run(3)
    for name in ("score", "stderr", "best", "learning_rate"):
        run.history._columns[name] = [math.nan] * 3
    figure = optix.plot(run)
    figure.draw_without_rendering()


def test_round_numbers_and_digits_of_nine() -> None:
    assert _round_numbers(0.00018, 0.0053) == pytest.approx([0.0002, 0.0005, 0.001, 0.002, 0.005])
    assert _round_numbers(1e-6, 2.0) == pytest.approx([10.0**k for k in range(-6, 1)])
    assert _digits_of_nine(np.array([0.0, 0.9, 0.99, 0.999])) == pytest.approx([0.0, 1.0, 2.0, 3.0])
    assert list(_NEAR_ONE) == sorted(_NEAR_ONE)


def test_errors_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(optix.ConfigurationError, match=r"must be the OptixCallback of a run.*callbacks=\[callback\]"):
        optix.plot(LoopHistory())  # type: ignore[arg-type]
    run = long_run(3)
    with pytest.raises(optix.ConfigurationError, match=r"cannot be saved.*Received: path="):
        optix.plot(run, tmp_path / "missing" / "run.png")
    with pytest.raises(optix.ConfigurationError, match="cannot be saved"):
        optix.plot(run, tmp_path / "run.xyz")
    with pytest.raises(optix.ConfigurationError, match="path"):
        optix.plot(run, 3)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(optix.ConfigurationError, match=r"`plot` needs matplotlib, which .*keras_optix\[plot\]"):
        optix.plot(run)


def test_pyplot_and_its_settings_are_left_alone() -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot")
    before = dict(pyplot.rcParams)
    optix.plot(long_run(3))
    assert pyplot.get_fignums() == []
    assert dict(pyplot.rcParams) == before
