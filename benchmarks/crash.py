"""Kills runs at random moments and resumes them, again and again: nothing may be corrupt, lost, or repeated for long.

Seven kinds of runs learn CartPole with `OptixCallback(resume=True)` (`_crash_runs.py`): PPO plain, tuned, managed, in
an ensemble, on a live feed, and as a population, and DQN with a full replay buffer. Each is killed (SIGKILL), or told
to end (SIGTERM), after a random time, by which it may be building, tracing, training, evaluating or writing, and is
then started again. After each signal

- the registry must open, each snapshot in it must be readable, and the best must not be worse than before;
- the newest resume point must be readable and not older than before, and the run that is started next must continue it;
- after SIGTERM the process must end by the signal or with the code 143, and the resume point must lack one window at
  most.

The table shows the env steps that a run had to repeat, and how long it took to end after SIGTERM. A process imports
TensorFlow once and forks the runs of a kind. What is done stays in `--work`, and is not done again.

With `--compare` the tuned run and that of DQN are left to finish in the end, and their weights are compared with those
of runs that were never killed.

python benchmarks/crash.py [--kills 200] [--terms 50] [--interval 0.5] [--work FOLDER] [--compare]
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from _report import commit_in_force, print_table, write_results

KINDS = ("plain", "tuned", "managed", "ensemble", "live", "population", "replay")
COMPARED = ("tuned", "replay")
SLICE = 8  # signals of a kind, before the next kind has its turn
HANGS = 120.0  # seconds after which a run has failed
_END_WITH_PARENT = 1  # PR_SET_PDEATHSIG


@dataclass
class Trial:
    """What came of one signal.

    Attributes:
        signal: Name of the signal.
        reached: Whether the process had begun its first window.
        repeated: Env steps that were taken and are not in the resume point.
        windows: The same in windows.
        seconds: From the signal to the end of the process.
        code: Its return code; -9 or -15 if the signal ended it.
        run: The run that can be resumed.
        point: Env steps in its resume point.
        best: Regime, whether promoted, and number of its best; None without one.
        faults: What is wrong.
    """

    signal: str
    reached: bool = False
    repeated: int = 0
    windows: int = 0
    seconds: float = 0.0
    code: int | None = None
    run: str | None = None
    point: int = 0
    best: tuple[int, bool, float] | None = None
    faults: list[str] = field(default_factory=list)


def fork(kind: str, directory: Path, output: Path, arguments: argparse.Namespace, windows: int | None = None) -> int:
    """Starts a process that trains; returns its number."""
    from _crash_runs import train

    output.unlink(missing_ok=True)
    process = os.fork()
    if process:
        return process
    code: Any = 1
    try:
        with contextlib.suppress(OSError, AttributeError):  # only Linux has it
            ctypes.CDLL(None).prctl(_END_WITH_PARENT, signal.SIGKILL)
        with output.open("w") as file:
            train(kind, directory, arguments.interval, windows, file)
        code = 0
    except SystemExit as error:
        code = error.code
    except BaseException:
        output.with_suffix(".error").write_text(traceback.format_exc())
    finally:
        os._exit(code if isinstance(code, int) else 1)


def steps_in(output: Path) -> list[int]:
    """Env steps after each window that a process has taken, as far as it could say so."""
    if not output.exists():
        return []
    return [int(line) for line in output.read_text().splitlines(keepends=True) if line.endswith("\n")]


def ended(process: int) -> int | None:
    """Returns the code of a child process that has ended; -9 if signal 9 ended it."""
    found, status = os.waitpid(process, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def wait(process: int) -> int:
    """Waits until a child process ends, but not for ever; returns its code."""
    until = time.monotonic() + HANGS
    while time.monotonic() < until:
        code = ended(process)
        if code is not None:
            return code
        time.sleep(0.005)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    raise TimeoutError(f"it was still there after {HANGS:g} s")


def look(directory: Path, trial: Trial) -> None:
    """Reads everything that is on disk."""
    from keras_optix.loop.run_state import read_run
    from keras_optix.store.registry import CheckpointRegistry
    from keras_optix.store.resume_points import ResumeStore

    registry = CheckpointRegistry(directory)
    store = ResumeStore(registry, None)
    runs = store.runs()
    if runs:
        point = store.find(runs[0])  # with a warning, which is an error here, if it is not the newest
        trial.run, trial.point = point.run_id, read_run(point.values, point.fix).loop.env_steps
        registry.continue_run(point.run_id)
    for snapshot in registry.ranked_snapshots:
        registry.load(snapshot)
    best = registry.best
    if best is not None and runs:
        trial.best = (best.regime_index, best.promoted, best.snapshot_id if best.promoted else best.score)


def strike(
    kind: str, directory: Path, name: str, rng: random.Random, arguments: argparse.Namespace, before: Trial
) -> Trial:
    """Starts a run, ends it by a signal, and looks at what is left."""
    trial, output = Trial(name, run=before.run), directory.parent / f"{kind}.output"
    # One in five is ended anywhere from its start on, the others within two seconds of their second window: the first
    # takes longest, and a run that never had a whole one would never have a resume point.
    anywhere, seconds = rng.random() < 0.2, rng.uniform(0.0, 2.0)
    process = fork(kind, directory, output, arguments)
    begun = time.monotonic()
    while not anywhere and len(steps_in(output)) < 2 and time.monotonic() < begun + HANGS:
        time.sleep(0.02)
        if output.with_suffix(".error").exists():
            break
    time.sleep(4.0 * seconds if anywhere else seconds)
    sent = time.monotonic()
    os.kill(process, getattr(signal, name))
    try:
        trial.code = wait(process)
    except TimeoutError as error:
        trial.faults.append(str(error))
    trial.seconds = time.monotonic() - sent
    error = output.with_suffix(".error")
    if error.exists():
        trial.faults.append(error.read_text()[-2000:])
        error.unlink()
    elif trial.code not in ((-9,) if name == "SIGKILL" else (-15, 128 + 15)):
        trial.faults.append(f"it ended with the code {trial.code}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            look(directory, trial)
    except Exception as problem:
        trial.faults.append(f"{type(problem).__name__}: {problem}")
    compare_with_before(trial, before, steps_in(output))
    return trial


def compare_with_before(trial: Trial, before: Trial, taken: list[int]) -> None:
    """Notes what was lost."""
    trial.reached = bool(taken)
    if before.run is not None:
        if trial.run != before.run:
            trial.faults.append(f"run {before.run} was not continued")
        if trial.point < before.point:
            trial.faults.append(f"the resume point is of env step {trial.point}, after {before.point}")
        if before.best is not None and (trial.best is None or trial.best < before.best):
            trial.faults.append(f"the best is {trial.best}, after {before.best}")
    if taken:
        first = taken[1] - taken[0] if len(taken) > 1 else taken[0] - before.point
        if before.run is not None and taken[0] > before.point + first:
            trial.faults.append(f"it began at env step {taken[0]}, and the resume point was of {before.point}")
        if before.run is not None and taken[0] <= before.point:
            trial.faults.append(f"it began anew, at env step {taken[0]} and not {before.point}")
        trial.repeated = max(taken[-1] - trial.point, 0)
        trial.windows = sum(steps > trial.point for steps in taken)
        if trial.signal == "SIGTERM" and trial.windows > 1:
            trial.faults.append(f"{trial.windows} windows were lost, although the process was asked to end")


def play(kind: str, arguments: argparse.Namespace) -> None:
    """Plays all signals of a kind that are not done yet."""
    import _crash_runs  # noqa: F401 (what is imported here need not be imported in each run)

    work = Path(arguments.work)
    directory, done = work / kind, work / f"{kind}.jsonl"
    directory.mkdir(parents=True, exist_ok=True)
    trials = read(done)
    kills, terms = share(arguments.kills, kind), share(arguments.terms, kind)
    names = ["SIGKILL"] * kills + ["SIGTERM"] * terms
    random.Random(kind).shuffle(names)
    before = Trial("")
    look(directory, before)  # also what a benchmark that was cut off left
    for number in range(len(trials), min(len(trials) + SLICE, len(names))):
        trial = strike(kind, directory, names[number], random.Random(f"{kind} {number}"), arguments, before)
        before = trial
        with done.open("a") as file:
            file.write(json.dumps(asdict(trial)) + "\n")
        print(
            f"{kind} {number + 1}/{len(names)}: {trial.signal}, resumes at env step {trial.point}",
            *trial.faults,
            flush=True,
        )


def share(count: int, kind: str) -> int:
    """Returns how many of so many signals a kind gets."""
    return len(range(KINDS.index(kind), count, len(KINDS)))


def read(path: Path) -> list[Trial]:
    """Reads the trials that are done."""
    if not path.exists():
        return []
    values = [json.loads(line) for line in path.read_text().splitlines()]
    return [Trial(**value | {"best": None if value["best"] is None else tuple(value["best"])}) for value in values]


def play_all(kinds: list[str], arguments: argparse.Namespace) -> None:
    """Plays the kinds in turns, `--workers` at a time, each turn in a process of its own."""
    waiting, running = list(kinds), {}
    until = time.monotonic() + 60.0 * arguments.minutes
    while waiting or running:
        while waiting and len(running) < arguments.workers and time.monotonic() < until:
            kind = waiting.pop(0)
            command = [sys.executable, __file__, *sys.argv[1:], "--kind", kind, "--work", str(arguments.work)]
            running[kind] = subprocess.Popen(command)
        for kind in [kind for kind, process in running.items() if process.poll() is not None]:
            process = running.pop(kind)
            if process.returncode:
                raise SystemExit(f"the {kind} runs ended with {process.returncode}")
            if len(read(arguments.work / f"{kind}.jsonl")) < total(arguments, kind):
                waiting.append(kind)
        if time.monotonic() >= until:
            waiting.clear()
        time.sleep(0.2)


def total(arguments: argparse.Namespace, kind: str) -> int:
    """Returns how many signals a kind gets."""
    return share(arguments.kills, kind) + share(arguments.terms, kind)


def rows_of(trials: dict[str, list[Trial]]) -> Iterator[list[str]]:
    """Yields the rows of the table, and one of all kinds."""

    def middle(values: list[Any], digits: int = 0) -> str:
        return f"{np.median(values):.{digits}f} ({max(values):.{digits}f})" if values else ""

    for name, mine in [*trials.items(), ("all", [trial for some in trials.values() for trial in some])]:
        killed = [trial for trial in mine if trial.signal == "SIGKILL"]
        asked = [trial for trial in mine if trial.signal == "SIGTERM"]
        yield [
            name,
            f"{len(killed)}",
            middle([trial.repeated for trial in killed if trial.reached]),
            middle([trial.windows for trial in killed if trial.reached]),
            f"{len(asked)}",
            middle([trial.repeated for trial in asked if trial.reached]),
            middle([trial.seconds for trial in asked if trial.reached], 2),
            str(len({trial.run for trial in mine if trial.run})),
            str(sum(bool(trial.faults) for trial in mine)),
        ]


def compare(kind: str, arguments: argparse.Namespace) -> None:
    """Lets a run end, and compares it with one that nothing interrupts."""
    work = Path(arguments.work)
    killed, whole = work / kind, work / f"{kind}_whole"
    for directory in (killed, whole):
        directory.mkdir(exist_ok=True)
        output = work / f"{directory.name}.output"
        process = fork(kind, directory, output, arguments, arguments.windows)
        _, status = os.waitpid(process, 0)
        if os.waitstatus_to_exitcode(status):
            raise SystemExit(f"the run in {directory.name} failed: {output.with_suffix('.error').read_text()}")
    states = [json.loads((directory / "final.json").read_text()) for directory in (killed, whole)]
    arrays = [dict(np.load(directory / "final.npz", allow_pickle=False)) for directory in (killed, whole)]
    same = all(np.array_equal(arrays[0][name], arrays[1][name]) for name in arrays[1])
    print(f"{kind}: weights and slots of the killed run equal those of a run that was never killed: {same}")
    for name in states[0]:
        print(f"{kind}: {name} equal: {states[0][name] == states[1][name]}")


def main() -> None:
    """Kills, resumes, reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="of all kinds together")
    parser.add_argument("--terms", type=int, default=50, help="of all kinds together")
    parser.add_argument("--interval", type=float, default=0.5, help="seconds between resume points")
    parser.add_argument("--minutes", type=float, default=600.0, help="after which no further turn begins")
    parser.add_argument("--workers", type=int, default=2, help="kinds at a time")
    parser.add_argument(
        "--work", default=None, help="folder of the runs, in which a benchmark that was cut off goes on"
    )
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=KINDS)
    parser.add_argument("--compare", action="store_true", help="compare with runs that are never killed")
    parser.add_argument("--windows", type=int, default=10_000, help="of the runs that are compared")
    parser.add_argument("--no-results", action="store_true", help="write no results/crash.json")
    parser.add_argument("--kind", default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.kind is not None:
        play(arguments.kind, arguments)
        return

    temporary = arguments.work is None
    arguments.work = Path(tempfile.mkdtemp() if temporary else arguments.work).resolve()
    try:
        play_all(arguments.kinds, arguments)
        trials = {kind: read(arguments.work / f"{kind}.jsonl") for kind in arguments.kinds}
        for kind in COMPARED if arguments.compare else ():
            if kind in arguments.kinds:
                compare(kind, arguments)
    finally:
        if temporary:
            shutil.rmtree(arguments.work)
    header = (
        "",
        "kills",
        "env steps repeated",
        "windows",
        "SIGTERM",
        "env steps repeated",
        "s to end",
        "runs",
        "faults",
    )
    print("median (most) of the processes that had begun a window")
    print_table(header, list(rows_of(trials)))
    if not arguments.no_results:
        found = {kind: [asdict(trial) for trial in mine] for kind, mine in trials.items()}
        write_results("crash", {"commit": commit_in_force(), "interval": arguments.interval, "trials": found})
    missing = any(len(mine) < total(arguments, kind) for kind, mine in trials.items())
    if missing or any(trial.faults for mine in trials.values() for trial in mine):
        raise SystemExit("FAILED: see the faults above" if not missing else "FAILED: not all signals were sent")


if __name__ == "__main__":
    main()
