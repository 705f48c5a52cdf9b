"""The same network in float32, which the interpreter of LiteRT computes in, whatever dtype the learner has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras

OTHER_FLOATS = ("float64", "float16", "bfloat16")
_POLICIES = (*OTHER_FLOATS, "mixed_float16", "mixed_bfloat16")


def in_float32(network: Any) -> Any:
    """A network that computes in float32 what this one computes in another dtype.

    It has the variables of the original, in the same order and with values of its own: it is for calls with weights
    from outside.

    Args:
        network: A built `keras.Model`.

    Returns:
        The network itself where all of it is in float32 already, or where it cannot be cloned (a subclass).
    """
    if not any(_is_other(layer) for layer in layers_in(network)):
        return network
    try:
        twin = keras.models.clone_model(network, clone_function=_layer_in_float32, recursive=_nested(network))
    except (AttributeError, NotImplementedError, TypeError, ValueError):
        return network
    same = [v.shape for v in twin.variables] == [v.shape for v in network.variables]
    return twin if same else network


def layers_in(model: Any) -> Iterator[Any]:
    """The layers of a model and of the models in it."""
    for layer in getattr(model, "layers", ()):
        yield layer
        yield from layers_in(layer)


def _is_other(layer: Any) -> bool:
    return layer.compute_dtype in OTHER_FLOATS or layer.variable_dtype in OTHER_FLOATS


def _nested(network: Any) -> bool:
    return any(isinstance(layer, keras.Model) for layer in network.layers)


def _layer_in_float32(layer: Any) -> Any:
    return type(layer).from_config(_config_in_float32(layer.get_config()))


def _config_in_float32(config: Any) -> Any:
    """A layer's config with float32 in the place of other floating dtypes, in layers that it wraps, too."""
    if isinstance(config, list | tuple):
        return type(config)(_config_in_float32(part) for part in config)
    if not isinstance(config, dict):
        return config
    if config.get("class_name") == "DTypePolicy" and config.get("config", {}).get("name") in _POLICIES:
        return {**config, "config": {"name": "float32"}}
    changed = {name: _config_in_float32(value) for name, value in config.items()}
    return {**changed, "dtype": "float32"} if str(config.get("dtype")) in _POLICIES else changed
