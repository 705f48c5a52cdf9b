"""Evaluators of returns: those of the episodes of training, and those of the most likely actions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from keras_optix.errors import StateError, describe
from keras_optix.evaluators.base import BaseEvaluator
from keras_optix.records import EpisodeRecord, EvalMetrics, WindowData
from keras_optix.statistics.estimates import estimate_from_samples
from keras_optix.validation import check_bool, check_float, check_int


class ReturnEvaluator(BaseEvaluator):
    """Scores a window by the mean undiscounted return of the episodes that ended in it.

    A window in which no episode ended is no evidence. The loop pools windows until `min_episodes` ended.

    Where episodes do not end, the score is the reward rate: the mean reward per environment step of a window. Which of
    the two is decided once per run: the return as soon as one episode ended; the rate if none has ended in the first
    `rate_after` steps of each environment. Episodes that end later do not change that, for a return and a rate cannot
    be compared.

    Args:
        min_episodes: Episodes in one evaluation, at least 2 (one episode has no standard error). Defaults to 10. While
            the reward rate is scored, the attribute is 0: every window is an evaluation.
        rate_after: Steps of each environment (time steps, not times the number of environments) without an end of an
            episode until the reward rate is scored, at least 1. Defaults to 10,000. If the episodes of an environment
            can be longer, choose more than its longest: an episode that takes 50,000 steps needs 50,001.
        in_place: Evaluate only in the training environments: of one that cannot be copied. Defaults to False.

    Raises:
        ConfigurationError: An argument is not an integer or too small.
    """

    def __init__(self, min_episodes: int = 10, rate_after: int = 10_000, in_place: bool = False) -> None:
        self.in_place = check_bool("in_place", in_place)
        self.rate_after = check_int("rate_after", rate_after, minimum=1)
        self._evaluation_episodes = check_int("min_episodes", min_episodes, minimum=2)
        self.reset()

    @property
    def plays_episodes(self) -> bool:
        """See `BaseEvaluator.plays_episodes`. Not while the reward rate is scored."""
        return self._measure != "rate"

    def _facts(self) -> Mapping[str, str]:
        return {"measure": self._measure or "undecided"}

    def reset(self) -> None:
        """See `BaseEvaluator.reset`."""
        self._measure: str | None = None  # "return", "rate", or None: not decided yet
        self._steps = 0.0  # of each environment, until that is decided
        self._notice: str | None = None
        self.min_episodes = self._evaluation_episodes

    def score(self, window_data: WindowData, train_diagnostics: Mapping[str, float]) -> EvalMetrics:
        """See `BaseEvaluator.score`."""
        if self._measure is None:
            self._decide(window_data)
        if self._measure == "rate":
            return _reward_rate(window_data)
        if not window_data.episodes:
            return EvalMetrics(None, {}, window_data.window_id, episodes=0)
        return replace(self.score_episodes(window_data.episodes), window_id=window_data.window_id)

    def score_episodes(self, episodes: Sequence[EpisodeRecord]) -> EvalMetrics:
        """See `BaseEvaluator.score_episodes`."""
        return _mean_return(episodes)

    def episode_scores(self, episodes: Sequence[EpisodeRecord]) -> Sequence[float]:
        """See `BaseEvaluator.episode_scores`."""
        return [episode.total_reward for episode in episodes]

    def to_json(self) -> dict[str, Any]:
        """See `BaseEvaluator.to_json`."""
        return {"measure": self._measure, "steps": self._steps, "notice": self._notice}

    def from_json(self, values: Mapping[str, Any]) -> None:
        """See `BaseEvaluator.from_json`.

        Raises:
            StateError: `values` is not the state of a ReturnEvaluator.
        """
        try:
            measure, notice = values["measure"], values["notice"]
            steps = check_float("steps", values["steps"], low=0.0)
        except (KeyError, TypeError, ValueError) as error:
            raise _wrong_state(values) from error
        if measure not in (None, "return", "rate") or not isinstance(notice, str | None):
            raise _wrong_state(values)
        self.reset()
        self._steps, self._notice = steps, notice
        self._settle(measure)

    def take_notice(self) -> str | None:
        """See `BaseEvaluator.take_notice`."""
        notice, self._notice = self._notice, None
        return notice

    def _decide(self, window_data: WindowData) -> None:
        """Decides what is measured, if this window tells."""
        environments = window_data.valid.shape[1]
        self._steps += window_data.length / environments
        if window_data.episodes:
            self._settle("return")
        elif self._steps >= self.rate_after:
            self._settle("rate")
            self._notice = (
                f"No episode ended in {self._steps:,.0f} steps of each environment, so the mean reward per step is the "
                "score from now on; if episodes are longer than that, set ReturnEvaluator(rate_after=...)."
            )

    def _settle(self, measure: str | None) -> None:
        self._measure = measure
        self.min_episodes = 0 if measure == "rate" else self._evaluation_episodes


class GreedyEvaluator(BaseEvaluator):
    """Scores the most likely actions: the loop plays whole episodes with them, on an environment of its own.

    Training windows are not looked at. That costs environment steps beside those of training, and measures what
    `evaluate_policy` measures.

    Args:
        episodes: Episodes in one evaluation, at least 2 (one episode has no standard error). Defaults to 20.
        every: Windows from one evaluation to the next, at least 1. Defaults to 10. While COOLING, the scheduler's
            interval, which counts windows too, can make it more.

    Raises:
        ConfigurationError: An argument is not an integer or too small.
    """

    deterministic = True

    def __init__(self, episodes: int = 20, every: int = 10) -> None:
        self.episodes = check_int("episodes", episodes, minimum=2)
        self.every = check_int("every", every, minimum=1)
        self.min_episodes = self.episodes

    def score(self, window_data: WindowData, train_diagnostics: Mapping[str, float]) -> EvalMetrics:
        """See `BaseEvaluator.score`. A window is no evidence: its actions were sampled."""
        return EvalMetrics(None, {}, window_data.window_id, episodes=0)

    def score_episodes(self, episodes: Sequence[EpisodeRecord]) -> EvalMetrics:
        """See `BaseEvaluator.score_episodes`."""
        return _mean_return(episodes)

    def episode_scores(self, episodes: Sequence[EpisodeRecord]) -> Sequence[float]:
        """See `BaseEvaluator.episode_scores`."""
        return [episode.total_reward for episode in episodes]


def _mean_return(episodes: Sequence[EpisodeRecord]) -> EvalMetrics:
    """The mean return of episodes, with its standard error."""
    returns = np.array([episode.total_reward for episode in episodes], np.float64)
    lengths = np.array([episode.length for episode in episodes], np.int64)
    estimate = estimate_from_samples(returns)
    return EvalMetrics(
        primary_score=estimate.mean,
        metrics={
            "episode_return_std": float(returns.std(ddof=1)) if estimate.n > 1 else 0.0,
            "episode_return_min": float(returns.min()),
            "episode_return_max": float(returns.max()),
            "episode_length": float(lengths.mean()),
        },
        stderr=estimate.stderr if estimate.n > 1 else None,
        episodes=estimate.n,
        episode_returns=returns,
        episode_lengths=lengths,
    )


def _reward_rate(window_data: WindowData) -> EvalMetrics:
    """The mean reward per environment step of a window.

    Without a standard error: successive steps depend on each other, so their spread says little about the mean's.
    """
    if window_data.length == 0:
        return EvalMetrics(None, {}, window_data.window_id)
    rate = window_data.total_reward / window_data.length
    return EvalMetrics(rate, {"reward_rate": rate}, window_data.window_id)


def _wrong_state(values: object) -> StateError:
    fix = "Resume with the evaluator that the run began with, or start a new run."
    return StateError(describe("This is not the state of a ReturnEvaluator.", fix=fix, values=values))
