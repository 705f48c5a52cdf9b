"""The rows of `algorithms.py`: which algorithm learns which task, for how long, and what was published.

It needs the standard library only, because the Python with Stable-Baselines3 imports it too.
"""

from __future__ import annotations

from dataclasses import dataclass

FRESH_EPISODES = 100
FRESH_SEED, SEEDS_APART = 10_000, 1000  # of the fresh episodes: other ones in each run


@dataclass(frozen=True)
class Row:
    """An algorithm on a task.

    Attributes:
        algorithm: Name of the agent's class; its preset of the task is used.
        task: Id of the environment.
        env_steps: Env steps of training.
        published: Mean return and standard deviation over episodes that the source of the preset reports; None if it
            reports none.
    """

    algorithm: str
    task: str
    env_steps: int
    published: tuple[float, float] | None

    @property
    def name(self) -> str:
        """Names the row in files and tables."""
        return f"{self.algorithm.removesuffix('Agent')} {self.task}"


# Hyperparameters of RL Baselines3 Zoo (hyperparams/dqn.yml), by their names in Stable-Baselines3; without exploration.
DQN_CARTPOLE = {
    "learning_rate": 2.3e-3,
    "batch_size": 64,
    "buffer_size": 100_000,
    "learning_starts": 1000,
    "gamma": 0.99,
    "target_update_interval": 10,
    "gradient_steps": 128,
}
# The returns of DQN and SAC are those of RL Baselines3 Zoo's benchmark.md, that of PQN is the one of CleanRL's script.
ROWS = (
    Row("DQNAgent", "CartPole-v1", 50_000, (500.0, 0.0)),
    Row("DQNAgent", "Acrobot-v1", 100_000, (-76.639, 11.752)),
    Row("DQNAgent", "MountainCar-v0", 120_000, (-100.849, 9.925)),
    Row("SACAgent", "Pendulum-v1", 20_000, (-156.995, 88.714)),
    Row("SACAgent", "MountainCarContinuous-v0", 50_000, (94.679, 1.134)),
    Row("PQNAgent", "CartPole-v1", 500_000, (495.0, 0.0)),
)
