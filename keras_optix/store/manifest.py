"""The manifest of a checkpoint directory: defines a snapshot, and writes and reads snapshots as JSON.

A manifest may be damaged or forged, so every field is checked when it is read: a path that leaves the directory, or a
string in the place of a number, is reported here and not later by the code that uses it.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec.structs import asdict

from keras_optix.errors import StateError
from keras_optix.formatting import format_estimate
from keras_optix.records import EvalMetrics, HyperparamSet
from keras_optix.reprs import call_repr
from keras_optix.states import Count, Finite, Positive, State, read_state
from keras_optix.store.files import parse_json

_SCHEMA = 3
_OLDER = {"promoted": False, "held_by": []}  # values of fields that schema 1 did not have
_RENAMED = {"era": "regime_index", "crowned": "promoted", "episode_id": "window_id"}  # names in schemas 1 and 2
_T = TypeVar("_T")
_RUN_ID = re.compile(r"[^./\\:\x00][^/\\:\x00]*")  # one folder name on every system, neither hidden nor `..`


@dataclass(frozen=True)
class PolicySnapshot:
    """A version of the weights on disk, with the score that these weights earned.

    Attributes:
        snapshot_id: Number of the snapshot in its run, from 1.
        run_id: The run that the snapshot belongs to.
        path: File of the arrays, relative to the registry's directory.
        policy_version: Version of the weights.
        window_id: The last window that these weights collected before they were saved.
        env_steps: Environment steps of the run until then.
        eval_metrics: Score of exactly these weights, with standard error and number of episodes.
        hyperparams: Hyperparameters at that time.
        regime_index: Number of regimes before this one (see `SchedulerState.regime_index`).
        created: Time of saving, as Unix time in seconds.
        promoted: Whether the snapshot was the loop's best when it was saved. The latest promoted snapshot is the best,
            even if a later evaluation gave it a lower score than an earlier snapshot has: it won when the two were
            compared.
        held_by: Names of the holders that need the snapshot (see `CheckpointRegistry.hold`). While there is one, the
            snapshot is not pruned.

    Examples:
        >>> for snapshot in optix.CheckpointRegistry("checkpoints").ranked_snapshots:  # the best one first
        ...     print(snapshot.score, snapshot.env_steps, snapshot.path)
    """

    snapshot_id: int
    run_id: str
    path: str
    policy_version: int
    window_id: int
    env_steps: int
    eval_metrics: EvalMetrics
    hyperparams: HyperparamSet
    regime_index: int
    created: float
    promoted: bool = False
    held_by: tuple[str, ...] = ()

    def __repr__(self) -> str:
        metrics = self.eval_metrics
        return call_repr(
            self,
            score=format_estimate(self.score, metrics.stderr),
            episodes=str(metrics.episodes),
            window_id=str(self.window_id),
            env_steps=str(self.env_steps),
            policy_version=str(self.policy_version),
            path=repr(self.path),
        )

    @property
    def score(self) -> float:
        """The score; every snapshot has one."""
        score = self.eval_metrics.primary_score
        return -math.inf if score is None else score

    @property
    def key(self) -> tuple[str, int]:
        """Run and number, which stay the same when the snapshot is scored again, held or released."""
        return self.run_id, self.snapshot_id


def new_snapshot(
    run_id: str,
    snapshot_id: int,
    *,
    eval_metrics: EvalMetrics,
    hyperparams: HyperparamSet,
    policy_version: int = 0,
    window_id: int = 0,
    env_steps: int = 0,
    regime_index: int = 0,
    promoted: bool = False,
) -> PolicySnapshot:
    """Returns a snapshot with Python numbers, which JSON can hold; see `CheckpointRegistry.save`."""
    return PolicySnapshot(
        snapshot_id=snapshot_id,
        run_id=run_id,
        path=path_of(run_id, snapshot_id),
        policy_version=int(policy_version),
        window_id=int(window_id),
        env_steps=int(env_steps),
        eval_metrics=plain_metrics(eval_metrics),
        hyperparams=HyperparamSet(hyperparams.params, int(hyperparams.window_id)),
        regime_index=int(regime_index),
        created=time.time(),
        promoted=bool(promoted),
    )


def scored_again(snapshot: PolicySnapshot, metrics: EvalMetrics) -> PolicySnapshot:
    """Returns a snapshot with another score; if this has no further metrics, the snapshot keeps those that it has."""
    plain = plain_metrics(metrics)
    plain = plain if plain.metrics else replace(plain, metrics=snapshot.eval_metrics.metrics)
    return replace(snapshot, eval_metrics=plain)


def held(snapshot: PolicySnapshot, holder: str) -> PolicySnapshot:
    """Returns a snapshot that `holder` holds, among others."""
    return snapshot if holder in snapshot.held_by else replace(snapshot, held_by=(*snapshot.held_by, holder))


def released(snapshot: PolicySnapshot, holder: str) -> PolicySnapshot:
    """Returns a snapshot that `holder` does not hold."""
    return replace(snapshot, held_by=tuple(name for name in snapshot.held_by if name != holder))


def path_of(run_id: str, snapshot_id: int) -> str:
    """Returns the file of a snapshot's arrays, relative to the directory."""
    return f"{run_id}/{snapshot_id:06d}.npz"


def is_run_id(value: object) -> bool:
    """Returns whether `value` can be the name of a run and of its folder."""
    return isinstance(value, str) and _RUN_ID.fullmatch(value) is not None


def ranked(snapshots: Iterable[PolicySnapshot], run_id: str | None) -> list[PolicySnapshot]:
    """Returns the snapshots of a run, best first: newest regime, then the latest promoted, then the highest score."""
    mine = [snapshot for snapshot in snapshots if snapshot.run_id == run_id]
    regime_index = max((snapshot.regime_index for snapshot in mine), default=0)
    promoted = max((s.snapshot_id for s in mine if s.promoted and s.regime_index == regime_index), default=0)
    return sorted(mine, key=lambda s: (-s.regime_index, s.snapshot_id != promoted, -s.score, s.snapshot_id))


def plain_metrics(metrics: EvalMetrics) -> EvalMetrics:
    """Returns the same metrics with Python numbers, which JSON can hold."""
    stderr = None if metrics.stderr is None else float(metrics.stderr)
    return EvalMetrics(
        primary_score=None if metrics.primary_score is None else float(metrics.primary_score),
        metrics={str(name): float(value) for name, value in metrics.metrics.items()},
        window_id=int(metrics.window_id),
        stderr=None if stderr == math.inf else stderr,  # in an estimate, infinity means unknown
        episodes=None if metrics.episodes is None else int(metrics.episodes),
    )


def check_snapshot(snapshot: PolicySnapshot) -> None:
    """Checks that a snapshot can be read again after it is written.

    Raises:
        ValueError: It cannot be read again; the message says why.
    """
    _read(_Entry, json.loads(json.dumps(_to_json(snapshot))), "snapshot").snapshot()


def write_manifest(run_id: str, snapshots: Iterable[PolicySnapshot]) -> bytes:
    """Returns the text of a manifest with `snapshots`, whose latest run is `run_id`."""
    entries = [_to_json(snapshot) for snapshot in snapshots]
    return json.dumps({"schema": _SCHEMA, "run_id": run_id, "snapshots": entries}).encode()


def read_manifest(data: bytes) -> tuple[str, list[PolicySnapshot]]:
    """Returns the latest run of a manifest, and its snapshots.

    Raises:
        ValueError: The text is not a manifest, or was tampered with; the message names the problem.
    """
    file = _read(_File, parse_json(data), "manifest")
    snapshots = [
        _read(_Entry, _upgraded(entry, file.schema), f"manifest at snapshots[{k}]").snapshot()
        for k, entry in enumerate(file.snapshots)
    ]
    seen: set[tuple[str, int]] = set()
    for snapshot in snapshots:
        if snapshot.key in seen:
            raise ValueError(f"run {snapshot.run_id!r} has snapshot {snapshot.snapshot_id} twice")
        seen.add(snapshot.key)
    return file.run_id, snapshots


def _upgraded(entry: Any, schema: int) -> Any:
    """Converts an entry of an older schema to this schema."""
    if schema == _SCHEMA or not isinstance(entry, dict):
        return entry
    records = {name: _renamed(entry[name]) for name in ("eval_metrics", "hyperparams") if name in entry}
    entry = _renamed(entry) | records
    return _OLDER | entry if schema == 1 else entry


def _renamed(record: Any) -> Any:
    """Renames the fields of a record of an older schema."""
    return {_RENAMED.get(name, name): value for name, value in record.items()} if isinstance(record, dict) else record


def _to_json(snapshot: PolicySnapshot) -> dict[str, Any]:
    # `to_json` would take ten times as long, and would mark infinite metrics and NaN, which the file holds as they are.
    metrics = {name: getattr(snapshot.eval_metrics, name) for name in _Metrics.__struct_fields__}
    nested = {"eval_metrics": metrics, "hyperparams": vars(snapshot.hyperparams)}
    return vars(snapshot) | nested


def _read(kind: type[_T], values: Any, what: str) -> _T:
    """Reads a part of a manifest.

    Raises:
        ValueError: The values are not such a part.
    """
    try:
        return read_state(kind, values, what, fix="", part=True)
    except StateError as error:
        raise ValueError(str(error).rstrip(".")) from error


class _Metrics(State, frozen=True):
    """The metrics of a snapshot in the file. Values in `metrics` are only logged, so they may be infinite or NaN."""

    primary_score: Finite | None
    metrics: dict[str, float]
    window_id: int
    stderr: Finite | None
    episodes: Count | None


class _Hyperparams(State, frozen=True):
    """The hyperparameters of a snapshot in the file."""

    params: dict[str, Finite]
    window_id: int


class _Entry(State, frozen=True):
    """A snapshot in the file."""

    snapshot_id: Positive
    run_id: str
    path: str
    policy_version: int
    window_id: int
    env_steps: Count
    eval_metrics: _Metrics
    hyperparams: _Hyperparams
    regime_index: Count
    created: Finite
    promoted: bool
    held_by: tuple[str, ...]

    def __post_init__(self) -> None:
        if not is_run_id(self.run_id):
            raise ValueError(f"`run_id` must be the name of a folder, not {self.run_id!r:.40}")
        expected = path_of(self.run_id, self.snapshot_id)
        if self.path != expected:
            raise ValueError(f"`path` must be {expected!r}, not {self.path!r:.40}")

    def snapshot(self) -> PolicySnapshot:
        """Returns the snapshot that this entry describes."""
        values = asdict(self)
        metrics, hyperparams = EvalMetrics(**asdict(self.eval_metrics)), HyperparamSet(**asdict(self.hyperparams))
        return PolicySnapshot(**values | {"eval_metrics": metrics, "hyperparams": hyperparams})


class _File(State, frozen=True):
    """The manifest file."""

    schema: Annotated[int, msgspec.Meta(ge=1, le=_SCHEMA)]
    run_id: str
    snapshots: tuple[Any, ...]

    def __post_init__(self) -> None:
        if not is_run_id(self.run_id):
            raise ValueError(f"`run_id` must be the name of a folder, not {self.run_id!r:.40}")
