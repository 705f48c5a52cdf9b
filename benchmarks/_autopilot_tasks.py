"""The tasks of `autopilot.py`, what makes a run, and the hyperparameters of the public zoo.

Both environments of Python import this file, so it needs the standard library only.

The hyperparameters are the rows of ``hyperparams/ppo.yml`` of RL Baselines3 Zoo (Raffin 2020,
https://github.com/DLR-RM/rl-baselines3-zoo), read in 2026; LunarLander-v3 has the row of LunarLander-v2. ``lin_x``
falls linearly from x to 0 over the budget. What a row leaves out is the default of Stable-Baselines3's `PPO`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FRESH_EPISODES = 100
# The first seed of the fresh episodes of the run with seed 0, and how far apart those of other runs are. Equal episodes
# in all runs would give the mean over the runs an error that does not get smaller with more runs.
FRESH_SEED, SEEDS_APART = 10_000, 1000
ZOO_EVAL_FREQ, ZOO_EVAL_EPISODES = 25_000, 5  # rl_zoo3/train.py: --eval-freq, --eval-episodes
FINE_SHARE = 20  # the finer evaluations divide a budget into so many parts
OVERTIME = 2  # how many budgets a run of ours may use if it does not end by itself


@dataclass(frozen=True)
class Task:
    """A task and how the zoo learns it.

    Attributes:
        budget: Env steps of the zoo.
        seeds: Runs.
        threshold: Return at which the environment counts as solved (`reward_threshold` of its spec), or None.
        num_envs: Environments.
        normalize: Whether the zoo normalises observations and rewards by running statistics (`VecNormalize`).
        ppo: Arguments of Stable-Baselines3's `PPO`.
    """

    budget: int
    seeds: int
    threshold: float | None
    num_envs: int
    normalize: bool
    ppo: Mapping[str, Any]


TASKS: dict[str, Task] = {
    "CartPole-v1": Task(
        100_000,
        10,
        475.0,
        8,
        False,
        {
            "n_steps": 32,
            "batch_size": 256,
            "gae_lambda": 0.8,
            "gamma": 0.98,
            "n_epochs": 20,
            "ent_coef": 0.0,
            "learning_rate": "lin_0.001",
            "clip_range": "lin_0.2",
        },
    ),
    "MountainCarContinuous-v0": Task(
        20_000,
        10,
        90.0,
        1,
        True,
        {
            "batch_size": 256,
            "n_steps": 8,
            "gamma": 0.9999,
            "learning_rate": 7.77e-05,
            "ent_coef": 0.00429,
            "clip_range": 0.1,
            "n_epochs": 10,
            "gae_lambda": 0.9,
            "max_grad_norm": 5,
            "vf_coef": 0.19,
            "use_sde": True,
            "policy_kwargs": {"log_std_init": -3.29, "ortho_init": False},
        },
    ),
    "Pendulum-v1": Task(
        100_000,
        10,
        None,
        4,
        False,
        {
            "n_steps": 1024,
            "gae_lambda": 0.95,
            "gamma": 0.9,
            "n_epochs": 10,
            "ent_coef": 0.0,
            "learning_rate": 1e-3,
            "clip_range": 0.2,
            "use_sde": True,
            "sde_sample_freq": 4,
        },
    ),
    "LunarLander-v3": Task(
        1_000_000,
        10,
        200.0,
        16,
        False,
        {"n_steps": 1024, "batch_size": 64, "gae_lambda": 0.98, "gamma": 0.999, "n_epochs": 4, "ent_coef": 0.01},
    ),
    "Acrobot-v1": Task(
        1_000_000,
        10,
        -100.0,
        16,
        True,
        {"n_steps": 256, "gae_lambda": 0.94, "gamma": 0.99, "n_epochs": 4, "ent_coef": 0.0},
    ),
    "BipedalWalker-v3": Task(
        5_000_000,
        3,
        300.0,
        32,
        True,
        {
            "n_steps": 2048,
            "batch_size": 64,
            "gae_lambda": 0.95,
            "gamma": 0.999,
            "n_epochs": 10,
            "ent_coef": 0.0,
            "learning_rate": 3e-4,
            "clip_range": 0.18,
        },
    ),
}


@dataclass(frozen=True)
class Spec:
    """What makes a run: equal ones need not be repeated.

    Attributes:
        player: Who learns: `ours`, `continued` (the same run with stopping switched off), or `sb3`.
        task: Id of the environment.
        seed: Of the run.
        scale: Share of the budget, for a quick look.
        episodes: Fresh episodes.
        label: Distinguishes the runs of several trees of ours, e.g. "ours" and "today".
        env_steps: Where a continued run ends; 0 for others.
    """

    player: str
    task: str
    seed: int
    scale: float = 1.0
    episodes: int = FRESH_EPISODES
    label: str = "ours"
    env_steps: int = 0

    @property
    def budget(self) -> int:
        """Env steps of the zoo, scaled."""
        return max(int(TASKS[self.task].budget * self.scale), 1)

    @property
    def name(self) -> str:
        """The file's name without its suffix; also for a line of progress."""
        kind = {"ours": self.label, "continued": f"{self.label}-continued", "sb3": "sb3"}[self.player]
        return f"{kind}-{self.task}-{self.seed}" + ("" if self.scale == 1.0 else f"-x{self.scale:g}")
