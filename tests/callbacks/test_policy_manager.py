"""A policy manager by hand: weights, variants of the best snapshot, going back to it, and resuming."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drivers import through_json

import keras_optix as optix
from keras_optix.states import to_json
from keras_optix.testing import CountingEnv, TwoRegimeBandit

VECTOR, ACTIONS = CountingEnv().observation_space, CountingEnv().action_space
Make = Callable[..., optix.PPOAgent]


def bound(agent: optix.PPOAgent) -> optix.PPOAgent:
    agent.bind(VECTOR, ACTIONS)
    return agent


def registry_with(agent: Any, directory: Path, hyperparams: dict[str, float] | None = None) -> optix.CheckpointRegistry:
    """A registry whose best snapshot is of this agent."""
    registry = optix.CheckpointRegistry(directory)
    registry.save(
        agent.get_state(),
        eval_metrics=optix.EvalMetrics(1.0),
        hyperparams=optix.HyperparamSet(agent.get_hyperparams().params | (hyperparams or {})),
        policy_version=3,
        promoted=True,
    )
    return registry


def same(state: Any, other: Any) -> bool:
    return state.keys() == other.keys() and all(np.array_equal(state[name], other[name]) for name in state)


# Weights


def test_weights_follow_recorded_scores(small_ppo: Make) -> None:
    manager = optix.PolicyManager(score_window=4)
    assert (manager.agents, manager.weights, manager.auto_update_weights()) == ((), (), ())
    agents = [small_ppo(), small_ppo()]
    assert [manager.add_agent(agents[0], weight=3.0), manager.add_agent(agents[1])] == [0, 1]
    assert manager.agents == tuple(agents)
    assert manager.weights == (0.75, 0.25)
    manager.update_weights({1: 3.0})
    assert manager.weights == (0.5, 0.5)
    for score in (-9.0, -8.0, -7.0, -7.5, -6.5):
        manager.record_agent_score(0, score)
        manager.record_agent_score(1, score - 30.0)
    assert manager.scores[0] == (-8.0, -7.0, -7.5, -6.5)
    weights = manager.auto_update_weights()
    assert weights == manager.weights
    assert weights[1] == pytest.approx(0.05, abs=0.01)


def test_an_ensemble_follows_the_manager_and_fixes_its_members(small_ppo: Make) -> None:
    manager = optix.PolicyManager()
    agents = [small_ppo(), small_ppo()]
    for agent in agents:
        manager.add_agent(agent)
    ensemble = optix.EnsembleAgent(manager, primary_agent=agents[0])
    ensemble.bind(VECTOR, ACTIONS)
    manager.update_weights({0: 3.0})
    np.testing.assert_allclose(ensemble.mixture_weights, [0.75, 0.25])
    for score in (1.0, 1.0, 1.0):
        manager.record_agent_score(0, score)
        manager.record_agent_score(1, score + 1.0)
    version = ensemble.policy_version
    manager.auto_update_weights()
    np.testing.assert_allclose(ensemble.mixture_weights, [0.05, 0.95])
    assert ensemble.policy_version > version
    with pytest.raises(optix.errors.StateError, match="EnsembleAgent"):
        manager.add_agent(small_ppo())
    del ensemble
    gc.collect()
    assert manager.add_agent(small_ppo()) == 2


@pytest.mark.parametrize("kind", [optix.PPOAgent, optix.DQNAgent, optix.SACAgent, optix.ReinforceAgent])
def test_an_agent_that_knows_no_environment_yet_is_an_agent(kind: Any) -> None:
    manager, agent = optix.PolicyManager(), kind()
    assert manager.add_agent(agent) == 0
    assert manager.agents[0] is agent


def test_what_is_no_new_agent_is_refused(small_ppo: Make) -> None:
    manager, agent = optix.PolicyManager(), small_ppo()
    manager.add_agent(agent)
    with pytest.raises(optix.ConfigurationError, match="manager already has this agent"):
        manager.add_agent(agent)
    with pytest.raises(optix.ConfigurationError, match=r"`agent` must be a keras_optix Agent.*agent=a Sequential"):
        manager.add_agent(agent.policy)
    with pytest.raises(optix.ConfigurationError, match="`weight`"):
        manager.add_agent(small_ppo(), weight=-1.0)
    assert len(manager.agents) == len(manager.weights) == 1
    with pytest.raises(optix.errors.NonFiniteError, match="member=0, score=nan"):
        manager.record_agent_score(0, math.nan)
    with pytest.raises(optix.ConfigurationError, match="index=1, agents=1"):
        manager.record_agent_score(1, 0.0)


# Variants


def test_ten_thousand_variants_are_in_bounds_and_repeatable(small_ppo: Make) -> None:
    agent = bound(small_ppo())
    search_spaces, values = agent.search_spaces, agent.get_hyperparams().params
    assert len(search_spaces) == 5
    manager, again = (optix.PolicyManager(noise_scale=0.3, seed=1) for _ in range(2))
    for count in range(10_000):
        variant = manager.next_variant(values, search_spaces)
        assert all(variant[name] in space for name, space in search_spaces.items())
        assert variant.keys() == values.keys()
        assert all(variant[name] == values[name] for name in values if name not in search_spaces)
        if count < 10:
            assert variant == again.next_variant(values, search_spaces) != values


def test_spawned_variants_have_the_best_weights_and_other_hyperparameters(small_ppo: Make, tmp_path: Path) -> None:
    best, shell, other = bound(small_ppo()), bound(small_ppo(gamma=0.95)), bound(small_ppo())
    registry = registry_with(best, tmp_path, {"gamma": 0.97, "learning_rate": 0.002, "clip_ratio": 0.9})
    manager, again = (optix.PolicyManager(registry, noise_scale=0.2, seed=0) for _ in range(2))
    search_spaces = dict(shell.search_spaces)
    found = []
    for _ in range(100):
        version = shell.policy_version
        assert manager.spawn_variant(shell) is shell
        assert same(shell.get_state(), best.get_state())
        assert shell.policy_version > version
        values = shell.get_hyperparams().params
        # It lies outside its search space on purpose, and so is left alone.
        assert values.pop("clip_ratio") == pytest.approx(0.9)
        assert all(values[name] in space for name, space in search_spaces.items() if name in values)
        found.append(values)
    assert len({tuple(values.values()) for values in found}) == 100
    assert np.mean([np.log(values["learning_rate"]) for values in found]) == pytest.approx(np.log(0.002), abs=0.6)
    for values in found[:3]:
        again.spawn_variant(other)
        assert {name: other.hyperparams[name] for name in values} == values
    manager.spawn_variant(shell, noise_scale=0.0)
    assert shell.get_hyperparams().params == registry.best.hyperparams.params


def test_a_shell_is_bound_like_the_managers_agents(small_ppo: Make, tmp_path: Path) -> None:
    best = bound(small_ppo())
    manager = optix.PolicyManager(registry_with(best, tmp_path), seed=0)
    with pytest.raises(optix.errors.StateError, match=r"knows no environment.*shell\.bind"):
        manager.spawn_variant(small_ppo())
    manager.add_agent(small_ppo())  # is not bound itself
    manager.add_agent(best)
    shell = manager.spawn_variant(small_ppo())
    assert shell.env_spaces == best.env_spaces
    assert manager.add_agent(shell, weight=0.5) == 2


def test_a_mutation_changes_the_variant_as_a_new_version(small_ppo: Make, tmp_path: Path) -> None:
    best, shell = bound(small_ppo()), bound(small_ppo())
    versions = []

    def mutate(agent: Any) -> None:
        versions.append(agent.policy_version)
        for variable in agent.policy.trainable_variables:
            variable.assign_add(variable * 0.0 + 0.5)

    manager = optix.PolicyManager(registry_with(best, tmp_path), mutation_fn=mutate)
    manager.spawn_variant(shell)
    assert shell.policy_version > versions[0]
    for mine, theirs in zip(shell.policy.get_weights(), best.policy.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs + 0.5)

    def fail(agent: Any) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        manager.spawn_variant(shell, mutation_fn=fail)
    assert len(versions) == 1


def test_a_variant_needs_a_registry_a_snapshot_and_an_optimizer(small_ppo: Make, tmp_path: Path) -> None:
    shell = bound(small_ppo())
    with pytest.raises(optix.errors.StateError, match="knows no registry"):
        optix.PolicyManager().spawn_variant(shell)
    with pytest.raises(optix.errors.RegistryError, match="no snapshot"):
        optix.PolicyManager(optix.CheckpointRegistry(tmp_path)).spawn_variant(shell)
    manager = optix.PolicyManager(registry_with(shell, tmp_path))
    with pytest.raises(optix.errors.StateError, match="not compiled"):
        manager.spawn_variant(bound(optix.PPOAgent(shell.policy, shell.value)))
    with pytest.raises(optix.ConfigurationError, match="`noise_scale`"):
        manager.spawn_variant(shell, noise_scale=2.0)
    with pytest.raises(optix.errors.StateError, match="another architecture"):
        manager.spawn_variant(bound(optix.PPOAgent()))


# Going back


def bandit() -> TwoRegimeBandit:
    return TwoRegimeBandit()


def lever(make: Make, arm: int) -> optix.PPOAgent:
    """An agent that pulls one arm of the bandit."""
    agent = make(inputs=bandit().observation_space.shape[0], actions=2)
    agent.bind(bandit().observation_space, bandit().action_space)
    *hidden, kernel, bias = agent.policy.get_weights()
    agent.policy.set_weights([*hidden, 0.0 * kernel, bias + 30.0 * np.eye(2, dtype=np.float32)[arm]])
    return agent


def test_evolve_goes_back_to_the_best_only_if_it_is_better(small_ppo: Make, tmp_path: Path) -> None:
    better, worse = sorted(
        (lever(small_ppo, arm) for arm in (0, 1)),
        key=lambda agent: -float(optix.evaluate_policy(agent, bandit, 2, seed=0).primary_score or 0.0),
    )
    manager = optix.PolicyManager(registry_with(better, tmp_path / "better"))
    found = manager.evolve(worse, bandit, seed=5)
    assert found.rolled_back
    assert found.evidence.difference > 0.0
    assert found.evidence.n == found.best.episodes == found.current.episodes == 20
    assert found.best.primary_score - found.current.primary_score == pytest.approx(found.evidence.difference)
    assert (
        found.best.primary_score == optix.evaluate_policy(better, bandit, 20, seed=5, deterministic=False).primary_score
    )
    assert found.snapshot == manager.registry.best
    assert same(worse.get_state(), better.get_state())

    worse = lever(small_ppo, 1 if np.argmax(better.policy.get_weights()[-1]) == 0 else 0)
    manager = optix.PolicyManager(registry_with(worse, tmp_path / "worse"))
    before, version = better.get_state(), better.policy_version
    values = better.get_hyperparams()
    found = manager.evolve(better, bandit)
    assert not found.rolled_back
    assert found.evidence.difference < 0.0
    assert same(better.get_state(), before)
    assert (better.policy_version, better.get_hyperparams()) == (version, values)


def test_evolve_leaves_equals_alone_and_gives_equal_seeds(small_ppo: Make, tmp_path: Path) -> None:
    """Sampled actions: with other seeds the scores of the two would differ."""
    agent = small_ppo(inputs=bandit().observation_space.shape[0])
    agent.bind(bandit().observation_space, bandit().action_space)
    manager, again = (optix.PolicyManager(registry_with(agent, tmp_path), seed=0) for _ in range(2))
    found = manager.evolve(agent, bandit, episodes=5)
    assert (found.rolled_back, found.evidence.difference, found.evidence.z) == (False, 0.0, 0.0)
    assert found.current == found.best
    assert again.evolve(agent, bandit, episodes=5) == found
    assert manager.evolve(agent, bandit, episodes=5).current != found.current


def test_evolve_plays_in_an_environment_that_it_is_given_and_leaves_it_open(small_ppo: Make, tmp_path: Path) -> None:
    env, agent = CountingEnv(), bound(small_ppo())
    manager = optix.PolicyManager(registry_with(agent, tmp_path))
    assert manager.evolve(agent, env, episodes=4, deterministic=True).current.episodes == 4
    assert not env.closed
    for options, match in (
        ({"episodes": 1}, "`episodes`"),
        ({"confidence": 0.4}, "`confidence`"),
        ({"seed": -1}, "`seed`"),
    ):
        with pytest.raises(optix.ConfigurationError, match=match):
            manager.evolve(agent, env, **options)
    with pytest.raises(optix.ConfigurationError, match="nothing is certain"):
        manager.evolve(agent, env, confidence=1.0)
    with pytest.raises(optix.errors.StateError, match="knows no registry"):
        optix.PolicyManager().evolve(agent, env)


# The loop's side


def test_a_run_that_is_resumed_goes_on_as_it_would_have(small_ppo: Make, tmp_path: Path) -> None:
    """Manager first, ensemble second: then both have what they had, also where a rollback made them differ."""

    def fresh() -> tuple[optix.PolicyManager, optix.EnsembleAgent]:
        manager = optix.PolicyManager(seed=0)
        for _ in range(2):
            manager.add_agent(bound(small_ppo()))
        ensemble = optix.EnsembleAgent(manager, manager.agents[0])
        ensemble.compile()
        ensemble.bind(VECTOR, ACTIONS)
        return manager, ensemble

    manager, ensemble = fresh()
    search_spaces, values = ensemble.search_spaces, ensemble.get_hyperparams().params
    manager.next_variant(values, search_spaces)
    manager.update_weights({1: 4.0})
    manager.record_agent_score(1, -2.5)
    saved, run = through_json(manager.save()), ensemble.save_run()
    following = manager.next_variant(values, search_spaces)
    for agree in (True, False):
        if not agree:
            ensemble.set_mixture_weights([0.5, 0.5])
            run = ensemble.save_run()
        other, resumed = fresh()
        other.restore(other.read(saved))
        np.testing.assert_allclose(resumed.mixture_weights, other.weights)  # it was told
        resumed.restore_run(*run)
        assert (other.weights, other.scores) == (manager.weights, manager.scores) == ((0.2, 0.8), ((), (-2.5,)))
        np.testing.assert_array_equal(resumed.mixture_weights, ensemble.mixture_weights)
        assert resumed.policy_version == ensemble.policy_version
        assert other.next_variant(values, search_spaces) == following


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"random": None}, "generator"),
        ({"random": {"bit_generator": "MT19937"}}, "generator"),
        ({"scores": []}, "Add the agents"),
        ({"weights": [1.0]}, "Add the agents"),
    ],
)
def test_a_wrong_state_is_refused_whole(change: dict[str, Any], match: str) -> None:
    manager = optix.PolicyManager(seed=0)
    before = to_json(manager.save())
    later = to_json(optix.PolicyManager(seed=1).save())
    with pytest.raises(optix.errors.StateError, match=match):
        manager.restore(manager.read(later | {"scores": [[]], "weights": [1.0]} | change))
    with pytest.raises(optix.errors.StateError, match="generator"):
        manager.restore(manager.read({}))
    assert to_json(manager.save()) == before
    manager.restore(manager.read(later))
    assert to_json(manager.save()) == later


def test_the_loops_registry_is_taken_if_it_is_the_same_or_none_was_given(tmp_path: Path) -> None:
    given, other = optix.CheckpointRegistry(tmp_path / "a"), optix.CheckpointRegistry(tmp_path / "b")
    manager = optix.PolicyManager()
    for registry in (given, other):
        manager.use_registry(registry)
        assert manager.registry is registry
        assert manager.own_registry is None  # a later loop goes by its own
    manager = optix.PolicyManager(given)
    reopened = optix.CheckpointRegistry(tmp_path / "b" / ".." / "a")
    manager.use_registry(reopened)
    assert manager.registry is reopened  # it knows the run that has begun
    assert manager.own_registry is given
    with pytest.raises(optix.ConfigurationError, match=r"different directories.*policy_manager=.*optix_callback="):
        manager.use_registry(other)
    assert manager.registry is reopened


def test_as_a_callback_it_names_itself_and_works_only_in_the_loop(small_ppo: Make) -> None:
    manager, agent = optix.PolicyManager(), small_ppo()
    callback = manager.as_callback(agent)
    assert isinstance(callback, optix.LoopCallback)
    assert (callback.policy_manager, callback.agent) == (manager, agent)
    dataset = optix.dataset_from_env(CountingEnv, agent, window_size=4)
    with pytest.raises(optix.errors.StateError, match=r"OptixCallback\(callbacks="):
        agent.fit(dataset, steps_per_epoch=1, epochs=1, callbacks=[callback], verbose=0)
    callback.on_loop_start()
    callback.on_epoch_begin(0)


def test_options_are_attributes_and_nonsense_is_refused(tmp_path: Path) -> None:
    manager = optix.PolicyManager()
    assert optix.PolicyManager(str(tmp_path)).own_registry.directory == tmp_path  # type: ignore[union-attr]
    assert (manager.auto_spawn, manager.max_variants, manager.variant_windows) == (False, 3, 50)
    assert (manager.noise_scale, manager.mutation_fn, manager.regime_detector) == (0.05, None, None)
    assert (manager.store_policies, manager.max_regimes, manager.after_shift) == (True, 8, optix.AfterShift())
    detector, after = optix.RegimeDetector(), optix.AfterShift(0.5)
    manager = optix.PolicyManager(regime_detector=detector, after_shift=after, noise_scale=0.0, mutation_fn=print)
    assert (manager.regime_detector, manager.after_shift, manager.mutation_fn) == (detector, after, print)
    for options in (
        {"score_window": 1},
        {"max_variants": 0},
        {"variant_windows": 0},
        {"noise_scale": -0.1},
        {"floor": 2.0},
        {"max_regimes": 0},
        {"seed": -1},
        {"mutation_fn": 3},
        {"regime_detector": "volatile"},
        {"after_shift": 0.1},
        {"registry": 3},
        {"auto_spawn": True, "noise_scale": 0.0},
    ):
        with pytest.raises(optix.ConfigurationError, match=f"Received: .*{next(iter(options))}="):
            optix.PolicyManager(**options)  # type: ignore[arg-type]
