"""Plays the runs of a benchmark, each in a process of its own with one thread.

It needs the standard library only, because Pythons without keras_optix import it too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

# TensorFlow and NumPy read these when they are imported.
ONE_THREAD = {
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",  # its remarks on start-up would come with every run
}

Result = dict[str, Any]
_Spec = TypeVar("_Spec")


def play(command: Sequence[str], tree: Path | None) -> tuple[Result, float]:
    """Plays one run.

    Args:
        command: The program and its arguments. The last line of its output is the result as JSON.
        tree: Checkout whose modules are imported; None: those of that Python.

    Returns:
        The result, and the seconds that the process took.

    Raises:
        RuntimeError: The process failed.
    """
    begin = time.perf_counter()
    environment = os.environ | ONE_THREAD | {"PYTHONPATH": "" if tree is None else str(tree)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1]), round(time.perf_counter() - begin, 1)


def keep(path: Path, result: Result) -> None:
    """Writes the file of a run, which appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(f".{os.getpid()}.part")
    aside.write_text(json.dumps(result))
    aside.replace(path)


def append(path: Path, result: Result) -> None:
    """Appends a run to a file of results, a line for each."""
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(result) + "\n")


def read_lines(path: Path) -> list[Result]:
    """All lines of a file of results, oldest first; a last line that was cut off is left out."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def missing(specs: Iterable[Any], results: Iterable[Result], *, any_commit: bool) -> list[Any]:
    """Returns the runs that are not among the results.

    Args:
        specs: The runs that are wanted: dataclasses whose fields, `commit` among them, tell one from another.
        results: Lines of the file of results, which have these fields, too.
        any_commit: Whether a run of another commit counts.
    """
    wanted = list(specs)
    names = [one.name for spec in wanted[:1] for one in fields(spec) if not (any_commit and one.name == "commit")]
    there = {tuple(result[name] for name in names) for result in results}
    return [spec for spec in wanted if tuple(getattr(spec, name) for name in names) not in there]


def play_all(specs: Sequence[_Spec], run: Callable[[_Spec], str], name: Callable[[_Spec], str], workers: int) -> int:
    """Plays runs, so many at a time, in their order, and says of each when it is done.

    Args:
        specs: The runs.
        run: Plays a run and keeps its result; returns what is said of it.
        name: Names a run.
        workers: Processes at a time.

    Returns:
        How many failed.
    """
    failed = 0
    with ThreadPoolExecutor(workers) as pool:
        futures = {pool.submit(run, spec): spec for spec in specs}
        for number, future in enumerate(as_completed(futures), start=1):
            label = f"{number}/{len(specs)} {name(futures[future])}"
            try:
                said = future.result()
            except RuntimeError as error:
                failed += 1
                print(f"{label}: failed\n{error}", file=sys.stderr, flush=True)
                continue
            print(f"{label}: {said}", flush=True)
    return failed
