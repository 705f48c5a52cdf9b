"""One run of the loop for `swap.py`: reads a `Spec` from its argument, prints the result as JSON."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf
from _cartpole import make_run
from _swap_players import PLAYERS
from _swap_world import EVERY, Curve, Spec, World, layers_of

import keras_optix as optix


class Points(keras.callbacks.Callback):
    """Adds a point to the curve after every so many windows, and notes each evaluation of the loop's.

    It comes after the loop: the current weights are those that its decisions left.
    """

    def __init__(self, world: World, curve: Curve, loop: optix.OptixCallback) -> None:
        super().__init__()
        self._world, self._curve, self._loop = world, curve, loop
        self._windows = self._evaluations = 0
        self.evaluations: list[list[Any]] = []

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        """See `keras.callbacks.Callback`."""
        self._windows += 1
        state = self._loop.scheduler_state
        if state.evaluations != self._evaluations:
            self._evaluations = state.evaluations
            score = round(state.history[-1], 1) if state.history else None  # none after an alarm of the watchdog's
            name = state.loop_state.name
            row = [self._world.clock.steps, state.evaluations, score, round(state.cusum, 2), name, state.interval]
            self.evaluations.append(row)
        if self._windows % EVERY == 0:
            self._curve.add(layers_of(self.model), self._loop.evaluation_env_steps, state.loop_state.name)


def run(spec: Spec) -> dict[str, Any]:
    """Plays."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    world = World(spec.regimes)
    agent, dataset = make_run(spec.seed, world.make)
    curve = Curve(world, spec.seed)
    with tempfile.TemporaryDirectory() as directory:
        loop = PLAYERS[spec.player](directory, spec.windows, spec.seed)
        points = Points(world, curve, loop)
        agent.fit(dataset, callbacks=[loop, points], verbose=0)
    return {
        "curve": curve.rows,
        "env_steps": world.clock.steps,
        "evaluation_env_steps": loop.evaluation_env_steps,
        "evaluations": points.evaluations,
        "events": [[record.kind, record.env_steps, record.state.name, record.why] for record in loop.events],
    }


if __name__ == "__main__":
    print(json.dumps(run(Spec(**json.loads(sys.argv[1])))))
