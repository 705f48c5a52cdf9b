"""Lowers a policy with its sampling to a LiteRT flatbuffer, or to a compiled function where that cannot be done."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_optix.errors import LoweringError
from keras_optix.experience.actor import Actor, LiteRTActor, LoweredPolicy, NoiseSpec, quiet_stderr

Forward = Callable[[Any, Any, Sequence[Any]], tuple[Any, Any]]
"""``(observations [N, ...], noise [N, ...], weights) -> (actions [N], log_probs [N])``, in TensorFlow."""


class FunctionActor:
    """An `Actor` that calls a compiled function: some hundred microseconds a call, for any batch size.

    Args:
        forward: The policy with its sampling.
        noise: The noise that it samples with.
    """

    def __init__(self, forward: Forward, noise: NoiseSpec) -> None:
        self.noise = noise
        self._function = tf.function(forward, autograph=False, reduce_retracing=True)
        self._weights: list[Any] | None = None

    def set_weights(self, arrays: Sequence[np.ndarray]) -> None:
        """See `Actor.set_weights`."""
        self._weights = [tf.convert_to_tensor(array) for array in arrays]

    def act(self, observations: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `Actor.act`."""
        if self._weights is None:
            raise LoweringError("The actor has no weights yet; call `set_weights` first.")
        outputs = self._function(tf.convert_to_tensor(observations), tf.convert_to_tensor(noise), self._weights)
        actions, log_probs = outputs
        return actions.numpy(), log_probs.numpy()


def lower(
    forward: Forward,
    arrays: Sequence[np.ndarray],
    *,
    observation_shape: tuple[int, ...],
    observation_dtype: np.dtype[Any],
    noise: NoiseSpec,
    batch_size: int,
) -> LoweredPolicy:
    """Lowers `forward` for a fixed batch size and checks the result against TensorFlow once.

    Weights are inputs of the flatbuffer, so that a new policy version needs no conversion.

    Args:
        forward: The policy with its sampling.
        arrays: Its current weights, for shapes, dtypes and the check.
        observation_shape: Shape of one observation.
        observation_dtype: Dtype of observations.
        noise: The noise that it samples with.
        batch_size: Observations per call.

    Returns:
        The flatbuffer with what an actor needs to know of it.

    Raises:
        LoweringError: An operation has no LiteRT kernel, or the values disagree.
    """
    specs = [
        tf.TensorSpec((batch_size, *observation_shape), observation_dtype, name="obs"),
        tf.TensorSpec((batch_size, *noise.shape), tf.float32, name="noise"),
        *(tf.TensorSpec(array.shape, array.dtype, name=f"w{k}") for k, array in enumerate(arrays)),
    ]

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def flat(*inputs: Any) -> Any:
        return forward(inputs[0], inputs[1], inputs[2:])

    try:
        concrete = flat.get_concrete_function(*specs)
        with quiet_stderr():
            # The second argument must be the function, never the Keras model: with a model, captured variables
            # convert without a word and give NaN.
            blob = tf.lite.TFLiteConverter.from_concrete_functions([concrete], flat).convert()
        lowered = LoweredPolicy(blob, batch_size, noise, len(arrays))
        _check(lowered, flat, specs, arrays)
    except LoweringError:
        raise
    except Exception as error:  # the converter, the interpreter and tracing each fail in types of their own
        raise LoweringError(f"The policy cannot be lowered: {_first_reason(error)}") from error
    return lowered


def make_actor(
    forward: Forward,
    arrays: Sequence[np.ndarray],
    *,
    layers: Sequence[Any] = (),
    observation_shape: tuple[int, ...],
    observation_dtype: np.dtype[Any],
    noise: NoiseSpec,
    batch_size: int,
) -> Actor:
    """Lowers a policy if it can be, else compiles it and warns once which layers are to blame.

    Args:
        forward: The policy with its sampling.
        arrays: Its current weights.
        layers: Layers of the policy, named in the warning.
        observation_shape: Shape of one observation.
        observation_dtype: Dtype of observations.
        noise: The noise that it samples with.
        batch_size: Observations per call.

    Returns:
        The actor; it has no weights yet.
    """
    try:
        lowered = lower(
            forward,
            arrays,
            observation_shape=observation_shape,
            observation_dtype=observation_dtype,
            noise=noise,
            batch_size=batch_size,
        )
    except LoweringError as error:
        names = ", ".join(f"{layer.name} ({type(layer).__name__})" for layer in layers) or "unknown"
        warnings.warn(
            f"{error} Acting falls back to a compiled TensorFlow function: the same actions, some hundred "
            f"microseconds a step instead of about ten. Layers of the policy: {names}.",
            stacklevel=2,
        )
        return FunctionActor(forward, noise)
    return LiteRTActor(lowered)


def _check(lowered: LoweredPolicy, flat: Any, specs: Sequence[Any], arrays: Sequence[np.ndarray]) -> None:
    """Compares one call of the interpreter with TensorFlow."""
    rng = np.random.default_rng(0)
    shape, dtype = tuple(specs[0].shape), specs[0].dtype.as_numpy_dtype
    floats = np.issubdtype(dtype, np.floating)
    observations = (rng.normal(size=shape) if floats else rng.integers(0, 2, shape)).astype(dtype)
    noise = lowered.noise.draw(rng, (lowered.batch_size,))
    actor = LiteRTActor(lowered)
    actor.set_weights(arrays)
    actions, log_probs = actor.act(observations, noise)
    expected_actions, expected = (output.numpy() for output in flat(observations, noise, *arrays))
    same = actions == expected_actions
    # A tie within rounding may go either way; log-probabilities of equal actions must agree.
    if same.mean() < 0.9 or not np.allclose(log_probs[same], expected[same], rtol=1e-3, atol=1e-4):
        raise LoweringError("The lowered policy computes other values than TensorFlow does.")


def _first_reason(error: Exception) -> str:
    """The line of a converter's error that names the operation."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if "ops:" in line or "op is neither" in line]
    return (named or lines or [type(error).__name__])[0][:300]
