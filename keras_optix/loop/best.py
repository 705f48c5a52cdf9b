"""The only place that holds the best confirmed policy of the present regime."""

from __future__ import annotations

from keras_optix.loop.state_machine import StateMachine
from keras_optix.store.manifest import PolicySnapshot


class Best:
    """Knows which snapshot is the best of the present regime.

    Each regime has its own best. When the environment changes, nothing needs to be reset here: `snapshot` is None as
    soon as the state machine is in another regime.

    Args:
        scheduler: The state machine, which knows the regime.

    Attributes:
        latest: The latest best of any regime, or None. In a new regime it is not a reference, but it is still on disk.
    """

    def __init__(self, scheduler: StateMachine) -> None:
        self.latest: PolicySnapshot | None = None
        self._scheduler = scheduler

    @property
    def snapshot(self) -> PolicySnapshot | None:
        """The best of the present regime, or None."""
        latest = self.latest
        return latest if latest is not None and latest.regime_index == self._scheduler.state.regime_index else None
