"""The dataset that `fit` consumes: an endless `tf.data.Dataset` of windows."""

from __future__ import annotations

import weakref
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from keras_optix.errors import ConfigurationError, describe
from keras_optix.experience.collector import Collector, PolicyPublisher
from keras_optix.experience.envs import EnvLike, is_recipe, make_envs, recipe_of
from keras_optix.experience.spaces import observation_layout
from keras_optix.experience.window import Window
from keras_optix.validation import check_int


class Learner(PolicyPublisher, Protocol):
    """What a dataset of windows is made for: an agent."""

    def bind(self, observation_space: Any, action_space: Any) -> None:
        """Fits the agent to the spaces, or raises."""
        ...

    def attach_source(self, source: Collector) -> None:
        """Tells the agent where its windows come from."""
        ...


def dataset_from_env(
    env: EnvLike,
    agent: Learner,
    *,
    window_size: int = 200,
    num_envs: int = 1,
    seed: int | None = None,
    deterministic: bool = False,
    prefetch: int = 0,
) -> tf.data.Dataset:
    """Makes an endless dataset of windows of experience, collected with the agent's current weights.

    Each element is a `Window` of ``[T, N, ...]`` arrays. Stepping is continuous: an environment is reset only when its
    episode ends, also across epochs and across calls of `fit`. The window that `train_step` gets was collected by the
    weights that it is about to update (lag 0).

    Args:
        env: A Gymnasium id, a `gymnasium.Env`, a `gymnasium.vector.VectorEnv` or a factory of an `Env`.
        agent: Gives the policy. It is bound to the environment's spaces here, and checked against them; compiling it
            may come before or after.
        window_size: `T`, environment steps of each environment in a window. Defaults to 200.
        num_envs: `N`, environments. Left out for a `VectorEnv`, which says it itself. Defaults to 1.
        seed: Seeds the environments (environment i with ``seed + i``), the actions and the learner's shuffling.
        deterministic: Take the most likely action instead of sampling: for `validation_data`.
        prefetch: Must be 0: windows are collected when they are asked for.

    Returns:
        The dataset.

    Raises:
        ConfigurationError: An argument is invalid.
        SpaceError: The agent's networks do not fit the environment's spaces.

    Example:
        >>> agent = optix.PPOAgent()
        >>> dataset = optix.dataset_from_env("CartPole-v1", agent, window_size=32, num_envs=8)
        >>> next(iter(dataset)).observations.shape
        TensorShape([32, 8, 4])
    """
    check_int("window_size", window_size, minimum=1)
    check_int("num_envs", num_envs, minimum=1)
    if seed is not None:
        check_int("seed", seed, minimum=0)
    if prefetch != 0:
        raise ConfigurationError(
            describe(
                "`prefetch` must be 0: collecting ahead of training is not supported yet.",
                fix="Leave it out.",
                prefetch=prefetch,
            )
        )
    made_here = is_recipe(env)
    envs = make_envs(env, num_envs)
    try:
        agent.bind(envs.observation_space, envs.action_space)
        collector = Collector(
            envs,
            agent,
            window_size=window_size,
            seed=seed,
            deterministic=deterministic,
            recipe=recipe_of(env),
        )
    except BaseException:
        if made_here:
            envs.close()
        raise
    if made_here:
        weakref.finalize(collector, envs.close)
    agent.attach_source(collector)
    return _dataset_of(collector)


def _dataset_of(collector: Collector) -> tf.data.Dataset:
    shape, dtype = observation_layout(collector.envs.observation_space)
    rows = (collector.window_size, collector.num_envs)
    spec = Window(
        observations=tf.TensorSpec(rows + shape, dtype),
        actions=tf.TensorSpec(rows, tf.int64),
        rewards=tf.TensorSpec(rows, tf.float32),
        terminated=tf.TensorSpec(rows, tf.bool),
        truncated=tf.TensorSpec(rows, tf.bool),
        valid=tf.TensorSpec(rows, tf.bool),
        next_observations=tf.TensorSpec(rows + shape, dtype),
        log_probs=tf.TensorSpec(rows, tf.float32),
        seed=tf.TensorSpec((2,), tf.int32),
        window_id=tf.TensorSpec((), tf.int64),
        policy_version=tf.TensorSpec((), tf.int64),
        episode_return=tf.TensorSpec((), tf.float32),
        episode_length=tf.TensorSpec((), tf.float32),
    )

    def collect(_: np.ndarray) -> list[np.ndarray]:
        return list(collector.collect().window)

    def window(counter: Any) -> Window:
        tensors = tf.numpy_function(collect, [counter], [field.dtype for field in spec])
        for tensor, field in zip(tensors, spec, strict=True):
            tensor.set_shape(field.shape)
        return Window(*tensors)

    options = tf.data.Options()
    # Autotuning injects a prefetch: windows would come 0 to 4 updates stale, and the process could hang at exit.
    options.autotune.enabled = False
    return tf.data.Dataset.counter().map(window).with_options(options)
