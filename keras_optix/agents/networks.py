"""Default networks, what a network is called with, and the check that it fits an environment."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import gymnasium
import keras
import numpy as np
import tensorflow as tf

from keras_optix.errors import SpaceError, describe
from keras_optix.experience.observations import Leaf, ObservationLayout

_HIDDEN = 64
_NATURE_SIZE = 36  # pixels; the first convolution of the Nature network leaves nothing of smaller images


def default_network(layout: ObservationLayout, outputs: int, *, output_gain: float, name: str) -> Any:
    """Builds a network for a space.

    - A vector: two hidden layers of 64 tanh units.
    - A uint8 image (``[H, W, C]``, ``[C, H, W]`` or a stack of either): values / 255, the convolutions and the dense
      layer of Mnih et al. 2015 ("Human-level control through deep reinforcement learning", Nature 518); for images
      under 36 pixels one convolution of 16 filters and a dense layer of 128 (Young and Tian 2019, "MinAtar",
      arXiv 1903.03176).
    - A category: one-hot.
    - A dict or tuple: each part as above, joined, and two hidden layers of 64 tanh units.

    Weights are orthogonal as in PPO's reference implementation (Huang et al. 2022, "The 37 implementation details of
    proximal policy optimization", details 2 and 13).

    Args:
        layout: The observations.
        outputs: Size of the last layer.
        output_gain: Gain of the last layer: 0.01 for a policy, 1 for a value.
        name: Name of the model.

    Returns:
        A built `keras.Model`, observations ``[B, ...]`` to ``[B, outputs]``.
    """
    inputs = [
        # Images stay bytes until they are scaled.
        keras.layers.Input(
            leaf.shape, dtype="uint8" if leaf.image else _dtype(leaf), name=leaf.path.replace("/", "_") or None
        )
        for leaf in layout.leaves
    ]
    parts = [_encoded(leaf, tensor) for leaf, tensor in zip(layout.leaves, inputs, strict=True)]
    features = parts[0] if len(parts) == 1 else keras.layers.Concatenate()(parts)
    if len(parts) > 1 or not layout.leaves[0].image:
        for _ in range(2):
            features = _dense(_HIDDEN, "tanh")(features)
    packed = layout.pack(inputs)
    return keras.Model(packed, _dense(outputs, None, output_gain)(features), name=name)


def _dtype(leaf: Leaf) -> str:
    """In which dtype a network gets a leaf if it does not say otherwise."""
    return "int32" if leaf.categories else "float32"


def _dense(units: int, activation: str | None, gain: float = math.sqrt(2.0)) -> Any:
    return keras.layers.Dense(units, activation=activation, kernel_initializer=keras.initializers.Orthogonal(gain))


def _encoded(leaf: Leaf, tensor: Any) -> Any:
    """A leaf as a vector ``[B, features]``."""
    layers = keras.layers
    if leaf.categories is not None:
        if leaf.shape == ():
            return keras.ops.one_hot(tensor, leaf.categories[0])
        flat = layers.Reshape((len(leaf.categories),))(tensor)
        one_hots = [keras.ops.one_hot(flat[:, k], n) for k, n in enumerate(leaf.categories)]
        return one_hots[0] if len(one_hots) == 1 else layers.Concatenate()(one_hots)
    if leaf.image:
        return _convolved(leaf.shape, tensor)
    return tensor if len(leaf.shape) == 1 else layers.Reshape((int(np.prod(leaf.shape)),))(tensor)


def _convolved(shape: tuple[int, ...], tensor: Any) -> Any:
    layers = keras.layers
    image = layers.Rescaling(1.0 / 255.0)(tensor)
    if len(shape) == 4:
        # A stack of images, [frames, ...]: its frames become channels.
        image = layers.Permute((2, 3, 1, 4))(image)
        shape = (shape[1], shape[2], shape[0] * shape[3])
        image = layers.Reshape(shape)(image)
    elif shape[0] < min(shape[1:]):
        image = layers.Permute((2, 3, 1))(image)
        shape = (shape[1], shape[2], shape[0])

    def convolution(filters: int, size: int, stride: int) -> Any:
        orthogonal = keras.initializers.Orthogonal(math.sqrt(2.0))
        return layers.Conv2D(filters, size, stride, activation="relu", kernel_initializer=orthogonal)

    if min(shape[:2]) >= _NATURE_SIZE:
        for filters, size, stride in ((32, 8, 4), (64, 4, 2), (64, 3, 1)):
            image = convolution(filters, size, stride)(image)
        return _dense(512, "relu")(layers.Flatten()(image))
    if min(shape[:2]) >= 3:
        image = convolution(16, 3, 1)(image)
    return _dense(128, "relu")(layers.Flatten()(image))


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
        return layout.pack([tf.cast(value, _dtype(leaf)) for leaf, value in values])
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


def check_network(
    network: Any, role: str, *, layout: ObservationLayout, outputs: Sequence[int], action_space: object
) -> int:
    """Checks that a network takes the environment's observations and gives what its role needs.

    Args:
        network: A `keras.Model`.
        role: ``"policy"`` or ``"value"``, for the message.
        layout: The observations.
        outputs: Sizes that the last axis of its output may have.
        action_space: For the message.

    Returns:
        The size that it has.

    Raises:
        SpaceError: It does not fit; both shapes are in the message.
    """
    if not isinstance(network, keras.Model):
        raise SpaceError(describe(f"`{role}` must be a keras.Model.", **{role: type(network).__name__}))
    wanted = layout.pack([(None, *leaf.shape) for leaf in layout.leaves])
    declared = declared_inputs(network)
    if declared is not None:
        _check_inputs(role, declared, wanted, "")
    example = layout.pack([np.zeros((1, *leaf.shape), leaf.dtype) for leaf in layout.leaves])
    try:
        output_shape = tuple(network(network_inputs(network, example, layout)).shape)
    except Exception as error:
        raise SpaceError(
            f"The {role} cannot be called on observations of shape {wanted}: {type(error).__name__}: {error}"
        ) from error
    if len(output_shape) != 2 or output_shape[1] not in outputs:
        raise SpaceError(
            describe(
                f"The {role} gives outputs of shape {(None, *output_shape[1:])}, but "
                f"{' or '.join(str((None, n)) for n in outputs)} is needed: {_meaning(role, outputs, action_space)}.",
                fix=f"End it with keras.layers.Dense({outputs[0]}).",
            )
        )
    return int(output_shape[1])


def _meaning(role: str, outputs: Sequence[int], action_space: object) -> str:
    if role != "policy":
        return "one value"
    if len(outputs) == 1:
        return f"one logit per action of {action_space}"
    return f"the mean of each axis of {action_space}, or means and log standard deviations"


def _check_inputs(role: str, declared: Any, wanted: Any, path: str) -> None:
    """Compares the symbolic inputs of a network with shapes of observations."""
    name = f" {path!r}" if path else ""
    if isinstance(declared, dict) and isinstance(wanted, dict):
        for key, inner in declared.items():
            if key not in wanted:
                raise SpaceError(
                    describe(
                        f"The {role} has an input {key!r} that the environment's observations do not have.",
                        fix="Name its inputs as the observation space names its parts.",
                        observations=sorted(wanted),
                    )
                )
            _check_inputs(role, inner, wanted[key], f"{path}/{key}" if path else str(key))
        return
    if isinstance(declared, list | tuple):
        if len(declared) == 1 and not _is_sequence(wanted):
            _check_inputs(role, declared[0], wanted, path)
            return
        if _is_sequence(wanted) and len(declared) == len(wanted):
            for k, (inner, shape) in enumerate(zip(declared, wanted, strict=True)):
                _check_inputs(role, inner, shape, f"{path}/{k}" if path else str(k))
            return
    elif not isinstance(declared, dict) and not isinstance(wanted, dict) and not _is_sequence(wanted):
        known = tuple(declared.shape)
        if not _compatible(known, wanted):
            raise SpaceError(
                describe(
                    f"The {role} takes inputs{name} of shape {known}, but the environment's observations{name} have "
                    f"shape {wanted}.",
                    fix=f"Build it on keras.layers.Input({wanted[1:]}).",
                )
            )
        return
    raise SpaceError(
        describe(
            f"The inputs{name} of the {role} are a {_kind(declared)}, but the environment's observations are a "
            f"{_kind(wanted)}.",
            fix="Build the model on inputs of the observations' structure, for example "
            "keras.Model({'camera': a, 'speed': b}, outputs).",
        )
    )


def _is_sequence(wanted: Any) -> bool:
    """Whether `wanted` is a tuple of parts and not a shape, which begins with None."""
    return isinstance(wanted, tuple) and wanted[0] is not None


def _kind(structure: Any) -> str:
    if isinstance(structure, dict):
        return f"dict of {sorted(structure)}"
    if isinstance(structure, list) or (isinstance(structure, tuple) and _is_sequence(structure)):
        return f"tuple of {len(structure)}"
    return "single array"


def _compatible(known: tuple[int | None, ...], wanted: tuple[int | None, ...]) -> bool:
    same_rank = len(known) == len(wanted)
    return same_rank and all(a is None or b is None or a == b for a, b in zip(known, wanted, strict=True))
