"""The base class of evaluators, which give each window (or epoch) one comparable score."""

from __future__ import annotations

import abc
import numbers
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from keras_optix.arguments import NamesChecked
from keras_optix.errors import ArgumentError, ConfigurationError, UnknownNameError, describe
from keras_optix.evaluators.plans import EvaluationPlan, WindowPlan
from keras_optix.kinds import with_kind
from keras_optix.records import EpisodeRecord, EvalMetrics, WindowData
from keras_optix.reprs import OneLineRepr

_WINDOW = "Write plan = optix.evaluators.WindowPlan({}), as an attribute of the class."
_STATE = "Keep what the evaluator remembers in a state, which the loop saves: override `initial_state` and `observe`."
_GONE = {
    "min_episodes": _WINDOW.format("min_episodes=..."),
    "in_place": _WINDOW.format("in_place=True"),
    "from_logs": "Write plan = optix.evaluators.LogPlan(), as an attribute of the class.",
    "per_epoch": "Write plan = optix.evaluators.LogPlan(per_epoch=True), as an attribute of the class.",
    "to_json": _STATE,
    "from_json": _STATE,
}


def _refuse_gone(cls: type[Any], name: str) -> None:
    if name in _GONE:
        raise UnknownNameError(f"{cls.__name__} sets `{name}`, which the loop does not read. {_GONE[name]}")


class Scored(NamedTuple):
    """The result of scoring a window (or an epoch).

    Attributes:
        metrics: The score.
        state: The evaluator's state after this window.
        notice: A message that the user should see once, or None.

    Examples:
        >>> optix.evaluators.Scored(optix.EvalMetrics(1.5)).metrics.primary_score
        1.5
    """

    metrics: EvalMetrics
    state: Any = None
    notice: str | None = None


class BaseEvaluator(NamesChecked, OneLineRepr, abc.ABC):
    """Scores windows. Subclass it and override `score`; a higher score must be better.

    An evaluator is configuration that several callbacks may share. An evaluator that remembers something from window to
    window keeps it in a state (`initial_state`, `observe`); the loop holds one state per run and saves it with the run.

    Attributes:
        plan: What counts as one evaluation: a `WindowPlan` (the default: every window with a score is an evaluation),
            an `EpisodePlan` or a `LogPlan`.

    Examples:
        >>> class LongestEpisode(optix.BaseEvaluator):
        ...     def score(self, window_data, train_diagnostics):
        ...         lengths = [episode.length for episode in window_data.episodes]
        ...         return optix.EvalMetrics(max(lengths, default=None))
        >>> callback = optix.OptixCallback(LongestEpisode())
    """

    plan: EvaluationPlan = WindowPlan()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuses attributes and methods that the loop no longer reads.

        Raises:
            UnknownNameError: The class sets such a name.
        """
        super().__init_subclass__(**kwargs)
        for name in vars(cls):
            _refuse_gone(cls, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Sets an attribute; raises the same error as `__init_subclass__`."""
        _refuse_gone(type(self), name)
        super().__setattr__(name, value)

    @property
    def plays_episodes(self) -> bool:
        """Whether the subclass overrides `score_episodes`, so that the loop can use it."""
        return type(self).score_episodes is not BaseEvaluator.score_episodes

    @abc.abstractmethod
    def score(self, window_data: WindowData, train_diagnostics: Mapping[str, float]) -> EvalMetrics:
        """Scores one window.

        Args:
            window_data: The window, collected by one version of the policy.
            train_diagnostics: The logs of the train step on this window (losses, entropy, ...).

        Returns:
            The score. Set `stderr` and `episodes` if you know them: the loop then decides with fewer evaluations. A
            `stderr` without `episodes` is taken as exact; with `episodes` it is taken as estimated from that many
            samples. A `primary_score` of None means that this window is no evidence. A plain number may be returned
            too: a score with unknown error. A plain None means no evidence.
        """

    def score_episodes(self, episodes: Sequence[EpisodeRecord]) -> EvalMetrics | None:
        """Scores whole episodes without a window. Override it if a score depends on nothing but the episodes.

        The loop can then confirm a new best on a separate environment. If this returns None (the default), the loop
        pauses learning and lets the candidate act in the training environments instead.

        Args:
            episodes: At least one episode, all played by one version of the policy. If the loop played them outside
                training, they are `PlayedEpisode`s, which have the info of their last step.
        """
        return None

    def episode_scores(self, episodes: Sequence[EpisodeRecord]) -> Sequence[float] | None:
        """Returns the score of each episode. Override it if the score of several episodes is the mean of their scores.

        Policies that play on the same seeds are then compared episode by episode, which needs fewer episodes. If this
        returns None (the default), they are compared by their scores and standard errors.

        Args:
            episodes: At least one episode.
        """
        return None

    def shown(self, score: float) -> float:
        """Returns the number that logs and messages show for a score.

        By default it is the score itself. If the score is the negative of something that should be low, such as a loss
        or a cost, return the loss or the cost.

        Args:
            score: A score, or a mean of scores.
        """
        return score

    # For evaluators that remember something from window to window.

    def initial_state(self) -> Any:
        """Returns the state at the beginning of a run, a value that is never changed in place. By default None.

        Use a subclass of `optix.evaluators.State` or a dataclass. It is saved with the run, and its types are checked
        when it is read.
        """
        return None

    def observe(self, state: Any, window_data: WindowData, train_diagnostics: Mapping[str, float]) -> Scored:
        """Scores a window and updates the state; the loop calls it for each window. By default it calls `score`.

        Args:
            state: The state so far: `initial_state`, or the state that the last call returned.
            window_data: As for `score`.
            train_diagnostics: As for `score`.

        Raises:
            ArgumentError: `score` returned something that is not a score.
        """
        return Scored(self.measure(window_data, train_diagnostics), state)

    def observe_logs(self, state: Any, logs: Mapping[str, Any], unit_id: int) -> Scored:
        """Scores an epoch; the loop calls it if the plan is ``LogPlan(per_epoch=True)``. By default it raises.

        Args:
            state: The state so far.
            logs: Logs of the epoch by name.
            unit_id: Number of the epoch; for an agent, the number of its last window.

        Raises:
            ConfigurationError: This evaluator does not score epochs.
        """
        raise ConfigurationError(describe("An epoch is scored by a log.", evaluator=type(self).__name__))

    def plan_in(self, state: Any) -> EvaluationPlan:
        """Returns the plan that applies in a state of the evaluator. By default always `plan`.

        Args:
            state: The state.
        """
        return self.plan

    def plays_in(self, state: Any) -> bool:
        """Returns whether `score_episodes` can be used in a state of the evaluator. By default `plays_episodes`.

        Args:
            state: The state.
        """
        return self.plays_episodes

    def scores_returns_in(self, state: Any) -> bool:
        """Returns whether the score is the mean return of episodes in a state of the evaluator. By default False.

        Only then can it be compared with the environment's `reward_threshold`.

        Args:
            state: The state.
        """
        return False

    def finish(self, state: Any) -> Any:
        """Warns at the end of a run of anything that the user should know. By default it does nothing.

        Args:
            state: The state.

        Returns:
            The state after the warning.
        """
        return state

    # What the loop calls.

    def measure(self, window_data: WindowData, train_diagnostics: Mapping[str, float]) -> EvalMetrics:
        """Calls `score` and converts its answer, which may be a plain number, to `EvalMetrics`.

        Args:
            window_data: As for `score`.
            train_diagnostics: As for `score`.

        Raises:
            ArgumentError: `score` returned something that is not a score.
        """
        answer = self.score(window_data, train_diagnostics)
        return as_metrics(answer, f"{type(self).__name__}.score", window_data.window_id)

    def measure_member(self, state: Any, data: WindowData, logs: Mapping[str, float]) -> EvalMetrics | None:
        """Scores what one member of an ensemble played: its episodes if these can be scored, otherwise its steps.

        Args:
            state: The state of the evaluator, which does not change.
            data: The steps and episodes of the member.
            logs: The logs of the train step on this window.

        Returns:
            The score; None if the window is no evidence.
        """
        if self.plays_in(state):
            return self.measure_episodes(data.episodes) if data.episodes else None
        return self.observe(state, data, logs).metrics

    def in_training(self) -> BaseEvaluator | None:
        """Returns the evaluator of training windows in a run whose evaluations are played elsewhere.

        Its scores are compared with the evaluations, watched and given to a tuner. None (the default): the mean return.
        """
        return None

    def measure_episodes(self, episodes: Sequence[EpisodeRecord]) -> EvalMetrics | None:
        """Calls `score_episodes` and converts its answer, which may be a plain number, to `EvalMetrics`.

        Args:
            episodes: As for `score_episodes`.

        Raises:
            ArgumentError: `score_episodes` returned something that is not a score.
        """
        answer = self.score_episodes(episodes)
        return None if answer is None else as_metrics(answer, f"{type(self).__name__}.score_episodes", 0)


def as_metrics(answer: Any, answered: str, window_id: int) -> EvalMetrics:
    """Converts the answer of an evaluator to metrics.

    Args:
        answer: `EvalMetrics`; or a number (or an array without axes), whose error is then unknown; or None.
        answered: Name of the method that answered, for the message.
        window_id: Number of the window.

    Raises:
        ArgumentError: `answer` is anything else.
    """
    if isinstance(answer, EvalMetrics):
        return answer
    if answer is None:
        return EvalMetrics(None, window_id=window_id)
    number = isinstance(answer, numbers.Real) or getattr(answer, "shape", None) == ()
    if isinstance(answer, bool) or not number:
        raise ArgumentError(
            f"{answered} must return an EvalMetrics, a number (higher is better), or None if there is no evidence. "
            f"Received: {with_kind(answer)}."
        )
    return EvalMetrics(float(answer), window_id=window_id)
