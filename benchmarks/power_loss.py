"""Plays every kind of write with a power failure at every moment: nothing that was reported may be lost or unreadable.

A kill of the process leaves everything that was written; a power failure does not (`_power_states.py` has the model).
So what a write does to the files is recorded once (`_power_trace.py`). For each moment of it, and for every state of
the disk that a power failure at this moment may leave, the files are written as they would be, and read
(`_power_cases.py`): the best is the one that was reported, or the one that was being written, resume points likewise,
all that the manifest names is whole, nothing raises or warns, and the run goes on from there.

Controls follow: with a step of a write left out, faults must be found.

python benchmarks/power_loss.py [--limit 2000] [--cases ...]
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from _power_cases import CASES, Case, faults
from _power_states import Found, States, renamed_first, without, without_sync_of_new_folders
from _power_trace import Said, Sync, SyncFolder, Trace, recorded
from _report import print_table, write_results

CONTROLS: dict[str, Callable[[Trace], Trace]] = {
    "no fsync of files": lambda trace: without(trace, Sync),
    "no fsync of folders": lambda trace: without(trace, SyncFolder),
    "no fsync after a folder is made": without_sync_of_new_folders,
    "rename before write": renamed_first,
}
# In each of these at least one write goes wrong with each control.
CONTROL_CASES = ("first snapshots", "first resume point", "schedule")


def trace_of(case: Case, root: Path) -> Trace:
    """Returns what a write does to the files below a folder, which is emptied before."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    case.prepare(root)
    with recorded(root) as trace:
        case.play(root, trace.say)
    return trace


def try_all(case: Case, trace: Trace, root: Path, *, limit: int, seed: int = 0, most_faults: int = 1000) -> Found:
    """Reads what power failures leave of a write.

    Args:
        case: The kind of write.
        trace: What it does.
        root: A folder, which is emptied.
        limit: Most states at one moment; if there are more, so many are drawn.
        seed: Of what is drawn.
        most_faults: Ends after so many faults.
    """
    states, found, began = States(trace, limit, seed), Found(), time.perf_counter()
    found.operations = sum(not isinstance(event, Said) for event in trace.events)
    for state in states:
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        state.write(root)
        found.states += 1
        wrong = faults(case, root, state.facts, state.pending)
        found.faults += [f"after {state.when} operations: {fault}" for fault in wrong]
        if len(found.faults) >= most_faults:
            break
    found.moments, found.exhaustive = states.moments, states.exhaustive
    found.seconds = time.perf_counter() - began
    return found


def try_kinds(names: Iterable[str], limit: int, seed: int = 0) -> dict[str, Found]:
    """Tries the kinds of writes; returns what was found by kind."""
    found = {}
    with tempfile.TemporaryDirectory(dir=_memory()) as folder:
        for name in names:
            case = CASES[name]()
            root = Path(folder) / "power"
            found[name] = try_all(case, trace_of(case, root), root, limit=limit, seed=seed)
    return found


def try_controls(names: Iterable[str] = CONTROL_CASES, limit: int = 500) -> dict[str, Found]:
    """Tries writes that lack a step; returns what was found by control, which must be faults."""
    found = {}
    with tempfile.TemporaryDirectory(dir=_memory()) as folder:
        root = Path(folder) / "power"
        for control, change in CONTROLS.items():
            for name in names:
                case = CASES[name]()
                trace = change(trace_of(case, root))
                found[f"{name}, {control}"] = try_all(case, trace, root, limit=limit, most_faults=1)
    return found


def _memory() -> str | None:
    """Returns a folder in memory, where a system has one: `fsync` of thousands of files would take long elsewhere."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def main() -> None:
    """Tries everything, reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=2000, help="most states at one moment; more are sampled")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--no-results", action="store_true", help="write no results/power_loss.json")
    arguments = parser.parse_args()

    found = try_kinds(arguments.cases, arguments.limit, arguments.seed)
    rows = []
    for name, result in found.items():
        for fault in list(dict.fromkeys(result.faults))[:5]:
            print(f"{name}: {fault}")
        which = "all" if result.exhaustive else "sampled"
        numbers = (result.operations, result.moments, result.states)
        rows.append([name, *map(str, numbers), which, str(len(result.faults)), f"{result.seconds:.0f}"])
    print_table(("", "operations", "moments", "states", "", "faults", "s"), rows)
    print(f"{sum(result.states for result in found.values())} states")
    controls = try_controls(limit=arguments.limit)
    for name, result in controls.items():
        print(f"control: {name}: {result.faults[0] if result.faults else 'no fault':.120}")
    if not arguments.no_results:
        write_results("power_loss", {name: vars(result) for name, result in (found | controls).items()})
    if any(result.faults for result in found.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
