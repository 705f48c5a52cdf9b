"""Whether memory grows: during a million env steps of PPO on CartPole, and from one `fit` to the next.

    make bench-memory
    python benchmarks/memory.py --fits 100

The run of the README with `OptixCallback`, its evaluations, snapshots and TensorBoard files, with a scheduler that does
not end it. Ten readings; the growth is from the first, at a tenth of the steps, when all is compiled and allocated.

With `--fits`, each kind of fit is repeated in a process of its own, and the growth is the slope of the readings after a
fifth of them: new agents with new datasets and callbacks, the same agent again and again, and ordinary models with and
without the callback. Agents are compared with ordinary models that are compiled in the same way, because TensorFlow
never frees a program that XLA compiled.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from _cartpole import WINDOW, make_loop, make_run
from _report import ok, print_table, write_results

GOAL = 2.0  # percent
READINGS = 10
FACTOR = 1.5  # of the memory that a fit of plain Keras leaves behind
WINDOWS = 4  # of a fit
PLAIN, PLAIN_XLA, SAME = "new model", "new model, XLA", "same model"
# Kinds of fits, and the plain ones that they are compared with.
FITS = {
    PLAIN: None,
    PLAIN_XLA: None,
    SAME: None,
    "new model, OptixCallback": PLAIN,
    "same model, OptixCallback": SAME,
    "new agent": PLAIN,
    "new agent, XLA": PLAIN_XLA,
    "same agent": SAME,
}


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


def make_model(xla: bool) -> Any:
    layers = [keras.layers.Dense(64, activation="tanh") for _ in range(2)]
    model = keras.Sequential([keras.layers.Input((4,)), *layers, keras.layers.Dense(2)])
    model.compile(optimizer=keras.optimizers.Adam(1e-3), loss="mse", jit_compile=xla)
    return model


def fit_model(kind: str) -> Callable[[str], None]:
    """Fits an ordinary model, a new one each time or the same."""
    rows = np.random.default_rng(0).normal(size=(WINDOW, 4)).astype("float32")
    same = make_model(xla=False) if kind.startswith("same") else None

    def fit(directory: str) -> None:
        model = make_model("XLA" in kind) if same is None else same
        callbacks = [make_loop(WINDOWS, directory)] if "OptixCallback" in kind else []
        model.fit(rows, rows[:, :2], validation_split=0.25, epochs=WINDOWS, callbacks=callbacks, verbose=0)

    return fit


def fit_agent(kind: str) -> Callable[[str], None]:
    """Fits an agent with its loop: a new one with a new dataset each time, or the same."""

    def make() -> tuple[Any, Any]:
        agent, dataset = make_run(0)
        agent.compile(optimizer=keras.optimizers.Adam(1e-3), jit_compile="XLA" in kind)
        return agent, dataset

    same = make() if kind.startswith("same") else None

    def fit(directory: str) -> None:
        agent, dataset = make() if same is None else same
        agent.fit(dataset, callbacks=[make_loop(WINDOWS, directory)], verbose=0)

    return fit


def growth_of(kind: str, fits: int) -> float:
    """Returns by how many MiB the process grows in a fit."""
    fit = (fit_agent if "agent" in kind else fit_model)(kind)
    readings = []
    for _ in range(fits):
        with tempfile.TemporaryDirectory() as directory:
            fit(directory)
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what the allocator keeps for later is not a leak
        readings.append(resident_mib())
    first = fits // 5
    return float(np.polyfit(np.arange(first, fits), readings[first:], 1)[0])


def compare_fits(fits: int) -> None:
    """Prints by how much each kind of fit makes the process grow, and its ratio to plain Keras."""
    found: dict[str, float] = {}
    lines = []
    for kind, plain in FITS.items():
        command = [sys.executable, __file__, "--fits", str(fits), "--kind", kind]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found[kind] = float(output.split()[-1])
        # A tenth of a MiB is less than what a reading varies by.
        goal = None if plain is None else FACTOR * max(found[plain], 0.1)
        lines.append([kind, f"{found[kind]:.2f}", "" if goal is None else f"{goal:.2f} {ok(found[kind] <= goal)}"])
        print(f"{kind}: {found[kind]:.2f} MiB a fit", flush=True)
    print_table(["fit", "MiB a fit", "goal"], lines)
    write_results("memory_fits", {"fits": fits, "mib_a_fit": found})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env-steps", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fits", type=int, default=0, help="compare so many fits of each kind instead")
    parser.add_argument("--kind", choices=list(FITS), help="of fits; prints only the MiB a fit of this process")
    arguments = parser.parse_args()
    if arguments.kind:
        print(growth_of(arguments.kind, arguments.fits))
        return
    if arguments.fits:
        compare_fits(arguments.fits)
        return
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
