"""What the user asked of the loop."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class LoopOptions:
    """What the user asked of the loop; see `OptixCallback`."""

    when_dormant: str = "stop"  # or "watch", or "auto" until it is known what is trained
    max_windows: int | None = None
    rollback_on_degradation: bool = False
    restore_best_weights: bool = True
    restore_hyperparams: bool = False

    def decided(self, *, endless: bool) -> LoopOptions:
        """With what ``when_dormant="auto"`` comes to.

        Args:
            endless: Whether what is trained never comes to an end by itself, such as a live feed.
        """
        if self.when_dormant != "auto":
            return self
        return replace(self, when_dormant="watch" if endless else "stop")
