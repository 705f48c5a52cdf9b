"""Starts the runs of `autopilot.py`, each in a process of its own, and keeps one JSON file for each."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import _processes
from _autopilot_tasks import Spec

HERE = Path(__file__).resolve().parent
SCRIPTS = {"ours": "_autopilot_ours.py", "continued": "_autopilot_ours.py", "sb3": "_autopilot_sb3.py"}

Result = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """Where runs are played and kept.

    Attributes:
        out: Folder of the results of ours.
        sb3_out: Folder of the results of Stable-Baselines3.
        tree: Checkout whose `keras_optix` is measured.
        commit: Its commit; of no consequence for Stable-Baselines3.
        sb3_python: Python of an environment with Stable-Baselines3.
    """

    out: Path
    sb3_out: Path
    tree: Path
    commit: str
    sb3_python: str


def path_of(place: Place, spec: Spec) -> Path:
    """The file of a run."""
    return (place.sb3_out if spec.player == "sb3" else place.out) / f"{spec.name}.json"


def read(place: Place, spec: Spec) -> Result | None:
    """The result of a run, or None if there is none yet."""
    path = path_of(place, spec)
    if not path.exists():
        return None
    result: Result = json.loads(path.read_text())
    return result


def missing(place: Place, specs: Sequence[Spec], *, any_commit: bool) -> list[Spec]:
    """The runs that are not there yet.

    Args:
        place: Where they would be.
        specs: What is wanted.
        any_commit: Whether a run of another commit will do.
    """

    def wanted(spec: Spec) -> bool:
        result = read(place, spec)
        if result is None:
            return True
        ran = Spec(**result["spec"])
        if (ran.episodes, ran.env_steps) != (spec.episodes, spec.env_steps):
            return True
        return not (spec.player == "sb3" or any_commit or result["commit"] == place.commit)

    return [spec for spec in specs if wanted(spec)]


def play(place: Place, spec: Spec) -> str:
    """Plays one run and writes its file, which appears whole or not at all.

    Returns:
        What is said of it.

    Raises:
        RuntimeError: The process failed.
    """
    rival = spec.player == "sb3"
    command = [
        place.sb3_python if rival else sys.executable,
        str(HERE / SCRIPTS[spec.player]),
        json.dumps(asdict(spec)),
    ]
    # The environment of Stable-Baselines3 has no keras_optix, and must not have ours.
    played, seconds = _processes.play(command, None if rival else place.tree)
    result = {"spec": asdict(spec), "commit": "" if rival else place.commit} | played | {"wall_seconds": seconds}
    _processes.keep(path_of(place, spec), result)
    return f"{seconds:.0f} s"


def play_all(place: Place, specs: Sequence[Spec], workers: int) -> int:
    """Plays the runs, so many at a time, in their order.

    Returns:
        How many failed. They have no file, so the next call tries them again.
    """
    return _processes.play_all(specs, lambda spec: play(place, spec), lambda spec: spec.name, workers)
