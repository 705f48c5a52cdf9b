"""The user's options for the loop."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class LoopOptions:
    """The user's options for the loop; see `OptixCallback`."""

    when_dormant: str = "stop"  # or "watch", or "auto" until the trained agent or model is known
    max_windows: int | None = None
    max_env_steps: int | None = None
    target_score: float | str | None = None  # a number, or "threshold" until the environment is known
    evaluation_budget: float = 0.2
    rollback_on_degradation: bool | None = None  # None: where a best is confirmed, and `Adapter.rolls_back`
    restore_best_weights: bool = True
    restore_hyperparams: bool = False

    def decided(self, *, endless: bool) -> LoopOptions:
        """Returns the options with ``when_dormant="auto"`` replaced by ``"watch"`` or ``"stop"``.

        Args:
            endless: Whether the run goes on when training is done, like an agent on a live feed.
        """
        if self.when_dormant != "auto":
            return self
        return replace(self, when_dormant="watch" if endless else "stop")
