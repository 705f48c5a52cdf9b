"""Initial weights of default networks, in any dtype."""

from __future__ import annotations

from typing import Any

import keras

_NARROW = ("bfloat16", "float16")


@keras.saving.register_keras_serializable("keras_optix")
class NarrowOrthogonal(keras.initializers.Orthogonal):  # type: ignore[misc]
    """Orthogonal weights in 16 bits. They are made in float32, because TensorFlow cannot decompose 16-bit matrices."""

    def __call__(self, shape: Any, dtype: Any = None) -> Any:
        """See `keras.initializers.Orthogonal`."""
        return keras.ops.cast(super().__call__(shape, dtype="float32"), dtype or keras.config.floatx())


def orthogonal(gain: float) -> Any:
    """Returns an orthogonal initializer for layers of the current dtype policy.

    Args:
        gain: Factor that the orthogonal matrix is multiplied with.
    """
    narrow = keras.config.dtype_policy().variable_dtype in _NARROW
    # Keras' own initializer is used if possible, because a saved policy can then be loaded without this package.
    return NarrowOrthogonal(gain) if narrow else keras.initializers.Orthogonal(gain)
