"""What the loop did and why, as records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from keras_optix.loop.scheduler_state import LoopState
from keras_optix.statistics.estimates import Evidence


@dataclass(frozen=True)
class LoopRecord:
    """Something that the loop did, and why.

    Attributes:
        event: A `LoopEvent` value, or ``"hyperparams"``, ``"rollback"``, ``"restored"``, ``"reassessed"``,
            ``"non_finite"``, ``"resumed"``, ``"notice"``, ``"feed"``,
            ``"environment"`` (where evaluations take place, what is scored, somebody else used the environment).
        window_id: Number of the window (epoch) after which it happened.
        env_steps: Environment steps (batches) of the run until then.
        state: State of the loop after it.
        message: One sentence.
        evidence: Difference, standard error and n, or None where there is nothing to compare.
        cost: Environment steps (batches) that went into a tuner's decision.
    """

    event: str
    window_id: int
    env_steps: int
    state: LoopState
    message: str
    evidence: Evidence | None = None
    cost: int = 0

    def __str__(self) -> str:
        return self.describe()

    def __repr__(self) -> str:
        return f"LoopRecord({self.event}: {self.describe()})"

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

    def to_json(self) -> dict[str, Any]:
        """Returns the record as JSON values."""
        evidence = None if self.evidence is None else self.evidence.to_json()
        return vars(self) | {"state": self.state.value, "evidence": evidence}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> LoopRecord:
        """Restores what `to_json` returned."""
        found = values["evidence"]
        evidence = None if found is None else Evidence.from_json(found)
        return cls(**(dict(values) | {"state": LoopState(values["state"]), "evidence": evidence}))
