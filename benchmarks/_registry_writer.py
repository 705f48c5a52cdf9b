"""A process that writes snapshots and says what it did, for `benchmarks/registry.py` to kill; imports no TensorFlow.

Each line is written at once, and after the fact: ``try``, ``saved``, ``hold``, ``release`` and then run, number, score.
``try`` and ``release`` are said before, for they may have happened although nobody could say so any more.
"""

from __future__ import annotations

import os
import random
import sys
import time

import numpy as np

from keras_optix.records import EvalMetrics, HyperparamSet
from keras_optix.store.manifest import PolicySnapshot
from keras_optix.store.registry import CheckpointRegistry

HOLDER = "benchmark"


def say(word: str, run_id: str | None, snapshot_id: int, score: float) -> None:
    os.write(1, f"{word} {run_id} {snapshot_id} {score!r}\n".encode())


def save(registry: CheckpointRegistry, score: float, size: int) -> PolicySnapshot:
    """Saves arrays that say their score."""
    say("try", registry.run_id, 0, score)
    snapshot = registry.save(
        {"weights": np.full(size, score)},
        eval_metrics=EvalMetrics(score, episodes=1),
        hyperparams=HyperparamSet({"learning_rate": 1e-3}),
    )
    say("saved", snapshot.run_id, snapshot.snapshot_id, score)
    return snapshot


def churn(registry: CheckpointRegistry, rng: random.Random) -> None:
    """Saves 100 kB again and again; holds, releases and scores again in between."""
    while True:
        saved = save(registry, rng.random(), 12_500)
        held = registry.held_by(HOLDER)
        if len(held) > 2:
            old = rng.choice(held)
            say("release", old.run_id, old.snapshot_id, old.score)
            registry.release(old, HOLDER)
        elif rng.random() < 0.3:
            registry.hold(saved, HOLDER)
            say("hold", saved.run_id, saved.snapshot_id, saved.score)
        if rng.random() < 0.3:
            old = rng.choice(registry.ranked_snapshots)
            registry.rescore(old, EvalMetrics(old.score, episodes=rng.randrange(100)))


def main() -> None:
    """Arguments: directory, ``churn`` or ``append``, seed, run (``new``, ``last`` or an id), seconds."""
    directory, mode, seed, run_id, seconds = sys.argv[1:]
    rng = random.Random(int(seed))
    registry = CheckpointRegistry(directory, max_snapshots=5 if mode == "churn" else 10**9)
    if run_id == "new" or registry.run_id is None:
        registry.begin_run()
    elif run_id != "last":
        registry.continue_run(run_id)
    if mode == "churn":
        churn(registry, rng)
    end = time.monotonic() + float(seconds)
    while time.monotonic() < end:
        save(registry, rng.random(), 1_000)


if __name__ == "__main__":
    main()
