"""Loggers of one's own, and callbacks of the loop that listen to the same numbers."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import keras_optix as optix
from keras_optix.loggers import tags
from keras_optix.loggers.base import Logger
from keras_optix.testing import CountingEnv


class CSVFile(Logger):
    """A row of numbers after each window."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, float]] = []
        self.calls: list[Any] = []

    def open(self, resumed_from: int | None) -> None:
        self.calls.append(("open", resumed_from))

    def hparams(self, values: Mapping[str, Any], metrics: Sequence[str], first: Sequence[str]) -> None:
        self.calls.append(("hparams", values["model"]))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self.rows.append({"step": step, **values})

    def text(self, step: int, tag: str, markdown: str) -> None:
        self.calls.append(("text", tag))

    def close(self, status: str) -> None:
        self.calls.append(("close", status))
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        with self.path.open("w", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(self.rows)


class Listener(optix.LoopCallback):
    def __init__(self) -> None:
        super().__init__()
        self.heard: list[tuple[int, dict[str, float]]] = []

    def on_scalars(self, env_steps: int, scalars: Mapping[str, float]) -> None:
        self.heard.append((env_steps, dict(scalars)))


def fit(small_ppo: Callable[..., optix.PPOAgent], windows: int, **options: Any) -> optix.OptixCallback:
    agent = small_ppo()
    dataset = optix.dataset_from_env(CountingEnv, agent, window_size=4, num_envs=2, seed=0)
    callback = optix.OptixCallback(optix.ReturnEvaluator(2), max_windows=windows, verbose=0, **options)
    agent.fit(dataset, callbacks=[callback], verbose=0)
    return callback


def test_a_logger_of_one_s_own_shows_what_tensorboard_does(
    small_ppo: Callable[..., optix.PPOAgent], tmp_path: Path
) -> None:
    logger, listener = CSVFile(tmp_path / "run.csv"), Listener()
    fit(small_ppo, 5, loggers=[logger], callbacks=[listener], log_dir=tmp_path / "runs")
    with (tmp_path / "run.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [8, 16, 24, 32, 40]
    assert rows[-1]["loop/best"] != ""
    assert not tags.undeclared(set(rows[0]) - {"step"})
    assert logger.calls[:2] == [("open", None), ("hparams", "PPOAgent")]
    assert ("text", "loop/events") in logger.calls
    assert logger.calls[-1] == ("close", "success")
    # A hook hears the same numbers.
    assert [{"step": step, **values} for step, values in listener.heard] == logger.rows


def test_scalars_are_gathered_only_where_somebody_listens(small_ppo: Callable[..., optix.PPOAgent]) -> None:
    loop = fit(small_ppo, 3)._loop
    assert loop is not None
    assert not loop.log.writes


def test_one_logger_is_used_by_one_run_after_another(small_ppo: Callable[..., optix.PPOAgent], tmp_path: Path) -> None:
    logger = CSVFile(tmp_path / "run.csv")
    for _ in range(2):
        fit(small_ppo, 2, loggers=logger)
    assert [name for name, _ in logger.calls].count("open") == 2
    assert len(logger.rows) == 4


@pytest.mark.parametrize(
    ("given", "message"),
    [("runs", "log_dir"), (CSVFile, "list of Loggers"), ([3], "list of Loggers"), (None, "list of Loggers")],
)
def test_what_is_no_logger_is_refused(given: Any, message: str) -> None:
    with pytest.raises(optix.ConfigurationError, match=message):
        optix.OptixCallback(loggers=given)
