"""An evaluator in one run: the configuration, which callbacks may share, with the state of the run."""

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
    """What a `Scorer` knows of a run.

    Attributes:
        state: What the evaluator remembers, of a kind that it knows.
        notices: What people should be told and have not been told yet.
    """

    state: Any
    notices: tuple[str, ...] = ()


class Scorer(OneLineRepr):
    """Scores what a run collects: an evaluator, and the only place where its state changes.

    Args:
        evaluator: The evaluator. It is never changed.

    Attributes:
        state: The evaluator's state in this run.
    """

    def __init__(self, evaluator: BaseEvaluator) -> None:
        self.evaluator = evaluator
        self.reset()

    @property
    def plan(self) -> EvaluationPlan:
        """How the loop comes to an evaluation, as of now."""
        return self.evaluator.plan_in(self.state)

    @property
    def plays_episodes(self) -> bool:
        """Whether whole episodes can be scored alone, as of now."""
        return self.evaluator.plays_in(self.state)

    def reset(self) -> None:
        """Forgets everything: a new run begins."""
        self.state = self.evaluator.initial_state()
        self._notices: list[str] = []

    def measure(self, window_data: WindowData, train_diagnostics: Mapping[str, float]) -> EvalMetrics:
        """Scores a window, and remembers what the evaluator wants to remember of it.

        Args:
            window_data: The window.
            train_diagnostics: What the train step that followed it logged.
        """
        return self._take(self.evaluator.observe(self.state, window_data, train_diagnostics))

    def measure_logs(self, logs: Mapping[str, Any], unit_id: int) -> EvalMetrics:
        """Scores the logs of an epoch.

        Args:
            logs: Of the epoch, by name.
            unit_id: Number of the epoch (window).

        Raises:
            ConfigurationError: The evaluator scores something else.
        """
        return self._take(self.evaluator.observe_logs(self.state, logs, unit_id))

    def _take(self, scored: Scored) -> EvalMetrics:
        self.state = scored.state
        if scored.notice is not None:
            self._notices.append(scored.notice)
        return scored.metrics

    def measure_alone(self, data: WindowData, logs: Mapping[str, float]) -> EvalMetrics | None:
        """Scores what one member of an ensemble played. What the evaluator remembers of the run stays as it is.

        Whole episodes are scored as such where the evaluator can do that; else the window is.

        Args:
            data: What the member played.
            logs: What the train step that followed logged.

        Returns:
            The score; None if this window is no evidence, or if the evaluator scores logs, which are no member's.
        """
        if not self.plan.repeatable:
            return None
        if self.plays_episodes:
            return self.evaluator.measure_episodes(data.episodes) if data.episodes else None
        return self.evaluator.observe(self.state, data, logs).metrics

    def result(self, episodes: Sequence[EpisodeRecord] | None, *, paired: bool = False) -> EvaluationResult | None:
        """What a policy earned in whole episodes.

        Args:
            episodes: The episodes; None if they could not be played.
            paired: Other policies play episodes of the same seeds, so that the score of each episode is worth knowing.

        Returns:
            The score, and if they are paired that of each episode; None without episodes, or if they have no score.
        """
        metrics = None if episodes is None else self.evaluator.measure_episodes(episodes)
        estimate = None if metrics is None else estimate_of(metrics)
        if episodes is None or metrics is None or estimate is None:
            return None
        scores = self.evaluator.episode_scores(episodes) if paired else None
        return EvaluationResult(estimate, None if scores is None else tuple(scores), plain_metrics(metrics))

    def take_notices(self) -> list[str]:
        """Returns what people should be told since the last call."""
        taken, self._notices = self._notices, []
        return taken

    def finish(self) -> None:
        """The run ends: the evaluator warns of what the user should know."""
        self.state = self.evaluator.finish(self.state)

    def save(self) -> ScorerState:
        """Returns what the evaluator remembers."""
        return ScorerState(self.state, tuple(self._notices))

    def read(self, saved: ScorerState) -> ScorerState:
        """Reads what the evaluator remembered from JSON values, and changes nothing.

        Args:
            saved: As `save` returned it, with the evaluator's state as JSON values.

        Raises:
            StateError: They are not the state of such an evaluator.
        """
        kind, name = type(self.evaluator.initial_state()), type(self.evaluator).__name__
        return ScorerState(read_state(kind, saved.state, f"state of the {name}", _FIX, part=True), saved.notices)

    def restore(self, state: ScorerState) -> None:
        """Restores what `save` returned."""
        self.state, self._notices = state.state, list(state.notices)
