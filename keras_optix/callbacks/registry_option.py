"""Checks the option `registry`, and says for misplaced objects which option takes them."""

from __future__ import annotations

from typing import Any

from keras_optix.kinds import kind_of
from keras_optix.store.registry import CheckpointRegistry
from keras_optix.validation import check_kind, check_path

# The option that takes each kind of object.
HOMES = {
    "an evaluator": "evaluator",
    "a scheduler": "scheduler",
    "a tuner": "tuner",
    "a registry": "registry",
    "a policy manager": "policy_manager",
    "a callback of the loop": "callbacks",
}


def homes_but(name: str) -> dict[str, str]:
    """Returns what a message recommends for each kind of object that another option than `name` takes."""
    return {words: f"Give it as `{home}=`." for words, home in HOMES.items() if home != name}


def registry_of(given: Any) -> CheckpointRegistry | None:
    """Returns the given registry, or a registry in the given directory; None if nothing was given.

    Raises:
        ConfigurationError: `given` is neither a registry nor a path.
        RegistryError: The directory cannot be written.
    """
    if isinstance(given, str | bytes) or kind_of(given) == "a path":
        return CheckpointRegistry(check_path("registry", given))
    registry: CheckpointRegistry | None = check_kind(
        "registry",
        given,
        CheckpointRegistry,
        wanted="a CheckpointRegistry or the path of a directory",
        fix='For example registry=CheckpointRegistry("checkpoints").',
        hints=homes_but("registry"),
        optional=True,
    )
    return registry
