"""Brings back each fault of the table in a copy of the package, and looks whether its test fails."""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from tests.ledger.processes import Outcome, Processes, copy_of_the_tree
from tests.ledger.table import ROOT, Fault, TableError, mutate

CAUGHT = "caught"
SURVIVED = "SURVIVED"
BROKEN = "BROKEN"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What is shown of one fault.

    Attributes:
        fault: The fault.
        result: `CAUGHT` if its test fails with the fault and passes without it, `SURVIVED` if it passes with the fault,
            and `BROKEN` in every other case.
        line: The message of the failure, or what is broken.
        seconds: How long the test with the fault took.
    """

    fault: Fault
    result: str
    line: str
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong with this fault and its test."""
        return self.result == CAUGHT


def is_of(node_id: str, test: str) -> bool:
    """Whether a test that ran is the one named, or a case of it."""
    return node_id == test or node_id.startswith(test + "[")


def without_the_fault(test: str, outcome: Outcome) -> str:
    """Returns what is wrong with a test where the fault is not, or an empty text."""
    if failed := [line for node_id, line in outcome.failed.items() if is_of(node_id, test)]:
        return f"fails without the fault: {failed[0]}"
    if not any(is_of(node_id, test) for node_id in outcome.passed):
        return f"does not run without the fault: {outcome.broken or 'skipped, or not collected'}"
    return ""


def with_the_fault(fault: Fault, outcome: Outcome) -> Verdict:
    """Returns whether the test showed the fault, by failing while it ran."""
    if outcome.broken:
        return Verdict(fault, BROKEN, outcome.broken, outcome.seconds)
    if failed := [line for node_id, line in outcome.failed.items() if is_of(node_id, fault.test)]:
        return Verdict(fault, CAUGHT, failed[0], outcome.seconds)
    return Verdict(fault, SURVIVED, "the test passes with the fault", outcome.seconds)


def bring_back(
    faults: Sequence[Fault],
    processes: Processes,
    root: Path = ROOT,
    show: Callable[[Verdict], None] = lambda _: None,
    tell: Callable[[str], None] = lambda _: None,
) -> list[Verdict]:
    """Runs the test of each fault that has a mutation, without it and with it.

    Args:
        faults: The faults.
        processes: Where the tests run.
        root: The repository, of which only copies are changed.
        show: Called with each verdict, as soon as it is known.
        tell: Called with what became of the tests without any fault.
    """
    mutated = [fault for fault in faults if fault.file]
    verdicts = []
    with tempfile.TemporaryDirectory(prefix="ledger-") as directory:
        clean = copy_of_the_tree(root, Path(directory) / "without-a-fault")
        wrong = _run_without(mutated, processes, clean)
        tell(f"without any fault: {len(wrong)} tests, of which {sum(not problem for problem in wrong.values())} pass")
        jobs: dict[str, Callable[[], tuple[Path, Sequence[str]]]] = {}
        by_name = {fault.name: fault for fault in mutated}
        for fault in mutated:
            if wrong[fault.test]:
                verdicts.append(Verdict(fault, BROKEN, wrong[fault.test]))
                show(verdicts[-1])
                continue
            try:
                source = mutate((clean / fault.file).read_text(), fault)
            except (TableError, OSError) as error:
                verdicts.append(Verdict(fault, BROKEN, str(error)))
                show(verdicts[-1])
                continue
            jobs[fault.name] = partial(_prepare, clean, Path(directory) / fault.name, fault, source)
        for name, outcome in processes.run(jobs):
            shutil.rmtree(Path(directory) / name)
            verdicts.append(with_the_fault(by_name[name], outcome))
            show(verdicts[-1])
    return verdicts


def _prepare(clean: Path, place: Path, fault: Fault, source: str) -> tuple[Path, Sequence[str]]:
    """Makes a copy with the fault, which shares all other files with the copy without it."""
    copy_of_the_tree(clean, place, os.link)
    changed = place / fault.file
    changed.unlink()
    changed.write_text(source)
    # Python takes a compiled module for that of a source of the same size and second.
    for compiled in changed.parent.glob(f"__pycache__/{changed.stem}.*.pyc"):
        compiled.unlink()
    return place, [fault.test]


def _run_without(faults: Sequence[Fault], processes: Processes, clean: Path) -> dict[str, str]:
    """Returns what is wrong with each test without any fault, in one process for each folder of tests."""
    by_folder: dict[str, list[str]] = {}
    for test in dict.fromkeys(fault.test for fault in faults):
        by_folder.setdefault(str(Path(test.partition("::")[0]).parent), []).append(test)
    found = {}
    jobs = {folder: partial(lambda tests: (clean, tests), tests) for folder, tests in by_folder.items()}
    for folder, outcome in processes.run(jobs):
        found |= {test: without_the_fault(test, outcome) for test in by_folder[folder]}
    return found


def summary(verdicts: Sequence[Verdict], faults: Sequence[Fault], seconds: float) -> str:
    """Returns the last line: how many faults there are, and what became of those that were brought back."""
    count = {result: sum(verdict.result == result for verdict in verdicts) for result in (CAUGHT, SURVIVED, BROKEN)}
    return (
        f"{len(faults)} faults, {len(verdicts)} brought back: {count[CAUGHT]} caught, {count[SURVIVED]} survived, "
        f"{count[BROKEN]} broken; {seconds:.0f} s"
    )


def seconds_since(started: float) -> float:
    """Seconds of the monotonic clock."""
    return time.monotonic() - started
