"""Finds the LiteRT runtime, which not every platform has: agents then act by a compiled function of TensorFlow.

The package `ai-edge-litert` has wheels where TensorFlow has some: for Linux on x86-64 and 64-bit ARM, macOS on ARM and
Windows on x86-64. But a library of the system may be missing, or too old for it.
"""

from __future__ import annotations

import importlib
import threading
import warnings
from typing import Any

from keras_optix.errors import LoweringError


def _found(name: str) -> tuple[Any, str]:
    """Returns a module of the runtime, or why it cannot be imported."""
    try:
        return importlib.import_module(f"ai_edge_litert.{name}"), ""
    except (ImportError, OSError) as error:  # the second if a library of the system is missing
        return None, str(error)


_interpreter, _reason = _found("interpreter")
Interpreter: Any = getattr(_interpreter, "Interpreter", None)
schema: Any = _found("schema_py_generated")[0]
_lock = threading.Lock()
_told = False


def require_litert() -> None:
    """Checks that the runtime is there.

    Raises:
        LoweringError: It is not.
    """
    if not installed():
        reason = _reason or "it lacks a module"
        raise LoweringError(f"LiteRT cannot be imported: {reason}. `pip install ai-edge-litert` installs it.")


def warn_once(error: LoweringError) -> None:
    """Warns, once in a process, that agents act without LiteRT."""
    global _told
    with _lock:
        told, _told = _told, True
    if not told:
        warnings.warn(
            f"{error} Agents act by a compiled TensorFlow function instead. The actions are the same, but a step takes "
            "some hundred microseconds instead of about ten for a small network.",
            stacklevel=3,
        )


def installed() -> bool:
    """Returns whether the runtime is there."""
    return Interpreter is not None and schema is not None
