"""The presets of DQN: the rows of the RL Baselines3 Zoo for classic control and LunarLander.

Source: Antonin Raffin, "RL Baselines3 Zoo" (2020), https://github.com/DLR-RM/rl-baselines3-zoo, MIT licence:
hyperparams/dqn.yml, commit ce95481b041fe5314c1b2f1a53940d169b9253fc. All rows have two hidden layers of 256 ReLU units,
the default network of `DQNAgent`. ``train_freq`` there is `window_size` of one environment here, and ``gradient_steps``
are those of a window. ``exploration_fraction`` is a share of the env steps of the row. The returns are those of the
zoo's benchmark.md.
"""

from __future__ import annotations

from typing import Any

from keras_optix.agents.presets import AgentSettings, Preset
from keras_optix.records import CollectionDefaults

_FILE = "rl-baselines3-zoo, hyperparams/dqn.yml, commit ce95481b041fe5314c1b2f1a53940d169b9253fc"
_DOUBLE = "The Q-network chooses the next action here (double Q-learning), and the target network there."
_IN_WINDOWS = "Epsilon changes once in each window here, and in each env step there."


def _row(
    *ids: str,
    window_size: int,
    gradient_steps: int,
    learning_rate: float,
    reported: tuple[float, float, int],
    differences: tuple[str, ...] = (),
    row: str = "",
    **arguments: Any,
) -> Preset:
    arguments |= {"gradient_steps_per_env_step": gradient_steps / window_size, "max_grad_norm": 10.0}
    collection = CollectionDefaults(window_size=window_size, num_envs=1)
    return Preset(
        ids=ids,
        settings=AgentSettings(arguments, learning_rate, collection, adam_epsilon=1e-8),
        source="the RL Baselines3 Zoo",
        provenance=f"{_FILE}, row {row or ids[0]}",
        reported=reported,
        differences=(_DOUBLE, _IN_WINDOWS, *differences),
    )


DQN_PRESETS = (
    _row(
        "CartPole-v1",
        window_size=256,
        gradient_steps=128,
        learning_rate=2.3e-3,
        gamma=0.99,
        buffer_size=100_000,
        batch_size=64,
        learning_starts=1_000,
        target_update_interval=10,
        exploration_env_steps=8_000,
        epsilon=0.04,
        reported=(500.0, 0.0, 50_000),
    ),
    _row(
        "MountainCar-v0",
        window_size=16,
        gradient_steps=8,
        learning_rate=4e-3,
        gamma=0.98,
        buffer_size=10_000,
        batch_size=128,
        learning_starts=1_000,
        target_update_interval=600,
        exploration_env_steps=24_000,
        epsilon=0.07,
        reported=(-100.849, 9.925, 120_000),
    ),
    _row(
        "Acrobot-v1",
        window_size=4,
        gradient_steps=4,
        learning_rate=6.3e-4,
        gamma=0.99,
        buffer_size=50_000,
        batch_size=128,
        learning_starts=0,
        target_update_interval=250,
        exploration_env_steps=12_000,
        epsilon=0.1,
        reported=(-76.639, 11.752, 100_000),
    ),
    _row(
        "LunarLander-v3",
        row="LunarLander-v2",
        window_size=4,
        gradient_steps=4,
        learning_rate=6.3e-4,
        gamma=0.99,
        buffer_size=50_000,
        batch_size=128,
        learning_starts=0,
        target_update_interval=250,
        exploration_env_steps=12_000,
        epsilon=0.1,
        reported=(154.382, 79.241, 100_000),
        differences=("The zoo's return is that of LunarLander-v2.",),
    ),
)
