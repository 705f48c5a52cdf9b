"""`Agent.act` from eight threads: errors, wrong actions and the rate; and the rate of one thread.

The policy chooses the action whose observation is the largest, so the right action of each observation is known. To
compare the rate of one thread with that of another commit, give the folder of its checkout: both are measured
alternately, each in a process of its own, and the ratios are of neighbours.

python benchmarks/act_threads.py [--threads 8] [--calls 100000] [--against FOLDER] [--rounds 8]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
from gymnasium import spaces

import keras_optix as optix

ACTIONS = 8
ONE = "--rate-of-one-thread"


def largest() -> optix.PPOAgent:
    """Any other action than the right one is improbable by a factor of e^1000 / e^714."""
    scale = keras.layers.Dense(ACTIONS, use_bias=False, kernel_initializer=keras.initializers.Identity(1000.0))
    agent = optix.PPOAgent(keras.Sequential([keras.layers.Input((ACTIONS,)), scale]), seed=0)
    agent.bind(spaces.Box(-1.0, 1.0, (ACTIONS,), np.float32), spaces.Discrete(ACTIONS))
    return agent


def rate_of_one_thread(calls: int) -> float:
    """Calls per second, without those that make the actor."""
    agent, observation = largest(), np.linspace(-1, 1, ACTIONS, dtype=np.float32)
    for _ in range(calls // 10):
        agent.act(observation)
    start = time.perf_counter()
    for _ in range(calls):
        agent.act(observation)
    return calls / (time.perf_counter() - start)


def act(agent: optix.PPOAgent, k: int, calls: int, counts: dict[str, int]) -> None:
    """Counts what thread k gets."""
    rng = np.random.default_rng(k)
    values = np.linspace(-1, 1, ACTIONS, dtype=np.float32)
    errors = wrong = 0
    for call in range(calls):
        observation = rng.permutation(values)
        try:
            wrong += int(agent.act(observation, deterministic=call % 2 == 0)) != observation.argmax()
        except Exception:
            errors += 1
    counts[f"errors of {k}"], counts[f"wrong of {k}"] = errors, wrong


def measured_in(folder: Path, calls: int) -> float:
    command = [sys.executable, str(Path(__file__).resolve()), ONE, "--calls", str(calls)]
    environment = os.environ | {"PYTHONPATH": str(folder), "TF_CPP_MIN_LOG_LEVEL": "2"}
    return float(
        subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()[-1]
    )


def main() -> None:
    """Counts, compares, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument(ONE, action="store_true", dest="one")
    arguments = parser.parse_args()
    if arguments.one:
        print(rate_of_one_thread(arguments.calls))
        return
    if arguments.against is not None:
        here, ratios = Path(__file__).resolve().parents[1], []
        for k in range(arguments.rounds):
            folders = (here, arguments.against) if k % 2 else (arguments.against, here)
            rates: dict[Any, float] = {folder: measured_in(folder, 10_000) for folder in folders}
            ratios.append(rates[here] / rates[arguments.against])
            print(f"{rates[here]:.0f} calls/s, there {rates[arguments.against]:.0f}: {ratios[-1]:.3f}", flush=True)
        print(f"one thread: median ratio {statistics.median(ratios):.3f} of {len(ratios)}")
    agent, counts = largest(), dict[str, int]()
    threads = [threading.Thread(target=act, args=(agent, k, arguments.calls, counts)) for k in range(arguments.threads)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds, total = time.perf_counter() - start, arguments.threads * arguments.calls
    errors, wrong = (sum(count for name, count in counts.items() if what in name) for what in ("errors", "wrong"))
    print(
        f"{total} calls in {arguments.threads} threads, {total / seconds:.0f} a second: {errors} errors, {wrong} wrong"
    )
    if errors or wrong:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
