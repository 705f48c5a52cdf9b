"""Records of what the loop did and why."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from keras_optix.loop.scheduler_state import LoopState
from keras_optix.states import Count
from keras_optix.statistics.estimates import Evidence


class EventKind(enum.StrEnum):
    """The kinds of events that the loop records.

    Attributes:
        CANDIDATE: An evaluation lies significantly above the best.
        IMPROVEMENT: There is a new best: a second evaluation confirmed a candidate, or a comparison of policies.
        REJECTED: A second evaluation did not confirm a candidate.
        PLATEAU: ACTIVE became COOLING.
        DORMANT: COOLING became DORMANT.
        WATCHDOG: DORMANT became WATCHDOG.
        DEGRADATION: Scores fell significantly; the loop is ACTIVE again.
        REASSESSED: The best was evaluated again, and the new score was pooled with its score so far.
        ROLLBACK: Training continues from a snapshot, or from the initial weights of the run.
        KEPT: The current weights stay, after a comparison of policies, or at the end of `fit` because the best belongs
            to an earlier regime.
        RESTORED: `fit` ended and restored the best weights.
        FINAL: `fit` ended and played fresh episodes with the best, whose score is the one that is announced.
        HYPERPARAMS: The tuner changed hyperparameters, or decided to leave them.
        VARIANT: A variant of the best began to learn, was adopted, or was discarded.
        REGIME: The detector named another regime, or a known regime has returned.
        CHANGE_POINT: The environment has changed: a new regime begins, without a best.
        NON_FINITE: A loss, a weight or a score was NaN or infinite, and the update was undone.
        RESUMED: An interrupted run was resumed.
        ENVIRONMENT: A message about where evaluations take place, or about other code that used the environment.
        FEED: Something happened to a live feed.
        NOTICE: Any other message for the user.

    Examples:
        >>> [event for event in optix.OptixCallback().events if event.kind == optix.EventKind.IMPROVEMENT]
        []
        >>> optix.EventKind.IMPROVEMENT == "improvement"
        True
    """

    CANDIDATE = "candidate"
    IMPROVEMENT = "improvement"
    REJECTED = "rejected"
    PLATEAU = "plateau"
    DORMANT = "dormant"
    WATCHDOG = "watchdog"
    DEGRADATION = "degradation"
    REASSESSED = "reassessed"
    ROLLBACK = "rollback"
    KEPT = "kept"
    RESTORED = "restored"
    FINAL = "final"
    HYPERPARAMS = "hyperparams"
    VARIANT = "variant"
    REGIME = "regime"
    CHANGE_POINT = "change_point"
    NON_FINITE = "non_finite"
    RESUMED = "resumed"
    ENVIRONMENT = "environment"
    FEED = "feed"
    NOTICE = "notice"


@dataclass(frozen=True)
class LoopRecord:
    """An event: something that the loop did, and why.

    Attributes:
        kind: The kind of the event, an `EventKind`; equal to its name in lower case, such as ``"improvement"``.
        window_id: Number of the window (epoch) after which it happened.
        env_steps: Environment steps (batches) of the run until then.
        state: State of the loop after the event.
        message: One sentence that says what happened.
        evidence: Difference, standard error and n, or None if nothing was compared.
        cost: Environment steps (batches) spent on a tuner's decision.

    Examples:
        >>> for event in optix.OptixCallback().events:  # there are none before `fit`
        ...     print(event.kind, event.env_steps, event.evidence)
    """

    kind: EventKind
    window_id: int
    env_steps: Count
    state: LoopState
    message: str
    evidence: Evidence | None = None
    cost: Count = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", EventKind(self.kind))

    def __str__(self) -> str:
        return self.describe()

    def __repr__(self) -> str:
        return f"LoopRecord({self.kind}: {self.describe()})"

    @property
    def because(self) -> str:
        """The evidence in words, with its numbers if something was measured."""
        if self.evidence is None:
            return ""
        return str(self.evidence) if self.evidence.n else self.evidence.reason

    @property
    def why(self) -> str:
        """The message with its evidence."""
        return f"{self.message}: {self.because}" if self.because else self.message

    def describe(self, unit: str = "window", steps: str = "env steps") -> str:
        """Returns the event as one line.

        Args:
            unit: Name of what the loop counts: ``"window"`` or ``"epoch"``.
            steps: Name of the steps: ``"env steps"`` or ``"steps"``.
        """
        return f"{unit} {self.window_id}, {self.env_steps} {steps}, {self.state.name}: {self.why}"
