"""Tuning where the answer is known: a synthetic learner, an objective that nothing changes, and PBT's toy.

    make bench-tuning

`tuning_agents.py` does the same on CartPole and Acrobot.
"""

from __future__ import annotations

import statistics
from typing import Any

from _learner import BEST, BOUNDS, Tuner, drive, oracle
from _naive import NaiveOptimizer
from _pbt_toy import run_toy
from _report import interquartile_mean, interval, ok, print_table, write_results

import keras_optix as optix

RUNS = 40
FIRST_SEED = 10_000  # the tuner's defaults were chosen on seeds below
WINDOWS = (200, 300)
DECADES = (0, -1, 1, -2)
FLAT_PROBES = 2000
FLAT_WINDOWS = 1500
WALKS = (0.0, 0.02, 0.08)  # beside a noise of 0.08
TOY_SEEDS = 20

SPACES = {"learning_rate": BOUNDS}
TUNERS: dict[str, Tuner] = {
    "fixed": lambda: None,
    "the page's rule": lambda: NaiveOptimizer(SPACES),
    "ours": lambda: optix.BackoffOptimizer(SPACES),
}


def learner() -> list[dict[str, Any]]:
    """The synthetic learner from several starts: skill as a share of the oracle's."""
    results = []
    for decades in DECADES:
        for name, make in TUNERS.items():
            row: dict[str, Any] = {"start": decades, "tuner": name}
            for windows in WINDOWS:
                outcomes = [drive(make(), BEST * 10.0**decades, windows, FIRST_SEED + k) for k in range(RUNS)]
                shares = [outcome.skill / oracle(windows) for outcome in outcomes]
                row[str(windows)] = {
                    "mean": statistics.fmean(shares),
                    "iqm": interquartile_mean(shares),
                    "interval": interval(shares),
                    "worst": min(shares),
                }
            results.append(row)
    return results


def flat(walk: float) -> dict[str, Any]:
    """How often a probe commits where nothing differs."""
    commits, probes, seed = 0, 0, FIRST_SEED
    while probes < FLAT_PROBES:
        outcome = drive(optix.BackoffOptimizer(SPACES), BEST, FLAT_WINDOWS, seed, learns=False, walk=walk)
        commits += sum(decision.kind != "undecided" for decision in outcome.decisions)
        probes, seed = probes + len(outcome.decisions), seed + 1
    return {"walk": walk, "probes": probes, "commits": commits, "share": commits / probes}


def toy() -> list[dict[str, Any]]:
    """The toy of figure 2 in Jaderberg et al. 2017 (arXiv 1711.09846): the best member's objective."""
    modes = {
        "no exploit, no explore": (False, False),
        "explore only": (False, True),
        "exploit only": (True, False),
        "full PBT": (True, True),
    }
    results = []
    for name, (exploit, explore) in modes.items():
        values = [run_toy(FIRST_SEED + k, exploit=exploit, explore=explore) for k in range(TOY_SEEDS)]
        results.append({"mode": name, "mean": statistics.fmean(values), "low": min(values), "high": max(values)})
    return results


def main() -> None:
    """Prints the three tables and writes them."""
    learned = learner()
    print(f"Synthetic learner, {RUNS} runs each: skill as a share of the oracle's\n")
    rows = []
    for row in learned:
        last = row[str(WINDOWS[-1])]
        first = row[str(WINDOWS[0])]
        low, high = last["interval"]
        goal = {0: 0.95, -1: 0.75, 1: 0.75}.get(row["start"]) if row["tuner"] == "ours" else None
        rows.append(
            [
                f"{row['start']:+d} decades, {row['tuner']}",
                f"{first['mean']:.3f}",
                f"{last['mean']:.3f}",
                f"{last['iqm']:.3f} [{low:.3f}, {high:.3f}]",
                f"{last['worst']:.3f}",
                "" if goal is None else f">= {goal} {ok(last['mean'] >= goal)}",
            ]
        )
    header = ["start", *(f"mean at {windows}" for windows in WINDOWS), f"IQM at {WINDOWS[-1]}", "worst", "goal"]
    print_table(header, rows)

    flats = [flat(walk) for walk in WALKS]
    print("\nAn objective that nothing changes\n")
    rows = [
        [f"random walk {f['walk']:g} a window", str(f["probes"]), str(f["commits"]), f"{f['share']:.1%}", "<= 5 %"]
        for f in flats
    ]
    print_table(["noise 0.08 and", "probes", "commits", "share", "goal"], rows)

    toys = toy()
    goals = {"no exploit, no explore": "0.39", "full PBT": ">= 1.10"}
    print(f"\nPBT's toy, {TOY_SEEDS} seeds, best member (optimum 1.2)\n")
    print_table(
        ["", "mean", "lowest", "highest", "goal"],
        [
            [t["mode"], f"{t['mean']:.3f}", f"{t['low']:.3f}", f"{t['high']:.3f}", goals.get(t["mode"], "")]
            for t in toys
        ],
    )
    write_results("tuning", {"learner": learned, "flat": flats, "toy": toys})


if __name__ == "__main__":
    main()
