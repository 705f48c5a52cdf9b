"""Runs tests in processes that import a copy of the package, which may have a fault.

Each process is forked from one in which TensorFlow and the other libraries are imported already, but not the package.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.ledger.table import ROOT

LIBRARIES = ["tensorflow", "keras", "gymnasium", "ai_edge_litert.interpreter", "scipy.stats", "pytest"]
COPIED = ("keras_optix", "tests", "benchmarks", "examples", "docs", "README.md", "pyproject.toml", "Makefile")
TIMEOUT_SECONDS = 120.0
# A test that fails by one of these shows that the mutation is not the fault, but code that cannot run.
NOT_A_FAULT = ("ImportError", "ModuleNotFoundError", "NameError", "SyntaxError", "UnboundLocalError")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of the tests of one process.

    Attributes:
        passed: The node ids of the tests that passed, without their parameters too.
        failed: The message of each test that failed while it ran, in one line, by node id.
        broken: What kept tests from running: an error of pytest, of a fixture or of collection, or the time limit.
        seconds: How long it took.
    """

    passed: frozenset[str] = frozenset()
    failed: dict[str, str] = dataclasses.field(default_factory=dict)
    broken: str = ""
    seconds: float = 0.0


class _Watch:
    """A plugin of pytest that keeps what became of each test."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.passed: set[str] = set()
        self.failed: dict[str, str] = {}
        self.errors: list[str] = []

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" and report.passed:
            self.passed.add(report.nodeid)
        elif report.when == "call" and report.failed:
            message = " ".join(report.longrepr.reprcrash.message.split())
            self.failed[report.nodeid] = message
            if message.startswith(NOT_A_FAULT):
                self.errors.append(message)
        elif report.failed:
            self.errors.append(f"error in {report.when} of {report.nodeid}: {report.longreprtext.splitlines()[-1]}")

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.errors.append(f"collection of {report.nodeid}: {str(report.longrepr).splitlines()[-1]}")

    def pytest_sessionfinish(self) -> None:
        file = str(sys.modules["keras_optix"].__file__) if "keras_optix" in sys.modules else "nowhere"
        if not Path(file).is_relative_to(self.root):
            self.errors.append(f"the package was imported from {file} instead of the copy")


def copy_of_the_tree(source: Path, place: Path, copy: Callable[[str, str], object] = shutil.copy2) -> Path:
    """Copies what the tests need. With `copy=os.link` the copy shares its files, and compiled modules with them.

    Python replaces the file of a compiled module and never writes into it, so that copies do not disturb each other.
    """
    ignore = None if copy is os.link else shutil.ignore_patterns("__pycache__")
    place.mkdir(parents=True)
    for name in COPIED:
        if (source / name).is_dir():
            shutil.copytree(source / name, place / name, ignore=ignore, copy_function=copy)
        elif (source / name).exists():
            copy(str(source / name), str(place / name))
    return place


def _child(root: Path, node_ids: Sequence[str], answer: Connection) -> None:
    """Runs tests with the package of `root`. Ends the process, whatever the tests left running."""
    os.setsid()
    started = time.monotonic()
    kept = [place for place in sys.path if Path(place or ".").resolve() != ROOT]
    sys.path[:] = [str(root), *kept]
    for name in [name for name in sys.modules if name.split(".")[0] in ("tests", "keras_optix")]:
        del sys.modules[name]
    os.chdir(root)
    os.environ["PYTHONPATH"] = str(root)
    sys.dont_write_bytecode = False  # the runs without a fault compile the modules for those with one
    import pytest

    watch = _Watch(root)
    output = io.StringIO()
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--rootdir", str(root), "--tb=short"]
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        code = pytest.main([*options, *node_ids], plugins=[watch])
    if int(code) not in (0, 1) and not watch.errors:
        watch.errors.append(f"pytest ended with {code!r}: {output.getvalue().strip().splitlines()[-1:]}")
    # Not as an `Outcome`: the class of this module is not the one of the copy, which a test may have imported.
    answer.send((frozenset(watch.passed), watch.failed, "; ".join(watch.errors), time.monotonic() - started))
    answer.close()
    os._exit(0)


@dataclasses.dataclass
class _Running:
    key: str
    process: Any
    answer: Connection
    deadline: float


class Processes:
    """Runs jobs, a few at a time, each in a process of its own.

    Args:
        number: How many processes run at the same time.
        libraries: What the process from which they are forked imports.
        timeout: Seconds for each test, after which its process is ended.
    """

    def __init__(self, number: int, libraries: Sequence[str] = LIBRARIES, timeout: float = TIMEOUT_SECONDS) -> None:
        self._number = number
        self._timeout = timeout
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(libraries))

    def run(self, jobs: dict[str, Callable[[], tuple[Path, Sequence[str]]]]) -> Iterator[tuple[str, Outcome]]:
        """Yields the key and the outcome of each job, as they end.

        Args:
            jobs: A function for each key that prepares the job, and returns a copy of the tree and the tests to run.
        """
        waiting = list(jobs.items())
        running: list[_Running] = []
        try:
            while waiting or running:
                while waiting and len(running) < self._number:
                    key, prepare = waiting.pop(0)
                    running.append(self._start(key, *prepare()))
                first = min(each.deadline for each in running) - time.monotonic()
                multiprocessing.connection.wait([each.answer for each in running], timeout=max(first, 0.0))
                for each in list(running):
                    if each.answer.poll() or time.monotonic() > each.deadline:
                        running.remove(each)
                        yield each.key, self._end(each)
        finally:
            for each in running:
                self._end(each)

    def _start(self, key: str, root: Path, node_ids: Sequence[str]) -> _Running:
        ours, theirs = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_child, args=(root, node_ids, theirs))
        process.start()
        theirs.close()
        return _Running(key, process, ours, time.monotonic() + self._timeout * len(node_ids))

    def _end(self, running: _Running) -> Outcome:
        """Returns what the process answered, and ends it with all processes that it started."""
        try:
            outcome = Outcome(*running.answer.recv()) if running.answer.poll() else None
        except EOFError:
            outcome = Outcome(broken="the process ended without an answer")
        running.process.join(1.0 if outcome else 0.0)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(running.process.pid, signal.SIGKILL)
        running.process.kill()  # if it was not the leader of its group yet
        running.process.join()
        running.answer.close()
        return outcome or Outcome(broken=f"not ended after {self._timeout:.0f} s for each test")
