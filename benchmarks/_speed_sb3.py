"""One run of `speed.py` with Stable-Baselines3 or SBX, which have the same interface; without evaluations.

With a threshold, `EvalCallback` plays ten greedy episodes each ten updates, and the run ends when they reach it.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from _speed_rows import Marks, Row, given

ROW, SEED, THREADS = given()

from stable_baselines3.common.callbacks import (  # noqa: E402
    BaseCallback,
    EvalCallback,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.env_util import make_vec_env  # noqa: E402


class Updates(BaseCallback):  # type: ignore[misc]
    """Notes the first update."""

    def __init__(self, marks: Marks) -> None:
        super().__init__()
        self._marks, self._rollouts = marks, 0

    def _on_step(self) -> bool:
        if ROW.algorithm != "PPO" and self.model._n_updates > 0:
            self._marks.updated(self.num_timesteps)
        return True

    def _on_rollout_start(self) -> None:
        self._rollouts += 1
        if ROW.algorithm == "PPO" and self._rollouts == 2:  # the first window is collected and learned from
            self._marks.updated(self.num_timesteps)


def settings_of(row: Row) -> dict[str, Any]:
    """The keyword arguments of the algorithm's class."""
    if row.algorithm == "PPO":
        return {"n_steps": row.window_size, **row.settings}
    if row.algorithm == "DQN":
        return {"train_freq": row.window_size, "policy_kwargs": {"net_arch": [256, 256]}, **row.settings}
    return dict(row.settings)


def main() -> None:
    """Plays the run."""
    library = sys.argv[2]
    if library == "stable_baselines3":
        importlib.import_module("torch").set_num_threads(THREADS)
    algorithm = getattr(importlib.import_module(library), ROW.algorithm)
    envs = make_vec_env(ROW.task, n_envs=ROW.num_envs, seed=SEED)
    device = {"device": "cpu"} if library == "stable_baselines3" else {}
    model = algorithm("MlpPolicy", envs, seed=SEED, **device, **settings_of(ROW))
    marks = Marks(ROW)
    callbacks: list[Any] = [Updates(marks)]
    if ROW.threshold is not None:
        stop = StopTrainingOnRewardThreshold(ROW.threshold)
        callbacks.append(
            EvalCallback(
                make_vec_env(ROW.task, n_envs=1, seed=1000 + SEED),
                callback_on_new_best=stop,
                n_eval_episodes=10,
                eval_freq=10 * ROW.window_size,
                verbose=0,
            )
        )
    steps = ROW.env_steps // ROW.per_update * ROW.per_update
    model.learn(steps, callback=callbacks)
    marks.print(model.num_timesteps)


if __name__ == "__main__":
    main()
