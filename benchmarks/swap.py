"""How fast a change of the world is noticed and made up for: CartPole whose actions swap, and later swap back.

    make bench-swap
    python benchmarks/swap.py --players sb3,plain --seeds 2 --resume
    python benchmarks/swap.py --table

PPO of the README, 8 environments, 32 steps. The actions swap at 100,000 env steps and swap back at 200,000; a run ends
at 300,000. `sb3` is Stable-Baselines3's PPO with the same hyperparameters, left alone. The others are the loop as
`_swap_players.py` sets it up. Only steps of training move the clock of the world; what evaluations of the loop took
beside them is counted, and added in a column of its own.

Every 1,024 env steps the current weights play 10 episodes with the most likely actions and 10 with sampled ones, in
the world of the moment and beside the count. A player has recovered with the first of three points in a row that reach
90 % of what it returned before the change, which is the mean of the last 10,000 env steps. A run that never recovers
counts with all steps until the next change, as a lower bound. One that never recovered from the swap is left out of the
swap back: what it cannot unlearn is right again then. So all runs are compared by the steps that they lost after both
changes: those at whose points the return was below 90 % of the most, 500. An alarm is a "degradation" of the loop's; a
control run has one world, and every alarm in it is a false one, or the learner's own doing.

Over seeds: the interquartile mean with its 95 % bootstrap percentile interval. Each run is a process with one thread,
appended to ``results/swap.jsonl`` when it is done, so `--resume` goes on where a benchmark was cut off; the table takes
the newest of equal runs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import _processes
import numpy as np
import scipy.stats
from _report import commit_in_force, interquartile_mean, interval, ok, print_table, write_results
from _swap_players import PLAYERS
from _swap_world import Recovery, Spec

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "swap.jsonl"
SB3 = "sb3"
BEFORE = 10_000  # env steps before a change whose returns are the ones to get back to
SHARE, HOLD = 0.9, 3  # of them, in so many successive points
ACTING = {"sampled actions": 2, "most likely actions": 1}  # column of a point
MOST = 500.0  # return
CHANGES = ("swap", "swap back")
GOAL_RATIO, GOAL_ALARMS = 5.0, 1

Result = dict[str, Any]


def run(spec: Spec, sb3_python: str) -> str:
    """Plays a run and appends it to the file of results; returns what is said of it.

    Raises:
        RuntimeError: It failed.
    """
    python, script = (sb3_python, "_swap_sb3.py") if spec.player == SB3 else (sys.executable, "_swap_ours.py")
    # The environment of Stable-Baselines3 has no keras_optix.
    played, seconds = _processes.play([python, str(HERE / script), json.dumps(asdict(spec))], HERE.parent)
    result = asdict(spec) | played | {"seconds": seconds}
    _processes.append(RESULTS, result)
    return f"{len(alarms(result))} alarms, {seconds:.0f} s"


def run_all(specs: Sequence[Spec], workers: int, sb3_python: str) -> int:
    """Runs what is asked for.

    Returns:
        How many runs failed; they are not in the file.
    """
    return _processes.play_all(specs, lambda spec: run(spec, sb3_python), lambda spec: spec.name, workers)


def key_of(result: Result, *, any_commit: bool) -> tuple[Any, ...]:
    """Equal keys need not be run again; Stable-Baselines3 does not change with our commits."""
    commit = "" if any_commit or result["player"] == SB3 else result["commit"]
    return result["player"], result["swaps"], result["seed"], result["scale"], commit


def recovery(result: Result, change: int, until: int, column: int) -> Recovery:
    """What the curve says of a change.

    Args:
        result: The run.
        change: Env steps at which the world changed.
        until: Env steps of the next change, or of the end.
        column: Of the curve: which returns.
    """
    curve = result["curve"]
    earlier = [row for row in curve if change - BEFORE * result["scale"] <= row[0] <= change]
    later = [row for row in curve if change < row[0] <= until]
    before = float(np.mean([row[column] for row in earlier]))
    reached = [row[column] >= SHARE * before for row in later]
    first = next((k for k in range(len(reached) - HOLD + 1) if all(reached[k : k + HOLD])), None)
    steps = (until if first is None else later[first][0]) - change
    played = _played(later[-1 if first is None else first]) - _played(earlier[-1])
    return Recovery(before, steps, steps + played, first is not None)


def lost(result: Result, column: int) -> tuple[int, int]:
    """Env steps of training after the swap that were lost, and the same with what evaluations took meanwhile."""
    curve = result["curve"]
    after = [(row, then) for row, then in pairwise(curve) if then[0] > changes_of(result)[0]]
    low = [(row, then) for row, then in after if then[column] < SHARE * MOST]
    steps = sum(then[0] - row[0] for row, then in low)
    return steps, steps + sum(_played(then) - _played(row) for row, then in low)


def _played(row: Sequence[Any]) -> int:
    """Env steps of the loop's evaluations up to a point of the curve."""
    return int(row[3]) if len(row) > 3 else 0


def alarms(result: Result) -> list[int]:
    """Env steps at which the loop saw a degradation."""
    return [steps for event, steps, *_ in result.get("events", []) if event == "degradation"]


def detection(result: Result, change: int, until: int) -> tuple[int, int] | None:
    """Evaluations and env steps from a change to the first alarm; None if there was none until the next change."""
    alarm = next((steps for steps in alarms(result) if change < steps <= until), None)
    if alarm is None:
        return None
    return sum(change < row[0] <= alarm for row in result["evaluations"]), alarm - change


def state_at(result: Result, change: int) -> str:
    """State of the loop before a change."""
    return next((row[4] for row in reversed(result["curve"]) if row[0] <= change), "-")


def summary(values: Sequence[float]) -> str:
    """The interquartile mean with its interval."""
    if not values:
        return "-"
    mean = f"{interquartile_mean(values):,.0f}"
    if len(values) == 1:
        return mean
    low, high = interval(values)
    return f"{mean} [{low:,.0f}, {high:,.0f}]"


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> tuple[float, float, float]:
    """Quotient of the interquartile means, with its 95 % bootstrap percentile interval; seeds are no pairs."""
    found = scipy.stats.bootstrap(
        (theirs, ours),
        lambda a, b, axis: scipy.stats.trim_mean(a, 0.25, axis=axis) / scipy.stats.trim_mean(b, 0.25, axis=axis),
        n_resamples=10_000,
        method="percentile",
        rng=0,
    ).confidence_interval
    return interquartile_mean(theirs) / interquartile_mean(ours), float(found.low), float(found.high)


def changes_of(result: Result) -> tuple[int, int, int]:
    """Env steps of the swap, of the swap back and of the end."""
    return Spec(**{name: result[name] for name in Spec.__dataclass_fields__}).changes


def show(scale: float) -> None:
    """Prints the tables and writes their numbers to ``results/swap.json``."""
    newest = {key_of(r, any_commit=True): r for r in _processes.read_lines(RESULTS) if r["scale"] == scale}
    results = sorted(newest.values(), key=lambda result: result["seed"])
    by_player = {player: [r for r in results if r["player"] == player] for player in (SB3, *PLAYERS)}
    swapped = {player: [r for r in runs if r["swaps"]] for player, runs in by_player.items()}
    written: dict[str, Any] = {}
    for k, change in enumerate(CHANGES):
        for acting, column in ACTING.items():
            written[f"{change}, {acting}"] = show_recovery(f"{change}, {acting}", k, column, swapped)
    for acting, column in ACTING.items():
        written[f"lost, {acting}"] = show_lost(
            acting, column, {player: runs for player, runs in swapped.items() if runs}
        )
    show_alarms({player: runs for player, runs in by_player.items() if player != SB3 and runs})
    print(f"commits of ours: {', '.join(sorted({r['commit'] for r in results if r['player'] != SB3}))}")
    write_results("swap", written)


def show_recovery(title: str, k: int, column: int, runs: dict[str, list[Result]]) -> dict[str, Any]:
    """The table of recoveries from one change; the goal is about the swap back."""
    found: dict[str, list[Recovery]] = {}
    for player, results in runs.items():
        each = [[recovery(r, *changes_of(r)[j : j + 2], column) for j in range(k + 1)] for r in results]
        # Of those that had recovered from the change before, if there was one.
        found[player] = [recoveries[k] for recoveries in each if all(earlier.recovered for earlier in recoveries[:k])]
    found = {player: recoveries for player, recoveries in found.items() if recoveries}
    theirs = [each.steps for each in found.get(SB3, [])]
    rows = []
    for player, recoveries in found.items():
        all_steps = [each.all_steps for each in recoveries]
        judged = player != SB3 and min(len(theirs), len(all_steps)) > 1
        times, low, high = ratio(theirs, all_steps) if judged else (0.0, 0.0, 0.0)
        bound = ">= " if not all(each.recovered for each in recoveries) else ""
        rows.append(
            [
                player,
                summary([each.before for each in recoveries]),
                f"{sum(each.recovered for each in recoveries)} of {len(recoveries)}",
                bound + summary([each.steps for each in recoveries]),
                bound + summary(all_steps),
                f"{times:.1f} [{low:.1f}, {high:.1f}]" if judged else "-",
                ok(times >= GOAL_RATIO) if judged and k == 1 else "-",
            ]
        )
    print(f"\n{title}: env steps to {SHARE:.0%} of the return before it, interquartile mean [95 % interval]")
    header = ["player", "return before", "recovered", "env steps", "with evaluations", "sb3 / player"]
    print_table([*header, f"goal >= {GOAL_RATIO:g}"], rows)
    return {player: [asdict(each) for each in recoveries] for player, recoveries in found.items()}


def show_lost(acting: str, column: int, runs: dict[str, list[Result]]) -> dict[str, Any]:
    """The table of what was lost after both changes."""
    found = {player: [lost(result, column) for result in results] for player, results in runs.items()}
    theirs = [steps for steps, _ in found.get(SB3, [])]
    rows = []
    for player, pairs in found.items():
        all_steps = [max(steps, 1) for _, steps in pairs]
        judged = player != SB3 and min(len(theirs), len(all_steps)) > 1
        times, low, high = ratio(theirs, all_steps) if judged else (0.0, 0.0, 0.0)
        quotient = f"{times:.1f} [{low:.1f}, {high:.1f}]" if judged else "-"
        rows.append([player, str(len(pairs)), summary([steps for steps, _ in pairs]), summary(all_steps), quotient])
    print(f"\nboth changes, {acting}: env steps below {SHARE * MOST:g}")
    print_table(["player", "runs", "env steps", "with evaluations", "sb3 / player"], rows)
    return found


def show_alarms(by_player: dict[str, list[Result]]) -> None:
    """The tables of alarms: after each change, and in whole runs."""
    for k, change in enumerate(CHANGES):
        rows = []
        for player, results in by_player.items():
            runs = [(r, *changes_of(r)[k : k + 2]) for r in results if r["swaps"]]
            states = Counter(state_at(r, at) for r, at, _ in runs)
            seen = [delay for delay in (detection(*each) for each in runs) if delay is not None]
            in_words = ", ".join(f"{name} {count}" for name, count in sorted(states.items()))
            delays = [summary([delay[j] for delay in seen]) for j in (0, 1)]
            rows.append([player, in_words or "-", f"{len(seen)} of {len(runs)}", *delays])
        print(f"\n{change}: state of the loop before it, and what it took to the first alarm after it")
        print_table(["player", "state", "seen", "evaluations", "env steps"], rows)
    rows = []
    for player, results in by_player.items():
        changing, control = ([len(alarms(r)) for r in results if r["swaps"] is swaps] for swaps in (True, False))
        each = [" ".join(map(str, numbers)) or "-" for numbers in (changing, control)]
        rows.append([player, *each, ok(max(control) <= GOAL_ALARMS) if control else "-"])
    print("\nalarms in each whole run")
    print_table(["player", "with both swaps", "control", f"goal <= {GOAL_ALARMS}"], rows)


def missing(specs: Iterable[Spec], *, any_commit: bool) -> list[Spec]:
    """The runs that are not in the file of results."""
    there = {key_of(result, any_commit=any_commit) for result in _processes.read_lines(RESULTS)}
    return [spec for spec in specs if key_of(asdict(spec), any_commit=any_commit) not in there]


def main() -> None:
    """Runs what was asked for, and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--players", default=",".join((SB3, *PLAYERS)), help="names, with commas between")
    parser.add_argument("--worlds", default="swap,control", help="swap, control or both; sb3 has no control runs")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps-scale", type=float, default=1.0, help="share of the env steps, for a quick look")
    parser.add_argument("--workers", type=int, default=2, help="processes at a time")
    parser.add_argument("--sb3-python", default=sys.executable, help="Python of an environment with Stable-Baselines3")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="commit",
        choices=("commit", "any"),
        help="skip what was run before at this commit, or with `any` at whatever commit",
    )
    parser.add_argument("--table", action="store_true", help="run nothing, print the tables of what was run")
    arguments = parser.parse_args()
    players, worlds = arguments.players.split(","), arguments.worlds.split(",")
    unknown = ({*players} - {SB3, *PLAYERS}) | ({*worlds} - {"swap", "control"})
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join((SB3, *PLAYERS))}")
    if not 0.1 <= arguments.steps_scale <= 1.0:
        parser.error("--steps-scale must be 0.1 to 1: with less, no point of the curve lies before a change")
    failed = 0
    if not arguments.table:
        commit = commit_in_force()
        specs = [
            Spec(player, world == "swap", seed, arguments.steps_scale, commit)
            for world in worlds
            for player in players
            if not (player == SB3 and world == "control")
            for seed in range(arguments.seeds)
        ]
        if arguments.resume:
            specs = missing(specs, any_commit=arguments.resume == "any")
        failed = run_all(specs, arguments.workers, arguments.sb3_python)
    show(arguments.steps_scale)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
