"""Where the loop is in its run, and the records of what it did."""

from __future__ import annotations

from keras_optix.loop.hooks import RunLog
from keras_optix.loop.record import EventKind, LoopRecord
from keras_optix.loop.state_machine import StateMachine
from keras_optix.statistics.estimates import Evidence


class Journal:
    """Keeps records with the place and the state in which they were made.

    Args:
        log: Keeps and shows them.
        scheduler: Knows the state.

    Attributes:
        window_id: Number of the latest window (epoch); -1 before the first.
        env_steps: Environment steps (batches) of training.
    """

    def __init__(self, log: RunLog, scheduler: StateMachine) -> None:
        self.log = log
        self.window_id = -1
        self.env_steps = 0
        self._scheduler = scheduler

    def note(self, kind: EventKind, message: str, evidence: Evidence | None = None, cost: int = 0) -> None:
        """Keeps a record.

        Args:
            kind: What the loop did.
            message: One sentence.
            evidence: Difference, standard error and n, or None.
            cost: Environment steps (batches) that went into a tuner's decision.
        """
        state = self._scheduler.loop_state
        self.log.note(LoopRecord(kind, self.window_id, self.env_steps, state, message, evidence, cost))
