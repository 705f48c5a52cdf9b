"""An ensemble acts as its mixture, learns as its primary, and saves all of its members."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from gymnasium import spaces

import keras_optix as optix
from keras_optix.experience.actor import LiteRTActor
from keras_optix.experience.lowering import FunctionActor
from keras_optix.testing import MatchEnv, RandomEnv

VECTOR = spaces.Box(-1.0, 1.0, (3,))
ACTIONS = {
    "discrete": (spaces.Discrete(3, start=-1), "average"),
    "multi_discrete": (spaces.MultiDiscrete([[3, 2], [2, 2]]), "average"),
    "multi_binary": (spaces.MultiBinary([3, 2]), "average"),
    "box_average": (spaces.Box(-2.0, 5.0, (2,)), "average"),
    "box_mixture": (spaces.Box(-2.0, 5.0, (2,)), "mixture"),
}


class Manager:
    """A policy manager as an ensemble sees it."""

    def __init__(self, agents: Sequence[optix.Agent], weights: Sequence[float]) -> None:
        self.agents, self.weights = list(agents), list(weights)
        self._listeners: list[Callable[[Sequence[float]], None]] = []

    def subscribe(self, listener: Callable[[Sequence[float]], None]) -> None:
        self._listeners.append(listener)

    def change(self, weights: Sequence[float]) -> None:
        self.weights = list(weights)
        for listener in self._listeners:
            listener(weights)


def member(**options: Any) -> optix.PPOAgent:
    agent = optix.PPOAgent(update_epochs=1, minibatch_size=64, seed=0, **options)
    agent.compile(optimizer="adam", jit_compile=False)
    return agent


def ensemble_of(
    weights: Sequence[float] = (0.3, 0.7), continuous: str = "average", learn: str = "primary", **options: Any
) -> tuple[optix.EnsembleAgent, Manager]:
    manager = Manager([member(**options) for _ in weights], weights)
    ensemble = optix.EnsembleAgent(manager, manager.agents[0], continuous=continuous, learn=learn)
    ensemble.compile()
    return ensemble, manager


def scrambled(agent: Any) -> None:
    """Weights at which members disagree; fresh policies are all alike."""
    rng = np.random.default_rng(5)
    for one in agent.members:
        one.policy.set_weights([rng.normal(size=array.shape) for array in one.policy.get_weights()])


def same(state: Any, other: Any) -> bool:
    return state.keys() == other.keys() and all(np.array_equal(state[name], other[name]) for name in state)


@pytest.mark.parametrize("name", ACTIONS)
def test_it_acts_in_every_space_and_is_lowered(name: str) -> None:
    """RandomEnv refuses actions outside its space; a warning would say that lowering fell back."""
    space, continuous = ACTIONS[name]
    ensemble, _ = ensemble_of(continuous=continuous, normalize_observations=True)
    dataset = optix.dataset_from_env(lambda: RandomEnv(VECTOR, space), ensemble, window_size=500, num_envs=2, seed=0)
    scrambled(ensemble)
    window = next(iter(dataset))
    assert int(np.sum(window.valid)) > 700
    # What the lowered actor wrote into the window is what TensorFlow computes.
    rows = np.reshape(window.observations, (-1, 3))
    parameters = ensemble.head.parameters(rows, training=False)
    choices = np.reshape(window.actions, (len(rows), *window.actions.shape[2:]))
    expected = np.asarray(ensemble.head.mixture.log_prob(parameters, ensemble.mixture_weights[:, None], choices))
    valid = np.reshape(window.valid, -1)
    np.testing.assert_allclose(np.reshape(window.log_probs, -1)[valid], expected[valid], rtol=1e-3, atol=1e-3)
    for size in (1, 3):
        assert isinstance(ensemble.make_actor(size), LiteRTActor)
    for deterministic in (False, True):
        assert space.contains(ensemble.act(rows[0], deterministic))
        assert all(space.contains(action) for action in ensemble.act(rows[:4], deterministic))


@pytest.mark.parametrize("name", ACTIONS)
@pytest.mark.parametrize("alone", [0, 1])
def test_all_the_weight_on_one_member_is_that_member(name: str, alone: int) -> None:
    space, continuous = ACTIONS[name]
    ensemble, _ = ensemble_of(np.eye(2)[alone].tolist(), continuous)
    ensemble.bind(VECTOR, space)
    scrambled(ensemble)
    single = ensemble.members[alone]
    rng, n = np.random.default_rng(0), 200
    observations = rng.uniform(-1.0, 1.0, (n, 3)).astype(np.float32)
    noise = ensemble.head.noise.draw(rng, (n,))
    own = noise[:, : math.prod(single.head.noise.shape)]
    choices, log_probs = FunctionActor(ensemble.lowerable()), FunctionActor(single.lowerable())
    choices.set_weights(ensemble.policy_params().arrays)
    log_probs.set_weights(single.policy_params().arrays)
    mine, mine_log, _ = choices.act([observations], noise)
    theirs, theirs_log, _ = log_probs.act([observations], own)
    # Two compilations: where two choices are as good as equal they may differ, in one of 200 rows at the most (a gap of
    # 1e-5 between choices is met in 0.0005 of the rows).
    alike = np.isclose(mine, theirs, rtol=1e-4, atol=1e-5).reshape(n, -1).all(-1)
    assert np.count_nonzero(~alike) <= 1
    np.testing.assert_allclose(mine_log[alike], theirs_log[alike], rtol=1e-3, atol=1e-3)


def test_a_change_of_weights_reaches_the_actor_as_a_new_version() -> None:
    ensemble, manager = ensemble_of((1.0, 0.0))
    ensemble.bind(VECTOR, spaces.Discrete(2))
    for k, one in enumerate(ensemble.members):
        kernel, bias = one.policy.get_weights()[-2:]
        one.policy.set_weights([*one.policy.get_weights()[:-2], 0.0 * kernel, bias + np.eye(2)[k] * 50.0])
    assert ensemble.act(np.zeros(3, np.float32)) == 0
    before = ensemble.policy_version
    manager.change((0.0, 1.0))
    assert ensemble.policy_version > before
    assert ensemble.policy_params().version == ensemble.policy_version
    assert ensemble.act(np.zeros(3, np.float32)) == 1
    np.testing.assert_array_equal(ensemble.mixture_weights, [0.0, 1.0])


def match_env() -> MatchEnv:
    return MatchEnv(spaces.Discrete(3))


def train(ensemble: Any, windows: int = 3) -> None:
    dataset = optix.dataset_from_env(match_env, ensemble, window_size=8, num_envs=2, seed=0)
    ensemble.fit(
        dataset, callbacks=[optix.OptixCallback(max_windows=windows, restore_best_weights=False, verbose=0)], verbose=0
    )


def test_only_the_primary_learns() -> None:
    ensemble, _ = ensemble_of(normalize_rewards=True)
    train(ensemble, 1)
    primary, other = (one.get_weights() for one in ensemble.members)
    version = ensemble.policy_version
    train(ensemble)
    assert ensemble.policy_version > version
    assert any(not np.array_equal(a, b) for a, b in zip(primary, ensemble.members[0].get_weights(), strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(other, ensemble.members[1].get_weights(), strict=True))
    assert ensemble.last_update[1], "all must be finite"


def test_nothing_is_learned_where_that_is_asked_for() -> None:
    ensemble, _ = ensemble_of(learn="none")
    train(ensemble, 1)
    before = ensemble.get_state()
    train(ensemble)
    assert same(before, ensemble.get_state())


def test_the_state_holds_every_member_with_its_optimizer() -> None:
    ensemble, manager = ensemble_of(normalize_observations=True)
    train(ensemble)
    state = ensemble.get_state()
    slots = [name for name in state if name.startswith("optimizer/001/")]
    assert len(slots) == len(ensemble.members[1].optimizer.variables) - 1
    versions = [one.policy_version for one in ensemble.members]
    manager.change((0.5, 0.5))
    scrambled(ensemble)
    for variable in ensemble.members[1].optimizer.variables[2:]:
        variable.assign(variable + 1)
    train(ensemble)
    assert not same(state, ensemble.get_state())
    before = ensemble.policy_version
    ensemble.set_state(state)
    assert same(state, ensemble.get_state())
    np.testing.assert_allclose(ensemble.mixture_weights, [0.3, 0.7])
    assert ensemble.policy_version > before
    assert all(one.policy_version > version for one, version in zip(ensemble.members, versions, strict=True))


def test_a_saved_run_goes_on_in_another_process() -> None:
    """With the running returns of the primary's reward scale, which are in no snapshot."""
    ensemble, _ = ensemble_of(normalize_rewards=True)
    train(ensemble)
    arrays, values = ensemble.save_run()
    other, _ = ensemble_of((0.5, 0.5), normalize_rewards=True)
    optix.dataset_from_env(match_env, other, window_size=8, num_envs=2, seed=0)
    other.restore_run(arrays, values)
    again, values_again = other.save_run()
    assert any(name.startswith("members/000/running_return/") for name in arrays)
    assert same(arrays, again)
    assert values == values_again


def test_weights_go_through_a_file(tmp_path: Path) -> None:
    ensemble, _ = ensemble_of()
    train(ensemble)
    ensemble.save_weights(tmp_path / "ensemble.weights.h5")
    other, _ = ensemble_of((0.5, 0.5))
    env = match_env()
    other.bind(env.observation_space, env.action_space)
    other.load_weights(tmp_path / "ensemble.weights.h5")
    pairs = itertools.zip_longest(ensemble.get_weights(), other.get_weights())
    assert all(np.array_equal(a, b) for a, b in pairs)
    np.testing.assert_array_equal(other.mixture_weights, ensemble.mixture_weights)


def test_hyperparameters_and_search_spaces_are_the_primarys() -> None:
    ensemble, _ = ensemble_of()
    primary = ensemble.primary_agent
    assert ensemble.hyperparams is primary.hyperparams
    assert list(ensemble.search_spaces) == list(primary.search_spaces)
    assert ensemble.optimizer is primary.optimizer


def test_an_optimizer_becomes_the_primarys() -> None:
    primary = optix.PPOAgent(update_epochs=1)
    ensemble = optix.EnsembleAgent(Manager([primary], [1.0]), primary)
    with pytest.raises(optix.errors.StateError, match="primary is not compiled"):
        ensemble.compile()
    ensemble.compile(keras.optimizers.SGD(0.01), jit_compile=False)
    assert primary.optimizer is ensemble.optimizer
    train(ensemble, 1)
    assert ensemble.hyperparams["learning_rate"] == 0.01


def test_invalid_ensembles() -> None:
    one, other = member(), member()
    with pytest.raises(optix.ConfigurationError, match="must be one of the policy manager's agents"):
        optix.EnsembleAgent(Manager([one], [1.0]), other)
    with pytest.raises(optix.ConfigurationError, match="must be one of"):
        optix.EnsembleAgent(Manager([], []), one)
    for weights in ([0.5], [0.5, 0.6], [1.5, -0.5], [math.nan, 1.0]):
        with pytest.raises(optix.ConfigurationError, match="Weights must be 2 numbers"):
            optix.EnsembleAgent(Manager([one, other], weights), one)
    with pytest.raises(optix.ConfigurationError, match="continuous"):
        optix.EnsembleAgent(Manager([one], [1.0]), one, continuous="median")
    with pytest.raises(optix.ConfigurationError, match="learn"):
        optix.EnsembleAgent(Manager([one], [1.0]), one, learn="some")
    other.bind(VECTOR, spaces.Discrete(3))
    ensemble = optix.EnsembleAgent(Manager([one, other], [0.5, 0.5]), one)
    with pytest.raises(optix.errors.SpaceError, match=r"Member 0 of the ensemble.*already plays another environment"):
        ensemble.bind(VECTOR, spaces.Discrete(2))
    inner, _ = ensemble_of()
    with pytest.raises(optix.errors.SpaceError, match="no distribution over actions that can be mixed"):
        optix.EnsembleAgent(Manager([inner], [1.0]), inner).bind(VECTOR, spaces.Discrete(2))
