"""Ctrl-C at random moments of a run on a live feed: it ends at once, as Python does, and leaves nothing broken behind.

Starts `examples/live_feed.py` in a fresh folder, again and again, and sends SIGINT to it after a random time, by which
it may be importing, compiling, learning or writing. The process must be dead (of SIGINT) within `--limit` seconds, what
it left in the folder must be readable, and its server must be gone.

python benchmarks/live_interrupts.py [--runs 20] [--limit 2]
"""

from __future__ import annotations

import argparse
import math
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from _report import commit_in_force, print_table, write_results

import keras_optix as optix

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "live_feed.py"
FIRST, LAST = 1.0, 40.0  # seconds from the start between which it is interrupted
RATE = 400.0  # ticks a second: there are snapshots within the time
HANGS = 60.0  # seconds after which a run is killed


@dataclass
class Interrupt:
    """What came of one.

    Attributes:
        moment: Seconds from the start of the process.
        phase: That it had reached, by what it had printed.
        left: Seconds from the signal until `fit` was left and everything closed; NaN if it had not begun.
        seconds: From the signal to the end of the process.
        code: Its return code, -2 if SIGINT ended it.
        snapshots: In the manifest, all of them readable.
        faults: What is broken.
    """

    moment: float
    phase: str
    left: float = float("nan")
    seconds: float = 0.0
    code: int | None = None
    snapshots: int = 0
    faults: list[str] = field(default_factory=list)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def serves(port: int) -> bool:
    """Whether a server is there, and is still after two seconds."""
    for _ in range(20):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
        except OSError:
            return False
        time.sleep(0.1)
    return True


def phase_of(printed: str) -> str:
    """How far a run is, by its last line of progress."""
    windows = [line.split(" · ")[0] for line in printed.replace("\r", "\n").splitlines() if line.startswith("window ")]
    if windows:
        return f"from {windows[-1]}"
    return "TensorFlow, compiling" if "a cart at port" in printed else "Python"


def readable(directory: Path) -> int:
    """Reads everything that is in a folder of checkpoints; returns the number of snapshots."""
    registry = optix.CheckpointRegistry(directory)
    for snapshot in registry.ranked_snapshots:
        registry.load(snapshot)
    for point in directory.glob("*/resume.npz"):
        with np.load(point, allow_pickle=False) as archive:
            for name in archive.files:
                _ = archive[name]
    return len(registry.ranked_snapshots)


def interrupt(folder: Path, moment: float) -> Interrupt:
    """Starts the example, interrupts it, and looks at what is left."""
    port, output, checkpoints = free_port(), folder / "output", folder / "checkpoints"
    command = [sys.executable, str(EXAMPLE), "--port", str(port), "--rate", str(RATE)]
    command += ["--checkpoint-dir", str(checkpoints), "--log-dir", str(folder / "runs")]
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "TF_CPP_MIN_LOG_LEVEL": "2"}
    start = time.perf_counter()
    with output.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment, start_new_session=True)
    time.sleep(max(moment - (time.perf_counter() - start), 0.0))
    result = Interrupt(moment, phase_of(output.read_text()))
    if process.poll() is not None:
        result.faults.append(f"it had ended by itself: {output.read_text().splitlines()[-1:]}")
    sent = time.perf_counter()
    process.send_signal(signal.SIGINT)
    while process.poll() is None:
        now = time.perf_counter() - sent
        if math.isnan(result.left) and "FeedCounts(" in output.read_text(errors="replace"):
            result.left = now
        if now > HANGS:
            result.faults.append("it hung")
            process.kill()
            process.wait()
        time.sleep(0.005)
    result.seconds, result.code = time.perf_counter() - sent, process.returncode
    if result.code != -signal.SIGINT:
        result.faults.append(f"its last words were {output.read_text().splitlines()[-1:]}")
    if serves(port):
        result.faults.append("its server is still there")
    try:
        result.snapshots = readable(checkpoints)
    except Exception as error:
        result.faults.append(f"{type(error).__name__}: {error}")
    return result


def main() -> None:
    """Interrupts, reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--limit", type=float, default=2.0, help="seconds to the end that are still well")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-results", action="store_true", help="write no results/live_interrupts.json")
    arguments = parser.parse_args()

    # A shell starts what runs in its background deaf to Ctrl-C, and a child would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    rng = random.Random(arguments.seed)
    done: list[Interrupt] = []
    # One moment in each of as many equal parts of the time, so that every phase is met.
    parts = rng.sample(range(arguments.runs), arguments.runs)
    for run, part in enumerate(parts):
        moment = FIRST + (LAST - FIRST) * (part + rng.random()) / arguments.runs
        with tempfile.TemporaryDirectory() as folder:
            done.append(interrupt(Path(folder), moment))
        late = done[-1].seconds > arguments.limit
        print(f"run {run + 1}: {done[-1].seconds:.2f} s{' (late)' if late else ''}", *done[-1].faults, flush=True)

    rows = [
        [one.phase, *(f"{value:.2f}" for value in (one.moment, one.left, one.seconds))]
        + [str(value) for value in (one.code, one.snapshots, len(one.faults))]
        for one in sorted(done, key=lambda one: one.moment)
    ]
    print_table(("reached", "moment s", "to end of fit s", "to exit s", "code", "snapshots", "faults"), rows)
    longest, broken = max(one.seconds for one in done), sum(bool(one.faults) for one in done)
    reached = longest <= arguments.limit and not broken
    print(f"longest {longest:.2f} s of at most {arguments.limit:g}, {broken} broken: {'OK' if reached else 'FAILED'}")
    if not arguments.no_results:
        results = {"commit": commit_in_force(), "limit": arguments.limit, "runs": [asdict(one) for one in done]}
        write_results("live_interrupts", results)
    if not reached:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
