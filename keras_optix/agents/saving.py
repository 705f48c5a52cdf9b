"""An agent as a config for `agent.save` and `keras.saving.load_model`, and back."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import keras

from keras_optix.agents.networks import names_may_differ
from keras_optix.agents.shared_layers import tie
from keras_optix.experience.spaces_json import from_json, to_json
from keras_optix.records import LEARNING_RATE

_SPACES = ("observation_space", "action_space")
ADDED = "added_networks"  # names of the networks that were not given to the constructor
SHARED = "shared_layers"  # names of the layers that the value network has in common with the policy
DISTRIBUTION = "distribution"
_REST = "other_hyperparams"
_OBJECTS = ("policy", "value", DISTRIBUTION)  # arguments that are configs of their own


def config_of(cls: Any, hyperparams: Mapping[str, float], spaces: tuple[Any, Any]) -> dict[str, Any]:
    """What every agent's config has: its hyperparameters as they are now, and its environment's spaces.

    A hyperparameter is a constructor argument where the constructor has one of its name, so that the config reads as
    the call that makes the agent; the rest are set afterwards. The learning rate belongs to the optimizer.

    Args:
        cls: The agent's class.
        hyperparams: Values by name.
        spaces: Observation and action space; each None if the agent is not bound.

    Returns:
        Values for JSON.

    Raises:
        SpaceError: A space is of a kind that cannot be saved.
    """
    arguments = inspect.signature(cls.__init__).parameters
    values = {name: value for name, value in hyperparams.items() if name != LEARNING_RATE}
    config: dict[str, Any] = {name: value for name, value in values.items() if name in arguments}
    config[_REST] = {name: value for name, value in values.items() if name not in arguments}
    return config | spaces_config(spaces)


def spaces_config(spaces: tuple[Any, Any]) -> dict[str, Any]:
    """The part of a config that has an environment's spaces; raises as `config_of` does.

    Args:
        spaces: Observation and action space; each None if the agent is not bound.
    """
    known = zip(_SPACES, spaces, strict=True)
    return {name: None if space is None else to_json(space) for name, space in known}


def bind_to(agent: Any, config: Mapping[str, Any]) -> None:
    """Binds an agent to the spaces of a config, if it has them: Keras loads weights only into those that exist."""
    observations, actions = (config.get(name) for name in _SPACES)
    if observations is not None and actions is not None:
        agent.bind(from_json(observations), from_json(actions))


def serialized(part: Any) -> Any:
    """A network, a distribution or an agent as a config; None if there is none yet."""
    return None if part is None else keras.saving.serialize_keras_object(part)


def agent_of(cls: Any, config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None) -> Any:
    """Makes an agent of its config, bound to its spaces.

    Args:
        cls: The agent's class.
        config: What its `get_config` returned.
        custom_objects: Classes by name, for networks and distributions that are not registered.

    Returns:
        The agent.
    """
    arguments = {name: value for name, value in config.items() if name not in _SPACES}
    rest = arguments.pop(_REST, {})
    for name in _OBJECTS:
        if isinstance(arguments.get(name), Mapping):
            with names_may_differ():
                arguments[name] = keras.saving.deserialize_keras_object(arguments[name], custom_objects=custom_objects)
    shared = arguments.pop(SHARED, ())
    if shared:
        arguments["value"] = tie(arguments["value"], arguments["policy"], shared)
    added = {name: arguments.pop(name) for name in arguments.pop(ADDED, ())}
    agent = cls(**arguments)
    for name, network in added.items():
        agent.add_network(name, network)
    agent.hyperparams.assign(rest)
    bind_to(agent, config)
    return agent
