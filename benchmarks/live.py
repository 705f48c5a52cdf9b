"""A feed of 1,000 observations per second while PPO trains on the same cores: what is lost, and how late actions are.

    make bench-live

A server in a process of its own ticks in real time over TCP on the loopback, and measures how long each answer takes
on the way there and back: socket, scheduling and Python's lock included (`round trip`). The library measures from the
observation's arrival in its thread to the action (`library`). Four kinds of run, several seeds each:

- `block`: nothing may be lost;
- `drop_oldest` and `latest` with a learner that is ten times slower (ten times the epochs, on the same cores): actions
  go out as before, and what is dropped is counted exactly. Each window's observations carry their numbers, so that what
  was delivered is counted a second time, from the windows themselves;
- `block` with the slow learner, for comparison: nothing is lost, and actions wait.
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium
import keras
import numpy as np
from _live_server import ANSWER, TICK
from _report import commit_in_force, interquartile_mean, interval, ok, print_table, write_results

import keras_optix as optix

WINDOW = 250
RUNS = (("block", 1), ("drop_oldest", 10), ("latest", 10), ("block", 10))


class Ticks:
    """The server as a feed."""

    observation_space = gymnasium.spaces.Box(0.0, 1.0, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, port: int) -> None:
        self._port = port
        self._link: socket.socket | None = None

    def stream(self) -> Any:
        """Until the server hangs up; its clock begins with the connection."""
        link = self._link = socket.create_connection(("127.0.0.1", self._port))
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        source = link.makefile("rb")
        while len(data := source.read(TICK.size)) == TICK.size:
            number, first, second, reward = TICK.unpack(data)
            action = yield np.array([first, second], np.float32), reward, False, False, {"number": number}
            link.sendall(ANSWER.pack(number, int(action)))

    def close(self) -> None:
        """Hangs up."""
        if self._link is not None:
            self._link.close()


class Numbers(keras.callbacks.Callback):
    """Keeps the numbers of the observations in all windows that reached the learner, and the rewards."""

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.seen: list[int] = []
        self.rewards: list[float] = []
        self._source = source
        source.keep_delivered(True)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Takes the windows that were learned from."""
        for collected in self._source.drain_windows(self.model.last_window_id):
            window = collected.window
            rows = window.valid[:, 0]
            self.seen += [info[0]["number"] for info, valid in zip(collected.infos, rows, strict=True) if valid]
            self.rewards.append(float(window.rewards[rows].mean()) if rows.any() else 0.0)


def run(overflow: str, slowness: int, seed: int, rate: float, seconds: float, epochs: int) -> dict[str, Any]:
    """One run; what server, library and windows say of it."""
    keras.utils.set_random_seed(seed)
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("_live_server.py")), f"--rate={rate}", f"--seconds={seconds}"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None  # noqa: S101
    port = int(server.stdout.readline())
    agent = optix.PPOAgent(gamma=0.0, update_epochs=epochs * slowness)
    agent.compile(optimizer=keras.optimizers.Adam(1e-3))
    boundary = optix.live.every_n_steps(WINDOW)
    dataset = optix.dataset_from_stream(Ticks(port), agent, boundary=boundary, seed=seed, overflow=overflow)
    source = agent.sources[-1]
    numbers = Numbers(source)
    began = time.perf_counter()
    agent.fit(dataset, callbacks=[numbers], verbose=0)
    counts, logs = source.counts, source.logs()
    said = json.loads(server.stdout.readline())
    server.wait(10)
    durations = 1000.0 * np.array(said["durations"])
    # The last window may not be full: it is delivered when the server hangs up.
    accounted = counts.observations == counts.starts + counts.steps
    accounted &= counts.steps == counts.delivered + counts.dropped + counts.waiting
    accounted &= len(numbers.seen) == len(set(numbers.seen)) == counts.delivered
    accounted &= said["sent"] == counts.observations == len(durations)
    return {
        "overflow": overflow,
        "slowness": slowness,
        "seed": seed,
        "sent": said["sent"],
        "answered": len(durations),
        "backlog": said["backlog"],
        "delivered": counts.delivered,
        "delivered_by_windows": len(numbers.seen),
        "dropped": counts.dropped,
        "waiting": counts.waiting,
        "late": counts.late,
        "accounted": bool(accounted),
        "windows": len(numbers.rewards),
        "seconds": time.perf_counter() - began,
        "round_p50": float(np.percentile(durations, 50)),
        "round_p99": float(np.percentile(durations, 99)),
        "round_max": float(durations.max()),
        "library_p50": logs["feed_latency_p50_ms"],
        "library_p99": logs["feed_latency_p99_ms"],
        "reward_first": float(np.mean(numbers.rewards[:4])),
        "reward_last": float(np.mean(numbers.rewards[-4:])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=1000.0, help="observations per second")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=30, help="PPO's epochs per window; ten times that where slow")
    parser.add_argument("--kinds", type=int, nargs="+", default=range(len(RUNS)), help="which of the four, from 0")
    arguments = parser.parse_args()
    kinds = [RUNS[k] for k in arguments.kinds]
    results = []
    for overflow, slowness in kinds:
        for seed in range(arguments.seeds):
            found = run(overflow, slowness, seed, arguments.rate, arguments.seconds, arguments.epochs)
            print({name: round(v, 3) if isinstance(v, float) else v for name, v in found.items()}, flush=True)
            results.append(found)
    write_results("live", {"commit": commit_in_force(), "window": WINDOW, "runs": results})
    table = []
    for overflow, slowness in kinds:
        runs = [found for found in results if (found["overflow"], found["slowness"]) == (overflow, slowness)]
        cells = []
        for name in ("round_p50", "round_p99", "library_p50", "library_p99"):
            values = [found[name] for found in runs]
            low, high = interval(values) if len(values) > 1 else (values[0], values[0])
            cells.append(f"{interquartile_mean(values):.2f} [{low:.2f}, {high:.2f}]")
        sent, answered, dropped = (sum(found[name] for found in runs) for name in ("sent", "answered", "dropped"))
        right = all(found["accounted"] for found in runs) and (dropped == 0 or overflow != "block")
        goal = f"{dropped} of {sent}, {answered} answered {ok(right)}"
        learned = f"{runs[0]['reward_first']:.2f} -> {runs[0]['reward_last']:.2f}"
        table.append([f"{overflow}, learner x{slowness}", *cells, goal, learned])
    header = ["ms", "round trip p50", "p99", "library p50", "p99", "dropped", "reward"]
    print_table(header, table)


if __name__ == "__main__":
    main()
