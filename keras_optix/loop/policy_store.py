"""Stores one snapshot for each regime, to be restored when the regime returns."""

from __future__ import annotations

from collections.abc import Mapping

from keras_optix.loop.run_snapshots import SnapshotStore
from keras_optix.store.manifest import PolicySnapshot

_HOLDER = "regime:"  # followed by the regime's name, this is the holder of the snapshot


class PolicyStore:
    """Protects one snapshot for each regime from being pruned.

    Args:
        registry: The registry with the snapshots.
        max_regimes: Largest number of regimes. The regime that was seen longest ago is forgotten first.
    """

    def __init__(self, registry: SnapshotStore, max_regimes: int) -> None:
        self._registry = registry
        self._max_regimes = max_regimes
        self._entries: dict[str, PolicySnapshot] = {}  # by regime, the latest regime last

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def snapshot_ids(self) -> tuple[int, ...]:
        """Numbers of the stored snapshots."""
        return tuple(snapshot.snapshot_id for snapshot in self._entries.values())

    def get(self, regime: str) -> PolicySnapshot | None:
        """Returns the policy of a regime, or None."""
        return self._entries.get(regime)

    def put(self, regime: str, snapshot: PolicySnapshot) -> None:
        """Makes a snapshot the policy of a regime, and replaces the one before."""
        before = self._entries.pop(regime, None)
        self._entries[regime] = self._registry.hold(snapshot, _HOLDER + regime)
        if before is not None and before.key != snapshot.key:
            self._registry.release(before, _HOLDER + regime)
        while len(self._entries) > self._max_regimes:
            oldest = next(iter(self._entries))
            self._registry.release(self._entries.pop(oldest), _HOLDER + oldest)

    def candidates(self, regime: str | None = None) -> list[tuple[str, PolicySnapshot]]:
        """Returns regimes and their policies in the order in which to try them.

        Args:
            regime: The regime that seems to have returned, which comes first.
        """
        latest_first = list(reversed(self._entries.items()))
        return sorted(latest_first, key=lambda entry: entry[0] != regime)

    def save(self) -> dict[str, int]:
        """Returns the numbers of the snapshots by regime."""
        return {regime: snapshot.snapshot_id for regime, snapshot in self._entries.items()}

    def restore(self, numbers: Mapping[str, int]) -> None:
        """Restores the snapshots that `save` returned, as far as the registry still has them."""
        self._entries = {}
        for regime, number in numbers.items():
            for snapshot in self._registry.held_by(_HOLDER + regime):
                if snapshot.snapshot_id == number:
                    self._entries[regime] = snapshot
