"""What `prefetch=1` gives: PPO on CartPole end to end, the next window collected in a thread while one trains.

    make bench-prefetch

The run of the README with `OptixCallback`, its evaluations, snapshots and TensorBoard files. Both settings alternate in
one process, and every other seed begins with the other one. Rates are from the second window on; returns are those of
the weights after so many steps: the mean of the last 100 training episodes, and of 20 greedy episodes.

With `--slow-env`, a second table has an environment that sleeps in each step, as one does that waits for a simulator or
a device. Sleeping leaves the processor to the learner: it is the best case for overlap. Confirmations play on such an
environment too, and training waits for them in both settings.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from typing import Any

import gymnasium
import keras
from _cartpole import WINDOW, make_loop, make_run
from _report import interquartile_mean, print_table, write_results

import keras_optix as optix

Run = dict[str, float]


class Clock(keras.callbacks.Callback):
    """Notes when the first window was trained on, and the mean training return so far."""

    first = 0.0
    training_return = 0.0

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """See `keras.callbacks.Callback`."""
        if batch == 0:
            self.first = time.perf_counter()
        self.training_return = float((logs or {})["episode_return"])


class Sleeping(gymnasium.Wrapper):
    """Sleeps for a number of seconds in each step."""

    def __init__(self, env: gymnasium.Env, seconds: float) -> None:
        super().__init__(env)
        self._seconds = seconds

    def step(self, action: Any) -> Any:
        """See `gymnasium.Wrapper`."""
        time.sleep(self._seconds)
        return self.env.step(action)


def train(env: Any, windows: int, seed: int, prefetch: int) -> Run:
    agent, dataset = make_run(seed, env, prefetch=prefetch)
    clock = Clock()
    with tempfile.TemporaryDirectory() as directory:
        agent.fit(dataset, callbacks=[make_loop(windows, directory), clock], verbose=0)
        end = time.perf_counter()
    agent.sources[-1].close()
    greedy = optix.evaluate_policy(agent, "CartPole-v1", episodes=20, seed=1000).primary_score
    steady = (windows - 1) * WINDOW / (end - clock.first)
    return {"steady": steady, "training": clock.training_return, "greedy": greedy or 0.0}


def compare(title: str, env: Any, windows: int, seeds: range) -> list[dict[str, Any]]:
    """Trains with and without prefetch for each seed, and prints a table of it."""
    runs: list[dict[int, Run]] = []
    for k, seed in enumerate(seeds):
        order = (0, 1) if k % 2 == 0 else (1, 0)
        runs.append({prefetch: train(env, windows, seed, prefetch) for prefetch in order})
    ratios = [pair[1]["steady"] / pair[0]["steady"] for pair in runs]
    names = [str(seed) for seed in seeds]
    lines = [_line(name, pair[0], pair[1], ratio) for name, pair, ratio in zip(names, runs, ratios, strict=True)]
    means = [{key: interquartile_mean([pair[p][key] for pair in runs]) for key in runs[0][p]} for p in (0, 1)]
    lines.append(_line("IQM; median ratio", *means, statistics.median(ratios)))
    print(f"{title}, {windows * WINDOW} env steps a run")
    header = ["seed", "steps/s, prefetch=0", "prefetch=1", "ratio"]
    print_table([*header, "training return, 0", "1", "greedy return, 0", "1"], lines)
    return [
        {"seed": seed, "prefetch_0": pair[0], "prefetch_1": pair[1]} for seed, pair in zip(seeds, runs, strict=True)
    ]


def _line(name: str, without: Run, ahead: Run, ratio: float) -> list[str]:
    rates = [f"{run['steady']:,.0f}" for run in (without, ahead)]
    returns = [f"{run[key]:.1f}" for key in ("training", "greedy") for run in (without, ahead)]
    return [name, *rates, f"{ratio:.2f}", *returns]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--env-steps", type=int, default=100_000)
    parser.add_argument("--slow-env", type=int, metavar="MICROSECONDS", help="a second table, one seed")
    arguments = parser.parse_args()
    windows = max(-(-arguments.env_steps // WINDOW), 2)
    results = {"cartpole": compare("CartPole", "CartPole-v1", windows, range(arguments.seeds))}
    if arguments.slow_env:
        seconds = arguments.slow_env * 1e-6
        results["slow_env"] = compare(
            f"CartPole that sleeps {arguments.slow_env} us in each step",
            lambda: Sleeping(gymnasium.make("CartPole-v1"), seconds),
            windows,
            range(1),
        )
    write_results("prefetch", results)


if __name__ == "__main__":
    main()
