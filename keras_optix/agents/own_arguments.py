"""What the constructor of an agent of one's own takes beside that of the package's agents, for a config."""

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
    """The arguments of the constructors of this package's agents from which a class derives.

    Args:
        cls: The class of an agent.
    """
    names: set[str] = set()
    for base in inspect.getmro(cls):
        if is_ours(base) and issubclass(base, AgentAttributes) and "__init__" in vars(base):
            names |= {name for name in _parameters(base) if name != "kwargs"}
    return frozenset(names)


def named_arguments(cls: type[Any], given: frozenset[str]) -> dict[str, inspect.Parameter]:
    """The arguments that a class of one's own can be made with.

    Args:
        cls: The class of an agent.
        given: Names that the constructor was called with.

    Returns:
        Parameters by name: of its constructor and, where that passes on what it does not know, those of its bases that
        were given; {} of a class of this package, and of one that has no constructor of its own.
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
    """Whether the constructor of an agent is not one of this package's.

    Args:
        cls: The class of an agent.
    """
    return not is_ours(next(base for base in inspect.getmro(cls) if "__init__" in vars(base)))


def own_values(agent: Any, given: frozenset[str], known: frozenset[str]) -> dict[str, Any]:
    """The values of the arguments that only a class of one's own has: attributes of the same names.

    Args:
        agent: An `Agent`.
        given: Names that its constructor was called with.
        known: Names that the config has already.

    Returns:
        Values by name. Where `get_config` is overridden, what cannot be found is left to it, and where `from_config`
        is, all is.

    Raises:
        StateError: An argument that was given, or that has no default, is kept under no attribute of its name.
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
                f"{cls.__name__} cannot be saved: its constructor takes `{name}`, and the agent has no attribute of "
                f"that name to save. Set `self.{name} = {name}` in `__init__` (of a network: "
                f'`self.add_network("{name}", {name})`), {_OVERRIDES}.'
            )
    return values


def as_config(agent: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of arguments as they are in a config.

    Args:
        agent: The `Agent`, for messages.
        values: By name.

    Returns:
        By name; what Keras cannot say in a config is missing where `get_config` is overridden.

    Raises:
        ConfigurationError: A value is of a kind that Keras cannot say in a config.
    """
    config = {}
    for name, value in values.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # a lambda, which nobody could load
                config[name] = keras.saving.serialize_keras_object(value)
        except (TypeError, ValueError, NotImplementedError, AttributeError, Warning) as error:
            if _overrides(type(agent), "get_config"):
                continue
            problem = f"{type(agent).__name__} cannot be saved: Keras cannot save its argument `{name}`."
            fix = f"Give its class a `get_config`, {_OVERRIDES}."
            raise ConfigurationError(describe(problem, fix=fix, **{name: value})) from error
    return config


def networks_among(values: Mapping[str, Any]) -> dict[str, Any]:
    """The networks among values of arguments, and those in lists, tuples and dicts of them, by where they are.

    Args:
        values: By name.
    """
    found = {}
    for name, value in values.items():
        for path, part in _flat(name, value):
            if isinstance(part, keras.Model):
                found[path] = part
    return found


def is_plain(value: Any) -> bool:
    """Whether a value is in a config as it is."""
    return isinstance(value, bool | int | float | str | np.generic | None)


def _flat(path: str, value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return [leaf for key, part in value.items() for leaf in _flat(f"{path}[{key!r}]", part)]
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [leaf for k, part in enumerate(value) for leaf in _flat(f"{path}[{k}]", part)]
    return [(path, value)]


def _overrides(cls: type[Any], method: str) -> bool:
    """Whether a class of one's own has a method in the place of the package's."""
    return not is_ours(next(base for base in inspect.getmro(cls) if method in vars(base)))


def _parameters(base: type[Any]) -> dict[str, inspect.Parameter]:
    """The parameters of a constructor, without `self`."""
    constructor: Any = vars(base)["__init__"]
    return dict(list(inspect.signature(constructor).parameters.items())[1:])
