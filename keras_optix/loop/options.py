"""What the user asked of the loop."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LoopOptions:
    """What the user asked of the loop; see `OptixCallback`."""

    when_dormant: str = "stop"  # or "watch"
    max_windows: int | None = None
    rollback_on_degradation: bool = False
    restore_best_weights: bool = True
    restore_hyperparams: bool = False
