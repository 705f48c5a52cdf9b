"""Lowers a policy with its sampling to a LiteRT flatbuffer, or to a compiled function if that is faster.

The fastest form depends on the network (microseconds a call on two cores, batch 1 / 8 / 64):

=================== ================== ===================== ====================
network             weights as inputs  weights as constants  compiled function
=================== ================== ===================== ====================
MLP 64-64           5 / 6 / 22         3 / 5 / 13            500 / 500 / 500
MLP 256-256         35 / 50 / 127      11 / 23 / 115         500 / 500 / 600
Nature CNN          2500 / 9500 / -    300 / 1800 / 14000    2000 / 3800 / 15000
new policy version  10                 300 to 15000          10 to 1000
=================== ================== ===================== ====================

The choice is a rule and not a measurement, so that two runs with one seed compute the same numbers.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import os
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_optix.errors import ConfigurationError, LoweringError, OptixError, describe
from keras_optix.experience.actor import Actor, LiteRTActor, LoweredPolicy, NoiseSpec
from keras_optix.experience.carry import Carry, CarrySpec, initial_carry, misfit
from keras_optix.experience.constants import find_constants, markers
from keras_optix.experience.litert import installed, require_litert, warn_once
from keras_optix.experience.observations import ObservationLayout
from keras_optix.experience.stderr import STDERR
from keras_optix.ops.choices import argmax_as

Forward = Callable[[Any, Any, Sequence[Any], tuple[Any, ...]], tuple[Any, Any, tuple[Any, ...]]]
"""``(observations, noise [N, ...], weights, carry) -> (choices [N, ...], log_probs [N], carry)``, in TensorFlow.
Observations are dicts and tuples like the space, and the arrays of the carry are ``[N, ...]`` each."""

_SMALL = 20_000  # weights; for fewer, setting inputs costs less than making an interpreter
_LONG = 500_000  # multiplications in a call; for more, constants save more time than making an interpreter costs
_MAX_THREADS = 4
_ROUNDS = 3
_SCALES = (1.0, 0.25, 0.1)  # of the weights with which a lowered policy is checked
_OTHER_VALUES = "The lowered policy computes other values than TensorFlow does."


@dataclass(frozen=True)
class Lowerable:
    """A policy to be lowered.

    Attributes:
        forward: The policy with its sampling.
        arrays: Its current weights.
        layout: The layout of its observations.
        noise: The noise that it samples with.
        network: The Keras model in it, to name a layer that cannot be lowered.
        carry: The arrays that it keeps between the steps of an episode; ``()`` if it has no carry.
    """

    forward: Forward
    arrays: Sequence[np.ndarray]
    layout: ObservationLayout
    noise: NoiseSpec
    network: Any = None
    carry: tuple[CarrySpec, ...] = ()

    def work(self, batch_size: int) -> int:
        """Estimates the multiplications of a call: one per weight and observation; a convolution has many more."""
        return batch_size * sum(array.size for array in self.arrays)

    def heavy(self, batch_size: int) -> bool:
        """Returns whether weights should be constants: for a convolution, many weights, or a large batch."""
        return self.work(1) > _SMALL or self.work(batch_size) > _LONG or self.convolves

    @property
    def convolves(self) -> bool:
        """Whether it has kernels of more than two axes."""
        return any(array.ndim > 2 for array in self.arrays)


def _convertible_argmax(values: Any) -> Any:
    # keras.ops.argmax, which distinguishes 0.0 from -0.0, cannot be converted.
    return tf.argmax(values, axis=-1, output_type=tf.int64)


def convertible(policy: Lowerable) -> Forward:
    """Returns the policy's function with operations that LiteRT has; it is traced in both forms, lowered or not.

    The function checks the results, because the `choose` of a user's own agent may have returned them.
    """

    def call(observations: Any, noise: Any, weights: Sequence[Any], carry: tuple[Any, ...]) -> Any:
        with argmax_as(_convertible_argmax):
            returned = policy.forward(observations, noise, weights, carry)
        if not isinstance(returned, tuple) or len(returned) != 3:
            problem = "`choose` must return (choices, log_probs, carry)."
            fix = "The third is the carry for the next step; an agent without a carry returns `()`, as it was given."
            count = len(returned) if isinstance(returned, tuple | list) else type(returned).__name__
            raise ConfigurationError(describe(problem, fix=fix, returned=count))
        choices, log_probs, after = returned
        wrong = misfit(policy.carry, after, noise.shape[0])
        if wrong:
            problem = f"The carry that `choose` returns must be as `carry_specs` says, but {wrong}."
            raise ConfigurationError(describe(problem, carry_specs=policy.carry))
        return choices, log_probs, tuple(after)

    return call


class FunctionActor:
    """An `Actor` that calls a compiled function: some hundred microseconds a call, for any batch size.

    Args:
        policy: The policy.
    """

    def __init__(self, policy: Lowerable) -> None:
        self.noise = policy.noise
        self.carry = policy.carry
        self._pack = policy.layout.pack
        self._function = tf.function(convertible(policy), autograph=False, reduce_retracing=True)
        self._weights: list[Any] | None = None

    def another(self) -> FunctionActor:
        """See `RepeatableActor.another`. The compiled function is shared, because it may be called in any thread."""
        made = copy.copy(self)
        made._weights = None
        return made

    def set_weights(self, arrays: Sequence[np.ndarray]) -> None:
        """See `Actor.set_weights`."""
        self._weights = [tf.convert_to_tensor(array) for array in arrays]

    def act(
        self, observations: Sequence[np.ndarray], noise: np.ndarray, carry: Carry = ()
    ) -> tuple[np.ndarray, np.ndarray, Carry]:
        """See `Actor.act`."""
        if self._weights is None:
            raise LoweringError("The actor has no weights yet; call `set_weights` first.")
        wrong = misfit(self.carry, carry, len(noise))
        if wrong:
            raise LoweringError(f"The actor was given a carry that is not the policy's: {wrong}.")
        packed = self._pack([tf.convert_to_tensor(leaf) for leaf in observations])
        before = tuple(tf.convert_to_tensor(leaf) for leaf in carry)
        choices, log_probs, after = self._function(packed, tf.convert_to_tensor(noise), self._weights, before)
        return choices.numpy(), log_probs.numpy(), tuple(leaf.numpy() for leaf in after)


class Lowered:
    """Keeps the lowered forms of a policy by batch size.

    Lowering a policy takes a fifth of a second, and making an actor from a lowered policy takes a millisecond.

    Attributes:
        lock: Held while an actor is made, so that several threads do not lower the same policy.
    """

    def __init__(self) -> None:
        self._by_batch_size: dict[int, LoweredPolicy] = {}
        self.lock = threading.RLock()

    def get(self, policy: Lowerable, batch_size: int) -> LoweredPolicy:
        """Lowers the policy unless that was done before; raises a `LoweringError` if it cannot be lowered."""
        if batch_size not in self._by_batch_size:
            self._by_batch_size[batch_size] = lower(policy, batch_size)
        return self._by_batch_size[batch_size]


def make_actor(policy: Lowerable, batch_size: int, known: Lowered | None = None) -> Actor:
    """Makes the fastest actor for a policy.

    If lowering is impossible, acting falls back to a compiled function, with one warning that names the layer; where
    LiteRT is not installed, with one warning in a process.

    Args:
        policy: The policy.
        batch_size: Observations per call.
        known: The lowered forms of this policy that exist already.

    Returns:
        The actor; it has no weights yet.
    """
    try:
        lowered = (Lowered() if known is None else known).get(policy, batch_size)
    except LoweringError as error:
        if not installed():
            warn_once(error)
            return FunctionActor(policy)
        warnings.warn(
            f"{error} {blame(policy)} Acting falls back to a compiled TensorFlow function. The actions are the same, "
            "but a step takes some hundred microseconds instead of about ten for a small network.",
            stacklevel=2,
        )
        return FunctionActor(policy)
    # Convolutions whose kernels are inputs run unpacked, and for a batch the compiled function is faster.
    unpacked = any(array.ndim > 2 for k, array in enumerate(policy.arrays) if k not in lowered.constants)
    if unpacked and batch_size > 1:
        return FunctionActor(policy)
    return LiteRTActor(lowered)


def lower(policy: Lowerable, batch_size: int, *, as_constants: bool | None = None) -> LoweredPolicy:
    """Lowers a policy for a fixed batch size and checks the result against TensorFlow once.

    Args:
        policy: The policy.
        batch_size: Observations per call.
        as_constants: Whether weights are constants of the flatbuffer instead of inputs. None chooses the faster form.

    Returns:
        The flatbuffer with the facts that an actor needs.

    Raises:
        LoweringError: An operation has no LiteRT kernel, or the values disagree; or LiteRT is not installed.
    """
    require_litert()
    constants = policy.heavy(batch_size) if as_constants is None else as_constants
    # For short calls, waking threads takes more time than the threads save.
    threads = min(os.cpu_count() or 1, _MAX_THREADS) if policy.work(1) > _SMALL else 1
    try:
        if constants:
            # The converter may have merged constants; inputs it cannot merge.
            with contextlib.suppress(_ValuesDisagreeError):
                return replace(_lowered(policy, batch_size, _marks(policy)), num_threads=threads)
        return replace(_lowered(policy, batch_size, {}), num_threads=threads)
    except OptixError:  # an agent that breaks its contract could not act with a compiled function either
        raise
    except Exception as error:  # the converter, the interpreter and tracing each raise their own types
        raise LoweringError(f"The policy cannot be lowered: {first_reason(error)}.") from error


def _marks(policy: Lowerable) -> dict[int, np.ndarray]:
    """Returns markers for all weights that can be constants, by the number of the weight."""
    return {k: m for k, m in enumerate(markers(policy.arrays)) if policy.arrays[k].dtype == np.float32}


def _lowered(policy: Lowerable, batch_size: int, marks: Mapping[int, np.ndarray]) -> LoweredPolicy:
    """Converts the weights that have markers to constants; weights that are not found afterwards become inputs."""
    for _ in range(_ROUNDS):
        lowered = _convert(policy, batch_size, marks)
        found = find_constants(lowered.blob, marks)
        if len(found) == len(marks):
            lowered = replace(lowered, constants=found)
            _check(policy, lowered)
            return lowered
        marks = {k: marks[k] for k in found}
    raise _ValuesDisagreeError("The weights cannot be found in the flatbuffer.")


def _convert(policy: Lowerable, batch_size: int, marks: Mapping[int, np.ndarray]) -> LoweredPolicy:
    leaves = policy.layout.leaves
    inputs = [k for k in range(len(policy.arrays)) if k not in marks]
    forward = convertible(policy)
    given_carry = [
        tf.TensorSpec((batch_size, *spec.shape), spec.dtype, name=f"carry{k}") for k, spec in enumerate(policy.carry)
    ]
    specs = [
        *(tf.TensorSpec((batch_size, *leaf.shape), leaf.dtype, name=f"obs{k}") for k, leaf in enumerate(leaves)),
        tf.TensorSpec((batch_size, *policy.noise.shape), tf.float32, name="noise"),
        *given_carry,
        *(tf.TensorSpec(policy.arrays[k].shape, policy.arrays[k].dtype, name=f"w{k}") for k in inputs),
    ]

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def flat(*given: Any) -> Any:
        parts = iter(given)
        observations, noise = list(itertools.islice(parts, len(leaves))), next(parts)
        carry = tuple(itertools.islice(parts, len(given_carry)))
        rest = list(parts)
        weights = {k: tf.constant(mark) for k, mark in marks.items()} | dict(zip(inputs, rest, strict=True))
        in_order = [weights[k] for k in range(len(weights))]
        choices, log_probs, after = forward(policy.layout.pack(observations), noise, in_order, carry)
        return [choices, log_probs, *after]

    concrete = flat.get_concrete_function(*specs)
    with STDERR.without_all():
        # The second argument must be the function, never the Keras model: with a model, captured variables are
        # converted without an error and give NaN.
        blob = tf.lite.TFLiteConverter.from_concrete_functions([concrete], flat).convert()
    return LoweredPolicy(blob, batch_size, len(leaves), policy.noise, len(policy.arrays), carry=policy.carry)


class _ValuesDisagreeError(LoweringError):
    pass


class _LogProbsDisagreeError(_ValuesDisagreeError):
    pass


def _check(policy: Lowerable, lowered: LoweredPolicy) -> None:
    """Compares calls of the interpreter with TensorFlow.

    Large weights lead to actions at their bounds, if a distribution has bounds. There, the log-density of an action
    changes by more than the tolerance if the action changes by its rounding error, so it may agree for smaller weights.
    """
    for scale in _SCALES:
        try:
            _compare(policy, lowered, scale)
            return
        except _LogProbsDisagreeError:
            if scale == _SCALES[-1]:
                raise


def _compare(policy: Lowerable, lowered: LoweredPolicy, scale: float) -> None:
    """Compares one call of the interpreter with TensorFlow, with weights multiplied by `scale`."""
    rng = np.random.default_rng(0)
    n = lowered.batch_size
    observations = [example(rng, leaf, n) for leaf in policy.layout.leaves]
    noise = lowered.noise.draw(rng, (n,))
    # Other weights than the current ones are used, because the loss of a bias that is zero now would not be seen.
    arrays = [_varied(rng, array, scale) for array in policy.arrays]
    actor = LiteRTActor(lowered)
    actor.set_weights(arrays)
    carry = tuple(example_carry(rng, leaf) for leaf in initial_carry(policy.carry, n))
    choices, log_probs, after = actor.act(observations, noise, carry)
    packed = policy.layout.pack([tf.convert_to_tensor(leaf) for leaf in observations])
    outputs = convertible(policy)(
        packed,
        tf.convert_to_tensor(noise),
        [tf.convert_to_tensor(array) for array in arrays],
        tuple(tf.convert_to_tensor(leaf) for leaf in carry),
    )
    expected_choices, expected, expected_carry = outputs[0].numpy(), outputs[1].numpy(), outputs[2]
    if choices.dtype.kind == "f":
        same = np.isclose(choices, expected_choices, rtol=1e-3, atol=1e-4).reshape(n, -1).all(-1)
    else:
        same = (choices == expected_choices).reshape(n, -1).all(-1)
    # Choices may differ if two actions are equal within rounding. Log-probabilities of equal choices must agree.
    if same.mean() < 0.9:
        raise _ValuesDisagreeError(_OTHER_VALUES)
    if not np.allclose(log_probs[same], expected[same], rtol=1e-3, atol=1e-4):
        raise _LogProbsDisagreeError(_OTHER_VALUES)
    # Such a choice may be part of the carry, so that here, too, a tenth of the environments may disagree.
    for found, wanted in zip(after, expected_carry, strict=True):
        close = np.isclose(found, wanted.numpy(), rtol=1e-3, atol=1e-4, equal_nan=True).reshape(n, -1).all(-1)
        if close.mean() < 0.9:
            raise _ValuesDisagreeError("The lowered policy computes another carry than TensorFlow does.")


def example(rng: np.random.Generator, leaf: Any, n: int) -> np.ndarray:
    """Draws `n` observations of a leaf, as windows keep them."""
    shape = (n, *leaf.shape)
    if leaf.continuous:
        return np.asarray(rng.normal(size=shape), leaf.dtype)
    return np.asarray(rng.integers(0, 2, shape), leaf.dtype)


def example_carry(rng: np.random.Generator, initial: np.ndarray) -> np.ndarray:
    """Draws an array of a carry near its initial value."""
    if initial.dtype.kind == "f":
        return np.asarray(initial + rng.normal(size=initial.shape), initial.dtype)
    return np.asarray(initial + rng.integers(0, 2, initial.shape), initial.dtype)


def _varied(rng: np.random.Generator, array: np.ndarray, scale: float) -> np.ndarray:
    if array.dtype.kind != "f":
        return array
    factor = rng.uniform(0.7, 1.3, array.shape)
    return np.asarray(scale * (array * factor + rng.uniform(0.0, 0.02, array.shape)), array.dtype)


def blame(policy: Lowerable) -> str:
    """Names the first layer of the network that cannot be converted, or another cause."""
    layers = [
        layer for layer in getattr(policy.network, "layers", ()) if not isinstance(layer, keras.layers.InputLayer)
    ]
    try:
        for layer in layers:
            if not _converts(keras.Model(policy.network.inputs, layer.output)):
                return f"The layer in the way is {layer.name} ({type(layer).__name__})."
        if layers:
            return (
                "Every layer of the policy can be lowered: what is in the way is its distribution over actions, or "
                "`choose`."
            )
    except (AttributeError, ValueError):
        pass  # a subclass has no symbolic inputs
    names = ", ".join(f"{layer.name} ({type(layer).__name__})" for layer in layers)
    return f"Layers of the policy: {names or 'unknown'}."


def _converts(part: Any) -> bool:
    function = tf.function(lambda *inputs: part(list(inputs) if len(inputs) > 1 else inputs[0], training=False))
    specs = [tf.TensorSpec((1, *tensor.shape[1:]), tensor.dtype) for tensor in part.inputs]
    try:
        concrete = function.get_concrete_function(*specs)
        with STDERR.without_all():
            tf.lite.TFLiteConverter.from_concrete_functions([concrete], function).convert()
    except Exception:  # as in `lower`
        return False
    return True


def first_reason(error: Exception) -> str:
    """Returns the line of a converter's error that names the operation."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if "ops:" in line or "op is neither" in line]
    return (named or lines or [type(error).__name__])[0][:300].rstrip(".")
