"""Copies of networks in float32 for acting, because the LiteRT interpreter computes in float32 only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras

OTHER_FLOATS = ("float64", "float16", "bfloat16")
_POLICIES = (*OTHER_FLOATS, "mixed_float16", "mixed_bfloat16")


def in_float32(network: Any) -> Any:
    """Makes a copy of a network that computes in float32.

    The copy has variables like the original's, in the same order, but with other values. It is meant for calls that
    replace the values of its variables.

    Args:
        network: A built `keras.Model`.

    Returns:
        The copy; or the network itself if all of it is in float32 already, or if it cannot be cloned (a subclass).
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
    """Yields the layers of a model and of its inner models."""
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
    """Replaces other floating dtypes by float32 in a layer's config, and in the configs of layers that it wraps."""
    if isinstance(config, list | tuple):
        return type(config)(_config_in_float32(part) for part in config)
    if not isinstance(config, dict):
        return config
    if config.get("class_name") == "DTypePolicy" and config.get("config", {}).get("name") in _POLICIES:
        return {**config, "config": {"name": "float32"}}
    changed = {name: _config_in_float32(value) for name, value in config.items()}
    return {**changed, "dtype": "float32"} if str(config.get("dtype")) in _POLICIES else changed
