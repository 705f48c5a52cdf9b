"""The journal knows how far the run is, and writes the records of what the loop did."""

from __future__ import annotations

from keras_optix.loop.hooks import RunLog
from keras_optix.loop.record import EventKind, LoopRecord
from keras_optix.loop.state_machine import StateMachine
from keras_optix.statistics.estimates import Evidence


class Journal:
    """Writes records, each with the window, the env steps and the state at which it was made.

    Args:
        log: Keeps and shows the records.
        scheduler: The state machine, which knows the state of the loop.

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
        """Writes a record.

        Args:
            kind: The kind of the event.
            message: One sentence that says what happened.
            evidence: Difference, standard error and n, or None.
            cost: Environment steps (batches) spent on a tuner's decision.
        """
        state = self._scheduler.loop_state
        self.log.note(LoopRecord(kind, self.window_id, self.env_steps, state, message, evidence, cost))
