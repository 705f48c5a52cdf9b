"""Whether memory grows: resident memory of the process during a million env steps of PPO on CartPole.

    make bench-memory

The run of the README with `OptixCallback`, its evaluations, snapshots and TensorBoard files, with a scheduler that does
not end it. Ten readings; the growth is from the first, at a tenth of the steps, when all is compiled and allocated.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import keras
from _cartpole import WINDOW, make_loop, make_run
from _report import ok, print_table, write_results

GOAL = 2.0  # percent
READINGS = 10


def resident_mib() -> float:
    """Resident memory of this process (see proc(5), statm)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


class Memory(keras.callbacks.Callback):
    """Reads the resident memory each time another tenth of the steps is done."""

    def __init__(self, env_steps: int) -> None:
        super().__init__()
        self._interval = env_steps / READINGS
        self.readings: list[tuple[int, float]] = []

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        """See `keras.callbacks.Callback`."""
        steps = (batch + 1) * WINDOW
        if steps >= self._interval * (len(self.readings) + 1):
            self.readings.append((steps, resident_mib()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env-steps", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.env_steps < READINGS * WINDOW:
        parser.error(f"--env-steps must be at least {READINGS * WINDOW}: a window for each reading")
    agent, dataset = make_run(arguments.seed)
    memory = Memory(arguments.env_steps)
    with tempfile.TemporaryDirectory() as directory:
        loop = make_loop(-(-arguments.env_steps // WINDOW), directory)
        agent.fit(dataset, callbacks=[loop, memory], verbose=0)
    first = memory.readings[0][1]
    growth = [100.0 * (mib / first - 1.0) for _, mib in memory.readings]
    lines = [
        [f"{steps:,}", f"{mib:.1f}", f"{percent:+.2f} %"]
        for (steps, mib), percent in zip(memory.readings, growth, strict=True)
    ]
    print_table(["env steps", "resident MiB", "growth"], lines)
    print(f"growth from the first reading {growth[-1]:+.2f} %, goal within {GOAL:g} % {ok(growth[-1] <= GOAL)}")
    write_results("memory", {"readings": memory.readings, "growth_percent": growth[-1]})


if __name__ == "__main__":
    main()
