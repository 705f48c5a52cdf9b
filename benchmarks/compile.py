"""Seconds a window of PPO with XLA, without it, and as ``jit_compile="auto"`` chooses; Stable-Baselines3 beside it.

    make bench-compile
    python benchmarks/compile.py --layers

Each way of each network is a process of its own. The processes of a network take turns, some windows each, so that a
machine that slows down slows all; what is compared are medians of the windows, and the ratio is the median over the
turns. A way that would take longer than ``--limit`` seconds for its first windows is given up, and is slower than that.
The environment shows stored observations, so the time is that of acting and learning.

With `--layers` it is the table behind the rule of ``"auto"`` (`keras_optix/agents/jit.py`): one layer of each kind.
What was measured is kept in ``results/compile.json``; `--resume` leaves out what is there already of this commit.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _compile_cases import LAYERS, NETWORKS, Case, Stored, dense
from _report import commit_in_force, ok, print_table

RESULTS = Path(__file__).parent / "results" / "compile.json"
CASES = {"networks": NETWORKS, "layers": LAYERS}
ON, OFF, AUTO, SB3 = "on", "off", "auto", "sb3"
JIT: dict[str, Any] = {ON: True, OFF: False, AUTO: "auto"}
GRADIENT_STEPS = 8
WITHIN = 1.10  # how much slower than the better way "auto" may be
Times = dict[str, list[float]]


class Worker:
    """A process that trains one agent, some windows at a time.

    Args:
        python: Its interpreter.
        group: Of the case.
        case: Name of the case.
        way: How it is compiled, or Stable-Baselines3.
        limit: Seconds after which it is given up.
    """

    def __init__(self, python: str, group: str, case: str, way: str, limit: float) -> None:
        command = [python, __file__, "--worker", group, case, way]
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.limit = limit
        self.chosen: bool | None = None

    def _read(self) -> None:
        for line in self._process.stdout or ():
            self._lines.put(line)
        self._lines.put("")

    def train(self, windows: int) -> list[float] | None:
        """Seconds of each of so many windows; None if the worker had to be given up."""
        if self._process.stdin is None or self._process.poll() is not None:
            return None
        print(windows, file=self._process.stdin, flush=True)
        try:
            line = self._lines.get(timeout=self.limit)
        except queue.Empty:
            self.close()
            return None
        if not line:
            raise SystemExit(f"A worker failed: {self._process.args!r}\n{self._errors()}")
        answer = json.loads(line)
        self.chosen = answer["jit"]
        return list(answer["seconds"])

    def _errors(self) -> str:
        return (self._process.stderr.read() if self._process.stderr else "")[-3000:]

    def close(self) -> None:
        """Ends it."""
        self._process.kill()
        self._process.wait()


def trainer_of(case: Case, way: str) -> Any:
    """A function that trains so many windows and returns the seconds of each, and whether XLA is in use."""
    import keras

    import keras_optix as optix

    keras.utils.set_random_seed(0)
    networks = [None, None]
    if case.hidden is not None:
        inputs = keras.layers.Input(case.shape, dtype="int32" if case.categories else None)
        scale = [keras.layers.Rescaling(1 / 255)] if len(case.shape) == 3 else []

        def network(outputs: int) -> Any:
            tensor = inputs
            for layer in [*scale, *case.hidden(keras.layers), keras.layers.Dense(outputs)]:
                tensor = layer(tensor)
            return keras.Model(inputs, tensor)

        networks = [network(6), network(1)]
    agent = optix.PPOAgent(*networks, update_epochs=case.epochs, minibatch_size=case.minibatch)
    agent.compile(optimizer=keras.optimizers.Adam(3e-4), jit_compile=JIT[way])
    dataset = optix.dataset_from_env(
        lambda: Stored(case.shape, case.categories), agent, window_size=case.steps, num_envs=case.envs, seed=0
    )
    seconds: list[float] = []

    class Clock(keras.callbacks.Callback):
        start = 0.0

        def on_train_batch_begin(self, batch: int, logs: object = None) -> None:
            self.start = time.perf_counter()

        def on_train_batch_end(self, batch: int, logs: object = None) -> None:
            seconds.append(time.perf_counter() - self.start)

    def train(windows: int) -> tuple[list[float], bool]:
        seconds.clear()
        agent.fit(dataset, steps_per_epoch=windows, callbacks=[Clock()], verbose=0)
        return list(seconds), bool(agent.jit_compile)

    return train


def sb3_trainer_of(case: Case) -> Any:
    """As `trainer_of`, with Stable-Baselines3's CnnPolicy."""
    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
    from stable_baselines3.common.vec_env import DummyVecEnv

    class Small(BaseFeaturesExtractor):  # type: ignore[misc]
        """The network of Young and Tian 2019, as the default network of small images here."""

        def __init__(self, space: Any) -> None:
            super().__init__(space, 128)
            channels, height, width = space.shape
            self.layers = torch.nn.Sequential(
                torch.nn.Conv2d(channels, 16, 3),
                torch.nn.ReLU(),
                torch.nn.Flatten(),
                torch.nn.Linear(16 * (height - 2) * (width - 2), 128),
                torch.nn.ReLU(),
            )

        def forward(self, observations: Any) -> Any:
            return self.layers(observations)

    seconds: list[float] = []

    class Clock(BaseCallback):  # type: ignore[misc]
        start = 0.0

        def _on_step(self) -> bool:
            return True

        def _on_rollout_start(self) -> None:
            self._note()

        def _on_training_end(self) -> None:
            self._note()

        def _note(self) -> None:
            now = time.perf_counter()
            if self.start:
                seconds.append(now - self.start)
            self.start = now

    model = PPO(
        "CnnPolicy",
        DummyVecEnv([lambda: Stored(case.shape)] * case.envs),
        learning_rate=3e-4,
        n_steps=case.steps,
        batch_size=case.minibatch,
        n_epochs=case.epochs,
        policy_kwargs={"features_extractor_class": Small} if min(case.shape[:2]) < 36 and case.shape[0] > 4 else {},
        seed=0,
        device="cpu",
    )

    def train(windows: int) -> tuple[list[float], bool]:
        seconds.clear()
        model.learn(windows * case.steps * case.envs, callback=Clock(), reset_num_timesteps=False)
        return list(seconds), False

    return train


def work(group: str, name: str, way: str) -> None:
    """Answers each number of windows on the standard input with a line of JSON."""
    train = None
    for line in sys.stdin:
        if train is None:
            case = CASES[group][name]
            train = sb3_trainer_of(case) if way == SB3 else trainer_of(case, way)
        seconds, jit = train(int(line))
        print(json.dumps({"seconds": seconds, "jit": jit}), flush=True)


def steps_of(case: Case, way: str) -> Callable[[int], list[float]]:
    """A function that returns the seconds of so many runs of gradient steps, as many as PPO makes of a window."""
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    env = Stored(case.shape, case.categories)
    observations = tf.constant(np.stack([env.reset()[0]] * case.minibatch))
    inputs = keras.layers.Input(case.shape, dtype="int32" if case.categories else None)
    tensor = keras.layers.Rescaling(1 / 255)(inputs) if len(case.shape) == 3 else inputs
    for layer in [*(case.hidden or dense(64))(keras.layers), keras.layers.Dense(6)]:
        tensor = layer(tensor)
    network = keras.Model(inputs, tensor)
    optimizer = keras.optimizers.Adam(1e-3)
    optimizer.build(network.trainable_variables)

    def step(k: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(network(tf.cast(observations, inputs.dtype), training=True) ** 2)
        gradients = tape.gradient(loss, network.trainable_variables)
        optimizer.apply_gradients(zip(gradients, network.trainable_variables, strict=True))
        return k + 1

    @tf.function(jit_compile=JIT[way], autograph=False)  # type: ignore[untyped-decorator]
    def run() -> Any:
        return tf.while_loop(lambda k: k < GRADIENT_STEPS, step, (0,), maximum_iterations=GRADIENT_STEPS)

    def timed(runs: int) -> list[float]:
        seconds = []
        for _ in range(runs):
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
        return seconds

    return timed


def measure_layer(case: Case, arguments: argparse.Namespace) -> dict[str, Any]:
    """As `measure`, of a layer: gradient steps alone, in this process, for starting one takes longer than all of it."""
    timers = {way: steps_of(case, way) for way in (OFF, ON)}
    turns: dict[str, list[list[float]]] = {way: [] for way in timers}
    again = {way: timer(2)[-1] for way, timer in timers.items()}
    for _ in range(arguments.turns):
        for way, timer in timers.items():
            turns[way].append(timer(max(1, round(arguments.seconds / again[way]))))
    return {"turns": turns, "limit": arguments.limit}


def measure(group: str, name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """The seconds of all windows of a case, by way and turn."""
    case = CASES[group][name]
    ways = [OFF, AUTO, ON]
    if case.sb3 and arguments.sb3_python:
        ways.insert(2, SB3)
    workers: dict[str, Worker] = {}
    per_turn: dict[str, int] = {}
    turns: dict[str, list[list[float]]] = {way: [] for way in ways}
    first: dict[str, float | None] = {}
    try:
        for way in ways:
            python = arguments.sb3_python if way == SB3 else sys.executable
            worker = Worker(python, group, name, way, arguments.limit)
            start = time.perf_counter()
            warm, again = worker.train(1), worker.train(1)
            if warm is None or again is None:
                first[way] = None
                worker.close()
                continue
            first[way] = time.perf_counter() - start
            workers[way] = worker
            per_turn[way] = max(1, round(arguments.seconds / again[0]))
        for _ in range(arguments.turns):
            for way, worker in workers.items():
                seconds = worker.train(per_turn[way])
                if seconds is not None:
                    turns[way].append(seconds)
    finally:
        for worker in workers.values():
            worker.close()
    chosen = workers[AUTO].chosen if AUTO in workers else None
    return {"turns": turns, "first": first, "auto": chosen, "limit": arguments.limit}


def median(turns: list[list[float]]) -> float | None:
    """Over all windows."""
    seconds = [value for turn in turns for value in turn]
    return statistics.median(seconds) if seconds else None


def ratio(turns: dict[str, list[list[float]]], one: str, other: str) -> float | None:
    """How many times longer one way takes than another: the median over the turns."""
    pairs = zip(turns.get(one, []), turns.get(other, []), strict=False)
    ratios = [statistics.median(a) / statistics.median(b) for a, b in pairs]
    return statistics.median(ratios) if ratios else None


def shown(seconds: float | None, limit: float) -> str:
    """Milliseconds or seconds."""
    if seconds is None:
        return f"> {limit:.0f} s"
    return f"{1000 * seconds:.0f} ms" if seconds < 10 else f"{seconds:.0f} s"


def print_networks(results: dict[str, Any]) -> None:
    """The table of networks."""
    rows = []
    for name, result in results.items():
        turns, limit = result["turns"], result["limit"]
        times = {way: median(turns.get(way, [])) for way in (ON, OFF, AUTO, SB3)}
        known = [way for way in (ON, OFF) if times[way] is not None]
        best = min(known, key=lambda way: times[way])
        over, sb3 = ratio(turns, AUTO, best), ratio(turns, AUTO, SB3)
        rows.append(
            [
                name,
                *(shown(times[way], limit) for way in (ON, OFF, AUTO)),
                shown(times[SB3], limit) if SB3 in turns else "-",
                "XLA" if result["auto"] else "no XLA",
                "-" if over is None else f"{over:.2f} {ok(over <= WITHIN)}",
                "-" if sb3 is None else f"{sb3:.2f} {ok(sb3 <= 1.0)}",
            ]
        )
    print_table(["a window", "XLA", "without", "auto", "SB3", "auto is", "auto / better", "auto / SB3"], rows)


def print_layers(results: dict[str, Any]) -> None:
    """The table of layers."""
    rows = []
    for name, result in results.items():
        turns = result["turns"]
        # Runs of milliseconds: the shortest is the one that nothing else disturbed.
        best = {way: min(value for turn in turns[way] for value in turn) for way in (ON, OFF)}
        gain = best[OFF] / best[ON]
        times = [f"{1000 * best[way]:.1f} ms" for way in (ON, OFF)]
        rows.append([name, *times, f"{gain:.2f}"])
    print_table([f"{GRADIENT_STEPS} gradient steps", "XLA", "without", "without / XLA"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sb3-python", help="Python of an environment with Stable-Baselines3")
    parser.add_argument("--layers", action="store_true", help="the table of layers")
    parser.add_argument("--only", help="cases whose names begin with this")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of a turn, at least one window")
    parser.add_argument("--limit", type=float, default=90.0, help="seconds after which a way is given up")
    parser.add_argument("--resume", action="store_true", help="leave out what was measured of this commit")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(*arguments.worker)
        return
    group = "layers" if arguments.layers else "networks"
    commit = commit_in_force()
    saved = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results = saved.get(group, {}) if arguments.resume and saved.get("commit") == commit else {}
    for name in CASES[group]:
        if name in results or not name.startswith(arguments.only or ""):
            continue
        print(f"{name} ...", file=sys.stderr, flush=True)
        case = CASES[group][name]
        results[name] = measure_layer(case, arguments) if arguments.layers else measure(group, name, arguments)
        kept = saved if saved.get("commit") == commit else {}
        saved = kept | {"commit": commit, group: results}
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(saved, indent=1))
    (print_layers if arguments.layers else print_networks)(results)


if __name__ == "__main__":
    main()
