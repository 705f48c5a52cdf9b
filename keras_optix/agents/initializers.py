"""Initial weights of default networks, in any dtype."""

from __future__ import annotations

from typing import Any

import keras

_NARROW = ("bfloat16", "float16")


@keras.saving.register_keras_serializable("keras_optix")
class NarrowOrthogonal(keras.initializers.Orthogonal):  # type: ignore[misc]
    """Orthogonal weights for 16 bits: TensorFlow decomposes no matrix of these, so it is done in float32."""

    def __call__(self, shape: Any, dtype: Any = None) -> Any:
        """See `keras.initializers.Orthogonal`."""
        return keras.ops.cast(super().__call__(shape, dtype="float32"), dtype or keras.config.floatx())


def orthogonal(gain: float) -> Any:
    """An orthogonal initializer for layers of the current dtype policy.

    Args:
        gain: Factor of the matrix.
    """
    narrow = keras.config.dtype_policy().variable_dtype in _NARROW
    # Where Keras' own will do, a saved policy can be loaded without this package.
    return NarrowOrthogonal(gain) if narrow else keras.initializers.Orthogonal(gain)
