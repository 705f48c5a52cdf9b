"""Tuning of DQN and SAC while they train, from learning rates a decade off, beside fixed hyperparameters.

    make bench-tuning-replay
    python benchmarks/tuning_replay_agents.py --tasks CartPole-v1 --seeds 2
    python benchmarks/tuning_replay_agents.py --table

Each agent is the preset of its task, with the learning rate of the preset, a tenth of it, and ten times it. `fixed` and
`tuned` train under the same loop, which neither ends early nor restores weights; `tuned` has
``tuner=BackoffOptimizer()``, which tunes all `search_spaces` of the agent. Both have the same env steps of training.

The score is the mean return of 50 fresh greedy episodes with the last weights. Other columns have it with those of the
best snapshot, and the mean return in training over the whole run, which shows how fast an agent learned. Over seeds:
the interquartile mean with its 95 % bootstrap percentile interval. A row is "OK" if the interval of `tuned` is not
below that of `fixed` (from the preset's learning rate), or lies above it (from the others).

Each run is a process with one thread. It is appended to ``results/tuning_replay_agents.jsonl`` when it is done, and a
run that is there is not repeated unless it is of another commit. The table takes the newest of equal runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import _processes
from _processes import missing
from _report import commit_in_force, interquartile_mean, interval, ok, print_table, write_results

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "tuning_replay_agents.jsonl"
METHODS = ("fixed", "tuned")
FACTORS = (1.0, 0.1, 10.0)  # of the preset's learning rate
EPISODES, EVALUATION_SEED = 50, 100_000
CURVE_POINTS = 40

Result = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """An environment with the agent that learns it.

    Attributes:
        algorithm: Name of the agent's class, whose preset for the environment is used.
        learning_rate: That of the preset.
        steps: Env steps of a run.
    """

    algorithm: str
    learning_rate: float
    steps: int

    @property
    def starts(self) -> tuple[float, ...]:
        """The learning rates with which runs begin."""
        return tuple(float(f"{self.learning_rate * factor:.6g}") for factor in FACTORS)


TASKS = {"CartPole-v1": Task("DQNAgent", 2.3e-3, 50_000), "Pendulum-v1": Task("SACAgent", 1e-3, 20_000)}


@dataclass(frozen=True)
class Spec:
    """What makes a run: equal ones need not be repeated.

    Attributes:
        task: Id of the environment.
        method: One of `METHODS`.
        start: The first learning rate.
        seed: Of weights, environments and actions.
        steps: Env steps of training.
        commit: Of the library.
    """

    task: str
    method: str
    start: float
    seed: int
    steps: int
    commit: str

    @property
    def name(self) -> str:
        """For a line of progress."""
        return f"{self.task} {self.method} from {self.start:g}, seed {self.seed}"


def run(spec: Spec) -> str:
    """Plays a run and appends it to the file of results; returns what is said of it.

    Raises:
        RuntimeError: It failed.
    """
    script = HERE / "_tuning_replay_run.py"
    played, seconds = _processes.play([sys.executable, str(script), json.dumps(asdict(spec))], HERE.parent)
    _processes.append(RESULTS, asdict(spec) | played | {"seconds": seconds})
    rate = played["values"]["learning_rate"]
    return f"return {played['last']:.1f}, learning rate {rate:.2g}, {seconds:.0f} s"


@dataclass(frozen=True)
class Summary:
    """The interquartile mean of the runs of a row, with its interval."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, scores: Sequence[float]) -> Summary:
        """Summarises scores; the interval of a single one, or of equal ones, has no width."""
        mean = interquartile_mean(scores)
        low, high = interval(scores) if len({*scores}) > 1 else (mean, mean)
        return cls(mean, low, high)

    def __str__(self) -> str:
        return f"{self.mean:.1f} [{self.low:.1f}, {self.high:.1f}]"


def holds(fixed: Summary, tuned: Summary, *, good_start: bool) -> bool:
    """Says whether tuning does no harm (from a good start), or helps (from a bad one).

    Args:
        fixed: Scores with fixed hyperparameters.
        tuned: Scores with tuned ones.
        good_start: Whether the runs began with the learning rate of the preset.
    """
    return tuned.high >= fixed.low if good_start else tuned.low > fixed.high


def training_return(result: Result) -> float:
    """The mean of a run's curve: the mean return of the latest episodes, at points that are equally far apart."""
    return statistics.fmean(score for _, score, _ in result["curve"] if score is not None)


def table_of(task: str, results: Iterable[Result]) -> tuple[list[list[str]], list[dict[str, Any]]]:
    """Makes the table of a task.

    Args:
        task: Its name.
        results: Runs of this task, the newest of equal ones last.

    Returns:
        The lines of the table, and the same numbers for the file.
    """
    newest = {(r["start"], r["method"], r["seed"]): r for r in results if r["task"] == task}
    lines, rows = [], []
    for start in TASKS[task].starts:
        of: dict[str, Summary] = {}
        for method in METHODS:
            runs = [r for (at, how, _), r in sorted(newest.items()) if (at, how) == (start, method)]
            if not runs:
                continue
            of[method] = Summary.of([r["last"] for r in runs])
            best = Summary.of([r["best"] if r["best"] is not None else r["last"] for r in runs])
            training = Summary.of([training_return(r) for r in runs])
            rate = statistics.median(r["values"]["learning_rate"] for r in runs)
            taken = statistics.fmean(len(r["decisions"]) for r in runs)
            judged = len(of) == len(METHODS) and len(runs) > 1
            verdict = ok(holds(of["fixed"], of["tuned"], good_start=start == TASKS[task].starts[0])) if judged else "-"
            cells = [str(len(runs)), str(of[method]), str(best), str(training), f"{rate:.1e}", f"{taken:.1f}", verdict]
            lines.append([f"{method}, {start:g}", *cells])
            rows.append({"start": start, "method": method, **asdict(of[method]), "results": runs})
    return lines, rows


def show(tasks: Iterable[str], scale: float) -> None:
    """Prints a table for each task, and writes all of them to ``results/tuning_replay_agents.json``."""
    written: dict[str, Any] = {}
    for task in tasks:
        steps = round(TASKS[task].steps * scale)
        results = [r for r in _processes.read_lines(RESULTS) if r["task"] == task and r["steps"] == steps]
        if not results:
            continue
        lines, rows = table_of(task, results)
        print(f"\n{TASKS[task].algorithm} on {task}, {steps:,} env steps: greedy return, interquartile mean [95 %]")
        header = [
            "method, start",
            "runs",
            "last weights",
            "best snapshot",
            "in training",
            "final learning rate",
            "decisions",
            "",
        ]
        print_table(header, lines)
        print(f"commits: {', '.join(sorted({r['commit'] for row in rows for r in row['results']}))}")
        written[task] = rows
    if written:
        write_results("tuning_replay_agents", written)


def main() -> None:
    """Runs what was asked for, and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--factors", nargs="+", type=float, choices=FACTORS, default=list(FACTORS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps-scale", type=float, default=1.0, help="share of the env steps, for a quick look")
    parser.add_argument("--workers", type=int, default=2, help="processes at a time")
    parser.add_argument("--any-commit", action="store_true", help="runs of other commits count, too")
    parser.add_argument("--table", action="store_true", help="run nothing, print the tables of what was run")
    arguments = parser.parse_args()
    failed = 0
    if not arguments.table:
        commit = commit_in_force()
        specs = [
            Spec(task, method, TASKS[task].starts[FACTORS.index(factor)], seed, round(steps), commit)
            for task in arguments.tasks
            for steps in (TASKS[task].steps * arguments.steps_scale,)
            for seed in range(arguments.seeds)  # whole seeds first: what is cut off can still be compared
            for factor in arguments.factors
            for method in arguments.methods
        ]
        specs = missing(specs, _processes.read_lines(RESULTS), any_commit=arguments.any_commit)
        failed = _processes.play_all(specs, run, lambda spec: spec.name, arguments.workers)
    show(arguments.tasks, arguments.steps_scale)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
