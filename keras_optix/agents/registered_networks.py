"""The networks of an agent by name: policy, value, and those that a user's own algorithm adds."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Iterator
from typing import Any, cast

import keras

from keras_optix.agents.attributes import set_by_package
from keras_optix.agents.network_checks import check_kind
from keras_optix.errors import ConfigurationError, NetworkError, StateError, describe
from keras_optix.validation import check_bool, check_name

ROLES = ("policy", "value")  # see `Agent.network_roles`
# Entries of a saved agent's config that are not attributes, so that no other check would find that the name is taken.
_ENTRIES = frozenset(
    {"observation_space", "action_space", "added_networks", "networks", "shared_layers", "own_arguments"}
    | {"given_arguments", "other_hyperparams", "normalize_rewards"}
)
_SET_IN_FIT = frozenset({"history", "stop_training"})  # attributes that Keras sets in `fit`


class RegisteredNetworks:
    """The names of the networks that were added with `Agent.add_network`, in their order.

    It is a plain object and holds no network except those in `waiting`: Keras tracks and saves the networks as
    attributes of the agent, and a second path to them would change the layout of weights files.

    Attributes:
        names: All names, in the order in which they were registered.
        while_binding: The names that were registered while the agent was being bound to its environment.
        waiting: Networks of a saved agent by name, to be used instead of those that binding would build.
        binding: Whether the agent is being bound.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.while_binding: list[str] = []
        self.waiting: dict[str, Any] = {}
        self.binding = False

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def register(self, agent: Any, name: str, network: Any, trainable: bool) -> Any:
        """Checks a network and makes it a part of the agent; see `Agent.add_network`.

        Returns:
            The network that the agent has now: the given one, or the saved one in a loaded agent.
        """
        check_bool("trainable", trainable)
        _check_name(self, agent, name)
        network = self.waiting.pop(name, network)
        _check_network(agent, name, network)
        if not trainable:
            network.trainable = False
        # This bypasses the checks of attributes, because the name was chosen on purpose.
        keras.Model.__setattr__(agent, name, network)
        self.names.append(name)
        if self.binding:
            self.while_binding.append(name)
        return network

    def check_built(self, agent: Any) -> None:
        """Checks that all networks have their weights, once an agent knows its environment.

        Raises:
            NetworkError: A network is not built.
        """
        for name in self.names:
            network = getattr(agent, name)
            if not network.built:
                problem = (
                    f"The network `{name}` is not built, but the agent is about to be. Weights that are made later "
                    "would be missing in the optimizer and in snapshots."
                )
                fix = "Begin it with keras.layers.Input(shape), or call it once on an example in `build_networks`."
                raise NetworkError(describe(problem, fix=fix, **{name: network}))


def networks_of(agent: Any) -> Iterator[tuple[str, Any]]:
    """Yields the names and networks of an agent: those of its roles, then the others as they were registered.

    Args:
        agent: An `Agent`.
    """
    names = dict.fromkeys((*agent.network_roles, *agent._registered.names))
    for name in names:
        network = vars(agent).get(name)
        if isinstance(network, keras.Model):
            yield name, network


def _check_name(registered: RegisteredNetworks, agent: Any, name: str) -> None:
    """Checks that a network can have this name, and that a network can still be added to the agent."""
    owner = type(agent).__name__
    check_name("name", name, "the name of a network", fix='Such as add_network("predictor", network).')
    if not name.isidentifier() or name.startswith("_"):
        fix = 'Give the name of an attribute, such as "predictor".'
        problem = "A network becomes an attribute of the agent, so its name must be a valid attribute name."
        raise ConfigurationError(describe(problem, fix=fix, name=name))
    if agent.bound:
        problem = f"{owner} knows its environment already, so no optimizer would update a network that is added now."
        fix = "Register networks in `__init__` or in `build_networks(layout)` of your own agent."
        raise StateError(describe(problem, fix=fix, name=name))
    if name in registered:
        problem = f"{owner} has a network `{name}` already."
        fix = "Register each network once, under its own name. After a `bind` that failed, make a new agent."
        raise StateError(describe(problem, fix=fix, name=name))
    if name in agent.hyperparams:
        problem = f"`{name}` is a hyperparameter of {owner}."
        raise ConfigurationError(describe(problem, fix="Give the network another name.", name=name))
    if _is_taken(agent, name):
        problem = f"{owner} has an attribute or a saved entry `{name}` that is not a network."
        raise ConfigurationError(describe(problem, fix="Give the network another name.", name=name))


def _is_taken(agent: Any, name: str) -> bool:
    """Returns whether a name has another meaning already: for Keras, this package, or the class of the agent."""
    if name in agent.network_roles:
        return False
    ours = set_by_package(cast(Hashable, type(agent)))
    return name in _ENTRIES | _SET_IN_FIT or name in _keras_names() or name in ours or hasattr(type(agent), name)


@functools.cache
def _keras_names() -> frozenset[str]:
    return frozenset(dir(keras.Model(name="names")))  # with a name, because Keras numbers models without one


def _check_network(agent: Any, name: str, network: Any) -> None:
    """Checks that a network is a `keras.Model`, and that the agent has no other attribute of its name."""
    check_kind(network, name, optional=False)
    there = vars(agent).get(name)
    if there is not None and there is not network:
        problem = f"`{name}` of {type(agent).__name__} is set already, to another value than this network."
        fix = "Give the network another name."
        raise ConfigurationError(describe(problem, fix=fix, **{name: network, "present": there}))
    for other, present in networks_of(agent):
        if present is network and other != name:
            problem = f"The network is registered as `{other}` already."
            fix = f"Use `agent.{other}`, or make a second network, which may share its layers."
            raise NetworkError(describe(problem, fix=fix, **{name: network}))
