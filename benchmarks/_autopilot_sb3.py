"""One run of Stable-Baselines3 for `autopilot.py`: reads a `Spec` from its argument, prints the result as JSON.

As the zoo trains (rl_zoo3/exp_manager.py): its hyperparameters, a `DummyVecEnv`, `VecNormalize` with the agent's gamma
where its row says so, and `EvalCallback`, deterministic, in an environment of its own with the statistics of training.
The zoo evaluates 5 episodes every 25,000 env steps. On tasks with small budgets that is hardly ever, so that there a
second, independent `EvalCallback` evaluates `FINE_SHARE` times in a budget, and the table takes whichever serves
Stable-Baselines3 better.

Every new best of an `EvalCallback` plays the fresh episodes at once. So what "the best model up to S env steps" is
worth is known for each S within the budget, without running again.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from _autopilot_tasks import (
    FINE_SHARE,
    FRESH_SEED,
    SEEDS_APART,
    TASKS,
    ZOO_EVAL_EPISODES,
    ZOO_EVAL_FREQ,
    Spec,
    Task,
)
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, sync_envs_normalization

FRESH_ENVS = 20  # side by side; each plays as many of the episodes, so that short ones are not preferred
EVAL_SEED = 20_000


def linear(value: Any) -> Any:
    """``lin_x`` as a schedule of the progress that remains; anything else unchanged."""
    if not isinstance(value, str):
        return value
    start = float(value.removeprefix("lin_"))
    return lambda remaining: remaining * start


def make_env(spec: Spec, num_envs: int, seed: int, *, training: bool) -> VecEnv:
    """Environments as the zoo makes them; those for evaluation take their statistics from training."""
    task = TASKS[spec.task]
    env = make_vec_env(spec.task, n_envs=num_envs, seed=seed)
    if not task.normalize:
        return env
    return VecNormalize(env, gamma=task.ppo["gamma"], training=training, norm_reward=training)


class Fresh:
    """Plays the same fresh episodes with whatever model there is at the moment."""

    def __init__(self, model: PPO, spec: Spec) -> None:
        self._model, self._spec = model, spec
        self._env = make_env(spec, min(FRESH_ENVS, spec.episodes), 0, training=False)

    def play(self) -> dict[str, Any]:
        """Mean return with the most likely actions, its standard error and n."""
        if self._model.get_vec_normalize_env() is not None:
            sync_envs_normalization(self._model.get_env(), self._env)
        self._env.seed(FRESH_SEED + SEEDS_APART * self._spec.seed)
        returns, _ = evaluate_policy(
            self._model, self._env, self._spec.episodes, deterministic=True, return_episode_rewards=True
        )
        stderr = statistics.stdev(returns) / math.sqrt(len(returns))
        return {"score": statistics.fmean(returns), "stderr": stderr, "n": len(returns)}


class Note(BaseCallback):
    """Keeps every evaluation of an `EvalCallback`, and has each new best play the fresh episodes."""

    def __init__(self, fresh: Fresh) -> None:
        super().__init__()
        self._fresh = fresh
        self.rows: list[dict[str, Any]] = []
        self._best = -math.inf

    def _on_step(self) -> bool:
        found: EvalCallback = self.parent  # type: ignore[assignment]
        row: dict[str, Any] = {
            "env_steps": self.num_timesteps,
            "score": found.last_mean_reward,
            "evaluation_steps": sum(map(sum, found.evaluations_length)),  # so far
        }
        if found.last_mean_reward > self._best:  # as EvalCallback decides
            self._best = found.last_mean_reward
            row["fresh"] = self._fresh.play()
        self.rows.append(row)
        return True


def eval_frequencies(task: Task, budget: int) -> dict[str, int]:
    """Env steps between evaluations: those of the zoo, and finer ones where a budget has fewer than 20 of them."""
    fine = max(budget // FINE_SHARE, 1)
    if fine >= ZOO_EVAL_FREQ:
        return {"zoo": ZOO_EVAL_FREQ}
    return {"zoo": min(ZOO_EVAL_FREQ, budget // 4), "fine": fine}


def run(spec: Spec) -> dict[str, Any]:
    """Trains for the budget of the zoo."""
    torch.set_num_threads(1)
    task = TASKS[spec.task]
    options = {name: linear(value) for name, value in task.ppo.items()}
    env = make_env(spec, task.num_envs, spec.seed, training=True)
    begin = time.perf_counter()
    model = PPO("MlpPolicy", env, seed=spec.seed, device="cpu", **options)
    fresh = Fresh(model, spec)
    untrained = fresh.play()
    notes = {name: Note(fresh) for name in eval_frequencies(task, spec.budget)}
    with tempfile.TemporaryDirectory() as directory:
        callbacks: list[BaseCallback] = [
            EvalCallback(
                make_env(spec, 1, EVAL_SEED + 100 * place + spec.seed, training=False),
                callback_after_eval=notes[name],
                n_eval_episodes=ZOO_EVAL_EPISODES,
                eval_freq=max(every // task.num_envs, 1),
                log_path=str(Path(directory) / name),  # without it EvalCallback forgets how long episodes were
                deterministic=True,
                verbose=0,
            )
            for place, (name, every) in enumerate(eval_frequencies(task, spec.budget).items())
        ]
        model.learn(spec.budget, callback=CallbackList(callbacks))
    return {
        "untrained": untrained,
        "evaluations": {name: note.rows for name, note in notes.items()},
        "final": fresh.play(),
        "env_steps": model.num_timesteps,
        "seconds": round(time.perf_counter() - begin, 1),
    }


if __name__ == "__main__":
    print(json.dumps(run(Spec(**json.loads(sys.argv[1])))))
