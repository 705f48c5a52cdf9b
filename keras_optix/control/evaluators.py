"""How a window becomes one comparable score."""

from __future__ import annotations

import abc
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from keras_optix.arguments import NamesChecked
from keras_optix.control.evidence import estimate_from_samples
from keras_optix.control.records import EpisodeData, EpisodeRecord, EvalMetrics
from keras_optix.errors import ArgumentError, StateError, describe
from keras_optix.kinds import with_kind
from keras_optix.reprs import OneLineRepr
from keras_optix.validation import check_bool, check_float, check_int


class BaseEvaluator(NamesChecked, OneLineRepr, abc.ABC):
    """Scores windows. Subclass it and override `score`; higher must be better.

    Attributes:
        min_episodes: An evaluation pools windows until this many episodes ended in them. 0 (the default here): every
            window with a score is an evaluation. It may change during a run, together with what is measured.
        every: Every so many windows the loop plays `min_episodes` episodes on an environment of its own, and these are
            the evaluation. 0 (the default here): windows themselves are scored.
        deterministic: Whether episodes that the loop plays take the most likely actions. False (the default here):
            actions are sampled, as in training.
        per_epoch: Whether epochs are scored and not windows. False (the default here).
        reads_logs: Whether scores are logs. They cannot be had a second time for the same weights, so they are neither
            pooled nor confirmed. False (the default here).
        in_place: Whether weights are only ever evaluated in the training environments, in windows that are not learned
            from: of a world that cannot be had a second time, a copy says nothing. False (the default here): where the
            loop can make environments of its own, it plays there.
        sign: What people are shown is the score times this: -1.0 where the score is the negative of something that is
            better lower, such as a loss or a cost. 1.0 (the default here): the score itself.
    """

    min_episodes: int = 0
    every: int = 0
    deterministic: bool = False
    per_epoch: bool = False
    reads_logs: bool = False
    in_place: bool = False
    sign: float = 1.0

    @property
    def plays_episodes(self) -> bool:
        """Whether `score_episodes` can be used. By default: whether the subclass overrides it."""
        return type(self).score_episodes is not BaseEvaluator.score_episodes

    @abc.abstractmethod
    def score(self, episode_data: EpisodeData, train_diagnostics: Mapping[str, float]) -> EvalMetrics:
        """Scores one window.

        Args:
            episode_data: The window, collected by one version of the policy.
            train_diagnostics: What the train step that followed it logged (losses, entropy, ...).

        Returns:
            The score. Give `stderr` and `episodes` where they are known: they make the loop's decisions sharper. A
            `stderr` without `episodes` is taken as exact, one with them as estimated from so many samples. A
            `primary_score` of None says that this window is no evidence. A number is a score whose error is not known,
            and None no evidence.
        """

    def score_episodes(self, episodes: Sequence[EpisodeRecord]) -> EvalMetrics | None:
        """Scores whole episodes alone, if a score needs no more than them.

        With it, the loop can confirm a new best on an environment of its own; without it (None, the default here), it
        pauses learning and lets the candidate act in the training environments.

        Args:
            episodes: At least one episode, all by one version of the policy.
        """
        return None

    def episode_scores(self, episodes: Sequence[EpisodeRecord]) -> Sequence[float] | None:
        """The score of each episode, if the score of several is the mean of theirs.

        Policies that play on the same seeds are then compared episode by episode, which is sharper; without it (None,
        the default here), by their scores and standard errors.

        Args:
            episodes: At least one episode.
        """
        return None

    def measure(self, episode_data: EpisodeData, train_diagnostics: Mapping[str, float]) -> EvalMetrics:
        """What the loop calls: `score`, whose answer may be a number as well.

        Raises:
            ArgumentError: `score` answered with something else.
        """
        answer = self.score(episode_data, train_diagnostics)
        return as_metrics(answer, f"{type(self).__name__}.score", episode_data.episode_id)

    def measure_episodes(self, episodes: Sequence[EpisodeRecord]) -> EvalMetrics | None:
        """What the loop calls: `score_episodes`, whose answer may be a number as well.

        Raises:
            ArgumentError: `score_episodes` answered with something else.
        """
        answer = self.score_episodes(episodes)
        return None if answer is None else as_metrics(answer, f"{type(self).__name__}.score_episodes", 0)

    def reset(self) -> None:
        """Forgets what earlier windows taught: a new run begins. By default there is nothing to forget."""

    def to_json(self) -> dict[str, Any]:
        """Returns all state as JSON values. By default there is none."""
        return {}

    def from_json(self, values: Mapping[str, Any]) -> None:
        """Restores what `to_json` returned."""

    def take_notice(self) -> str | None:
        """Returns what people should be told, once, or None. By default there is nothing to tell."""
        return None


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
        in_place: Evaluate only in the training environments: of a world that cannot be copied. Defaults to False.

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

    def score(self, episode_data: EpisodeData, train_diagnostics: Mapping[str, float]) -> EvalMetrics:
        """See `BaseEvaluator.score`."""
        if self._measure is None:
            self._decide(episode_data)
        if self._measure == "rate":
            return _reward_rate(episode_data)
        if not episode_data.episodes:
            return EvalMetrics(None, {}, episode_data.episode_id, episodes=0)
        return replace(self.score_episodes(episode_data.episodes), episode_id=episode_data.episode_id)

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

    def _decide(self, episode_data: EpisodeData) -> None:
        """Decides what is measured, if this window tells."""
        environments = episode_data.valid.shape[1]
        self._steps += episode_data.length / environments
        if episode_data.episodes:
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
    `evaluate` measures.

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

    def score(self, episode_data: EpisodeData, train_diagnostics: Mapping[str, float]) -> EvalMetrics:
        """See `BaseEvaluator.score`. A window is no evidence: its actions were sampled."""
        return EvalMetrics(None, {}, episode_data.episode_id, episodes=0)

    def score_episodes(self, episodes: Sequence[EpisodeRecord]) -> EvalMetrics:
        """See `BaseEvaluator.score_episodes`."""
        return _mean_return(episodes)

    def episode_scores(self, episodes: Sequence[EpisodeRecord]) -> Sequence[float]:
        """See `BaseEvaluator.episode_scores`."""
        return [episode.total_reward for episode in episodes]


def as_metrics(answer: Any, answered: str, episode_id: int) -> EvalMetrics:
    """What an evaluator answered, as metrics.

    Args:
        answer: `EvalMetrics`; or a number (an array without axes, too), whose error is not known; or None.
        answered: Who answered, for the message.
        episode_id: Number of the window.

    Raises:
        ArgumentError: It is something else.
    """
    if isinstance(answer, EvalMetrics):
        return answer
    if answer is None:
        return EvalMetrics(None, episode_id=episode_id)
    number = isinstance(answer, numbers.Real) or getattr(answer, "shape", None) == ()
    if isinstance(answer, bool) or not number:
        raise ArgumentError(
            f"{answered} must return an EvalMetrics, a number (higher is better), or None where there is no evidence. "
            f"Received: {with_kind(answer)}."
        )
    return EvalMetrics(float(answer), episode_id=episode_id)


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


def _reward_rate(episode_data: EpisodeData) -> EvalMetrics:
    """The mean reward per environment step of a window.

    Without a standard error: successive steps depend on each other, so their spread says little about the mean's.
    """
    if episode_data.length == 0:
        return EvalMetrics(None, {}, episode_data.episode_id)
    rate = episode_data.total_reward / episode_data.length
    return EvalMetrics(rate, {"reward_rate": rate}, episode_data.episode_id)


def _wrong_state(values: object) -> StateError:
    fix = "Resume with the evaluator that the run began with, or start a new run."
    return StateError(describe("This is not the state of a ReturnEvaluator.", fix=fix, values=values))
