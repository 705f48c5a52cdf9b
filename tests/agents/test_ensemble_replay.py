"""Ensembles with members that learn from replay buffers: what each stores, is given, and learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_optix as optix
from keras_optix.errors import ConfigurationError
from keras_optix.experience.replay_batch import MembersBatch
from tests.power_cut import Cut
from tests.small_dqn import STATES, identity_env, linear, small_dqn

WINDOW = 4


def ppo() -> optix.PPOAgent:
    agent = optix.PPOAgent(linear(STATES, STATES), linear(STATES, 1), update_epochs=1, seed=0)
    agent.compile(keras.optimizers.Adam(0.01), jit_compile=False)
    return agent


def pqn() -> optix.PQNAgent:
    agent = optix.PQNAgent(linear(STATES, STATES), seed=0)
    agent.compile(keras.optimizers.Adam(0.01), jit_compile=False)
    return agent


def ensemble_of(*members: Any, **options: Any) -> optix.EnsembleAgent:
    ensemble = optix.EnsembleAgent(list(members), **options)
    ensemble.compile()
    return ensemble


def dataset_of(ensemble: Any, num_envs: int = 5, **options: Any) -> Any:
    return optix.dataset_from_env(identity_env, ensemble, num_envs=num_envs, window_size=WINDOW, seed=0, **options)


def weights_of(agent: Any) -> list[np.ndarray]:
    return [np.array(array) for array in agent.get_weights()]


def changed(before: list[np.ndarray], agent: Any) -> bool:
    return any(not np.array_equal(a, b) for a, b in zip(before, agent.policy.get_weights(), strict=False))


def test_each_member_stores_and_learns_from_its_part_of_the_windows() -> None:
    """Member 0, the primary, has the columns of the mixture and its own; members 1 and 2 have one column each."""
    first, second, third = small_dqn(), ppo(), small_dqn(gradient_steps_per_env_step=1.0, n_step=2)
    ensemble = ensemble_of(first, second, third, learn="all", credit="slots")
    dataset = dataset_of(ensemble)
    element = next(iter(dataset))
    assert isinstance(element, MembersBatch)
    assert element.members[1] == ()
    assert element.window.rewards.shape == (WINDOW, 5)
    assert element.members[0].observations.shape == (6, 8, STATES)  # 0.5 x 4 rows x 3 columns
    assert element.members[2].rewards.shape == (4, 8, 2)
    assert [int(element.members[k].gradient_steps) for k in (0, 2)] == [6, 4]
    assert [first.replay.added, third.replay.added] == [12, 4]
    # What was stored are the rows of these columns: each draws only observations, actions and rewards that are there.
    window = element.window
    for k, columns in ((0, [0, 1, 2]), (2, [4])):
        rows = {
            (*np.asarray(window.observations)[t, n], int(window.actions[t, n]), float(window.rewards[t, n]))
            for t in range(WINDOW)
            for n in columns
        }
        batch = element.members[k]
        parts = (np.asarray(batch.observations), np.asarray(batch.actions), np.asarray(batch.rewards)[..., 0])
        flat = [part.reshape(-1, *part.shape[2:]) for part in parts]
        assert {(*seen, int(action), float(reward)) for seen, action, reward in zip(*flat, strict=True)} <= rows
    before = [one.policy.get_weights() for one in (first, second, third)]
    logs = ensemble.fit(dataset, epochs=1, steps_per_epoch=1, verbose=0).history
    assert all(changed(weights, one) for weights, one in zip(before, (first, second, third), strict=True))
    assert logs["gradient_steps"] == [6.0]
    assert logs["member2/gradient_steps"] == [4.0]
    assert logs["replay_size"] == [24.0]
    assert logs["member2/replay_size"] == [8.0]
    assert "member1/policy_loss" in logs
    assert "replay0" not in logs


def test_a_member_learns_as_it_would_alone_from_its_environments() -> None:
    """Against an agent of the same weights that is given the same batches by hand."""
    second = small_dqn(normalize_observations=True)
    ensemble = ensemble_of(small_dqn(), second, learn="all", credit="slots")
    element = next(iter(dataset_of(ensemble, 3)))
    alone = small_dqn(normalize_observations=True)
    source = optix.dataset_from_env(identity_env, alone, num_envs=1, window_size=WINDOW, seed=0)
    alone.set_weights(second.get_weights())
    part = {
        name: getattr(element.window, name)[:, 2:]
        for name, value in element.window._asdict().items()
        if tf.is_tensor(value) and value.shape.rank >= 2
    }
    part["observations"] = element.window.observations[:, 2:]
    alone.train_on_batch(element.members[1]._replace(window=element.window._replace(**part)))
    ensemble.train_on_batch(element)
    for mine, theirs in zip(second.get_weights(), alone.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)
    assert source is not None


def test_in_turns_the_one_who_learns_stores() -> None:
    """Windows are the mixture's (the primary's), member 0's, the mixture's, member 1's, ..."""
    members = [small_dqn(), small_dqn()]
    ensemble = ensemble_of(*members, learn="all", credit="turns", solo_windows=1)
    dataset = dataset_of(ensemble, 1)
    rows = [0, 0]
    for learner in [0, 0, 0, 1, 0, 0]:
        before = [weights_of(one.policy) for one in members]
        logs = ensemble.fit(dataset, epochs=1, steps_per_epoch=1, verbose=0).history
        rows[learner] += WINDOW
        assert [one.replay.added for one in members] == rows
        assert [changed(before[k], members[k]) for k in range(2)] == [learner == 0, learner == 1]
    assert logs["gradient_steps"] == logs["member1/gradient_steps"] == [2.0]
    assert logs["member1/replay_size"] == [float(WINDOW)]


@pytest.mark.parametrize("primary", [0, 1])
def test_with_learn_primary_the_primary_stores_whole_windows(primary: int) -> None:
    members: list[Any] = [small_dqn(), ppo()]
    ensemble = ensemble_of(*members, primary_agent=members[primary], credit="slots")
    dataset = dataset_of(ensemble)
    assert ensemble.replays is (primary == 0)
    assert dataset.element_spec.__class__ is (MembersBatch if primary == 0 else optix.Window)
    before = [weights_of(one.policy) for one in members]
    ensemble.fit(dataset, epochs=1, steps_per_epoch=2, verbose=0)
    assert [changed(before[k], members[k]) for k in range(2)] == [primary == 0, primary == 1]
    assert members[0].replay.added == (2 * 5 * WINDOW if primary == 0 else 0)


def test_with_learn_none_nothing_is_stored() -> None:
    member = small_dqn()
    ensemble = ensemble_of(member, pqn(), learn="none")
    dataset = dataset_of(ensemble)
    assert isinstance(dataset.element_spec, optix.Window)
    ensemble.fit(dataset, epochs=1, steps_per_epoch=2, verbose=0)
    assert len(member.replay) == 0


def test_epsilon_greedy_members_are_mixed_with_the_probabilities_with_which_they_act() -> None:
    """The log-probabilities in a window, and so the importance credit, are those of the mixture, by hand."""
    members: list[Any] = [small_dqn(), pqn(), ppo()]
    for epsilon, one in zip((0.3, 0.6), members, strict=False):
        one.bind(identity_env().observation_space, identity_env().action_space)
        one.head.weight.assign([epsilon])
    ensemble = ensemble_of(*members, primary_agent=members[2], credit="none")
    window = next(iter(dataset_of(ensemble)))
    seen = np.asarray(window.observations).reshape(-1, STATES)
    each = []
    for epsilon, one in zip((0.3, 0.6), members, strict=False):
        best = np.asarray(one.policy(seen)).argmax(-1)
        each.append(epsilon / STATES + (1.0 - epsilon) * np.eye(STATES)[best])
    each.append(np.asarray(keras.ops.softmax(members[2].policy(seen))))
    chosen = np.asarray(window.actions).reshape(-1)
    expected = np.log(np.mean(each, 0)[np.arange(len(seen)), chosen])
    np.testing.assert_allclose(np.asarray(window.log_probs).reshape(-1), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("credit", ["slots", "turns", "importance"])
def test_members_get_scores_of_their_own(credit: str) -> None:
    members = [small_dqn(), pqn()]
    manager = optix.PolicyManager()
    for member in members:
        manager.add_agent(member)
    learn = "primary" if credit == "importance" else "all"
    ensemble = optix.EnsembleAgent(manager, members[0], learn=learn, credit=credit, solo_windows=4)
    ensemble.compile()
    scheduler = optix.BackoffScheduler(plateau_threshold=100, dormant_threshold=200, max_interval=1)
    callback = optix.OptixCallback(
        optix.ReturnEvaluator(2), scheduler=scheduler, policy_manager=manager, max_windows=24, verbose=0
    )
    ensemble.fit(dataset_of(ensemble, 4), callbacks=[callback], verbose=0)
    assert [len(scores) > 0 for scores in manager.scores] == [True, True]


def test_a_run_of_members_with_buffers_is_resumed_bit_by_bit(tmp_path: Path) -> None:
    def start(folder: Path, cut: int | None = None) -> Any:
        keras.utils.set_random_seed(0)
        ensemble = ensemble_of(small_dqn(), small_dqn(prioritized_replay=True), learn="all", credit="slots")
        callback = optix.OptixCallback(
            optix.ReturnEvaluator(4),
            scheduler=optix.BackoffScheduler(plateau_threshold=50, dormant_threshold=100),
            checkpoint_dir=folder,
            resume=True,
            resume_interval=0.0,
            restore_best_weights=False,
            max_windows=12,
            verbose=0,
        )
        if cut is None:
            ensemble.fit(dataset_of(ensemble, 3), callbacks=[callback], verbose=0)
        else:
            with pytest.raises(ConnectionError, match="power"):
                ensemble.fit(dataset_of(ensemble, 3), callbacks=[callback, Cut(cut)], verbose=0)
        return ensemble

    whole = start(tmp_path / "a")
    start(tmp_path / "b", cut=7)
    resumed = start(tmp_path / "b")
    for mine, theirs in zip(whole.members, resumed.members, strict=True):
        assert mine.replay.added == theirs.replay.added
        ours, others = (one.replay.sample(np.random.default_rng(0), 2, 16, 2)._asdict() for one in (mine, theirs))
        for name, value in ours.items():
            np.testing.assert_array_equal(value, others[name], err_msg=name)
    for name, array in whole.get_state().items():
        np.testing.assert_array_equal(array, resumed.get_state()[name], err_msg=name)


def test_the_blank_batches_of_a_live_feed_change_nothing() -> None:
    member = small_dqn(prioritized_replay=True)
    ensemble = ensemble_of(member, small_dqn(), learn="all", credit="turns", solo_windows=1)
    dataset = dataset_of(ensemble, 1)
    element = next(iter(dataset))
    blank = ensemble.blank_for_learner(tf.nest.map_structure(np.asarray, element.window))
    tf.nest.assert_same_structure(blank, element)
    assert [int(batch.gradient_steps) for batch in blank.members] == [0, 0]
    before = ensemble.get_state()
    ensemble.train_on_batch(blank._replace(window=blank.window._replace(valid=np.zeros((WINDOW, 1), bool))))
    after = ensemble.get_state()
    for name, array in before.items():
        np.testing.assert_array_equal(array, after[name], err_msg=name)
    assert [one.replay.added for one in ensemble.members] == [WINDOW, 0]


def test_a_shift_makes_all_members_forget() -> None:
    members = [small_dqn(), small_dqn()]
    ensemble = ensemble_of(*members, ppo(), learn="all", credit="slots")
    ensemble.fit(dataset_of(ensemble, 4), epochs=1, steps_per_epoch=10, verbose=0)
    ensemble.after_shift(optix.AfterShift(replay=0.1))
    assert [len(one.replay) for one in members] == [8, 4]


def test_a_saved_ensemble_learns_on_with_empty_buffers(tmp_path: Path) -> None:
    ensemble = ensemble_of(small_dqn(), ppo(), learn="all", credit="slots")
    ensemble.fit(dataset_of(ensemble), epochs=1, steps_per_epoch=3, verbose=0)
    ensemble.save(tmp_path / "ensemble.keras")
    loaded = keras.saving.load_model(tmp_path / "ensemble.keras")
    assert loaded.replays
    rows = np.eye(STATES, dtype=np.float32)
    np.testing.assert_array_equal(ensemble.predict(rows, verbose=0), loaded.predict(rows, verbose=0))
    loaded.fit(dataset_of(loaded), epochs=1, steps_per_epoch=1, verbose=0)
    assert loaded.members[0].replay.added == 4 * WINDOW


def test_what_an_ensemble_cannot_learn_from_is_refused() -> None:
    ensemble = ensemble_of(small_dqn(), ppo(), learn="all", credit="slots")
    deterministic = dataset_of(ensemble, deterministic=True)
    assert isinstance(deterministic.element_spec, optix.Window)
    with pytest.raises(ConfigurationError, match="not stored"):
        ensemble.fit(deterministic, epochs=1, steps_per_epoch=1, verbose=0)
    with pytest.raises(ConfigurationError, match="learns from a MembersBatch, not from a window"):
        ensemble.train_on_batch(next(iter(deterministic)))
    element = next(iter(dataset_of(ensemble)))
    with pytest.raises(ConfigurationError, match=r"Member 0 .* its batches are missing"):
        ensemble.train_on_batch(element._replace(members=((), ())))
