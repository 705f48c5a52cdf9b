"""Whether a second environment may be made of one that exists."""

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
    """Why no second environment like `env` is made; empty if one may be.

    What was given as an object exists, and may be a robot, a connection or something that was changed since. A second
    one is made only from an id of Gymnasium's registry that stands for its class, of wrappers that keep their
    arguments, where all arguments are plain data.
    """
    spec = _spec_of(env)
    if spec is None or spec.id not in gymnasium.registry:
        return "it was given as an object, and Gymnasium's registry does not know how to make another"
    made_by = _class_of(spec)
    innermost = innermost_of(env)
    if isinstance(env, gymnasium.Env) and made_by is not None and type(innermost) is not made_by:
        return f"it is a {type(innermost).__name__}, and {spec.id!r} makes a {made_by.__name__}"
    if not isinstance(env, gymnasium.Env) and innermost is not env:
        return "another one would be without the wrappers of the vector environment"
    for wrapper in spec.additional_wrappers:
        if wrapper.kwargs is None:
            return f"its wrapper {wrapper.name} does not keep its arguments (`gymnasium.utils.RecordConstructorArgs`)"
        if not is_plain(wrapper.kwargs):
            return f"an argument of its wrapper {wrapper.name} is no plain data and may belong to it alone"
    if not is_plain(spec.kwargs):
        return "an argument that it was made with is no plain data and may belong to it alone"
    return ""


def is_plain(value: Any) -> bool:
    """Whether a value may be used again for a second environment: numbers, text, arrays, spaces, functions of these.

    Not a connection, a file, a generator or another object with a life of its own.
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
    """The spec of an environment, if it is one of Gymnasium's."""
    try:
        spec = env.spec
    except Exception:  # a property of somebody else's
        return None
    return spec if isinstance(spec, EnvSpec) else None


def _class_of(spec: EnvSpec) -> type | None:
    """The class that a spec makes, if it names one and not a function."""
    entry: Any = spec.entry_point
    if isinstance(entry, str):
        try:
            entry = gymnasium.envs.registration.load_env_creator(entry)
        except (ImportError, AttributeError):
            return None
    return entry if isinstance(entry, type) else None
