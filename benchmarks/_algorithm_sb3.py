"""One run of Stable-Baselines3 for `algorithms.py`, with the hyperparameters of the same row of the zoo.

It prints as JSON its env steps per second from the moment on at which it learns, and the mean return of fresh greedy
episodes with the last weights, if there are to be some.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from _algorithm_rows import DQN_CARTPOLE, FRESH_SEED, SEEDS_APART
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

# RL Baselines3 Zoo, hyperparams/dqn.yml and sac.yml; exploration counts as a share of the env steps of the zoo's row.
SETTINGS: dict[str, tuple[Any, dict[str, Any]]] = {
    "DQN CartPole-v1": (
        DQN,
        {
            **DQN_CARTPOLE,
            "train_freq": 256,
            "exploration_fraction": 0.16,
            "exploration_final_eps": 0.04,
            "policy_kwargs": {"net_arch": [256, 256]},
        },
    ),
    "DQN MountainCar-v0": (
        DQN,
        {
            "learning_rate": 4e-3,
            "batch_size": 128,
            "buffer_size": 10_000,
            "learning_starts": 1000,
            "gamma": 0.98,
            "target_update_interval": 600,
            "train_freq": 16,
            "gradient_steps": 8,
            "exploration_fraction": 0.2,
            "exploration_final_eps": 0.07,
            "policy_kwargs": {"net_arch": [256, 256]},
        },
    ),
    "DQN Acrobot-v1": (
        DQN,
        {
            "learning_rate": 6.3e-4,
            "batch_size": 128,
            "buffer_size": 50_000,
            "learning_starts": 0,
            "gamma": 0.99,
            "target_update_interval": 250,
            "train_freq": 4,
            "gradient_steps": -1,
            "exploration_fraction": 0.12,
            "exploration_final_eps": 0.1,
            "policy_kwargs": {"net_arch": [256, 256]},
        },
    ),
    "SAC Pendulum-v1": (SAC, {"learning_rate": 1e-3}),
    "SAC MountainCarContinuous-v0": (
        SAC,
        {
            "learning_rate": 3e-4,
            "buffer_size": 50_000,
            "batch_size": 512,
            "ent_coef": 0.1,
            "train_freq": 32,
            "gradient_steps": 32,
            "gamma": 0.9999,
            "tau": 0.01,
            "learning_starts": 0,
            "use_sde": True,
            "policy_kwargs": {"log_std_init": -3.67, "net_arch": [64, 64]},
        },
    ),
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
    result = {"env_steps": spec["env_steps"], "seconds": round(end - begun, 2), "rate": rate}
    if spec["episodes"]:
        env = make_vec_env(spec["task"], min(spec["episodes"], 20), seed=FRESH_SEED + SEEDS_APART * spec["seed"])
        result["score"] = float(evaluate_policy(model, env, spec["episodes"])[0])
    print(json.dumps(result))


if __name__ == "__main__":
    main()
