"""Acting without TensorFlow: a lowered policy in the LiteRT interpreter.

A policy is lowered once (see `lowering`) to a flatbuffer whose inputs are observations, noise and weights. A new
version of the policy is a copy of arrays.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from keras_optix.errors import LoweringError


@dataclass(frozen=True)
class NoiseSpec:
    """The noise that a policy samples with.

    Attributes:
        kind: ``"gumbel"`` (discrete actions; 0 gives the most likely one).
        shape: Shape for one environment.
    """

    kind: str
    shape: tuple[int, ...]

    def draw(self, rng: np.random.Generator, leading: tuple[int, ...]) -> np.ndarray:
        """Draws noise of shape ``leading + shape``, float32."""
        if self.kind != "gumbel":
            raise ValueError(f"Unknown kind of noise. Received: kind={self.kind!r}.")
        return rng.gumbel(size=leading + self.shape).astype(np.float32)

    def zeros(self, leading: tuple[int, ...]) -> np.ndarray:
        """The noise that makes a policy deterministic."""
        return np.zeros(leading + self.shape, np.float32)


@dataclass(frozen=True)
class LoweredPolicy:
    """A policy as a flatbuffer; can be pickled.

    Attributes:
        blob: The flatbuffer. Inputs are named ``obs``, ``noise``, ``w0``, ``w1``, ...
        batch_size: Observations per call.
        noise: The noise that it samples with.
        weights: Number of weight arrays.
    """

    blob: bytes
    batch_size: int
    noise: NoiseSpec
    weights: int


class Actor(Protocol):
    """Chooses actions for a fixed number of environments."""

    noise: NoiseSpec

    def set_weights(self, arrays: Sequence[np.ndarray]) -> None:
        """Takes the arrays of a new policy version."""
        ...

    def act(self, observations: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Chooses actions.

        Args:
            observations: ``[N, ...]``, dtype of the observation space.
            noise: ``[N, ...]`` float32 of the actor's `noise` kind; zeros for the most likely action.

        Returns:
            ``(actions, log_probs)``, both ``[N]``.
        """
        ...


class LiteRTActor:
    """An `Actor` in the LiteRT interpreter: microseconds a call for small policies. Not thread-safe.

    Args:
        lowered: The policy.
    """

    def __init__(self, lowered: LoweredPolicy) -> None:
        self.noise = lowered.noise
        with quiet_stderr():  # a line about its delegate, in the middle of the progress line
            self._interpreter = Interpreter(model_content=lowered.blob, num_threads=1)
            self._interpreter.allocate_tensors()
        index = {_input_name(d): d["index"] for d in self._interpreter.get_input_details()}
        self._observations: int = index["obs"]
        self._noise: int = index["noise"]
        # A weight that the policy does not use for acting may have been dropped by the converter.
        self._weights = [index.get(f"w{k}") for k in range(lowered.weights)]
        outputs = self._interpreter.get_output_details()
        self._outputs = [d["index"] for d in sorted(outputs, key=lambda d: str(d["name"]))]
        self._ready = False

    def set_weights(self, arrays: Sequence[np.ndarray]) -> None:
        """See `Actor.set_weights`."""
        if len(arrays) != len(self._weights):
            raise LoweringError(f"The policy has {len(self._weights)} weight arrays. Received: {len(arrays)} arrays.")
        for index, array in zip(self._weights, arrays, strict=True):
            if index is not None:
                self._interpreter.set_tensor(index, array)
        self._ready = True

    def act(self, observations: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `Actor.act`."""
        if not self._ready:
            # LiteRT would answer with silent garbage.
            raise LoweringError("The actor has no weights yet; call `set_weights` first.")
        interpreter = self._interpreter
        interpreter.set_tensor(self._observations, observations)
        interpreter.set_tensor(self._noise, noise)
        interpreter.invoke()
        return interpreter.get_tensor(self._outputs[0]), interpreter.get_tensor(self._outputs[1])


def _input_name(details: dict[str, Any]) -> str:
    return str(details["name"]).replace("serving_default_", "").split(":")[0]


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Silences what C++ code writes to the process's stderr; exceptions carry what matters."""
    sys.stderr.flush()
    saved = os.dup(2)
    sink = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(sink)
