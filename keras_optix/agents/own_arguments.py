"""The constructor arguments of a user's own agent class that the package's agents do not have, for a config."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_optix.agents.attributes import AgentAttributes, is_ours
from keras_optix.errors import ConfigurationError, StateError, describe

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_OVERRIDES = "or override `get_config` (and `from_config`) to say how it is saved"


def arguments_of_package(cls: type[Any]) -> frozenset[str]:
    """Returns the constructor arguments of this package's agents from which a class derives.

    Args:
        cls: The class of an agent.
    """
    names: set[str] = set()
    for base in inspect.getmro(cls):
        if is_ours(base) and issubclass(base, AgentAttributes) and "__init__" in vars(base):
            names |= {name for name in _parameters(base) if name != "kwargs"}
    return frozenset(names)


def named_arguments(cls: type[Any], given: frozenset[str]) -> dict[str, inspect.Parameter]:
    """Returns the arguments that an object of a user's own class can be made with.

    Args:
        cls: The class of an agent.
        given: Names of the arguments that the constructor was called with.

    Returns:
        Parameters by name: those of its constructor and, if that has `**kwargs`, those of its base classes that were
        given. {} for a class of this package, and for a class without a constructor of its own.
    """
    found: dict[str, inspect.Parameter] = {}
    passes_on = False
    for base in inspect.getmro(cls):
        if "__init__" not in vars(base):
            continue
        if is_ours(base):
            break
        for name, parameter in _parameters(base).items():
            if parameter.kind in _NAMED and (not passes_on or name in given):
                found.setdefault(name, parameter)
        passes_on = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in _parameters(base).values())
        if not passes_on:
            break
    return found


def has_own_constructor(cls: type[Any]) -> bool:
    """Returns whether the constructor of an agent is a user's own and not one of this package.

    Args:
        cls: The class of an agent.
    """
    return not is_ours(next(base for base in inspect.getmro(cls) if "__init__" in vars(base)))


def own_values(agent: Any, given: frozenset[str], known: frozenset[str]) -> dict[str, Any]:
    """Reads the values of the arguments that only a user's own class has, from attributes of the same names.

    Args:
        agent: An `Agent`.
        given: Names of the arguments that its constructor was called with.
        known: Names that the config has already.

    Returns:
        Values by name. If the class overrides `get_config`, values that cannot be found are left to it. If the class
        overrides `from_config`, all values are left to it.

    Raises:
        StateError: An argument that was given, or that has no default, is not kept as an attribute of its name.
    """
    cls = type(agent)
    if _overrides(cls, "from_config"):
        return {}
    lenient = _overrides(cls, "get_config")
    values = {}
    for name, parameter in named_arguments(cls, given).items():
        if name in known:
            continue
        if name in vars(agent) or hasattr(cls, name):
            values[name] = getattr(agent, name)
        elif not lenient and (name in given or parameter.default is inspect.Parameter.empty):
            raise StateError(
                f"{cls.__name__} cannot be saved: its constructor takes `{name}`, but the agent has no attribute of "
                f"that name to save. Set `self.{name} = {name}` in `__init__` (for a network: "
                f'`self.add_network("{name}", {name})`), {_OVERRIDES}.'
            )
    return values


def as_config(agent: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Serialises the values of arguments for a config.

    Args:
        agent: The `Agent`, for messages.
        values: Values by name.

    Returns:
        Serialised values by name. If the class overrides `get_config`, values that Keras cannot save are left out.

    Raises:
        ConfigurationError: A value is of a kind that Keras cannot save in a config.
    """
    config = {}
    for name, value in values.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # Keras only warns about a lambda, which could not be loaded
                config[name] = keras.saving.serialize_keras_object(value)
        except (TypeError, ValueError, NotImplementedError, AttributeError, Warning) as error:
            if _overrides(type(agent), "get_config"):
                continue
            problem = f"{type(agent).__name__} cannot be saved: Keras cannot save its argument `{name}`."
            fix = f"Give its class a `get_config`, {_OVERRIDES}."
            raise ConfigurationError(describe(problem, fix=fix, **{name: value})) from error
    return config


def networks_among(values: Mapping[str, Any]) -> dict[str, Any]:
    """Finds the networks among values of arguments, also inside lists, tuples and dicts, by their path.

    Args:
        values: Values by name.
    """
    found = {}
    for name, value in values.items():
        for path, part in _flat(name, value):
            if isinstance(part, keras.Model):
                found[path] = part
    return found


def is_plain(value: Any) -> bool:
    """Returns whether a config can hold a value unchanged."""
    return isinstance(value, bool | int | float | str | np.generic | None)


def _flat(path: str, value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return [leaf for key, part in value.items() for leaf in _flat(f"{path}[{key!r}]", part)]
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [leaf for k, part in enumerate(value) for leaf in _flat(f"{path}[{k}]", part)]
    return [(path, value)]


def _overrides(cls: type[Any], method: str) -> bool:
    """Returns whether a user's own class overrides a method of the package."""
    return not is_ours(next(base for base in inspect.getmro(cls) if method in vars(base)))


def _parameters(base: type[Any]) -> dict[str, inspect.Parameter]:
    """Returns the parameters of a constructor, without `self`."""
    constructor: Any = vars(base)["__init__"]
    return dict(list(inspect.signature(constructor).parameters.items())[1:])
