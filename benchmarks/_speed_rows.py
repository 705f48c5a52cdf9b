"""The rows of `speed.py`: an algorithm, a task and hyperparameters that all libraries get.

It needs the standard library only, because the Pythons of the other libraries import it too.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from _algorithm_rows import DQN_CARTPOLE


@dataclass(frozen=True)
class Row:
    """An algorithm on a task.

    Attributes:
        algorithm: ``"PPO"``, ``"DQN"`` or ``"SAC"``.
        task: Id of the environment.
        env_steps: Env steps of a run.
        num_envs: Environments.
        window_size: Env steps of each between two updates (SAC here; Stable-Baselines3 and SBX update after each).
        settings: The hyperparameters, by their names in Stable-Baselines3.
        threshold: The greedy return to be reached, instead of a number of env steps; None for a run of `env_steps`.
    """

    algorithm: str
    task: str
    env_steps: int
    num_envs: int
    window_size: int
    settings: dict[str, Any] = field(default_factory=dict)
    threshold: float | None = None

    @property
    def name(self) -> str:
        """Names the row."""
        to = "" if self.threshold is None else f" to {self.threshold:g}"
        return f"{self.algorithm} {self.task}{to}"

    @property
    def per_update(self) -> int:
        """Env steps between two updates."""
        return self.num_envs * self.window_size


_CARTPOLE = {
    "batch_size": 256,
    "n_epochs": 20,
    "learning_rate": 1e-3,
    "gamma": 0.98,
    "gae_lambda": 0.8,
    "ent_coef": 0.0,
}
# The hyperparameters of RL Baselines3 Zoo, without schedules, state-dependent exploration and running statistics, which
# not all libraries have.
ROWS = (
    Row("PPO", "CartPole-v1", 102_400, 8, 32, _CARTPOLE),
    Row("PPO", "CartPole-v1", 200_000, 8, 32, _CARTPOLE, threshold=475.0),
    Row(
        "PPO",
        "Acrobot-v1",
        102_400,
        16,
        256,
        {"batch_size": 64, "n_epochs": 4, "learning_rate": 3e-4, "gamma": 0.99, "gae_lambda": 0.94, "ent_coef": 0.0},
    ),
    Row(
        "PPO",
        "LunarLander-v3",
        131_072,
        16,
        1024,
        {"batch_size": 64, "n_epochs": 4, "learning_rate": 3e-4, "gamma": 0.999, "gae_lambda": 0.98, "ent_coef": 0.01},
    ),
    Row(
        "PPO",
        "Pendulum-v1",
        40_960,
        4,
        1024,
        {"batch_size": 64, "n_epochs": 10, "learning_rate": 1e-3, "gamma": 0.9, "gae_lambda": 0.95, "ent_coef": 0.0},
    ),
    Row(
        "PPO",
        "HalfCheetah-v5",
        65_536,
        8,
        512,
        {"batch_size": 64, "n_epochs": 10, "learning_rate": 3e-4, "gamma": 0.98, "gae_lambda": 0.92, "ent_coef": 0.0},
    ),
    Row(
        "DQN",
        "CartPole-v1",
        20_480,
        1,
        256,
        DQN_CARTPOLE,
    ),
    Row(
        "SAC",
        "Pendulum-v1",
        3_008,
        1,
        16,
        {"learning_rate": 1e-3, "batch_size": 256, "buffer_size": 1_000_000, "learning_starts": 100, "gamma": 0.99},
    ),
)


class Marks:
    """Measures a run: from when on it learns, and what it costs.

    Args:
        row: The row.
    """

    def __init__(self, row: Row) -> None:
        self._row = row
        self.first: tuple[int, float, float] | None = None

    def updated(self, env_steps: int) -> None:
        """Called after each update with the env steps so far."""
        if self.first is None:
            self.first = env_steps, time.perf_counter(), time.time()

    def print(self, env_steps: int) -> None:
        """Prints the result as JSON, once the last env step was made."""
        end = time.perf_counter()
        steps, since, moment = self.first or (0, end - 1.0, time.time())
        print(
            json.dumps(
                {
                    "env_steps": env_steps,
                    "steady": (env_steps - steps) / (end - since),
                    "first": moment,  # seconds since 1970; the parent knows when the process began
                    "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                }
            )
        )


def given() -> tuple[Row, int, int]:
    """Returns the row, the seed and the number of threads of this process, and gives it so many cores."""
    spec = json.loads(sys.argv[1])
    cores = sorted(os.sched_getaffinity(0))[: spec["threads"]]
    os.sched_setaffinity(0, cores)
    return Row(**spec["row"]), spec["seed"], spec["threads"]
