"""Names and networks that cannot be registered, and arguments that cannot be saved: each is answered early."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import pytest
from gymnasium import spaces
from own_networks import VECTOR, dense, layers, registered, reloaded

import keras_optix as optix
from keras_optix.errors import ConfigurationError, NetworkError, StateError


class Free(optix.PPOAgent):
    def __init__(self, *networks: tuple[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name, network in networks:
            self.add_network(name, network)


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("layers", ConfigurationError, r"Free has an attribute .* `layers` .*name='layers'\. Give the network another"),
        ("optimizer", ConfigurationError, r"`optimizer` that is not a network"),
        ("stop_training", ConfigurationError, r"`stop_training` that is not a network"),
        ("hyperparams", ConfigurationError, r"`hyperparams` that is not a network"),
        ("log_std", ConfigurationError, r"`log_std` that is not a network"),
        ("distribution", ConfigurationError, r"`distribution` that is not a network"),
        ("added_networks", ConfigurationError, r"`added_networks` that is not a network"),
        ("gamma", ConfigurationError, r"`gamma` is a hyperparameter of Free"),
        ("_hidden", ConfigurationError, r"so its name must be a valid attribute name\. Received: name='_hidden'"),
        ("two words", ConfigurationError, r"so its name must be a valid attribute name\. Received: name='two words'"),
        ("", ConfigurationError, r"`name` must be the name of a network"),
        (3, ConfigurationError, r"`name` must be the name of a network\. Received: name=3"),
    ],
)
def test_names_that_mean_something_else(name: Any, kind: Any, message: str) -> None:
    with pytest.raises(kind, match=message):
        Free((name, dense(1)))


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (None, r"`critic` must be a keras\.Model\. Received: critic=None\. Give one"),
        (layers.Dense(1), r"`critic` must be a keras\.Model, but is a layer\. Received: critic=.* Put the layer into"),
        ([layers.Dense(1)], r"`critic` must be a keras\.Model\. .*Give the layers to a model"),
        (keras.Sequential, r"is a class\. .*Make an object of the class: critic=Sequential"),
        (lambda x: x, r"is a function"),
    ],
)
def test_what_is_no_network(network: Any, message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        Free(("critic", network))


def test_an_agent_is_no_network() -> None:
    with pytest.raises(NetworkError, match=r"`critic` is an agent.*Give its network: `agent\.policy`"):
        Free(("critic", optix.PPOAgent()))


def test_a_name_or_a_network_that_is_there() -> None:
    network = dense(1)
    with pytest.raises(StateError, match=r"Free has a network `critic` already\. Received: name='critic'\. Register"):
        Free(("critic", network), ("critic", dense(1)))
    with pytest.raises(NetworkError, match=r"registered as `critic` already\. Received: other=.* Use `agent\.critic`"):
        Free(("critic", network), ("other", network))
    with pytest.raises(ConfigurationError, match=r"`policy` of Free is set already.*Received: policy=.*present="):
        Free(("policy", dense(2)), policy=dense(2))
    with pytest.raises(NetworkError, match="registered as `value` already"):
        Free(("critic", network), value=network)


def test_after_binding() -> None:
    agent = Free(("critic", dense(1)))
    agent.bind(VECTOR, spaces.Discrete(2))
    with pytest.raises(StateError, match=r"Free knows its environment already.* Received: name='other'\. Register"):
        agent.add_network("other", dense(1))
    with pytest.raises(StateError, match=r"its `critic` was built in.*agent\.critic\.set_weights"):
        agent.critic = dense(1)


def test_not_built() -> None:
    agent = Free(("critic", keras.Sequential([layers.Dense(1)])))
    with pytest.raises(NetworkError, match=r"The network `critic` is not built.*Received: critic=.*Begin it with"):
        agent.bind(VECTOR, spaces.Discrete(2))


@registered
class Forgets(optix.PPOAgent):
    def __init__(self, policy: Any = None, net: Any = None, rate: Any = 1.0, **kwargs: Any) -> None:
        super().__init__(policy, **kwargs)
        if net is not None:
            self.add_network("predictor", net)
        self.rate = rate


def test_an_argument_that_is_kept_nowhere_is_named_when_the_agent_is_saved(tmp_path: Path) -> None:
    agent = Forgets(net=dense(1))
    agent.bind(VECTOR, spaces.Discrete(2))
    message = (
        r"Forgets cannot be saved: its constructor takes `net`.*Set `self\.net = net`.*add_network\(\"net\", net\)"
    )
    with pytest.raises(StateError, match=message):
        agent.save(tmp_path / "agent.keras")
    agent = Forgets()  # the default needs no saving
    agent.bind(VECTOR, spaces.Discrete(2))
    reloaded(agent, tmp_path)


def test_an_argument_that_keras_cannot_save_is_named(tmp_path: Path) -> None:
    agent = Forgets(rate=object())
    agent.bind(VECTOR, spaces.Discrete(2))
    with pytest.raises(
        ConfigurationError, match=r"Keras cannot save its argument `rate`\. Received: rate=.*get_config"
    ):
        agent.save(tmp_path / "agent.keras")
    agent = Forgets(rate={"a": [1, 2.5], "b": None})
    agent.bind(VECTOR, spaces.Discrete(2))
    assert reloaded(agent, tmp_path).rate == {"a": [1, 2.5], "b": None}
