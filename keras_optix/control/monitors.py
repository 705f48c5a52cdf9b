"""A log as a score: what a Keras callback calls `monitor`."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from typing import Literal

from keras_optix.control.evaluators import BaseEvaluator
from keras_optix.control.records import EpisodeData, EvalMetrics
from keras_optix.errors import ConfigurationError, describe
from keras_optix.validation import check_choice

_VALIDATION = "val_"
_EPISODE_LOGS = ("episode_return", "episode_length")  # NaN until the first episode ended
# The last word of a log's name says which way is better.
_HIGHER = {"acc", "accuracy", "auc", "precision", "recall", "f1", "score", "return", "reward", "iou", "length"}
_LOWER = {
    "loss",
    "error",
    "mae",
    "mse",
    "rmse",
    "mape",
    "msle",
    "kl",
    "divergence",
    "perplexity",
    "crossentropy",
}


class MonitorEvaluator(BaseEvaluator):
    """Scores by a log of `fit`: of each window, or of each epoch for the logs of validation.

    The score is higher for what is better: with mode ``"min"`` it is the log with its sign changed. It has no standard
    error, so the loop estimates its noise from the history of scores.

    Args:
        monitor: Name of the log, such as ``"val_loss"``, ``"accuracy"`` or ``"episode_return"``.
        mode: ``"max"`` if higher is better, ``"min"`` if lower is. Defaults to ``"auto"``: by the last word of the
            name, such as accuracy, auc, score, return and reward (higher) or loss, error, mse, kl and perplexity
            (lower).

    Attributes:
        sign: +1.0 where higher is better, -1.0 where lower is.
        per_epoch: Whether the log is one of validation (``"val_..."``), which an epoch has and a window has not.

    Raises:
        ConfigurationError: `monitor` is no name, `mode` is none of the three, or ``"auto"`` cannot tell.
    """

    reads_logs = True

    def __init__(self, monitor: str, mode: Literal["auto", "min", "max"] = "auto") -> None:
        if not isinstance(monitor, str) or not monitor:
            raise ConfigurationError(describe("`monitor` must be the name of a log.", monitor=monitor))
        check_choice("mode", mode, ("auto", "min", "max"))
        self.monitor = monitor
        self.mode = _infer_mode(monitor) if mode == "auto" else mode
        self.sign = 1.0 if self.mode == "max" else -1.0
        self.per_epoch = monitor.startswith(_VALIDATION)

    def score(self, episode_data: EpisodeData, train_diagnostics: Mapping[str, float]) -> EvalMetrics:
        """See `BaseEvaluator.score`. Where epochs are scored, a window is no evidence.

        Raises:
            ConfigurationError: There is no such log.
        """
        if self.per_epoch and self.monitor not in train_diagnostics:
            return EvalMetrics(None, {}, episode_data.episode_id)
        return self.score_logs(train_diagnostics, episode_data.episode_id)

    def score_logs(self, logs: Mapping[str, float], unit_id: int) -> EvalMetrics:
        """Scores the logs of a window or an epoch.

        Args:
            logs: The logs.
            unit_id: Number of the window or the epoch.

        Returns:
            The score. There is none where the log of episodes is NaN, for then no episode has ended. The NaN of any
            other log is the score, for the loop to deal with.

        Raises:
            ConfigurationError: There is no such log.
        """
        if self.monitor not in logs:
            raise ConfigurationError(_no_such_log(self.monitor, logs))
        value = float(logs[self.monitor])
        if math.isnan(value) and self.monitor.removeprefix(_VALIDATION) in _EPISODE_LOGS:
            return EvalMetrics(None, {}, unit_id)
        return EvalMetrics(self.sign * value, {self.monitor: value}, unit_id)


def _infer_mode(monitor: str) -> str:
    """Which way is better, by the last word of the name.

    Raises:
        ConfigurationError: The name does not tell.
    """
    name = monitor.removeprefix(_VALIDATION).lower()
    # Keras numbers metrics of one name (auc_1), and spells IoU "io_u".
    words = re.sub(r"_\d+$", "", name).replace("io_u", "iou").split("_")
    negated = words[0] in ("neg", "negative")
    if words[-1] in _HIGHER and not negated:
        return "max"
    if words[-1] in _LOWER and not negated:
        return "min"
    raise ConfigurationError(
        describe(
            "The name of this log does not tell which way is better.",
            fix='Give `mode="max"` if higher is better, `mode="min"` if lower is.',
            monitor=monitor,
        )
    )


def _no_such_log(monitor: str, logs: Mapping[str, float]) -> str:
    """The message for a log that does not exist; the names most like it come first."""
    likeness = {name: difflib.SequenceMatcher(None, monitor, name).ratio() for name in sorted(logs)}
    names = sorted(likeness, key=lambda name: -likeness[name])
    return describe(
        "There is no such log.",
        fix=f"Monitor one of these: {', '.join(names)}." if names else "There are no logs at all: compile with a loss.",
        monitor=monitor,
    )
