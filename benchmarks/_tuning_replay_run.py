"""One run of `tuning_replay_agents.py`: reads a `Spec` from its argument, prints the result as JSON."""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf
from tuning_replay_agents import CURVE_POINTS, EPISODES, EVALUATION_SEED, TASKS, Spec

import keras_optix as optix


class Curve(keras.callbacks.Callback):
    """Notes env steps, the mean return of the latest episodes and the hyperparameters after every so many windows."""

    def __init__(self, window: int, every: int) -> None:
        super().__init__()
        self._window, self._every, self._windows = window, every, 0
        self.rows: list[tuple[int, float | None, dict[str, float]]] = []

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        """See `keras.callbacks.Callback`."""
        self._windows += 1
        if self._windows % self._every == 0:
            score = float((logs or {})["episode_return"])
            finite = round(score, 1) if math.isfinite(score) else None
            values = {name: float(f"{self.model.hyperparams[name]:.4g}") for name in self.model.search_spaces}
            self.rows.append((self._windows * self._window, finite, values))


def greedy_return(agent: Any, spec: Spec) -> float:
    """The mean return of fresh greedy episodes, the same ones for both methods of a seed."""
    seed = EVALUATION_SEED + EPISODES * spec.seed
    return float(optix.evaluate_policy(agent, spec.task, episodes=EPISODES, seed=seed).primary_score or 0.0)


def run(spec: Spec) -> dict[str, Any]:
    """Trains under the loop, which only tunes and keeps snapshots: it neither ends `fit` nor restores.

    Args:
        spec: The run.

    Returns:
        Scores of the last weights and of the best snapshot, and how they came about.
    """
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    keras.utils.set_random_seed(spec.seed)
    kind = getattr(optix, TASKS[spec.task].algorithm)
    agent = kind.preset(spec.task, learning_rate=spec.start, seed=spec.seed)
    collection = agent.collection_defaults
    window = collection.window_size * collection.num_envs
    windows = max(spec.steps // window, 2)
    dataset = optix.dataset_from_env(spec.task, agent, seed=spec.seed)
    curve = Curve(window, max(windows // CURVE_POINTS, 1))
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as directory:
        callback = optix.OptixCallback(
            scheduler=optix.BackoffScheduler(plateau_threshold=10**6, dormant_threshold=10**7),
            tuner=optix.BackoffOptimizer() if spec.method == "tuned" else None,
            checkpoint_dir=directory,
            max_windows=windows,
            restore_best_weights=False,
            resume_interval=None,
            verbose=0,
        )
        error = None
        try:
            agent.fit(dataset, callbacks=[callback, curve], verbose=0)
        except optix.errors.NonFiniteError as raised:
            error = str(raised)  # the weights are those from before the last update that failed
        trained = time.perf_counter() - begin
        values = {name: float(agent.hyperparams[name]) for name in agent.search_spaces}
        last, best = greedy_return(agent, spec), None
        if callback.registry.best is not None:
            callback.registry.load_best(agent)
            best = greedy_return(agent, spec)
    events = [[record.kind, record.env_steps, record.message] for record in callback.events]
    return {
        "last": last,
        "best": best,
        "values": values,
        "env_steps": callback.env_steps,
        "evaluation_env_steps": callback.evaluation_env_steps,
        "training_seconds": round(trained, 1),
        "decisions": [event for event in events if event[0] == "hyperparams"],
        "curve": curve.rows,
        "error": error,
    }


if __name__ == "__main__":
    print(json.dumps(run(Spec(**json.loads(sys.argv[1])))))
