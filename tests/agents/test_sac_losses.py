"""SAC's gradient step against closed forms: targets, the three gradients, and that each variable gets only its own."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces

import keras_optix as optix
from keras_optix.agents import sac
from keras_optix.agents.critics import action_values
from keras_optix.agents.off_policy import Transitions
from keras_optix.testing import RandomEnv

VECTOR, MOVES = spaces.Box(-1.0, 1.0, (3,)), spaces.Box(-2.0, 2.0, (2,))
ROWS = 16
SEED = tf.constant([3, 4])
RATE = 0.1


def networks() -> tuple[Any, Any]:
    """A policy and a critic with one hidden layer of 8 units."""
    observation, action = keras.layers.Input((3,)), keras.layers.Input((2,))
    hidden = keras.layers.Dense(8, activation="tanh")(observation)
    policy = keras.Model(observation, keras.layers.Dense(4)(hidden))
    joined = keras.layers.Concatenate()([observation, action])
    return policy, keras.Model([observation, action], keras.layers.Dense(1)(keras.layers.Dense(8, "tanh")(joined)))


def bound(optimizer: Any = None, **options: Any) -> optix.SACAgent:
    """An agent with small networks. With SGD, each variable moves by its gradient times `RATE`."""
    keras.utils.set_random_seed(0)
    agent = optix.SACAgent(*networks(), buffer_size=100, learning_starts=0, batch_size=ROWS, **options)
    agent.compile(optimizer=optimizer or keras.optimizers.SGD(RATE), jit_compile=False)
    agent.bind(VECTOR, MOVES)
    # The slow copies begin as the critics, which would hide that one was taken for the other.
    for target in (agent.target_critic, agent.second_target_critic):
        target.set_weights(
            [weight + 0.1 * np.random.default_rng(7).normal(size=weight.shape) for weight in target.get_weights()]
        )
    return agent


def transitions(**fields: Any) -> Transitions:
    rng = np.random.default_rng(0)

    def drawn(*shape: int) -> tf.Tensor:
        return tf.constant(rng.uniform(-1.0, 1.0, (ROWS, *shape)).astype(np.float32))

    discounts = np.where(np.arange(ROWS) % 4 == 0, 0.0, 0.99).astype(np.float32)
    batch = Transitions(drawn(3), drawn(2), drawn(), tf.constant(discounts), drawn(3), tf.ones(ROWS))
    return batch._replace(**fields)


def drawn_actions(agent: optix.SACAgent, observations: Any, seed: Any) -> tuple[Any, Any]:
    """Actions and log-densities for the noise that the agent draws with a seed."""
    noise = tf.random.stateless_normal((ROWS, 2), seed)
    parameters = agent.head.parameters(observations, training=False)
    return agent.head.distribution.sample_with_log_prob(parameters, noise)


def value(critic: Any, observations: Any, actions: Any) -> np.ndarray:
    return np.asarray(critic([observations, actions]))[:, 0]


def targets_of(agent: optix.SACAgent, batch: Transitions, temperature: float, seed: Any = SEED) -> np.ndarray:
    """The targets, written out with NumPy."""
    actions, log_probs = drawn_actions(agent, batch.next_observations, seed)
    both = [value(one, batch.next_observations, actions) for one in (agent.target_critic, agent.second_target_critic)]
    soft = np.minimum(*both) - temperature * log_probs.numpy()
    return np.asarray(batch.returns.numpy() + batch.discounts.numpy() * soft)


def weights(network: Any) -> list[np.ndarray]:
    return [np.array(variable) for variable in network.trainable_variables]


def moved(network: Any, before: list[np.ndarray]) -> list[np.ndarray]:
    return [(old - new) / RATE for old, new in zip(before, weights(network), strict=True)]


@pytest.mark.parametrize("temperature", ["auto", 0.3])
def test_critics_learn_the_soft_target_of_the_smaller_slow_copy(temperature: Any) -> None:
    agent, batch = bound(temperature=temperature), transitions(weights=tf.linspace(0.1, 1.0, ROWS))
    targets = targets_of(agent, batch, 1.0 if temperature == "auto" else temperature)
    errors = [value(one, batch.observations, batch.actions) - targets for one in (agent.critic, agent.second_critic)]
    gradients = []
    for critic in (agent.critic, agent.second_critic):
        with tf.GradientTape() as tape:
            error = critic([batch.observations, batch.actions])[:, 0] - targets
            loss = 0.5 * tf.reduce_mean(batch.weights * error**2)
        gradients.append(tape.gradient(loss, [v.value for v in critic.trainable_variables]))
    before = [weights(agent.critic), weights(agent.second_critic)]
    logs, found = agent.gradient_step(batch, SEED)
    squares = sum(0.5 * np.mean(batch.weights.numpy() * error**2) for error in errors)
    np.testing.assert_allclose(logs["critic_loss"], squares, rtol=1e-4)
    np.testing.assert_allclose(found, 0.5 * sum(map(np.abs, errors)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(logs["td_error"], np.mean(found), rtol=1e-5)
    for critic, earlier, wanted in zip((agent.critic, agent.second_critic), before, gradients, strict=True):
        for one, other in zip(moved(critic, earlier), wanted, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-2, atol=1e-4)


def test_the_policy_follows_the_gradient_through_the_action() -> None:
    agent, batch = bound(), transitions()
    noise = tf.random.stateless_normal((ROWS, 2), SEED + tf.constant([0, 1]))
    with tf.GradientTape() as tape:
        outputs = agent.policy(batch.observations)
        mean, std = outputs[:, :2], tf.exp(tf.clip_by_value(outputs[:, 2:], -20.0, 2.0))
        u = mean + std * noise
        action = tf.tanh(u)
        # The definition, not the stable form that the package uses.
        log_normal = -0.5 * noise**2 - tf.math.log(std) - 0.5 * np.log(2.0 * np.pi)
        log_probs = tf.reduce_sum(log_normal - tf.math.log(1.0 - action**2), -1)
        values = tf.minimum(*[one([batch.observations, action])[:, 0] for one in (agent.critic, agent.second_critic)])
        loss = tf.reduce_mean(1.0 * log_probs - values)
    wanted = tape.gradient(loss, [v.value for v in agent.policy.trainable_variables])
    before = weights(agent.policy)
    logs, _ = agent.gradient_step(batch, SEED)
    np.testing.assert_allclose(logs["policy_loss"], loss, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(logs["entropy"], -np.mean(log_probs), rtol=1e-4)
    for one, other in zip(moved(agent.policy, before), wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("target", [None, -0.5])
def test_the_temperature_moves_by_the_difference_of_entropies(target: float | None) -> None:
    agent = bound(target_entropy=target, initial_temperature=0.5)
    logs, _ = agent.gradient_step(transitions(), SEED)
    change = -RATE * (float(logs["entropy"]) - (-2.0 if target is None else target))
    np.testing.assert_allclose(agent.log_temperature.numpy(), np.log(0.5) + change, rtol=1e-5)
    np.testing.assert_allclose(logs["temperature"], 0.5, rtol=1e-6)
    agent.hyperparams["target_entropy"] = 5.0
    before = float(agent.log_temperature.numpy())
    agent.gradient_step(transitions(), SEED)
    assert agent.log_temperature.numpy() > before, "the entropy is now below what is aimed at"


def test_a_fixed_temperature_stays_and_can_be_set() -> None:
    agent = bound(temperature=0.3)
    assert agent.log_temperature is None
    assert "target_entropy" not in agent.hyperparams
    for temperature in (0.3, 2.0):
        agent.hyperparams["temperature"] = temperature
        logs, _ = agent.gradient_step(transitions(), SEED)
        np.testing.assert_allclose(logs["temperature"], temperature, rtol=1e-6)


def test_critics_get_no_gradient_from_the_policy_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit by bit the same critics without the policy's loss. One that reaches them is the control."""

    def critics_after(values: Any) -> list[np.ndarray]:
        agent = bound(keras.optimizers.Adam(1e-2))
        if values is not None:
            monkeypatch.setattr(sac, "fixed_action_values", values)
        for _ in range(3):
            agent.gradient_step(transitions(returns=tf.zeros(ROWS), discounts=tf.zeros(ROWS)), SEED)
        return [*weights(agent.critic), *weights(agent.second_critic)]

    def through(critic: Any, head: Any, observations: Any, actions: Any) -> Any:
        return action_values(critic, head, observations, actions, training=False)

    usual = critics_after(None)
    without = critics_after(lambda critic, head, observations, actions: tf.zeros(ROWS))
    assert all(map(np.array_equal, usual, without))
    assert not all(map(np.array_equal, usual, critics_after(through)))


def test_slow_copies_follow_after_each_gradient_step() -> None:
    agent = bound(tau=0.2)
    pairs = ((agent.critic, agent.target_critic), (agent.second_critic, agent.second_target_critic))
    before = [target.get_weights() for _, target in pairs]
    agent.gradient_step(transitions(), SEED)
    for (critic, target), earlier in zip(pairs, before, strict=True):
        for new, old, weight in zip(target.get_weights(), earlier, critic.get_weights(), strict=True):
            np.testing.assert_allclose(new, old + 0.2 * (weight - old), rtol=1e-5, atol=1e-7)
    agent.hyperparams["tau"] = 1.0
    agent.gradient_step(transitions(), SEED)
    for critic, target in pairs:
        for new, weight in zip(target.get_weights(), critic.get_weights(), strict=True):
            np.testing.assert_allclose(new, weight, atol=1e-6)


def test_other_seeds_draw_other_actions() -> None:
    found = []
    for seed in (SEED, SEED, SEED + 1):
        agent = bound()
        agent.gradient_step(transitions(), seed)
        found.append(weights(agent.policy)[0])
    np.testing.assert_array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


def test_rewards_of_several_env_steps_are_discounted_and_what_terminated_has_no_value() -> None:
    """`train_step` on one batch of rows that span 1, 2 or 3 env steps; a row of three terminates."""
    agent, batch = bound(n_step=3, gamma=0.9), transitions()
    gammas = np.array([0.9, 0.81, 0.729])
    rewards = np.random.default_rng(5).normal(size=(ROWS, 3)).astype(np.float32)
    steps = np.arange(ROWS) % 3 + 1
    rewards[np.arange(3) >= steps[:, None]] = 0.0
    terminated = np.arange(ROWS) % 5 == 2
    returns = rewards @ np.array([1.0, 0.9, 0.81])
    spanned = batch._replace(
        returns=tf.constant(returns.astype(np.float32)),
        discounts=tf.constant(np.where(terminated, 0.0, gammas[steps - 1]).astype(np.float32)),
    )
    seed = tf.constant([8, 9], tf.int32)
    targets = targets_of(agent, spanned, 1.0, seed + tf.constant([1, 0]))
    errors = [value(one, batch.observations, batch.actions) - targets for one in (agent.critic, agent.second_critic)]
    window = optix.dataset_from_env(RandomEnv(VECTOR, MOVES), agent, window_size=4)
    replayed: Any = next(iter(window))
    logs = agent.train_step(
        replayed._replace(
            observations=batch.observations[None],
            actions=batch.actions[None],
            rewards=rewards[None],
            steps=tf.constant(steps[None], tf.int32),
            terminated=tf.constant(terminated[None]),
            next_observations=batch.next_observations[None],
            weights=tf.ones((1, ROWS)),
            gradient_steps=tf.constant(1),
            window=replayed.window._replace(seed=seed),
        )
    )
    np.testing.assert_allclose(logs["td_error"], np.mean(np.abs(errors)), rtol=1e-4)
    assert int(logs["gradient_steps"]) == 1
