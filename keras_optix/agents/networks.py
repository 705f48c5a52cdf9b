"""What a network is called with, and the spaces that it would fit."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import gymnasium
import keras
import numpy as np
import tensorflow as tf

from keras_optix.experience.observations import Leaf, ObservationLayout


def network_dtype(leaf: Leaf) -> str:
    """In which dtype a network gets a leaf if it does not say otherwise."""
    return "int32" if leaf.categories else "float32"


@contextlib.contextmanager
def names_may_differ() -> Iterator[None]:
    """Silences Keras' advice to name the inputs of a dict as its keys: not every key can be a name."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "When providing `inputs` as a dict", UserWarning)
        yield


def spaces_of_network(network: Any) -> tuple[gymnasium.Space[Any], gymnasium.Space[Any]] | None:
    """Spaces that a policy would fit, if it says its shapes: numbers as it takes them, one action for each output.

    Args:
        network: Observations ``[B, ...]`` to parameters of a distribution ``[B, P]``.

    Returns:
        Observation and action space; None of a network that is not built, or that takes several inputs.
    """
    if not getattr(network, "built", False):
        return None
    takes, gives = getattr(network, "inputs", None), getattr(network, "outputs", None)
    if not takes or not gives or len(takes) != 1 or len(gives) != 1:
        return None
    shape, outputs = tuple(takes[0].shape[1:]), gives[0].shape[-1]
    if None in shape or outputs is None:
        return None
    return gymnasium.spaces.Box(-np.inf, np.inf, shape, np.float32), gymnasium.spaces.Discrete(int(outputs))


def network_inputs(network: Any, observations: Any, layout: ObservationLayout) -> Any:
    """What a network is called with: the observations that it has inputs for, in the dtypes of its inputs.

    A network without symbolic inputs (a subclass of `keras.Model`) gets all: categories as int32, the rest as float32.

    Args:
        network: A `keras.Model`.
        observations: Packed as the space has them, ``[B, ...]`` each.
        layout: The observations.
    """
    declared = declared_inputs(network)
    if declared is None:
        values = zip(layout.leaves, layout.flatten(observations), strict=True)
        return layout.pack([tf.cast(value, network_dtype(leaf)) for leaf, value in values])
    return _cast_like(declared, observations)


def declared_inputs(network: Any) -> Any:
    """The symbolic inputs of a network, as it has them (a tensor, a list, a dict); None if it declares none."""
    try:
        if not network.built or not network.inputs:
            return None
        return network.inputs[0] if isinstance(network, keras.Sequential) else network.input
    except (AttributeError, ValueError):  # a subclass, or a Sequential without an Input that was never called
        return None


def _cast_like(declared: Any, values: Any) -> Any:
    if isinstance(declared, dict):
        return {key: _cast_like(inner, values[key]) for key, inner in declared.items()}
    if isinstance(declared, list | tuple):
        if not isinstance(values, list | tuple):
            values = [values]
        return type(declared)(_cast_like(inner, value) for inner, value in zip(declared, values, strict=True))
    return tf.cast(values, declared.dtype)
