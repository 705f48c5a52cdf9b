"""Running statistics against NumPy; they are saved, restored, lowered, and leave reported returns alone."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces

import keras_optix as optix
from keras_optix.agents.normalization import RewardScale, RunningMoments
from keras_optix.testing import ConstantRewardEnv, CountingEnv, RandomEnv


def test_moments_of_batches_are_those_of_all_rows() -> None:
    rng = np.random.default_rng(0)
    moments = RunningMoments((2,))
    np.testing.assert_array_equal(moments(np.array([[3.0, -4.0]])), [[3.0, -4.0]])
    rows = [rng.normal(5.0, 3.0, (n, 2)).astype(np.float32) for n in (7, 1, 40, 16)]
    weights = [(rng.random(len(batch)) > 0.3).astype(np.float32) for batch in rows]
    weights[1][:] = 0.0  # a batch in which nothing counts
    for batch, weight in zip(rows, weights, strict=True):
        moments.update(batch, weight)
    kept = np.concatenate([batch[weight > 0] for batch, weight in zip(rows, weights, strict=True)])
    np.testing.assert_allclose(moments.mean, kept.mean(0), rtol=1e-4)
    np.testing.assert_allclose(moments.variance, kept.var(0), rtol=1e-4)
    assert float(moments.count) == len(kept)
    np.testing.assert_allclose(moments(kept).numpy().std(0), 1.0, rtol=1e-3)


def test_values_far_out_are_clipped() -> None:
    moments = RunningMoments((1,))
    moments.update(np.array([[-1.0], [1.0]], np.float32), np.ones(2, np.float32))
    np.testing.assert_allclose(moments(np.array([[1e6], [-1e6]], np.float32)), [[10.0], [-10.0]])


def test_rewards_are_divided_by_the_deviation_of_the_discounted_return() -> None:
    """Against the loop of VecNormalize, over windows and across episode ends."""
    rng = np.random.default_rng(0)
    gamma, n = 0.9, 3
    scale = RewardScale()
    scale.prepare(n)
    running = np.zeros(n)
    seen: list[float] = []
    for _ in range(4):
        rewards = rng.normal(1.0, 2.0, (8, n)).astype(np.float32)
        done = rng.random((8, n)) < 0.2
        valid = np.ones((8, n), bool)
        for t in range(8):
            running = gamma * running + rewards[t]
            seen += running.tolist()
            running[done[t]] = 0.0
        scaled = scale(tf.constant(rewards), tf.constant(done), tf.constant(valid), tf.constant(gamma))
        expected = np.clip(rewards / np.sqrt(np.var(seen) + 1e-8), -10, 10)
        np.testing.assert_allclose(scaled, expected, rtol=1e-3)


def test_rows_that_are_no_transition_do_not_count() -> None:
    scale = RewardScale()
    scale.prepare(1)
    rewards = tf.constant([[1.0], [2.0], [0.0], [3.0]])
    done = tf.constant([[False], [True], [False], [False]])
    valid = tf.constant([[True], [True], [False], [True]])
    scale(rewards, done, valid, tf.constant(0.5))
    assert float(scale.moments.variance) == pytest.approx(np.var([1.0, 2.5, 3.0]), rel=1e-4)


def running_return(scale: RewardScale, num_envs: int) -> np.ndarray:
    return scale.save()[str(num_envs)]


@pytest.mark.parametrize("padding", ["none", "tail", "anywhere"])
def test_rows_that_are_no_transition_take_no_time(padding: str) -> None:
    """Against a loop over the valid rows only; the others hold garbage, and one window has nothing else."""
    rng = np.random.default_rng(0)
    gamma, steps, n = 0.9, 12, 3
    scale = RewardScale()
    scale.prepare(n)
    running = np.zeros(n)
    seen: list[float] = []
    for lengths in ([5, 1, 12], [0, 0, 0], [12, 7, 0], [3, 12, 8]):
        rewards = rng.normal(1.0, 2.0, (steps, n)).astype(np.float32)
        done = rng.random((steps, n)) < 0.2
        valid = np.ones((steps, n), bool)
        for i, length in enumerate(lengths):
            if padding == "tail":
                valid[length:, i] = False
            elif padding == "anywhere":
                valid[rng.permutation(steps)[length:], i] = False
        for t in range(steps):
            for i in np.flatnonzero(valid[t]):
                running[i] = gamma * running[i] + rewards[t, i]
                seen.append(running[i])
                running[i] *= not done[t, i]
        scaled = scale(tf.constant(rewards), tf.constant(done), tf.constant(valid), tf.constant(gamma))
        np.testing.assert_allclose(running_return(scale, n), running, rtol=1e-4, atol=1e-5)
        expected = np.where(valid, np.clip(rewards / np.sqrt(np.var(seen) + 1e-8), -10, 10), 0.0)
        np.testing.assert_allclose(scaled, expected, rtol=1e-3)
    assert float(scale.moments.count) == len(seen)
    assert float(scale.moments.mean) == pytest.approx(np.mean(seen), rel=1e-4)
    assert float(scale.moments.variance) == pytest.approx(np.var(seen), rel=1e-4)


def test_a_padded_window_leaves_the_same_running_return_as_an_unpadded_one() -> None:
    """Rewards 1, 2 and padding, then 3: by hand, R is 1, then 0.5 + 2 = 2.5, then 1.25 + 3 = 4.25."""
    gamma = tf.constant(0.5)
    cut, padded = RewardScale(), RewardScale()
    for scale, windows in ((cut, ([1.0, 2.0], [3.0])), (padded, ([1.0, 2.0, 0.0, 0.0], [0.0, 3.0, 0.0, 0.0]))):
        scale.prepare(1)
        for rewards in windows:
            column = tf.constant(rewards)[:, None]
            scale(column, tf.zeros_like(column, tf.bool), column > 0.0, gamma)
        assert running_return(scale, 1) == 4.25
        assert float(scale.moments.mean) == pytest.approx(np.mean([1.0, 2.5, 4.25]), rel=1e-5)
        assert float(scale.moments.variance) == pytest.approx(np.var([1.0, 2.5, 4.25]), rel=1e-5)


def agent_on(env: Any, **options: Any) -> tuple[optix.PPOAgent, Any]:
    agent = optix.PPOAgent(update_epochs=1, **options)
    agent.compile(optimizer="adam", jit_compile=False)
    return agent, optix.dataset_from_env(env, agent, window_size=16, num_envs=2, seed=0)


def test_statistics_are_part_of_the_model_and_of_its_actor() -> None:
    agent, dataset = agent_on(CountingEnv, normalize_observations=True, normalize_rewards=True)
    names = {v.path.split("/")[-1] for v in agent.non_trainable_variables}
    assert {"mean", "variance", "count"} <= names
    first = agent.get_state()
    agent.fit(dataset, steps_per_epoch=3, verbose=0)
    (moments,) = agent.observation_moments
    assert float(moments.count) == 96.0
    # Episode and step numbers of the counting environment: the step, 0 .. 2, has mean 1 and variance 2/3.
    np.testing.assert_allclose(moments.variance[1], 2 / 3, atol=0.05)
    trained = agent.get_state()
    observation = np.array([20.0, 2.0], np.float32)
    actor = agent.make_actor(1)
    actor.set_weights(agent.policy_params().arrays)
    log_prob = actor.act([observation[None]], actor.noise.zeros((1,)))[1][0]
    logits = agent.policy((observation[None] - moments.mean) / np.sqrt(moments.variance))
    assert log_prob == pytest.approx(float(np.max(keras.ops.log_softmax(logits))), abs=1e-4)  # LiteRT and TensorFlow
    agent.set_state(first)
    assert float(moments.count) == 0.0
    agent.set_state(trained)
    assert float(moments.count) == 96.0


def test_reported_returns_are_those_of_the_environment() -> None:
    agent, dataset = agent_on(lambda: ConstantRewardEnv(100.0, truncate_after=4), normalize_rewards=True)
    history = agent.fit(dataset, steps_per_epoch=2, verbose=0).history
    assert history["episode_return"] == [400.0]
    # Values of the scaled task: without the scale the first value loss would be of the order of 100^2.
    assert history["value_loss"][0] < 200.0


def test_categories_and_images_are_left_as_they_are() -> None:
    space = spaces.Dict(gear=spaces.Discrete(3), speed=spaces.Box(-1, 1, (2,)))
    agent, dataset = agent_on(lambda: RandomEnv(space, spaces.Discrete(2)), normalize_observations=True)
    agent.fit(dataset, steps_per_epoch=1, verbose=0)
    assert [moments.mean.shape for moments in agent.observation_moments] == [(2,)]


def test_nothing_to_normalise_is_an_error() -> None:
    with pytest.raises(
        optix.errors.SpaceError, match=r"normalize_observations.*floating-point.*Received: observation_space"
    ):
        agent_on(lambda: RandomEnv(spaces.Discrete(3), spaces.Discrete(2)), normalize_observations=True)


@pytest.mark.parametrize("algorithm", ["ppo", pytest.param("reinforce", marks=pytest.mark.slow)])
def test_the_whole_step_compiles_with_xla(algorithm: str) -> None:
    options = {"normalize_observations": True, "normalize_rewards": True}
    agent: Any = optix.PPOAgent(update_epochs=1, **options) if algorithm == "ppo" else optix.ReinforceAgent(**options)
    agent.compile(optimizer="adam", jit_compile=True)
    space = spaces.Box(-1.0, 1.0, (2,))
    env = lambda: RandomEnv(spaces.Dict(a=space, b=spaces.Discrete(3)), space)  # noqa: E731
    history = agent.fit(optix.dataset_from_env(env, agent, window_size=8), steps_per_epoch=2, verbose=0).history
    assert all(np.isfinite(values[0]) for values in history.values())
