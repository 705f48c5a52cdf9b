"""A log as a score: what a Keras callback calls `monitor`."""

from __future__ import annotations

import difflib
import math
import re
import warnings
from collections.abc import Mapping
from typing import Any, Literal

from msgspec.structs import replace

from keras_optix.errors import ConfigurationError, describe
from keras_optix.evaluators.base import BaseEvaluator, Scored
from keras_optix.evaluators.log_values import kind_of, number_in
from keras_optix.evaluators.plans import LogPlan
from keras_optix.records import EvalMetrics, WindowData
from keras_optix.states import Count, State
from keras_optix.validation import check_choice, check_name

_VALIDATION = "val_"
_WARNED = "warned"
_PATIENCE = 10  # epochs without validation before a warning
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


class MonitorState(State, frozen=True):
    """What a `MonitorEvaluator` remembers.

    Attributes:
        seen: Whether the log has been there in this run.
        unvalidated: Epochs without validation.
        said: Kinds of trouble that people were told of.
    """

    seen: bool = False
    unvalidated: Count = 0
    said: tuple[str, ...] = ()


class MonitorEvaluator(BaseEvaluator):
    """Scores by a log of `fit`: of each window, or of each epoch for the logs of validation.

    The score is higher for what is better: with mode ``"min"`` it is the log with its sign changed. It has no standard
    error, so the loop estimates its noise from the history of scores.

    A window or an epoch whose log is not one finite number is no evidence: NaN (an F1 score of 0 / 0), an infinity, a
    vector with one value per class, a string, or a log that is only there every few epochs. Nothing is scored, tuned or
    undone because of it, and it is said once for each kind. An array of one element counts as its number.

    Args:
        monitor: Name of the log, such as ``"val_loss"``, ``"accuracy"`` or ``"episode_return"``.
        mode: ``"max"`` if higher is better, ``"min"`` if lower is. Defaults to ``"auto"``: by the last word of the
            name, such as accuracy, auc, score, return and reward (higher) or loss, error, mse, kl and perplexity
            (lower).

    Attributes:
        plan: Says whether the log is one of validation (``"val_..."``), which an epoch has and a window has not.

    Raises:
        ConfigurationError: `monitor` is no name, `mode` is none of the three, or ``"auto"`` cannot tell.
    """

    plan: LogPlan

    def __init__(self, monitor: str, mode: Literal["auto", "min", "max"] = "auto") -> None:
        fix = 'Such as monitor="val_loss".'
        if isinstance(monitor, list | tuple):
            fix = "One log is scored; score several with an evaluator of your own."
        monitor = check_name("monitor", monitor, "the name of a log", fix=fix)
        check_choice("mode", mode, ("auto", "min", "max"))
        self.monitor = monitor
        self.mode = _infer_mode(monitor) if mode == "auto" else mode
        self._sign = 1.0 if self.mode == "max" else -1.0
        self.plan = LogPlan(per_epoch=monitor.startswith(_VALIDATION))

    def shown(self, score: float) -> float:
        """See `BaseEvaluator.shown`: the log itself."""
        return score * self._sign

    def initial_state(self) -> MonitorState:
        """See `BaseEvaluator.initial_state`."""
        return MonitorState()

    def observe(self, state: MonitorState, window_data: WindowData, train_diagnostics: Mapping[str, Any]) -> Scored:
        """See `BaseEvaluator.observe`. Where epochs are scored, a window is no evidence.

        Raises:
            ConfigurationError: There is no such log.
        """
        if self.plan.per_epoch and self.monitor not in train_diagnostics:
            return Scored(EvalMetrics(None, {}, window_data.window_id), state)
        return self.observe_logs(state, train_diagnostics, window_data.window_id)

    def score(self, window_data: WindowData, train_diagnostics: Mapping[str, Any]) -> EvalMetrics:
        """See `BaseEvaluator.score`: the score of a window as if it were the first of a run.

        Raises:
            ConfigurationError: There is no such log.
        """
        return self.observe(self.initial_state(), window_data, train_diagnostics).metrics

    def observe_logs(self, state: MonitorState, logs: Mapping[str, Any], unit_id: int) -> Scored:
        """Scores the logs of a window or an epoch.

        Args:
            state: What is remembered so far.
            logs: The logs.
            unit_id: Number of the window or the epoch.

        Returns:
            The score; none where the log is not one finite number, or is missing after it has been there before.

        Raises:
            ConfigurationError: There is no such log. Validation that did not run in an epoch (``validation_freq=2``) is
                no reason: then none of its logs is there.
        """
        if self.monitor not in logs:
            return self._without_log(state, logs, unit_id)
        nothing, state = EvalMetrics(None, {}, unit_id), replace(state, seen=True)
        value = number_in(logs[self.monitor])
        if value is None:
            return self._no_number(state, logs[self.monitor], nothing)
        if not math.isfinite(value):
            # The logs of episodes are NaN until the first one has ended, which is nobody's fault.
            if not math.isnan(value) or self.monitor.removeprefix(_VALIDATION) not in _EPISODE_LOGS:
                what = f"{self.monitor!r} was {value} in the logs of number {unit_id}"
                return Scored(nothing, *_say_once(state, "not finite", what))
            return Scored(nothing, state)
        return Scored(EvalMetrics(self._sign * value, {self.monitor: value}, unit_id), state)

    def finish(self, state: MonitorState) -> MonitorState:
        """Warns if validation never ran, once: ``validation_freq`` may have it begin late, but then it must begin.

        Args:
            state: What is remembered.

        Returns:
            The state after it.
        """
        if state.seen or not state.unvalidated or _WARNED in state.said:
            return state
        warnings.warn(
            f"There was no {self.monitor!r} in the logs of {state.unvalidated} epochs: nothing is scored until "
            "validation runs. Give `fit` its `validation_data`, or monitor another log.",
            stacklevel=2,
        )
        return replace(state, said=(*state.said, _WARNED))

    def _without_log(self, state: MonitorState, logs: Mapping[str, Any], unit_id: int) -> Scored:
        nothing = EvalMetrics(None, {}, unit_id)
        validated = not self.plan.per_epoch or any(name.startswith(_VALIDATION) for name in logs)
        if validated and not state.seen:
            raise ConfigurationError(_no_such_log(self.monitor, logs))
        if validated:
            what = f"{self.monitor!r} is missing among the logs of number {unit_id}"
            return Scored(nothing, *_say_once(state, "absent", what))
        state, notice = replace(state, unvalidated=state.unvalidated + 1), None
        if not state.seen:
            what = f"no validation ran in number {unit_id}, so there is no {self.monitor!r}"
            state, notice = _say_once(state, "validation", what)
        return Scored(nothing, self.finish(state) if state.unvalidated >= _PATIENCE else state, notice)

    def _no_number(self, state: MonitorState, value: Any, nothing: EvalMetrics) -> Scored:
        """Warns, too: what is no number once will hardly ever be one."""
        kind = kind_of(value)
        if kind in state.said:
            return Scored(nothing, state)
        warnings.warn(
            f"The monitored log {self.monitor!r} is {kind} and not one number, so it scores nothing. Monitor another "
            "log, choose a metric of one number (such as F1Score(average='macro')), or put one into the logs in a "
            "callback that stands before OptixCallback.",
            stacklevel=2,
        )
        return Scored(nothing, *_say_once(state, kind, f"{self.monitor!r} is {kind} and not one number"))


def _say_once(state: MonitorState, trouble: str, what: str) -> tuple[MonitorState, str | None]:
    """The state after a trouble, and what people are told of it if it is the first of its kind."""
    if trouble in state.said:
        return state, None
    told = f"{what}: it is no evidence, and nothing is done about it (this is said once)"
    return replace(state, said=(*state.said, trouble)), told


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


def _no_such_log(monitor: str, logs: Mapping[str, Any]) -> str:
    """The message for a log that does not exist; the names most like it come first."""
    likeness = {name: difflib.SequenceMatcher(None, monitor, name).ratio() for name in sorted(logs)}
    names = sorted(likeness, key=lambda name: -likeness[name])
    fix = f"Monitor one of these: {', '.join(names)}." if names else "There are no logs at all: compile with a loss."
    fix += (
        " If another callback adds it, that must stand before OptixCallback; in epochs in which it has no value it can "
        "add NaN."
    )
    return describe("There is no such log.", fix=fix, monitor=monitor)
