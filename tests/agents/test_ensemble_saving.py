"""`ensemble.save` and `keras.saving.load_model`: an ensemble with all its members in a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from gymnasium import spaces

import keras_optix as optix
from keras_optix.agents.ensemble import FixedAgents
from keras_optix.experience.lowering import FunctionActor
from keras_optix.testing import RandomEnv

VECTOR = spaces.Box(-1.0, 1.0, (3,))
OPTIONS: dict[str, Any] = {
    "learn": "all",
    "credit": "slots",
    "solo_windows": 3,
    "continuous": "mixture",
    "name": "team",
}


def members(compiled: Sequence[float | None] = (0.01, 0.002)) -> list[Any]:
    made: list[Any] = [
        optix.PPOAgent(update_epochs=1, normalize_observations=True, seed=0),
        optix.ReinforceAgent(gamma=0.5, normalize_rewards=True),
    ]
    for agent, rate in zip(made, compiled, strict=True):
        if rate is not None:
            agent.compile(keras.optimizers.Adam(rate), jit_compile=False)
    return made


def trained(action_space: Any) -> Any:
    agents = members()
    ensemble = optix.EnsembleAgent(FixedAgents(agents, (0.3, 0.7)), agents[1], **OPTIONS)
    ensemble.compile()
    dataset = optix.dataset_from_env(
        lambda: RandomEnv(VECTOR, action_space), ensemble, window_size=8, num_envs=3, seed=0
    )
    ensemble.fit(dataset, steps_per_epoch=2, epochs=1, verbose=0)
    ensemble.set_mixture_weights([0.6, 0.4])
    agents[0].hyperparams["clip_ratio"] = 0.35
    return ensemble


def reloaded(ensemble: Any, directory: Path) -> Any:
    ensemble.save(directory / "ensemble.keras")
    return keras.saving.load_model(directory / "ensemble.keras")


def choices(ensemble: Any, deterministic: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    observations = rng.uniform(-1.0, 1.0, (50, 3)).astype(np.float32)
    actor = FunctionActor(ensemble.lowerable())
    actor.set_weights(ensemble.policy_params().arrays)
    noise = actor.noise.zeros((50,)) if deterministic else actor.noise.draw(rng, (50,))
    return actor.act([observations], noise)[:2]


@pytest.mark.parametrize(
    "action_space",
    [
        pytest.param(spaces.Discrete(3, start=1), id="n"),
        pytest.param(spaces.Box(-1.0, 1.0, (2,)), id="box", marks=pytest.mark.slow),
    ],
)
def test_everything_comes_back(action_space: Any, tmp_path: Path) -> None:
    ensemble = trained(action_space)
    again = reloaded(ensemble, tmp_path)
    assert type(again) is optix.EnsembleAgent
    assert {name: getattr(again, name) for name in OPTIONS} == OPTIONS
    assert [type(one) for one in again.members] == [optix.PPOAgent, optix.ReinforceAgent]
    assert again.primary_agent is again.members[1]
    np.testing.assert_array_equal(again.mixture_weights, np.float32([0.6, 0.4]))
    for deterministic in (True, False):
        for found, expected in zip(choices(again, deterministic), choices(ensemble, deterministic), strict=True):
            np.testing.assert_array_equal(found, expected)
    observation = np.full(3, 0.5, np.float32)
    np.testing.assert_array_equal(
        again.act(observation, deterministic=True), ensemble.act(observation, deterministic=True)
    )


def test_what_is_learned_goes_on(tmp_path: Path) -> None:
    ensemble = trained(spaces.Discrete(3))
    again = reloaded(ensemble, tmp_path)
    assert again.optimizer is again.primary_agent.optimizer
    assert [one.hyperparams["learning_rate"] for one in again.members] == [0.01, 0.002]
    assert again.members[0].hyperparams["clip_ratio"] == 0.35
    assert again.get_hyperparams() == ensemble.get_hyperparams()
    state, other = ensemble.get_state(), again.get_state()
    assert state.keys() == other.keys()
    assert any(name.startswith("optimizer/001/") for name in state)
    for name, array in state.items():
        np.testing.assert_array_equal(other[name], array, err_msg=name)
    assert again.policy_version == sum(int(one.optimizer.iterations.numpy()) for one in ensemble.members) > 0

    dataset = optix.dataset_from_env(
        lambda: RandomEnv(VECTOR, spaces.Discrete(3)), again, window_size=8, num_envs=3, seed=0
    )
    before = again.policy_version
    again.fit(dataset, steps_per_epoch=1, epochs=1, verbose=0)
    assert again.policy_version > before
    assert again.last_update == (0, True)


def test_an_ensemble_that_only_acts(tmp_path: Path) -> None:
    agents = members((None, None))
    ensemble = optix.EnsembleAgent(FixedAgents(agents, (0.5, 0.5)), agents[0], learn="none")
    ensemble.bind(VECTOR, spaces.Discrete(2))
    again = reloaded(ensemble, tmp_path)
    assert not again.compiled
    assert not again.members[0].compiled
    assert again.learn == "none"
    np.testing.assert_array_equal(choices(again, False)[0], choices(ensemble, False)[0])


def test_an_ensemble_without_an_environment(tmp_path: Path) -> None:
    agents = members()
    ensemble = optix.EnsembleAgent(FixedAgents(agents, (0.5, 0.5)), agents[0])
    with pytest.warns(UserWarning, match="has not yet been built"):
        again = reloaded(ensemble, tmp_path)
    assert not again.bound
    assert again.credit == "auto"
    ensemble.set_mixture_weights([0.2, 0.8])
    again = optix.EnsembleAgent.from_config(ensemble.get_config())  # a copy without the state
    np.testing.assert_array_equal(again.mixture_weights, np.float32([0.2, 0.8]))
    again.bind(VECTOR, spaces.Discrete(2))
    assert again.act(np.zeros(3, np.float32)) in (0, 1)
