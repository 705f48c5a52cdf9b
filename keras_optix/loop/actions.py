"""What a procedure asks of the engine: plain records, each with the kind of result that it is sent.

A procedure has no other effect than these, so that it can be run again: see `keras_optix.loop.procedures`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from keras_optix.evaluators.evaluation import Evaluation
from keras_optix.loop.record import EventKind
from keras_optix.loop.scheduler import Decision
from keras_optix.statistics.comparisons import EvaluationResult
from keras_optix.statistics.estimates import Estimate, Evidence
from keras_optix.store.manifest import PolicySnapshot


class Weights(enum.Enum):
    """Policies that are no snapshots."""

    CURRENT = "the current weights"
    CANDIDATE = "the weights that the evaluation at hand was about"
    UNTRAINED = "the weights that the run began with"


CURRENT, CANDIDATE, UNTRAINED = Weights.CURRENT, Weights.CANDIDATE, Weights.UNTRAINED
Policy = PolicySnapshot | Weights


@dataclass(frozen=True)
class Action:
    """What a procedure asks of the engine.

    Attributes:
        result: The kind of what the procedure is sent for it.
    """

    result: ClassVar[Any] = None


@dataclass(frozen=True)
class KnownPolicy:
    """The policy that is known for a regime.

    Attributes:
        regime: Name of the regime.
        snapshot: Its policy.
    """

    regime: str
    snapshot: PolicySnapshot


@dataclass(frozen=True)
class Variant:
    """A variant of a policy that is about to learn.

    Attributes:
        number: The k-th of this regime.
        before: Hyperparameters as they are, by name.
        values: Hyperparameters that it is to learn with.
    """

    number: int
    before: dict[str, float]
    values: dict[str, float]


# Evaluating and learning: the results may be windows away.


@dataclass(frozen=True)
class Evaluate(Action):
    """Evaluate a policy: at once where an environment of the loop's own can be had, else in the windows to come.

    Attributes:
        policy: Which.
        episodes: How many, if more than the evaluator asks for.
        seed: Policies that are compared play episodes of the same seed. None: any episodes.
        at_once: Not in the windows to come: then the result is None where it cannot be had at once.
        leave: After an evaluation in place the weights act on until `EndEvaluation` says which ones go on.
    """

    result: ClassVar[Any] = EvaluationResult | None
    policy: Policy
    episodes: int = 0
    seed: int | None = None
    at_once: bool = False
    leave: bool = False


@dataclass(frozen=True)
class EndEvaluation(Action):
    """End an evaluation in place that was left open. Nothing, where there is none.

    Attributes:
        keep: Learning goes on from the evaluated weights, and not from where it was.
    """

    keep: bool


@dataclass(frozen=True)
class Train(Action):
    """Learn from windows that nobody evaluates.

    Attributes:
        windows: How many.
    """

    windows: int


# The state machine


@dataclass(frozen=True)
class Observe(Action):
    """Hand the evaluation at hand to the state machine."""

    result: ClassVar[Any] = Decision
    evaluation: Evaluation


@dataclass(frozen=True)
class Confirm(Action):
    """Hand the second evaluation of a candidate to the state machine; a confirmed one is saved as the best.

    Attributes:
        first: The evaluation that made it a candidate.
        second: What it earned in the second one.
        hyperparams: Values that it was trained with.
    """

    result: ClassVar[Any] = tuple[Decision, ...]
    first: Evaluation
    second: EvaluationResult
    hyperparams: dict[str, float]


@dataclass(frozen=True)
class Accept(Action):
    """Make a candidate the best whose score cannot be had a second time."""

    result: ClassVar[Any] = Decision
    evaluation: Evaluation
    evidence: Evidence


@dataclass(frozen=True)
class Follow(Action):
    """Record a decision and call its hooks; a tuner rests outside of ACTIVE."""

    decision: Decision


@dataclass(frozen=True)
class RecordDecision(Action):
    """Record a decision, and no more."""

    decision: Decision


@dataclass(frozen=True)
class Watch(Action):
    """DORMANT becomes WATCHDOG."""

    result: ClassVar[Any] = Decision


@dataclass(frozen=True)
class Tune(Action):
    """Hand the evaluation at hand to the tuner, where the loop is ACTIVE."""

    evaluation: Evaluation


@dataclass(frozen=True)
class PauseTuner(Action):
    """End an experiment of the tuner without a decision."""


@dataclass(frozen=True)
class RestartTuner(Action):
    """The tuner begins anew: what it knew belongs to a regime that is gone."""


# The best and the current weights


@dataclass(frozen=True)
class ReadBest(Action):
    """Which snapshot is the best of this regime."""

    result: ClassVar[Any] = PolicySnapshot | None


@dataclass(frozen=True)
class DoubtBest(Action):
    """The best, if only its own uncertainty keeps a score from being better."""

    result: ClassVar[Any] = PolicySnapshot | None
    score: Estimate


@dataclass(frozen=True)
class Reassess(Action):
    """Pool another evaluation of the best with what is known of it."""

    score: Estimate


@dataclass(frozen=True)
class SaveIfHigher(Action):
    """Save the evaluated weights if no score was higher, where scores are deterministic."""


@dataclass(frozen=True)
class Promote(Action):
    """Make the current weights the best, with a score of their own."""

    score: Estimate
    evidence: Evidence


@dataclass(frozen=True)
class Restore(Action):
    """Go on from a snapshot.

    Attributes:
        snapshot: Which.
        rolled_back: Its score is what degradation is measured from, from now on.
    """

    snapshot: PolicySnapshot
    rolled_back: bool = False


@dataclass(frozen=True)
class RestoreUntrained(Action):
    """Go on from the weights that the run began with."""


# Variants


@dataclass(frozen=True)
class DrawVariant(Action):
    """Count one more variant of this regime, and draw its hyperparameters."""

    result: ClassVar[Any] = Variant
    parent: PolicySnapshot


@dataclass(frozen=True)
class CountVariants(Action):
    """How many variants were tried in this regime."""

    result: ClassVar[Any] = int


@dataclass(frozen=True)
class SetHyperparams(Action):
    """Set hyperparameters for another reason than tuning.

    Attributes:
        values: By name.
        kind: Why, in one word.
    """

    values: Mapping[str, float]
    kind: str


@dataclass(frozen=True)
class Mutate(Action):
    """Let the user's function change the current weights."""


# Regimes


@dataclass(frozen=True)
class BeginRegime(Action):
    """Say that the environment has changed: a new regime begins, ACTIVE and without a best."""


@dataclass(frozen=True)
class LeaveRegime(Action):
    """Forget what belongs to the regime that is gone.

    Attributes:
        best: The best of it.
        evidence: That it is gone.
    """

    result: ClassVar[Any] = list[KnownPolicy]
    best: PolicySnapshot
    evidence: Evidence


@dataclass(frozen=True)
class EnterRegime(Action):
    """Name the regime at hand.

    Attributes:
        regime: Its name; None for one that was not met before.
    """

    regime: str | None


@dataclass(frozen=True)
class OfferPolicy(Action):
    """The policy of a regime that a detector named, once for each time that it does."""

    result: ClassVar[Any] = KnownPolicy | None


@dataclass(frozen=True)
class ForgetStatistics(Action):
    """The agent forgets its past as far as `AfterShift` says."""


@dataclass(frozen=True)
class ForgetScores(Action):
    """What was earned in a regime that is gone does not count any more."""


# The rest


@dataclass(frozen=True)
class DrawSeed(Action):
    """A seed for policies that are compared."""

    result: ClassVar[Any] = int


@dataclass(frozen=True)
class Record(Action):
    """Keep a record.

    Attributes:
        kind: What the loop did.
        message: One sentence.
        evidence: Difference, standard error and n, or None.
    """

    kind: EventKind
    message: str
    evidence: Evidence | None = None


@dataclass(frozen=True)
class AnnounceDormant(Action):
    """Call the hooks of a DORMANT."""


@dataclass(frozen=True)
class LearnAgain(Action):
    """Go on learning after a degradation, and call its hooks."""


@dataclass(frozen=True)
class PauseLearning(Action):
    """Policies act and do not learn."""


@dataclass(frozen=True)
class Stop(Action):
    """End `fit` after this step."""


@dataclass(frozen=True)
class Finish(Action):
    """A procedure that evaluated and replaced weights is over.

    Learning goes on as the state says, and scores of windows until now do not count.
    """
