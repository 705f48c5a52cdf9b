"""Decides whether several environments are stepped one by one, as one vector environment, or in processes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, VectorEnv

from keras_optix.errors import ConfigurationError, OptixError, describe
from keras_optix.experience.by_id import make_by_id, unchecked
from keras_optix.experience.closing import close_all
from keras_optix.experience.envs import Envs
from keras_optix.experience.making import EnvLike, check_takes_kwargs, make_envs
from keras_optix.experience.savable import SavableEnv
from keras_optix.experience.vector_envs import VectorEnvs

AUTO, SYNC, ASYNC, OWN = "auto", "sync", "async", "vector_entry_point"
VECTORIZATIONS = (AUTO, SYNC, ASYNC, OWN)
# A call of a vector environment costs as much as several of a single one: for CartPole-v1 38 microseconds against 6.
_PAYS_FROM = 8


def make_several(
    env: EnvLike, num_envs: int, env_kwargs: Mapping[str, Any] | None, vectorization: str, *, exactly: bool
) -> tuple[Envs, str]:
    """Makes environments to be stepped together, see `make_envs`.

    Args:
        env: What to make the environments from.
        num_envs: How many environments are wanted.
        env_kwargs: Keyword arguments for `gymnasium.make` if `env` is an id or a spec.
        vectorization: How they are stepped. ``"sync"``: one by one, in this process. ``"async"``: each in a process.
            ``"vector_entry_point"``: by the vector environment that is registered for the id. ``"auto"``: by that one
            if there is one, and it can replace the single environments, and it pays; else one by one.
        exactly: Whether a vector environment that a factory makes must have `num_envs` environments.

    Returns:
        The environments; and, if ``"auto"`` chose something that the user may not expect, a sentence that says so.

    Raises:
        ConfigurationError: The environments cannot be made, or not in this way.
        SpaceError: The observation space is not supported.
    """
    if vectorization != AUTO:
        _check_not_made(env, vectorization)
    if vectorization == ASYNC:
        return _in_processes(env, num_envs, env_kwargs), ""
    if isinstance(env, str | EnvSpec):
        if vectorization == OWN:
            return VectorEnvs(_own_vector(env, num_envs, env_kwargs or {})), ""
        found = _better_vector(env, num_envs, env_kwargs or {}) if vectorization == AUTO else None
        if found is not None:
            named = env if isinstance(env, str) else env.id
            notice = (
                f"{named} has a vector environment of its own, which steps all {num_envs} environments in one call "
                '(vectorization="sync" steps them one by one)'
            )
            return found, notice
    elif vectorization == OWN:
        problem = '`vectorization="vector_entry_point"` goes with the id of an environment, or with its spec.'
        raise ConfigurationError(describe(problem, fix="Leave it out for a factory.", env=env))
    return make_envs(env, num_envs, env_kwargs, exactly=exactly), ""


def _check_not_made(env: EnvLike, vectorization: str) -> None:
    """Checks that there is something to make several environments from.

    Raises:
        ConfigurationError: `env` is an environment, which is stepped as it is.
    """
    if isinstance(env, gymnasium.Env | VectorEnv):
        problem = "`vectorization` says how several environments are made, but this one is made already."
        fix = "Give its id or a factory, or leave `vectorization` out."
        raise ConfigurationError(describe(problem, fix=fix, vectorization=vectorization, env=env))


def _better_vector(env: str | EnvSpec, num_envs: int, env_kwargs: Mapping[str, Any]) -> VectorEnvs | None:
    """Returns the vector environment that is registered, if it replaces the single environments; else None.

    It does not if it has other spaces or lacks their wrappers or arguments; if single environments can be saved, as a
    resumed run needs it; or if they are rendered.
    """
    spec = env if isinstance(env, EnvSpec) else gymnasium.registry.get(env)
    if num_envs < _PAYS_FROM or spec is None or spec.vector_entry_point is None or spec.additional_wrappers:
        return None
    if {**spec.kwargs, **env_kwargs}.get("render_mode") is not None:
        return None
    single = make_by_id(env, env_kwargs)
    with contextlib.closing(single):
        if isinstance(single, SavableEnv):
            return None
        try:
            vector = _own_vector(env, num_envs, env_kwargs)
        except ConfigurationError:
            return None  # it takes other arguments, or needs a package that is missing
        spaces = single.observation_space, single.action_space
        try:
            if (vector.single_observation_space, vector.single_action_space) == spaces:
                return VectorEnvs(vector)
        except OptixError:
            pass  # it does not say what it does at the end of an episode
        close_all([vector])
        return None


def _own_vector(env: str | EnvSpec, num_envs: int, env_kwargs: Mapping[str, Any]) -> VectorEnv:
    return _made(env, env_kwargs, lambda: gymnasium.make_vec(env, num_envs, OWN, **env_kwargs))


def _in_processes(env: EnvLike, num_envs: int, env_kwargs: Mapping[str, Any] | None) -> VectorEnvs:
    """Makes environments with a process each, which resets its environment in the step that ends an episode."""
    check_takes_kwargs(env, env_kwargs)
    make: Callable[[], VectorEnv]
    same_step = AutoresetMode.SAME_STEP
    if isinstance(env, str | EnvSpec):
        named, kwargs = env, dict(env_kwargs or {})
        make_by_id(named, kwargs).close()  # an error in this process is easier to read than one in the others
        options = {"autoreset_mode": same_step}
        make = lambda: _made(  # noqa: E731
            named,
            kwargs,
            lambda: gymnasium.make_vec(unchecked(named), num_envs, ASYNC, vector_kwargs=options, **kwargs),
        )
    else:
        factory: Any = env
        with contextlib.closing(factory()) as first:
            if not isinstance(first, gymnasium.Env):
                problem = '`vectorization="async"` needs a factory of a gymnasium.Env.'
                fix = "Leave it out for a factory of a vector environment, which is stepped as it is."
                raise ConfigurationError(describe(problem, fix=fix, returned=type(first).__name__))
            spec = first.spec

        def make() -> VectorEnv:
            made: VectorEnv = AsyncVectorEnv([factory] * num_envs, autoreset_mode=same_step)
            made.spec = spec
            return made

    envs = VectorEnvs(make())
    envs.make = make
    return envs


def _made(env: str | EnvSpec, env_kwargs: Mapping[str, Any], make: Callable[[], VectorEnv]) -> VectorEnv:
    """Makes a vector environment, and explains the error if that fails."""
    try:
        return make()
    except (gymnasium.error.Error, ImportError, TypeError) as error:
        problem = f"The vector environment cannot be made: {error}"
        fix = 'vectorization="sync" steps single environments one by one, "async" in processes.'
        env_id = env if isinstance(env, str) else env.id
        received: dict[str, Any] = {"env": env_id} | ({"env_kwargs": dict(env_kwargs)} if env_kwargs else {})
        raise ConfigurationError(describe(problem, fix=fix, **received)) from error
