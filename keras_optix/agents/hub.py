"""Shares agents on the Hugging Face Hub, or on a server of its kind, and loads them from there.

A repository has these files:

============== ====================================================================================================
agent.keras    the agent, as `agent.save` writes it
optix.json     a `HubDescription`: the spaces, the evidence, the versions, and the checksum of ``agent.keras``
policy.tflite  the policy, as `agent.export_policy` writes it, if LiteRT has all of its operations
README.md      the model card, for people and for the search of the Hub
============== ====================================================================================================

What is loaded may be damaged or forged, so none of it is a pickle, and all of it is checked.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.metadata
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

import keras_optix
from keras_optix.agents.hub_card import card_of
from keras_optix.agents.hub_description import (
    AGENT,
    DESCRIPTION,
    FIX,
    FORMAT,
    HubDescription,
    HubEvaluation,
    read_description,
)
from keras_optix.agents.policy_file import policy_file
from keras_optix.errors import ConfigurationError, LoweringError, OptixError, StateError, describe
from keras_optix.experience import spaces_json
from keras_optix.kinds import with_article
from keras_optix.records import EvalMetrics
from keras_optix.states import to_json
from keras_optix.store.files import read_bytes
from keras_optix.validation import check_int, check_kind, check_name

POLICY, CARD = "policy.tflite", "README.md"
_LIBRARIES = ("tensorflow", "keras", "gymnasium", "numpy", "ai-edge-litert")


def push_to_hub(
    agent: Any,
    repo_id: str,
    *,
    evaluation: EvalMetrics | None,
    env: str | None,
    env_steps: int | None,
    private: bool | None,
    token: str | None,
    endpoint: str | None,
    commit_message: str | None,
) -> str:
    """See `Agent.push_to_hub`."""
    hub = _library()
    check_name("repo_id", repo_id, "the repository, such as 'user/ppo-cartpole'")
    env = env_of(agent) if env is None else check_name("env", env, "the name of the environment")
    steps = _env_steps_of(agent) if env_steps is None else check_int("env_steps", env_steps, minimum=0)
    observed = None if evaluation is None else _evaluation(evaluation)
    observation_space, action_space = agent.env_spaces
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / AGENT
        agent.save(saved)
        description = HubDescription(
            format=FORMAT,
            agent=type(agent).__name__,
            env=env,
            env_steps=steps,
            policy_version=agent.policy_version,
            evaluation=observed,
            hyperparams={name: float(value) for name, value in agent.get_hyperparams().params.items()},
            observation_space=spaces_json.to_json(observation_space),
            action_space=spaces_json.to_json(action_space),
            versions=_versions(),
            sha256=_checksum(saved),
        )
        files: dict[str, Any] = {AGENT: str(saved)}
        with contextlib.suppress(LoweringError):
            files[POLICY] = policy_file(agent, True, 1)
        files[DESCRIPTION] = json.dumps(to_json(description), indent=1, allow_nan=False).encode()
        files[CARD] = card_of(hub, repo_id, description, exported=POLICY in files).encode()
        api = hub.HfApi(endpoint=endpoint, token=token, library_name="keras_optix")
        repo = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        # One commit, so that whoever loads the repository never gets files of two agents.
        operations = [hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=given) for name, given in files.items()]
        message = commit_message or f"{description.agent} of keras_optix {keras_optix.__version__}"
        return str(api.create_commit(repo, operations, commit_message=message).commit_url)


def from_hub(
    cls: Any,
    repo_id: str,
    *,
    revision: str | None,
    custom_objects: Mapping[str, Any] | None,
    token: str | None,
    endpoint: str | None,
    cache_dir: Any,
) -> Any:
    """See `Agent.from_hub`."""
    hub = _library()
    check_name("repo_id", repo_id, "the repository, such as 'user/ppo-cartpole'")
    api = hub.HfApi(endpoint=endpoint, token=token, library_name="keras_optix")
    folder = api.snapshot_download(repo_id, revision=revision, cache_dir=cache_dir, allow_patterns=[AGENT, DESCRIPTION])
    # The library's cache consists of links to the files.
    files = {name: (Path(folder) / name).resolve() for name in (AGENT, DESCRIPTION)}
    missing = [name for name, path in files.items() if not path.is_file()]
    if missing:
        problem = "The repository has no agent of keras_optix."
        raise ConfigurationError(
            describe(problem, fix="`agent.push_to_hub` makes one.", repo_id=repo_id, missing=missing)
        )
    description = read_description(files[DESCRIPTION], repo_id)
    if _checksum(files[AGENT]) != description.sha256:
        problem = f"{AGENT} is not the file that {DESCRIPTION} describes: its checksum is another."
        raise StateError(describe(problem, fix=FIX, repo_id=repo_id))
    agent = _loaded(Path(folder) / AGENT, custom_objects, description, repo_id)
    if not isinstance(agent, cls):
        problem = f"The repository has {with_article(type(agent).__name__)}, which is no {cls.__name__}."
        raise ConfigurationError(describe(problem, fix="`optix.Agent.from_hub` loads any agent.", repo_id=repo_id))
    _check(agent, description, repo_id)
    return agent


def _loaded(path: Path, custom_objects: Mapping[str, Any] | None, description: HubDescription, repo_id: str) -> Any:
    """Loads the agent, in the safe mode of Keras, which runs no code of the file."""
    try:
        return keras.saving.load_model(path, custom_objects=dict(custom_objects or {}), safe_mode=True)
    except OptixError:
        raise
    except Exception as error:  # Keras raises whatever a damaged, forged or foreign configuration leads it to
        fix = (
            "If it has classes of its own, such as an algorithm or a layer, import the module that registers them, or "
            "give `custom_objects={name: class}`."
        )
        # Keras puts the errors of parts into that of the whole.
        innermost = str(error).rpartition("Exception encountered: ")[2].strip()
        reason = (innermost.splitlines() or [type(error).__name__])[0][:300]
        problem = f"The {description.agent} in the repository cannot be loaded: {reason.rstrip('.')}."
        raise StateError(describe(problem, fix=fix, repo_id=repo_id)) from error


def _check(agent: Any, description: HubDescription, repo_id: str) -> None:
    """Checks that an agent is the one that is described, and that it can act."""
    described = tuple(spaces_json.from_json(one) for one in (description.observation_space, description.action_space))
    if not agent.bound or agent.env_spaces != described:
        problem = f"The agent plays other spaces than {DESCRIPTION} says."
        found = agent.env_spaces if agent.bound else None
        raise StateError(describe(problem, fix=FIX, repo_id=repo_id, described=described, spaces=found))
    bad = [variable.path for variable in agent.variables if not _finite(variable)]
    if bad:
        problem = "The agent has weights that are not finite."
        raise StateError(describe(problem, fix=FIX, repo_id=repo_id, weights=bad[:5]))


def _finite(variable: Any) -> bool:
    array = np.asarray(keras.ops.convert_to_numpy(variable))
    return array.dtype.kind in "biu" or bool(np.isfinite(array.astype(np.float64)).all())


def _library() -> Any:
    """Returns huggingface_hub."""
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        problem = "Sharing agents needs huggingface_hub, which is not installed."
        raise ConfigurationError(describe(problem, fix='Install it with `pip install "keras_optix[hub]"`.')) from error


def _evaluation(metrics: Any) -> HubEvaluation:
    check_kind("evaluation", metrics, EvalMetrics, wanted="the EvalMetrics that `evaluate_policy` returns")
    if metrics.primary_score is None or not np.isfinite(metrics.primary_score):
        problem = "`evaluation` has no score."
        fix = "Evaluate with `optix.evaluate_policy(agent, env, episodes=100)`, or leave `evaluation` out."
        raise ConfigurationError(describe(problem, fix=fix, primary_score=metrics.primary_score))
    stderr = metrics.stderr if metrics.stderr is not None and np.isfinite(metrics.stderr) else None
    others = {str(name): float(value) for name, value in metrics.metrics.items() if np.isfinite(value)}
    return HubEvaluation(
        float(metrics.primary_score), None if stderr is None else float(stderr), metrics.episodes, others
    )


def env_of(agent: Any) -> str | None:
    """Returns the id of the environment of an agent's newest dataset; None if it has none that Gymnasium knows."""
    for source in reversed(agent.sources):
        for env in source.members():
            name = getattr(getattr(env, "spec", None), "id", None)
            if isinstance(name, str):
                return name
    return None


def _env_steps_of(agent: Any) -> int | None:
    """Returns the env steps of an agent's datasets; None for an agent that was loaded and has none."""
    return sum(int(getattr(source, "env_steps", 0)) for source in agent.sources) or None


def _versions() -> dict[str, str]:
    found = {"keras_optix": keras_optix.__version__}
    for name in _LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _checksum(path: Path) -> str:
    return hashlib.sha256(read_bytes(path)).hexdigest()
