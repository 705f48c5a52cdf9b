"""Actions are the requests of a procedure to the engine: plain records, each with the type of its result.

Actions are the only effects of a procedure, so that it can be run again: see `keras_optix.loop.procedures`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from keras_optix.evaluators.evaluation import Evaluation
from keras_optix.loop.contender import Contender
from keras_optix.loop.ending import Ending
from keras_optix.loop.record import EventKind
from keras_optix.loop.scheduler import Decision
from keras_optix.statistics.comparisons import EvaluationResult
from keras_optix.statistics.estimates import Estimate, Evidence
from keras_optix.statistics.sequential import SequentialState
from keras_optix.store.manifest import PolicySnapshot


class Weights(enum.Enum):
    """Policies that are not snapshots."""

    CURRENT = "the current weights"
    CANDIDATE = "the weights of the current evaluation"
    UNTRAINED = "the initial weights of the run"


CURRENT, CANDIDATE, UNTRAINED = Weights.CURRENT, Weights.CANDIDATE, Weights.UNTRAINED
Policy = PolicySnapshot | Weights


@dataclass(frozen=True)
class Action:
    """A request of a procedure to the engine.

    Attributes:
        result: Type of the result that the engine sends to the procedure.
    """

    result: ClassVar[Any] = None


@dataclass(frozen=True)
class KnownPolicy:
    """The stored policy of a regime.

    Attributes:
        regime: Name of the regime.
        snapshot: The policy.
    """

    regime: str
    snapshot: PolicySnapshot


@dataclass(frozen=True)
class Variant:
    """A variant of a policy that is about to learn.

    Attributes:
        number: Number of the variant in this regime, from 1.
        before: Current hyperparameters, by name.
        values: Hyperparameters with which the variant will learn, by name.
    """

    number: int
    before: dict[str, float]
    values: dict[str, float]


# Evaluating and learning: the results may come only after several windows.


@dataclass(frozen=True)
class Evaluate(Action):
    """Evaluate a policy: at once if a second environment can be made, otherwise in place, in the next windows.

    Attributes:
        policy: The policy.
        episodes: Number of episodes, if more than the evaluator asks for.
        seed: Seed of the episodes; policies that are compared play with the same seed. None: any episodes.
        at_once: Never evaluate in place. The result is None if the policy cannot be evaluated at once.
        leave: After an evaluation in place, the weights continue to act until an `EndEvaluation`.
    """

    result: ClassVar[Any] = EvaluationResult | None
    policy: Policy
    episodes: int = 0
    seed: int | None = None
    at_once: bool = False
    leave: bool = False


@dataclass(frozen=True)
class EndEvaluation(Action):
    """End an evaluation in place that was left open. If there is none, nothing happens.

    Attributes:
        keep: Whether learning continues from the evaluated weights. Otherwise from the weights before the evaluation.
    """

    keep: bool


@dataclass(frozen=True)
class Train(Action):
    """Learn from windows without evaluating them.

    Attributes:
        windows: Number of windows.
    """

    windows: int


# The state machine


@dataclass(frozen=True)
class Observe(Action):
    """Hand the current evaluation to the state machine."""

    result: ClassVar[Any] = Decision
    evaluation: Evaluation


@dataclass(frozen=True)
class Confirm(Action):
    """Hand the second evaluation of a candidate to the state machine. A confirmed candidate is saved as the best.

    Attributes:
        first: The evaluation that made the candidate.
        second: The second evaluation of the same weights.
        hyperparams: Hyperparameters with which the candidate was trained.
        better: Whether a sequential test found the candidate better, or None if the state machine decides.
        evidence: The evidence of the sequential test, or None.
    """

    result: ClassVar[Any] = tuple[Decision, ...]
    first: Evaluation
    second: EvaluationResult
    hyperparams: dict[str, float]
    better: bool | None = None
    evidence: Evidence | None = None


@dataclass(frozen=True)
class MayEvaluate(Action):
    """Get whether the evaluation budget allows further episodes.

    Attributes:
        insists: Whether a budget that is spent allows them too.
    """

    insists: bool = False

    result: ClassVar[Any] = bool


@dataclass(frozen=True)
class CountEpisodes(Action):
    """Get about how many further episodes the evaluation budget allows."""

    result: ClassVar[Any] = int


@dataclass(frozen=True)
class ReadContender(Action):
    """Get the weights whose comparison with the best ended undecided, or None."""

    result: ClassVar[Any] = Contender | None


@dataclass(frozen=True)
class KeepContender(Action):
    """Keep weights whose comparison with the best ended undecided, instead of an earlier contender.

    Attributes:
        policy: The weights: those of the current evaluation, or the snapshot of the contender.
        fresh: Their score in all fresh episodes so far.
        test: The state of the sequential test.
        hyperparams: Hyperparameters with which they were trained.
    """

    policy: Policy
    fresh: Estimate
    test: SequentialState
    hyperparams: dict[str, float]


@dataclass(frozen=True)
class DropContender(Action):
    """Give up the contender. If there is none, nothing happens."""


@dataclass(frozen=True)
class PromoteContender(Action):
    """Make the contender the best.

    Attributes:
        score: Its score in all fresh episodes.
        evidence: Evidence that it is better than the best.
        progress: Whether this is progress, after which the loop is ACTIVE. Otherwise the state of the loop stays.
    """

    score: Estimate
    evidence: Evidence
    progress: bool


@dataclass(frozen=True)
class Accept(Action):
    """Promote a candidate whose score cannot be measured a second time."""

    result: ClassVar[Any] = Decision
    evaluation: Evaluation
    evidence: Evidence


@dataclass(frozen=True)
class Follow(Action):
    """Record a decision and call its hooks. Outside of ACTIVE, the tuner is paused."""

    decision: Decision


@dataclass(frozen=True)
class RecordDecision(Action):
    """Record a decision without calling hooks."""

    decision: Decision


@dataclass(frozen=True)
class Watch(Action):
    """Move from DORMANT to WATCHDOG."""

    result: ClassVar[Any] = Decision


@dataclass(frozen=True)
class Tune(Action):
    """Hand the current evaluation to the tuner, if the loop is ACTIVE."""

    evaluation: Evaluation


@dataclass(frozen=True)
class PauseTuner(Action):
    """End an experiment of the tuner without a result."""


@dataclass(frozen=True)
class RestartTuner(Action):
    """Let the tuner begin again, because its knowledge belongs to an earlier regime."""


# The best and the current weights


@dataclass(frozen=True)
class ReadBest(Action):
    """Get the best snapshot of this regime, or None."""

    result: ClassVar[Any] = PolicySnapshot | None


@dataclass(frozen=True)
class ReadReplayed(Action):
    """Get the score of the best in the episodes that it played after it was promoted, or None."""

    result: ClassVar[Any] = Estimate | None


@dataclass(frozen=True)
class ReadBestScore(Action):
    """Get the score of the best of this regime, or None."""

    result: ClassVar[Any] = Estimate | None


@dataclass(frozen=True)
class DoubtBest(Action):
    """Get the best if a score misses significance only because the best was measured too roughly, otherwise None."""

    result: ClassVar[Any] = PolicySnapshot | None
    score: Estimate


@dataclass(frozen=True)
class SuspectChange(Action):
    """Get the best if it should play again because a score is far below its own; otherwise None.

    It should not if it played lately, or if the evaluation budget is spent.
    """

    result: ClassVar[Any] = PolicySnapshot | None
    score: Estimate


@dataclass(frozen=True)
class Reassess(Action):
    """Pool another evaluation of the best with its score so far."""

    score: Estimate


@dataclass(frozen=True)
class SaveIfHigher(Action):
    """Save the evaluated weights if no score was higher; used if scores are deterministic."""


@dataclass(frozen=True)
class Promote(Action):
    """Promote the current weights, with a score from an independent evaluation."""

    score: Estimate
    evidence: Evidence


@dataclass(frozen=True)
class Restore(Action):
    """Continue from a snapshot.

    Attributes:
        snapshot: The snapshot.
        rolled_back: Whether its score becomes the reference for degradation.
    """

    snapshot: PolicySnapshot
    rolled_back: bool = False


@dataclass(frozen=True)
class RestoreUntrained(Action):
    """Continue from the initial weights of the run."""


# Variants


@dataclass(frozen=True)
class DrawVariant(Action):
    """Count one more variant of this regime, and draw its hyperparameters."""

    result: ClassVar[Any] = Variant
    parent: PolicySnapshot


@dataclass(frozen=True)
class CountVariants(Action):
    """Get the number of variants that were tried in this regime."""

    result: ClassVar[Any] = int


@dataclass(frozen=True)
class SetHyperparams(Action):
    """Set hyperparameters for a reason other than tuning.

    Attributes:
        values: Values by name.
        kind: The reason, in one or two words.
    """

    values: Mapping[str, float]
    kind: str


@dataclass(frozen=True)
class Mutate(Action):
    """Let the user's function change the current weights."""


# Regimes


@dataclass(frozen=True)
class BeginRegime(Action):
    """Begin a new regime, ACTIVE and without a best, because the environment has changed."""


@dataclass(frozen=True)
class LeaveRegime(Action):
    """Leave a regime: store its best, and forget its scores and statistics. The result is the other stored policies.

    Attributes:
        best: The best of the regime.
        evidence: Evidence that the regime has ended.
    """

    result: ClassVar[Any] = list[KnownPolicy]
    best: PolicySnapshot
    evidence: Evidence


@dataclass(frozen=True)
class EnterRegime(Action):
    """Set the name of the current regime.

    Attributes:
        regime: The name; None for a regime that was not seen before.
    """

    regime: str | None


@dataclass(frozen=True)
class OfferPolicy(Action):
    """Get the stored policy of a regime that a detector has just named, once each time that it names one."""

    result: ClassVar[Any] = KnownPolicy | None


@dataclass(frozen=True)
class ForgetStatistics(Action):
    """Let the agent forget its past as far as `AfterShift` says."""


@dataclass(frozen=True)
class ForgetScores(Action):
    """Forget the scores of members and the variants of a regime that has ended."""


# The rest


@dataclass(frozen=True)
class DrawSeed(Action):
    """Draw a seed for the episodes of policies that are compared."""

    result: ClassVar[Any] = int


@dataclass(frozen=True)
class Record(Action):
    """Record an event.

    Attributes:
        kind: The kind of the event.
        message: One sentence that says what happened.
        evidence: Difference, standard error and n, or None.
    """

    kind: EventKind
    message: str
    evidence: Evidence | None = None


@dataclass(frozen=True)
class AnnounceDormant(Action):
    """Call the hooks for DORMANT."""


@dataclass(frozen=True)
class LearnAgain(Action):
    """Continue learning after a degradation, and call the hooks for it."""


@dataclass(frozen=True)
class PauseLearning(Action):
    """Let the policy act without learning."""


@dataclass(frozen=True)
class Stop(Action):
    """End `fit` after this step.

    Attributes:
        ending: Why; None if a decision has said it.
    """

    ending: Ending | None = None


@dataclass(frozen=True)
class Announce(Action):
    """Make the score of the best in fresh episodes, and in those since it was promoted, the one that is announced."""

    score: Estimate


@dataclass(frozen=True)
class Finish(Action):
    """End a procedure that evaluated and replaced weights.

    Learning is paused in WATCHDOG and runs in all other states. Scores of windows up to now do not count.
    """
