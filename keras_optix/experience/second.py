"""Decides whether a second environment may be made that is like an existing one."""

from __future__ import annotations

import dataclasses
import enum
import functools
import os
import types
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import VectorEnv

from keras_optix.experience.usage import innermost_of

_PLAIN = (
    type,
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    range,
    slice,
    enum.Enum,
    os.PathLike,
    np.generic,
    np.dtype,
    np.ufunc,
    spaces.Space,
)


def obstacle_to(env: gymnasium.Env | VectorEnv) -> str:
    """Returns the reason why no second environment like `env` is made, or an empty string if one may be made.

    An environment that was given as an object may be a robot, a connection, or may have been changed since it was made.
    A second one is made only if the id in its spec is registered in Gymnasium and makes its class, if its wrappers keep
    their arguments, and if all arguments are plain data.
    """
    spec = _spec_of(env)
    if spec is None or spec.id not in gymnasium.registry:
        return "it was given as an object, and Gymnasium's registry does not know how to make another"
    made_by = _class_of(spec)
    innermost = innermost_of(env)
    if isinstance(env, gymnasium.Env) and made_by is not None and type(innermost) is not made_by:
        return f"it is a {type(innermost).__name__}, but {spec.id!r} makes a {made_by.__name__}"
    if not isinstance(env, gymnasium.Env) and innermost is not env:
        return "another one would be without the wrappers of the vector environment"
    for wrapper in spec.additional_wrappers:
        if wrapper.kwargs is None:
            return f"its wrapper {wrapper.name} does not keep its arguments (`gymnasium.utils.RecordConstructorArgs`)"
        if not is_plain(wrapper.kwargs):
            return f"an argument of its wrapper {wrapper.name} is not plain data, so it may not be shared"
    if not is_plain(spec.kwargs):
        return "an argument that it was made with is not plain data, so it may not be shared"
    return ""


def is_plain(value: Any) -> bool:
    """Returns whether a value may also be used for a second environment.

    Numbers, text, arrays, spaces, and functions that use only these may. A connection, a file, a generator or any other
    object with a state may not.
    """
    if value is None or isinstance(value, _PLAIN):
        return True
    if isinstance(value, np.ndarray):
        return not value.dtype.hasobject
    if isinstance(value, Mapping):
        return is_plain(list(value.keys())) and is_plain(list(value.values()))
    if isinstance(value, list | tuple | set | frozenset):
        return all(is_plain(item) for item in value)
    if isinstance(value, functools.partial):
        return is_plain([value.func, value.args, value.keywords])
    if isinstance(value, types.BuiltinFunctionType):
        return value.__self__ is None or isinstance(value.__self__, types.ModuleType)
    if isinstance(value, types.FunctionType):
        kept = [cell.cell_contents for cell in value.__closure__ or ()]
        return is_plain([kept, value.__defaults__, value.__kwdefaults__])
    if dataclasses.is_dataclass(value):
        return is_plain(list(vars(value).values()))
    return False


def _spec_of(env: Any) -> EnvSpec | None:
    """Returns the spec of an environment if it is a Gymnasium spec, else None."""
    try:
        spec = env.spec
    except Exception:  # a user's class may define `spec` as a property that raises
        return None
    return spec if isinstance(spec, EnvSpec) else None


def _class_of(spec: EnvSpec) -> type | None:
    """Returns the class that a spec makes, or None if its entry point is a function or cannot be imported."""
    entry: Any = spec.entry_point
    if isinstance(entry, str):
        try:
            entry = gymnasium.envs.registration.load_env_creator(entry)
        except (ImportError, AttributeError):
            return None
    return entry if isinstance(entry, type) else None
