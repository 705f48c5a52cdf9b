"""When a loss or a weight is not a number any more: how often to go back before giving up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from keras_optix.errors import NonFiniteError, describe
from keras_optix.records import LEARNING_RATE

MAX_RESCUES = 5
LEARNING_RATE_FACTOR = 0.5


@dataclass
class NonFiniteGuard:
    """Counts the rescues of a run.

    A rescue restores the last weights that were finite and halves the learning rate. After `max_rescues` of them the
    cause is not the step size.

    Attributes:
        max_rescues: How many rescues a run may have.
        rescues: How many it has had.
    """

    max_rescues: int = MAX_RESCUES
    rescues: int = 0

    def rescue(self, window_id: int, what: str, learning_rate: float | None) -> float | None:
        """Counts a rescue; see `rescue_all`, for one learning rate or none.

        Args:
            window_id: Number of the window whose update failed.
            what: What is not finite.
            learning_rate: The value in force; None where it cannot be changed.

        Returns:
            The learning rate to go on with.

        Raises:
            NonFiniteError: There were too many.
        """
        rates = {} if learning_rate is None else {LEARNING_RATE: learning_rate}
        return self.rescue_all(window_id, what, rates).get(LEARNING_RATE)

    def rescue_all(self, window_id: int, what: str, rates: Mapping[str, float]) -> dict[str, float]:
        """Counts a rescue.

        Args:
            window_id: Number of the window whose update failed.
            what: What is not finite.
            rates: The learning rates in force, by name; none where none can be changed.

        Returns:
            The learning rates to go on with.

        Raises:
            NonFiniteError: There were too many.
        """
        if self.rescues >= self.max_rescues:
            shown: Mapping[str, float | None] = rates or {LEARNING_RATE: None}
            raise NonFiniteError(
                describe(
                    f"{what} is not finite, for the {self.rescues + 1}th time in this run; the last finite weights are "
                    "restored.",
                    fix="Look at the rewards and observations (normalize_rewards and normalize_observations scale "
                    "them), the network's outputs, and a loss of your own.",
                    window_id=window_id,
                    **shown,
                )
            )
        self.rescues += 1
        return {name: rate * LEARNING_RATE_FACTOR for name, rate in rates.items()}
