"""The default networks, which an agent builds if it is given no networks."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_optix.agents.initializers import orthogonal
from keras_optix.agents.networks import names_may_differ, network_dtype
from keras_optix.errors import SpaceError, describe
from keras_optix.experience.observations import Leaf, ObservationLayout

_GAIN = math.sqrt(2.0)  # of hidden layers
_LAYER_NORM_EPSILON = 1e-5  # of PyTorch and of CleanRL; 1e-3 is Keras' own default
_NATURE_SIZE = 36  # pixels; the convolutions of the Nature network leave nothing of smaller images
_FEATURES = "features"  # the last layer that the policy and the value network may share
_CHANNELS = "channels_last"  # independent of Keras' global setting, because TensorFlow has no other order on a CPU
_ACTION = "action"  # the input of a critic for the action

_NAME = re.compile(r"[A-Za-z][0-9A-Za-z_]*")
_OURS = re.compile(  # names that Keras gives to the layers and operations of a default network
    r"(activation|add|concatenate|conv2d|dense|features|flatten|get_item|layer_normalization|mean|observation|one_hot|permute"
    r"|rescaling|reshape|subtract)(_[0-9_a-zA-Z]*)?"
)


@dataclass(frozen=True)
class HiddenLayers:
    """The hidden layers of a default network.

    Attributes:
        units: Units of each dense layer after the inputs (not after convolutions). Defaults to 64 and 64.
        activation: Their activation. Convolutions, and the dense layer after them, always have ReLU. Defaults to tanh.
        normalized: Whether values are normalised before each activation, also after convolutions (Ba et al. 2016,
            "Layer normalization", arXiv 1607.06450). Defaults to False.
        orthogonal: Whether weights begin orthogonal, and biases at 0. If not, both begin uniform in
            +-1 / sqrt(inputs of a unit), as those of PyTorch do; the gain of the last layer has no effect then.
            Defaults to True.
    """

    units: tuple[int, ...] = (64, 64)
    activation: str = "tanh"
    normalized: bool = False
    orthogonal: bool = True

    def initializers(self, gain: float, inputs: int) -> dict[str, Any]:
        """Returns the arguments of a layer for its initial weights and biases.

        Args:
            gain: Factor by which its outputs are to be scaled.
            inputs: Number of inputs of a unit.
        """
        if self.orthogonal:
            return {"kernel_initializer": orthogonal(gain)}
        bound = 1.0 / math.sqrt(inputs)
        names = ("kernel_initializer", "bias_initializer")
        return {name: keras.initializers.RandomUniform(-bound, bound) for name in names}


_TANH = HiddenLayers()


def default_network(
    layout: ObservationLayout,
    outputs: int,
    *,
    output_gain: float,
    name: str,
    features: int = 0,
    hidden: HiddenLayers = _TANH,
) -> Any:
    """Builds a network for a space.

    - A vector: the hidden layers, by default two of 64 tanh units. Bytes are divided by 255.
    - A uint8 image (``[H, W, C]``, ``[C, H, W]``, a stack of either, or ``[H, W]`` of all bytes): values / 255, the
      convolutions and the dense layer of Mnih et al. 2015 ("Human-level control through deep reinforcement learning",
      Nature 518); for images under 36 pixels one convolution of 16 filters and a dense layer of 128 (Young and Tian
      2019, "MinAtar", arXiv 1903.03176). Channels are the axis that is shorter than height and width; if there is no
      such axis, ``keras.config.image_data_format()`` decides.
    - A category: one-hot.
    - A dict or tuple: each part as above, joined, and the hidden layers.

    Weights are orthogonal as in PPO's reference implementation (Huang et al. 2022, "The 37 implementation details of
    proximal policy optimization", details 2 and 13).

    Args:
        layout: Layout of the observations.
        outputs: Number of outputs.
        output_gain: Gain of the last layer: 0.01 for a policy, 1 for a value.
        name: Name of the model.
        features: How many of the outputs, the last ones, are the units of the last hidden layer. Defaults to 0.
        hidden: The hidden layers.

    Returns:
        A built `keras.Model` that maps observations ``[B, ...]`` to ``[B, outputs]``.

    Raises:
        SpaceError: `features` is not 0, and the last hidden layer has another number of units.
    """
    inputs, encoded = _inputs_and_features(layout, hidden)
    with names_may_differ():
        last = _head(layout, encoded, outputs, output_gain, features, hidden)
        return keras.Model(layout.pack(inputs), last, name=name)


def default_network_beside(
    network: Any,
    layout: ObservationLayout,
    outputs: int,
    *,
    output_gain: float,
    name: str,
    hidden: HiddenLayers = _TANH,
) -> Any:
    """Builds a network like `default_network` that shares the layers of another one up to its features.

    The two networks share the layers for each image (with the dense layer after the convolutions), and the one-hot
    vectors. Each has its own hidden layers.

    Args:
        network: The network that `default_network` built for the same layout.
        layout: Layout of the observations.
        outputs: Size of the last layer.
        output_gain: Gain of the last layer.
        name: Name of the model.
        hidden: The hidden layers.

    Returns:
        A built `keras.Model` on the inputs of `network`.
    """
    features = network.get_layer(_FEATURES).output
    with names_may_differ():
        return keras.Model(network.input, _head(layout, features, outputs, output_gain, 0, hidden), name=name)


def dueling_network(layout: ObservationLayout, actions: int, *, name: str, hidden: HiddenLayers) -> Any:
    """Builds a Q-network like `default_network` with a value and an advantage stream.

    ``Q = V + A - mean(A)`` (Wang et al. 2016, "Dueling network architectures", arXiv 1511.06581, eq. 9). The streams
    share everything up to the last hidden layer, of which each has one of its own.

    Args:
        layout: Layout of the observations.
        actions: Number of actions.
        name: Name of the model.
        hidden: The hidden layers. For images, the streams have as many units as the last of these.

    Returns:
        A built `keras.Model` that maps observations ``[B, ...]`` to the values of the actions ``[B, actions]``.
    """
    inputs, shared = _inputs_and_features(layout, hidden)
    if len(layout.leaves) > 1 or not layout.leaves[0].image:
        for size in hidden.units[:-1]:
            shared = _hidden_dense(shared, size, hidden.activation, hidden)

    def stream(outputs: int) -> Any:
        return _dense(_hidden_dense(shared, hidden.units[-1], hidden.activation, hidden), outputs, None, 1.0, hidden)

    value, advantages = stream(1), stream(actions)
    values = value + advantages - keras.ops.mean(advantages, axis=-1, keepdims=True)
    with names_may_differ():
        return keras.Model(layout.pack(inputs), values, name=name)


def default_critic(layout: ObservationLayout, axes: int, *, hidden: HiddenLayers, name: str) -> Any:
    """Builds a network that gives the value of an action.

    Observations are encoded as by `default_network`, and joined with the action. The hidden layers follow, also after
    convolutions.

    Args:
        layout: Layout of the observations.
        axes: k, the number of axes of an action.
        hidden: The hidden layers.
        name: Name of the model.

    Returns:
        A built `keras.Model` that maps ``[observations [B, ...], actions [B, k]]`` to values ``[B, 1]``.
    """
    names = _input_names(layout)
    free = next(one for one in (_ACTION + "_" * k for k in range(len(names) + 1)) if one not in names)
    inputs, encoded = _inputs_and_features(layout, hidden)
    action = keras.layers.Input((axes,), name=free)
    values = keras.layers.Concatenate()([encoded, action])
    for size in hidden.units:
        values = _hidden_dense(values, size, hidden.activation, hidden)
    with names_may_differ():
        return keras.Model([layout.pack(inputs), action], _dense(values, 1, None, 1.0, hidden), name=name)


def has_images(layout: ObservationLayout) -> bool:
    """Returns whether a default network applies convolutions to a part of the observations."""
    return any(leaf.image for leaf in layout.leaves)


def _inputs_and_features(layout: ObservationLayout, hidden: HiddenLayers) -> tuple[list[Any], Any]:
    """Returns the inputs of a network, and one vector of features ``[B, ...]`` of all of them."""
    inputs = [
        # Images stay bytes until they are scaled.
        keras.layers.Input(leaf.shape, dtype="uint8" if leaf.image else network_dtype(leaf), name=name_of_input)
        for leaf, name_of_input in zip(layout.leaves, _input_names(layout), strict=True)
    ]
    parts = [_encoded(leaf, tensor, hidden) for leaf, tensor in zip(layout.leaves, inputs, strict=True)]
    # This layer only gives the features a name, so that another head can be put on them.
    features = keras.layers.Identity(name=_FEATURES)(parts[0] if len(parts) == 1 else keras.layers.Concatenate()(parts))
    return inputs, features


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


def _head(
    layout: ObservationLayout,
    encoded: Any,
    outputs: int,
    gain: float,
    features: int = 0,
    hidden: HiddenLayers = _TANH,
) -> Any:
    values = encoded
    if len(layout.leaves) > 1 or not layout.leaves[0].image:
        for size in hidden.units:
            values = _hidden_dense(values, size, hidden.activation, hidden)
    last = _dense(values, outputs - features, None, gain, hidden)
    if not features:
        return last
    units = int(values.shape[-1])
    if units != features:
        problem = f"The last hidden layer of the default network for these observations has {units} units."
        fix = f"Give the distribution features={units}, or give the agent a network of your own."
        raise SpaceError(describe(problem, fix=fix, features=features))
    return keras.layers.Concatenate()([last, values])


def _dense(values: Any, units: int, activation: str | None, gain: float, hidden: HiddenLayers) -> Any:
    return keras.layers.Dense(units, activation, **hidden.initializers(gain, int(values.shape[-1])))(values)


def _hidden_dense(values: Any, units: int, activation: str, hidden: HiddenLayers) -> Any:
    if not hidden.normalized:
        return _dense(values, units, activation, _GAIN, hidden)
    return _normalized(_dense(values, units, None, _GAIN, hidden), activation)


def _normalized(values: Any, activation: str) -> Any:
    """Normalises values over all axes but the first, and applies an activation."""
    axes = list(range(1, len(values.shape)))
    normalize = keras.layers.LayerNormalization(axis=axes, epsilon=_LAYER_NORM_EPSILON)
    return keras.layers.Activation(activation)(normalize(values))


def _encoded(leaf: Leaf, tensor: Any, hidden: HiddenLayers) -> Any:
    """Encodes a leaf as a vector ``[B, features]``."""
    layers = keras.layers
    if leaf.categories is not None:
        if leaf.shape == ():
            return keras.ops.one_hot(tensor, leaf.categories[0])
        flat = layers.Reshape((len(leaf.categories),))(tensor)
        one_hots = [keras.ops.one_hot(flat[:, k], n) for k, n in enumerate(leaf.categories)]
        return one_hots[0] if len(one_hots) == 1 else layers.Concatenate()(one_hots)
    if leaf.image:
        return _convolved(leaf.shape, tensor, hidden)
    if leaf.bytes:
        tensor = layers.Rescaling(1.0 / 255.0)(tensor)
    return tensor if len(leaf.shape) == 1 else layers.Reshape((int(np.prod(leaf.shape)),))(tensor)


def _channels_first(shape: tuple[int, ...]) -> bool:
    """Returns whether an image of three axes is ``[C, H, W]``."""
    first, last = shape[0] < min(shape[1:]), shape[-1] < min(shape[:-1])
    return first if first or last else bool(keras.config.image_data_format() == "channels_first")


def _convolved(shape: tuple[int, ...], tensor: Any, hidden: HiddenLayers) -> Any:
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

    def convolution(image: Any, filters: int, size: int, stride: int) -> Any:
        inputs = size * size * int(image.shape[-1])
        own: dict[str, Any] = {**hidden.initializers(_GAIN, inputs), "data_format": _CHANNELS}
        if not hidden.normalized:
            return layers.Conv2D(filters, size, stride, activation="relu", **own)(image)
        return _normalized(layers.Conv2D(filters, size, stride, **own)(image), "relu")

    if min(shape[:2]) >= _NATURE_SIZE:
        for filters, size, stride in ((32, 8, 4), (64, 4, 2), (64, 3, 1)):
            image = convolution(image, filters, size, stride)
        return _hidden_dense(layers.Flatten(data_format=_CHANNELS)(image), 512, "relu", hidden)
    if min(shape[:2]) >= 3:
        image = convolution(image, 16, 3, 1)
    return _hidden_dense(layers.Flatten(data_format=_CHANNELS)(image), 128, "relu", hidden)
