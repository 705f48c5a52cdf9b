"""The run as a table, and what `fit` returns. For a run that is resumed see `test_resume.py`."""

from __future__ import annotations

import copy
import importlib
import math
import pickle
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import keras_optix as optix
from keras_optix.errors import ConfigurationError, StateError
from keras_optix.loop import history as history_module
from keras_optix.loop.history import COLUMNS, LoopHistory, spread
from keras_optix.loop.scheduler_state import LoopState
from keras_optix.testing import CountingEnv


def filled(rows: int, **logs: float) -> LoopHistory:
    table = LoopHistory()
    for k in range(rows):
        row = {"window": k, "env_steps": 8 * (k + 1), "seconds": 0.5 * k, "state": LoopState.ACTIVE}
        row |= {"score": float(k), "stderr": math.nan, "n": 2, "best": float(k)}
        table.append(row, {"learning_rate": 0.1 / (k + 1)}, logs)
    return table


def run(agent: optix.PPOAgent, windows: int, **options: Any) -> tuple[optix.OptixCallback, Any]:
    dataset = optix.dataset_from_env(CountingEnv, agent, window_size=4, num_envs=2, seed=0)
    options = {
        "evaluator": optix.ReturnEvaluator(2),
        "scheduler": optix.BackoffScheduler(max_interval=1),
        "verbose": 0,
    } | options
    callback = optix.OptixCallback(max_windows=windows, **options)
    return callback, agent.fit(dataset, callbacks=[callback], verbose=0)


def test_an_evaluation_is_a_row(small_ppo: Callable[..., optix.PPOAgent]) -> None:
    agent = small_ppo()
    callback, history = run(agent, 9)
    table = callback.history
    assert list(table)[: len(COLUMNS)] == list(COLUMNS)
    assert table.num_rows == 9
    assert table["window"].tolist() == list(range(9))
    assert table["env_steps"].tolist() == [8 * (k + 1) for k in range(9)]
    assert set(table["score"]) == set(table["best"]) == {6.0}
    assert set(table["stderr"]) == {0.0}
    assert table["state"].tolist()[0] == "ACTIVE"
    assert table["state"].tolist()[-1] == callback.state.name == "COOLING"
    assert (np.diff(table["seconds"]) > 0.0).all()
    assert set(table["learning_rate"]) == {agent.hyperparams["learning_rate"]}
    assert set(agent.hyperparams) | {"episode_return", "policy_loss"} <= set(table)

    # `fit` was one endless epoch: what it returns has as many values.
    logged = history.history
    assert {len(values) for values in logged.values()} == {9}
    assert logged["episode_return"] == 9 * [6.0]
    assert logged["loop/score"] == 9 * [6.0]
    assert logged["loop/state"][-1] == 1.0


def test_epochs_keep_what_keras_logs(small_ppo: Callable[..., optix.PPOAgent]) -> None:
    agent = small_ppo()
    dataset = optix.dataset_from_env(CountingEnv, agent, window_size=4, num_envs=2, seed=0)
    scheduler = optix.BackoffScheduler(max_interval=1)
    callback = optix.OptixCallback(optix.ReturnEvaluator(2), scheduler=scheduler, verbose=0)
    logged = agent.fit(dataset, steps_per_epoch=3, epochs=2, callbacks=[callback], verbose=0).history
    assert {len(values) for values in logged.values()} == {2}
    assert not any(name.startswith("loop/") for name in logged)
    assert callback.history.num_rows == 6


def test_a_run_without_an_evaluation_has_no_rows(small_ppo: Callable[..., optix.PPOAgent]) -> None:
    assert optix.OptixCallback().history.num_rows == 0
    callback, history = run(small_ppo(), 2, evaluator=optix.ReturnEvaluator(100))
    assert callback.history.num_rows == 0
    assert len(history.history["episode_return"]) == 1


def test_saving_gives_it_back() -> None:
    table = filled(7, loss=0.5)
    again = LoopHistory()
    again.restore(*table.save())
    assert again == table == copy.deepcopy(table) == pickle.loads(pickle.dumps(table))
    assert all(array.dtype.kind in "if" for array in table.save()[0].values())
    assert again != filled(8, loss=0.5)
    with pytest.raises(StateError, match="not the table of a run"):
        again.restore({}, ["window"])
    arrays, names = table.save()
    with pytest.raises(StateError, match="lacks columns or values"):
        again.restore(arrays | {"0": arrays["0"][1:]}, names)
    assert again == table


def test_columns_that_come_and_go_and_names_that_collide() -> None:
    table = filled(1, loss=1.0)
    row = {name: 0 for name in COLUMNS} | {"state": LoopState.DORMANT}
    table.append(row, {"learning_rate": 0.2}, {"score": 9.0, "learning_rate": 7.0, "val_loss": 2.0, "matrix": [[1.0]]})
    np.testing.assert_array_equal(table["loss"], [1.0, math.nan])
    np.testing.assert_array_equal(table["val_loss"], [math.nan, 2.0])
    np.testing.assert_array_equal(table["log/score"], [math.nan, 9.0])
    assert table["learning_rate"].tolist() == [0.1, 0.2]
    assert "matrix" not in table
    with pytest.raises(KeyError, match=r"Columns are: window, env_steps, .*column='scroe'"):
        table["scroe"]


def test_a_table_does_not_grow_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_module, "MOST_ROWS", 100)
    table = filled(1000)
    windows = table["window"]
    assert len(windows) <= 100
    assert windows[0] == 0
    assert windows[-50:].tolist() == list(range(950, 1000))
    assert (np.diff(windows) > 0).all()


def test_people_see_a_table() -> None:
    table = filled(40, loss=1e-5)
    lines = repr(table).split("\n")
    assert lines[0] == "LoopHistory: 40 rows, 10 columns"
    assert lines[1].split() == [*COLUMNS, "learning_rate", "loss"]
    assert len(lines) == 13
    assert len({len(line) for line in lines[1:]}) == 1
    assert lines[-1].split() == ["39", "320", "19.5", "ACTIVE", "39.0", "-", "2", "39.0", "0.0025", "1e-05"]
    assert table._repr_html_().count("<tr>") == 12
    assert "no object at" not in repr(LoopHistory())
    assert repr(LoopHistory()).startswith("LoopHistory: 0 rows")


def test_a_frame_where_pandas_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    table = filled(3)
    try:
        pandas = importlib.import_module("pandas")
    except ImportError:
        pass
    else:
        assert isinstance(table.to_pandas(), pandas.DataFrame)
        assert table.to_pandas()["score"].tolist() == [0.0, 1.0, 2.0]
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ConfigurationError, match=r"needs pandas, which is not installed.*pip install pandas"):
        table.to_pandas()


def test_what_only_an_epoch_has_is_there_at_its_end() -> None:
    logged: dict[str, list[Any]] = {"loss": [0.25], "val_loss": [0.5]}
    spread(logged, filled(3, loss=0.25))
    assert logged["loss"] == 3 * [0.25]
    np.testing.assert_array_equal(logged["val_loss"], [math.nan, math.nan, 0.5])
    assert logged["loop/window"] == [0, 1, 2]
