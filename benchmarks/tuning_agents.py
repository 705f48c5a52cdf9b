"""Tuning of PPO's learning rate while it trains, against a fixed one, the original's rule, and searches from outside.

    python benchmarks/tuning_agents.py [--resume] [--workers 2]
    python benchmarks/tuning_agents.py --table

All methods have the same env steps per test seed. `fixed`, `naive` (see `_naive.py`) and `ours` train once, from a
learning rate that is good, far too low or far too high, under the same loop; its second evaluations are beside the env
steps and are in the table. `random` and `optuna` (TPE) do not depend on that start: four trials with 15 % of the env
steps each, on seeds of their own, then a run from scratch on the test seed with the best learning rate that they found
and the 40 % that are left. Every test seed has a search of its own.

The score is the mean return of 20 greedy episodes with the last weights, in the second column with those of the best
snapshot. Over seeds: the interquartile mean with its 95 % bootstrap percentile interval (Agarwal et al. 2021, arXiv
2108.13264; a table is of one task, so the strata are its runs).

Each run is a process with one thread. It is appended to ``results/tuning_agents.jsonl`` when it is done, so `--resume`
goes on where a benchmark was cut off; the table takes the newest of equal runs.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from _naive import NaiveOptimizer
from _processes import ONE_THREAD, append, missing, read_lines
from _report import commit_in_force, interquartile_mean, interval, ok, print_table, write_results

import keras_optix as optix

RESULTS = Path(__file__).parent / "results" / "tuning_agents.jsonl"

BOUNDS = (1e-5, 1e-1)
GOOD_START, BAD_STARTS = 1e-3, (1e-5, 3e-2)
FROM_A_START, SEARCHES = ("fixed", "naive", "ours"), ("random", "optuna")

TEST_SEED = 100  # test seeds count from here, those of the trials of searches from 0
EPISODES, EVALUATION_SEED = 20, 1000
TRIALS, TRIAL_SHARE = 4, 0.15
TRIAL_EPISODES, TRIAL_EVALUATION_SEED = 10, 5000

CURVE_POINTS = 12

Result = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """An environment with the PPO that learns it; the settings are near those of rl-zoo3."""

    observations: int
    actions: int
    steps: int
    seeds: int
    n_envs: int
    n_steps: int
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def window(self) -> int:
        """Env steps of a window."""
        return self.n_envs * self.n_steps


TASKS = {
    "CartPole-v1": Task(4, 2, 150_000, 10, n_envs=8, n_steps=32, options={"gamma": 0.98}),  # as in _cartpole.py
    "Acrobot-v1": Task(
        6,
        3,
        300_000,
        5,
        n_envs=8,
        n_steps=64,
        options={"gamma": 0.99, "gae_lambda": 0.94, "update_epochs": 4, "normalize_observations": True},
    ),
}


@dataclass(frozen=True)
class Spec:
    """What makes a run: equal ones need not be repeated.

    Attributes:
        task: Id of the environment.
        method: How the learning rate comes about.
        start: The first learning rate; None where a search finds it.
        seed: Test seed.
        steps: Env steps in all.
        commit: Commit of the library, with a plus sign if files of it were changed since.
    """

    task: str
    method: str
    start: float | None
    seed: int
    steps: int
    commit: str

    @property
    def name(self) -> str:
        """For a line of progress."""
        start = "" if self.start is None else f" from {self.start:g}"
        return f"{self.task} {self.method}{start} seed {self.seed}"


def make_agent(task: str, seed: int, learning_rate: float) -> tuple[optix.PPOAgent, Any]:
    """A compiled agent and its dataset.

    Args:
        task: Id of the environment.
        seed: Seeds first weights, environments and actions.
        learning_rate: Of Adam.

    Returns:
        Both.
    """
    import keras

    this = TASKS[task]
    keras.backend.clear_session()  # what a trial before left behind
    keras.utils.set_random_seed(seed)
    policy = keras.Sequential(
        [
            keras.layers.Input((this.observations,)),
            keras.layers.Dense(64, activation="tanh"),
            keras.layers.Dense(64, activation="tanh"),
            keras.layers.Dense(this.actions),
        ]
    )
    agent = optix.PPOAgent(policy, **this.options)
    agent.compile(optimizer=keras.optimizers.Adam(learning_rate))
    dataset = optix.dataset_from_env(task, agent, window_size=this.n_steps, num_envs=this.n_envs, seed=seed)
    return agent, dataset


def make_tuner(method: str) -> optix.tuners.BaseOptimizer | None:
    """The tuner of a method, or None."""
    bounds = {"learning_rate": BOUNDS}
    if method == "naive":
        return NaiveOptimizer(bounds)
    return optix.BackoffOptimizer(bounds) if method == "ours" else None


def make_curve(points: set[int], window: int) -> Any:
    """A Keras callback whose `rows` are env steps, mean training return and learning rate after some windows."""
    import keras

    class Curve(keras.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self.rows: list[tuple[int, float | None, float]] = []
            self.windows = 0

        def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
            self.windows += 1
            if self.windows in points:
                score = float((logs or {})["episode_return"])
                finite = round(score, 2) if math.isfinite(score) else None
                self.rows.append((self.windows * window, finite, learning_rate_of(self.model)))

    return Curve()


def learning_rate_of(agent: Any) -> float:
    """The learning rate in force."""
    return float(agent.optimizer.learning_rate.numpy())


def greedy_return(agent: optix.PPOAgent, spec: Spec) -> float | None:
    """The test score of the agent's weights; every method of a seed is tested on the same episodes."""
    return optix.evaluate_policy(agent, spec.task, episodes=EPISODES, seed=EVALUATION_SEED + spec.seed).primary_score


def train(spec: Spec, learning_rate: float, windows: int) -> Result:
    """Trains under the loop, which only tunes and keeps snapshots: it neither stops nor restores.

    Args:
        spec: The run.
        learning_rate: The first one.
        windows: How many.

    Returns:
        Scores of the last weights and of the best snapshot, and what it took.
    """
    agent, dataset = make_agent(spec.task, spec.seed, learning_rate)
    window = TASKS[spec.task].window
    curve = make_curve({-(-windows * k // CURVE_POINTS) for k in range(1, CURVE_POINTS + 1)}, window)
    error = None
    with tempfile.TemporaryDirectory() as directory:
        callback = optix.OptixCallback(
            scheduler=optix.BackoffScheduler(plateau_threshold=10**6, dormant_threshold=10**7),
            tuner=make_tuner(spec.method),
            checkpoint_dir=directory,
            max_windows=windows,
            restore_best_weights=False,
            resume_interval=None,
            verbose=0,
        )
        try:
            agent.fit(dataset, callbacks=[callback, curve], verbose=0)
        except optix.errors.NonFiniteError as raised:
            error = str(raised)  # the weights are those from before the last update that failed
        agent.sources[-1].close()
        rate, last = learning_rate_of(agent), greedy_return(agent, spec)
        best = None
        if callback.registry.best is not None:
            callback.registry.load_best(agent)
            best = greedy_return(agent, spec)
    return {
        "last": last,
        "best": best,
        "learning_rate": rate,
        "env_steps": callback.env_steps,
        "evaluation_env_steps": callback.evaluation_env_steps,
        "curve": curve.rows,
        "error": error,
    }


def try_out(spec: Spec, seed: int, learning_rate: float, windows: int) -> Result:
    """A trial of a search: trains from scratch on a tuning seed and scores the last weights.

    Returns:
        Its learning rate, score and env steps.
    """
    agent, dataset = make_agent(spec.task, seed, learning_rate)
    agent.fit(dataset, steps_per_epoch=windows, epochs=1, verbose=0)
    agent.sources[-1].close()
    metrics = optix.evaluate_policy(agent, spec.task, episodes=TRIAL_EPISODES, seed=TRIAL_EVALUATION_SEED + seed)
    return {
        "learning_rate": learning_rate,
        "seed": seed,
        "score": metrics.primary_score,
        "env_steps": windows * TASKS[spec.task].window,
        "evaluation_env_steps": round(metrics.metrics["episode_length"] * metrics.episodes),
    }


def search(spec: Spec, windows: int) -> Result:
    """Searches the learning rate with trials, then trains with the best one.

    Args:
        spec: The run; its seed is also that of the sampler.
        windows: Of the trials and the training together.

    Returns:
        As `train`, with the trials; their steps count.
    """
    each = int(TRIAL_SHARE * windows)
    first_seed = (spec.seed - TEST_SEED) * TRIALS
    trials: list[Result] = []

    def score_of(learning_rate: float) -> float:
        trials.append(try_out(spec, first_seed + len(trials), learning_rate, each))
        return float(trials[-1]["score"])

    if spec.method == "optuna":
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(n_startup_trials=2, seed=spec.seed)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        study.optimize(lambda trial: score_of(trial.suggest_float("learning_rate", *BOUNDS, log=True)), n_trials=TRIALS)
    else:
        for logarithm in np.random.default_rng(spec.seed).uniform(*np.log(BOUNDS), size=TRIALS):
            score_of(math.exp(logarithm))
    found = max(trials, key=lambda trial: trial["score"])["learning_rate"]
    result = train(spec, found, windows - TRIALS * each)
    for key in ("env_steps", "evaluation_env_steps"):
        result[key] += sum(trial[key] for trial in trials)
    return result | {"trials": trials}


def run(spec: Spec) -> Result:
    """A run, in a process of its own.

    Returns:
        A line of the file of results.
    """
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.get_logger().setLevel("ERROR")  # it takes the agents of a search, one after the other, for retracing
    begin = time.perf_counter()
    windows = spec.steps // TASKS[spec.task].window
    result = search(spec, windows) if spec.start is None else train(spec, spec.start, windows)
    seconds = {"seconds": round(time.perf_counter() - begin, 1), "cpu_seconds": round(time.process_time(), 1)}
    return asdict(spec) | result | seconds


def run_all(specs: Sequence[Spec], workers: int) -> int:
    """Runs one process after the other and appends what comes out to the file of results.

    Args:
        specs: The runs.
        workers: Processes at a time.

    Returns:
        How many runs failed; they are not in the file, and another time may do better.
    """
    os.environ.update(ONE_THREAD)  # the processes inherit it, and read it when they import TensorFlow
    failed = 0
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn, max_tasks_per_child=1) as pool:
        futures = {pool.submit(run, spec): spec for spec in specs}
        for done, future in enumerate(as_completed(futures), start=1):
            name = f"{done}/{len(specs)} {futures[future].name}"
            try:
                result = future.result()
            except Exception:
                failed += 1
                print(f"{name}: failed\n{traceback.format_exc()}", file=sys.stderr, flush=True)
                continue
            append(RESULTS, result)
            score, rate = f"{result['last']:.1f}", f"{result['learning_rate']:.2g}"
            print(f"{name}: return {score}, learning rate {rate}, {result['seconds']:.0f} s", flush=True)
    return failed


class Summary(NamedTuple):
    """An interquartile mean with its interval."""

    mean: float
    low: float
    high: float
    runs: int

    def __str__(self) -> str:
        return f"{self.mean:.1f} [{self.low:.1f}, {self.high:.1f}]"


def summarise(scores: Sequence[float]) -> Summary:
    """The interquartile mean with its bootstrap percentile interval; equal scores give an interval of no width."""
    return Summary(interquartile_mean(scores), *interval(scores), len(scores))


def verdicts(of: Mapping[tuple[str, float | None], Summary]) -> list[dict[str, Any]]:
    """What the intervals of the last weights say of ours.

    Args:
        of: Summary by method and start.

    Returns:
        The claims that can be judged by now, each with what it rests on and whether it holds.
    """
    found = []
    for start in (GOOD_START, *BAD_STARTS):
        ours = of.get(("ours", start))
        for method in ("fixed",) if start == GOOD_START else ("fixed", "naive"):
            other = of.get((method, start))
            if ours is None or other is None:
                continue
            if start == GOOD_START:
                claim = f"not worse than {method}: its interval is not below the other's"
                holds = ours.high >= other.low
            else:
                claim, holds = f"better than {method}: its interval is above the other's", ours.low > other.high
            found.append({"start": start, "claim": claim, "holds": holds, "ours": str(ours), method: str(other)})
    return found


def show(tasks: Iterable[str], steps: int | None) -> None:
    """Prints a table for each task and writes all of them to ``results/tuning_agents.json``."""
    newest = {
        (r["task"], r["method"], r["start"], r["seed"]): r
        for r in read_lines(RESULTS)
        if r["steps"] == (steps or TASKS[r["task"]].steps)
    }
    written: dict[str, Any] = {}
    for task in tasks:
        groups: dict[tuple[str, float | None], list[Result]] = {}
        for (name, method, start, _), result in sorted(newest.items(), key=lambda item: _order(*item[0])):
            if name == task:
                groups.setdefault((method, start), []).append(result)
        if not groups:
            continue
        print(f"{task}, {steps or TASKS[task].steps:,} env steps: interquartile mean of greedy returns [95 % interval]")
        header = ["method, start", "runs", "last weights", "best snapshot", "final learning rate", "env steps"]
        print_table([*header, "evaluation steps", "seconds"], [_row(*group) for group in groups.items()])
        of = {key: summarise([result["last"] for result in results]) for key, results in groups.items()}
        judged = verdicts(of)
        for verdict in judged:
            print(f"ours from {verdict['start']:g}, {verdict['claim']}: {ok(verdict['holds'])}")
        commits = sorted({result["commit"] for results in groups.values() for result in results})
        print(f"commits: {', '.join(commits)}\n")
        rows = [
            {"method": method, "start": start, **of[method, start]._asdict()} | {"results": results}
            for (method, start), results in groups.items()
        ]
        written[task] = {"rows": rows, "verdicts": judged}
    if written:
        write_results("tuning_agents", written)


def _order(task: str, method: str, start: float | None, seed: int) -> tuple[Any, ...]:
    """Rows of one start together: good, bad, then the searches."""
    starts = (GOOD_START, *BAD_STARTS)
    place = starts.index(start) if start in starts else len(starts)
    return (task, start is None, place, start or 0.0, (*FROM_A_START, *SEARCHES).index(method), seed)


def _row(key: tuple[str, float | None], results: Sequence[Result]) -> list[str]:
    method, start = key
    best = [result["best"] for result in results if result["best"] is not None]
    errors = sum(result["error"] is not None for result in results)

    def median(name: str) -> float:
        return statistics.median(result[name] for result in results)

    return [
        method if start is None else f"{method}, {start:g}",
        f"{len(results)}, {errors} ended early" if errors else str(len(results)),
        str(summarise([result["last"] for result in results])),
        str(summarise(best)) if best else "-",
        f"{median('learning_rate'):.1e}",
        f"{median('env_steps'):,.0f}",
        f"{median('evaluation_env_steps'):,.0f}",
        f"{median('seconds'):.0f}",
    ]


def main() -> None:
    """Runs what was asked for, and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--methods", nargs="+", choices=(*FROM_A_START, *SEARCHES), default=[*FROM_A_START, *SEARCHES])
    parser.add_argument("--starts", nargs="+", type=float, default=[GOOD_START, *BAD_STARTS], help="learning rates")
    parser.add_argument("--seeds", type=int, help="only the first so many test seeds of each task")
    parser.add_argument("--steps", type=int, help="env steps of each run, instead of the task's own")
    parser.add_argument("--workers", type=int, default=2, help="processes at a time")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="commit",
        choices=("commit", "any"),
        help="skip what was run before at this commit, or with `any` at whatever commit",
    )
    parser.add_argument("--table", action="store_true", help="run nothing, print the tables of what was run")
    arguments = parser.parse_args()
    failed = 0
    if not arguments.table:
        commit = commit_in_force()
        specs = [
            Spec(task, method, start, TEST_SEED + seed, arguments.steps or TASKS[task].steps, commit)
            for task in arguments.task
            for method in arguments.methods
            for start in (arguments.starts if method in FROM_A_START else [None])
            for seed in range(arguments.seeds or TASKS[task].seeds)
        ]
        if arguments.resume:
            specs = missing(specs, read_lines(RESULTS), any_commit=arguments.resume == "any")
        failed = run_all(specs, arguments.workers)
    show(arguments.task, arguments.steps)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
