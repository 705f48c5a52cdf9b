"""Knows which modules need TensorFlow, and raises a clear error if Keras runs on another backend."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path

from keras_optix.errors import BackendError

_MODULES = (  # beginnings of the names of modules that need TensorFlow
    "keras_optix.agents.",
    "keras_optix.experience.dataset",
    "keras_optix.experience.lowering",
    "keras_optix.experience.live.stream_dataset",
)


def backend_name() -> str:
    """Returns the backend of Keras: the current one if Keras is imported, otherwise the one that it will choose."""
    keras = sys.modules.get("keras")
    if keras is not None and hasattr(keras, "config"):
        name: str = keras.config.backend()
        return name
    if "KERAS_BACKEND" in os.environ:
        return os.environ["KERAS_BACKEND"]
    try:
        home = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras"))
        return str(json.loads((home / "keras.json").read_text()).get("backend", "tensorflow"))
    except (OSError, ValueError, AttributeError):
        return "tensorflow"


def check_backend(name: str, module: str) -> None:
    """Checks that a name can be loaded with the current backend.

    Args:
        name: The name that was read.
        module: The module that it is in.

    Raises:
        BackendError: The name needs TensorFlow, and Keras runs on another backend, or TensorFlow is not installed.
    """
    if not module.startswith(_MODULES):
        return
    backend = backend_name()
    if backend != "tensorflow":
        raise BackendError(
            f"{name} needs TensorFlow, and Keras runs on another backend. Received: KERAS_BACKEND={backend!r}. Set "
            "KERAS_BACKEND=tensorflow before Keras is imported. Ordinary fits (OptixCallback on a Keras model) are "
            "supported on JAX and Torch as well."
        )
    if "tensorflow" not in sys.modules and importlib.util.find_spec("tensorflow") is None:
        raise BackendError(
            f"{name} needs TensorFlow, which is not installed. Run `pip install tensorflow`. Ordinary fits "
            "(OptixCallback on a Keras model) are supported on JAX and Torch as well: set KERAS_BACKEND."
        )
