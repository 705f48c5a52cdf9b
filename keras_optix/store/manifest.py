"""The manifest of a checkpoint directory: what a snapshot is, and how it is written as JSON and read back.

What is read may be damaged or forged, so every field is checked: a path that leaves the directory, or a string where a
number belongs, is named here and not found out by whoever uses it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from keras_optix.formatting import format_estimate
from keras_optix.records import EvalMetrics, HyperparamSet
from keras_optix.reprs import call_repr
from keras_optix.validation import is_finite_number

_SCHEMA = 3
_OLDER = {"promoted": False, "held_by": []}  # what schema 1 did not have yet
_RENAMED = {"era": "regime_index", "crowned": "promoted", "episode_id": "window_id"}  # as schemas 1 and 2 called them
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
    _snapshot("snapshot", json.loads(json.dumps(_to_json(snapshot))))


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
    _check_names("the manifest", manifest, ("schema", "run_id", "snapshots"))
    schema = manifest["schema"]
    if type(schema) is not int or not 1 <= schema <= _SCHEMA:
        raise ValueError(f"`schema` must be an integer from 1 to {_SCHEMA}, not {schema!r}")
    run_id = _checked("run_id", manifest["run_id"], is_run_id, "the name of a folder")
    entries = _checked("snapshots", manifest["snapshots"], _is_list, "a list")
    snapshots = []
    for k, entry in enumerate(entries):
        if schema < _SCHEMA and isinstance(entry, dict):
            entry = _renamed(entry) | {name: _renamed(entry.get(name)) for name in ("eval_metrics", "hyperparams")}
            entry = _OLDER | entry if schema == 1 else entry
        snapshots.append(_snapshot(f"snapshots[{k}]", entry))
    seen: set[tuple[str, int]] = set()
    for snapshot in snapshots:
        if snapshot.key in seen:
            raise ValueError(f"run {snapshot.run_id!r} has snapshot {snapshot.snapshot_id} twice")
        seen.add(snapshot.key)
    return run_id, snapshots


def _renamed(record: Any) -> Any:
    """A record of an older schema under the names of this one."""
    return {_RENAMED.get(name, name): value for name, value in record.items()} if isinstance(record, dict) else record


def _to_json(snapshot: PolicySnapshot) -> dict[str, Any]:
    # Not `asdict`, which copies what is in there and takes ten times as long.
    metrics = {name: getattr(snapshot.eval_metrics, name) for name in _METRICS}
    nested = {"eval_metrics": metrics, "hyperparams": vars(snapshot.hyperparams)}
    return vars(snapshot) | nested


def _snapshot(name: str, entry: Any) -> PolicySnapshot:
    values = _record(name, entry, _SNAPSHOT)
    metrics = _record(f"{name}.eval_metrics", values["eval_metrics"], _METRICS)
    hyperparams = _record(f"{name}.hyperparams", values["hyperparams"], _HYPERPARAMS)
    expected = path_of(values["run_id"], values["snapshot_id"])
    if values["path"] != expected:
        raise ValueError(f"`{name}.path` must be {expected!r}, not {values['path']!r}")
    records = {"eval_metrics": EvalMetrics(**metrics), "hyperparams": HyperparamSet(**hyperparams)}
    return PolicySnapshot(**(values | records | {"held_by": tuple(values["held_by"])}))


def _record(name: str, entry: Any, kinds: dict[str, _Kind]) -> dict[str, Any]:
    """The fields of a record, each of its kind."""
    _check_names(f"`{name}`", entry, tuple(kinds))
    return {field: _checked(f"{name}.{field}", entry[field], *kinds[field]) for field in entry}


def _check_names(what: str, entry: Any, names: Sequence[str]) -> None:
    if not isinstance(entry, dict):
        raise ValueError(f"{what} is no object: {entry!r:.40}")
    if missing := [name for name in names if name not in entry]:
        raise ValueError(f"{what} lacks {missing}")
    if unknown := [name for name in entry if name not in names]:
        raise ValueError(f"{what} has unknown entries {unknown}")


def _checked(name: str, value: Any, is_kind: Callable[[Any], bool], kind: str) -> Any:
    if not is_kind(value):
        raise ValueError(f"`{name}` must be {kind}, not {value!r:.40}")
    return value


def _is_int(value: Any) -> bool:
    return type(value) is int  # not a bool


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_number(value: Any) -> bool:
    """A number that may be infinite or NaN, as what is only logged may be."""
    return is_finite_number(value) or isinstance(value, float)


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict)


_Kind = tuple[Callable[[Any], bool], str]
_INT: _Kind = (_is_int, "an integer")
_COUNT: _Kind = (_is_count, "an integer >= 0")
_FINITE_OR_NULL: _Kind = (lambda value: value is None or is_finite_number(value), "a finite number or null")
_OBJECT: _Kind = (_is_dict, "an object")  # its own fields are checked after it
_SNAPSHOT: dict[str, _Kind] = {
    "snapshot_id": (lambda value: _is_count(value) and value > 0, "an integer >= 1"),
    "run_id": (is_run_id, "the name of a folder"),
    "path": (lambda value: isinstance(value, str), "a string"),
    "policy_version": _INT,
    "window_id": _INT,
    "env_steps": _COUNT,
    "eval_metrics": _OBJECT,
    "hyperparams": _OBJECT,
    "regime_index": _COUNT,
    "created": (is_finite_number, "a finite number"),
    "promoted": (lambda value: isinstance(value, bool), "true or false"),
    "held_by": (lambda value: _is_list(value) and all(isinstance(name, str) for name in value), "a list of strings"),
}
_METRICS: dict[str, _Kind] = {
    "primary_score": _FINITE_OR_NULL,
    "metrics": (lambda value: _is_dict(value) and all(map(_is_number, value.values())), "an object of numbers"),
    "window_id": _INT,
    "stderr": _FINITE_OR_NULL,
    "episodes": (lambda value: value is None or _is_count(value), "an integer >= 0 or null"),
}
_HYPERPARAMS: dict[str, _Kind] = {
    "params": (
        lambda value: _is_dict(value) and all(map(is_finite_number, value.values())),
        "an object of finite numbers",
    ),
    "window_id": _INT,
}
