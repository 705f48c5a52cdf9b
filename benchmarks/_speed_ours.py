"""One run of `speed.py`: ours, with `OptixCallback`, its snapshots and TensorBoard files."""

from __future__ import annotations

import sys
import tempfile
from typing import Any

from _speed_rows import Marks, Row, given

ROW, SEED, _ = given()  # before TensorFlow counts the cores

import keras  # noqa: E402

import keras_optix as optix  # noqa: E402


def make_agent(row: Row) -> Any:
    """The agent with the hyperparameters of the row."""
    s = row.settings
    if row.algorithm == "PPO":
        agent: Any = optix.PPOAgent(
            gamma=s["gamma"],
            gae_lambda=s["gae_lambda"],
            entropy_coefficient=s["ent_coef"],
            update_epochs=s["n_epochs"],
            minibatch_size=s["batch_size"],
        )
    elif row.algorithm == "DQN":
        agent = optix.DQNAgent(
            network(2),
            gamma=s["gamma"],
            buffer_size=s["buffer_size"],
            batch_size=s["batch_size"],
            learning_starts=s["learning_starts"],
            gradient_steps_per_env_step=s["gradient_steps"] / row.per_update,
            target_update_interval=s["target_update_interval"],
        )
    else:
        agent = optix.SACAgent(
            gamma=s["gamma"],
            buffer_size=s["buffer_size"],
            batch_size=s["batch_size"],
            learning_starts=s["learning_starts"],
            gradient_steps_per_env_step=1.0,
        )
    agent.compile(optimizer=keras.optimizers.Adam(s["learning_rate"]))
    return agent


def network(outputs: int) -> Any:
    """Two layers of 256 units, as Stable-Baselines3 gets them for DQN."""
    layers = [keras.layers.Input((4,)), *[keras.layers.Dense(256, activation="relu") for _ in range(2)]]
    return keras.Sequential([*layers, keras.layers.Dense(outputs)])


class Updates(keras.callbacks.Callback):  # type: ignore[misc]
    """Notes the first update."""

    def __init__(self, marks: Marks, loop: Any) -> None:
        super().__init__()
        self._marks, self._loop = marks, loop

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        steps = self._loop.env_steps
        if steps > ROW.settings.get("learning_starts", 0):
            self._marks.updated(steps)


def main() -> None:
    """Plays the run."""
    marks = Marks(ROW)
    keras.utils.set_random_seed(SEED)
    agent = make_agent(ROW)
    dataset = optix.dataset_from_env(ROW.task, agent, window_size=ROW.window_size, num_envs=ROW.num_envs, seed=SEED)
    with tempfile.TemporaryDirectory() as directory:
        options: dict[str, Any] = {"target_score": ROW.threshold}
        budget = {"evaluation_budget": 0.0} if sys.argv[2] == "bare" else {}
        if ROW.threshold is None:  # a loop that cannot be DORMANT before the steps are done
            options = {"scheduler": optix.BackoffScheduler(dormant_threshold=10**6), **budget}
        windows = ROW.env_steps // ROW.per_update
        callback = optix.OptixCallback(
            checkpoint_dir=directory, log_dir=directory, max_windows=windows, verbose=0, **options
        )
        agent.fit(dataset, callbacks=[callback, Updates(marks, callback)], verbose=0)
        marks.print(callback.env_steps)


if __name__ == "__main__":
    main()
