"""Lets any evaluator score episodes that are played in held-out environments."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_optix.errors import ConfigurationError, describe
from keras_optix.evaluators.base import BaseEvaluator
from keras_optix.evaluators.plans import EpisodePlan, WindowPlan
from keras_optix.evaluators.played import PlayedEpisode, window_of
from keras_optix.records import EpisodeRecord, EvalMetrics, WindowData

_EPISODES = 10  # of an evaluator that does not say how many it wants
_FEWEST = 2  # episodes of which a standard error can be computed
PREFIX = "eval/"  # before the name of an environment, in metrics, logs and the table of the run


@dataclass(frozen=True)
class HeldOutPlan(EpisodePlan):
    """The loop plays episodes in held-out environments, and scores these.

    Attributes:
        scored_together: Whether the episodes are scored together, as one sample: each evaluation then has `episodes`
            episodes, no fewer and no more.
    """

    scored_together: bool = False

    @property
    def episodes_needed(self) -> int:
        """See `EvaluationPlan`."""
        return 0 if self.scored_together else super().episodes_needed

    @property
    def together(self) -> bool:
        """See `EvaluationPlan`."""
        return self.scored_together

    @property
    def acting(self) -> str:
        """See `EvaluationPlan`."""
        return f"{super().acting}, held-out"


def refuse_contradiction(evaluator: BaseEvaluator) -> None:
    """Refuses an evaluator that does not go with held-out environments.

    Raises:
        ConfigurationError: The evaluator scores a log, or evaluates only in the training environments.
    """
    plan, name = evaluator.plan, type(evaluator).__name__
    if not isinstance(plan, EpisodePlan | WindowPlan):
        problem = "`eval_env` says where policies are evaluated, and this evaluator scores a log of `fit` instead."
        fix = "Leave `eval_env` out, or give an evaluator of episodes or windows, such as GreedyEvaluator."
        raise ConfigurationError(describe(problem, fix=fix, evaluator=name))
    if isinstance(plan, WindowPlan) and plan.in_place:
        problem = "`eval_env` says where policies are evaluated, and `in_place` says: in the training environments."
        raise ConfigurationError(describe(problem, fix="Leave one of them out.", evaluator=name, in_place=True))


class HeldOutEvaluator(BaseEvaluator):
    """Scores episodes of held-out environments with another evaluator.

    Episodes are greedy, as a policy is deployed, unless the `EpisodePlan` of the other evaluator says otherwise.

    If the other evaluator scores episodes, these are scored. If it only scores windows, it gets the episodes of an
    evaluation as one window without diagnostics; see `window_of`. Its score has a standard error only if it gives one.
    Otherwise, the loop estimates the noise from the scores of the run.

    With several environments, each plays the same number of episodes. The score is the mean of their scores, with the
    standard error of a stratified sample, ``sqrt(sum(stderr_k ** 2)) / K``: differences between the environments are
    no noise, because every evaluation plays in all of them.

    Args:
        evaluator: The other evaluator.
        names: Names of the environments; empty if there is a single one without a name.

    Raises:
        ConfigurationError: The other evaluator does not go with held-out environments.
    """

    plan: HeldOutPlan

    def __init__(self, evaluator: BaseEvaluator, names: Sequence[str] = ()) -> None:
        refuse_contradiction(evaluator)
        self.evaluator, self.names = evaluator, tuple(names)
        plan, together = evaluator.plan, not evaluator.plays_episodes
        if isinstance(plan, EpisodePlan):
            self.plan = HeldOutPlan(plan.episodes, plan.every, plan.deterministic, together)
        else:
            self.plan = HeldOutPlan(max(plan.episodes_needed or _EPISODES, _FEWEST), None, True, together)

    @property
    def plays_episodes(self) -> bool:
        """See `BaseEvaluator.plays_episodes`."""
        return True

    def shown(self, score: float) -> float:
        """See `BaseEvaluator.shown`."""
        return self.evaluator.shown(score)

    def scores_returns_in(self, state: None) -> bool:
        """See `BaseEvaluator.scores_returns_in`."""
        return self.evaluator.scores_returns_in(self.evaluator.initial_state())

    def score(self, window_data: WindowData, train_diagnostics: Mapping[str, float]) -> EvalMetrics:
        """See `BaseEvaluator.score`. A training window is no evidence."""
        return EvalMetrics(None, {}, window_data.window_id, episodes=0)

    def score_episodes(self, episodes: Sequence[EpisodeRecord]) -> EvalMetrics | None:
        """See `BaseEvaluator.score_episodes`."""
        if not self.names:
            return self._score_alike(episodes)
        scores = {name: self._score_alike([e for e in episodes if _name_of(e) == name]) for name in self.names}
        return _mean_over_environments(scores)

    def episode_scores(self, episodes: Sequence[EpisodeRecord]) -> Sequence[float] | None:
        """See `BaseEvaluator.episode_scores`."""
        return self.evaluator.episode_scores(episodes)

    def measure_member(self, state: Any, data: WindowData, logs: Mapping[str, float]) -> EvalMetrics | None:
        """See `BaseEvaluator.measure_member`. A member of an ensemble is scored by what it did in training."""
        return self.evaluator.measure_member(self.evaluator.initial_state(), data, logs)

    def _score_alike(self, episodes: Sequence[EpisodeRecord]) -> EvalMetrics | None:
        """Scores episodes of one environment."""
        if self.evaluator.plays_episodes:
            return self.evaluator.measure_episodes(episodes)
        return self.evaluator.measure(window_of(episodes), {})


def _name_of(episode: EpisodeRecord) -> str:
    return episode.env_name if isinstance(episode, PlayedEpisode) else ""


def _mean_over_environments(scores: Mapping[str, EvalMetrics | None]) -> EvalMetrics | None:
    """Returns the mean score, with its standard error as far as it is known; None if an environment has no score."""
    known = {name: one for name, one in scores.items() if one is not None and one.primary_score is not None}
    if len(known) < len(scores):
        return None
    means = [float(one.primary_score or 0.0) for one in known.values()]
    errors = [one.stderr for one in known.values() if one.stderr is not None]
    counts = [one.episodes for one in known.values() if one.episodes is not None]
    returns = [one.episode_returns for one in known.values() if one.episode_returns is not None]
    lengths = [one.episode_lengths for one in known.values() if one.episode_lengths is not None]
    stderr = math.sqrt(sum(float(error) ** 2 for error in errors)) / len(means)
    return EvalMetrics(
        primary_score=sum(means) / len(means),
        metrics={f"{PREFIX}{name}": mean for name, mean in zip(known, means, strict=True)},
        stderr=stderr if len(errors) == len(means) else None,
        episodes=sum(counts) if len(counts) == len(means) else None,
        episode_returns=np.concatenate(returns) if len(returns) == len(means) else None,
        episode_lengths=np.concatenate(lengths) if len(lengths) == len(means) else None,
    )
