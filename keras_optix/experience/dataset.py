"""The dataset that `fit` consumes: an endless `tf.data.Dataset` of windows."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import gymnasium
import numpy as np
import tensorflow as tf
from gymnasium.vector import VectorEnv

from keras_optix.arguments import names_checked
from keras_optix.errors import ConfigurationError, StateError, describe
from keras_optix.experience.actions import actions_for
from keras_optix.experience.carry import CarrySpec
from keras_optix.experience.collector import Collector
from keras_optix.experience.env_kinds import check_env, check_env_kwargs
from keras_optix.experience.making import EnvLike, env_fn_of, is_env_fn, make_envs
from keras_optix.experience.observations import ObservationLayout
from keras_optix.experience.second import obstacle_to
from keras_optix.experience.source import PolicyOwner, WindowSource
from keras_optix.experience.transformations import marked
from keras_optix.experience.window import Window
from keras_optix.validation import check_agent, check_bool, check_int, check_seed


class Learner(PolicyOwner, Protocol):
    """What a dataset of windows is made for: an agent."""

    def bind(self, observation_space: Any, action_space: Any) -> None:
        """Fits the agent to the spaces, or raises."""
        ...

    def attach_source(self, source: WindowSource) -> None:
        """Tells the agent where its windows come from."""
        ...


@names_checked
def dataset_from_env(
    env: EnvLike,
    agent: Learner,
    *,
    window_size: int = 200,
    num_envs: int = 1,
    seed: int | None = None,
    deterministic: bool = False,
    prefetch: int = 0,
    env_kwargs: Mapping[str, Any] | None = None,
    check_bounds: bool = True,
) -> tf.data.Dataset:
    """Makes an endless dataset of windows of experience, collected with the agent's current weights.

    Each element is a `Window` of ``[T, N, ...]`` arrays. Stepping is continuous: an environment is reset only when its
    episode ends, also across epochs and across calls of `fit`. The window that `train_step` gets was collected by the
    weights that it is about to update (lag 0), or with ``prefetch=1`` by the ones before.

    Several environments of an id or a factory are stepped in this process, one after the other. A vector environment
    of your own (`AsyncVectorEnv`, ``gymnasium.make_vec(id, n, vectorization_mode="vector_entry_point")``, a simulator)
    works in each of Gymnasium's autoreset modes; rows of next-step autoreset that are no transition are marked in
    `Window.valid` and count nowhere.

    Equal seeds give equal windows and equal training, bit by bit, on the same machine with the same versions of the
    libraries and the same number of threads. They do not where the environment has randomness of its own (an unseeded
    generator, a physics engine with threads, a real device) or on a GPU.

    Args:
        env: A Gymnasium id or spec, a `gymnasium.Env`, a `gymnasium.vector.VectorEnv` or a factory of an `Env`.
        agent: Gives the policy. It is bound to the environment's spaces here, and checked against them; compiling it
            may come before or after.
        window_size: `T`, environment steps of each environment in a window. Defaults to 200.
        num_envs: `N`, environments. Left out for a `VectorEnv`, which says it itself. Defaults to 1.
        seed: Seeds the environments (environment i with ``seed + i``), the actions and the learner's shuffling.
        deterministic: Take the most likely action instead of sampling: for `validation_data`. `episode_return` is then
            about the weights at hand: the mean of the episodes that they began and ended, NaN until there is one. So
            give a validation enough steps for whole episodes. Environments that are made here take over the running
            statistics (`NormalizeObservation`) of those that the agent trains on.
        prefetch: 1 collects the next window in a thread while the current one trains. The weights that collect it are
            one update older (`policy_lag` in the logs), which PPO's and REINFORCE's losses correct for by the stored
            log-probabilities. Defaults to 0.
        env_kwargs: Keyword arguments for the environment of an id, such as ``{"render_mode": "rgb_array"}``.
        check_bounds: Whether a value outside the bounds of a Box observation space is an error. NaN, and a category
            that does not exist, always are. Defaults to True.

    Returns:
        The dataset.

    Raises:
        ConfigurationError: An argument is invalid, or the environment cannot be made; the message says what to install.
        SpaceError: A space is not supported, or the agent's networks do not fit the environment's spaces.

    Example:
        >>> agent = optix.PPOAgent()
        >>> dataset = optix.dataset_from_env("CartPole-v1", agent, window_size=32, num_envs=8)
        >>> next(iter(dataset)).observations.shape
        TensorShape([32, 8, 4])
    """
    check_env("env", env, swapped="The arguments are swapped: dataset_from_env(env, agent).")
    check_agent("agent", agent, "bind", "attach_source", fix=f"Such as dataset_from_env({_named(env)}, PPOAgent()).")
    check_int("window_size", window_size, minimum=1)
    check_int("num_envs", num_envs, minimum=1)
    seed = check_seed("seed", seed)
    env_kwargs = check_env_kwargs(env_kwargs)
    deterministic, check_bounds = check_bool("deterministic", deterministic), check_bool("check_bounds", check_bounds)
    if check_int("prefetch", prefetch, minimum=0) > 1:
        raise ConfigurationError(
            describe("`prefetch` must be 0 or 1: windows further ahead would only be older.", prefetch=prefetch)
        )
    made_here = is_env_fn(env)
    envs = make_envs(env, num_envs, env_kwargs)
    try:
        agent.bind(envs.observation_space, envs.action_space)
        collector = Collector(
            envs,
            agent,
            window_size=window_size,
            seed=seed,
            deterministic=deterministic,
            prefetch=prefetch,
            check_bounds=check_bounds,
            env_fn=env_fn_of(env, env_kwargs),
            obstacle=obstacle_to(env) if isinstance(env, gymnasium.Env | VectorEnv) else "",
            copies_statistics=made_here and deterministic,
        )
    except BaseException:
        if made_here:
            envs.close()
        raise
    if made_here:
        weakref.finalize(collector, envs.close)
    agent.attach_source(collector)
    return _dataset_of(collector)


def _named(env: Any) -> str:
    return repr(env) if isinstance(env, str) else "env"


def window_spec(
    layout: ObservationLayout,
    action_space: Any,
    window_size: int,
    num_envs: int,
    carry_specs: Sequence[CarrySpec] = (),
) -> Window:
    """What a dataset's elements are: a `Window` of `tf.TensorSpec`.

    Args:
        layout: The observations.
        action_space: Of one environment.
        window_size: `T`.
        num_envs: `N`.
        carry_specs: The carry of the policy.
    """
    actions = actions_for(action_space)
    rows = (window_size, num_envs)
    observations = layout.pack([tf.TensorSpec(rows + leaf.shape, leaf.dtype) for leaf in layout.leaves])
    return Window(
        observations=observations,
        actions=tf.TensorSpec(rows + actions.shape, actions.dtype),
        rewards=tf.TensorSpec(rows, tf.float32),
        terminated=tf.TensorSpec(rows, tf.bool),
        truncated=tf.TensorSpec(rows, tf.bool),
        valid=tf.TensorSpec(rows, tf.bool),
        next_observations=observations,
        log_probs=tf.TensorSpec(rows, tf.float32),
        seed=tf.TensorSpec((2,), tf.int32),
        window_id=tf.TensorSpec((), tf.int64),
        policy_version=tf.TensorSpec((), tf.int64),
        episode_return=tf.TensorSpec((), tf.float32),
        episode_length=tf.TensorSpec((), tf.float32),
        begins=tf.TensorSpec(rows, tf.bool),
        carry=tuple(tf.TensorSpec((num_envs, *spec.shape), spec.dtype) for spec in carry_specs),
    )


def packed(tensors: Any, spec: Window) -> Window:
    """What a `tf.numpy_function` gave, as a window with the shapes that it forgets.

    Args:
        tensors: In the order of the flattened window.
        spec: See `window_spec`.
    """
    for tensor, field in zip(tensors, tf.nest.flatten(spec), strict=True):
        tensor.set_shape(field.shape)
    window: Window = tf.nest.pack_sequence_as(spec, tensors)
    return window


def from_source(windows: tf.data.Dataset, source: WindowSource, *, endless: bool) -> tf.data.Dataset:
    """The dataset as it is handed out: marked with its source, and without what TensorFlow would add to it.

    Args:
        windows: What it holds.
        source: Where they come from; the agent keeps it, and closes it when it goes.
        endless: Whether they have no end.
    """
    options = tf.data.Options()
    # Autotuning injects a prefetch: windows would come 0 to 4 updates stale, and the process could hang at exit.
    options.autotune.enabled = False
    return marked(windows.with_options(options), source, endless=endless)


def _dataset_of(collector: Collector) -> tf.data.Dataset:
    envs = collector.envs
    size, carry_specs = (collector.window_size, collector.num_envs), collector.carry_specs
    spec = window_spec(envs.layout, envs.action_space, *size, carry_specs)

    # TensorFlow keeps the function of a dataset that was iterated for ever; it must not keep the environments, too.
    alive = weakref.ref(collector)

    def collect(_: np.ndarray) -> list[np.ndarray]:
        source = alive()
        if source is None:
            raise StateError("The agent of this dataset is gone, and its environments with it; keep the agent.")
        return list(tf.nest.flatten(source.collect().window))

    def window(counter: Any) -> Window:
        return packed(tf.numpy_function(collect, [counter], [field.dtype for field in tf.nest.flatten(spec)]), spec)

    return from_source(tf.data.Dataset.counter().map(window), collector, endless=True)
