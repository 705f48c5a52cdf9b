"""An environment that blocks for ever: seconds until Ctrl-C is heard and until the process is gone, and what is left.

A process trains with an environment that blocks in one of several places. It gets a signal (SIGINT, SIGTERM or
SIGKILL) once the environment blocks. Then its end is timed, and the processes that it leaves behind are counted two
seconds later.

python benchmarks/blocked_environments.py [--places step,reset,...] [--signals INT,TERM,KILL]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _report import print_table

PLACES = (
    "step",
    "reset",
    "worker",
    "close",
    "evaluation",
    "feed",
    "prefetch",
    "executions",
    "test",
    "native",
    "take",
    "filter",
)
HANGS = 40.0  # seconds after which a process is killed
LOST = 2.0  # seconds after which a process that is left counts
PROGRAM = """
import ctypes, os, sys, threading, time
import gymnasium, numpy as np
place, folder = sys.argv[1:]
fresh = {"count": 0}

def block():
    print("BLOCKED", time.time(), flush=True)
    if place == "native":
        gate = ctypes.CDLL(None).pause
        while True:
            gate()
    while True:
        threading.Event().wait(3600.0)

class Env(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,))
    action_space = gymnasium.spaces.Discrete(2)
    steps = 0

    def __init__(self):
        fresh["count"] += 1
        self.number = fresh["count"]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode = getattr(self, "episode", -1) + 1
        if place == "reset" and self.episode == 9:
            block()
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        if self.steps == 60 and place in ("step", "worker", "prefetch", "executions", "native", "take", "filter"):
            block()
        if self.steps == 30 and place == "test":
            block()
        if place == "close" and self.steps == 60:
            raise ZeroDivisionError("the reason to close")
        if place == "evaluation" and self.number > 1 and self.steps == 5:
            block()
        return np.zeros(2, np.float32), 1.0, self.steps % 5 == 0, False, {}

    def close(self):
        if place == "close":
            block()

if __name__ == "__main__":
    import keras_optix as optix
    import keras
    agent = optix.PPOAgent(update_epochs=1, minibatch_size=8)
    executions = 4 if place == "executions" else 1
    agent.compile(optimizer=keras.optimizers.Adam(1e-3), jit_compile=False, steps_per_execution=executions)
    if place == "feed":
        class Feed:
            observation_space, action_space = Env.observation_space, Env.action_space
            def stream(self):
                for k in range(30):
                    yield np.zeros(2, np.float32), 1.0, k % 5 == 4, False, {}
                block()
        dataset = optix.dataset_from_stream(Feed(), agent, boundary=optix.live.every_n_steps(8), window_size=8)
    else:
        env = Env
        if place == "worker":
            def env():
                return gymnasium.vector.AsyncVectorEnv([Env, Env, Env], shared_memory=False)
        dataset = optix.dataset_from_env(env, agent, window_size=8, seed=0, prefetch=int(place == "prefetch"))
    if place == "take":
        dataset = dataset.take(50)
    if place == "filter":
        dataset = dataset.filter(lambda window: window.window_id % 2 == 0)
    evaluator = None if place == "evaluation" else optix.ReturnEvaluator()
    callback = optix.OptixCallback(evaluator, checkpoint_dir=folder, resume_interval=1e6, verbose=0)
    try:
        if place == "test":
            agent.evaluate(dataset, steps=50)
        else:
            agent.fit(dataset, callbacks=[callback], verbose=0)
    except BaseException as error:
        print("HEARD", time.time(), type(error).__name__, flush=True)
        raise
"""


def descendants(pid: int) -> set[int]:
    """The processes that a process has started, and those that these have."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found, waiting = set[int](), [pid]
    while waiting:
        for child in parents.get(waiting.pop(), []):
            found.add(child)
            waiting.append(child)
    return found


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def run(place: str, name: str) -> list[str]:
    """Blocks a process in a place, and sends it a signal."""
    with tempfile.TemporaryDirectory() as folder:
        program, output = Path(folder) / "program.py", Path(folder) / "output"
        program.write_text(PROGRAM)
        environment = os.environ | {"PYTHONUNBUFFERED": "1", "TF_CPP_MIN_LOG_LEVEL": "2"}
        with output.open("wb") as out:
            command = [sys.executable, str(program), place, str(Path(folder) / "points")]
            process = subprocess.Popen(command, stdout=out, stderr=out, env=environment, start_new_session=True)
        begun = time.monotonic()
        while "BLOCKED" not in output.read_text(errors="replace") and process.poll() is None:
            if time.monotonic() - begun > 90.0:
                break
            time.sleep(0.05)
        time.sleep(1.0)
        children = descendants(process.pid)
        sent = time.time()
        process.send_signal(getattr(signal, f"SIG{name}"))
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(HANGS)
        hung = process.poll() is None
        gone = time.time() - sent
        time.sleep(LOST)
        left = [pid for pid in children | {process.pid} if is_alive(pid)]
        points = len(list(Path(folder).glob("points/*/resume.npz")))
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        lines = output.read_text(errors="replace").splitlines()
        heard = next((float(line.split()[1]) - sent for line in lines if line.startswith("HEARD")), float("nan"))
        if os.environ.get("SHOW"):
            print("\n".join(lines))
    return [
        f"{place} {name}",
        f"{heard:.2f}",
        "never" if hung else f"{gone:.2f}",
        str(process.returncode),
        str(len(children)),
        str(len(left)),
        str(points),
    ]


def main() -> None:
    """Blocks, signals, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--places", default=",".join(PLACES))
    parser.add_argument("--signals", default="INT,TERM,KILL")
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background of a shell ignores it
    header = ("place", "heard s", "gone s", "code", "processes", "left", "resume points")
    rows = []
    for name in arguments.signals.split(","):
        for place in arguments.places.split(","):
            rows.append(run(place, name))
            print("  ".join(rows[-1]), flush=True)
    print_table(header, rows)


if __name__ == "__main__":
    main()
