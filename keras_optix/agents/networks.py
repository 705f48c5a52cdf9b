"""Default networks, and the check that a network fits an environment."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np

from keras_optix.errors import SpaceError, describe

_HIDDEN = 64


def default_network(observation_shape: tuple[int, ...], outputs: int, *, output_gain: float, name: str) -> Any:
    """Builds an MLP of two hidden layers of 64 tanh units with orthogonal weights.

    The initialisation is that of PPO's reference implementation (Huang et al. 2022, "The 37 implementation details of
    proximal policy optimization", details 2 and 13).

    Args:
        observation_shape: Shape of one observation; flattened if it is not a vector.
        outputs: Size of the last layer.
        output_gain: Gain of the last layer: 0.01 for a policy, 1 for a value.
        name: Name of the model.

    Returns:
        A built `keras.Model`, ``[B, *observation_shape] -> [B, outputs]``.
    """

    def dense(units: int, gain: float, activation: str | None) -> Any:
        return keras.layers.Dense(units, activation=activation, kernel_initializer=keras.initializers.Orthogonal(gain))

    layers: list[Any] = [keras.layers.Input(observation_shape)]
    if len(observation_shape) != 1:
        layers.append(keras.layers.Flatten())
    layers += [
        dense(_HIDDEN, math.sqrt(2.0), "tanh"),
        dense(_HIDDEN, math.sqrt(2.0), "tanh"),
        dense(outputs, output_gain, None),
    ]
    return keras.Sequential(layers, name=name)


def check_network(
    network: Any, role: str, *, observation_shape: tuple[int, ...], outputs: int, action_space: object
) -> None:
    """Checks that a network takes the environment's observations and gives what its role needs.

    Args:
        network: A `keras.Model`.
        role: ``"policy"`` or ``"value"``, for the message.
        observation_shape: Shape of one observation.
        outputs: Size that the last axis of its output must have.
        action_space: For the message.

    Raises:
        SpaceError: It does not fit; both shapes are in the message.
    """
    if not isinstance(network, keras.Model):
        raise SpaceError(describe(f"`{role}` must be a keras.Model.", **{role: type(network).__name__}))
    wanted_input = (None, *observation_shape)
    # A model that is not built yet takes its input shape from the environment.
    known = tuple(network.input_shape) if network.built and _has_inputs(network) else wanted_input
    if known != wanted_input and not _compatible(known, wanted_input):
        raise SpaceError(
            describe(
                f"The {role} takes inputs of shape {known}, but the environment's observations have shape "
                f"{wanted_input}.",
                fix=f"Build it on keras.layers.Input({observation_shape}).",
            )
        )
    try:
        output_shape = tuple(network(np.zeros((1, *observation_shape), np.float32)).shape)
    except Exception as error:
        raise SpaceError(
            f"The {role} cannot be called on observations of shape {wanted_input}: {type(error).__name__}: {error}"
        ) from error
    if output_shape != (1, outputs):
        what = f"one logit per action of {action_space}" if role == "policy" else "one value"
        raise SpaceError(
            describe(
                f"The {role} gives outputs of shape {(None, *output_shape[1:])}, "
                f"but {(None, outputs)} is needed: {what}.",
                fix=f"End it with keras.layers.Dense({outputs}).",
            )
        )


def _has_inputs(network: Any) -> bool:
    try:
        return isinstance(network.input_shape, tuple)
    except (AttributeError, ValueError):  # a subclassed model has no symbolic inputs
        return False


def _compatible(known: tuple[int | None, ...], wanted: tuple[int | None, ...]) -> bool:
    same_rank = len(known) == len(wanted)
    return same_rank and all(a is None or b is None or a == b for a, b in zip(known, wanted, strict=True))
