"""Plans define what one evaluation consists of: training windows, separate episodes, or the logs of `fit`.

An evaluator states this once, in its `plan`. The properties of a plan tell the loop how to pool, confirm and compare
scores.
"""

from __future__ import annotations

from dataclasses import dataclass

from keras_optix.validation import check_bool, check_int

FEWEST = 2  # episodes of an evaluation that the loop may end early


class EvaluationPlan:
    """Defines what the loop evaluates. A plan is a `WindowPlan`, an `EpisodePlan` or a `LogPlan`.

    Examples:
        >>> isinstance(optix.ReturnEvaluator().plan, optix.evaluators.EvaluationPlan)
        True
    """

    @property
    def episodes_needed(self) -> int:
        """Episodes that an evaluation needs; 0 if every window (epoch) with a score is an evaluation."""
        return 0

    @property
    def repeatable(self) -> bool:
        """Whether the same weights can be evaluated again. Only then are scores pooled, and a new best confirmed."""
        return True

    @property
    def may_play(self) -> bool:
        """Whether the loop may play episodes outside training, in environments that it makes for this."""
        return True

    @property
    def must_play(self) -> bool:
        """Whether every evaluation is played outside training, so that a run without other environments is an error."""
        return False

    @property
    def deterministic(self) -> bool:
        """Whether the episodes that the loop plays take the most likely actions. Otherwise actions are sampled."""
        return False

    @property
    def acting(self) -> str:
        """How actions are chosen in the scored episodes: ``"greedy"``, ``"sampled"``, or empty if it is not known."""
        return ""

    @property
    def when_needed(self) -> bool:
        """Whether the loop decides when it plays an evaluation, within its evaluation budget."""
        return False

    @property
    def together(self) -> bool:
        """Whether the episodes of an evaluation are scored together, as one sample, so that their number is fixed."""
        return False

    @property
    def per_epoch(self) -> bool:
        """Whether epochs are scored when they end, instead of windows."""
        return False

    @property
    def comparable(self) -> bool:
        """Whether the same weights should earn the same score in separate episodes as in the training windows."""
        return False


@dataclass(frozen=True)
class WindowPlan(EvaluationPlan):
    """The loop scores the training windows.

    If the evaluator can score single episodes (`BaseEvaluator.score_episodes`) and a second environment can be made, a
    new best is confirmed by episodes played there. Otherwise learning pauses while the candidate acts in the training
    environments.

    Attributes:
        min_episodes: Windows are pooled until this many episodes have ended in them, at least 0. Defaults to 0: every
            window with a score is an evaluation.
        in_place: Evaluate only in the training environments, with learning paused. Use it if a second copy of the
            environment would be in another state, like a live feed. Defaults to False.

    Raises:
        ConfigurationError: A value has the wrong type or is negative.

    Examples:
        >>> optix.ReturnEvaluator(min_episodes=10).plan.min_episodes
        10
    """

    min_episodes: int = 0
    in_place: bool = False

    def __post_init__(self) -> None:
        check_int("min_episodes", self.min_episodes, minimum=0)
        check_bool("in_place", self.in_place)

    @property
    def episodes_needed(self) -> int:
        """See `EvaluationPlan`."""
        return self.min_episodes

    @property
    def may_play(self) -> bool:
        """See `EvaluationPlan`."""
        return not self.in_place

    @property
    def acting(self) -> str:
        """See `EvaluationPlan`: training samples its actions."""
        return "sampled"

    @property
    def comparable(self) -> bool:
        """See `EvaluationPlan`."""
        return True


@dataclass(frozen=True)
class EpisodePlan(EvaluationPlan):
    """The loop plays episodes outside training and scores these; it does not score windows.

    Attributes:
        episodes: Episodes in one evaluation, at least 1. If `every` is None: the largest number; an evaluation ends
            earlier if it is clear by then that the score lies below the best, or that it makes a candidate.
        every: Windows from one evaluation to the next, at least 1. None: the loop decides when it evaluates, by the
            interval of its state, as soon as the returns of training have moved, and within its evaluation budget.
            Defaults to 10.
        deterministic: Take the most likely actions (default) instead of sampling them as in training.

    Raises:
        ConfigurationError: A value has the wrong type or is too small.

    Examples:
        >>> class Played(optix.BaseEvaluator):  # twenty greedy episodes in every tenth window
        ...     plan = optix.evaluators.EpisodePlan(episodes=20, every=10)
        ...     def score(self, window_data, train_diagnostics):
        ...         raise NotImplementedError
        >>> Played().plan.episodes
        20
    """

    episodes: int
    every: int | None = 10
    deterministic: bool = True

    def __post_init__(self) -> None:
        check_int("episodes", self.episodes, minimum=1)
        if self.every is not None:
            check_int("every", self.every, minimum=1)
        check_bool("deterministic", self.deterministic)

    @property
    def episodes_needed(self) -> int:
        """See `EvaluationPlan`."""
        return min(self.episodes, FEWEST) if self.when_needed else self.episodes

    @property
    def must_play(self) -> bool:
        """See `EvaluationPlan`."""
        return True

    @property
    def acting(self) -> str:
        """See `EvaluationPlan`."""
        return "greedy" if self.deterministic else "sampled"

    @property
    def when_needed(self) -> bool:
        """See `EvaluationPlan`."""
        return self.every is None


@dataclass(frozen=True)
class LogPlan(EvaluationPlan):
    """A log of `fit` is the score. A log cannot be measured again for the same weights, so no best is confirmed.

    Attributes:
        per_epoch: Whether the log belongs to an epoch, like the logs of validation. Defaults to False: the log belongs
            to a window.

    Raises:
        ConfigurationError: `per_epoch` is not a bool.

    Examples:
        >>> optix.evaluators.MonitorEvaluator("val_loss").plan.per_epoch
        True
    """

    per_epoch: bool = False

    def __post_init__(self) -> None:
        check_bool("per_epoch", self.per_epoch)

    @property
    def repeatable(self) -> bool:
        """See `EvaluationPlan`."""
        return False
