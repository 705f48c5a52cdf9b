"""One run of `algorithms.py`: trains the preset of an algorithm, and prints the result as JSON.

    python benchmarks/_algorithm_ours.py '{"algorithm": "DQNAgent", "task": "CartPole-v1", "env_steps": 50000, ...}'

`fit` has no callback of the loop: the row is about the algorithm, and its weights are those of the last step.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import keras
from _algorithm_rows import FRESH_SEED, SEEDS_APART

import keras_optix as optix

_POINTS = 100  # of a curve


class Curve(keras.callbacks.Callback):
    """Notes env steps, the mean return of the latest episodes, and seconds."""

    def __init__(self, window_env_steps: int, windows: int) -> None:
        super().__init__()
        self.window_env_steps = window_env_steps
        self.every = max(windows // _POINTS, 1)
        self.points: list[tuple[int, float, float]] = []
        self.begun = self.first = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch == 0:
            self.first = time.perf_counter()  # from here on nothing is compiled
        elif batch % self.every == 0:
            seconds = time.perf_counter() - self.begun
            self.points.append(((batch + 1) * self.window_env_steps, float(logs["episode_return"]), round(seconds, 2)))


def main() -> None:
    """Plays the run."""
    spec = json.loads(sys.argv[1])
    seed = spec["seed"]
    keras.utils.set_random_seed(seed)
    agent = getattr(optix, spec["algorithm"]).preset(spec["task"], seed=seed)
    collection = agent.collection_defaults
    per_window = collection.window_size * collection.num_envs
    windows = max(spec["env_steps"] // per_window, 2)
    curve = Curve(per_window, windows)
    dataset = optix.dataset_from_env(spec["task"], agent, seed=seed)
    agent.fit(dataset, epochs=1, steps_per_epoch=windows, callbacks=[curve], verbose=0)
    end = time.perf_counter()
    result: dict[str, Any] = {
        "env_steps": windows * per_window,
        "seconds": round(end - curve.begun, 2),
        "rate": (windows - 1) * per_window / (end - curve.first),
        "curve": curve.points,
    }
    if spec["episodes"]:
        seeds = FRESH_SEED + SEEDS_APART * seed
        metrics = optix.evaluate_policy(agent, spec["task"], episodes=spec["episodes"], seed=seeds)
        result["score"] = float(metrics.primary_score)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
