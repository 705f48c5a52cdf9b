"""How a replay buffer gets over a change of the world: DQN on CartPole whose actions swap, and what `AfterShift` keeps.

    make bench-swap-replay
    python benchmarks/swap_replay.py --players "replay 0" "replay 1" --seeds 2
    python benchmarks/swap_replay.py --table

The preset of DQN for CartPole-v1 trains for 50,000 env steps; then the actions swap. `alone` is the agent without a
policy manager, which is told of nothing and so keeps all. `told` is told of the change after the window in which it
happened, by `Agent.after_shift`: what it needs shows what the share is worth, without the time of detection. The others
have a policy manager, which detects the change, goes on from the initial weights if they are better, and lets the agent
keep a share of its transitions, ``AfterShift(replay=...)``. With `explores`, epsilon falls again from its first value,
``AfterShift(exploration=0)``. Only steps of training move the clock of the world, and what evaluations
of the loop took beside them is counted, and added in a column of its own.

Every 1,024 env steps the current weights play 10 greedy and 10 epsilon-greedy episodes, in the world of the moment and
beside the count. An agent has recovered with the first of three points in a row whose greedy return reaches 90 % of
what it was before the change, which is the mean over the last 10,000 env steps. The run ends then, or 100,000 env steps
after the change: this is a lower bound of what such a run would have needed.

Over seeds: the interquartile mean with its 95 % bootstrap percentile interval. Each run is a process with one thread.
It is appended to ``results/swap_replay.jsonl`` when it is done, and a run that is there is not repeated unless it is of
another commit. The table takes the newest of equal runs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import _processes
from _processes import missing
from _report import commit_in_force, interquartile_mean, interval, print_table, write_results
from _swap_world import Recovery

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "swap_replay.jsonl"
POINT = 1_024  # env steps from one point of the curve to the next: four windows of the preset
SWAP, END = 50_000, 150_000
BEFORE = 10_000  # env steps before the change whose returns are the ones to get back to
SHARE, HOLD = 0.9, 3  # of them, in so many successive points

PLAYERS: dict[str, Mapping[str, float]] = {
    "alone": {},
    "told, replay 0.1": {"replay": 0.1},
    "told, replay 0": {"replay": 0.0},
    "told, replay 0, explores": {"replay": 0.0, "exploration": 0.0},
    "replay 1": {"replay": 1.0},
    "replay 0.1": {"replay": 0.1},
    "replay 0": {"replay": 0.0},
    "replay 0, explores": {"replay": 0.0, "exploration": 0.0},
}
"""Arguments of `AfterShift` by player."""
ALONE, TOLD = "alone", "told"  # how the names of players without a policy manager begin

Result = dict[str, Any]


@dataclass(frozen=True)
class Spec:
    """What makes a run: equal ones need not be repeated.

    Attributes:
        player: One of `PLAYERS`.
        seed: Of weights, environments and actions.
        swap: Env steps at which the actions swap.
        end: Env steps at which the run ends if the agent has not recovered.
        commit: Of the library.
    """

    player: str
    seed: int
    swap: int
    end: int
    commit: str

    @property
    def name(self) -> str:
        """For a line of progress."""
        return f"{self.player}, seed {self.seed}"


def recovery(result: Mapping[str, Any]) -> Recovery:
    """Reads from a curve how an agent got over the change.

    Args:
        result: A run, with ``curve``: env steps, greedy return, epsilon-greedy return and env steps of evaluations.
    """
    swap, curve = result["swap"], result["curve"]
    earlier = [row for row in curve if swap - BEFORE <= row[0] < swap]
    later = [row for row in curve if row[0] >= swap]
    before = sum(row[1] for row in earlier) / max(len(earlier), 1)
    reached = [row[1] >= SHARE * before for row in later]
    first = next((k for k in range(len(reached) - HOLD + 1) if all(reached[k : k + HOLD])), None)
    if not earlier or not later:
        return Recovery(before, 0, 0, False)
    steps = (result["end"] if first is None else later[first][0]) - swap
    played = later[-1 if first is None else first][3] - earlier[-1][3]
    return Recovery(before, steps, steps + played, first is not None)


def detection(result: Mapping[str, Any]) -> int | None:
    """Env steps from the change to the change point that the loop recorded; None if it recorded none."""
    found = (steps for kind, steps, *_ in result["events"] if kind == "change_point" and steps > result["swap"])
    return next((steps - result["swap"] for steps in found), None)


def false_alarms(result: Mapping[str, Any]) -> int:
    """Change points that the loop recorded before the change."""
    return sum(kind == "change_point" and steps <= result["swap"] for kind, steps, *_ in result["events"])


def run(spec: Spec) -> str:
    """Plays a run and appends it to the file of results; returns what is said of it.

    Raises:
        RuntimeError: It failed.
    """
    script = HERE / "_swap_replay_run.py"
    played, seconds = _processes.play([sys.executable, str(script), json.dumps(asdict(spec))], HERE.parent)
    result = asdict(spec) | played | {"seconds": seconds}
    _processes.append(RESULTS, result)
    found = recovery(result)
    outcome = f"recovered after {found.steps:,}" if found.recovered else "did not recover"
    return f"{found.before:.0f} before, {outcome}, seen after {detection(result)}, {seconds:.0f} s"


def summary(values: list[float]) -> str:
    """The interquartile mean with its interval."""
    if not values:
        return "-"
    mean = f"{interquartile_mean(values):,.0f}"
    if len({*values}) == 1:
        return mean
    low, high = interval(values)
    return f"{mean} [{low:,.0f}, {high:,.0f}]"


def show(swap: int, end: int) -> None:
    """Prints the table and writes its numbers to ``results/swap_replay.json``."""
    newest = {
        (r["player"], r["seed"]): r for r in _processes.read_lines(RESULTS) if (r["swap"], r["end"]) == (swap, end)
    }
    rows, written, commits = [], {}, set()
    for player in PLAYERS:
        runs = [result for (name, _), result in sorted(newest.items()) if name == player]
        if not runs:
            continue
        commits |= {result["commit"] for result in runs}
        found = [recovery(result) for result in runs]
        seen = [steps for steps in map(detection, runs) if steps is not None]
        count = sum(each.recovered for each in found)
        bound = "" if count == len(found) else ">= "
        rows.append(
            [
                player,
                summary([each.before for each in found]),
                f"{count} of {len(found)}",
                bound + summary([each.steps for each in found]),
                bound + summary([each.all_steps for each in found]),
                "-" if player.startswith((ALONE, TOLD)) else f"{len(seen)} of {len(runs)}",
                summary([float(steps) for steps in seen]),
                str(sum(map(false_alarms, runs))),
            ]
        )
        written[player] = [asdict(each) | {"seen": detection(r)} for each, r in zip(found, runs, strict=True)]
    print(f"\nDQN, actions swapped at {swap:,}: env steps to {SHARE:.0%} of the return before, IQM [95 % interval]")
    header = ["player", "return before", "recovered", "env steps", "with evaluations", "seen", "after", "false"]
    print_table(header, rows)
    print(f"commits: {', '.join(sorted(commits))}")
    write_results("swap_replay", written)


def main() -> None:
    """Runs what was asked for, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--players", nargs="+", choices=PLAYERS, default=list(PLAYERS), metavar="PLAYER")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--swap", type=int, default=SWAP, help="env steps at which the actions swap")
    parser.add_argument("--end", type=int, default=END, help="env steps at which a run ends at the latest")
    parser.add_argument("--workers", type=int, default=2, help="processes at a time")
    parser.add_argument("--any-commit", action="store_true", help="runs of other commits count, too")
    parser.add_argument("--table", action="store_true", help="run nothing, print the table of what was run")
    arguments = parser.parse_args()
    if not BEFORE <= arguments.swap < arguments.end:
        parser.error(f"--swap must be at least {BEFORE:,}, and --end after it")
    failed = 0
    if not arguments.table:
        commit = commit_in_force()
        specs = [
            Spec(player, seed, arguments.swap, arguments.end, commit)
            for seed in range(arguments.seeds)  # whole seeds first: what is cut off can still be compared
            for player in arguments.players
        ]
        specs = missing(specs, _processes.read_lines(RESULTS), any_commit=arguments.any_commit)
        failed = _processes.play_all(specs, run, lambda spec: spec.name, arguments.workers)
    show(arguments.swap, arguments.end)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
