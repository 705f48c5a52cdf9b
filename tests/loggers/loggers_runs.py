"""Runs for the tests of loggers: calls as a run makes them, and a short run that can be cut off and resumed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import keras_optix as optix
from keras_optix.experience.filming import animated
from keras_optix.loggers.base import Logger
from keras_optix.records import EvalMetrics, HyperparamSet
from keras_optix.store.manifest import PolicySnapshot, new_snapshot
from keras_optix.testing import CountingEnv

GIF = animated([np.full((8, 8, 3), grey, np.uint8) for grey in (0, 128, 255)], 30.0)
HPARAMS = {"model": "PPOAgent", "learning_rate": 1e-3, "layers": 2, "adaptive": True}


def snapshot(folder: Path, number: int = 1, value: float = 1.0, run_id: str = "run") -> tuple[PolicySnapshot, Path]:
    """Returns a snapshot, and its file with one array."""
    made = new_snapshot(
        run_id,
        number,
        eval_metrics=EvalMetrics(10.0 * number, stderr=0.5, episodes=8),
        hyperparams=HyperparamSet({"learning_rate": 1e-3}),
        env_steps=100 * number,
        promoted=True,
    )
    path = folder / f"{number}.npz"
    np.savez(path, kernel=np.full(4, value))
    return made, path


def show(logger: Logger, run_id: str, steps: range, resumed_from: int | None = None, best: Any = None) -> None:
    """Shows a run of one window for each step; the score appears in its second window."""
    logger.open(resumed_from)
    logger.begin(run_id)
    logger.hparams(HPARAMS, ("loop/best",), ("learning_rate",))
    for step in steps:
        scored = {"loop/score": float(step) / 10} if step > steps[0] else {}
        logger.scalars(step, {"loop/state": 0.0, "train/loss": float("nan"), **scored})
        logger.text(step, "loop/events", f"| what happened |\n|---|\n| step {step}, with ± |")
    if best is not None:
        logger.snapshot(*best)
        logger.animation(steps[-1], "policy/episode", GIF)
    logger.close("success")


class _Interrupt(optix.LoopCallback):
    def on_window_end(self, window_id: int, eval_metrics: Any) -> None:
        if window_id == 9:
            raise RuntimeError("cut off")


def cut_off_and_resumed(
    small_ppo: Callable[..., optix.PPOAgent], logger: Callable[[], Logger], folder: Path
) -> optix.OptixCallback:
    """Runs 10 windows of 8 env steps, is cut off, and is resumed until window 16; returns the second callback."""

    def fit(**options: Any) -> optix.OptixCallback:
        agent = small_ppo()
        dataset = optix.dataset_from_env(CountingEnv, agent, window_size=4, num_envs=2, seed=0)
        callback = optix.OptixCallback(
            optix.ReturnEvaluator(2),
            max_windows=16,
            verbose=0,
            checkpoint_dir=folder,
            resume_interval=0,
            loggers=[logger()],
            **options,
        )
        agent.fit(dataset, callbacks=[callback], verbose=0)
        return callback

    with pytest.raises(RuntimeError, match="cut off"):
        fit(callbacks=[_Interrupt()])
    return fit(resume=True)
