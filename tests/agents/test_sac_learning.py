"""SAC learns to match a target, with either distribution."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import pytest
from gymnasium import spaces

import keras_optix as optix
from keras_optix.distributions import SquashedStateDependentNoise
from keras_optix.testing import MatchEnv


@pytest.mark.parametrize(
    "distribution", [None, SquashedStateDependentNoise(4, features=32, log_std=-1.0)], ids=["gaussian", "smooth"]
)
def test_it_learns_to_match_a_target(distribution: Any, two_of_seven_seeds: Callable[..., None]) -> None:
    """Optimum 10; the middle of the actions gives 7.5, random ones 6.7. 1,024 env steps.

    0 of 10 seeds failed with either distribution: at most 25.9 % do (95 % confidence), and each test in at most 1.6e-3
    of its runs.
    """
    env = partial(MatchEnv, spaces.Box(-2.0, 2.0, (2,)))

    def score(seed: int) -> float:
        keras.utils.set_random_seed(seed)
        agent = optix.SACAgent(
            gamma=0.5, batch_size=64, buffer_size=2000, hidden_units=(32, 32), distribution=distribution, seed=seed
        )
        agent.compile(optimizer=keras.optimizers.Adam(3e-3), jit_compile=False)
        dataset = optix.dataset_from_env(env, agent, window_size=32, num_envs=2, seed=seed)
        agent.fit(dataset, steps_per_epoch=16, epochs=1, verbose=0)
        return float(optix.evaluate_policy(agent, env, episodes=20, seed=seed + 1).primary_score or 0.0)

    two_of_seven_seeds(score, lambda found: found >= 9.0)
