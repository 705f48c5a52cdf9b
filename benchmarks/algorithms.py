"""The algorithms with their presets: what they learn in the budgets of the sources, and how fast they are.

    make bench-algorithms
    python benchmarks/algorithms.py learning [--rows "DQN CartPole-v1"] [--seeds 5] [--workers 2] [--sb3-python ...]
    python benchmarks/algorithms.py speed [--pairs 5] --sb3-python .venv-sb3/bin/python
    python benchmarks/algorithms.py page

`learning`: each row of `_algorithm_rows.py` with several seeds, and 100 fresh greedy episodes with the last weights;
interquartile mean over the seeds with its 95 % interval, beside the published return. A row is "OK" if its
interquartile mean is at most one published standard deviation below it. A published return is of a single run. So with
`--sb3-python`, Stable-Baselines3 also plays each row of DQN and SAC, with the same hyperparameters, budget, seeds and
episodes.

`speed`: env steps per second beside Stable-Baselines3 with the same hyperparameters and one thread each, alternating,
without starting and compiling.

`page` writes ``results/algorithms.html`` with the tables and the learning curves. Each run is a process with one
thread, and has a file in ``results/algorithms``; a run that has one is not run again, unless it is of another commit.
"""

from __future__ import annotations

import argparse
import html
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import _processes
from _algorithm_rows import FRESH_EPISODES, ROWS, Row
from _report import commit_in_force, interquartile_mean, interval, ok, print_table, write_results

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "algorithms"
# Rows that Stable-Baselines3 can learn: it has no PQN.
RIVAL = frozenset(row.name for row in ROWS if row.algorithm in ("DQNAgent", "SACAgent"))
SPEED = {"DQN CartPole-v1": (20_000, 4.0), "SAC Pendulum-v1": (3_000, 2.0)}  # env steps, goal

Result = dict[str, Any]


class Runs:
    """The runs and their files.

    Args:
        arguments: Those of the command line.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._commit = commit_in_force()

    def read(self, row: Row, seed: int, *, rival: bool = False) -> Result | None:
        """The result of a run, or None if there is none of this commit. Those of the rival are of no commit."""
        path = self._path(row, seed, rival=rival)
        if not path.exists():
            return None
        result: Result = json.loads(path.read_text())
        wanted = rival or self._arguments.any_commit or result["commit"] == self._commit
        return result if wanted and result["budget"] == self._steps(row) else None

    def learn(self, rows: Sequence[Row], seeds: int) -> int:
        """Plays the runs that are missing; returns how many failed."""
        sides = [False, True] if self._arguments.sb3_python else [False]
        every = [(row, seed, rival) for seed in range(seeds) for row in rows for rival in sides]
        specs = [
            (row, seed, rival)
            for row, seed, rival in every
            if not (rival and row.name not in RIVAL) and self.read(row, seed, rival=rival) is None
        ]
        name = lambda spec: f"{spec[0].name} seed {spec[1]}{' (Stable-Baselines3)' * spec[2]}"  # noqa: E731
        return _processes.play_all(specs, lambda spec: self._play(*spec), name, self._arguments.workers)

    def speed(self, row: Row, seed: int, *, rival: bool) -> float:
        """Env steps per second of one run."""
        return float(self._run(row, SPEED[row.name][0], seed, 0, rival=rival)[0]["rate"])

    def _steps(self, row: Row) -> int:
        return max(int(row.env_steps * self._arguments.scale), 1)

    def _path(self, row: Row, seed: int, *, rival: bool) -> Path:
        return self._arguments.out / f"{'sb3-' * rival}{row.name.replace(' ', '-')}-{seed}.json"

    def _run(self, row: Row, env_steps: int, seed: int, episodes: int, *, rival: bool) -> tuple[Result, float]:
        """The result of a run, and its seconds."""
        script = "_algorithm_sb3.py" if rival else "_algorithm_ours.py"
        python = self._arguments.sb3_python if rival else sys.executable
        spec = {**asdict(row), "env_steps": env_steps, "seed": seed, "episodes": episodes}
        return _processes.play([python, str(HERE / script), json.dumps(spec)], None if rival else HERE.parent)

    def _play(self, row: Row, seed: int, rival: bool) -> str:
        played, seconds = self._run(row, self._steps(row), seed, FRESH_EPISODES, rival=rival)
        commit = "" if rival else self._commit
        result = {**played, "commit": commit, "budget": self._steps(row), "seed": seed}
        _processes.keep(self._path(row, seed, rival=rival), result)
        return f"{played['score']:.1f} in {seconds:.0f} s"


def learning_table(runs: Runs, rows: Sequence[Row], seeds: int) -> list[list[str]]:
    """The table of what was learned, a row for each row that was run."""
    lines = []
    for row in rows:
        found = [result for seed in range(seeds) if (result := runs.read(row, seed)) is not None]
        if not found:
            continue
        scores = [result["score"] for result in found]
        middle = interquartile_mean(scores)
        low, high = interval(scores) if len(scores) > 1 else (middle, middle)
        published = "-" if row.published is None else f"{row.published[0]:.1f} ± {row.published[1]:.1f}"
        reached = "-" if row.published is None else ok(middle >= row.published[0] - row.published[1])
        shown = " ".join(f"{score:.0f}" for score in sorted(scores))
        rate = statistics.median(result["rate"] for result in found)
        budget = f"{found[0]['env_steps']:,}"
        theirs = [result["score"] for seed in range(seeds) if (result := runs.read(row, seed, rival=True)) is not None]
        rival = (
            f"{interquartile_mean(theirs):.1f} ({' '.join(f'{one:.0f}' for one in sorted(theirs))})" if theirs else "-"
        )
        spread = f"{middle:.1f} [{low:.1f}, {high:.1f}]"
        lines.append([row.name, budget, spread, published, reached, shown, rival, f"{rate:,.0f}"])
    return lines


HEADER = ("row", "env steps", "IQM [95 %]", "published", "", "seeds", "Stable-Baselines3 (seeds)", "steps/s")


def speed_table(runs: Runs, rows: Sequence[Row], pairs: int) -> list[list[str]]:
    """Measures env steps per second, ours and Stable-Baselines3 alternating."""
    lines = []
    for row in rows:
        if row.name not in SPEED:
            continue
        both = [(runs.speed(row, k, rival=False), runs.speed(row, k, rival=True)) for k in range(pairs)]
        ratio = statistics.median(ours / theirs for ours, theirs in both)
        medians = [f"{statistics.median(column):,.0f}" for column in zip(*both, strict=True)]
        lines.append([row.name, *medians, f"{ratio:.2f}", f"{SPEED[row.name][1]:g}", ok(ratio >= SPEED[row.name][1])])
    return lines


def page(runs: Runs, rows: Sequence[Row], seeds: int) -> str:
    """A page with the table and the curves."""
    table = [HEADER, *learning_table(runs, rows, seeds)]
    cells = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in line) + "</tr>" for line in table)
    drawn = []
    for row in rows:
        found = [result for seed in range(seeds) if (result := runs.read(row, seed)) is not None]
        curves = [[(x, y) for x, y, _ in one["curve"] if y == y] for one in found]  # before the first episode it is NaN
        if any(curves):
            drawn.append(f"<h2>{html.escape(row.name)}</h2>{_svg(curves)}")
    style = "body{font-family:sans-serif}td{padding:2px 12px}svg{border:1px solid #ccc}"
    return f"<!doctype html><meta charset=utf-8><style>{style}</style><table>{cells}</table>{''.join(drawn)}"


def _svg(curves: Sequence[Sequence[tuple[float, float]]], width: int = 640, height: int = 240) -> str:
    """Learning curves: mean return of the latest episodes over env steps, a line for each seed."""
    xs, ys = [x for curve in curves for x, _ in curve], [y for curve in curves for _, y in curve]
    right, low, high = max(xs), min(ys), max(ys) if max(ys) > min(ys) else min(ys) + 1.0
    lines = []
    for curve in curves:
        points = " ".join(
            f"{40 + (width - 60) * x / right:.1f},{height - 20 - (height - 40) * (y - low) / (high - low):.1f}"
            for x, y in curve
        )
        lines.append(f'<polyline points="{points}" fill="none" stroke="#36c" stroke-opacity="0.6"/>')
    labels = f'<text x="2" y="16">{high:.0f}</text><text x="2" y="{height - 20}">{low:.0f}</text>'
    labels += f'<text x="{width - 90}" y="{height - 4}">{right:,.0f}</text>'
    return f'<svg width="{width}" height="{height}" font-size="11">{"".join(lines)}{labels}</svg>'


def main() -> None:
    """Runs what was asked for, and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("learning", "speed", "page"))
    parser.add_argument("--rows", help="names, with commas between; default: all")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=5, help="runs of each side for `speed`")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the budgets, for a quick look")
    parser.add_argument("--workers", type=int, default=2, help="processes at a time")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the runs")
    parser.add_argument("--sb3-python", help="Python of an environment with Stable-Baselines3; `speed` needs it")
    parser.add_argument("--any-commit", action="store_true", help="keep runs of other commits")
    arguments = parser.parse_args()
    known = {row.name: row for row in ROWS}
    names = arguments.rows.split(",") if arguments.rows else list(known)
    if {*names} - {*known}:
        parser.error(f"unknown: {', '.join(sorted({*names} - {*known}))}; there are {', '.join(known)}")
    rows, runs, failed = [known[name] for name in names], Runs(arguments), 0
    if arguments.what == "speed" and not arguments.sb3_python:
        parser.error("`speed` needs --sb3-python")
    if arguments.what == "speed":
        lines = speed_table(runs, rows, arguments.pairs)
        print_table(("row", "ours", "Stable-Baselines3", "ratio", "goal", ""), lines)
        write_results("algorithms-speed", lines)
        return
    if arguments.what == "learning":
        failed = runs.learn(rows, arguments.seeds)
        lines = learning_table(runs, rows, arguments.seeds)
        print_table(HEADER, lines)
        write_results("algorithms-learning", lines)
    target = HERE / "results" / "algorithms.html"
    target.parent.mkdir(exist_ok=True)
    target.write_text(page(runs, rows, arguments.seeds))
    print(f"curves: {target}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
