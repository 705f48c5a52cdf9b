"""Converts what `reset` and `step` of an environment return, and raises an error if it could not be understood.

The collector uses the usual types directly (see `NUMBERS` and `FLAGS`) and calls these functions for all others. An
array of one number is converted to that number; a value that could mean two things is an error that shows the value.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from keras_optix.errors import EnvError, describe

NUMBERS = frozenset({float, int, np.float64, np.float32, np.int64, np.int32, bool, np.bool_})
FLAGS = frozenset({bool, np.bool_})

_STEP = "(observation, reward, terminated, truncated, info)"
_RESET = "(observation, info)"
_OLD_STEP = "This is the API of Gym before 0.26: wrap the environment with `shimmy.GymV21CompatibilityV0(env=env)`."
_SEVERAL = (
    "Combine several objectives into one number: `gymnasium.wrappers.TransformReward(env, lambda reward: "
    "float(weights @ reward))`."
)

Where = Callable[[], str]


def step_of(result: Any, where: Where) -> tuple[Any, Any, Any, Any, Any]:
    """Returns the five values that `step` returned.

    Raises:
        EnvError: The result is not a tuple or list of five.
    """
    if isinstance(result, tuple | list) and len(result) == 5:
        observation, reward, terminated, truncated, info = result
        return observation, reward, terminated, truncated, info
    old = isinstance(result, tuple | list) and len(result) == 4
    raise _wrong_api("step", _STEP, result, where, _OLD_STEP if old else "")


def reset_of(result: Any, where: Where, num_envs: int = 0) -> Any:
    """Returns the observation in the result of `reset`.

    Args:
        result: The result of `reset`.
        where: Names the environment, for the message.
        num_envs: The number of environments of a vector environment, whose infos may be a list; 0 for a single one.

    Raises:
        EnvError: The result is not ``(observation, info)``.
    """
    # In the old API the result is the observation alone, which may be a tuple of two; its second part is not an info.
    if isinstance(result, tuple | list) and len(result) == 2:
        observation, info = result
        if _is_info(info) or (num_envs and _are_infos(info, num_envs)):
            return observation
    raise _wrong_api("reset", _RESET, result, where, "")


def reward_of(value: Any, where: Where) -> float:
    """Returns a reward as a float; an array of one number is accepted.

    Raises:
        EnvError: The reward is not a number, or several numbers.
    """
    array = _numbers(value)
    if array is not None and array.size == 1:
        return float(array.reshape(()))
    raise EnvError(
        describe(
            f"The reward of a step must be one number, but `step` returned {_in_words(value)}.",
            fix=f"{where()}.{f' {_SEVERAL}' if array is not None and array.size > 1 else ''}",
            reward=value,
        )
    )


def flag_of(name: str, value: Any, where: Where) -> bool:
    """Returns `terminated` or `truncated` as a bool; 0, 1 and arrays of one such value are accepted.

    Raises:
        EnvError: The value is not a bool, or several.
    """
    array = _numbers(value)
    if array is not None and array.size == 1:
        number = array.reshape(())
        if number == 0 or number == 1:
            return bool(number)
    problem = f"`{name}` of a step must be True or False, but `step` returned {_in_words(value)}."
    received: dict[str, Any] = {name: value}
    raise EnvError(describe(problem, fix=f"{where()}.", **received))


def info_of(value: Any, where: Where) -> Mapping[str, Any]:
    """Returns the info of a step; None is read as an empty dict.

    Raises:
        EnvError: The info is neither a dict nor None.
    """
    if _is_info(value):
        return {} if value is None else value
    problem = f"The info of a step must be a dict, but `step` returned {_in_words(value)}."
    raise EnvError(describe(problem, fix=f"{where()}.", info=value))


def rewards_of(value: Any, num_envs: int, where: Where) -> np.ndarray:
    """Returns the rewards ``[N]`` of a step of a vector environment; ``[N, 1]`` is accepted, too.

    Raises:
        EnvError: The rewards are not one number for each environment.
    """
    if type(value) is np.ndarray and value.shape == (num_envs,) and value.dtype.kind in "fiu":
        return value  # almost every environment returns this
    array = _numbers(value)
    if array is not None and array.shape in ((num_envs,), (num_envs, 1)):
        return array.reshape(num_envs)
    raise EnvError(
        describe(
            f"The rewards of a step must be one number for each of {num_envs} environments, but `step` returned "
            f"{_in_words(value)}.",
            fix=f"{where()}.{f' {_SEVERAL}' if array is not None and array.ndim > 1 else ''}",
        )
    )


def flags_of(name: str, value: Any, num_envs: int, where: Where) -> np.ndarray:
    """Returns `terminated` or `truncated` ``[N]`` of a step of a vector environment; ``[N, 1]`` is accepted, too.

    Raises:
        EnvError: The values are not one bool (or 0 or 1) for each environment.
    """
    if type(value) is np.ndarray and value.shape == (num_envs,) and value.dtype.kind == "b":
        return value
    array = _numbers(value)
    if array is not None and array.shape in ((num_envs,), (num_envs, 1)) and ((array == 0) | (array == 1)).all():
        return array.reshape(num_envs).astype(bool)
    raise EnvError(
        describe(
            f"`{name}` of a step must be True or False for each of {num_envs} environments, but `step` returned "
            f"{_in_words(value)}.",
            fix=f"{where()}.",
        )
    )


def infos_of(value: Any, num_envs: int, where: Where) -> Any:
    """Returns the infos of a step of a vector environment: one dict, or a list with a dict for each environment.

    Raises:
        EnvError: The infos are neither.
    """
    if type(value) is dict:
        return value
    if _is_info(value):
        return {} if value is None else value
    if _are_infos(value, num_envs):
        return [{} if info is None else info for info in value]
    raise EnvError(
        describe(
            f"The infos of a step must be a dict of arrays, or a list of {num_envs} dicts, but `step` returned "
            f"{_in_words(value)}.",
            fix=f"{where()}.",
        )
    )


def final_observation(infos: Any, i: int) -> Any:
    """Returns the last observation of the episode that ended in environment `i`, or None if the infos lack it."""
    if isinstance(infos, list):
        return infos[i].get("final_obs")
    finals = infos.get("final_obs")
    return None if finals is None else finals[i]


def name_of(env: Any) -> str:
    """Names an environment, even if its own `__str__` fails (it may read the id of a spec that has none)."""
    try:
        return str(env)
    except Exception:
        return f"<{type(env).__name__}>"


def _is_info(value: Any) -> bool:
    return value is None or isinstance(value, Mapping)


def _are_infos(value: Any, num_envs: int) -> bool:
    return isinstance(value, list | tuple) and len(value) == num_envs and all(_is_info(info) for info in value)


def _numbers(value: Any) -> np.ndarray | None:
    """Returns a value as an array of booleans or real numbers, or None if it is something else."""
    if isinstance(value, numbers.Real) and not isinstance(value, int | float):
        value = float(value)  # for example a Fraction
    if value is None or isinstance(value, str | bytes):
        return None
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):
        return None
    return array if array.dtype.kind in "biuf" else None


def _in_words(value: Any) -> str:
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and shape:
        return f"an array of shape {shape} and dtype {getattr(value, 'dtype', 'unknown')}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return f"{value!r} ({type(value).__name__})"


def _wrong_api(method: str, wanted: str, result: Any, where: Where, hint: str) -> EnvError:
    returned = f"a tuple of {len(result)}" if isinstance(result, tuple) else type(result).__name__
    return EnvError(
        describe(
            f"The environment's `{method}` must return {wanted}, as in Gymnasium.",
            fix=f"{where()}.{f' {hint}' if hint else ''}",
            returned=returned,
        )
    )
