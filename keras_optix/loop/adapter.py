"""What the loop trains, as the loop sees it: an agent that learns from windows, or an ordinary model in epochs."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from keras_optix.evaluators.scorer import Scorer
from keras_optix.loop.after_shift import AfterShift
from keras_optix.records import LEARNING_RATE, EpisodeRecord, EvalMetrics, HyperparamSet, WindowData
from keras_optix.statistics.comparisons import EvaluationResult
from keras_optix.store.files import Arrays, Saved
from keras_optix.tuners.search_space import SearchSpace


@dataclass(frozen=True)
class PolicyRef:
    """Weights that earned a score.

    Attributes:
        window_id: The window that they collected; the epoch that they ended.
        env_steps: Environment steps (batches) of the run up to its end.
        policy_version: Version of the weights.
        state: Reads them out, with optimizer slots and statistics.
        policy: How an agent lets them act again; None for an ordinary model.
    """

    window_id: int
    env_steps: int
    policy_version: int
    state: Callable[[], Arrays]
    policy: Any = None

    @property
    def known(self) -> bool:
        """Whether there are weights to read out; not of a policy that only a recording tells of."""
        return self.policy is None or self.policy.available


@dataclass(frozen=True)
class TrainingUnit:
    """A window or an epoch, as the loop takes it.

    Attributes:
        candidate: The weights behind its score.
        steps: Environment steps (batches) in it.
        logs: Logs of the step or epoch by name.
        score: Its score by a scorer.
        data: The window, as far as these weights played it; None for an epoch, or if they played nothing.
        member_scores: The scores of the members of an ensemble, None for one without a score; none at all for others.
    """

    candidate: PolicyRef
    steps: int
    logs: Mapping[str, Any]
    score: Callable[[Scorer], EvalMetrics]
    data: Callable[[], WindowData | None] = lambda: None
    member_scores: Callable[[Scorer], Sequence[EvalMetrics | None]] = lambda scorer: ()


class HyperparamAccess(Protocol):
    """Hyperparameters by name, as agents and ordinary models have them."""

    def check(self, values: Mapping[str, float]) -> None:
        """Raises `HyperparamError` for a name or value that is not legal."""
        ...

    def assign(self, values: Mapping[str, float]) -> None:
        """Sets several values, all or none."""
        ...

    def snapshot(self) -> dict[str, float]:
        """All values."""
        ...


class InPlaceEvaluation(abc.ABC):
    """A second evaluation that takes the next windows: the candidate's weights act in them, and do not learn."""

    candidate: PolicyRef

    @abc.abstractmethod
    def add(self, unit: TrainingUnit) -> bool:
        """Adds a window; returns whether there is enough evidence now."""

    @abc.abstractmethod
    def result(self) -> EvaluationResult:
        """The second evaluation."""

    @abc.abstractmethod
    def end(self, *, keep: bool) -> None:
        """Goes on learning: from the candidate's weights with `keep`, else from where training was."""

    @abc.abstractmethod
    def save(self) -> Saved:
        """What a resumed run needs to go on with it."""


class Adapter(abc.ABC):
    """What the loop trains.

    Attributes:
        unit: What is scored: ``"window"`` or ``"epoch"``.
        steps: What its steps are called: ``"env steps"`` or ``"steps"``.
        scores_are_deterministic: Whether evaluating the same weights again gives the same score. Then nothing is
            confirmed, and the highest score is the best even where it is not significantly higher.
        metrics: Scalar tags that TensorBoard's HParams tab shows.
        ready: Whether there is a state to read; not before the first batch has built a model.
        hyperparams: What a tuner may change.
        evaluation_steps: Environment steps that evaluations took beside training.
    """

    unit = "window"
    steps = "env steps"
    scores_are_deterministic = False
    metrics: Sequence[str] = ()
    ready = True
    evaluation_steps = 0

    @property
    @abc.abstractmethod
    def hyperparams(self) -> HyperparamAccess:
        """What a tuner may change."""

    @property
    def rates(self) -> tuple[str, ...]:
        """The names of the learning rates that make updates and can be set."""
        return tuple(name for name in (LEARNING_RATE,) if name in self.hyperparams.snapshot())

    def knows(self, names: Iterable[str]) -> bool:
        """Whether it is known which variables the names of hyperparameters mean.

        Args:
            names: Of a tuner; none where it was given no bounds.
        """
        return True

    @property
    def search_spaces(self) -> Mapping[str, SearchSpace]:
        """What a tuner searches that was given no bounds."""
        return {}

    @property
    def ahead(self) -> int:
        """Units that older weights have already begun when a decision is applied."""
        return 0

    @property
    def endless(self) -> bool:
        """Whether it goes on when it is trained, until somebody stops it: an agent on a live feed."""
        return False

    @property
    def between_steps(self) -> bool:
        """Whether it waits for data between two steps, so that its state is as after a step."""
        return False

    def notices(self) -> list[str]:
        """What happened to the data since the last call that people should know."""
        return []

    def environment_notices(self) -> list[str]:
        """What people should know of where evaluations take place, and of what."""
        return []

    @property
    def plays_copies(self) -> bool:
        """Whether `play` evaluated on environments of its own, so that its scores may be of another kind."""
        return False

    def stay_in_place(self, why: str) -> None:  # noqa: B027 (not abstract: nothing but an agent plays copies)
        """Evaluates only where it trains from now on.

        Args:
            why: One sentence.
        """

    def last_good(self) -> Arrays | None:
        """The last state that is known to be finite, if the adapter keeps one."""
        return None

    def is_finite(self) -> bool:
        """Whether all weights are finite. Here it is not asked: an agent's step looks itself."""
        return True

    @abc.abstractmethod
    def get_state(self) -> Arrays:
        """Weights, optimizer slots and statistics as they are now, as copies."""

    @abc.abstractmethod
    def set_state(self, state: Arrays) -> None:
        """Restores weights, optimizer slots and statistics."""

    def pause_updates(self, paused: bool) -> None:  # noqa: B027
        """Switches learning off or on. Here: nothing, for a adapter whose options never ask for it."""

    @abc.abstractmethod
    def stop(self) -> None:
        """Ends `fit` after this step."""

    def play(
        self, candidate: PolicyRef, episodes: int, *, deterministic: bool, seed: int | None = None, needed_by: str = ""
    ) -> Sequence[EpisodeRecord] | None:
        """Plays episodes at once, beside training; None (the default here) where that cannot be done.

        Args:
            candidate: The weights that play.
            episodes: How many.
            deterministic: Take the most likely actions; else they are sampled.
            seed: Equal seeds give equal episodes. None: a seed from the generator of the run.
            needed_by: Class of an evaluator that has no other way to evaluate: where it cannot be done, that is an
                error. Empty: there is another way.

        Raises:
            ConfigurationError: It cannot be done, and is needed.
        """
        return None

    # Nobody asks these of an adapter whose scores are deterministic: there is nothing to confirm, no policy to evolve.

    def current(self, window_id: int, env_steps: int) -> PolicyRef:
        """The weights as they are now, as a candidate."""
        raise NotImplementedError

    def evaluate_in_place(self, candidate: PolicyRef, scorer: Scorer, episodes: int = 0) -> InPlaceEvaluation:
        """Begins to evaluate weights in the next windows.

        Args:
            candidate: The weights.
            scorer: Scores the windows.
            episodes: How many (windows, where these are scored), if more than the evaluator asks for.
        """
        raise NotImplementedError

    def draw_seed(self) -> int:
        """A seed for `play`, from the generator of the run."""
        raise NotImplementedError

    def mutate(self, change: Callable[[Any], None]) -> None:
        """Lets a function change the weights, which makes them a new version."""
        raise NotImplementedError

    def after_shift(self, after: AfterShift) -> None:
        """Forgets what belongs to a regime that is gone."""
        raise NotImplementedError

    def mixture_weights(self) -> Sequence[float]:
        """How much each member of an ensemble counts, as its weights say; nothing for what is none."""
        return ()

    def read_in_place(self, values: Any) -> Any:
        """Reads what `InPlaceEvaluation.save` returned, and changes nothing. Here: it is taken as it is.

        Args:
            values: JSON values.

        Raises:
            StateError: It is not what was saved.
        """
        return values

    def resume_in_place(self, arrays: Arrays, saved: Any, scorer: Scorer, *, weights: bool) -> InPlaceEvaluation:
        """Goes on with what `InPlaceEvaluation.save` returned.

        Args:
            arrays: As returned.
            saved: What `read_in_place` returned.
            scorer: Scores the windows.
            weights: Learning goes on where it was; else, from the weights that are there now.
        """
        raise NotImplementedError

    def policy_of(self, state: Arrays, *, window_id: int, env_steps: int, version: int) -> PolicyRef:
        """Weights that were saved before, as a candidate."""
        raise NotImplementedError

    @abc.abstractmethod
    def save(self) -> Saved:
        """Everything that a resumed run needs."""

    def read(self, arrays: Arrays, values: Any) -> Any:
        """Reads what `save` returned, and changes nothing. Here: it is taken as it is.

        Args:
            arrays: As returned.
            values: JSON values.

        Returns:
            What `restore` takes.

        Raises:
            StateError: It is not what was saved of such a thing.
        """
        return values

    @abc.abstractmethod
    def restore(self, arrays: Arrays, saved: Any, *, weights: bool) -> str:
        """Restores what `save` returned, without the weights if these are newer already; says what could not be.

        Args:
            arrays: As returned.
            saved: What `read` returned.
            weights: Whether the weights are restored.
        """

    def open(self) -> None:  # noqa: B027 (not abstract: there may be nothing to do)
        """The loop begins, all checks passed."""

    @abc.abstractmethod
    def close(self) -> None:
        """Closes what was opened."""

    def get_hyperparams(self) -> HyperparamSet:
        """The current values."""
        return HyperparamSet(self.hyperparams.snapshot())
