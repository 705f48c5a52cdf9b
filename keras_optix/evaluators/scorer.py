"""A scorer combines an evaluator, which callbacks may share, with the evaluator's state in one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from keras_optix.evaluators.base import BaseEvaluator, Scored
from keras_optix.evaluators.evaluation import estimate_of
from keras_optix.evaluators.plans import EvaluationPlan
from keras_optix.records import EpisodeRecord, EvalMetrics, WindowData
from keras_optix.reprs import OneLineRepr
from keras_optix.states import State, read_state
from keras_optix.statistics.comparisons import EvaluationResult
from keras_optix.store.manifest import plain_metrics

_FIX = "Resume with the evaluator that the run began with, or start a new run."


class ScorerState(State, frozen=True):
    """The saved state of a `Scorer`.

    Attributes:
        state: The evaluator's state, of a type that the evaluator defines.
        notices: Messages for the user that were not shown yet.
    """

    state: Any
    notices: tuple[str, ...] = ()


class Scorer(OneLineRepr):
    """Scores the windows of a run with an evaluator. Only this class changes the evaluator's state.

    Args:
        evaluator: The evaluator, whose configuration is never changed.

    Attributes:
        state: The evaluator's state in this run.
    """

    def __init__(self, evaluator: BaseEvaluator) -> None:
        self.evaluator = evaluator
        self.reset()

    @property
    def plan(self) -> EvaluationPlan:
        """The plan that applies in the evaluator's current state."""
        return self.evaluator.plan_in(self.state)

    @property
    def plays_episodes(self) -> bool:
        """Whether whole episodes can be scored without a window in the evaluator's current state."""
        return self.evaluator.plays_in(self.state)

    @property
    def acting(self) -> str:
        """How actions are chosen in the scored episodes: ``"greedy"``, ``"sampled"``, or empty if it is not known."""
        return self.plan.acting

    @property
    def samples(self) -> str:
        """What the samples of a score are: ``"episodes"``, or ``"evaluations"`` whose episodes are scored together."""
        return "evaluations" if self.plan.together else "episodes"

    @property
    def scores_returns(self) -> bool:
        """Whether the score is the mean return of episodes."""
        return self.evaluator.scores_returns_in(self.state)

    def change(self, evaluator: BaseEvaluator) -> None:
        """Uses another evaluator from now on, with a new state. Messages that were not shown yet are kept."""
        self.evaluator, self.state = evaluator, evaluator.initial_state()

    def reset(self) -> None:
        """Clears the state, because a new run begins."""
        self.state = self.evaluator.initial_state()
        self._notices: list[str] = []

    def measure(self, window_data: WindowData, train_diagnostics: Mapping[str, float]) -> EvalMetrics:
        """Scores a window and updates the evaluator's state.

        Args:
            window_data: The window.
            train_diagnostics: The logs of the train step on this window.
        """
        return self._take(self.evaluator.observe(self.state, window_data, train_diagnostics))

    def measure_logs(self, logs: Mapping[str, Any], unit_id: int) -> EvalMetrics:
        """Scores the logs of an epoch.

        Args:
            logs: Logs of the epoch, by name.
            unit_id: Number of the epoch (window).

        Raises:
            ConfigurationError: The evaluator does not score epochs.
        """
        return self._take(self.evaluator.observe_logs(self.state, logs, unit_id))

    def _take(self, scored: Scored) -> EvalMetrics:
        self.state = scored.state
        if scored.notice is not None:
            self._notices.append(scored.notice)
        return scored.metrics

    def measure_alone(self, data: WindowData, logs: Mapping[str, float]) -> EvalMetrics | None:
        """Scores the part of a window in which one member of an ensemble acted. The evaluator's state does not change.

        If the evaluator can score whole episodes, the member's episodes are scored; otherwise its part of the window.

        Args:
            data: The steps and episodes of the member.
            logs: The logs of the train step on this window.

        Returns:
            The score; None if this window is no evidence, or if the evaluator scores logs, which belong to no single
            member.
        """
        if not self.plan.repeatable:
            return None
        return self.evaluator.measure_member(self.state, data, logs)

    def result(self, episodes: Sequence[EpisodeRecord] | None, *, paired: bool = False) -> EvaluationResult | None:
        """Scores a policy by whole episodes.

        Args:
            episodes: The episodes; None if they could not be played.
            paired: Whether other policies play episodes with the same seeds, so that they can be compared episode by
                episode.

        Returns:
            The score, and the score of each episode if `paired`; None if there are no episodes or no score.
        """
        metrics = None if episodes is None else self.evaluator.measure_episodes(episodes)
        estimate = None if metrics is None else estimate_of(metrics)
        if episodes is None or metrics is None or estimate is None:
            return None
        scores = self.evaluator.episode_scores(episodes) if paired else None
        return EvaluationResult(estimate, None if scores is None else tuple(scores), plain_metrics(metrics))

    def take_notices(self) -> list[str]:
        """Returns the messages for the user that came up since the last call."""
        taken, self._notices = self._notices, []
        return taken

    def finish(self) -> None:
        """Lets the evaluator warn of anything that the user should know, because the run ends."""
        self.state = self.evaluator.finish(self.state)

    def save(self) -> ScorerState:
        """Returns the evaluator's state and the messages that were not shown yet."""
        return ScorerState(self.state, tuple(self._notices))

    def read(self, saved: ScorerState) -> ScorerState:
        """Reads a saved state whose evaluator part is JSON values, without changing this scorer.

        Args:
            saved: The value that `save` returned, with the evaluator's state as JSON values.

        Raises:
            StateError: The values are not a state of this evaluator.
        """
        kind, name = type(self.evaluator.initial_state()), type(self.evaluator).__name__
        return ScorerState(read_state(kind, saved.state, f"state of the {name}", _FIX, part=True), saved.notices)

    def restore(self, state: ScorerState) -> None:
        """Restores a state that `save` returned."""
        self.state, self._notices = state.state, list(state.notices)
