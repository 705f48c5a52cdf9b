"""The networks of an agent by name: policy, value, and what an algorithm of one's own adds to them."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Iterator
from typing import Any, cast

import keras

from keras_optix.agents.attributes import set_by_package
from keras_optix.agents.network_checks import check_kind
from keras_optix.errors import ConfigurationError, NetworkError, StateError, describe
from keras_optix.validation import check_bool, check_name

ROLES = ("policy", "value")  # the networks that the package knows, where an agent has them
# Entries of a saved agent's config that are no attributes, so that nothing else would notice that a name is taken.
_ENTRIES = frozenset(
    {"observation_space", "action_space", "added_networks", "networks", "shared_layers", "own_arguments"}
    | {"given_arguments", "other_hyperparams", "normalize_rewards"}
)
_SET_IN_FIT = frozenset({"history", "stop_training"})  # by Keras


class RegisteredNetworks:
    """Which networks an agent was given by `Agent.add_network`, in their order.

    A plain object that holds no network but those that wait: what an agent has as attributes, Keras tracks and saves
    once, and a second path to it would change the layout of weights files.

    Attributes:
        names: All names, in the order in which they were registered.
        while_binding: Those of them that were registered while the agent was bound to its environment.
        waiting: Networks of a saved agent by name, which take the place of those that binding would build.
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
            The network that the agent has now: of a saved agent, the saved one.
        """
        check_bool("trainable", trainable)
        _check_name(self, agent, name)
        network = self.waiting.pop(name, network)
        _check_network(agent, name, network)
        if not trainable:
            network.trainable = False
        # Past the checks of attributes, for the name was said on purpose.
        keras.Model.__setattr__(agent, name, network)
        self.names.append(name)
        if self.binding:
            self.while_binding.append(name)
        return network

    def check_built(self, agent: Any) -> None:
        """Checks that all weights are there, once an agent knows its environment.

        Raises:
            NetworkError: A network is not built.
        """
        for name in self.names:
            network = getattr(agent, name)
            if not network.built:
                problem = (
                    f"The network `{name}` is not built, and the agent is about to be: weights that come later would "
                    "be in no optimizer and in no snapshot."
                )
                fix = "Begin it with keras.layers.Input(shape), or call it once on an example in `build_networks`."
                raise NetworkError(describe(problem, fix=fix, **{name: network}))


def networks_of(agent: Any) -> Iterator[tuple[str, Any]]:
    """The networks of an agent with their names: policy and value first, and then the others as they came.

    Args:
        agent: An `Agent`.
    """
    names = dict.fromkeys((*ROLES, *agent._registered.names))
    for name in names:
        network = vars(agent).get(name)
        if isinstance(network, keras.Model):
            yield name, network


def _check_name(registered: RegisteredNetworks, agent: Any, name: str) -> None:
    """Checks that a network can have a name, and that the agent can still be given one."""
    owner = type(agent).__name__
    check_name("name", name, "the name of a network", fix='Such as add_network("predictor", network).')
    if not name.isidentifier() or name.startswith("_"):
        fix = 'Give the name of an attribute, such as "predictor".'
        raise ConfigurationError(describe("A network is an attribute of the agent under its name.", fix=fix, name=name))
    if agent.bound:
        problem = f"{owner} knows its environment already: a network that comes now would be in no optimizer."
        fix = "Register networks in `__init__` or in `build_networks(layout)` of your own agent."
        raise StateError(describe(problem, fix=fix, name=name))
    if name in registered:
        problem = f"{owner} has a network `{name}` already."
        fix = "Register each network once, under a name of its own; after a `bind` that failed, make a new agent."
        raise StateError(describe(problem, fix=fix, name=name))
    if name in agent.hyperparams:
        problem = f"`{name}` is a hyperparameter of {owner}."
        raise ConfigurationError(describe(problem, fix="Give the network another name.", name=name))
    if _is_taken(agent, name):
        problem = f"{owner} has an attribute or a saved entry `{name}` that is no network."
        raise ConfigurationError(describe(problem, fix="Give the network another name.", name=name))


def _is_taken(agent: Any, name: str) -> bool:
    """Whether a name means something else: to Keras, to this package, or to the class of the agent."""
    if name in ROLES:
        return False
    ours = set_by_package(cast(Hashable, type(agent)))
    return name in _ENTRIES | _SET_IN_FIT or name in _keras_names() or name in ours or hasattr(type(agent), name)


@functools.cache
def _keras_names() -> frozenset[str]:
    return frozenset(dir(keras.Model(name="names")))  # with a name, as Keras counts models that have none


def _check_network(agent: Any, name: str, network: Any) -> None:
    """Checks that a network is one, and that the agent has no other under its name."""
    check_kind(network, name, optional=False)
    there = vars(agent).get(name)
    if there is not None and there is not network:
        problem = f"`{name}` of {type(agent).__name__} is set already, to something else than this network."
        fix = "Give the network another name."
        raise ConfigurationError(describe(problem, fix=fix, **{name: network, "present": there}))
    for other, present in networks_of(agent):
        if present is network and other != name:
            problem = f"The network is registered as `{other}` already."
            fix = f"Use `agent.{other}`, or make a second network, which may share its layers."
            raise NetworkError(describe(problem, fix=fix, **{name: network}))
