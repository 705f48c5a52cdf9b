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
from keras_optix.experience.making import EnvLike, env_fn_of, is_env_fn
from keras_optix.experience.observations import ObservationLayout
from keras_optix.experience.second import obstacle_to
from keras_optix.experience.source import PolicyOwner, WindowSource
from keras_optix.experience.transformations import marked, note_as_made
from keras_optix.experience.vector_envs import VectorEnvs
from keras_optix.experience.vectorization import VECTORIZATIONS, make_several
from keras_optix.experience.window import Window
from keras_optix.records import CollectionDefaults
from keras_optix.validation import check_agent, check_bool, check_choice, check_float, check_int, check_seed


class Learner(PolicyOwner, Protocol):
    """The part of an agent that a dataset of windows uses."""

    def bind(self, observation_space: Any, action_space: Any) -> None:
        """Fits the agent to the spaces of an environment, or raises an error if its networks do not fit."""
        ...

    def attach_source(self, source: WindowSource) -> None:
        """Tells the agent where its windows come from."""
        ...


@names_checked
def dataset_from_env(
    env: EnvLike,
    agent: Learner,
    *,
    window_size: int | None = None,
    num_envs: int | None = None,
    seed: int | None = None,
    deterministic: bool = False,
    prefetch: int = 0,
    env_kwargs: Mapping[str, Any] | None = None,
    check_bounds: bool = True,
    env_timeout: float | None = None,
    restarts: int = 0,
    vectorization: str = "auto",
) -> tf.data.Dataset:
    """Makes an endless dataset of windows of experience, collected with the agent's current weights.

    Each element is a `Window` of ``[T, N, ...]`` arrays. Stepping is continuous: an environment is reset only when its
    episode ends, even across epochs and across calls of `fit`. The window that `train_step` gets was collected with the
    weights that it is about to update (lag 0), or with ``prefetch=1`` with the weights one update before.

    If `env` is an id or a factory, its environments are stepped in this process, one after the other, or by the vector
    environment that is registered for the id (see `vectorization`). A vector environment of your own (`AsyncVectorEnv`,
    a simulator) works in each of Gymnasium's autoreset modes. With next-step autoreset, rows in which an environment
    only resets are marked as False in `Window.valid` and are ignored.

    Equal seeds give equal windows and equal training, bit by bit, on the same machine with the same versions of the
    libraries and the same number of threads. They do not if the environment has randomness of its own (an unseeded
    generator, a physics engine with threads, a real device) or on a GPU.

    Args:
        env: A Gymnasium id or spec, a `gymnasium.Env`, a `gymnasium.vector.VectorEnv` or a factory of an `Env`.
        agent: The agent whose policy acts. This call binds it to the environment's spaces and checks that its networks
            fit them. The agent may be compiled before or after this call.
        window_size: `T`, environment steps of each environment in a window. None, the default, takes the number of
            the agent, ``agent.collection_defaults.window_size``: 200, unless a preset or `make_agent` chose another.
        num_envs: `N`, the number of environments. Leave it out for a `VectorEnv`, which has a number of its own. None,
            the default, takes the number of the agent, ``agent.collection_defaults.num_envs``: 1, unless a preset or
            `make_agent` chose another. An environment that is given as an object is stepped alone in any case.
        seed: Seeds the environments (environment i with ``seed + i``), the actions and the learner's shuffling.
        deterministic: Take the most likely action instead of sampling: for `validation_data`. `episode_return` then
            describes the current weights only: it is the mean over the episodes that began and ended with them, and NaN
            until there is one. So give a validation enough steps for whole episodes. Environments that are made here
            copy the running statistics (`NormalizeObservation`) of those that the agent trains on.
        prefetch: 1 collects the next window in a thread while the current one trains. The weights that collect it are
            one update older (`policy_lag` in the logs); PPO's and REINFORCE's losses correct for this with the stored
            log-probabilities. Defaults to 0.
        env_kwargs: Keyword arguments for `gymnasium.make` if `env` is an id or a spec, such as
            ``{"render_mode": "rgb_array"}``.
        check_bounds: Whether a value outside the bounds of a Box observation space is an error. NaN and a category
            that does not exist are errors in any case. Defaults to True.
        env_timeout: Seconds after which a call of `step` or `reset` that has not returned raises an `EnvTimeoutError`,
            which names the environment and the method; evaluations in other environments are not watched. None, the
            default, waits. In either case `fit` and `evaluate` hear Ctrl-C within
            a second, and an environment that still does not return is given up. Code that blocks without releasing
            Python's global lock stops the whole process, and no timeout helps; run such environments in processes,
            with ``vectorization="async"``.
        restarts: How often the processes of a vector environment are started again after one of them has died, or has
            not answered within `env_timeout`. Its running episodes are then cut off and not counted, and its window
            begins again. If it happens more often, an `EnvWorkerError` is raised. It needs ``vectorization="async"``,
            or as `env` a factory of an `AsyncVectorEnv`. Defaults to 0.
        vectorization: How several environments are stepped that are made here, in Gymnasium's words. ``"sync"``: one by
            one, in this process. ``"async"``: each in a process, for environments of which a step takes longer than a
            tenth of a millisecond; one that ends an episode is reset in the same step. ``"vector_entry_point"``: by the
            vector environment that is registered for the id, as CartPole-v1 has one. ``"auto"``, the default, takes the
            latter from eight environments on, unless the single environments can be saved (`SavableEnv`), have wrappers
            that it lacks, or are rendered; else ``"sync"``. A note in the log says so.

    Returns:
        The dataset.

    Raises:
        ConfigurationError: An argument is invalid, or the environment cannot be made. If a package is missing, the
            message says what to install.
        SpaceError: A space is not supported, or the agent's networks do not fit the environment's spaces.

    The dataset itself raises an `EnvTimeoutError` and an `EnvWorkerError`, see `env_timeout` and `restarts`.

    Examples:
        >>> agent = optix.PPOAgent()
        >>> dataset = optix.dataset_from_env("CartPole-v1", agent, window_size=32, num_envs=8)
        >>> next(iter(dataset)).observations.shape
        TensorShape([32, 8, 4])
    """
    check_env("env", env, swapped="The arguments are swapped: dataset_from_env(env, agent).")
    check_agent("agent", agent, "bind", "attach_source", fix=f"Such as dataset_from_env({_named(env)}, PPOAgent()).")
    defaults = getattr(agent, "collection_defaults", CollectionDefaults())
    window_size = defaults.window_size if window_size is None else check_int("window_size", window_size, minimum=1)
    # A default must not contradict an environment, or a vector environment, that exists already.
    number = (defaults.num_envs if is_env_fn(env) else 1) if num_envs is None else num_envs
    check_int("num_envs", number, minimum=1)
    seed = check_seed("seed", seed)
    env_kwargs = check_env_kwargs(env_kwargs)
    deterministic, check_bounds = check_bool("deterministic", deterministic), check_bool("check_bounds", check_bounds)
    if env_timeout is not None:
        env_timeout = check_float("env_timeout", env_timeout, low=0.0, low_open=True)
    restarts = check_int("restarts", restarts, minimum=0)
    vectorization = check_choice("vectorization", vectorization, VECTORIZATIONS)
    if check_int("prefetch", prefetch, minimum=0) > 1:
        raise ConfigurationError(
            describe(
                "`prefetch` must be 0 or 1: windows that are collected further ahead would only be older.",
                fix="Give 1, or 0 for windows that are collected with the current weights.",
                prefetch=prefetch,
            )
        )
    made_here = is_env_fn(env)
    envs, notice = make_several(env, number, env_kwargs, vectorization, exactly=num_envs is not None)
    try:
        if restarts and not (isinstance(envs, VectorEnvs) and envs.remakable):
            problem = "`restarts` needs environments that run in processes, and are made here."
            fix = "Give vectorization='async', a factory of a gymnasium.vector.AsyncVectorEnv, or leave it out."
            raise ConfigurationError(describe(problem, fix=fix, restarts=restarts, env=env))
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
            env_timeout=env_timeout,
            restarts=restarts,
            notice=notice,
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
    """Describes the elements of a dataset: returns a `Window` of `tf.TensorSpec`.

    Args:
        layout: The layout of the observations.
        action_space: The action space of one environment.
        window_size: `T`, the number of rows.
        num_envs: `N`, the number of environments.
        carry_specs: The arrays of the policy's carry.
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


def packed(tensors: Any, spec: Any) -> Any:
    """Packs the tensors from a `tf.numpy_function` into an element, and sets the shapes, which TensorFlow cannot know.

    Args:
        tensors: The tensors, in the order of the flattened element.
        spec: The shapes and dtypes of a `Window` or a `ReplayBatch`, see `WindowSource.spec_for_learner`.
    """
    for tensor, field in zip(tensors, tf.nest.flatten(spec), strict=True):
        tensor.set_shape(field.shape)
    return tf.nest.pack_sequence_as(spec, tensors)


def from_source(windows: tf.data.Dataset, source: WindowSource, *, endless: bool) -> tf.data.Dataset:
    """Prepares a dataset for the user: marks it with its source, and turns TensorFlow's autotuning off.

    Args:
        windows: The dataset of windows.
        source: The source of the windows. The agent keeps it, and closes it when the agent is deleted.
        endless: Whether the dataset has no end.
    """
    options = tf.data.Options()
    # Autotuning injects a prefetch: windows would be 0 to 4 updates old, and the process could hang at exit.
    options.autotune.enabled = False
    return marked(windows.with_options(options), source, endless=endless)


def _dataset_of(collector: Collector) -> tf.data.Dataset:
    envs = collector.envs
    size, carry_specs = (collector.window_size, collector.num_envs), collector.carry_specs
    spec = collector.spec_for_learner(window_spec(envs.layout, envs.action_space, *size, carry_specs))

    # TensorFlow never frees the function of a dataset that was iterated, so the function must not own the environments.
    alive = weakref.ref(collector)

    def collect(_: np.ndarray) -> list[np.ndarray]:
        source = alive()
        if source is None:
            raise StateError(
                "The agent of this dataset is gone: it was deleted, and its environments were closed. Keep a reference "
                "to the agent for as long as the dataset is used."
            )
        return list(tf.nest.flatten(source.collect_for_learner()))

    def element(anything: Any) -> Any:
        return packed(tf.numpy_function(collect, [anything], [field.dtype for field in tf.nest.flatten(spec)]), spec)

    # `Dataset.counter()` would do, but TensorFlow never frees the function in it.
    endless = tf.data.Dataset.from_tensors(tf.constant(0, tf.int64)).repeat()
    return note_as_made(from_source(endless.map(element), collector, endless=True))
