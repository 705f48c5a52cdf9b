"""Loads packages that only some features need."""

from __future__ import annotations

import importlib
from typing import Any

from keras_optix.errors import ConfigurationError, describe


def load_optional(module: str, *, needed_by: str, extra: str) -> Any:
    """Loads a package that is installed with an extra of this package.

    Args:
        module: The module to import, such as ``"mlflow"``.
        needed_by: What needs it, in messages.
        extra: The extra that installs it.

    Returns:
        The module.

    Raises:
        ConfigurationError: It is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        absent = isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == package
        state = "is not installed" if absent else f"cannot be imported ({error})"
        fix = f"Install it with `pip install 'keras_optix[{extra}]'`."
        raise ConfigurationError(describe(f"`{needed_by}` needs {package}, which {state}.", fix=fix)) from error
