"""TensorBoard's page of a run, read through TensorBoard's own plugin: its charts, and that each chart has its data."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext

import keras_optix as optix
from keras_optix.loggers.tensorboard import TensorBoardLogger
from keras_optix.loggers.tensorboard_layout import interval
from keras_optix.testing import CountingEnv

# TensorBoard's own code calls what NumPy and protobuf deprecate.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class Board:
    """What TensorBoard shows of a directory.

    Attributes:
        charts: Charts by category and title; each is what it has of tags.
    """

    def __init__(self, log_dir: Path) -> None:
        # Here, because what they import warns of itself, and warnings are ignored only within tests.
        from tensorboard.plugins.custom_scalar.custom_scalars_plugin import CustomScalarsPlugin
        from tensorboard.plugins.scalar.scalars_plugin import ScalarsPlugin

        multiplexer = EventMultiplexer()
        multiplexer.AddRunsFromDirectory(str(log_dir))
        multiplexer.Reload()
        context = TBContext(
            data_provider=MultiplexerDataProvider(multiplexer, str(log_dir)),
            logdir=str(log_dir),
            multiplexer=multiplexer,
        )
        scalars = ScalarsPlugin(context)
        context.plugin_name_to_instance = {"scalars": scalars}
        self._plugin, self._ctx = CustomScalarsPlugin(context), RequestContext()
        page = json.loads(self._plugin.layout_impl(self._ctx, ""))
        self.charts: dict[str, dict[str, Any]] = {}
        for category in page["category"]:
            self.charts[category["title"]] = {chart["title"]: chart for chart in category["chart"]}

    def tags(self, run: str, pattern: str) -> dict[str, list[tuple[int, float]]]:
        """The points by tag that match a pattern of a chart."""
        found: Any = self._plugin.scalars_impl(self._ctx, run, pattern, "")
        return {tag: [(step, value) for _, step, value in rows] for tag, rows in found["tag_to_events"].items()}


def test_the_page_of_an_agent_has_data_in_every_chart(small_ppo: Callable[..., optix.PPOAgent], tmp_path: Path) -> None:
    agent = small_ppo()
    dataset = optix.dataset_from_env(CountingEnv, agent, window_size=8, num_envs=2, seed=0)
    callback = optix.OptixCallback(optix.ReturnEvaluator(2), max_windows=8, log_dir=tmp_path, verbose=0)
    agent.fit(dataset, callbacks=[callback], verbose=0)
    board = Board(tmp_path)
    assert list(board.charts) == ["How training goes", "Hyperparameters", "Details"]
    assert set(board.charts["Hyperparameters"]) == set(agent.hyperparams.snapshot())
    for charts in board.charts.values():
        for title, chart in charts.items():
            if "multiline" in chart:
                assert any(board.tags(".", tag) for tag in chart["multiline"]["tag"]), title
    (series,) = board.charts["How training goes"]["Score with its 95 % interval"]["margin"]["series"]
    (score,) = board.tags(".", series["value"] + "$").values()
    (low,) = board.tags(".", series["lower"]).values()
    (high,) = board.tags(".", series["upper"]).values()
    assert [step for step, _ in score] == [step for step, _ in low] == [step for step, _ in high]
    assert [step for step, _ in score] == callback.history["env_steps"].tolist()
    radius = [1.96 * (0.0 if math.isnan(error) else error) for error in callback.history["stderr"]]
    expected = [value - around for (_, value), around in zip(score, radius, strict=True)]
    assert [value for _, value in low] == pytest.approx(expected)


def test_runs_with_the_same_page_have_one_page_and_the_latest_run_replaces_an_earlier_one(tmp_path: Path) -> None:
    for name, rate in (("a", 1e-3), ("b", 3e-4), ("b", 3e-4)):
        logger = TensorBoardLogger(tmp_path / name)
        logger.open(None)
        logger.hparams({"model": "PPOAgent", "learning_rate": rate}, ("rollout/episode_return",), ())
        logger.scalars(1, {"loop/score": 1.0})
        logger.close("success")
    logger = TensorBoardLogger(tmp_path / "b")
    logger.open(1)
    logger.hparams({"model": "PPOAgent", "learning_rate": 0.5}, ("rollout/episode_return",), ())
    logger.scalars(2, {"loop/score": 2.0})
    logger.close("success")
    board = Board(tmp_path)
    assert list(board.charts) == ["How training goes", "Hyperparameters", "Details"]
    assert list(board.charts["Hyperparameters"]) == ["learning_rate"]
    assert board.tags("b", "loop/score$") == {"loop/score": [(1, 1.0), (2, 2.0)]}


def test_the_page_of_an_ordinary_model_has_its_losses(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    logger.open(None)
    logger.hparams({"model": "Sequential", "learning_rate": 1e-3}, ("epoch/val_loss",), ())
    logger.scalars(1, {"epoch/loss": 1.0, "epoch/val_loss": 2.0, "epoch/accuracy": 0.5})
    logger.close("success")
    board = Board(tmp_path)
    (losses,), (others,) = (board.charts["Details"][title]["multiline"]["tag"] for title in ("Losses", "Other logs"))
    assert set(board.tags(".", losses)) == {"epoch/loss", "epoch/val_loss"}
    assert set(board.tags(".", others)) == {"epoch/accuracy"}


def test_each_point_of_the_score_has_an_interval() -> None:
    assert interval({}) == {}
    assert interval({"loop/score": 3.0}) == {"loop/score_low": 3.0, "loop/score_high": 3.0}
    assert interval({"loop/score": 3.0, "loop/stderr": math.nan}) == {"loop/score_low": 3.0, "loop/score_high": 3.0}
    ends = interval({"loop/score": 3.0, "loop/stderr": 0.5})
    assert ends == {"loop/score_low": pytest.approx(2.02), "loop/score_high": pytest.approx(3.98)}
