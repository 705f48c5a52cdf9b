"""The players of ours in `swap.py`, by name: each makes an `OptixCallback` for a directory and a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras_optix as optix

Player = Callable[[str, int, int], "optix.OptixCallback"]
"""For a directory, a number of windows and a seed."""


def _player(
    *,
    scheduler: Mapping[str, Any] | None = None,
    managed: bool = False,
    in_place: bool = False,
    rollback: bool = True,
    **options: Any,
) -> Player:
    """The loop that all have in common, with options of its own; those of a policy manager, where there is one.

    It watches over what is trained instead of ending `fit`, and evaluates at least every 10 windows: the default of 100
    would let a change go unseen for 25,600 env steps.
    """

    def make(directory: str, windows: int, seed: int) -> optix.OptixCallback:
        return optix.OptixCallback(
            optix.ReturnEvaluator(in_place=in_place),
            scheduler=optix.BackoffScheduler(**(scheduler or {"max_interval": 10})),
            policy_manager=optix.PolicyManager(seed=seed, **options) if managed else None,
            rollback_on_degradation=rollback,
            checkpoint_dir=directory,
            when_dormant="watch",
            max_windows=windows,
            restore_best_weights=False,
            resume_interval=None,
            verbose=0,
        )

    return make


PLAYERS: dict[str, Player] = {
    # Never COOLING, so what PPO itself does.
    "alone": _player(scheduler={"plateau_threshold": 10**6, "dormant_threshold": 10**7}, rollback=False),
    "plain": _player(rollback=False),
    "rollback": _player(),
    "managed": _player(managed=True, store_policies=False),
    "variants": _player(managed=True, store_policies=False, auto_spawn=True),
    "bank": _player(managed=True),
    "bank+variants": _player(managed=True, auto_spawn=True),
    "bank-in-place": _player(managed=True, in_place=True),
}
