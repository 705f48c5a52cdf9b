"""One run of `swap_replay.py`: reads a `Spec` from its argument, prints the result as JSON."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from _swap_world import Curve, Layers, World, forward, layers_of
from swap_replay import ALONE, PLAYERS, POINT, TOLD, Spec, recovery

import keras_optix as optix


class Points(keras.callbacks.Callback):
    """Adds a point to the curve after every so many env steps, and ends `fit` once the agent has recovered.

    It comes after the loop: the current weights are those that its decisions left.
    """

    def __init__(self, spec: Spec, world: World, loop: optix.OptixCallback) -> None:
        super().__init__()
        self._spec, self._world, self._loop = spec, world, loop
        self._epsilon = 0.0
        self._tell = spec.player.startswith(TOLD)
        self.curve = Curve(world, spec.seed, self._logits)

    def _logits(self, layers: Layers, observations: np.ndarray) -> np.ndarray:
        """Logarithms of the probabilities of an epsilon-greedy choice."""
        values = forward(layers, observations, lambda x: np.maximum(x, 0.0))
        greedy = np.eye(values.shape[1])[values.argmax(axis=1)]
        return np.log((1.0 - self._epsilon) * greedy + self._epsilon / values.shape[1] + 1e-12)

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        """See `keras.callbacks.Callback`."""
        if self._tell and self._world.clock.steps >= self._spec.swap:
            self._tell = False
            self.model.after_shift(optix.AfterShift(**PLAYERS[self._spec.player]))
        if self._world.clock.steps // POINT == len(self.curve.rows):
            return
        self._epsilon = float((logs or {}).get("epsilon", self._epsilon))  # it is missing while the best is watched
        state = self._loop.scheduler_state.loop_state.name
        notes = (self._loop.evaluation_env_steps, state, round(self._epsilon, 3), len(self.model.replay))
        self.curve.add(layers_of(self.model), *notes)
        if recovery({"curve": self.curve.rows, "swap": self._spec.swap, "end": self._spec.end}).recovered:
            self._loop.stop()


def run(spec: Spec) -> dict[str, Any]:
    """Plays."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    keras.utils.set_random_seed(spec.seed)
    world = World({spec.swap: {"swap_actions": True}}, n_envs=1)
    agent = optix.DQNAgent.preset("CartPole-v1", seed=spec.seed)
    dataset = optix.dataset_from_env(world.make, agent, seed=spec.seed)
    managed = not spec.player.startswith((ALONE, TOLD))
    after = optix.AfterShift(**PLAYERS[spec.player])
    never = {"plateau_threshold": 10**6, "dormant_threshold": 10**7}
    manager = optix.PolicyManager(after_shift=after, seed=spec.seed) if managed else None
    with tempfile.TemporaryDirectory() as directory:
        loop = optix.OptixCallback(
            optix.ReturnEvaluator(),
            scheduler=optix.BackoffScheduler(**({"max_interval": 10} if managed else never)),
            policy_manager=manager,
            checkpoint_dir=directory,
            when_dormant="watch",
            max_env_steps=spec.end,
            restore_best_weights=False,
            resume_interval=None,
            verbose=0,
        )
        points = Points(spec, world, loop)
        agent.fit(dataset, callbacks=[loop, points], verbose=0)
    return {
        "curve": points.curve.rows,
        "env_steps": world.clock.steps,
        "evaluation_env_steps": loop.evaluation_env_steps,
        "events": [[record.kind, record.env_steps, record.state.name, record.message] for record in loop.events],
    }


if __name__ == "__main__":
    print(json.dumps(run(Spec(**json.loads(sys.argv[1])))))
