"""Checks that an argument is an environment, and explains what to do with things that are only similar to one."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import VectorEnv

from keras_optix.errors import ArgumentError
from keras_optix.kinds import family_of, shown
from keras_optix.validation import check_mapping, refuse_kind

_WANTED = "a Gymnasium id, an Env, a VectorEnv or a factory of one of these"
_SWAPPED = "The arguments are swapped: the environment comes where the agent was given, and the other way round."


def check_env(name: str, env: Any, *, swapped: str = _SWAPPED) -> Any:
    """Returns `env` if it is an id, a spec, an environment, a vector environment or a factory.

    Args:
        name: The name of the argument, for the message.
        env: The value that was given.
        swapped: The hint in the message if the value is an agent.

    Raises:
        ArgumentError: The value is something else, or a factory that needs arguments.
    """
    family = family_of(env if isinstance(env, type) else type(env))
    if isinstance(env, str | EnvSpec | gymnasium.Env | VectorEnv):
        return env
    if callable(env) and (
        not family or issubclass(env, gymnasium.Env | VectorEnv) if isinstance(env, type) else not family
    ):
        _check_factory(name, env)
        return env
    one = "Give the id of the environment, or a factory; dataset_from_env(..., num_envs=8) makes several from it."
    hints = {
        "an agent": swapped,
        "a policy manager": swapped,
        "a dataset": "Give the environment itself here; the dataset goes to `fit` and to `agent.evaluate`.",
        "an environment of the old package gym": "Wrap it: gymnasium.make('GymV26Environment-v0', env=env), after "
        '`pip install "shimmy[gym-v26]"`.',
        "a vector environment of Stable-Baselines3": f"{one} Or give a gymnasium.vector.AsyncVectorEnv.",
        "an environment of PettingZoo": "It has several agents; wrap it in a gymnasium.Env in which one of them is the "
        "agent.",
        "an environment of dm_env": 'Wrap it: shimmy.DmControlCompatibilityV0(env), after `pip install "shimmy"`.',
        "a list": one,
        "a tuple": one,
        "None": "Such as 'CartPole-v1'.",
        "a Keras model": "Give the model to the agent: PPOAgent(model).",
        "a space": "Give the environment that has the space.",
    }
    fix = ""
    if hasattr(env, "reset") and hasattr(env, "step"):
        fix = "It has `reset` and `step`: derive its class from gymnasium.Env, and give it the two spaces."
    refuse_kind(name, env, _WANTED, fix=fix, hints=hints)


def check_env_kwargs(env_kwargs: Any) -> Mapping[str, Any] | None:
    """Returns keyword arguments for an environment, or None if there are none.

    Raises:
        ArgumentError: They are not a mapping of names to values.
    """
    if env_kwargs is None:
        return None
    fix = 'Such as env_kwargs={"render_mode": "rgb_array"}.'
    return check_mapping("env_kwargs", env_kwargs, "a mapping of names to values, or None", fix=fix)


def _check_factory(name: str, factory: Any) -> None:
    """Checks that a factory can be called without arguments."""
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # written in C
        return
    try:
        signature.bind()
    except TypeError as error:
        made = getattr(factory, "__name__", "factory")
        call = f"lambda: {'make_env' if made == '<lambda>' else made}(...)"
        raise ArgumentError(
            f"`{name}` must be a factory that needs no arguments. Received: {name}={shown(factory)} ({error}). "
            f"Give {call}."
        ) from None
