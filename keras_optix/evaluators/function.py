"""Turns a function into an evaluator."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from keras_optix.errors import ArgumentError
from keras_optix.evaluators.base import BaseEvaluator
from keras_optix.kinds import shown
from keras_optix.records import EvalMetrics, WindowData

EvaluatorFunction = Callable[..., "EvalMetrics | float | None"]


class FunctionEvaluator(BaseEvaluator):
    """Scores each window with a function. ``OptixCallback(evaluator=function)`` wraps its function in this class.

    Args:
        function: A function of the window (a `WindowData`), or of the window and the logs of its train step. It returns
            a number (higher is better), an `EvalMetrics`, or None for a window that is no evidence.

    Raises:
        ArgumentError: The function takes neither one nor two arguments.
    """

    def __init__(self, function: EvaluatorFunction) -> None:
        self.function = function
        self._takes = _arguments_of(function)

    def score(self, window_data: WindowData, train_diagnostics: Mapping[str, float]) -> Any:
        """See `BaseEvaluator.score`."""
        return self.function(*(window_data, train_diagnostics)[: self._takes])

    def __repr__(self) -> str:
        return f"FunctionEvaluator({shown(self.function)})"


def _arguments_of(function: EvaluatorFunction) -> int:
    """Returns whether a function takes the window (1) or the window and the logs (2)."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # a function written in C
        return 2
    for count in (2, 1):
        try:
            signature.bind(*range(count))
        except TypeError:
            continue
        return count
    raise ArgumentError(
        "`evaluator` must be a function of the window and its logs, (window_data, train_diagnostics), or of the "
        f"window alone. Received: {shown(function)}{signature}. Return a number, higher is better, or an EvalMetrics."
    )
