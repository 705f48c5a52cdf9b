"""What ``optix.json`` says of an agent on the Hub; see `hub`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_optix.errors import StateError, describe
from keras_optix.states import Count, Finite, NonNegative, Positive, State, read_state
from keras_optix.store.files import UNREADABLE, parse_json, read_bytes

AGENT, DESCRIPTION = "agent.keras", "optix.json"
FORMAT = 1
FIX = "Load it from the revision that its author meant, or ask the author to push it again."
_LARGEST = 2**20  # bytes of a description


class HubEvaluation(State, frozen=True):
    """The score of an agent, as its author measured it.

    Attributes:
        score: The mean of the episodes' returns, or another score.
        stderr: Its standard error; None if it is not known.
        episodes: The number of episodes; None if it is not known.
        metrics: Other numbers by name.
    """

    score: Finite
    stderr: NonNegative | None
    episodes: Positive | None
    metrics: dict[str, Finite]


class HubDescription(State, frozen=True):
    """What ``optix.json`` says of the agent in a repository.

    Attributes:
        format: The version of these fields.
        agent: The class of the agent.
        env: The environment that it plays; None if it is not known.
        env_steps: Env steps that it has learned from; None if they are not known.
        policy_version: The number of updates of its weights.
        evaluation: Its score; None if none was given.
        hyperparams: Its hyperparameters by name.
        observation_space: As `spaces_json.to_json` describes it.
        action_space: Likewise.
        versions: The versions of the libraries with which it was saved.
        sha256: Checksum of ``agent.keras``.
    """

    format: Positive
    agent: str
    env: str | None
    env_steps: Count | None
    policy_version: Count
    evaluation: HubEvaluation | None
    hyperparams: dict[str, Finite]
    observation_space: dict[str, Any]
    action_space: dict[str, Any]
    versions: dict[str, str]
    sha256: str


def read_description(path: Path, repo_id: str) -> HubDescription:
    """Reads and checks ``optix.json``.

    Raises:
        StateError: It cannot be read, it is of a newer format, or an entry is missing, unknown or of another type.
    """
    what = f"{DESCRIPTION} of {repo_id}"
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError("it is too large")
        values = parse_json(read_bytes(path))
    except UNREADABLE as error:
        raise StateError(describe(f"The {what} cannot be read: {error}.", fix=FIX)) from error
    version = values.get("format") if isinstance(values, Mapping) else None
    if isinstance(version, int) and version > FORMAT:
        fix = "Install a newer keras_optix: `pip install --upgrade keras_optix`."
        raise StateError(describe(f"The {what} was written by a newer keras_optix.", fix=fix, format=version))
    return read_state(HubDescription, values, what, FIX)
