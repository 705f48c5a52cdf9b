"""What a tuner of hyperparameters is to the loop."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from keras_optix.control.evidence import Evidence
from keras_optix.control.records import HyperparamSet
from keras_optix.control.scheduler import Evaluation
from keras_optix.control.search_space import SearchSpace


@dataclass(frozen=True)
class TunerDecision:
    """What a tuner wants.

    Attributes:
        kind: ``"probe"`` (try values), ``"commit"`` (keep them), ``"reverse"`` (the other direction is better),
            ``"undecided"`` (back to the old values) or ``"paused"``.
        params: Values to apply; all hyperparameters not named stay as they are.
        evidence: Why.
    """

    kind: str
    params: dict[str, float] = field(default_factory=dict)
    evidence: Evidence | None = None


class BaseOptimizer(abc.ABC):
    """Tunes hyperparameters from evaluations. Subclass it for an algorithm of your own.

    Attributes:
        spaces: Search space of each hyperparameter that is tuned.
    """

    spaces: Mapping[str, SearchSpace]

    @abc.abstractmethod
    def observe(self, evaluation: Evaluation, current: HyperparamSet) -> TunerDecision | None:
        """Takes an evaluation that was collected under `current`.

        Args:
            evaluation: The score. It belongs to weights that were trained with `current` since the last evaluation.
            current: The hyperparameters in force.

        Returns:
            What to apply before the next window, or None.
        """

    @abc.abstractmethod
    def pause(self) -> TunerDecision | None:
        """Ends a probe without a decision: the loop cools down, is dormant, or was rolled back.

        Returns:
            The values to return to, or None if no probe was under way.
        """

    @abc.abstractmethod
    def reset(self) -> None:
        """Forgets everything: a new run begins."""

    @abc.abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Returns all state as JSON values."""

    @abc.abstractmethod
    def from_json(self, values: dict[str, Any]) -> None:
        """Restores what `to_json` returned."""
