"""Limits how often a run recovers from a loss, a weight or a score that is not finite."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from keras_optix.errors import NonFiniteError, describe
from keras_optix.records import LEARNING_RATE

MAX_RECOVERIES = 5
RECOVERY_WINDOWS = 1_000  # windows (epochs) after which a recovery no longer counts against the limit
LEARNING_RATE_FACTOR = 0.5
LARGEST_SCORE = 1e150  # beyond it, squares overflow: a score as large as that is taken for one that is not finite


@dataclass
class NonFiniteGuard:
    """Counts the recoveries of a run.

    A recovery restores the last finite weights and halves the learning rate, for 1,000 windows from the latest recovery
    on. Otherwise a run of weeks would hardly learn any more in the end. If `max_recoveries` do not help, the cause is
    not the step size. Only those of the last 1,000 windows count against the limit, so that a run of weeks does not
    end because one update in thousands failed.

    Attributes:
        max_recoveries: Largest number of recoveries within 1,000 windows (epochs).
        recoveries: Number of recoveries so far.
        recent: The windows of the latest recoveries, oldest first.
        halved: For each learning rate that is still halved, the value before and the one since.
    """

    max_recoveries: int = MAX_RECOVERIES
    recoveries: int = 0
    recent: tuple[int, ...] = ()
    halved: dict[str, tuple[float, float]] = field(default_factory=dict)

    def counted(self, window_id: int) -> tuple[int, ...]:
        """Returns the recoveries that count against the limit at a window."""
        return tuple(at for at in self.recent if window_id - at < RECOVERY_WINDOWS)

    def recover(self, window_id: int, what: str, learning_rate: float | None) -> float | None:
        """Counts a recovery, like `recover_all`, for one learning rate or none.

        Args:
            window_id: Number of the window whose update failed.
            what: The value that is not finite, such as ``"A loss"``.
            learning_rate: The current value; None if it cannot be changed.

        Returns:
            The learning rate to continue with.

        Raises:
            NonFiniteError: There were too many recoveries.
        """
        rates = {} if learning_rate is None else {LEARNING_RATE: learning_rate}
        return self.recover_all(window_id, what, rates).get(LEARNING_RATE)

    def recover_all(
        self, window_id: int, what: str, rates: Mapping[str, float], *, restored: bool = True
    ) -> dict[str, float]:
        """Counts a recovery.

        Args:
            window_id: Number of the window whose update failed.
            what: The value that is not finite, such as ``"A loss"``.
            rates: The current learning rates, by name; empty if none can be changed.
            restored: Whether finite weights were restored, for the message.

        Returns:
            The learning rates to continue with.

        Raises:
            NonFiniteError: There were too many recoveries.
        """
        self.recent = self.counted(window_id)
        if len(self.recent) >= self.max_recoveries:
            now = "The last finite weights were restored." if restored else "The weights are finite, and stay."
            of = "this run" if len(self.recent) == self.recoveries else f"{RECOVERY_WINDOWS:,} windows"
            shown: Mapping[str, float | None] = rates or {LEARNING_RATE: None}
            raise NonFiniteError(
                describe(
                    f"{what} is not finite, for the {len(self.recent) + 1}th time in {of}. {now}",
                    fix="Check the rewards and observations (normalize_rewards and normalize_observations scale "
                    "them), the outputs of the network, and your own loss functions.",
                    window_id=window_id,
                    **shown,
                )
            )
        self.recoveries += 1
        self.recent = (*self.recent, window_id)
        after = {name: rate * LEARNING_RATE_FACTOR for name, rate in rates.items()}
        for name, rate in after.items():
            first, since = self.halved.get(name, (rates[name], rates[name]))
            # A rate that was changed in between is no longer the one that was halved before.
            self.halved[name] = (first if since == rates[name] else rates[name], rate)
        return after

    def give_back(self, window_id: int, rates: Mapping[str, float]) -> dict[str, float]:
        """Returns the learning rates to be set again, because no recovery counts any more; each only once.

        Args:
            window_id: The present window.
            rates: The current learning rates, by name. One that is not what it was halved to was changed on purpose.
        """
        if not self.halved or self.counted(window_id):
            return {}
        halved, self.halved = self.halved, {}
        return {name: before for name, (before, since) in halved.items() if rates.get(name) == since}
