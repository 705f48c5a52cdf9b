"""DQN: its gradient steps against closed forms, and when they are made."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import gymnasium
import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_optix as optix
from keras_optix.errors import ConfigurationError, NetworkError

INPUTS, ACTIONS, ROWS = 3, 2, 4
RATE = 0.1
OBSERVATIONS = gymnasium.spaces.Box(-1.0, 1.0, (INPUTS,))


def linear(**kwargs: Any) -> optix.DQNAgent:
    """An agent whose Q-network is linear, so that its gradient is known, with plain gradient descent."""
    network = keras.Sequential([keras.layers.Input((INPUTS,)), keras.layers.Dense(ACTIONS, use_bias=False)])
    agent = optix.DQNAgent(network, gamma=0.9, max_grad_norm=1e9, **kwargs)
    agent.compile(optimizer=keras.optimizers.SGD(RATE), jit_compile=False)
    agent.bind(OBSERVATIONS, gymnasium.spaces.Discrete(ACTIONS))
    return agent


def transitions(seed: int = 0, scale: float = 1.0) -> optix.Transitions:
    rng = np.random.default_rng(seed)
    return optix.Transitions(
        observations=tf.constant(rng.uniform(-1, 1, (ROWS, INPUTS)), tf.float32),
        actions=tf.constant(rng.integers(0, ACTIONS, ROWS)),
        returns=tf.constant(scale * rng.normal(size=ROWS), tf.float32),
        discounts=tf.constant([0.9, 0.81, 0.0, 0.9], tf.float32),
        next_observations=tf.constant(rng.uniform(-1, 1, (ROWS, INPUTS)), tf.float32),
        weights=tf.constant([1.0, 0.5, 0.25, 1.0], tf.float32),
    )


def expected(agent: optix.DQNAgent, batch: optix.Transitions, *, double: bool) -> tuple[np.ndarray, np.ndarray]:
    """The weights after a step of gradient descent on the weighted Huber loss, and the errors."""
    q, target = agent.policy.get_weights()[0], agent.target_network.get_weights()[0]
    observations, following = np.asarray(batch.observations), np.asarray(batch.next_observations)
    later = following @ target
    chosen = np.argmax(following @ q if double else later, -1)
    targets = np.asarray(batch.returns) + np.asarray(batch.discounts) * later[np.arange(ROWS), chosen]
    actions = np.asarray(batch.actions)
    errors = (observations @ q)[np.arange(ROWS), actions] - targets
    gradient = np.zeros_like(q)
    for row in range(ROWS):
        pull = np.clip(errors[row], -1.0, 1.0) * float(batch.weights[row]) / ROWS
        gradient[:, actions[row]] += pull * observations[row]
    return q - RATE * gradient, np.abs(errors)


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("scale", [0.1, 5.0])  # errors on both sides of the bend of the Huber loss
def test_a_gradient_step_is_the_one_that_is_computed_by_hand(double: bool, scale: float) -> None:
    agent, batch = linear(double=double), transitions(scale=scale)
    agent.target_network.set_weights([-2.0 * agent.policy.get_weights()[0]])  # it prefers the other action everywhere
    weights, errors = expected(agent, batch, double=double)
    other, _ = expected(agent, batch, double=not double)
    assert np.abs(weights - other).max() > 1e-3  # so that this test tells them apart
    logs, found = agent.gradient_step(batch, tf.constant([1, 2]))
    np.testing.assert_allclose(agent.policy.get_weights()[0], weights, atol=1e-6)
    np.testing.assert_allclose(found, errors, rtol=1e-5, atol=1e-6)
    assert float(logs["td_error"]) == pytest.approx(errors.mean(), rel=1e-5)


def test_the_target_network_begins_as_a_copy_and_moves_by_tau_after_each_gradient_step() -> None:
    agent = linear(tau=0.25)
    before = agent.policy.get_weights()[0]
    np.testing.assert_array_equal(agent.target_network.get_weights()[0], before)
    agent.gradient_step(transitions(), tf.constant([1, 2]))
    after = agent.policy.get_weights()[0]
    assert np.abs(after - before).max() > 0.0
    np.testing.assert_allclose(agent.target_network.get_weights()[0], before + 0.25 * (after - before), atol=1e-6)


def test_a_dueling_network_gives_the_value_plus_what_is_special_about_each_action(tmp_path: Path) -> None:
    agent = optix.DQNAgent(dueling=True, seed=0)
    agent.bind(OBSERVATIONS, gymnasium.spaces.Discrete(3))
    rows = np.random.default_rng(0).uniform(-1, 1, (5, INPUTS)).astype(np.float32)
    found = np.asarray(agent(rows))
    dense = [one for one in agent.policy.layers if isinstance(one, keras.layers.Dense)]
    (shared,) = [one for one in dense if one.kernel.shape == (INPUTS, 256)]
    hidden, hidden2 = [one for one in dense if one.kernel.shape == (256, 256)]
    (value,), (advantage,) = ([one for one in dense if one.units == units] for units in (1, 3))
    features = shared(rows)
    options = [
        np.asarray(value(first(features)))
        + np.asarray(advantage(second(features)))
        - np.asarray(advantage(second(features))).mean(-1, keepdims=True)
        for first, second in ((hidden, hidden2), (hidden2, hidden))
    ]
    assert any(np.allclose(found, option, atol=1e-5) for option in options)
    agent.compile(optimizer="adam")
    agent.save(tmp_path / "agent.keras")
    np.testing.assert_array_equal(found, np.asarray(keras.saving.load_model(tmp_path / "agent.keras")(rows)))


def chain(length: int = 5) -> gymnasium.Env:
    """Right leads to a reward at the end of a corridor, left ends the episode with a small one."""

    class Chain(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(0.0, 1.0, (length,))
        action_space = gymnasium.spaces.Discrete(2)

        def _seen(self) -> np.ndarray:
            return np.eye(length, dtype=np.float32)[self.place]

        def reset(self, **kwargs: Any) -> Any:
            super().reset(**kwargs)
            self.place = 0
            return self._seen(), {}

        def step(self, action: int) -> Any:
            if action == 0:
                return self._seen(), 0.1, True, False, {}
            self.place += 1
            done = self.place == length - 1
            return self._seen(), float(done), done, False, {}

    return Chain()


def small(**kwargs: Any) -> optix.DQNAgent:
    settings: dict[str, Any] = {
        "buffer_size": 1000,
        "batch_size": 8,
        "learning_starts": 0,
        "gradient_steps_per_env_step": 0.5,
        "exploration_env_steps": 500,
        "seed": 0,
    }
    network = keras.Sequential([keras.layers.Input((5,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(2)])
    agent = optix.DQNAgent(network, **(settings | kwargs))
    agent.compile(optimizer=keras.optimizers.Adam(0.01), jit_compile=False)
    return agent


def test_the_elements_of_a_dataset_are_batches_for_the_gradient_steps_that_are_due() -> None:
    agent = small(n_step=3)
    dataset = optix.dataset_from_env(chain, agent, window_size=4, num_envs=3, seed=0)
    batch = next(iter(dataset))
    assert isinstance(batch, optix.ReplayBatch)
    assert batch.observations.shape == (6, 8, 5)  # 0.5 x 4 x 3 gradient steps, 8 transitions each
    assert batch.rewards.shape == (6, 8, 3)
    assert batch.actions.shape == batch.steps.shape == batch.terminated.shape == batch.weights.shape == (6, 8)
    assert batch.window.rewards.shape == (4, 3)
    assert int(batch.gradient_steps) == 6
    assert int(batch.env_steps) == agent.replay.added == 12


def test_no_gradient_step_is_made_before_learning_starts() -> None:
    agent = small(learning_starts=40, target_update_interval=1)
    dataset = optix.dataset_from_env(chain, agent, window_size=10, num_envs=1, seed=0)
    made: list[float] = []
    weights: list[np.ndarray] = []
    record = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: (
            made.append(logs["gradient_steps"]),
            weights.append(agent.policy.get_weights()[0]),
        )
    )
    agent.fit(dataset, epochs=1, steps_per_epoch=7, verbose=0, callbacks=[record])
    assert made == [0.0, 0.0, 0.0, 0.0, 5.0, 5.0, 5.0]
    assert all(np.array_equal(weights[0], one) for one in weights[:4])
    assert not np.array_equal(weights[3], weights[4])


def test_what_a_division_leaves_is_made_up_for_after_later_windows() -> None:
    agent = small(gradient_steps_per_env_step=0.3)
    dataset = optix.dataset_from_env(chain, agent, window_size=1, num_envs=1, seed=0)
    history = []
    record = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: history.append(logs["gradient_steps"])
    )
    agent.fit(dataset, epochs=1, steps_per_epoch=20, verbose=0, callbacks=[record])
    assert sum(history) == 6
    assert set(history) == {0.0, 1.0}


def test_the_target_network_is_copied_in_the_windows_that_reach_the_next_interval() -> None:
    agent = small(target_update_interval=25)
    dataset = optix.dataset_from_env(chain, agent, window_size=10, num_envs=1, seed=0)
    targets: list[np.ndarray] = []
    record = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: targets.append(agent.target_network.get_weights()[0])
    )
    agent.fit(dataset, epochs=1, steps_per_epoch=8, verbose=0, callbacks=[record])
    changed = [not np.array_equal(a, b) for a, b in itertools.pairwise(targets)]
    # 30, 50 and 80 env steps: the first window that ends beyond 25, 50 and 75
    assert changed == [False, True, False, True, False, False, True]


def test_prioritized_replay_gives_transitions_the_priorities_of_their_errors() -> None:
    agent = small(prioritized_replay=True, priority_exponent=1.0)
    dataset = optix.dataset_from_env(chain, agent, window_size=16, num_envs=1, seed=0)
    agent.fit(dataset, epochs=1, steps_per_epoch=20, verbose=0)
    assert {"priority_exponent", "importance_exponent"} <= set(agent.hyperparams)
    batch = next(iter(dataset))
    weights = np.asarray(batch.weights)
    assert weights.max() == 1.0
    assert weights.min() < 0.99  # without errors all priorities, and so all weights, would be equal
    uniform = small()
    batch = next(iter(optix.dataset_from_env(chain, uniform, window_size=16, num_envs=1, seed=0)))
    assert np.all(np.asarray(batch.weights) == 1.0)


def test_it_knows_how_much_exploration_is_left() -> None:
    agent = small(learning_starts=40, exploration_env_steps=25)
    assert agent.exploration_left == 40  # epsilon falls, and no gradient step is made, before that
    dataset = optix.dataset_from_env(chain, agent, window_size=10, num_envs=1, seed=0)
    agent.fit(dataset, epochs=1, steps_per_epoch=3, verbose=0)
    assert agent.exploration_left == 10
    agent.fit(dataset, epochs=1, steps_per_epoch=2, verbose=0)
    assert agent.exploration_left == -10
    assert optix.PPOAgent().exploration_left is None


def test_it_learns_to_wait_for_the_larger_reward(two_of_seven_seeds: Any) -> None:
    """The best return is 1, and always going left 0.1. Measured: see `pytest --measure-seeds`."""

    def outcome(seed: int) -> float:
        keras.utils.set_random_seed(seed)
        agent = small(seed=seed, target_update_interval=50)
        dataset = optix.dataset_from_env(chain, agent, window_size=16, num_envs=1, seed=seed)
        agent.fit(dataset, epochs=1, steps_per_epoch=80, verbose=0)
        return float(optix.evaluate_policy(agent, chain, episodes=2).primary_score)

    two_of_seven_seeds(outcome, lambda score: score == 1.0)


def test_a_saved_agent_acts_and_learns_on(tmp_path: Path) -> None:
    agent = small()
    agent.fit(optix.dataset_from_env(chain, agent, window_size=8, seed=0), epochs=1, steps_per_epoch=5, verbose=0)
    agent.save(tmp_path / "agent.keras")
    loaded = keras.saving.load_model(tmp_path / "agent.keras")
    assert isinstance(loaded, optix.DQNAgent)
    assert loaded.replay_plan == agent.replay_plan
    observations = np.eye(5, dtype=np.float32)
    np.testing.assert_array_equal(agent.predict(observations, verbose=0), loaded.predict(observations, verbose=0))
    for ours, theirs in zip(agent.target_network.get_weights(), loaded.target_network.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert len(loaded.replay) == 0
    loaded.fit(optix.dataset_from_env(chain, loaded, window_size=8, seed=0), epochs=1, steps_per_epoch=2, verbose=0)


def test_a_second_dataset_goes_on_with_the_same_buffer() -> None:
    agent = small()
    agent.fit(optix.dataset_from_env(chain, agent, window_size=8, seed=0), epochs=1, steps_per_epoch=5, verbose=0)
    agent.fit(
        optix.dataset_from_env(chain, agent, window_size=4, num_envs=3, seed=1), epochs=1, steps_per_epoch=5, verbose=0
    )
    assert agent.replay.added == 5 * 8 + 5 * 12


def test_after_a_shift_the_newest_share_of_the_transitions_stays() -> None:
    agent = small()
    agent.fit(optix.dataset_from_env(chain, agent, window_size=8, seed=0), epochs=1, steps_per_epoch=10, verbose=0)
    assert len(agent.replay) == 80
    agent.after_shift(optix.AfterShift(replay=0.25))
    assert len(agent.replay) == 20
    agent.after_shift(optix.AfterShift(replay=0.0))
    assert len(agent.replay) == 0


def test_validation_windows_are_not_stored() -> None:
    agent = small()
    training = optix.dataset_from_env(chain, agent, window_size=8, seed=0)
    validation = optix.dataset_from_env(chain, agent, window_size=8, seed=1, deterministic=True)
    assert isinstance(next(iter(validation)), optix.Window)
    agent.fit(training, epochs=2, steps_per_epoch=2, verbose=0, validation_data=validation, validation_steps=2)
    assert agent.replay.added == 4 * 8


def test_datasets_that_are_not_stored_are_refused_for_training() -> None:
    agent = small()
    deterministic = optix.dataset_from_env(chain, agent, window_size=8, seed=1, deterministic=True)
    with pytest.raises(ConfigurationError, match="not stored"):
        agent.fit(deterministic, epochs=1, steps_per_epoch=1, verbose=0)
    with pytest.raises(ConfigurationError, match="learns from a ReplayBatch"):
        agent.train_on_batch(next(iter(deterministic)))


def test_a_step_by_hand_learns_as_fit_does() -> None:
    first, second = small(), small()
    second.bind(chain().observation_space, chain().action_space)
    first.bind(chain().observation_space, chain().action_space)
    second.set_weights(first.get_weights())
    datasets = [optix.dataset_from_env(chain, one, window_size=8, seed=0) for one in (first, second)]
    first.fit(datasets[0], epochs=1, steps_per_epoch=3, verbose=0)
    windows = iter(datasets[1])
    for _ in range(3):
        second.train_on_batch(next(windows))
    for ours, theirs in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"tau": 0.1, "target_update_interval": 10}, "either copied"),
        ({"dueling": True}, "default network"),
        ({"learning_starts": 2000}, "more than the replay buffer holds"),
        ({"gradient_steps_per_env_step": 0.0}, "gradient_steps_per_env_step"),
        ({"n_step": 0}, "n_step"),
        ({"batch_size": 0}, "batch_size"),
        ({"buffer_size": 1}, "buffer_size"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        small(**wrong)


def test_a_network_that_cannot_be_copied_is_refused_when_the_agent_is_bound() -> None:
    class Own(keras.Model):
        def __init__(self, units: int, secret: object) -> None:
            super().__init__()
            self.dense = keras.layers.Dense(units)
            self.secret = secret

        def call(self, inputs: Any) -> Any:
            return self.dense(inputs)

    agent = optix.DQNAgent(Own(2, object()))
    with pytest.raises(NetworkError, match="cannot be copied"):
        agent.bind(OBSERVATIONS, gymnasium.spaces.Discrete(2))


@pytest.mark.parametrize("compiled", [False, True])
def test_the_effective_step_size_is_what_the_last_gradient_step_moved_over_the_errors(compiled: bool) -> None:
    agent = small()
    batch = next(iter(optix.dataset_from_env(chain, agent, window_size=4, num_envs=3, seed=0)))
    batch = agent.replay_tensors(batch, agent._window_of(batch.window))._replace(gradient_steps=tf.constant(3))
    found: list[float] = []
    before = agent.get_state()
    for k in range(3):
        transitions = agent._transitions(batch, k)
        predicted = np.asarray(agent.predictions(transitions))
        _, errors = agent.gradient_step(transitions, tf.constant([0, 0]))
        found.append(float(np.abs(agent.predictions(transitions) - predicted).mean() / np.mean(errors)))
    agent.set_state(before)
    step = tf.function(agent.train_step, autograph=False) if compiled else agent.train_step
    assert float(step(batch)["effective_step_size"]) == pytest.approx(found[2], rel=1e-4)
    assert found[1] != pytest.approx(found[2], rel=1e-3)
    assert float(step(batch._replace(gradient_steps=tf.constant(0)))["effective_step_size"]) == 0.0
