"""How fast the libraries are with the same hyperparameters: PPO, DQN and SAC, with one thread and with two.

    make bench
    python benchmarks/speed.py --sb3-python ... [--sbx-python ...] [--rows "PPO CartPole-v1"] [--pairs 5]
    python benchmarks/speed.py --page

Each run is a process of its own, pinned to as many cores as it has threads. The libraries alternate, so that a machine
that slows down slows all of them, and of each round the ratios are taken; the table has medians. Measured are env steps
per second from the first update on (steady) and over the whole process, imports and compiling included; seconds to the
first update; and memory. A row "to 475" ends when ten greedy episodes reach that return, confirmed by twenty for ours.

Ours runs with `OptixCallback`: its evaluations, snapshots and TensorBoard files are in its time; and once more without
evaluations (``evaluation_budget=0``), as the others run, which evaluate only in rows that end at a return.
Stable-Baselines3 computes with PyTorch, SBX is its twin in JAX.

A run has a line in ``results/speed.jsonl``, and is not run again on the same commit. `--page` writes
``results/speed.html`` from it. A task whose package is missing is left out, and a line says so.
"""

from __future__ import annotations

import argparse
import html
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import _processes
from _report import commit_in_force, ok, print_table, write_results
from _speed_rows import ROWS, Row

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "speed.jsonl"
PLAYERS = {"ours": "ours", "bare": "ours, evaluation_budget=0", "sb3": "Stable-Baselines3", "sbx": "SBX"}
OURS = ("ours", "bare")
MODULES = {"sb3": "stable_baselines3", "sbx": "sbx"}
NEEDS = {"LunarLander-v3": "Box2D", "HalfCheetah-v5": "mujoco"}  # modules
MEASURES = ("steady", "whole", "first", "megabytes")
GOALS = {("PPO CartPole-v1", "sb3", "steady"): 8.0, ("PPO CartPole-v1", "sb3", "whole"): 5.0}
GOALS[("PPO CartPole-v1", "sbx", "steady")] = 5.0

Result = dict[str, Any]


class Runs:
    """The runs that are done.

    Args:
        arguments: Those of the command line.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._commit = commit_in_force()
        lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
        self.results = [json.loads(line) for line in lines]

    def of(self, row: Row, threads: int) -> Iterator[dict[str, Result]]:
        """The rounds of a row, each with the results of its players."""
        rounds: dict[int, dict[str, Result]] = {}
        for result in self.results:
            if (result["name"], result["threads"], result["commit"]) == (row.name, threads, self._commit):
                rounds.setdefault(result["round"], {})[result["player"]] = result
        yield from (rounds[number] for number in sorted(rounds))

    def play(self, row: Row, threads: int, number: int, player: str) -> None:
        """Plays a run, unless it is done."""
        if any(player in one and one[player]["round"] == number for one in self.of(row, threads)):
            return
        python = {"sb3": self._arguments.sb3_python, "sbx": self._arguments.sbx_python}.get(player, sys.executable)
        script = "_speed_ours.py" if player in OURS else "_speed_sb3.py"
        spec = json.dumps({"row": asdict(row), "seed": number, "threads": threads})
        command = [python, str(HERE / script), spec, MODULES.get(player, player)]
        environment = os.environ | threads_of(threads) | {"PYTHONPATH": str(HERE.parent) if player in OURS else ""}
        begun = time.time()
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            raise SystemExit(f"{row.name}, {player}:\n{done.stderr[-3000:]}")
        result = json.loads(done.stdout.splitlines()[-1])
        seconds = time.time() - begun
        result |= {"whole": result["env_steps"] / seconds, "seconds": seconds, "first": result["first"] - begun}
        result |= {"name": row.name, "threads": threads, "round": number, "player": player, "commit": self._commit}
        _processes.append(RESULTS, result)
        self.results.append(result)
        print(
            f"{row.name}, {threads} thread(s), round {number}, {player}: {result['steady']:,.0f} steps/s, "
            f"{seconds:.1f} s, first update after {result['first']:.1f} s",
            flush=True,
        )


def threads_of(threads: int) -> dict[str, str]:
    """The variables that limit the threads of the libraries."""
    names = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "MKL_NUM_THREADS")
    eigen = {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"} if threads == 1 else {}
    return dict.fromkeys(names, str(threads)) | {"TF_CPP_MIN_LOG_LEVEL": "3"} | eigen


def table(runs: Runs, rows: list[Row], threads: list[int]) -> list[list[str]]:
    """The medians, and the ratios of ours to the others."""
    lines = []
    for row in rows:
        for number in threads:
            rounds = list(runs.of(row, number))
            for player in PLAYERS:
                found = [one[player] for one in rounds if player in one]
                if not found:
                    continue
                middle = {name: statistics.median(one[name] for one in found) for name in (*MEASURES, "seconds")}
                lines.append(
                    [
                        row.name,
                        str(number),
                        PLAYERS[player],
                        str(len(found)),
                        f"{middle['steady']:,.0f}",
                        f"{middle['seconds']:.1f}",
                        f"{middle['first']:.1f}",
                        f"{middle['megabytes']:,.0f}",
                        *(_ratio(row, rounds, player, name) for name in ("steady", "whole")),
                    ]
                )
    return lines


def _ratio(row: Row, rounds: list[dict[str, Result]], player: str, name: str) -> str:
    """Ours over that of a player: the median of the rounds."""
    both = [(one["ours"], one[player]) for one in rounds if "ours" in one and player in one]
    if player in OURS or not both:
        return ""
    # A run that ends at a return is compared by its time, because the libraries need different numbers of env steps.
    by_time = row.threshold is not None and name == "whole"
    ratios = [b["seconds"] / a["seconds"] if by_time else a[name] / b[name] for a, b in both]
    middle, goal = statistics.median(ratios), GOALS.get((row.name, player, name))
    return f"{middle:.2f}" + ("" if goal is None else f" (goal {goal:g}: {ok(middle >= goal)})")


HEADER = (
    "row",
    "threads",
    "library",
    "runs",
    "steps/s",
    "seconds",
    "first update",
    "MB",
    "ours, steady",
    "ours, whole",
)


def page(lines: list[list[str]]) -> str:
    """A page with the table, and bars of env steps per second."""
    cells = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in one) + "</tr>" for one in [HEADER, *lines]
    )
    bars = []
    for name in dict.fromkeys((one[0], one[1]) for one in lines):
        mine = [(one[2], float(one[4].replace(",", ""))) for one in lines if (one[0], one[1]) == name]
        most = max(rate for _, rate in mine)
        drawn = "".join(
            f'<rect x="160" y="{24 * k}" width="{400 * rate / most:.0f}" height="18" fill="#36c"/>'
            f'<text x="0" y="{24 * k + 14}">{html.escape(library)}</text>'
            f'<text x="{166 + 400 * rate / most:.0f}" y="{24 * k + 14}">{rate:,.0f}</text>'
            for k, (library, rate) in enumerate(mine)
        )
        bars.append(f"<h2>{html.escape(f'{name[0]}, {name[1]} thread(s)')}: env steps per second</h2>")
        bars.append(f'<svg width="680" height="{24 * len(mine)}" font-size="13">{drawn}</svg>')
    style = "body{font-family:sans-serif}td{padding:2px 12px}"
    return f"<!doctype html><meta charset=utf-8><style>{style}</style><table>{cells}</table>{''.join(bars)}"


def available(rows: list[Row]) -> list[Row]:
    """The rows whose packages are installed."""
    missing = {task for task, module in NEEDS.items() if importlib.util.find_spec(module) is None}
    for task in missing & {row.task for row in rows}:
        print(f"{task} is left out: the package {NEEDS[task]} is not installed")
    return [row for row in rows if row.task not in missing]


def main() -> None:
    """Plays the rounds that are missing, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sb3-python", help="Python of an environment with Stable-Baselines3")
    parser.add_argument("--sbx-python", help="Python of an environment with SBX")
    parser.add_argument("--rows", help="names, with commas between; default: all")
    parser.add_argument("--pairs", type=int, default=5, help="runs of each library")
    parser.add_argument("--threads", default="1,2", help="numbers, with commas between")
    parser.add_argument("--page", action="store_true", help="run nothing")
    arguments = parser.parse_args()
    names = None if arguments.rows is None else [name.strip() for name in arguments.rows.split(",")]
    unknown = set(names or ()) - {row.name for row in ROWS}
    if unknown:
        parser.error(f"there is no row {sorted(unknown)}; the rows are {[row.name for row in ROWS]}")
    rows = available([row for row in ROWS if names is None or row.name in names])
    threads = [int(number) for number in arguments.threads.split(",")]
    runs = Runs(arguments)
    given = {"ours": True, "bare": True, "sb3": arguments.sb3_python, "sbx": arguments.sbx_python}
    for number in range(0 if arguments.page else arguments.pairs):
        for row in rows:
            for count in threads:
                for player in (one for one in PLAYERS if given[one]):
                    if player != "bare" or row.threshold is None:
                        runs.play(row, count, number, player)
    lines = table(runs, rows, threads)
    print_table(HEADER, lines)
    write_results("speed", [dict(zip(HEADER, line, strict=True)) for line in lines])
    (HERE / "results" / "speed.html").write_text(page(lines))


if __name__ == "__main__":
    main()
