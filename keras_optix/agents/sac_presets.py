"""The presets of SAC: the rows of the RL Baselines3 Zoo for the tasks of classic control and Box2D.

Source: Antonin Raffin, "RL Baselines3 Zoo" (2020), https://github.com/DLR-RM/rl-baselines3-zoo, MIT licence:
hyperparams/sac.yml, commit 208b6fdf3a9aa24de44b2e068c6e5f6a07d97fcc. What a row leaves out has the default of
Stable-Baselines3's SAC: a learning rate of 3e-4, a buffer of a million, batches of 256, 100 env steps before learning
starts, tau 0.005, discount 0.99, a temperature that is learned, one gradient step for each env step, and two layers of
256 ReLU units in each network. These are the defaults of `SACAgent`, too. `ent_coef` there is `temperature` here, and
`train_freq` is the window size, unless it is 1. The returns are those of the zoo's benchmark.md.

These differences are the same in all rows:

- Before learning starts, the untrained policy acts here. There, actions are uniform.
- The policy learns here from the critics before a gradient step. There it learns from those after it.
"""

from __future__ import annotations

from typing import Any

from keras_optix.agents.presets import AgentSettings, Preset
from keras_optix.agents.squashed import SquashedStateDependentNoise
from keras_optix.records import CollectionDefaults

_SOURCE = "the RL Baselines3 Zoo"
_FILE = "rl-baselines3-zoo, hyperparams/sac.yml, commit 208b6fdf3a9aa24de44b2e068c6e5f6a07d97fcc"
_ADAM_EPSILON = 1e-8  # PyTorch's default
_CONSTANT = (
    "The learning rate is constant here. There it falls linearly to 0 over a fixed number of env steps, which has no "
    "meaning where the loop decides when training ends."
)
_WINDOWS = (
    "16 gradient steps follow on each 16 env steps here, in one compiled step. There, one follows on each env step."
)
_WIDE = (400, 300)


def _settings(window_size: int, learning_rate: float, **arguments: Any) -> AgentSettings:
    collection = CollectionDefaults(window_size=window_size, num_envs=1)
    return AgentSettings(arguments, learning_rate, collection, _ADAM_EPSILON)


def _row(*ids: str, **fields: Any) -> Preset:
    return Preset(ids=ids, source=_SOURCE, provenance=f"{_FILE}, row {ids[0]}", **fields)


SAC_PRESETS = (
    _row(
        "Pendulum-v1",
        settings=_settings(16, 1e-3),
        reported=(-156.995, 88.714, 20_000),
        differences=(_WINDOWS,),
    ),
    _row(
        "MountainCarContinuous-v0",
        settings=_settings(
            32,
            3e-4,
            buffer_size=50_000,
            batch_size=512,
            temperature=0.1,
            gamma=0.9999,
            tau=0.01,
            learning_starts=0,
            hidden_units=(64, 64),
            distribution=SquashedStateDependentNoise(32, features=64, log_std=-3.67),  # once in each window, as there
        ),
        reported=(94.679, 1.134, 50_000),
    ),
    _row(
        "LunarLanderContinuous-v3",
        settings=_settings(16, 7.3e-4, tau=0.01, learning_starts=10_000, hidden_units=_WIDE),
        reported=(260.390, 65.467, 500_000),
        differences=(_WINDOWS, _CONSTANT, "The zoo's return is that of LunarLanderContinuous-v2."),
    ),
    _row(
        "BipedalWalker-v3",
        settings=_settings(
            64,
            7.3e-4,
            buffer_size=300_000,
            gamma=0.98,
            tau=0.02,
            learning_starts=10_000,
            hidden_units=_WIDE,
            distribution=SquashedStateDependentNoise(64, features=300, log_std=-3.0),  # once in each window, as there
        ),
        reported=(297.668, 33.060, 500_000),
    ),
    _row(
        "BipedalWalkerHardcore-v3",
        settings=_settings(16, 7.3e-4, temperature=0.005, tau=0.01, learning_starts=10_000, hidden_units=_WIDE),
        reported=(4.423, 103.910, 10_000_000),
        differences=(_WINDOWS, _CONSTANT),
    ),
)
