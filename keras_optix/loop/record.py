"""What the loop did and why, as records."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from keras_optix.loop.scheduler_state import LoopState
from keras_optix.states import Count
from keras_optix.statistics.estimates import Evidence


class EventKind(enum.StrEnum):
    """What the loop did.

    Attributes:
        CANDIDATE: An evaluation lies significantly above the best.
        IMPROVEMENT: A second evaluation confirmed a candidate, or policies were compared: there is a new best.
        REJECTED: A second evaluation did not confirm a candidate.
        PLATEAU: ACTIVE became COOLING.
        DORMANT: COOLING became DORMANT.
        WATCHDOG: DORMANT became WATCHDOG.
        DEGRADATION: Scores are significantly below what they were; the loop is ACTIVE again.
        REASSESSED: The best was evaluated again, and what was known of it was pooled with that.
        ROLLBACK: Training goes on from a snapshot, or from the weights that the run began with.
        KEPT: Policies were compared, and the current weights stay; or at the end, the best is of a regime that is gone.
        RESTORED: `fit` ended, with the best weights.
        HYPERPARAMS: The tuner changed hyperparameters, or decided not to.
        VARIANT: A variant of the best began to learn, was adopted, or was discarded.
        REGIME: A regime has another name, or one that is known is back.
        CHANGE_POINT: The environment has changed: a new regime begins, without a best.
        NON_FINITE: Something was NaN or infinite, and was undone.
        RESUMED: A run that was cut off goes on.
        ENVIRONMENT: Where evaluations take place, or that somebody else used the environment.
        FEED: What happened to a live feed.
        NOTICE: Anything else that people should know.
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
    """Something that the loop did, and why.

    Attributes:
        kind: What it did, an `EventKind`; equal to its name in lower case.
        window_id: Number of the window (epoch) after which it happened.
        env_steps: Environment steps (batches) of the run until then.
        state: State of the loop after it.
        message: One sentence.
        evidence: Difference, standard error and n, or None where there is nothing to compare.
        cost: Environment steps (batches) that went into a tuner's decision.
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
        """The evidence in words, with its numbers where something was measured."""
        if self.evidence is None:
            return ""
        return str(self.evidence) if self.evidence.n else self.evidence.reason

    @property
    def why(self) -> str:
        """The message with its evidence."""
        return f"{self.message}: {self.because}" if self.because else self.message

    def describe(self, unit: str = "window", steps: str = "env steps") -> str:
        """One line.

        Args:
            unit: What the loop counts.
            steps: What its steps are called.
        """
        return f"{unit} {self.window_id}, {self.env_steps} {steps}, {self.state.name}: {self.why}"
