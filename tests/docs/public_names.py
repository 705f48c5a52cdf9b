"""All public names: those of the package and of its groups, and where each is documented."""

from __future__ import annotations

import inspect
from typing import Any

import keras_optix


def _names_in(group: Any) -> list[str]:
    if hasattr(group, "__all__"):
        return list(group.__all__)
    return [
        name
        for name, value in vars(group).items()
        if inspect.isclass(value) and value.__module__ == group.__name__ and not name.startswith("_")
    ]


def public_names() -> dict[str, Any]:
    """Returns each public object by its shortest name: ``PPOAgent``, ``tuners.Log``."""
    found: dict[str, Any] = {}
    groups = {}
    for name in keras_optix.__all__:
        value = getattr(keras_optix, name)
        (groups if inspect.ismodule(value) else found)[name] = value
    for group, module in groups.items():
        for name in _names_in(module):
            value = getattr(module, name)
            if not any(value is known for known in found.values()):
                found[f"{group}.{name}"] = value
    return found
