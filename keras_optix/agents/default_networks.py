"""The default networks, which an agent builds if it is given no networks."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_optix.agents.initializers import orthogonal
from keras_optix.agents.networks import names_may_differ, network_dtype
from keras_optix.errors import SpaceError, describe
from keras_optix.experience.observations import Leaf, ObservationLayout

_HIDDEN = (64, 64)
_ACTION = "action"  # the input of a critic for the action
_NATURE_SIZE = 36  # pixels; the convolutions of the Nature network leave nothing of smaller images
_FEATURES = "features"  # the last layer that the policy and the value network may share
_CHANNELS = "channels_last"  # independent of Keras' global setting, because TensorFlow has no other order on a CPU

_NAME = re.compile(r"[A-Za-z][0-9A-Za-z_]*")
_OURS = re.compile(  # names that Keras gives to the layers and operations of a default network
    r"(concatenate|conv2d|dense|features|flatten|get_item|observation|one_hot|permute|rescaling|reshape)(_[0-9_a-zA-Z]*)?"
)


def default_network(
    layout: ObservationLayout,
    outputs: int,
    *,
    output_gain: float,
    name: str,
    features: int = 0,
    hidden: Sequence[int] = _HIDDEN,
    activation: str = "tanh",
) -> Any:
    """Builds a network for a space.

    - A vector: two hidden layers of 64 tanh units. Bytes are divided by 255.
    - A uint8 image (``[H, W, C]``, ``[C, H, W]``, a stack of either, or ``[H, W]`` of all bytes): values / 255, the
      convolutions and the dense layer of Mnih et al. 2015 ("Human-level control through deep reinforcement learning",
      Nature 518); for images under 36 pixels one convolution of 16 filters and a dense layer of 128 (Young and Tian
      2019, "MinAtar", arXiv 1903.03176). Channels are the axis that is shorter than height and width; if there is no
      such axis, ``keras.config.image_data_format()`` decides.
    - A category: one-hot.
    - A dict or tuple: each part as above, joined, and two hidden layers of 64 tanh units.

    Weights are orthogonal as in PPO's reference implementation (Huang et al. 2022, "The 37 implementation details of
    proximal policy optimization", details 2 and 13).

    Args:
        layout: Layout of the observations.
        outputs: Number of outputs.
        output_gain: Gain of the last layer: 0.01 for a policy, 1 for a value.
        name: Name of the model.
        features: How many of the outputs, the last ones, are the units of the last hidden layer. Defaults to 0.
        hidden: Units of the hidden layers, instead of two layers of 64. A single image has none after its dense layer.
        activation: Activation of the hidden layers. Defaults to ``"tanh"``.

    Returns:
        A built `keras.Model` that maps observations ``[B, ...]`` to ``[B, outputs]``.

    Raises:
        SpaceError: `features` is not 0, and the last hidden layer has another number of units.
    """
    inputs, parts = _encoded_inputs(layout)
    # This layer only gives the features a name, so that another head can be put on them.
    encoded = keras.layers.Identity(name=_FEATURES)(parts[0] if len(parts) == 1 else keras.layers.Concatenate()(parts))
    sizes = _hidden_after(layout, hidden)
    with names_may_differ():
        head = _head(encoded, outputs, output_gain, features=features, hidden=sizes, activation=activation)
        return keras.Model(layout.pack(inputs), head, name=name)


def default_network_beside(
    network: Any, layout: ObservationLayout, outputs: int, *, output_gain: float, name: str
) -> Any:
    """Builds a network like `default_network` that shares the layers of another one up to its features.

    The two networks share the layers for each image (with the dense layer after the convolutions), and the one-hot
    vectors. Each has its own hidden layers of 64 units.

    Args:
        network: The network that `default_network` built for the same layout.
        layout: Layout of the observations.
        outputs: Size of the last layer.
        output_gain: Gain of the last layer.
        name: Name of the model.

    Returns:
        A built `keras.Model` on the inputs of `network`.
    """
    features = network.get_layer(_FEATURES).output
    with names_may_differ():
        head = _head(features, outputs, output_gain, hidden=_hidden_after(layout, _HIDDEN))
        return keras.Model(network.input, head, name=name)


def default_critic(layout: ObservationLayout, axes: int, *, hidden: Sequence[int], activation: str, name: str) -> Any:
    """Builds a network that gives the value of an action.

    Observations are encoded as by `default_network`, and joined with the action. Hidden layers follow, also for images.

    Args:
        layout: Layout of the observations.
        axes: k, the number of axes of an action.
        hidden: Units of the hidden layers.
        activation: Activation of the hidden layers.
        name: Name of the model.

    Returns:
        A built `keras.Model` that maps ``[observations [B, ...], actions [B, k]]`` to values ``[B, 1]``.
    """
    inputs, parts = _encoded_inputs(layout)
    taken = _input_names(layout)
    free = next(one for one in (_ACTION + "_" * k for k in range(len(taken) + 1)) if one not in taken)
    action = keras.layers.Input((axes,), name=free)
    joined = keras.layers.Concatenate()([*parts, action])
    with names_may_differ():
        outputs = _head(joined, 1, 1.0, hidden=hidden, activation=activation)
        return keras.Model([layout.pack(inputs), action], outputs, name=name)


def has_images(layout: ObservationLayout) -> bool:
    """Returns whether a default network applies convolutions to a part of the observations."""
    return any(leaf.image for leaf in layout.leaves)


def _input_names(layout: ObservationLayout) -> list[str]:
    """Returns names of inputs that no layer of the network has, and that TensorFlow accepts, for any keys in the space.

    Keras expects the key of a dict as the name. If the key could also be the name of a layer, or is not a valid name,
    the name is made from the number of the leaf and the letters and digits of its path.
    """
    names = []
    for k, leaf in enumerate(layout.leaves):
        if _NAME.fullmatch(leaf.path) and not _OURS.fullmatch(leaf.path):
            names.append(leaf.path)
        else:
            readable = re.sub(r"[^0-9A-Za-z]+", "_", leaf.path).strip("_")
            names.append(f"observation_{k}_{readable}" if readable else f"observation_{k}")
    return names


def _encoded_inputs(layout: ObservationLayout) -> tuple[list[Any], list[Any]]:
    """Returns an input for each leaf, and the leaves as vectors."""
    inputs = [
        # Images stay bytes until they are scaled.
        keras.layers.Input(leaf.shape, dtype="uint8" if leaf.image else network_dtype(leaf), name=name_of_input)
        for leaf, name_of_input in zip(layout.leaves, _input_names(layout), strict=True)
    ]
    return inputs, [_encoded(leaf, tensor) for leaf, tensor in zip(layout.leaves, inputs, strict=True)]


def _hidden_after(layout: ObservationLayout, hidden: Sequence[int]) -> Sequence[int]:
    """Returns the hidden layers after the encoded observations: none after the dense layer of a single image."""
    return () if len(layout.leaves) == 1 and layout.leaves[0].image else hidden


def _head(
    tensor: Any, outputs: int, gain: float, *, features: int = 0, hidden: Sequence[int], activation: str = "tanh"
) -> Any:
    for units in hidden:
        tensor = _dense(units, activation)(tensor)
    last = _dense(outputs - features, None, gain)(tensor)
    if not features:
        return last
    units = int(tensor.shape[-1])
    if units != features:
        problem = f"The last hidden layer of the default network for these observations has {units} units."
        fix = f"Give the distribution features={units}, or give the agent a network of your own."
        raise SpaceError(describe(problem, fix=fix, features=features))
    return keras.layers.Concatenate()([last, tensor])


def _dense(units: int, activation: str | None, gain: float = math.sqrt(2.0)) -> Any:
    return keras.layers.Dense(units, activation=activation, kernel_initializer=orthogonal(gain))


def _encoded(leaf: Leaf, tensor: Any) -> Any:
    """Encodes a leaf as a vector ``[B, features]``."""
    layers = keras.layers
    if leaf.categories is not None:
        if leaf.shape == ():
            return keras.ops.one_hot(tensor, leaf.categories[0])
        flat = layers.Reshape((len(leaf.categories),))(tensor)
        one_hots = [keras.ops.one_hot(flat[:, k], n) for k, n in enumerate(leaf.categories)]
        return one_hots[0] if len(one_hots) == 1 else layers.Concatenate()(one_hots)
    if leaf.image:
        return _convolved(leaf.shape, tensor)
    if leaf.bytes:
        tensor = layers.Rescaling(1.0 / 255.0)(tensor)
    return tensor if len(leaf.shape) == 1 else layers.Reshape((int(np.prod(leaf.shape)),))(tensor)


def _channels_first(shape: tuple[int, ...]) -> bool:
    """Returns whether an image of three axes is ``[C, H, W]``."""
    first, last = shape[0] < min(shape[1:]), shape[-1] < min(shape[:-1])
    return first if first or last else bool(keras.config.image_data_format() == "channels_first")


def _convolved(shape: tuple[int, ...], tensor: Any) -> Any:
    layers = keras.layers
    image = tensor  # scaled last, because moving bytes costs a quarter of moving float32
    if len(shape) == 2:
        shape = (*shape, 1)
        image = layers.Reshape(shape)(image)
    elif len(shape) == 4:
        # A stack of images, [frames, ...]: its frames become channels.
        first = _channels_first(shape[1:])
        image = layers.Permute((3, 4, 1, 2) if first else (2, 3, 1, 4))(image)
        shape = (*(shape[2:] if first else shape[1:3]), shape[0] * shape[1 if first else 3])
        image = layers.Reshape(shape)(image)
    elif _channels_first(shape):
        image = layers.Permute((2, 3, 1))(image)
        shape = (shape[1], shape[2], shape[0])
    image = layers.Rescaling(1.0 / 255.0)(image)

    def convolution(filters: int, size: int, stride: int) -> Any:
        initializer = orthogonal(math.sqrt(2.0))
        return layers.Conv2D(
            filters, size, stride, activation="relu", kernel_initializer=initializer, data_format=_CHANNELS
        )

    if min(shape[:2]) >= _NATURE_SIZE:
        for filters, size, stride in ((32, 8, 4), (64, 4, 2), (64, 3, 1)):
            image = convolution(filters, size, stride)(image)
        return _dense(512, "relu")(layers.Flatten(data_format=_CHANNELS)(image))
    if min(shape[:2]) >= 3:
        image = convolution(16, 3, 1)(image)
    return _dense(128, "relu")(layers.Flatten(data_format=_CHANNELS)(image))
