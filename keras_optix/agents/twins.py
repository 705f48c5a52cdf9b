"""Second networks with the layers of a first one: target networks, and second critics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from keras_optix.errors import NetworkError, describe


def twin_of(network: Any, example: Any, role: str, *, same_weights: bool) -> Any:
    """Makes a network with the layers of another, each with weights of its own.

    Args:
        network: A built `keras.Model`.
        example: What the network is called on, for a network that is not built before its first call.
        role: What the network is, for the message.
        same_weights: Whether the twin begins with the values of the network's weights; otherwise they are drawn anew,
            also if the layers of the network have seeds.

    Raises:
        NetworkError: Keras cannot make a copy of the network.
    """

    def layer_like(layer: Any) -> Any:
        return type(layer).from_config(layer.get_config() if same_weights else _reseeded(layer.get_config()))

    try:
        try:
            twin = keras.models.clone_model(network, clone_function=layer_like)
        except ValueError:  # a subclass of keras.Model, whose layers Keras does not know
            twin = layer_like(network)
        if not twin.built:
            twin(example)
        if [variable.shape for variable in twin.variables] != [variable.shape for variable in network.variables]:
            raise ValueError("the copy has other weights")
    except (AttributeError, NotImplementedError, TypeError, ValueError) as error:
        problem = f"The {role} cannot be copied, but the algorithm needs a second one: {type(error).__name__}: {error}"
        fix = "Build it from Keras' layers, or give your class a `get_config` with the arguments of its constructor."
        raise NetworkError(describe(problem, fix=fix, network=network)) from error
    if same_weights:
        twin.set_weights(network.get_weights())
    return twin


def _reseeded(config: Any) -> Any:
    """Returns the config of a layer with other seeds, so that a copy does not draw the same weights."""
    if isinstance(config, Mapping):
        return {
            key: value + 1 if key == "seed" and isinstance(value, int) else _reseeded(value)
            for key, value in config.items()
        }
    return type(config)(map(_reseeded, config)) if type(config) in (list, tuple) else config
