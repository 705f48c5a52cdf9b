"""One run of Stable-Baselines3 for the speed of `algorithms.py`, with the hyperparameters of the same preset.

It prints its env steps per second as JSON: of all steps, and from the moment on at which it learns.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from stable_baselines3 import DQN, SAC
from stable_baselines3.common.callbacks import BaseCallback

# RL Baselines3 Zoo, hyperparams/dqn.yml and sac.yml; exploration counts as a share of the env steps of the zoo's row.
SETTINGS: dict[str, tuple[Any, dict[str, Any]]] = {
    "DQN CartPole-v1": (
        DQN,
        {
            "learning_rate": 2.3e-3,
            "batch_size": 64,
            "buffer_size": 100_000,
            "learning_starts": 1000,
            "gamma": 0.99,
            "target_update_interval": 10,
            "train_freq": 256,
            "gradient_steps": 128,
            "exploration_fraction": 0.16,
            "exploration_final_eps": 0.04,
            "policy_kwargs": {"net_arch": [256, 256]},
        },
    ),
    "SAC Pendulum-v1": (SAC, {"learning_rate": 1e-3}),
}


class Clock(BaseCallback):
    """Notes when the first gradient step was made."""

    def __init__(self) -> None:
        super().__init__()
        self.first: tuple[int, float] | None = None

    def _on_step(self) -> bool:
        if self.first is None and self.model._n_updates > 0:
            self.first = self.num_timesteps, time.perf_counter()
        return True


def main() -> None:
    """Plays the run."""
    spec = json.loads(sys.argv[1])
    algorithm, settings = SETTINGS[f"{spec['algorithm'].removesuffix('Agent')} {spec['task']}"]
    model = algorithm("MlpPolicy", spec["task"], seed=spec["seed"], device="cpu", **settings)
    clock, begun = Clock(), time.perf_counter()
    model.learn(spec["env_steps"], callback=clock)
    end = time.perf_counter()
    steps, first = clock.first or (0, begun)
    rate = (spec["env_steps"] - steps) / (end - first)
    print(json.dumps({"env_steps": spec["env_steps"], "seconds": round(end - begun, 2), "rate": rate}))


if __name__ == "__main__":
    main()
