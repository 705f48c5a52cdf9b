"""Finds the weights of a network in the flatbuffer to which it was converted.

LiteRT's kernels are faster if weights are constants than if they are inputs, up to six times for a convolutional
network. But a new policy version must then be written into the flatbuffer. To find the places, the network is converted
with random numbers as weights, and these numbers are searched for in the buffers.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from keras_optix.experience.actor import Constant
from keras_optix.experience.litert import schema


def markers(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Makes random numbers in the shapes of weights, different for each, that a conversion does not optimise away."""
    rng = np.random.default_rng(0)
    return [rng.uniform(0.5, 1.5, array.shape).astype(np.float32) for array in arrays]


def find_constants(blob: bytes, marks: Mapping[int, np.ndarray]) -> dict[int, tuple[Constant, ...]]:
    """Finds markers among the buffers of a flatbuffer, transposed or multiplied by a number.

    Args:
        blob: The flatbuffer.
        marks: Markers by the number of their weight.

    Returns:
        Places by the number of the weight; a marker that is not found is left out.
    """
    buffers = _float_buffers(blob)
    found: dict[int, tuple[Constant, ...]] = {}
    for k, mark in marks.items():
        places = [_match(mark, offset, values) for offset, values in buffers if values.size == mark.size]
        kept = tuple(place for place in places if place is not None)
        if kept:
            found[k] = kept
    return found


def _float_buffers(blob: bytes) -> list[tuple[int, np.ndarray]]:
    """Returns offset and content of each buffer of a float32 tensor."""
    model = schema.Model.GetRootAs(blob, 0)
    start = np.frombuffer(blob, np.uint8).__array_interface__["data"][0]
    numbers = set()
    for k in range(model.SubgraphsLength()):
        graph = model.Subgraphs(k)
        tensors = [graph.Tensors(place) for place in range(graph.TensorsLength())]
        # Integers, such as shapes, would be tiny numbers if read as floats, and could be taken for a marker.
        numbers |= {tensor.Buffer() for tensor in tensors if tensor.Type() == schema.TensorType.FLOAT32}
    buffers = []
    for number in sorted(numbers):
        data = model.Buffers(number).DataAsNumpy()
        if isinstance(data, np.ndarray) and data.size and data.size % 4 == 0:
            offset = data.__array_interface__["data"][0] - start
            buffers.append((offset, np.frombuffer(data.tobytes(), np.float32)))
    return buffers


def _match(mark: np.ndarray, offset: int, values: np.ndarray) -> Constant | None:
    for axes in itertools.permutations(range(mark.ndim)):
        candidate = np.transpose(mark, axes).ravel()
        if (values == candidate).all():
            return Constant(offset, axes, 1.0)
        scale = float(values[0]) / float(candidate[0])
        # A single number is a multiple of any other.
        plausible = mark.size > 1 and 1e-6 < abs(scale) < 1e6
        if plausible and np.allclose(values, candidate * np.float32(scale), rtol=1e-5, atol=0.0):
            return Constant(offset, axes, scale)
    return None
