"""The manifest of a checkpoint directory: what a snapshot is, and how it is written as JSON and read back.

What is read may be damaged or forged, so every field is checked: a path that leaves the directory, or a string where a
number belongs, is named here and not found out by whoever uses it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec.structs import asdict

from keras_optix.errors import StateError
from keras_optix.formatting import format_estimate
from keras_optix.records import EvalMetrics, HyperparamSet
from keras_optix.reprs import call_repr
from keras_optix.states import Count, Finite, Positive, State, read_state

_SCHEMA = 3
_OLDER = {"promoted": False, "held_by": []}  # what schema 1 did not have yet
_RENAMED = {"era": "regime_index", "crowned": "promoted", "episode_id": "window_id"}  # as schemas 1 and 2 called them
_T = TypeVar("_T")
_RUN_ID = re.compile(r"[^./\\:\x00][^/\\:\x00]*")  # one folder name on every system, neither hidden nor `..`


@dataclass(frozen=True)
class PolicySnapshot:
    """A version of the weights on disk with the score that it earned.

    Attributes:
        snapshot_id: Number of the snapshot in its run, from 1.
        run_id: The run that it belongs to.
        path: File of its arrays, relative to the registry's directory.
        policy_version: Version of the weights.
        window_id: The last window that these weights collected before they were saved.
        env_steps: Environment steps of the run until then.
        eval_metrics: Score of exactly these weights, with standard error and number of episodes.
        hyperparams: Hyperparameters when they were reached.
        regime_index: Regimes seen before this one (see `SchedulerState.regime_index`).
        created: Unix time.
        promoted: Whether it was the loop's best when it was saved. The latest of these is the best, even where a second
            look at it found a lower score than a snapshot before it had: it beat that one when both were compared.
        held_by: Who needs it (see `CheckpointRegistry.hold`); it is not pruned while anyone does.
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


def path_of(run_id: str, snapshot_id: int) -> str:
    """File of a snapshot's arrays, relative to the directory."""
    return f"{run_id}/{snapshot_id:06d}.npz"


def is_run_id(value: object) -> bool:
    """Whether `value` can be the name of a run, and so of its folder."""
    return isinstance(value, str) and _RUN_ID.fullmatch(value) is not None


def ranked(snapshots: Iterable[PolicySnapshot], run_id: str | None) -> list[PolicySnapshot]:
    """The snapshots of a run, best first: newest regime, then what the loop promoted last, then highest score."""
    mine = [snapshot for snapshot in snapshots if snapshot.run_id == run_id]
    regime_index = max((snapshot.regime_index for snapshot in mine), default=0)
    promoted = max((s.snapshot_id for s in mine if s.promoted and s.regime_index == regime_index), default=0)
    return sorted(mine, key=lambda s: (-s.regime_index, s.snapshot_id != promoted, -s.score, s.snapshot_id))


def plain_metrics(metrics: EvalMetrics) -> EvalMetrics:
    """The same metrics with Python numbers, which JSON can hold."""
    stderr = None if metrics.stderr is None else float(metrics.stderr)
    return EvalMetrics(
        primary_score=None if metrics.primary_score is None else float(metrics.primary_score),
        metrics={str(name): float(value) for name, value in metrics.metrics.items()},
        window_id=int(metrics.window_id),
        stderr=None if stderr == math.inf else stderr,  # an estimate's way to say that it is unknown
        episodes=None if metrics.episodes is None else int(metrics.episodes),
    )


def check_snapshot(snapshot: PolicySnapshot) -> None:
    """Checks that a snapshot could be read back if it were written.

    Raises:
        ValueError: It could not; the message says why.
    """
    _read(_Entry, json.loads(json.dumps(_to_json(snapshot))), "snapshot").snapshot()


def write_manifest(run_id: str, snapshots: Iterable[PolicySnapshot]) -> bytes:
    """The manifest of `snapshots`, the latest run being `run_id`."""
    entries = [_to_json(snapshot) for snapshot in snapshots]
    return json.dumps({"schema": _SCHEMA, "run_id": run_id, "snapshots": entries}).encode()


def read_manifest(data: bytes) -> tuple[str, list[PolicySnapshot]]:
    """The latest run of a manifest and its snapshots.

    Raises:
        ValueError: It is no manifest, or was tampered with; the message names what is wrong.
    """
    try:
        manifest = json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    file = _read(_File, manifest, "manifest")
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
    """An entry of an older schema as one of this schema."""
    if schema == _SCHEMA or not isinstance(entry, dict):
        return entry
    records = {name: _renamed(entry[name]) for name in ("eval_metrics", "hyperparams") if name in entry}
    entry = _renamed(entry) | records
    return _OLDER | entry if schema == 1 else entry


def _renamed(record: Any) -> Any:
    """A record of an older schema under the names of this one."""
    return {_RENAMED.get(name, name): value for name, value in record.items()} if isinstance(record, dict) else record


def _to_json(snapshot: PolicySnapshot) -> dict[str, Any]:
    # Not `to_json`, which takes ten times as long; and no marks: a metric that is infinite or NaN is so in the file.
    metrics = {name: getattr(snapshot.eval_metrics, name) for name in _Metrics.__struct_fields__}
    nested = {"eval_metrics": metrics, "hyperparams": vars(snapshot.hyperparams)}
    return vars(snapshot) | nested


def _read(kind: type[_T], values: Any, what: str) -> _T:
    """Reads a part of a manifest.

    Raises:
        ValueError: It is none.
    """
    try:
        return read_state(kind, values, what, fix="", part=True)
    except StateError as error:
        raise ValueError(str(error).rstrip(".")) from error


class _Metrics(State, frozen=True):
    """The metrics of a snapshot in the file. What is only logged may be infinite or NaN."""

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
        """The snapshot."""
        values = asdict(self)
        metrics, hyperparams = EvalMetrics(**asdict(self.eval_metrics)), HyperparamSet(**asdict(self.hyperparams))
        return PolicySnapshot(**values | {"eval_metrics": metrics, "hyperparams": hyperparams})


class _File(State, frozen=True):
    """The file."""

    schema: Annotated[int, msgspec.Meta(ge=1, le=_SCHEMA)]
    run_id: str
    snapshots: tuple[Any, ...]

    def __post_init__(self) -> None:
        if not is_run_id(self.run_id):
            raise ValueError(f"`run_id` must be the name of a folder, not {self.run_id!r:.40}")
