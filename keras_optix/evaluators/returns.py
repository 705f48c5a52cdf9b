"""Evaluators that score returns: of the training episodes, or of episodes played with the most likely actions."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from keras_optix.evaluators.base import BaseEvaluator, Scored
from keras_optix.evaluators.info_metrics import InfoMetric, check_metric, metric_values
from keras_optix.evaluators.plans import EpisodePlan, EvaluationPlan, WindowPlan
from keras_optix.evaluators.played import with_infos
from keras_optix.records import EpisodeRecord, EvalMetrics, WindowData
from keras_optix.states import NonNegative, State
from keras_optix.statistics.estimates import estimate_from_samples
from keras_optix.validation import check_bool, check_int


class Measure(enum.Enum):
    """The quantity that a `ReturnEvaluator` scores, once it has decided."""

    RETURN = "return"
    RATE = "rate"


class ReturnState(State, frozen=True):
    """The memory of a `ReturnEvaluator`.

    Attributes:
        measure: The quantity that is scored; None until it is decided.
        steps: Steps of each environment up to that decision.
    """

    measure: Measure | None = None
    steps: NonNegative = 0.0


class ReturnEvaluator(BaseEvaluator):
    """Scores a window by the mean undiscounted return of the episodes that ended in it.

    A window in which no episode ended is no evidence. The loop pools windows until `min_episodes` have ended.

    If episodes do not end, the score is the reward rate: the mean reward per environment step of a window. The choice
    is made once per run: the return as soon as one episode has ended; the rate if none has ended in the first
    `rate_after` steps of each environment. Episodes that end later do not change it, because a return and a rate cannot
    be compared.

    Args:
        min_episodes: Episodes in one evaluation, at least 2 (one episode has no standard error). Defaults to 10. While
            the reward rate is scored, every window is an evaluation.
        rate_after: If no episode has ended after this many steps of each environment, the reward rate is scored, at
            least 1. These are time steps, not multiplied by the number of environments. Defaults to 10,000. If episodes
            can be longer, choose more than the longest: an episode that takes 50,000 steps needs 50,001.
        in_place: Evaluate only in the training environments, with learning paused. Use it for an environment that
            cannot be copied. Defaults to False.

        metric: A key of the info dict of an episode's last step (``"profit"``), or a function of this dict that returns
            a number: the mean of this metric is scored instead of the mean return. There is then no reward rate. None
            (the default): the return.

    With ``OptixCallback(eval_env=...)``, `min_episodes` episodes with the most likely actions are played there, and
    their returns (or their metric) are scored.

    Raises:
        ConfigurationError: An argument has the wrong type or is too small.

    Examples:
        >>> callback = optix.OptixCallback(optix.ReturnEvaluator(min_episodes=20))
    """

    plan: WindowPlan

    def __init__(
        self,
        min_episodes: int = 10,
        rate_after: int = 10_000,
        in_place: bool = False,
        *,
        metric: InfoMetric | None = None,
    ) -> None:
        self._min_episodes = check_int("min_episodes", min_episodes, minimum=2)
        self._in_place = check_bool("in_place", in_place)
        self.rate_after = check_int("rate_after", rate_after, minimum=1)
        self.metric = check_metric(metric)
        self.plan = WindowPlan(self._min_episodes, self._in_place)
        self._rate_plan = WindowPlan(in_place=self._in_place)  # every window with a score is an evaluation

    def initial_state(self) -> ReturnState:
        """See `BaseEvaluator.initial_state`."""
        return ReturnState()

    def plan_in(self, state: ReturnState) -> EvaluationPlan:
        """See `BaseEvaluator.plan_in`. While the reward rate is scored, every window is an evaluation."""
        return self._rate_plan if state.measure is Measure.RATE else self.plan

    def plays_in(self, state: ReturnState) -> bool:
        """See `BaseEvaluator.plays_in`. False while the reward rate is scored."""
        return state.measure is not Measure.RATE

    def scores_returns_in(self, state: ReturnState) -> bool:
        """See `BaseEvaluator.scores_returns_in`. False while the reward rate is scored, and with a `metric`."""
        return state.measure is not Measure.RATE and self.metric is None

    def observe(self, state: ReturnState, window_data: WindowData, train_diagnostics: Mapping[str, float]) -> Scored:
        """See `BaseEvaluator.observe`."""
        notice = None
        if state.measure is None:
            state, notice = self._decide(state, window_data)
        if state.measure is Measure.RATE:
            metrics = _reward_rate(window_data)
        elif window_data.episodes:
            episodes = window_data.episodes if self.metric is None else with_infos(window_data)
            metrics = replace(self.score_episodes(episodes), window_id=window_data.window_id)
        else:
            metrics = EvalMetrics(None, {}, window_data.window_id, episodes=0)
        return Scored(metrics, state, notice)

    def score(self, window_data: WindowData, train_diagnostics: Mapping[str, float]) -> EvalMetrics:
        """See `BaseEvaluator.score`. Scores the window as if it were the first of a run."""
        return self.observe(self.initial_state(), window_data, train_diagnostics).metrics

    def score_episodes(self, episodes: Sequence[EpisodeRecord]) -> EvalMetrics:
        """See `BaseEvaluator.score_episodes`."""
        return _mean_score(episodes, self.metric)

    def episode_scores(self, episodes: Sequence[EpisodeRecord]) -> Sequence[float]:
        """See `BaseEvaluator.episode_scores`."""
        return _scores(episodes, self.metric)

    def measure_member(self, state: Any, data: WindowData, logs: Mapping[str, float]) -> EvalMetrics | None:
        """See `BaseEvaluator.measure_member`."""
        return super().measure_member(state, data if self.metric is None else _with_infos(data), logs)

    def _decide(self, state: ReturnState, window_data: WindowData) -> tuple[ReturnState, str | None]:
        """Decides what is scored, if this window allows a decision; also returns the notice for the user."""
        steps = state.steps + window_data.length / window_data.valid.shape[1]
        if window_data.episodes:
            return ReturnState(Measure.RETURN, steps), None
        if steps < self.rate_after:
            return ReturnState(None, steps), None
        if self.metric is not None:
            notice = (
                f"No episode ended in {steps:,.0f} steps of each environment. A metric is read when an episode ends, "
                "so nothing has been scored."
            )
            return ReturnState(None, steps), notice if state.steps < self.rate_after else None
        notice = (
            f"No episode ended in {steps:,.0f} steps of each environment, so the mean reward per step is the score "
            "from now on. If episodes are longer than that, set ReturnEvaluator(rate_after=...)."
        )
        return ReturnState(Measure.RATE, steps), notice


class GreedyEvaluator(BaseEvaluator):
    """Scores the policy as it is deployed: with the most likely actions, in episodes that are played outside training.

    It measures the same as `evaluate_policy`, and is the default for an agent whose environment can be made a second
    time. Training windows are not scored, because their actions were sampled: a policy can earn much less, or much
    more, with its most likely actions. The episodes cost environment steps in addition to training.

    Args:
        episodes: Episodes in one evaluation, at least 2 (one episode has no standard error). If `every` is None, this
            is the largest number: an evaluation ends earlier, after at least 4 episodes (2 if they have no noise, or if
            4 are more than the evaluation budget has left), if it is clear by then that the score lies below the best,
            or that it makes a candidate. A candidate plays further episodes until it is decided whether it is better.
            Defaults to 10.
        every: Windows from one evaluation to the next, at least 1. While COOLING, the scheduler's interval, which
            counts windows too, can be longer. None (the default): the loop evaluates by the scheduler's interval, or as
            soon as the returns of training have moved, within ``OptixCallback(evaluation_budget=...)``. A tuner then
            compares the returns of training, which cost nothing.
        metric: A key of the info dict of an episode's last step (``"sharpe"``), or a function of this dict that returns
            a number: the mean of this metric is scored instead of the mean return, in training windows as well. None
            (the default): the return.

    Raises:
        ConfigurationError: An argument has the wrong type or is too small.

    Examples:
        >>> callback = optix.OptixCallback(optix.GreedyEvaluator(episodes=20))
        >>> every_tenth = optix.OptixCallback(optix.GreedyEvaluator(episodes=5, every=10))
    """

    plan: EpisodePlan

    def __init__(self, episodes: int = 10, every: int | None = None, *, metric: InfoMetric | None = None) -> None:
        self._episodes = check_int("episodes", episodes, minimum=2)
        self.metric = check_metric(metric)
        self._every = None if every is None else check_int("every", every, minimum=1)
        self.plan = EpisodePlan(self._episodes, self._every)

    def scores_returns_in(self, state: None) -> bool:
        """See `BaseEvaluator.scores_returns_in`. False with a `metric`."""
        return self.metric is None

    def in_training(self) -> BaseEvaluator | None:
        """See `BaseEvaluator.in_training`."""
        return None if self.metric is None else ReturnEvaluator(metric=self.metric)

    def score(self, window_data: WindowData, train_diagnostics: Mapping[str, float]) -> EvalMetrics:
        """See `BaseEvaluator.score`. A window is no evidence, because its actions were sampled."""
        return EvalMetrics(None, {}, window_data.window_id, episodes=0)

    def score_episodes(self, episodes: Sequence[EpisodeRecord]) -> EvalMetrics:
        """See `BaseEvaluator.score_episodes`."""
        return _mean_score(episodes, self.metric)

    def episode_scores(self, episodes: Sequence[EpisodeRecord]) -> Sequence[float]:
        """See `BaseEvaluator.episode_scores`."""
        return _scores(episodes, self.metric)

    def measure_member(self, state: Any, data: WindowData, logs: Mapping[str, float]) -> EvalMetrics | None:
        """See `BaseEvaluator.measure_member`."""
        return super().measure_member(state, data if self.metric is None else _with_infos(data), logs)


def _with_infos(data: WindowData) -> WindowData:
    return replace(data, episodes=with_infos(data))


def _scores(episodes: Sequence[EpisodeRecord], metric: InfoMetric | None) -> list[float]:
    """Returns the return, or the metric, of each episode."""
    return [episode.total_reward for episode in episodes] if metric is None else metric_values(metric, episodes)


def _mean_score(episodes: Sequence[EpisodeRecord], metric: InfoMetric | None) -> EvalMetrics:
    """Returns the mean return (or the mean of a metric) of episodes, with its standard error."""
    returns = np.array([episode.total_reward for episode in episodes], np.float64)
    lengths = np.array([episode.length for episode in episodes], np.int64)
    estimate = estimate_from_samples(_scores(episodes, metric))
    scored: dict[str, float] = {} if metric is None else {"episode_return": float(returns.mean())}
    return EvalMetrics(
        primary_score=estimate.mean,
        metrics=scored
        | {
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
    """Returns the mean reward per environment step of a window.

    It has no standard error: successive steps depend on each other, so their spread says little about the error of
    their mean.
    """
    if window_data.length == 0:
        return EvalMetrics(None, {}, window_data.window_id)
    rate = window_data.total_reward / window_data.length
    return EvalMetrics(rate, {"reward_rate": rate}, window_data.window_id)
