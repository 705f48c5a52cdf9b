"""Uses a log of `fit` as the score, like the `monitor` argument of Keras callbacks."""

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
_EPISODE_LOGS = ("episode_return", "episode_length")  # NaN until the first episode has ended
# The last word of a log's name tells whether higher or lower is better.
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
    """The memory of a `MonitorEvaluator`.

    Attributes:
        seen: Whether the log has appeared in this run.
        unvalidated: Epochs without validation so far.
        said: Kinds of problems that the user was already told about.
    """

    seen: bool = False
    unvalidated: Count = 0
    said: tuple[str, ...] = ()


class MonitorEvaluator(BaseEvaluator):
    """Takes a log of `fit` as the score: a log of each window, or a log of each epoch if it comes from validation.

    A higher score is always better: with mode ``"min"`` the score is the negative of the log. It has no standard error,
    so the loop estimates the noise from the history of scores.

    A window or an epoch whose log is not one finite number is no evidence: NaN (an F1 score of 0 / 0), an infinity, a
    vector with one value per class, a string, or a log that appears only every few epochs. Nothing is scored, tuned or
    undone because of it, and a notice says so once for each kind. An array of one element counts as a number.

    Args:
        monitor: Name of the log, such as ``"val_loss"``, ``"accuracy"`` or ``"episode_return"``.
        mode: ``"max"`` if higher is better, ``"min"`` if lower is better. Defaults to ``"auto"``, which decides by the
            last word of the name, such as accuracy, auc, score, return and reward (higher) or loss, error, mse, kl and
            perplexity (lower).

    Attributes:
        plan: A `LogPlan` that says whether the log comes from validation (``"val_..."``) and so belongs to an epoch,
            not to a window.

    Raises:
        ConfigurationError: `monitor` is not a name, `mode` is not one of the three, or ``"auto"`` cannot decide.

    Examples:
        >>> callback = optix.OptixCallback(optix.evaluators.MonitorEvaluator("val_accuracy", mode="max"))
    """

    plan: LogPlan

    def __init__(self, monitor: str, mode: Literal["auto", "min", "max"] = "auto") -> None:
        fix = 'Such as monitor="val_loss".'
        if isinstance(monitor, list | tuple):
            fix = "One log is scored. To combine several logs, write a subclass of `BaseEvaluator`."
        monitor = check_name("monitor", monitor, "the name of a log", fix=fix)
        check_choice("mode", mode, ("auto", "min", "max"))
        self.monitor = monitor
        self.mode = _infer_mode(monitor) if mode == "auto" else mode
        self._sign = 1.0 if self.mode == "max" else -1.0
        self.plan = LogPlan(per_epoch=monitor.startswith(_VALIDATION))

    def shown(self, score: float) -> float:
        """See `BaseEvaluator.shown`. Returns the log itself."""
        return score * self._sign

    def initial_state(self) -> MonitorState:
        """See `BaseEvaluator.initial_state`."""
        return MonitorState()

    def observe(self, state: MonitorState, window_data: WindowData, train_diagnostics: Mapping[str, Any]) -> Scored:
        """See `BaseEvaluator.observe`. If epochs are scored, a window is no evidence.

        Raises:
            ConfigurationError: There is no such log.
        """
        if self.plan.per_epoch and self.monitor not in train_diagnostics:
            return Scored(EvalMetrics(None, {}, window_data.window_id), state)
        return self.observe_logs(state, train_diagnostics, window_data.window_id)

    def score(self, window_data: WindowData, train_diagnostics: Mapping[str, Any]) -> EvalMetrics:
        """See `BaseEvaluator.score`. Scores the window as if it were the first of a run.

        Raises:
            ConfigurationError: There is no such log.
        """
        return self.observe(self.initial_state(), window_data, train_diagnostics).metrics

    def observe_logs(self, state: MonitorState, logs: Mapping[str, Any], unit_id: int) -> Scored:
        """Scores the logs of a window or an epoch.

        Args:
            state: The state so far.
            logs: The logs.
            unit_id: Number of the window or the epoch.

        Returns:
            The score and the state. The score is None if the log is not one finite number, or is missing although it
            appeared earlier.

        Raises:
            ConfigurationError: There is no such log. This is not raised for an epoch without validation
                (``validation_freq=2``), because then all logs of validation are missing.
        """
        if self.monitor not in logs:
            return self._without_log(state, logs, unit_id)
        nothing, state = EvalMetrics(None, {}, unit_id), replace(state, seen=True)
        value = number_in(logs[self.monitor])
        if value is None:
            return self._no_number(state, logs[self.monitor], nothing)
        if not math.isfinite(value):
            # The logs of episodes are NaN until the first episode has ended, which is no problem to report.
            if not math.isnan(value) or self.monitor.removeprefix(_VALIDATION) not in _EPISODE_LOGS:
                what = f"{self.monitor!r} was {value} in the logs of number {unit_id}"
                return Scored(nothing, *_say_once(state, "not finite", what))
            return Scored(nothing, state)
        return Scored(EvalMetrics(self._sign * value, {self.monitor: value}, unit_id), state)

    def finish(self, state: MonitorState) -> MonitorState:
        """Warns once if validation never ran. ``validation_freq`` may let it begin late, but it must begin.

        Args:
            state: The state so far.

        Returns:
            The state after the warning.
        """
        if state.seen or not state.unvalidated or _WARNED in state.said:
            return state
        warnings.warn(
            f"There was no {self.monitor!r} in the logs of {state.unvalidated} epochs. Nothing is scored until "
            "validation runs. Pass `validation_data` to `fit`, or monitor another log.",
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
        """Scores nothing and warns: a log that is not one number now will hardly ever be one."""
        kind = kind_of(value)
        if kind in state.said:
            return Scored(nothing, state)
        warnings.warn(
            f"The monitored log {self.monitor!r} is {kind} and not one number, so nothing is scored. Monitor another "
            "log, choose a metric that is one number (such as F1Score(average='macro')), or add a number to the logs "
            "in a callback that comes before OptixCallback.",
            stacklevel=2,
        )
        return Scored(nothing, *_say_once(state, kind, f"{self.monitor!r} is {kind} and not one number"))


def _say_once(state: MonitorState, trouble: str, what: str) -> tuple[MonitorState, str | None]:
    """Returns the state after a problem, and a notice for the user if the problem is the first of its kind."""
    if trouble in state.said:
        return state, None
    told = f"{what}: this is no evidence, and the loop ignores it (this notice appears once)"
    return replace(state, said=(*state.said, trouble)), told


def _infer_mode(monitor: str) -> str:
    """Decides by the last word of the name whether higher or lower is better.

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
            "The name of this log does not tell whether higher or lower is better.",
            fix='Give `mode="max"` if higher is better, `mode="min"` if lower is.',
            monitor=monitor,
        )
    )


def _no_such_log(monitor: str, logs: Mapping[str, Any]) -> str:
    """Builds the message for a log that does not exist, with the most similar names first."""
    likeness = {name: difflib.SequenceMatcher(None, monitor, name).ratio() for name in sorted(logs)}
    names = sorted(likeness, key=lambda name: -likeness[name])
    fix = f"Monitor one of these: {', '.join(names)}." if names else "There are no logs at all: compile with a loss."
    fix += (
        " If another callback adds the log, put that callback before OptixCallback. In epochs without a value it can "
        "add NaN."
    )
    return describe("There is no such log.", fix=fix, monitor=monitor)
