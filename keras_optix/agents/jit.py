"""Decides whether ``compile(jit_compile="auto")`` compiles a train step with XLA.

On a CPU it depends on the layers. The table shows how many times faster gradient steps are with XLA than without (two
quiet cores, minibatches of 64 rows; `benchmarks/compile.py --layers` repeats the measurement):

============================================== ===================
layer                                          without / with XLA
============================================== ===================
Dense, 64 to 512 units; EinsumDense            1.5 to 3
Embedding; activations with weights            2
normalisation (layer, batch, group, RMS, unit) 1.8 to 2.1
LSTM, GRU, SimpleRNN, Bidirectional            0.9 of a window
MultiHeadAttention                             2.1 to 2.5
the same with dropout                          0.3
pooling (the best: MaxPooling3D, 16)           1.6 to 3.9
Dropout, GaussianNoise                         0.1
Conv1D, Conv2D, Conv3D, separable, depthwise   0.1 to 0.6
Conv1DTranspose, Conv2DTranspose               1.0 and 0.4
============================================== ===================

A wrong choice costs more in one direction than in the other: a dense network without XLA takes at most three times as
long, a convolution with XLA ten times as long or more. So XLA is used only if all layers of the networks were measured
to gain from it, or only reshape, add or join. A network with a layer that was not measured, or with a custom layer, is
compiled without XLA. This is a fixed rule and not a trial at the start, so that two runs with one seed compute the same
numbers. Gradient steps of recurrent layers alone are 1.2 to 2.2 times faster with XLA (0.6 with `unroll=True`). But
without XLA the steps of policy and value run in parallel, so that a whole window is slower with XLA. Even without XLA
for the step, the weight update of a Keras optimizer is compiled with XLA separately (`gradient_step.fusible`), because
it is always faster.

On an accelerator, Keras itself chooses XLA if all layers support it, and so does this module.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from keras_optix.agents.networks import declared_inputs
from keras_optix.errors import ConfigurationError, describe

AUTO = "auto"
_FAST = frozenset(
    {
        keras.layers.Activation,
        keras.layers.ActivityRegularization,
        keras.layers.Add,
        keras.layers.Average,
        keras.layers.AveragePooling1D,
        keras.layers.AveragePooling2D,
        keras.layers.BatchNormalization,
        keras.layers.Concatenate,
        keras.layers.Cropping1D,
        keras.layers.Cropping2D,
        keras.layers.Dense,
        keras.layers.Dot,
        keras.layers.ELU,
        keras.layers.EinsumDense,
        keras.layers.Embedding,
        keras.layers.Flatten,
        keras.layers.GlobalAveragePooling1D,
        keras.layers.GlobalAveragePooling2D,
        keras.layers.GlobalMaxPooling1D,
        keras.layers.GlobalMaxPooling2D,
        keras.layers.GroupNormalization,
        keras.layers.Identity,
        keras.layers.InputLayer,
        keras.layers.LayerNormalization,
        keras.layers.LeakyReLU,
        keras.layers.MaxPooling1D,
        keras.layers.MaxPooling2D,
        keras.layers.MaxPooling3D,
        keras.layers.Maximum,
        keras.layers.Minimum,
        keras.layers.MultiHeadAttention,
        keras.layers.Multiply,
        keras.layers.Normalization,
        keras.layers.PReLU,
        keras.layers.Permute,
        keras.layers.RMSNormalization,
        keras.layers.ReLU,
        keras.layers.RepeatVector,
        keras.layers.Rescaling,
        keras.layers.Reshape,
        keras.layers.Softmax,
        keras.layers.Subtract,
        keras.layers.UnitNormalization,
        keras.layers.ZeroPadding1D,
        keras.layers.ZeroPadding2D,
    }
)
_DROPOUT = "dropout"  # with this option, layers draw random numbers, which XLA makes slow
# Slow operations of `keras.ops` in a functional model. All others work elementwise, multiply matrices or move data.
_SLOW_OPERATION = re.compile(
    r".*conv.*|.*fft.*|.*attention|.*scan|.*loop|.*map|.*sort|topk|solve.*|lstsq|eig.*|svd|qr|cholesky.*|inv"
)


class JitChoice(NamedTuple):
    """The choice that ``jit_compile="auto"`` made.

    Attributes:
        use: Whether the train step is compiled with XLA.
        reason: The reason, a clause.
    """

    use: bool
    reason: str

    def __str__(self) -> str:
        return f"jit_compile='auto' compiles the train step {'with' if self.use else 'without'} XLA: {self.reason}"


def check_jit(jit_compile: object) -> None:
    """Checks the argument `jit_compile`.

    Raises:
        ConfigurationError: The argument is neither a bool nor ``"auto"``.
    """
    if not isinstance(jit_compile, bool) and jit_compile != AUTO:
        raise ConfigurationError(describe("`jit_compile` must be True, False or 'auto'.", jit_compile=jit_compile))


def choose_jit(networks: Sequence[tuple[str, Any]]) -> JitChoice:
    """Chooses by the layers of the networks and the device.

    Args:
        networks: The networks that an agent trains: names and `keras.Model`s.

    Returns:
        The choice.
    """
    found = [(role, layer) for role, network in networks for layer in _parts(network)]
    for role, layer in found:
        if not getattr(layer, "supports_jit", True):
            return JitChoice(False, f"{_said(role, layer)} does not support it")
    if any(device.device_type != "CPU" for device in tf.config.get_visible_devices()):
        return JitChoice(True, "there is an accelerator, and all layers support it")
    for role, layer in found:
        if not _is_fast(layer):
            return JitChoice(False, f"on a CPU {_said(role, layer)} may be many times slower with it")
    return JitChoice(True, "on a CPU all layers of the networks are faster with it")


def apply_choice(model: Any, choice: JitChoice) -> JitChoice:
    """Sets `model.jit_compile`, and returns the resulting choice. Keras may refuse to compile the model with XLA."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Model doesn't support `jit_compile=True`", UserWarning)
        model.jit_compile = choice.use
    return choice if bool(model.jit_compile) == choice.use else JitChoice(False, "Keras says that the model cannot")


def _parts(network: Any) -> Iterator[Any]:
    """Yields the layers and operations of a network, including those inside nested models."""
    if isinstance(network, keras.Model) and not _says_all(network):
        yield network
        return
    for part in getattr(network, "operations", None) or network.layers:
        if isinstance(part, keras.Model):
            yield from _parts(part)
        else:
            yield part


def _says_all(network: Any) -> bool:
    """Returns whether a network is of one of Keras' own classes, so that its layers are all that it computes."""
    return _is_keras(network) and (declared_inputs(network) is not None or isinstance(network, keras.Sequential))


def _is_fast(part: Any) -> bool:
    if type(part) is keras.layers.TimeDistributed:
        return _is_fast(part.layer)
    if isinstance(part, keras.Layer):
        return type(part) in _FAST and not part.get_config().get(_DROPOUT)
    return _is_keras(part) and _SLOW_OPERATION.fullmatch(type(part).__name__.lower()) is None


def _is_keras(part: Any) -> bool:
    return type(part).__module__.split(".")[0] == "keras"


def _said(role: str, part: Any) -> str:
    return f"the {role}'s {part.name} ({type(part).__name__})"
