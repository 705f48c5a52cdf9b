"""How the loop comes to an evaluation: from windows of training, from episodes beside it, or from the logs of `fit`.

An evaluator says it once, as its `plan`; what follows for pooling, confirming and comparing is answered here.
"""

from __future__ import annotations

from dataclasses import dataclass

from keras_optix.validation import check_bool, check_int


class EvaluationPlan:
    """How the loop comes to an evaluation. It is one of `WindowPlan`, `EpisodePlan` and `LogPlan`."""

    @property
    def episodes_needed(self) -> int:
        """Episodes that an evaluation needs; 0 where every window (epoch) with a score is an evaluation."""
        return 0

    @property
    def repeatable(self) -> bool:
        """Whether the same weights can be evaluated again. Only then are scores pooled, and a new best confirmed."""
        return True

    @property
    def may_play(self) -> bool:
        """Whether the loop may play episodes beside training, in environments of its own."""
        return True

    @property
    def must_play(self) -> bool:
        """Whether every evaluation is played beside training, so that a run without other environments is an error."""
        return False

    @property
    def deterministic(self) -> bool:
        """Whether the episodes that the loop plays take the most likely actions. Otherwise actions are sampled."""
        return False

    @property
    def per_epoch(self) -> bool:
        """Whether epochs are scored at their ends, and not windows."""
        return False

    @property
    def comparable(self) -> bool:
        """Whether episodes beside training should earn what the windows of training earn, for the same weights."""
        return False


@dataclass(frozen=True)
class WindowPlan(EvaluationPlan):
    """The windows of training are scored.

    A new best is confirmed with episodes beside training where the evaluator can score single episodes
    (`BaseEvaluator.score_episodes`) and environments can be made. Elsewhere learning pauses while the candidate acts in
    the training environments.

    Attributes:
        min_episodes: Windows are pooled until so many episodes ended in them, at least 0. Defaults to 0: every window
            with a score is an evaluation.
        in_place: Weights are only ever evaluated in the training environments: for an environment that exists once, of
            which a copy would say nothing. Defaults to False.

    Raises:
        ConfigurationError: A value is of another kind or negative.
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
    def comparable(self) -> bool:
        """See `EvaluationPlan`."""
        return True


@dataclass(frozen=True)
class EpisodePlan(EvaluationPlan):
    """Episodes that the loop plays beside training are scored, and windows are not.

    Attributes:
        episodes: Episodes in one evaluation, at least 1.
        every: Windows from one evaluation to the next, at least 1. Defaults to 10.
        deterministic: Take the most likely actions (default) instead of sampling them as in training.

    Raises:
        ConfigurationError: A value is of another kind or too small.
    """

    episodes: int
    every: int = 10
    deterministic: bool = True

    def __post_init__(self) -> None:
        check_int("episodes", self.episodes, minimum=1)
        check_int("every", self.every, minimum=1)
        check_bool("deterministic", self.deterministic)

    @property
    def episodes_needed(self) -> int:
        """See `EvaluationPlan`."""
        return self.episodes

    @property
    def must_play(self) -> bool:
        """See `EvaluationPlan`."""
        return True


@dataclass(frozen=True)
class LogPlan(EvaluationPlan):
    """A log of `fit` is the score. The same weights never give the same log a second time, so nothing is confirmed.

    Attributes:
        per_epoch: The log is one of an epoch, such as those of validation. Defaults to False: one of a window.

    Raises:
        ConfigurationError: `per_epoch` is no bool.
    """

    per_epoch: bool = False

    def __post_init__(self) -> None:
        check_bool("per_epoch", self.per_epoch)

    @property
    def repeatable(self) -> bool:
        """See `EvaluationPlan`."""
        return False
