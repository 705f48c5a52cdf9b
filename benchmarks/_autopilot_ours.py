"""One run of ours for `autopilot.py`: reads a `Spec` from its argument, prints the result as JSON.

The program is what a user would write: `make_agent`, `dataset_from_env`, the default callback. A checkout from before
`make_agent` gets the default agent with windows of 8 x 128 env steps, and one from before `max_env_steps` the same
limit in windows.

A `continued` run is the same run with stopping switched off, to as many env steps as its spec says. From the middle on,
where the run ended, it plays greedy episodes at `POINTS` moments beside training, so that a gain is seen even if the
loop missed it. The best of these moments plays again, because the highest of many scores is too high.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import math
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf
from _autopilot_tasks import FRESH_SEED, OVERTIME, SEEDS_APART, Spec

import keras_optix as optix

POINTS, POINT_SEED = 20, 30_000
N_STEPS, N_ENVS, LEARNING_RATE = 128, 8, 3e-4  # without `make_agent`
DIGITS = 6
# What ends a run by itself, in today's scheduler and in earlier ones.
NEVER = {"dormant_threshold": 10**6, "futility_confidence": None, "max_degradations": 10**6}


def make_run(spec: Spec) -> tuple[Any, Any]:
    """A compiled agent and its dataset."""
    keras.utils.set_random_seed(spec.seed)
    make_agent = getattr(optix, "make_agent", None)
    if make_agent is not None:
        agent = make_agent(spec.task)
        return agent, optix.dataset_from_env(spec.task, agent, seed=spec.seed)
    agent = optix.PPOAgent()
    agent.compile(optimizer=keras.optimizers.Adam(LEARNING_RATE))
    return agent, optix.dataset_from_env(spec.task, agent, window_size=N_STEPS, num_envs=N_ENVS, seed=spec.seed)


def limited(env_steps: int) -> dict[str, int]:
    """The option of the callback that ends a run after so many env steps."""
    if "max_env_steps" in inspect.signature(optix.OptixCallback).parameters:
        return {"max_env_steps": env_steps}
    return {"max_windows": math.ceil(env_steps / (N_STEPS * N_ENVS))}


def unstoppable() -> Any:
    """The default scheduler, but it never ends a run."""
    known = inspect.signature(optix.BackoffScheduler).parameters
    return optix.BackoffScheduler(**{name: value for name, value in NEVER.items() if name in known})


def play(agent: Any, spec: Spec, first_seed: int = FRESH_SEED) -> dict[str, Any]:
    """Mean return of fresh greedy episodes, its standard error and n."""
    found = optix.evaluate_policy(agent, spec.task, episodes=spec.episodes, seed=first_seed + SEEDS_APART * spec.seed)
    return {"score": found.primary_score, "stderr": found.stderr, "n": found.episodes}


class Points(keras.callbacks.Callback):
    """Plays greedy episodes at so many moments of the second half, and keeps the weights of the best one."""

    def __init__(self, spec: Spec, loop: Any) -> None:
        super().__init__()
        self._spec, self._loop = spec, loop
        half = spec.env_steps // 2
        self._due = [half + half * (k + 1) // POINTS for k in range(POINTS)]
        self.rows: list[dict[str, Any]] = []
        self.best_weights: list[Any] | None = None

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """See `keras.callbacks.Callback`."""
        if not self._due or self._loop.env_steps < self._due[0]:
            return
        while self._due and self._loop.env_steps >= self._due[0]:
            self._due.pop(0)
        row = {"env_steps": self._loop.env_steps, **play(self.model, self._spec, POINT_SEED)}
        if all(row["score"] > other["score"] for other in self.rows):
            self.best_weights = self.model.get_weights()
        self.rows.append(row)


def best_of(callback: Any) -> dict[str, Any] | None:
    """The best snapshot as the callback announces it."""
    best = callback.best_snapshot
    if best is None:
        return None
    metrics = best.eval_metrics
    found = {"score": best.score, "stderr": metrics.stderr, "n": metrics.episodes}
    return found | {"env_steps": best.env_steps, "window": best.window_id}


def plain(value: Any) -> Any:
    """A value of the table as strict JSON has it; what is not finite becomes None."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value


def run(spec: Spec) -> dict[str, Any]:
    """Trains until the loop ends the run."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    continued = spec.player == "continued"
    limit = spec.env_steps if continued else OVERTIME * spec.budget
    said = io.StringIO()
    with tempfile.TemporaryDirectory() as directory, contextlib.redirect_stdout(said):
        agent, dataset = make_run(spec)
        untrained = play(agent, spec)
        options = {"scheduler": unstoppable()} if continued else {}
        callback = optix.OptixCallback(checkpoint_dir=directory, **limited(limit), **options)
        points = Points(spec, callback)
        begin = time.perf_counter()
        agent.fit(dataset, callbacks=[callback, points] if continued else [callback], verbose=0)
        seconds = time.perf_counter() - begin
        printed = said.getvalue()
        left = play(agent, spec)
        if points.best_weights is not None:
            agent.set_weights(points.best_weights)
        best_point = play(agent, spec) if points.rows else None
    lines = [line for line in printed.replace("\r", "\n").splitlines() if line.strip()]
    ending = getattr(callback, "ending", None)
    return {
        "untrained": untrained,
        "left": left,
        "announced": best_of(callback),
        "env_steps": callback.env_steps,
        "evaluation_steps": callback.evaluation_env_steps,
        "limit": limit,
        "seconds": round(seconds, 1),
        "state": callback.state.name,
        "ending": None if ending is None else str(ending),
        "last_line": lines[-1].replace(directory, ".") if lines else "",
        "lines": [line.replace(directory, ".") for line in lines],
        "events": [[record.env_steps, str(record.kind), record.state.name, record.why] for record in callback.events],
        "history": {name: [plain(value) for value in column.tolist()] for name, column in callback.history.items()},
        "points": points.rows,
        "best_point": best_point,
    }


if __name__ == "__main__":
    print(json.dumps(run(Spec(**json.loads(sys.argv[1])))))
