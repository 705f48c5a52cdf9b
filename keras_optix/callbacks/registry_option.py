"""A registry as an option: the object, or the path of its directory; and where other objects belong."""

from __future__ import annotations

from typing import Any

from keras_optix.kinds import kind_of
from keras_optix.store.registry import CheckpointRegistry
from keras_optix.validation import check_kind, check_path

# Where objects belong that are given in the place of another.
HOMES = {
    "an evaluator": "evaluator",
    "a scheduler": "scheduler",
    "a tuner": "tuner",
    "a registry": "registry",
    "a policy manager": "policy_manager",
    "a callback of the loop": "callbacks",
}


def homes_but(name: str) -> dict[str, str]:
    """What to say of an object that belongs to another option than this one."""
    return {words: f"Give it as `{home}=`." for words, home in HOMES.items() if home != name}


def registry_of(given: Any) -> CheckpointRegistry | None:
    """The registry: what was given, or one in the directory that was given.

    Raises:
        ConfigurationError: It is neither.
        RegistryError: The directory cannot be written.
    """
    if isinstance(given, str | bytes) or kind_of(given) == "a path":
        return CheckpointRegistry(check_path("registry", given))
    registry: CheckpointRegistry | None = check_kind(
        "registry",
        given,
        CheckpointRegistry,
        wanted="a CheckpointRegistry or the path of a directory",
        fix='Such as registry=CheckpointRegistry("checkpoints").',
        hints=homes_but("registry"),
        optional=True,
    )
    return registry
