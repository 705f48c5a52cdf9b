"""Scores from logs: which way is better, what is missing, what is NaN."""

from __future__ import annotations

import math

import numpy as np
import pytest

from keras_optix.errors import ConfigurationError
from keras_optix.evaluators.evaluation import estimate_of
from keras_optix.evaluators.monitors import MonitorEvaluator
from keras_optix.evaluators.plans import LogPlan
from keras_optix.evaluators.scorer import Scorer
from keras_optix.records import EvalMetrics, WindowData

HIGHER = [
    "acc",
    "accuracy",
    "val_sparse_categorical_accuracy",
    "AUC",
    "val_auc_1",
    "precision_2",
    "recall",
    "f1_score",
    "r2_score",
    "mean_io_u",
    "episode_return",
    "val_episode_return",
    "episode_length",
    "mean_reward",
]
LOWER = [
    "loss",
    "val_loss",
    "policy_loss",
    "mse",
    "val_root_mean_squared_error",
    "mean_absolute_error",
    "rmse",
    "approx_kl",
    "kl_divergence",
    "binary_crossentropy",
    "val_perplexity",
]


def window() -> WindowData:
    rows = np.ones((2, 1), np.float32)
    flags = np.zeros((2, 1), bool)
    return WindowData(rows, rows, rows, flags, flags, ~flags, [{}] * 2, 7)


@pytest.mark.parametrize(("names", "sign"), [(HIGHER, 1.0), (LOWER, -1.0)], ids=["higher", "lower"])
def test_the_name_says_which_way_is_better(names: list[str], sign: float) -> None:
    for name in names:
        evaluator = Scorer(MonitorEvaluator(name))
        assert evaluator.evaluator.shown(2.0) == sign * 2.0, name
        assert evaluator.plan == LogPlan(per_epoch=name.startswith("val_"))
        assert evaluator.measure_logs({name: 3.0}, 5) == EvalMetrics(sign * 3.0, {name: 3.0}, 5)


@pytest.mark.parametrize("name", ["entropy", "val_cosine_similarity", "error_rate", "neg_mse", "negative_loss", "val_"])
def test_a_name_that_does_not_say_asks_for_a_mode(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f'Received: monitor={name!r}.*mode="max".*mode="min"'):
        MonitorEvaluator(name)
    assert Scorer(MonitorEvaluator(name, "max")).measure_logs({name: 3.0}, 0).primary_score == 3.0
    assert Scorer(MonitorEvaluator(name, "min")).measure_logs({name: 3.0}, 0).primary_score == -3.0


def test_a_mode_overrides_the_name() -> None:
    assert MonitorEvaluator("loss", mode="max").shown(1.0) == 1.0


@pytest.mark.parametrize(("monitor", "mode"), [("loss", "lower"), ("loss", None), ("", "min"), (None, "min")])
def test_options_of_a_monitor_that_make_no_sense_are_refused(monitor: str, mode: str) -> None:
    with pytest.raises(ConfigurationError, match="Received: "):
        MonitorEvaluator(monitor, mode)


def test_a_window_is_scored_by_its_logs() -> None:
    evaluator = MonitorEvaluator("policy_loss")
    metrics = evaluator.score(window(), {"policy_loss": np.float32(0.5), "entropy": 1.0})
    assert metrics == EvalMetrics(-0.5, {"policy_loss": 0.5}, 7)
    assert (evaluator.plan.episodes_needed, evaluator.plays_episodes) == (0, False)
    estimate = estimate_of(metrics)
    assert estimate is not None
    assert math.isinf(estimate.stderr)


def test_validation_belongs_to_epochs_so_a_window_without_it_is_no_evidence() -> None:
    assert MonitorEvaluator("val_loss").score(window(), {"loss": 1.0}) == EvalMetrics(None, {}, 7)


def test_a_log_that_does_not_exist_is_named_with_those_that_do() -> None:
    logs = {"entropy": 1.0, "loss": 1.0, "policy_loss": 1.0, "value_loss": 1.0}
    with pytest.raises(
        ConfigurationError, match=r"monitor='polcy_loss'\. Monitor one of these: policy_loss, .*entropy"
    ):
        MonitorEvaluator("polcy_loss").score(window(), logs)
    with pytest.raises(ConfigurationError, match="no logs at all"):
        Scorer(MonitorEvaluator("loss")).measure_logs({}, 0)


@pytest.mark.parametrize("name", ["episode_return", "val_episode_return", "episode_length"])
def test_before_the_first_episode_ended_there_is_no_evidence(name: str) -> None:
    assert Scorer(MonitorEvaluator(name)).measure_logs({name: math.nan}, 4) == EvalMetrics(None, {}, 4)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float32(np.nan), np.array([np.nan])])
def test_what_is_not_finite_is_no_evidence_and_said_once(value: object) -> None:
    """An F1 score of 0 / 0 says nothing of the weights; whether these are finite is the guard's business."""
    evaluator = Scorer(MonitorEvaluator("val_loss"))
    for epoch in range(3):
        assert evaluator.measure_logs({"val_loss": value}, epoch) == EvalMetrics(None, {}, epoch)
    assert evaluator.measure_logs({"val_loss": 2.0}, 3).primary_score == -2.0
    (notice,) = evaluator.take_notices()
    assert "no evidence" in notice
    assert evaluator.take_notices() == []


@pytest.mark.parametrize("value", [np.ones(3), [[1.0, 2.0]], "0.5", {"a": 1.0}, None])
def test_what_is_no_number_is_no_evidence_and_the_reader_is_told_what_to_do(value: object) -> None:
    evaluator = Scorer(MonitorEvaluator("val_f1_score"))
    with pytest.warns(UserWarning, match=r"val_f1_score.*not one number.*macro.*before OptixCallback"):
        assert evaluator.measure_logs({"val_f1_score": value}, 0).primary_score is None
    assert evaluator.measure_logs({"val_f1_score": value}, 1).primary_score is None  # without another warning
    assert evaluator.measure_logs({"val_f1_score": np.array([0.5])}, 2).primary_score == 0.5


def test_a_log_that_was_there_may_be_missing_and_one_that_never_was_is_an_error() -> None:
    evaluator = Scorer(MonitorEvaluator("val_f1"))
    assert evaluator.measure_logs({"loss": 1.0}, 0).primary_score is None  # validation did not run
    with pytest.raises(
        ConfigurationError, match=r"no such log.*val_f1_score, .*put that callback before OptixCallback"
    ):
        evaluator.measure_logs({"loss": 1.0, "val_loss": 1.0, "val_f1_score": 1.0}, 1)
    assert evaluator.measure_logs({"loss": 1.0, "val_f1": 1.0}, 2).primary_score == 1.0
    assert evaluator.measure_logs({"loss": 1.0, "val_loss": 1.0}, 3).primary_score is None
    restored = Scorer(MonitorEvaluator("val_f1"))
    restored.restore(evaluator.save())
    assert restored.measure_logs({"loss": 1.0, "val_loss": 1.0}, 4).primary_score is None
    evaluator.reset()
    with pytest.raises(ConfigurationError, match="no such log"):
        evaluator.measure_logs({"val_loss": 1.0}, 0)


def test_validation_that_never_runs_is_warned_of_once() -> None:
    evaluator = Scorer(MonitorEvaluator("val_loss"))
    for epoch in range(9):
        evaluator.measure_logs({"loss": 1.0}, epoch)
    with pytest.warns(UserWarning, match="no 'val_loss' in the logs of 10 epochs.*validation_data"):
        evaluator.measure_logs({"loss": 1.0}, 9)
    evaluator.measure_logs({"loss": 1.0}, 10)
    evaluator.finish()
