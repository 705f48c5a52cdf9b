"""Pools the scores of windows into evaluations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras_optix.evaluators.evaluation import Evaluation, estimate_of
from keras_optix.records import EvalMetrics
from keras_optix.statistics.estimates import Estimate, pool


class ScorePool:
    """Gathers the scores of windows until they make an evaluation.

    Windows that were collected by weights which a changed hyperparameter has not trained yet say nothing about it:
    `drop_until` empties the pool and skips them.

    Args:
        min_episodes: Episodes that an evaluation needs; 0 where every scored window is an evaluation. The attribute may
            be set at any time.
    """

    def __init__(self, min_episodes: int = 0) -> None:
        self.min_episodes = min_episodes
        self.estimate: Estimate | None = None
        self.skip_until = -1
        self._windows: tuple[int, int] = (0, 0)  # the sum of their numbers, and how many are in the pool

    def add(self, metrics: EvalMetrics, window_id: int) -> None:
        """Adds the score of a window; one without evidence adds nothing."""
        estimate = estimate_of(metrics)
        if estimate is None or window_id <= self.skip_until:
            return
        total, count = (0, 0) if self.estimate is None else self._windows
        self._windows = total + window_id, count + 1
        self.estimate = estimate if self.estimate is None else pool(self.estimate, estimate)

    def drop_until(self, window_id: int) -> None:
        """Empties the pool, and ignores windows up to and including `window_id`."""
        self.estimate = None
        self.skip_until = window_id

    def to_json(self) -> dict[str, Any]:
        """Returns what was pooled and what is skipped as JSON values."""
        return {
            "estimate": None if self.estimate is None else self.estimate.to_json(),
            "skip_until": self.skip_until,
            "windows": self._windows,
        }

    def from_json(self, values: Mapping[str, Any]) -> None:
        """Restores what `to_json` returned."""
        estimate = values["estimate"]
        self.estimate = None if estimate is None else Estimate.from_json(estimate)
        self.skip_until = values["skip_until"]
        self._windows = tuple(values["windows"])

    @property
    def ready(self) -> bool:
        """Whether there is enough evidence for an evaluation."""
        return self.estimate is not None and self.estimate.n >= max(self.min_episodes, 1)

    def take(self, *, window_id: int, policy_version: int, env_steps: int, at_end: bool = False) -> Evaluation:
        """Returns what was pooled as an evaluation and empties the pool.

        Args:
            window_id: The last window.
            policy_version: Version of the weights that acted in it.
            env_steps: Environment steps of the run.
            at_end: The scores belong to the weights that the windows (epochs) ended with, not to those that they began
                with.

        Raises:
            ValueError: The pool is empty.
        """
        if self.estimate is None:
            raise ValueError("The pool is empty; ask `ready` first.")
        total, count = self._windows
        lag = window_id - total / count + (0.0 if at_end else 1.0)
        evaluation = Evaluation(self.estimate, window_id, policy_version, env_steps, lag)
        self.estimate = None
        return evaluation
