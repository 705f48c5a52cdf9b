"""Whether "trained" means trained: `make_agent` and the default callback on six tasks, beside Stable-Baselines3.

    make bench-autopilot
    python benchmarks/autopilot.py --players ours --tasks CartPole-v1,Pendulum-v1 --seeds 3 --workers 2
    python benchmarks/autopilot.py --continue
    python benchmarks/autopilot.py --tree ../another-checkout
    python benchmarks/autopilot.py --table

A run of ours is the program of the README: it ends by itself, or at twice the env steps of the public zoo. Then 100
fresh greedy episodes are played with what `fit` leaves, and compared with the score that the run announces.

Stable-Baselines3 has the hyperparameters of the zoo (`_autopilot_tasks.py`) and `EvalCallback` as the zoo has it, or
more often where that serves it better. It is compared at equal total env steps, training and evaluation together: what
the best model that `EvalCallback` has found by then returns over as many fresh greedy episodes. It never has more than
the budget of the zoo, for which its hyperparameters are made.

`--continue` runs the same seeds again with stopping switched off, to twice the env steps at which they ended, for what
they would have gained. The rules about the end of a run are in `_autopilot_truth.py`.

Each run is a process with one thread, and has a file in the folder of the results. A run that has one is not run again,
unless it is of another commit (or, with `--any-commit`, in no case). Runs of another checkout (`--tree`) are named
"before" and shown beside those of this one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from _autopilot_runs import HERE, Place, Result, missing, play_all, read
from _autopilot_table import show_later, show_left, show_steps, show_truth
from _autopilot_tasks import FRESH_EPISODES, TASKS, Spec
from _report import commit_in_force, write_results

RESULTS = HERE / "results" / "autopilot"
PLAYERS = ("ours", "sb3")


def specs_of(arguments: argparse.Namespace, player: str) -> list[Spec]:
    """The runs of a player that were asked for, task by task."""
    return [
        Spec(player, task, seed, arguments.scale, arguments.episodes, arguments.label)
        for task in arguments.tasks
        for seed in range(min(arguments.seeds, TASKS[task].seeds))
    ]


def continued(place: Place, specs: Sequence[Spec]) -> list[Spec]:
    """The continuations of the runs that are there and ended by themselves."""
    found = []
    for spec in specs:
        result = read(place, spec)
        if result is not None and result["env_steps"] < result["limit"]:
            found.append(replace(spec, player="continued", env_steps=2 * result["env_steps"]))
    return found


def by_task(place: Place, specs: Sequence[Spec]) -> dict[str, list[Result]]:
    """The results that are there."""
    found: dict[str, list[Result]] = {}
    for spec in specs:
        result = read(place, spec)
        if result is not None:
            found.setdefault(spec.task, []).append(result)
    return found


def show(arguments: argparse.Namespace, place: Place) -> None:
    """Prints the tables and writes their numbers."""
    specs = specs_of(arguments, "ours")
    ours, theirs = by_task(place, specs), by_task(place, specs_of(arguments, "sb3"))
    if not ours:
        print(f"No run of {arguments.label} is in {place.out}.")
        return
    label = arguments.label
    commits = sorted({result["commit"] for results in ours.values() for result in results})
    earlier = by_task(place, [replace(spec, label=arguments.beside) for spec in specs])
    beside = {} if label == arguments.beside else earlier
    written: dict[str, Any] = {"commits": commits, "left": show_left(label, ours, theirs, arguments.beside, beside)}
    written["steps"] = show_steps(label, ours)
    written["later"] = show_later(label, ours, by_task(place, continued(place, specs)))
    written["truth"] = show_truth(label, ours)
    print(f"commits of {label}: {', '.join(commits)}")
    write_results(f"autopilot-{label}", written)


def parsed() -> argparse.Namespace:
    """The arguments, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--players", default=",".join(PLAYERS), help="ours, sb3 or both")
    parser.add_argument("--tasks", default=",".join(TASKS), help="ids, with commas between")
    parser.add_argument("--seeds", type=int, default=10, help="runs of each task at most (BipedalWalker has 3)")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the budgets, for a quick look")
    parser.add_argument("--episodes", type=int, default=FRESH_EPISODES, help="fresh episodes, at least 2")
    parser.add_argument("--workers", type=int, default=2, help="processes at a time")
    parser.add_argument("--sb3-python", default=sys.executable, help="Python of an environment with Stable-Baselines3")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--sb3-out", type=Path, help="folder of those of Stable-Baselines3, if it is another one")
    parser.add_argument("--tree", type=Path, help="measure another checkout")
    parser.add_argument("--label", help='names the runs of a checkout (default: "ours", or "before" with --tree)')
    parser.add_argument("--beside", default="before", help="label of runs to show beside these (default: before)")
    parser.add_argument("--continue", dest="further", action="store_true", help="run what ended, for as long again")
    parser.add_argument("--any-commit", action="store_true", help="keep runs of other commits")
    parser.add_argument("--table", action="store_true", help="run nothing, print the tables of what was run")
    arguments = parser.parse_args()
    for name, known in (("players", PLAYERS), ("tasks", tuple(TASKS))):
        given = getattr(arguments, name).split(",")
        setattr(arguments, name, given)
        if {*given} - {*known}:
            parser.error(f"unknown: {', '.join(sorted({*given} - {*known}))}; there are {', '.join(known)}")
    if arguments.tree is not None and not (arguments.tree / "keras_optix").is_dir():
        parser.error(f"--tree must be a checkout of keras_optix, and {arguments.tree} is none")
    if arguments.episodes < 2 or not 0.0 < arguments.scale <= 1.0:
        parser.error("--episodes must be at least 2, and --scale above 0 and at most 1")
    arguments.label = arguments.label or ("before" if arguments.tree else "ours")
    if arguments.label in ("sb3", "continued"):
        parser.error("--label names runs of ours, so it must not be sb3 or continued")
    return arguments


def main() -> None:
    """Runs what was asked for, and prints the tables."""
    arguments = parsed()
    tree = (arguments.tree or HERE.parent).resolve()
    place = Place(arguments.out, arguments.sb3_out or arguments.out, tree, commit_in_force(tree), arguments.sb3_python)
    failed = 0
    if not arguments.table:
        specs = [spec for player in PLAYERS if player in arguments.players for spec in specs_of(arguments, player)]
        if arguments.further:
            specs = continued(place, [spec for spec in specs if spec.player == "ours"])
        failed = play_all(place, missing(place, specs, any_commit=arguments.any_commit), arguments.workers)
    show(arguments, place)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
