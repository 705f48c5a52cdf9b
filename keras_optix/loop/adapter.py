"""Adapters give the loop access to what it trains: an agent that learns from windows, or a model trained in epochs."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from keras_optix.evaluators.scorer import Scorer
from keras_optix.loop.after_shift import AfterShift
from keras_optix.loop.finite import not_finite_in
from keras_optix.records import LEARNING_RATE, EpisodeRecord, EvalMetrics, HyperparamSet, WindowData
from keras_optix.statistics.comparisons import EvaluationResult
from keras_optix.store.files import Arrays, Saved
from keras_optix.store.increments import Growing
from keras_optix.tuners.search_space import SearchSpace


@dataclass(frozen=True)
class PolicyRef:
    """A reference to weights that earned a score.

    Attributes:
        window_id: The window that these weights collected, or the epoch at whose end they were scored.
        env_steps: Environment steps (batches) of the run up to the end of that window (epoch).
        policy_version: Version of the weights.
        state: A function that reads the weights, with optimizer slots and statistics.
        policy: The object with which an agent lets these weights act again; None for an ordinary model.
    """

    window_id: int
    env_steps: int
    policy_version: int
    state: Callable[[], Arrays]
    policy: Any = None

    @property
    def known(self) -> bool:
        """Whether the weights can be read. They cannot if the policy is only known from a recording."""
        return self.policy is None or self.policy.available


@dataclass(frozen=True)
class TrainingUnit:
    """A window or an epoch, in the form in which the loop takes it.

    Attributes:
        candidate: The weights that earned the score.
        steps: Environment steps (batches) in the window (epoch).
        logs: Logs of the train step or of the epoch, by name.
        score: A function that returns the score, given a scorer.
        data: A function that returns the part of the window in which these weights acted; None for an epoch, or if they
            did not act.
        member_scores: A function that returns the score of each member of an ensemble (None for a member without a
            score), given a scorer. It returns an empty sequence if there is no ensemble.
    """

    candidate: PolicyRef
    steps: int
    logs: Mapping[str, Any]
    score: Callable[[Scorer], EvalMetrics]
    data: Callable[[], WindowData | None] = lambda: None
    member_scores: Callable[[Scorer], Sequence[EvalMetrics | None]] = lambda scorer: ()


class HyperparamAccess(Protocol):
    """Access to hyperparameters by name, in agents and in ordinary models."""

    def check(self, values: Mapping[str, float]) -> None:
        """Raises `HyperparamError` for a name or value that is not legal."""
        ...

    def assign(self, values: Mapping[str, float]) -> None:
        """Sets all of the values, or none if one is not legal."""
        ...

    def snapshot(self) -> dict[str, float]:
        """Returns all values."""
        ...


class InPlaceEvaluation(abc.ABC):
    """A second evaluation in the training environments: the candidate acts in the next windows, and does not learn."""

    candidate: PolicyRef

    @abc.abstractmethod
    def add(self, unit: TrainingUnit) -> bool:
        """Adds a window; returns whether there is enough evidence now."""

    @abc.abstractmethod
    def result(self) -> EvaluationResult:
        """Returns the result of the second evaluation."""

    @abc.abstractmethod
    def end(self, *, keep: bool) -> None:
        """Continues learning: from the candidate's weights if `keep`, otherwise from the weights before."""

    @abc.abstractmethod
    def save(self) -> Saved:
        """Returns everything that a resumed run needs to continue the evaluation."""


class Adapter(abc.ABC):
    """Gives the loop access to the agent or the model that it trains.

    Attributes:
        unit: Name of what is scored: ``"window"`` or ``"epoch"``.
        steps: Name of the steps: ``"env steps"`` or ``"steps"``.
        scores_are_deterministic: Whether evaluating the same weights again gives the same score. Then candidates are
            not confirmed, and the highest score is the best even if it is not significantly higher.
        metrics: Scalar tags that TensorBoard's HParams tab shows.
        ready: Whether there is a state to read. A model has none before its first batch has built it.
        hyperparams: The hyperparameters that a tuner may change.
        evaluation_steps: Environment steps of evaluations outside training.
        reward_threshold: Mean return at which the environment counts as solved, if its spec has one; else None.
        exploration_left: Env steps until exploration stays as it is; negative if it does since so many, None if it
            never changes.
        rolls_back: Whether the loop goes back to the best after a degradation, if it was not told.
    """

    unit_name = "window"
    step_name = "env steps"
    scores_are_deterministic = False
    metrics: Sequence[str] = ()
    ready = True
    evaluation_steps = 0
    reward_threshold: float | None = None
    exploration_left: int | None = None
    rolls_back = True

    @property
    @abc.abstractmethod
    def hyperparams(self) -> HyperparamAccess:
        """The hyperparameters that a tuner may change."""

    @property
    def rates(self) -> tuple[str, ...]:
        """The names of the learning rates that are used for updates and can be set."""
        return tuple(name for name in (LEARNING_RATE,) if name in self.hyperparams.snapshot())

    def knows(self, names: Iterable[str]) -> bool:
        """Returns whether it is known which variables the names of hyperparameters refer to.

        Args:
            names: Names of a tuner's hyperparameters; empty if the tuner has no bounds.
        """
        return True

    @property
    def search_spaces(self) -> Mapping[str, SearchSpace]:
        """The search spaces of a tuner that was given no bounds."""
        return {}

    @property
    def windows_in_flight(self) -> int:
        """Number of windows that older weights have already begun when a decision is applied."""
        return 0

    @property
    def endless(self) -> bool:
        """Whether the run goes on when training is done, until the user stops it: an agent on a live feed."""
        return False

    @property
    def between_steps(self) -> bool:
        """Whether the adapter waits for data between two train steps, so that its state can be saved."""
        return False

    def notices(self) -> list[str]:
        """Returns messages for the user about the data since the last call."""
        return []

    def environment_notices(self) -> list[str]:
        """Returns messages for the user about the environments of evaluations since the last call."""
        return []

    @property
    def can_play(self) -> bool:
        """Whether `play` is possible, as far as is known."""
        return False

    @property
    def plays_copies(self) -> bool:
        """Whether `play` used copies of the environments, whose scores may differ from those of training."""
        return False

    @property
    def held_out(self) -> bool:
        """Whether `play` uses other environments than those of training, so that their scores need not agree."""
        return False

    def stay_in_place(self, why: str) -> None:  # noqa: B027 (not abstract: nothing but an agent plays copies)
        """Evaluates only in the training environments from now on.

        Args:
            why: The reason, one sentence.
        """

    def last_good(self) -> Arrays | None:
        """Returns the last state that is known to be finite, if the adapter keeps one."""
        return None

    def not_finite_in(self, state: Arrays) -> str:
        """Returns the name of the first array of a state with NaN or an infinity; empty if there is none.

        Args:
            state: What `get_state` returned.
        """
        return not_finite_in(state)

    def is_finite(self) -> bool:
        """Returns whether all weights, optimizer slots and statistics are finite."""
        return not self.not_finite_in(self.get_state())

    @abc.abstractmethod
    def get_state(self) -> Arrays:
        """Returns copies of the current weights, optimizer slots and statistics."""

    @abc.abstractmethod
    def set_state(self, state: Arrays) -> None:
        """Restores weights, optimizer slots and statistics."""

    def pause_updates(self, paused: bool) -> None:  # noqa: B027
        """Switches learning off or on. By default it does nothing, for adapters that are never paused."""

    @abc.abstractmethod
    def stop(self) -> None:
        """Ends `fit` after this step."""

    def play(
        self, candidate: PolicyRef, episodes: int, *, deterministic: bool, seed: int | None = None, needed_by: str = ""
    ) -> Sequence[EpisodeRecord] | None:
        """Plays episodes at once, outside training. Returns None (the default) if this is not possible.

        Args:
            candidate: The weights that play.
            episodes: Number of episodes.
            deterministic: Whether to take the most likely actions. Otherwise actions are sampled.
            seed: Seed of the episodes; equal seeds give equal episodes. None: a seed from the generator of the run.
            needed_by: Class name of an evaluator that cannot evaluate in another way, so that it is an error if
                episodes cannot be played. Empty: there is another way.

        Raises:
            ConfigurationError: Episodes cannot be played, and `needed_by` is given.
        """
        return None

    # The loop does not call these if scores are deterministic, because then nothing is confirmed and no policy evolves.

    def current(self, window_id: int, env_steps: int) -> PolicyRef:
        """Returns a reference to the current weights."""
        raise NotImplementedError

    def evaluate_in_place(self, candidate: PolicyRef, scorer: Scorer, episodes: int = 0) -> InPlaceEvaluation:
        """Begins to evaluate weights in the next windows.

        Args:
            candidate: The weights.
            scorer: Scores the windows.
            episodes: Number of episodes (or of windows, if these are scored), if more than the evaluator asks for.
        """
        raise NotImplementedError

    def draw_seed(self) -> int:
        """Draws a seed for `play` from the generator of the run."""
        raise NotImplementedError

    def mutate(self, change: Callable[[Any], None]) -> None:
        """Lets a function change the weights, which become a new version."""
        raise NotImplementedError

    def mutate_if_finite(self, change: Callable[[Any], None]) -> bool:
        """Like `mutate`, but undoes the change if the weights are not finite after it; returns whether it stays."""
        before = self.get_state()
        self.mutate(change)
        if self.is_finite():
            return True
        self.set_state(before)
        return False

    def after_shift(self, after: AfterShift) -> None:
        """Forgets statistics and replay data of an earlier regime, as far as `after` says."""
        raise NotImplementedError

    def mixture_weights(self) -> Sequence[float]:
        """Returns the share of each member of an ensemble, as its weights hold it; empty if there is no ensemble."""
        return ()

    def read_in_place(self, values: Any) -> Any:
        """Reads what `InPlaceEvaluation.save` returned, without changing anything. By default returns it unchanged.

        Args:
            values: JSON values.

        Raises:
            StateError: The values are not such a state.
        """
        return values

    def resume_in_place(self, arrays: Arrays, saved: Any, scorer: Scorer, *, weights: bool) -> InPlaceEvaluation:
        """Continues the evaluation that `InPlaceEvaluation.save` returned.

        Args:
            arrays: The saved arrays.
            saved: The state that `read_in_place` returned.
            scorer: Scores the windows.
            weights: Whether learning continues later from the saved weights. Otherwise from the current weights.
        """
        raise NotImplementedError

    def policy_of(self, state: Arrays, *, window_id: int, env_steps: int, version: int) -> PolicyRef:
        """Returns a reference to weights that were saved before."""
        raise NotImplementedError

    @property
    def growing(self) -> Mapping[str, Growing]:
        """The parts of the run whose rows resume points have in files of their own, by name. By default none."""
        return {}

    @abc.abstractmethod
    def save(self) -> Saved:
        """Returns everything that a resumed run needs, except for `growing`."""

    def read(self, arrays: Arrays, values: Any) -> Any:
        """Reads what `save` returned, without changing anything. By default returns it unchanged.

        Args:
            arrays: The saved arrays.
            values: JSON values.

        Returns:
            The state for `restore`.

        Raises:
            StateError: The values are not a state of this adapter.
        """
        return values

    @abc.abstractmethod
    def restore(self, arrays: Arrays, saved: Any, *, weights: bool) -> str:
        """Restores what `save` returned, and returns a message about anything that could not be restored.

        Args:
            arrays: The saved arrays.
            saved: The state that `read` returned.
            weights: Whether to restore the weights. False if newer weights are in place already.
        """

    def open(self) -> None:  # noqa: B027 (not abstract: there may be nothing to do)
        """Prepares for the run, after all checks have passed."""

    @abc.abstractmethod
    def close(self) -> None:
        """Closes everything that `open` opened."""

    def get_hyperparams(self) -> HyperparamSet:
        """Returns the current hyperparameters."""
        return HyperparamSet(self.hyperparams.snapshot())
