"""How a window becomes one comparable score."""

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
_STATE = "What it remembers is a state: override `initial_state` and `observe`; the loop saves and restores it."
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
        raise UnknownNameError(f"{cls.__name__} sets `{name}`, which the loop would not look at. {_GONE[name]}")


class Scored(NamedTuple):
    """What an evaluator made of a window (epoch).

    Attributes:
        metrics: The score.
        state: The evaluator's state from now on.
        notice: What people should be told, once, or None.
    """

    metrics: EvalMetrics
    state: Any = None
    notice: str | None = None


class BaseEvaluator(NamesChecked, OneLineRepr, abc.ABC):
    """Scores windows. Subclass it and override `score`; higher must be better.

    An evaluator is a configuration that several callbacks may share. One that remembers something from window to window
    keeps it in a state (`initial_state`, `observe`), which the loop holds for each run and saves with it.

    Attributes:
        plan: How the loop comes to an evaluation: a `WindowPlan` (the default: every window with a score is an
            evaluation), an `EpisodePlan` or a `LogPlan`.
    """

    plan: EvaluationPlan = WindowPlan()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuses names of which the loop would know nothing.

        Raises:
            UnknownNameError: The class sets one of them.
        """
        super().__init_subclass__(**kwargs)
        for name in vars(cls):
            _refuse_gone(cls, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Sets an attribute; raises as `__init_subclass__` does."""
        _refuse_gone(type(self), name)
        super().__setattr__(name, value)

    @property
    def plays_episodes(self) -> bool:
        """Whether `score_episodes` can be used: whether the subclass overrides it."""
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

    def shown(self, score: float) -> float:
        """The number that people are shown for a score.

        By default it is the score. Where the score is the negative of something that is better lower, such as a loss or
        a cost, return that instead.

        Args:
            score: A score, or a mean of scores.
        """
        return score

    # For evaluators that remember something from window to window.

    def initial_state(self) -> Any:
        """The state in which a run begins, a value that is never changed in place. By default None: no memory.

        A subclass of `optix.evaluators.State`, or a dataclass, is saved with the run; its types are checked on reading.
        """
        return None

    def observe(self, state: Any, window_data: WindowData, train_diagnostics: Mapping[str, float]) -> Scored:
        """What the loop calls for each window: the score and the state from now on. By default: `score`.

        Args:
            state: The state so far: `initial_state`, or that of the last call.
            window_data: As for `score`.
            train_diagnostics: As for `score`.

        Raises:
            ArgumentError: `score` answered with something that is no score.
        """
        return Scored(self.measure(window_data, train_diagnostics), state)

    def observe_logs(self, state: Any, logs: Mapping[str, Any], unit_id: int) -> Scored:
        """What the loop calls for each epoch, where the plan is ``LogPlan(per_epoch=True)``. By default an error.

        Args:
            state: The state so far.
            logs: Logs of the epoch by name.
            unit_id: Number of the epoch; for an agent, of the last window.

        Raises:
            ConfigurationError: This evaluator does not score epochs.
        """
        raise ConfigurationError(describe("An epoch is scored by a log.", evaluator=type(self).__name__))

    def plan_in(self, state: Any) -> EvaluationPlan:
        """The plan in a state of the evaluator. By default always `plan`.

        Args:
            state: The state.
        """
        return self.plan

    def plays_in(self, state: Any) -> bool:
        """Whether `score_episodes` can be used in a state of the evaluator. By default: `plays_episodes`.

        Args:
            state: The state.
        """
        return self.plays_episodes

    def finish(self, state: Any) -> Any:
        """The run ends: warn of what the user should know. By default there is nothing.

        Args:
            state: The state.

        Returns:
            The state after it.
        """
        return state

    # What the loop calls.

    def measure(self, window_data: WindowData, train_diagnostics: Mapping[str, float]) -> EvalMetrics:
        """What `score` answers, which may be a number as well, as `EvalMetrics`.

        Args:
            window_data: As for `score`.
            train_diagnostics: As for `score`.

        Raises:
            ArgumentError: `score` answered with something else.
        """
        answer = self.score(window_data, train_diagnostics)
        return as_metrics(answer, f"{type(self).__name__}.score", window_data.window_id)

    def measure_episodes(self, episodes: Sequence[EpisodeRecord]) -> EvalMetrics | None:
        """What `score_episodes` answers, which may be a number as well, as `EvalMetrics`.

        Args:
            episodes: As for `score_episodes`.

        Raises:
            ArgumentError: `score_episodes` answered with something else.
        """
        answer = self.score_episodes(episodes)
        return None if answer is None else as_metrics(answer, f"{type(self).__name__}.score_episodes", 0)


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
