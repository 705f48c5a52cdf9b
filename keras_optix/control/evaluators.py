"""How a window becomes one comparable score."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from keras_optix.control.evidence import estimate_from_samples
from keras_optix.control.records import EpisodeData, EpisodeRecord, EvalMetrics
from keras_optix.validation import check_int


class BaseEvaluator(abc.ABC):
    """Scores windows. Subclass it and override `score`; higher must be better.

    Attributes:
        min_episodes: An evaluation pools windows until this many episodes ended in them. 0 (the default here): every
            window with a score is an evaluation.
    """

    min_episodes: int = 0

    @abc.abstractmethod
    def score(self, episode_data: EpisodeData, train_diagnostics: Mapping[str, float]) -> EvalMetrics:
        """Scores one window.

        Args:
            episode_data: The window, collected by one version of the policy.
            train_diagnostics: What the train step that followed it logged (losses, entropy, ...).

        Returns:
            The score. Give `stderr` and `episodes` where they are known: they make the loop's decisions sharper. A
            `primary_score` of None says that this window is no evidence.
        """

    def score_episodes(self, episodes: Sequence[EpisodeRecord]) -> EvalMetrics | None:
        """Scores whole episodes alone, if a score needs no more than them.

        With it, the loop can confirm a new best on an environment of its own; without it (None, the default here), it
        pauses learning and lets the candidate act in the training environments.

        Args:
            episodes: At least one episode, all by one version of the policy.
        """
        return None


class ReturnEvaluator(BaseEvaluator):
    """Scores a window by the mean undiscounted return of the episodes that ended in it.

    A window in which no episode ended is no evidence. The loop pools windows until `min_episodes` ended.

    Args:
        min_episodes: Episodes in one evaluation, at least 2 (one episode has no standard error). Defaults to 10.
    """

    def __init__(self, min_episodes: int = 10) -> None:
        self.min_episodes = check_int("min_episodes", min_episodes, minimum=2)

    def score(self, episode_data: EpisodeData, train_diagnostics: Mapping[str, float]) -> EvalMetrics:
        """See `BaseEvaluator.score`."""
        if not episode_data.episodes:
            return EvalMetrics(None, {}, episode_data.episode_id, episodes=0)
        return replace(self.score_episodes(episode_data.episodes), episode_id=episode_data.episode_id)

    def score_episodes(self, episodes: Sequence[EpisodeRecord]) -> EvalMetrics:
        """See `BaseEvaluator.score_episodes`."""
        returns = np.array([episode.total_reward for episode in episodes])
        estimate = estimate_from_samples(returns)
        return EvalMetrics(
            primary_score=estimate.mean,
            metrics={
                "episode_return_std": float(returns.std(ddof=1)) if estimate.n > 1 else 0.0,
                "episode_return_min": float(returns.min()),
                "episode_return_max": float(returns.max()),
                "episode_length": sum(episode.length for episode in episodes) / estimate.n,
            },
            stderr=estimate.stderr if estimate.n > 1 else None,
            episodes=estimate.n,
        )
