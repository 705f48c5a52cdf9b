"""The loop on PQN as on other agents: scores, tuners, populations, resume points, live feeds and ensembles."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_optix as optix
from keras_optix.testing import CountingFeed, IdentityEnv
from keras_optix.tuners import Log

MakeAgent = Callable[..., optix.PQNAgent]


def windows(agent: optix.Agent, **options: Any) -> Any:
    given: dict[str, Any] = {"window_size": 16, "num_envs": 2, "seed": 0} | options
    return optix.dataset_from_env(lambda: IdentityEnv(3), agent, **given)


def train(agent: optix.Agent, count: int, **options: Any) -> None:
    agent.fit(windows(agent, **options), steps_per_epoch=count, epochs=1, verbose=0)


def looped(agent: optix.PQNAgent, count: int = 30, **options: Any) -> optix.OptixCallback:
    scheduler = optix.BackoffScheduler(plateau_threshold=50, dormant_threshold=100)
    given: dict[str, Any] = {"scheduler": scheduler, "max_windows": count, "verbose": 0} | options
    callback = optix.OptixCallback(optix.ReturnEvaluator(4), **given)
    agent.fit(windows(agent), callbacks=[callback], verbose=0)
    return callback


def test_it_is_scored_tuned_and_its_best_is_kept(small_pqn: MakeAgent, tmp_path: Path) -> None:
    agent = small_pqn()
    bounds = {"learning_rate": (1e-4, 1e-1), "epsilon": Log(0.005, 0.2)}
    callback = looped(agent, 40, tuner=optix.BackoffOptimizer(bounds, max_rounds=1), checkpoint_dir=tmp_path)
    kinds = {record.kind for record in callback.events}
    assert {"improvement", "hyperparams"} <= kinds
    best = optix.CheckpointRegistry(tmp_path).best
    assert best is not None
    again = small_pqn()
    windows(again)  # binds it
    optix.CheckpointRegistry(tmp_path).load_best(again)
    assert 0 < again.explored_env_steps <= agent.explored_env_steps


def test_a_population_of_them_has_its_members_in_turns(small_pqn: MakeAgent) -> None:
    agent = small_pqn(exploration_env_steps=320)
    bounds = {"learning_rate": Log(1e-4, 1e-1), "epsilon": Log(0.005, 0.2)}
    tuner = optix.PBTOptimizer(bounds, population=2, ready_interval=2, seed=0)
    callback = looped(agent, 16, tuner=tuner)
    assert callback.tuner_state is not None
    # All windows count, whichever member they trained: exploration belongs to the run.
    assert agent.explored_env_steps == 16 * 32


def test_a_run_that_is_resumed_goes_on_with_its_exploration(small_pqn: MakeAgent, tmp_path: Path) -> None:
    def run(directory: Path, *counts: int) -> dict[str, np.ndarray]:
        for count in counts:
            keras.utils.set_random_seed(0)
            agent = small_pqn(normalize_rewards=True)
            looped(agent, count, checkpoint_dir=directory, resume=True, restore_best_weights=False)
        return agent.save_run()[0]

    whole, resumed = run(tmp_path / "whole", 9), run(tmp_path / "cut", 4, 9)
    assert whole.keys() == resumed.keys()
    for name, array in whole.items():
        np.testing.assert_array_equal(array, resumed[name], err_msg=name)


def test_it_learns_from_a_live_feed() -> None:
    agent = optix.PQNAgent(update_epochs=1, minibatch_size=8, exploration_env_steps=40, seed=0)
    agent.compile("adam", run_eagerly=True)
    dataset = optix.dataset_from_stream(CountingFeed(), agent, boundary=optix.live.every_n_steps(8))
    history = agent.fit(dataset, steps_per_epoch=1, epochs=3, verbose=0)
    assert history.history["epsilon"] == pytest.approx([1.0, 0.81, 0.62])


def mixed(small_pqn: MakeAgent, learn: str = "primary", **options: Any) -> tuple[optix.EnsembleAgent, list[Any]]:
    members: list[Any] = [small_pqn(exploration_env_steps=64), optix.PPOAgent(seed=1, minibatch_size=16)]
    members[1].compile("adam", run_eagerly=True)
    ensemble = optix.EnsembleAgent(members, members[0], learn=learn, **options)
    ensemble.compile(run_eagerly=True)
    return ensemble, members


def test_an_ensemble_mixes_its_probabilities_with_those_of_others(small_pqn: MakeAgent) -> None:
    """The log-probabilities of a window are ``log(0.5 p_pqn + 0.5 p_ppo)``, by NumPy."""
    ensemble, (pqn, ppo) = mixed(small_pqn, credit="none")
    train(ensemble, 3)
    epsilon = float(pqn.head.weight.numpy()[0])
    assert epsilon == pytest.approx(0.05)
    window = next(iter(windows(ensemble, seed=3)))
    rows, chosen = tf.reshape(window.observations, (32, 3)), tf.reshape(window.actions, (32,)).numpy()
    greedy = np.eye(3)[np.asarray(pqn(rows)).argmax(-1)]
    shares = 0.5 * (epsilon / 3 + (1.0 - epsilon) * greedy) + 0.5 * np.asarray(tf.nn.softmax(ppo(rows)))
    expected = np.log(shares[np.arange(32), chosen])
    np.testing.assert_allclose(tf.reshape(window.log_probs, (32,)), expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(ensemble.act(rows.numpy(), deterministic=True), shares.argmax(-1))
    assert ensemble.compute_output_shape(None) == (2, None, 3)
    member_log_probs = np.asarray(ensemble._member_log_probs(rows, chosen, ensemble.policy_params().arrays))
    own = np.log(epsilon / 3 + (1.0 - epsilon) * greedy)[np.arange(32), chosen]
    np.testing.assert_allclose(member_log_probs[0], own, rtol=1e-3, atol=1e-4)


def test_members_of_an_ensemble_explore_by_themselves(small_pqn: MakeAgent) -> None:
    members = [small_pqn(exploration_env_steps=steps) for steps in (64, 640)]
    ensemble = optix.EnsembleAgent(members, members[0], learn="all", credit="slots")
    ensemble.compile(run_eagerly=True)
    old = None
    for _ in range(2):
        train(ensemble, 1, num_envs=4)
        old = old or ensemble.get_state()
    # Three environments of the primary, of which one is its own, and one of the other member.
    assert [member.explored_env_steps for member in members] == [2 * 48, 2 * 16]
    ensemble.set_state(old)
    assert [member.explored_env_steps for member in members] == [2 * 48, 2 * 16]
