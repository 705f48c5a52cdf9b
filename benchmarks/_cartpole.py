"""The PPO run on CartPole of the README, as the benchmarks that train it share it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras

import keras_optix as optix

N_ENVS, N_STEPS = 8, 32
WINDOW = N_ENVS * N_STEPS


def make_run(seed: int, env: Any = "CartPole-v1", *, prefetch: int = 0) -> tuple[optix.PPOAgent, Any]:
    """A compiled agent and its dataset, as in the README and in examples/cartpole.py."""
    keras.utils.set_random_seed(seed)
    policy = keras.Sequential(
        [
            keras.layers.Input((4,)),
            keras.layers.Dense(64, activation="tanh"),
            keras.layers.Dense(64, activation="tanh"),
            keras.layers.Dense(2),
        ]
    )
    agent = optix.PPOAgent(policy, gamma=0.98)
    agent.compile(optimizer=keras.optimizers.Adam(1e-3))
    dataset = optix.dataset_from_env(env, agent, window_size=N_STEPS, num_envs=N_ENVS, seed=seed, prefetch=prefetch)
    return agent, dataset


def make_loop(windows: int, directory: str) -> optix.OptixCallback:
    """The loop with its evaluations, snapshots and TensorBoard files, which ends after `windows` and not before.

    It leaves the last weights in place, so that what is measured afterwards are the weights after so many steps.
    """
    return optix.OptixCallback(
        scheduler=optix.BackoffScheduler(plateau_threshold=10**6, dormant_threshold=10**7),
        checkpoint_dir=Path(directory) / "checkpoints",
        log_dir=Path(directory) / "runs",
        max_windows=windows,
        restore_best_weights=False,
        verbose=0,
    )
