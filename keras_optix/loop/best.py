"""The only place that holds the best confirmed policy of the present regime."""

from __future__ import annotations

from keras_optix.evaluators.evaluation import estimate_of
from keras_optix.loop.run_snapshots import RunSnapshots
from keras_optix.loop.state_machine import StateMachine
from keras_optix.store.files import Arrays
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

    def read(self, snapshots: RunSnapshots, snapshot: PolicySnapshot) -> tuple[PolicySnapshot, Arrays] | None:
        """Returns a snapshot with its arrays; if its file is damaged, the next best; None if no other can be read.

        If the damaged snapshot was the best, the one that is returned takes its place.

        Args:
            snapshots: The snapshots of the run.
            snapshot: The snapshot.
        """
        found, latest = snapshots.load_or_next(snapshot), self.latest
        if found is not None and latest is not None and found[0].key != snapshot.key == latest.key:
            self.latest = found[0]
            estimate = estimate_of(found[0].eval_metrics)
            if estimate is not None:
                self._scheduler.adopt(estimate, env_steps=found[0].env_steps)
        return found
