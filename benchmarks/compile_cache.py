"""What the compilation cache saves, and that nothing which happens to its files does any harm.

    make bench-compile-cache
    python benchmarks/compile_cache.py [--pairs 5] [--runs 20]

Each run is a process: the quick start on CartPole, up to the first update of the weights, or with a few windows more.

- **Seconds**: from the start of the process to the first update, without a cache, with an empty one and with a filled
  one, alternating.
- **Harm**: two processes at once with one cache; entries that are cut off, or random bytes; a folder that is read-only
  or on a full disk (for which it needs the rights to mount one; otherwise the line says so); a cache that was filled on
  another CPU. A run is right if it ends well, with the same loss as a run without a cache.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from _report import ok, print_table, write_results

ROOT = Path(__file__).resolve().parents[1]
VARIABLE = "KERAS_OPTIX_COMPILE_CACHE"
GOAL = 0.6  # of the seconds without a cache
PROGRAM = """
import json, sys, time
import keras
import keras_optix as optix
from keras_optix.agents import compile_cache
if "other-cpu" in sys.argv:
    compile_cache.cpu_features = lambda: "another CPU"
keras.utils.set_random_seed(0)
agent = optix.PPOAgent.preset("CartPole-v1")
dataset = optix.dataset_from_env("CartPole-v1", agent, seed=0)
agent.fit(dataset, steps_per_epoch=1, verbose=0)
first = time.time()
loss = agent.fit(dataset, steps_per_epoch=5, verbose=0).history["loss"]
print(json.dumps([first, loss]))
"""


def start(cache: str | Path, *arguments: str) -> tuple[float, subprocess.Popen[str]]:
    """Starts a run; returns when it was started, too."""
    environment = os.environ | {VARIABLE: str(cache), "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    begun = time.time()
    command = [sys.executable, "-c", PROGRAM, *arguments]
    return begun, subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(begun: float, process: subprocess.Popen[str]) -> tuple[float, list[float] | None]:
    """Waits for a run; returns the seconds to the first update and the loss, which is None if the run failed."""
    out, error = process.communicate()
    if process.returncode:
        print(error[-2000:], file=sys.stderr)
        return float("nan"), None
    first, loss = json.loads(out.splitlines()[-1])
    return first - begun, loss


def run(cache: str | Path, *arguments: str) -> tuple[float, list[float] | None]:
    """Plays a run; see `finish`."""
    return finish(*start(cache, *arguments))


def entries(cache: Path) -> list[Path]:
    """The files of a cache."""
    return list(cache.rglob("*.compiled"))


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[bool]:
    """Mounts a file system in memory on a folder; yields whether that was allowed."""
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False)
    try:
        yield done.returncode == 0
    finally:
        if done.returncode == 0:
            subprocess.run(["umount", folder], check=True)


def seconds(pairs: int, folder: Path) -> list[list[str]]:
    """The table of seconds."""
    found: dict[str, list[float]] = {"no cache": [], "empty": [], "filled": []}
    for _ in range(pairs):
        shutil.rmtree(folder, ignore_errors=True)
        for name, cache in (("no cache", "off"), ("empty", folder), ("filled", folder)):
            found[name].append(run(cache)[0])
    medians = {name: statistics.median(values) for name, values in found.items()}
    ratio = statistics.median(b / a for a, b in zip(found["no cache"], found["filled"], strict=True))
    rows = [[name, f"{median:.2f}", f"{min(found[name]):.2f} to {max(found[name]):.2f}", "", ""]
            for name, median in medians.items()]  # fmt: skip
    rows[-1][3:] = [f"{ratio:.2f}", ok(ratio <= GOAL)]
    return rows


def harm(runs: int, folder: Path) -> list[list[str]]:
    """The table of harm."""
    right = run("off")[1]

    def damaged(change: Callable[[Path], None]) -> Callable[[], list[Any]]:
        def once() -> list[Any]:
            for path in entries(folder):
                change(path)
            return [run(folder)[1]]

        return once

    def both() -> list[Any]:
        shutil.rmtree(folder, ignore_errors=True)
        started = [start(folder), start(folder)]
        return [finish(*one)[1] for one in started]

    def other() -> list[Any]:
        shutil.rmtree(folder, ignore_errors=True)
        return [run(folder, "other-cpu")[1], run(folder)[1]]

    def on_disk(options: str) -> Callable[[], list[Any]]:
        def once() -> list[Any]:
            disk = folder.with_name("disk")
            disk.mkdir(exist_ok=True)
            with mounted(disk, options) as allowed:
                return [run(disk / "cache")[1]] if allowed else []

        return once

    cases: dict[str, Callable[[], list[Any]]] = {
        "two processes at once": both,
        "cut off": damaged(lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])),
        "random bytes": damaged(lambda path: path.write_bytes(os.urandom(5000))),
        "a read-only disk": on_disk("ro,size=1m"),
        "a full disk": on_disk("size=16k"),
        "filled on another CPU": other,
    }
    rows = []
    for name, once in cases.items():
        losses = [loss for _ in range(runs) for loss in once()]
        good = sum(loss == right for loss in losses)
        rows.append([name, str(len(losses)), str(good), ok(good == len(losses)) if losses else "not allowed to mount"])
    return rows


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--runs", type=int, default=20, help="of each kind of harm")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as above:
        folder = Path(above) / "cache"
        times = seconds(arguments.pairs, folder)
        print_table(("cache", "seconds to the first update", "from, to", "filled / none", ""), times)
        done = harm(arguments.runs, folder)
        print_table(("what happens to the cache", "runs", "right", ""), done)
        write_results("compile-cache", {"seconds": times, "harm": done})


if __name__ == "__main__":
    main()
