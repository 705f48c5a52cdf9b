"""The presets of PPO: the rows of the RL Baselines3 Zoo for the tasks of classic control and Box2D.

Source: Antonin Raffin, "RL Baselines3 Zoo" (2020), https://github.com/DLR-RM/rl-baselines3-zoo, MIT licence:
hyperparams/ppo.yml, commit 208b6fdf3a9aa24de44b2e068c6e5f6a07d97fcc. What a row leaves out has the default of
Stable-Baselines3's PPO: a learning rate of 3e-4, minibatches of 64, 10 epochs, discount 0.99, lambda 0.95, clip range
0.2, no entropy bonus, value coefficient 0.5, gradient norm 0.5. These are the defaults of `PPOAgent`, too. Its networks
are the default networks of this package: two layers of 64 tanh units each for policy and value, orthogonal with gains
sqrt(2), and 0.01 and 1 in the last layers. ``ortho_init`` there is `orthogonal_init` here, and ``normalize`` is
`normalize_observations` and `normalize_rewards`. The returns are those of the zoo's benchmark.md.
"""

from __future__ import annotations

import math
from typing import Any

from keras_optix.agents.presets import AgentSettings, Preset, StateDependentExploration
from keras_optix.records import CollectionDefaults

_SOURCE = "the RL Baselines3 Zoo"
_FILE = "rl-baselines3-zoo, hyperparams/ppo.yml, commit 208b6fdf3a9aa24de44b2e068c6e5f6a07d97fcc"
_CONSTANT = (
    "The learning rate and the clip range are constant here. There they fall linearly to 0 over a fixed number of env "
    "steps, which has no meaning where the loop decides when training ends."
)
_SCALED = "Torques of -2 to 2 are actions of -1 to 1 here, so that an initial deviation of 1 there is one of 0.5 here."
_NORMALIZED = {"normalize_observations": True, "normalize_rewards": True}


def _settings(window_size: int, num_envs: int, learning_rate: float = 3e-4, **arguments: Any) -> AgentSettings:
    collection = CollectionDefaults(window_size=window_size, num_envs=num_envs)
    return AgentSettings(arguments, learning_rate, collection)


def _row(*ids: str, row: str = "", **fields: Any) -> Preset:
    return Preset(ids=ids, source=_SOURCE, provenance=f"{_FILE}, row {row or ids[0]}", **fields)


PPO_PRESETS = (
    _row(
        "CartPole-v1",
        settings=_settings(
            32, 8, 1e-3, gamma=0.98, gae_lambda=0.8, update_epochs=20, minibatch_size=256, clip_ratio=0.2
        ),
        reported=(500.0, 0.0, 100_000),
        differences=(_CONSTANT,),
    ),
    _row(
        "Acrobot-v1",
        settings=_settings(256, 16, gamma=0.99, gae_lambda=0.94, update_epochs=4, minibatch_size=64, **_NORMALIZED),
        reported=(-73.506, 18.201, 1_000_000),
    ),
    _row(
        "MountainCar-v0",
        settings=_settings(16, 16, gamma=0.99, gae_lambda=0.98, update_epochs=4, minibatch_size=64, **_NORMALIZED),
        reported=(-110.423, 19.473, 1_000_000),
    ),
    _row(
        "MountainCarContinuous-v0",
        settings=_settings(
            8,
            1,
            7.77e-5,
            gamma=0.9999,
            gae_lambda=0.9,
            clip_ratio=0.1,
            entropy_coefficient=0.00429,
            value_coefficient=0.19,
            max_grad_norm=5.0,
            update_epochs=10,
            minibatch_size=256,
            orthogonal_init=False,
            **_NORMALIZED,
        ),
        exploration=StateDependentExploration(resample_every=8, log_std=-3.29),  # once in each window, as there
        reported=(88.343, 2.572, 20_000),
    ),
    _row(
        "Pendulum-v1",
        settings=_settings(1024, 4, 1e-3, gamma=0.9, gae_lambda=0.95, update_epochs=10, minibatch_size=64),
        exploration=StateDependentExploration(resample_every=4, log_std=-math.log(2.0)),
        reported=(-172.225, 104.159, 100_000),
        differences=(_SCALED,),
    ),
    _row(
        "LunarLander-v3",
        row="LunarLander-v2",
        settings=_settings(
            1024, 16, gamma=0.999, gae_lambda=0.98, update_epochs=4, minibatch_size=64, entropy_coefficient=0.01
        ),
        reported=(242.119, 31.823, 1_000_000),
        differences=("The zoo's return is that of LunarLander-v2.",),
    ),
    _row(
        "LunarLanderContinuous-v3",
        settings=_settings(
            1024, 16, gamma=0.999, gae_lambda=0.98, update_epochs=4, minibatch_size=64, entropy_coefficient=0.01
        ),
        reported=(270.863, 32.072, 1_000_000),
        differences=("The zoo's return is that of LunarLanderContinuous-v2.",),
    ),
    _row(
        "BipedalWalker-v3",
        settings=_settings(
            2048, 32, gamma=0.999, gae_lambda=0.95, clip_ratio=0.18, update_epochs=10, minibatch_size=64, **_NORMALIZED
        ),
        reported=(213.299, 129.490, 5_000_000),
    ),
    _row(
        "BipedalWalkerHardcore-v3",
        settings=_settings(
            2048,
            16,
            2.5e-4,
            gamma=0.99,
            gae_lambda=0.95,
            clip_ratio=0.2,
            entropy_coefficient=0.001,
            update_epochs=10,
            minibatch_size=64,
            **_NORMALIZED,
        ),
        reported=(122.374, 117.605, 100_000_000),
        differences=(_CONSTANT,),
    ),
)
