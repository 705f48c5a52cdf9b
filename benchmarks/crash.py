"""Kills a run at random moments and resumes it, again and again: nothing may be corrupt, lost, or repeated for long.

A child process trains PPO on CartPole (an environment that says where it stands) with `OptixCallback(resume=True)`. It
is killed (SIGKILL) after a random time, by which it may be importing, tracing, training, evaluating or writing. After
each kill the registry and the resume point must be readable, and the best must not be worse than before. At the end
the run is left to finish, and its weights are compared with those of a run that nobody killed.

python benchmarks/crash.py [--kills 100] [--interval 0.5]
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

WINDOWS = 10_000


def train(directory: Path, interval: float, windows: int) -> None:
    """The child: resumes what is there, and trains until `windows` windows are done."""
    import gymnasium
    import keras

    import keras_optix as optix
    from keras_optix.states import to_json

    class Savable(gymnasium.Wrapper):
        """CartPole with its own time limit, which can say where it stands."""

        def __init__(self) -> None:
            super().__init__(gymnasium.make("CartPole-v1").unwrapped)
            self.elapsed = 0

        def reset(self, **kwargs: Any) -> Any:
            self.elapsed = 0
            return super().reset(**kwargs)

        def step(self, action: Any) -> Any:
            observation, reward, terminated, _, info = super().step(action)
            self.elapsed += 1
            return observation, reward, terminated, self.elapsed >= 500, info

        def save_state(self) -> dict[str, Any]:
            cart = self.unwrapped
            return {
                "state": np.asarray(cart.state, np.float64),
                "beyond": cart.steps_beyond_terminated,
                "elapsed": self.elapsed,
                "generator": cart.np_random.bit_generator.state,
            }

        def load_state(self, state: dict[str, Any]) -> None:
            cart = self.unwrapped
            cart.state = np.asarray(state["state"])
            cart.steps_beyond_terminated = state["beyond"]
            self.elapsed = state["elapsed"]
            cart.np_random.bit_generator.state = state["generator"]

    class Progress(optix.LoopCallback):
        """Says after each window how far the run is."""

        def on_window_end(self, window_id: int, eval_metrics: optix.EvalMetrics) -> None:
            print(window_id, flush=True)

    keras.utils.set_random_seed(0)
    agent = optix.PPOAgent(gamma=0.98, seed=0)
    agent.compile(optimizer=keras.optimizers.Adam(1e-3), jit_compile=False)
    dataset = optix.dataset_from_env(Savable, agent, window_size=32, num_envs=8, seed=0)
    callback = optix.OptixCallback(
        checkpoint_dir=directory,
        tuner=optix.BackoffOptimizer({"learning_rate": (1e-4, 1e-2)}),
        scheduler=optix.BackoffScheduler(plateau_threshold=500, dormant_threshold=1000),
        max_windows=windows,
        resume=True,
        resume_interval=interval,
        restore_best_weights=False,
        callbacks=[Progress()],
        verbose=0,
    )
    agent.fit(dataset, callbacks=[callback], verbose=0)
    arrays, values = agent.save_run()
    np.savez(directory / "final.npz", **arrays)
    final = {
        "agent": values,
        "scheduler": to_json(callback.scheduler_state),
        "tuner": to_json(callback.tuner_state),
        "env_steps": callback.env_steps,
        "hyperparams": agent.hyperparams.snapshot(),
    }
    (directory / "final.json").write_text(json.dumps(final))


def spawn(directory: Path, interval: float, windows: int, output: Path) -> subprocess.Popen[bytes]:
    """Starts a child."""
    command = [sys.executable, __file__, "--child", str(directory), "--interval", str(interval)]
    with output.open("w") as stdout:
        return subprocess.Popen([*command, "--windows", str(windows)], stdout=stdout, stderr=subprocess.DEVNULL)


def seen(output: Path) -> list[int]:
    """Windows that a child has taken, as far as it could say so."""
    return [int(line) for line in output.read_text().splitlines(keepends=True) if line.endswith("\n")]


def check(directory: Path, best_before: int) -> tuple[int, int]:
    """Reads everything that is on disk; returns the number of the best snapshot and the windows of the resume point."""
    import keras_optix as optix

    registry = optix.CheckpointRegistry(directory)
    for snapshot in registry.ranked_snapshots:
        registry.load(snapshot)
    best = 0 if registry.best is None else registry.best.snapshot_id
    if best < best_before or any(snapshot.snapshot_id > best for snapshot in registry.ranked_snapshots):
        raise SystemExit(f"a best is lost: snapshot {best} after {best_before}")
    windows = 0
    for point in directory.glob("*/resume*.npz"):  # the newest, and the one before
        with np.load(point, allow_pickle=False) as archive:
            windows = max(windows, json.loads(archive["json"].tobytes().decode())["loop"]["units"])
            for name in archive.files:
                _ = archive[name]
    return best, windows


def main() -> None:
    """Kills, resumes, compares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--interval", type=float, default=0.5, help="seconds between resume points")
    parser.add_argument("--windows", type=int, default=WINDOWS)
    parser.add_argument("--child", default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        train(Path(arguments.child), arguments.interval, arguments.windows)
        return

    with tempfile.TemporaryDirectory() as root:
        killed, whole, output = Path(root) / "killed", Path(root) / "whole", Path(root) / "output"
        killed.mkdir()
        rng = random.Random(0)
        best, repeated = 0, []
        for kill in range(arguments.kills):
            child = spawn(killed, arguments.interval, arguments.windows, output)
            # One in five dies anywhere from its start on, the others within three seconds of their first window.
            anywhere = rng.random() < 0.2
            while not anywhere and not seen(output) and child.poll() is None:
                time.sleep(0.01)
            time.sleep(rng.uniform(0.0, 10.0 if anywhere else 3.0))
            if child.poll() is not None:
                raise SystemExit(f"the child ended by itself with {child.returncode}")
            child.send_signal(signal.SIGKILL)
            child.wait()
            best, windows = check(killed, best)
            taken = seen(output)
            if taken:
                repeated.append(max(taken[-1] + 1 - windows, 0))
            print(f"kill {kill + 1}: resumes at window {windows}, best snapshot {best}", flush=True)
        print(f"{arguments.kills} kills, {len(repeated)} of them after the first window of a process")
        print(f"windows repeated per kill: median {np.median(repeated):.0f}, most {max(repeated)}")
        for directory in (killed, whole):
            child = spawn(directory, arguments.interval, arguments.windows, output)
            if child.wait():
                raise SystemExit(f"the run in {directory.name} failed with {child.returncode}")
        states = [json.loads((directory / "final.json").read_text()) for directory in (killed, whole)]
        arrays = [dict(np.load(directory / "final.npz", allow_pickle=False)) for directory in (killed, whole)]
        same = all(np.array_equal(arrays[0][name], arrays[1][name]) for name in arrays[1])
        print(f"weights and slots of the killed run equal those of the run that nobody killed: {same}")
        for name in states[0]:
            print(f"{name} equal: {states[0][name] == states[1][name]}")


if __name__ == "__main__":
    main()
