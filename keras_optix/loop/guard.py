"""When a loss or a weight is not a number any more: how often to go back before giving up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from keras_optix.errors import NonFiniteError, describe
from keras_optix.records import LEARNING_RATE

MAX_RECOVERIES = 5
LEARNING_RATE_FACTOR = 0.5


@dataclass
class NonFiniteGuard:
    """Counts the recoveries of a run.

    A recovery restores the last weights that were finite and halves the learning rate. After `max_recoveries` of them
    the cause is not the step size.

    Attributes:
        max_recoveries: How many recoveries a run may have.
        recoveries: How many it has had.
    """

    max_recoveries: int = MAX_RECOVERIES
    recoveries: int = 0

    def recover(self, window_id: int, what: str, learning_rate: float | None) -> float | None:
        """Counts a recover; see `recover_all`, for one learning rate or none.

        Args:
            window_id: Number of the window whose update failed.
            what: What is not finite.
            learning_rate: The current value; None where it cannot be changed.

        Returns:
            The learning rate to go on with.

        Raises:
            NonFiniteError: There were too many.
        """
        rates = {} if learning_rate is None else {LEARNING_RATE: learning_rate}
        return self.recover_all(window_id, what, rates).get(LEARNING_RATE)

    def recover_all(self, window_id: int, what: str, rates: Mapping[str, float]) -> dict[str, float]:
        """Counts a recover.

        Args:
            window_id: Number of the window whose update failed.
            what: What is not finite.
            rates: The current learning rates, by name; none where none can be changed.

        Returns:
            The learning rates to go on with.

        Raises:
            NonFiniteError: There were too many.
        """
        if self.recoveries >= self.max_recoveries:
            shown: Mapping[str, float | None] = rates or {LEARNING_RATE: None}
            raise NonFiniteError(
                describe(
                    f"{what} is not finite, for the {self.recoveries + 1}th time in this run; the last finite weights "
                    "are restored.",
                    fix="Look at the rewards and observations (normalize_rewards and normalize_observations scale "
                    "them), the network's outputs, and a loss of your own.",
                    window_id=window_id,
                    **shown,
                )
            )
        self.recoveries += 1
        return {name: rate * LEARNING_RATE_FACTOR for name, rate in rates.items()}
