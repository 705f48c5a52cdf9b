"""Kills a process that writes snapshots at random moments, and lets two write at once: nothing may be lost or corrupt.

A child process saves snapshots of 100 kB, five of which are kept, and holds, releases and scores them again. It is
killed (SIGKILL) 0.01 to 0.3 s after its first save, again and again on one directory. After each kill the registry must
open, every snapshot must load with the arrays of its score, the best must be the highest that was ever saved in the
run, and what is held must be there. Then two processes write at once, in runs of their own and then in one run: every
snapshot that they saved must be there.

python benchmarks/registry.py [--kills 200] [--seconds 60]
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from _registry_writer import HOLDER
from _report import print_table, write_results

from keras_optix.errors import OptixError
from keras_optix.store.manifest import PolicySnapshot
from keras_optix.store.registry import CheckpointRegistry

WRITER = Path(__file__).with_name("_registry_writer.py")
KEPT = 5

Said = tuple[str, str, int, float]


class Ledger:
    """What the children of a directory said that they did."""

    def __init__(self) -> None:
        self.best: dict[str, float] = {}
        self.tried: dict[str, float] = {}
        self.held: set[tuple[str, int]] = set()
        self.saves = 0

    def add(self, said: Said) -> None:
        """Takes a line of a child."""
        word, run_id, snapshot_id, score = said
        if word == "try":
            self.tried[run_id] = score
        elif word == "saved":
            self.saves += 1
            del self.tried[run_id]
            self.best[run_id] = max(score, self.best.get(run_id, score))
        elif word == "hold":
            self.held.add((run_id, snapshot_id))
        elif word == "release":
            self.held.discard((run_id, snapshot_id))


def spawn(
    directory: Path, mode: str, seed: int, run_id: str, seconds: float = 0.0, stdout: Any = subprocess.PIPE
) -> subprocess.Popen[str]:
    command = [sys.executable, str(WRITER), str(directory), mode, str(seed), run_id, str(seconds)]
    return subprocess.Popen(command, stdout=stdout, text=True)


def parse(line: str) -> Said:
    word, run_id, snapshot_id, score = line.split()
    return word, run_id, int(snapshot_id), float(score)


def is_whole(registry: CheckpointRegistry, snapshot: PolicySnapshot) -> bool:
    """Whether the arrays of a snapshot are those of its score."""
    return bool(np.all(registry.load(snapshot)["weights"] == snapshot.score))


def faults(directory: Path, ledger: Ledger) -> list[str]:
    """What is wrong with a directory after a kill."""
    try:
        registry = CheckpointRegistry(directory, max_snapshots=KEPT)
        found = []
        for run_id in set(ledger.best) | set(ledger.tried):
            registry.continue_run(run_id)
            snapshots = registry.ranked_snapshots
            found += [f"{s.path} has other arrays" for s in snapshots if not is_whole(registry, s)]
            # A save that was cut off may have come to its end, or not.
            before, tried = ledger.best.get(run_id, -1.0), ledger.tried.pop(run_id, -1.0)
            best = -1.0 if registry.best is None else registry.best.score
            if best not in (before, max(before, tried)):
                found.append(f"the best is {best}, not {before} (or {tried})")
            ledger.best[run_id] = best
            held = {snapshot.key for snapshot in registry.held_by(HOLDER)}
            lost = {key for key in ledger.held if key[0] == run_id} - held
            found += [f"{key} is held and gone" for key in lost]
            if len(snapshots) > max(KEPT, len(held) + 2):
                found.append(f"{len(snapshots)} snapshots are kept")
        return found
    except OptixError as error:
        return [str(error)]


def kill_often(directory: Path, kills: int) -> tuple[list[str], int]:
    """Kills a writer `kills` times; returns what was wrong and the saves that were acknowledged."""
    rng, ledger, found = random.Random(0), Ledger(), []
    for kill in range(kills):
        child = spawn(directory, "churn", kill, "new" if kill % 20 == 0 else "last")
        if child.stdout is None:
            raise SystemExit("the child has no pipe")
        for line in child.stdout:
            ledger.add(parse(line))
            if line.startswith("saved"):
                break
        time.sleep(rng.uniform(0.01, 0.3))
        if child.poll() is not None:
            raise SystemExit(f"the child ended by itself with {child.returncode}")
        child.kill()
        for line in child.stdout.read().splitlines(keepends=True):
            if line.endswith("\n"):
                ledger.add(parse(line))
        child.stdout.close()
        child.wait()
        found += [f"kill {kill + 1}: {fault}" for fault in faults(directory, ledger)]
    return found, ledger.saves


def missing(directory: Path, saved: list[Said]) -> list[str]:
    """Which of the snapshots that were acknowledged are not there, or not with their arrays."""
    try:
        registry = CheckpointRegistry(directory)
        found = [] if len({said[1:3] for said in saved}) == len(saved) else ["a number was given twice"]
        for run_id in {said[1] for said in saved}:
            registry.continue_run(run_id)
            there = {s.snapshot_id: s for s in registry.ranked_snapshots}
            for _, _, snapshot_id, score in (said for said in saved if said[1] == run_id):
                snapshot = there.get(snapshot_id)
                if snapshot is None or snapshot.score != score or not is_whole(registry, snapshot):
                    found.append(f"{run_id}/{snapshot_id} is lost")
        return found
    except OptixError as error:
        return [str(error)]


def write_at_once(directory: Path, run_id: str, seconds: float) -> tuple[list[str], int]:
    """Two writers on one directory; returns what was wrong and the saves that were acknowledged."""
    # A file each, for a pipe that nobody reads would stop a writer.
    outputs = [directory.with_name(f"said-{seed}") for seed in (1, 2)]
    children = []
    for seed, output in enumerate(outputs):
        with output.open("w") as stdout:
            children.append(spawn(directory, "append", seed, run_id, seconds, stdout))
    if any([child.wait() for child in children]):
        raise SystemExit("a writer failed")
    lines = [line for output in outputs for line in output.read_text().splitlines()]
    saved = [parse(line) for line in lines if line.startswith("saved")]
    return missing(directory, saved), len(saved)


def main() -> None:
    """Kills, writes at once, reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0, help="of two writers, half of them in one run")
    parser.add_argument("--no-results", action="store_true", help="write no results/registry.json")
    arguments = parser.parse_args()

    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as root:
        killed, shared = Path(root) / "killed", Path(root) / "shared"
        results[f"{arguments.kills} kills"] = kill_often(killed, arguments.kills)
        results["two writers, a run each"] = write_at_once(shared, "new", arguments.seconds / 2)
        results["two writers, one run"] = write_at_once(shared, "together", arguments.seconds / 2)
    for found, _ in results.values():
        for fault in found:
            print(fault)
    rows = [[name, str(saves), str(len(found))] for name, (found, saves) in results.items()]
    print_table(("", "saves", "failures"), rows)
    if not arguments.no_results:
        write_results(
            "registry", {name: {"saves": saves, "failures": found} for name, (found, saves) in results.items()}
        )
    if any(found for found, _ in results.values()) or not all(saves for _, saves in results.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
