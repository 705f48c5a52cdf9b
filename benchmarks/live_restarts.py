"""Kills the server of a live feed again and again while an agent learns from it, and at last for good.

PPO trains on the cart of `examples/live_feed.py`. The server is killed (SIGKILL) at random moments and is back after a
random pause. After each restart windows must go on, and the feed's account must agree with one that is kept beside it.
Then the server does not come back: `fit` must end in time with a `FeedError` that says why, the best must load into a
fresh agent, and another `fit` must resume the run once there is a server again.

python benchmarks/live_restarts.py [--restarts 10] [--seed 0]
"""

from __future__ import annotations

import argparse
import faulthandler
import importlib.util
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from _report import commit_in_force, print_table, write_results

import keras_optix as optix

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "live_feed.py"
RATE = 400.0  # ticks a second
LONGEST = 3.0  # seconds that the server runs, after windows went on, or is away
PATIENCE = 60.0  # seconds to wait for what must happen
HANGS = 900.0  # seconds after which all threads are shown and the process ends
TRIES = 8
SLACK = 5.0  # seconds that giving up may take beyond the delays
MORE_WINDOWS = 5  # that are learned from after a restart, and after resuming


def load_example() -> Any:
    specification = importlib.util.spec_from_file_location("live_feed", EXAMPLE)
    if specification is None or specification.loader is None:
        raise SystemExit(f"there is no {EXAMPLE}")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


example = load_example()


class Server:
    """The example's server as a process."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = int(listener.getsockname()[1])
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it; it listens about a second later."""
        command = [sys.executable, str(EXAMPLE), "--serve", "--until-eof", "--port", str(self.port)]
        self._process = subprocess.Popen([*command, "--rate", str(RATE)], stdin=subprocess.PIPE, start_new_session=True)

    def kill(self) -> None:
        """Kills it, if it runs."""
        process, self._process = self._process, None
        if process is not None:
            with process:
                process.kill()


@dataclass
class Account:
    """What a feed gave, counted where it gives it.

    Attributes:
        observations: All.
        starts: The first of a connection or of an episode.
        unanswered: Actions after which the connection was lost, but for those that end an episode.
        connections: That gave an observation.
    """

    observations: int = 0
    starts: int = 0
    unanswered: int = 0
    connections: int = 0


class CountedFeed(example.CartFeed):  # type: ignore[misc]
    """The example's feed, with an account of its own."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.account = Account()

    def stream(self) -> Iterator[Any]:
        """One connection."""
        stream, action, begins = super().stream(), None, True
        while True:
            try:
                item = stream.send(action)
            except BaseException:
                self.account.unanswered += not begins
                raise
            self.account.connections += action is None
            self.account.observations += 1
            self.account.starts += begins
            begins = bool(item[3])
            action = yield item


class StopAfter(keras.callbacks.Callback):  # type: ignore[misc]
    """Ends `fit` after some windows, and notes the env steps after the first of them; give it after `loop`."""

    def __init__(self, windows: int, loop: optix.OptixCallback) -> None:
        super().__init__()
        self.first_steps: int | None = None
        self._left, self._loop = windows, loop

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """A window was taken."""
        if self.first_steps is None:
            self.first_steps = self._loop.env_steps
        self._left -= 1
        if self._left == 0:
            self._loop.stop()


class Chaos:
    """A thread that kills the server; it waits for what must happen, and notes what did not."""

    def __init__(
        self, restarts: int, seed: int, server: Server, feed: CountedFeed, callback: optix.OptixCallback, best: Path
    ) -> None:
        self.rows: list[dict[str, float]] = []
        self.faults: list[str] = []
        self.killed = 0.0  # when it was for good
        self._restarts, self._rng = restarts, random.Random(seed)
        self._server, self._feed, self._callback, self._best = server, feed, callback, best
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _wait(self, what: str, happened: Callable[[], bool]) -> float:
        """Seconds until it happened."""
        start = time.monotonic()
        while not happened():
            if time.monotonic() - start > PATIENCE:
                raise TimeoutError(f"{what} did not happen in {PATIENCE:g} s")
            time.sleep(0.01)
        return time.monotonic() - start

    def _learned(self, after: str) -> float:
        goal = self._callback.env_steps + MORE_WINDOWS * example.TICKS
        return self._wait(f"learning {after}", lambda: self._callback.env_steps >= goal)

    def _run(self) -> None:
        try:
            self._learned("at all")
            for restart in range(self._restarts):
                self._restart(restart + 1)
            self._wait("a best", lambda: optix.CheckpointRegistry(self._best).best is not None)
        except TimeoutError as error:
            self.faults.append(str(error))
        finally:
            self._server.kill()
            self.killed = time.monotonic()

    def _restart(self, number: int) -> None:
        time.sleep(self._rng.uniform(0.0, LONGEST))
        connections, steps = self._feed.account.connections, self._callback.env_steps
        self._server.kill()
        away = self._rng.uniform(0.0, LONGEST)
        time.sleep(away)
        self._server.start()
        back = self._wait(f"reconnect {number}", lambda: self._feed.account.connections > connections)
        more = self._learned(f"after restart {number}")
        row = {"env steps before": steps, "away s": away, "back after s": back, "next windows after s": more}
        self.rows.append(row)
        print(f"restart {number}: " + ", ".join(f"{name} {value:.1f}" for name, value in row.items()), flush=True)


def dataset_of(feed: Any, agent: Any, reconnect: optix.live.Reconnect) -> Any:
    return optix.dataset_from_stream(feed, agent, boundary=optix.live.every_n_steps(example.TICKS), reconnect=reconnect)


def main() -> None:
    """Kills, starts again, kills for good, resumes; reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--restarts", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-results", action="store_true", help="write no results/live_restarts.json")
    arguments = parser.parse_args()
    faulthandler.dump_traceback_later(HANGS, exit=True)
    keras.utils.set_random_seed(arguments.seed)

    with tempfile.TemporaryDirectory() as root:
        server = Server()
        try:
            checks, rows = measure(arguments.restarts, arguments.seed, server, Path(root))
        finally:
            server.kill()
    print_table(("check", "found", ""), [[what, found, "OK" if held else "FAILED"] for what, found, held in checks])
    if not arguments.no_results:
        results = {
            "commit": commit_in_force(),
            "restarts": rows,
            "checks": [{"check": what, "found": found, "held": held} for what, found, held in checks],
        }
        write_results("live_restarts", results)
    if not all(held for _, _, held in checks):
        raise SystemExit(1)


def measure(restarts: int, seed: int, server: Server, root: Path) -> tuple[list[tuple[str, str, bool]], list[Any]]:
    """Returns what was checked, what was found and whether it is well; and a row for each restart."""
    checks: list[tuple[str, str, bool]] = []

    def check(what: str, found: Any, held: bool) -> None:
        checks.append((what, str(found), bool(held)))

    reconnect = example.reconnect(TRIES)
    feed, agent = CountedFeed(f"ws://127.0.0.1:{server.port}"), example.make_agent()
    dataset = dataset_of(feed, agent, reconnect)
    callback = optix.OptixCallback(checkpoint_dir=root, verbose=0)
    chaos = Chaos(restarts, seed, server, feed, callback, root)
    server.start()
    chaos.thread.start()
    error: BaseException | None = None
    try:
        agent.fit(dataset, callbacks=[callback], verbose=0)
    except optix.errors.FeedError as raised:
        error = raised
    seconds = time.monotonic() - chaos.killed
    chaos.thread.join()

    check("windows went on after each restart", f"{len(chaos.rows)} of {restarts}", len(chaos.rows) == restarts)
    check("nothing was waited for in vain", "; ".join(chaos.faults) or "nothing", not chaos.faults)
    counts, account = dataset.feed_counts, feed.account
    print(counts, account, sep="\n")
    check("observations = starts + steps", counts.observations, counts.observations == counts.starts + counts.steps)
    parts = counts.delivered + counts.dropped + counts.waiting
    check("steps = delivered + dropped + waiting", counts.steps, counts.steps == parts)
    check("every step was delivered or counted as dropped", f"{counts.waiting} wait", counts.waiting == 0)
    check("delivered = env steps of fit", counts.delivered, counts.delivered == callback.env_steps)
    for name in ("observations", "starts", "unanswered"):
        found, expected = getattr(counts, name), getattr(account, name)
        check(f"{name} as counted beside", f"{found}, {expected}", found == expected)
    check(f"reconnects = {restarts}", counts.reconnects, counts.reconnects == restarts)
    check(f"disconnects >= {restarts + 1}", counts.disconnects, counts.disconnects > restarts)

    longest = sum(min(reconnect.first_delay * reconnect.factor**k, reconnect.max_delay) for k in range(TRIES))
    shortest, longest = longest * (1.0 - reconnect.jitter), longest + SLACK
    in_time = error is not None and shortest <= seconds <= longest
    check("FeedError in time", f"{seconds:.1f} s of {shortest:.1f} to {longest:.1f}", in_time)
    message = str(error)
    clear = all(part in message for part in (f"{TRIES} tries", "ConnectionRefusedError", "Reconnect("))
    check("it says what happened and what to do", f"{len(message)} characters", clear)
    print(f"{type(error).__name__}: {message}")

    registry = optix.CheckpointRegistry(root)
    fresh = example.make_agent()
    again = dataset_of(example.CartFeed(f"ws://127.0.0.1:{server.port}"), fresh, reconnect)
    best = registry.load_best(fresh)
    arrays, loaded = registry.load(best), fresh.get_state()
    same = all(np.array_equal(arrays[name], loaded[name]) for name in arrays)
    check("the best loads into a fresh agent", f"snapshot {best.snapshot_id}, {best.score:.1f}", same)

    before, run = callback.env_steps, registry.run_id
    resumed = optix.OptixCallback(checkpoint_dir=root, resume=True, verbose=0)
    stop = StopAfter(MORE_WINDOWS, resumed)
    server.start()
    fresh.fit(again, callbacks=[resumed, stop], verbose=0)
    went_on = stop.first_steps is not None and before < stop.first_steps <= before + example.TICKS
    check("resume=True goes on after the last step", f"{before}, then {stop.first_steps}", went_on)
    check("in the same run", run, optix.CheckpointRegistry(root).run_id == run)
    return checks, chaos.rows


if __name__ == "__main__":
    main()
