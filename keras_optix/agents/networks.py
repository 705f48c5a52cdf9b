"""The inputs that a network is called with, and the spaces that it would fit."""

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
    """Returns the dtype in which a network gets a leaf, if the network does not declare another one."""
    return "int32" if leaf.categories else "float32"


@contextlib.contextmanager
def names_may_differ() -> Iterator[None]:
    """Silences Keras' advice to name the inputs of a dict like its keys, because not every key can be a name."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "When providing `inputs` as a dict", UserWarning)
        yield


def spaces_of_network(network: Any) -> tuple[gymnasium.Space[Any], gymnasium.Space[Any]] | None:
    """Returns spaces that fit a policy: numbers in the shape of its input, and one Discrete action for each output.

    Args:
        network: Maps observations ``[B, ...]`` to parameters of a distribution ``[B, P]``.

    Returns:
        The observation and the action space; None if the network is not built or has several inputs or outputs.
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
    """Returns the observations that a network has inputs for, in the dtypes of its inputs.

    A network without symbolic inputs (a subclass of `keras.Model`) gets all observations: categories as int32, the rest
    as float32.

    Args:
        network: A `keras.Model`.
        observations: Arrays ``[B, ...]`` in the structure of the observation space.
        layout: Layout of the observations.
    """
    declared = declared_inputs(network)
    if declared is None:
        values = zip(layout.leaves, layout.flatten(observations), strict=True)
        return layout.pack([tf.cast(value, network_dtype(leaf)) for leaf, value in values])
    return cast_like(declared, observations)


def declared_inputs(network: Any) -> Any:
    """Returns a network's symbolic inputs, in its own structure (a tensor, list or dict); None if it declares none."""
    try:
        if not network.built or not network.inputs:
            return None
        return network.inputs[0] if isinstance(network, keras.Sequential) else network.input
    except (AttributeError, ValueError):  # a subclass, or a Sequential without an Input that was never called
        return None


def cast_like(declared: Any, values: Any) -> Any:
    """Casts arrays to the dtypes of a network's inputs, and leaves out those that a dict of inputs does not have.

    Args:
        declared: Symbolic inputs in the structure of the network.
        values: Arrays ``[B, ...]`` in the structure of the observation space.
    """
    if isinstance(declared, dict):
        return {key: cast_like(inner, values[key]) for key, inner in declared.items()}
    if isinstance(declared, list | tuple):
        if not isinstance(values, list | tuple):
            values = [values]
        return type(declared)(cast_like(inner, value) for inner, value in zip(declared, values, strict=True))
    return tf.cast(values, declared.dtype)
