"""An agent as a config for `agent.save` and `keras.saving.load_model`, and back.

A config holds the arguments of the call that makes the agent again, including the networks that the constructor was
given. A network that the agent's own code makes, in `__init__` or `build_networks`, is made again by this code, like
the layers of a Keras model. Weights are not part of a config: Keras saves them in another part of the file.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import keras

from keras_optix.agents.networks import names_may_differ
from keras_optix.agents.own_arguments import (
    arguments_of_package,
    as_config,
    has_own_constructor,
    is_plain,
    named_arguments,
    networks_among,
    own_values,
)
from keras_optix.agents.shared_layers import shared_layers, tie
from keras_optix.errors import StateError, describe
from keras_optix.experience.spaces_json import from_json, to_json
from keras_optix.records import LEARNING_RATE, CollectionDefaults

_SPACES = ("observation_space", "action_space")
_ADDED = "added_networks"  # names of the networks in the config that were built when the agent was bound
_NETWORKS = "networks"  # names of all registered networks, including those that code makes again
_SHARED = "shared_layers"  # which layers a network shares with earlier networks
_GIVEN = "given_arguments"  # names of the arguments that the constructor of a user's own class was called with
_OWN = "own_arguments"  # names of those arguments whose values are serialised objects
_REST = "other_hyperparams"
_DISTRIBUTION = "distribution"
_COLLECTION = "collection_defaults"


def config_of(agent: Any) -> dict[str, Any]:
    """Returns the part of a config that every agent has: networks, current hyperparameters, and environment spaces.

    If the constructor has an argument of a hyperparameter's name, the config has it as this argument, so that it reads
    like the call that makes the agent. Other hyperparameters are set afterwards. The learning rate belongs to the
    optimizer.

    Args:
        agent: An `Agent`.

    Returns:
        Values for JSON.

    Raises:
        SpaceError: A space is of a kind that cannot be saved.
        StateError: An argument is not kept as an attribute, or networks share weights in a way that a config cannot
            describe.
        ConfigurationError: An argument is of a kind that Keras cannot save in a config.
    """
    cls = type(agent)
    arguments = inspect.signature(cls.__init__).parameters
    values = {name: value for name, value in agent.hyperparams.snapshot().items() if name != LEARNING_RATE}
    config: dict[str, Any] = {name: value for name, value in values.items() if name in arguments}
    config[_REST] = {name: value for name, value in values.items() if name not in arguments}
    config |= spaces_config((agent._observation_space, agent._action_space))
    if has_own_constructor(cls):
        config[_GIVEN] = sorted(agent._given)
    if agent.collection_defaults != CollectionDefaults():
        config[_COLLECTION] = asdict(agent.collection_defaults)
    if agent.distribution is not None:  # a user's own constructor may lack such an argument
        config[_DISTRIBUTION] = serialized(agent.distribution)
    return config | _networks_and_own_arguments(agent, arguments_of_package(cls) | set(values))


def _networks_and_own_arguments(agent: Any, known: frozenset[str]) -> dict[str, Any]:
    """Returns the part of a config with the networks and the arguments that only a user's own constructor takes."""
    registered = agent._registered
    roles = {role: vars(agent)[role] for role in agent.network_roles if role in vars(agent)}
    # A network that a user's own constructor passes to the package's, without taking it as an argument, it makes again.
    roles = {role: one for role, one in roles.items() if _takes(agent, role) or role in registered.while_binding}
    own = own_values(agent, agent._given, known)
    networks = {name: one for name, one in (roles | own).items() if isinstance(one, keras.Model)}
    objects = {name: value for name, value in own.items() if not is_plain(value)}
    inside = networks_among({name: value for name, value in objects.items() if name not in networks})
    shared = shared_layers(networks | inside)
    untied = [name for name in inside if name in shared]
    if untied:
        problem = "Networks in a list, tuple or dict share layers with other networks, which no config can describe."
        fix = "Give each network as a separate argument."
        raise StateError(describe(problem, fix=fix, networks=untied))
    return {
        **{name: serialized(one) for name, one in roles.items()},
        **as_config(agent, own),
        _OWN: list(objects),
        _SHARED: shared,
        # A network that the constructor is given is registered by its own code, even if only when the agent is bound.
        _ADDED: [name for name in registered.while_binding if name in networks and name not in agent._given],
        _NETWORKS: list(registered.names),
    }


def _takes(agent: Any, name: str) -> bool:
    """Returns whether the call that makes an agent again has this argument of the package's agents."""
    cls = type(agent)
    return not has_own_constructor(cls) or name in agent._given or name in named_arguments(cls, agent._given)


def spaces_config(spaces: tuple[Any, Any]) -> dict[str, Any]:
    """Returns the part of a config that has an environment's spaces; raises the errors of `config_of`.

    Args:
        spaces: Observation and action space; each None if the agent is not bound.
    """
    known = zip(_SPACES, spaces, strict=True)
    return {name: None if space is None else to_json(space) for name, space in known}


def bind_to(agent: Any, config: Mapping[str, Any]) -> None:
    """Binds an agent to the spaces of a config, if it has them, because Keras loads only weights that exist already."""
    observations, actions = (config.get(name) for name in _SPACES)
    if observations is not None and actions is not None:
        agent.bind(from_json(observations), from_json(actions))


def serialized(part: Any) -> Any:
    """Serialises a network, a distribution or an agent; returns None for None."""
    return None if part is None else keras.saving.serialize_keras_object(part)


def agent_of(cls: Any, config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None) -> Any:
    """Makes an agent from its config, bound to its spaces.

    Args:
        cls: The agent's class.
        config: The config that its `get_config` returned.
        custom_objects: Classes by name, for networks and distributions that are not registered.

    Returns:
        The agent.

    Raises:
        StateError: A network was registered that the agent's code does not make again.
    """
    arguments = {name: value for name, value in config.items() if name not in _SPACES}
    rest, given = arguments.pop(_REST, {}), arguments.pop(_GIVEN, None)
    added, registered = arguments.pop(_ADDED, ()), arguments.pop(_NETWORKS, ())
    own, shared = arguments.pop(_OWN, ()), arguments.pop(_SHARED, {})
    collection = arguments.pop(_COLLECTION, {})
    if not isinstance(shared, Mapping):  # older files, when only policy and value could share layers
        shared = {"value": {"policy": shared}} if shared else {}
    for name in (*cls.network_roles, _DISTRIBUTION, *own):
        if isinstance(arguments.get(name), Mapping | list | tuple):
            with names_may_differ():
                arguments[name] = keras.saving.deserialize_keras_object(arguments[name], custom_objects=custom_objects)
    networks = {
        name: arguments[name] for name in (*cls.network_roles, *own) if isinstance(arguments.get(name), keras.Model)
    }
    arguments |= tie(networks, shared)
    waiting = {name: arguments.pop(name) for name in added if name in arguments}
    passed, others = _divided(cls, arguments, given)
    agent = cls(**passed)
    agent._registered.waiting = waiting
    if collection:
        agent.collection_defaults = CollectionDefaults(**collection)
    for name, value in others.items():
        _set_where_other(agent, name, value)
    agent.hyperparams.assign(rest)
    bind_to(agent, config)
    missing = [name for name in registered if name not in agent._registered]
    if missing:
        problem = f"The saved {cls.__name__} has networks that its class does not add again."
        fix = "Call `self.add_network(name, network)` in its `__init__` or `build_networks`."
        raise StateError(describe(problem, fix=fix, networks=missing))
    return agent


def _divided(cls: Any, arguments: dict[str, Any], given: list[str] | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Divides arguments into those for the constructor and those that a user's own constructor does not take."""
    if given is None or not has_own_constructor(cls):
        return arguments, {}
    named = {*named_arguments(cls, frozenset(given)), *given}
    said = {name for name in arguments if name in arguments_of_package(cls) and name not in named}
    passed = {name: value for name, value in arguments.items() if name not in said}
    return passed, {name: arguments[name] for name in said}


def _set_where_other(agent: Any, name: str, value: Any) -> None:
    """Sets an attribute whose saved value is not the one that the constructor gave it."""
    fixed = isinstance(found := getattr(type(agent), name, None), property) and found.fset is None
    if is_plain(value) and not fixed and getattr(agent, name, value) != value:
        setattr(agent, name, value)
