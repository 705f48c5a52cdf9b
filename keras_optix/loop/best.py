"""The best confirmed policy of the present regime: the one place where it lives."""

from __future__ import annotations

from keras_optix.loop.state_machine import StateMachine
from keras_optix.store.manifest import PolicySnapshot


class Best:
    """Which snapshot is the best.

    A regime has a best of its own. Nobody has to empty this one when the environment changes: it is asked for with the
    regime that the state machine is in.

    Args:
        scheduler: Knows the regime, and the score that others are compared with.

    Attributes:
        latest: The latest best of any regime, or None. In a new regime it is no reference, but it is on disk.
    """

    def __init__(self, scheduler: StateMachine) -> None:
        self.latest: PolicySnapshot | None = None
        self._scheduler = scheduler

    @property
    def snapshot(self) -> PolicySnapshot | None:
        """The best of the present regime, or None."""
        latest = self.latest
        return latest if latest is not None and latest.regime_index == self._scheduler.state.regime_index else None
