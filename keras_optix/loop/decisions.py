"""What the state machine decides: events, and decisions with their evidence."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from keras_optix.loop.ending import Ending
from keras_optix.loop.scheduler_state import LoopState
from keras_optix.statistics.estimates import Evidence


class LoopEvent(enum.Enum):
    """The result of an evaluation for the state machine."""

    NONE = "none"
    CANDIDATE = "candidate"  # significantly above the best: confirm it with a second evaluation of the same weights
    IMPROVEMENT = "improvement"  # a candidate was confirmed and is now the best
    REJECTED = "rejected"  # a candidate was not confirmed
    PLATEAU = "plateau"
    DORMANT = "dormant"
    WATCHDOG = "watchdog"
    DEGRADATION = "degradation"


@dataclass(frozen=True)
class Decision:
    """A transition with its evidence; `LoopEvent.NONE` if there is no transition.

    Attributes:
        event: What happened.
        before: State of the loop before.
        after: State of the loop after.
        evidence: The difference on which the decision is based, with its reason.
        ending: Why the loop became DORMANT; None for any other event.
    """

    event: LoopEvent
    before: LoopState
    after: LoopState
    evidence: Evidence
    ending: Ending | None = None
