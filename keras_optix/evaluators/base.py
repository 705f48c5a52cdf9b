"""How a window becomes one comparable score."""

from __future__ import annotations

import abc
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

from keras_optix.arguments import NamesChecked
from keras_optix.errors import ArgumentError
from keras_optix.kinds import with_kind
from keras_optix.records import EpisodeRecord, EvalMetrics, WindowData
from keras_optix.reprs import OneLineRepr


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
        from_logs: Whether scores are logs. They cannot be had a second time for the same weights, so they are neither
            pooled nor confirmed. False (the default here).
        in_place: Whether weights are only ever evaluated in the training environments, in windows that are not learned
            from: of an environment that exists once, a copy says nothing. False (the default here): where the loop can
            make environments of its own, it plays there.
        sign: What people are shown is the score times this: -1.0 where the score is the negative of something that is
            better lower, such as a loss or a cost. 1.0 (the default here): the score itself.
    """

    min_episodes: int = 0
    every: int = 0
    deterministic: bool = False
    per_epoch: bool = False
    from_logs: bool = False
    in_place: bool = False
    sign: float = 1.0

    @property
    def plays_episodes(self) -> bool:
        """Whether `score_episodes` can be used. By default: whether the subclass overrides it."""
        return type(self).score_episodes is not BaseEvaluator.score_episodes

    @abc.abstractmethod
    def score(self, window_data: WindowData, train_diagnostics: Mapping[str, float]) -> EvalMetrics:
        """Scores one window.

        Args:
            window_data: The window, collected by one version of the policy.
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

    def measure(self, window_data: WindowData, train_diagnostics: Mapping[str, float]) -> EvalMetrics:
        """What the loop calls: `score`, whose answer may be a number as well.

        Raises:
            ArgumentError: `score` answered with something else.
        """
        answer = self.score(window_data, train_diagnostics)
        return as_metrics(answer, f"{type(self).__name__}.score", window_data.window_id)

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


def as_metrics(answer: Any, answered: str, window_id: int) -> EvalMetrics:
    """What an evaluator answered, as metrics.

    Args:
        answer: `EvalMetrics`; or a number (an array without axes, too), whose error is not known; or None.
        answered: Who answered, for the message.
        window_id: Number of the window.

    Raises:
        ArgumentError: It is something else.
    """
    if isinstance(answer, EvalMetrics):
        return answer
    if answer is None:
        return EvalMetrics(None, window_id=window_id)
    number = isinstance(answer, numbers.Real) or getattr(answer, "shape", None) == ()
    if isinstance(answer, bool) or not number:
        raise ArgumentError(
            f"{answered} must return an EvalMetrics, a number (higher is better), or None where there is no evidence. "
            f"Received: {with_kind(answer)}."
        )
    return EvalMetrics(float(answer), window_id=window_id)
