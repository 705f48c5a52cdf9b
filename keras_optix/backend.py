"""Which parts run on TensorFlow only, and what is said where Keras runs on another backend."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path

from keras_optix.errors import BackendError

_MODULES = (  # what needs TensorFlow, with all that is in it
    "keras_optix.agents.",
    "keras_optix.experience.dataset",
    "keras_optix.experience.lowering",
    "keras_optix.experience.live.stream_dataset",
)


def backend_name() -> str:
    """The backend of Keras: of the one that is imported, else the one that it will take."""
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
    """Checks that a name can be loaded with the backend at hand.

    Args:
        name: What was asked for.
        module: Where it is.

    Raises:
        BackendError: It needs TensorFlow, and Keras runs on another backend, or TensorFlow is not installed.
    """
    if not module.startswith(_MODULES):
        return
    backend = backend_name()
    if backend != "tensorflow":
        raise BackendError(
            f"{name} runs on TensorFlow, and Keras runs on another backend. Received: KERAS_BACKEND={backend!r}. Set "
            "KERAS_BACKEND=tensorflow before Keras is imported. Ordinary fits (OptixCallback on a Keras model) are "
            "supported on JAX and Torch as well."
        )
    if "tensorflow" not in sys.modules and importlib.util.find_spec("tensorflow") is None:
        raise BackendError(
            f"{name} runs on TensorFlow, which is not installed. Run `pip install tensorflow`. Ordinary fits "
            "(OptixCallback on a Keras model) are supported on JAX and Torch as well: set KERAS_BACKEND."
        )
