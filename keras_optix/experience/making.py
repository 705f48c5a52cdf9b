"""Makes environments from what a user gives: an id, a spec, a factory or an environment."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import SyncVectorEnv, VectorEnv

from keras_optix.errors import ConfigurationError, describe
from keras_optix.experience.by_id import make_by_id
from keras_optix.experience.closing import close_all
from keras_optix.experience.env_kinds import check_env
from keras_optix.experience.envs import Envs, SequentialEnvs
from keras_optix.experience.second import obstacle_to
from keras_optix.experience.vector_envs import VectorEnvs

EnvLike = str | EnvSpec | gymnasium.Env | VectorEnv | Callable[[], gymnasium.Env] | Callable[[], VectorEnv]


def make_envs(
    env: EnvLike, num_envs: int, env_kwargs: Mapping[str, Any] | None = None, *, exactly: bool = True
) -> Envs:
    """Makes `num_envs` environments from an id, a spec, a factory, an environment or a vector environment.

    The environments of a plain `SyncVectorEnv` are stepped one by one, as it would do itself, with less overhead.

    Args:
        env: What to make the environments from.
        num_envs: How many environments are wanted.
        env_kwargs: Keyword arguments for `gymnasium.make` if `env` is an id or a spec.
        exactly: Whether a vector environment that a factory makes must have `num_envs` environments. Defaults to True.

    Raises:
        ConfigurationError: `env` is not one of these, cannot be made, or is one environment and several are wanted.
        SpaceError: The observation space is not supported.
    """
    check_takes_kwargs(env, env_kwargs)
    if isinstance(env, VectorEnv):
        if num_envs not in (1, env.num_envs):
            raise ConfigurationError(
                describe(
                    "`num_envs` must be left out, or be the number of the vector environment.",
                    num_envs=num_envs,
                    vector_env_num_envs=env.num_envs,
                )
            )
        if type(env) is SyncVectorEnv and env.single_observation_space == env.envs[0].observation_space:
            return SequentialEnvs(list(env.envs))
        return VectorEnvs(env)
    if isinstance(env, gymnasium.Env):
        if num_envs != 1:
            raise ConfigurationError(
                describe(
                    "One environment cannot be stepped as several.",
                    fix="Give its id or a factory, for example `lambda: gymnasium.make('CartPole-v1')`.",
                    num_envs=num_envs,
                )
            )
        return SequentialEnvs([env])
    if isinstance(env, str | EnvSpec):
        return _closing_on_error(lambda: make_by_id(env, env_kwargs or {}), num_envs)
    if callable(env):
        return _by_factory(env, num_envs, exactly)
    check_env("env", env)
    raise TypeError(f"unreachable: {env!r}")


def check_takes_kwargs(env: EnvLike, env_kwargs: Mapping[str, Any] | None) -> None:
    """Checks that keyword arguments are given only together with an id or a spec.

    Raises:
        ConfigurationError: They are given with an environment or a factory.
    """
    if env_kwargs and not isinstance(env, str | EnvSpec):
        raise ConfigurationError(
            describe(
                "`env_kwargs` goes with the id of an environment, or with its spec.",
                fix="Pass the arguments in the call that makes your environment.",
                env=type(env).__name__,
                env_kwargs=dict(env_kwargs),
            )
        )


def is_env_fn(env: EnvLike) -> bool:
    """Returns whether `env` makes environments (an id, a spec, a factory), and is not an environment itself."""
    return not isinstance(env, gymnasium.Env | VectorEnv)


def env_fn_of(env: EnvLike, env_kwargs: Mapping[str, Any] | None = None) -> Callable[[], Any] | None:
    """Returns a factory of another environment like `env`, or None if there is an obstacle (see `obstacle_to`)."""
    if isinstance(env, gymnasium.Env | VectorEnv):
        if obstacle_to(env):
            return None
        spec: Any = env.spec
        return (lambda: gymnasium.make(spec)) if isinstance(env, gymnasium.Env) else _one_of(spec)
    if isinstance(env, str | EnvSpec):
        kwargs = dict(env_kwargs or {})
        return lambda: make_by_id(env, kwargs)
    return env


def _by_factory(factory: Callable[[], Any], num_envs: int, exactly: bool) -> Envs:
    first = factory()
    if not isinstance(first, VectorEnv):
        waiting = [first]
        return _closing_on_error(lambda: _checked(waiting.pop() if waiting else factory()), num_envs)
    try:
        made = make_envs(first, num_envs if exactly else 1)
        if isinstance(made, VectorEnvs):
            made.make = factory
        return made
    except BaseException:
        close_all([first])
        raise


def _checked(made: Any) -> gymnasium.Env:
    if not isinstance(made, gymnasium.Env) or isinstance(made, VectorEnv):
        raise ConfigurationError(
            describe("The factory must return a gymnasium.Env or VectorEnv.", returned=type(made).__name__)
        )
    return made


def _closing_on_error(make: Callable[[], gymnasium.Env], num_envs: int) -> SequentialEnvs:
    made: list[gymnasium.Env] = []
    try:
        for _ in range(num_envs):
            made.append(make())
        return SequentialEnvs(made)
    except BaseException:
        close_all(made)
        raise


def _one_of(spec: EnvSpec) -> Callable[[], gymnasium.Env]:
    """Returns a factory of the single environment of which `gymnasium.make_vec` made a vector environment."""
    spec = copy.deepcopy(spec)
    kwargs, spec.kwargs = spec.kwargs, {}
    wrappers = kwargs.pop("wrappers", ())
    for name in ("num_envs", "vectorization_mode", "vector_kwargs"):
        kwargs.pop(name, None)

    def make() -> gymnasium.Env:
        env = gymnasium.make(spec, **kwargs)
        for wrapper in wrappers:
            env = wrapper(env)
        return env

    return make
