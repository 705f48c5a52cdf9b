"""Chooses actions without TensorFlow, with a lowered policy in the LiteRT interpreter.

A policy is lowered once (see `lowering`) to a flatbuffer. For a new version of the policy only arrays are copied: into
the inputs of the flatbuffer, or into the bytes of its constants.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from keras_optix.errors import LoweringError
from keras_optix.experience.carry import Carry, CarrySpec
from keras_optix.experience.litert import Interpreter, require_litert
from keras_optix.experience.stderr import STDERR
from keras_optix.reprs import OneLineRepr


@dataclass(frozen=True)
class NoiseSpec:
    """The noise that a policy samples with. Zeros give its most likely action (the mean of a Gaussian).

    Attributes:
        kind: ``"gumbel"`` (categories), ``"logistic"`` (binary choices), ``"normal"`` (continuous actions) or
            ``"uniform"`` (numbers in [0, 1), for choices that are random with a given probability).
        shape: Shape for one environment.

    Examples:
        >>> optix.distributions.NoiseSpec("normal", (2,)).shape  # two normal numbers for each action
        (2,)
    """

    kind: str
    shape: tuple[int, ...]

    def draw(self, rng: np.random.Generator, leading: tuple[int, ...]) -> np.ndarray:
        """Draws noise of shape ``leading + shape``, float32."""
        size = leading + self.shape
        if self.kind == "gumbel":
            # Minus the logarithm of an exponential variable; half the time of `Generator.gumbel`.
            exponential = rng.standard_exponential(size, np.float32)
            return -np.log(np.maximum(exponential, np.finfo(np.float32).tiny))
        if self.kind == "logistic":
            return rng.logistic(size=size).astype(np.float32)
        if self.kind == "normal":
            return rng.standard_normal(size, np.float32)
        if self.kind == "uniform":
            return rng.random(size, np.float32)
        raise ValueError(f"Unknown kind of noise. Received: kind={self.kind!r}.")

    def zeros(self, leading: tuple[int, ...]) -> np.ndarray:
        """Returns the noise that makes a policy deterministic."""
        return np.zeros(leading + self.shape, np.float32)


@dataclass(frozen=True)
class Constant:
    """The place of a weight that is a constant in a flatbuffer.

    Attributes:
        offset: First byte.
        axes: The weight's axes in the order of the flatbuffer.
        scale: The factor from the weight to the constant, because the converter folds a rescaling of the inputs into
            the kernel that follows.
    """

    offset: int
    axes: tuple[int, ...]
    scale: float


@dataclass(frozen=True)
class LoweredPolicy:
    """A policy as a flatbuffer, which can be pickled.

    A weight is either an input of the flatbuffer or a constant in it (see `Constant`). The converter drops weights that
    the policy does not use for acting.

    Attributes:
        blob: The flatbuffer. Inputs are named ``obs0``, ``obs1``, ..., ``noise``, ``carry0``, ..., ``w0``, ``w1``, ...;
            outputs are the choices, the log-probabilities and the arrays of the carry, in this order.
        batch_size: Observations per call.
        observations: Number of observation arrays.
        noise: The noise that the policy samples with.
        weights: Number of weight arrays.
        constants: The places of those weights that are constants.
        num_threads: Threads of a call.
        carry: The arrays that the policy keeps between the steps of an episode; ``()`` if it has no carry.
    """

    blob: bytes
    batch_size: int
    observations: int
    noise: NoiseSpec
    weights: int
    constants: Mapping[int, tuple[Constant, ...]] = field(default_factory=dict)
    num_threads: int = 1
    carry: tuple[CarrySpec, ...] = ()


class Actor(Protocol):
    """Chooses actions for a fixed number of environments.

    Attributes:
        noise: The noise that the policy samples with.
        carry: The arrays that the policy keeps between the steps of an episode; ``()`` if it has no carry.
    """

    noise: NoiseSpec
    carry: tuple[CarrySpec, ...]

    def set_weights(self, arrays: Sequence[np.ndarray]) -> None:
        """Takes the arrays of a new policy version."""
        ...

    def act(
        self, observations: Sequence[np.ndarray], noise: np.ndarray, carry: Carry = ()
    ) -> tuple[np.ndarray, np.ndarray, Carry]:
        """Chooses actions.

        Args:
            observations: Leaves of the observations, ``[N, ...]`` each (see `ObservationLayout`).
            noise: ``[N, ...]`` float32 of the actor's `noise` kind; zeros for the most likely action.
            carry: The carry that the previous call returned, ``[N, ...]`` each, with the initial value for environments
                in which an episode begins (see `carry.renewed`).

        Returns:
            ``(choices [N, ...], log_probs [N], carry [N, ...] each)``; see `actions` for what a choice is.
        """
        ...


@runtime_checkable
class WindowListener(Protocol):
    """An actor that is told in which window it acts."""

    def begin_window(self, window_id: int) -> None:
        """Notes that a window begins; called before the first action of each window.

        Args:
            window_id: The number of the window.
        """
        ...


@runtime_checkable
class RepeatableActor(Protocol):
    """An actor of which another one is quickly made, so that several threads can act at the same time."""

    def another(self) -> Actor:
        """Returns an actor of the same policy that shares nothing with this one that changes; it has no weights yet."""
        ...


class LiteRTActor(OneLineRepr):
    """An `Actor` that runs in the LiteRT interpreter: microseconds a call for small policies. Not thread-safe.

    Args:
        lowered: The lowered policy.

    Raises:
        LoweringError: LiteRT is not installed.
    """

    def __init__(self, lowered: LoweredPolicy) -> None:
        require_litert()
        self.noise = lowered.noise
        self.carry = lowered.carry
        self._lowered = lowered
        # New constants need a new interpreter, because an interpreter packs its constants when it is made.
        self._blob = bytearray(lowered.blob) if lowered.constants else None
        self._patched: list[np.ndarray] | None = None
        self._ready = False
        with STDERR.without_all():  # the first interpreter of a process prints a line about its delegate
            self._load(lowered.blob)

    def another(self) -> LiteRTActor:
        """See `RepeatableActor.another`."""
        return LiteRTActor(self._lowered)

    def _load(self, blob: bytes) -> None:
        lowered = self._lowered
        interpreter = Interpreter(model_content=blob, num_threads=lowered.num_threads)
        interpreter.allocate_tensors()
        index = {_input_name(d): int(d["index"]) for d in interpreter.get_input_details()}
        # In the order in which they were returned. Their names are of no use: if the policy returns an array of the
        # carry unchanged, it has the name of the input, and "Identity_10" sorts before "Identity_2".
        outputs = [int(d["index"]) for d in interpreter.get_output_details()]
        self._interpreter = interpreter
        # The converter drops an observation that the policy does not use.
        leaves = [index.get(f"obs{k}") for k in range(lowered.observations)]
        self._observations = [(k, place) for k, place in enumerate(leaves) if place is not None]
        self._noise = index["noise"]
        self._weights = [index.get(f"w{k}") for k in range(lowered.weights)]
        carried = [index.get(f"carry{k}") for k in range(len(lowered.carry))]
        self._carry_inputs = [(k, place) for k, place in enumerate(carried) if place is not None]
        self._choices, self._log_probs, *self._carry_outputs = outputs

    def set_weights(self, arrays: Sequence[np.ndarray]) -> None:
        """See `Actor.set_weights`."""
        if len(arrays) != len(self._weights):
            problem = f"The actor's policy has {len(self._weights)} weight arrays."
            raise LoweringError(f"{problem} Received: {len(arrays)} arrays. Give the weights of the same policy.")
        if self._blob is not None:
            if self._patched is not None and all(map(np.array_equal, arrays, self._patched)):
                return  # making an interpreter takes milliseconds
            self._patched = list(arrays)
            for k, places in self._lowered.constants.items():
                for place in places:
                    target = np.frombuffer(self._blob, np.float32, arrays[k].size, place.offset)
                    target[:] = np.transpose(arrays[k], place.axes).ravel()
                    if place.scale != 1.0:
                        target *= np.float32(place.scale)
            self._load(bytes(self._blob))
        for index, array in zip(self._weights, arrays, strict=True):
            if index is not None:
                self._interpreter.set_tensor(index, array)
        self._ready = True

    def act(
        self, observations: Sequence[np.ndarray], noise: np.ndarray, carry: Carry = ()
    ) -> tuple[np.ndarray, np.ndarray, Carry]:
        """See `Actor.act`."""
        if not self._ready:
            # LiteRT would return garbage without an error.
            raise LoweringError("The actor has no weights yet; call `set_weights` first.")
        interpreter = self._interpreter
        for k, place in self._observations:
            interpreter.set_tensor(place, observations[k])
        interpreter.set_tensor(self._noise, noise)
        if carry or self.carry:
            if len(carry) != len(self.carry):  # the interpreter itself refuses another shape or dtype
                problem = f"The carry of the policy has {len(self.carry)} arrays. Received: {len(carry)} arrays."
                raise LoweringError(f"{problem} Begin with `initial_carry`, and pass on what the last call returned.")
            for k, place in self._carry_inputs:
                interpreter.set_tensor(place, carry[k])
        interpreter.invoke()
        get = interpreter.get_tensor
        return get(self._choices), get(self._log_probs), tuple([get(place) for place in self._carry_outputs])


def _input_name(details: dict[str, Any]) -> str:
    return str(details["name"]).replace("serving_default_", "").split(":")[0]
