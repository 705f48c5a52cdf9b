"""Tuning where the answer is known: a synthetic learner, an objective that nothing changes, and PBT's toy.

    make bench-tuning
    python benchmarks/tuning.py [learner] [hard] [family] [flat] [toy]

`tuning_agents.py` does the same on CartPole and Acrobot.
"""

from __future__ import annotations

import statistics
import sys
from typing import Any

import numpy as np
from _learner import BEST, BOUNDS, HARD, PLAIN, Learner, Tuner, draw, drive
from _naive import NaiveOptimizer
from _pbt_toy import run_toy
from _report import interquartile_mean, interval, ok, print_table, write_results

import keras_optix as optix

RUNS = 40
FIRST_SEED = 50_000  # the tuner's defaults were chosen on seeds below
WINDOWS = (200, 300)
DECADES = (0, -1, 1, -2)
HARD_WINDOWS = 300
FAMILY, FAMILY_SEED = 150, 60_000
FAMILY_DECADES = (0, -1, 1)
LOST = 0.1  # a fixed learning rate with less skill than this is one that has nothing to lose
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
                shares = [outcome.skill / PLAIN.fixed(windows) for outcome in outcomes]
                row[str(windows)] = {
                    "mean": statistics.fmean(shares),
                    "iqm": interquartile_mean(shares),
                    "interval": interval(shares),
                    "worst": min(shares),
                }
            results.append(row)
    return results


def hard() -> list[dict[str, Any]]:
    """What makes tuning hard: skill as a share of that of the best learning rate, fixed."""
    results = []
    for name, learner in HARD.items():
        fixed = learner.fixed(HARD_WINDOWS)
        for decades in FAMILY_DECADES:
            start = BEST * 10.0**decades
            outcomes = [
                drive(TUNERS["ours"](), start, HARD_WINDOWS, FIRST_SEED + k, learner).skill for k in range(RUNS)
            ]
            results.append(
                {
                    "learner": name,
                    "start": decades,
                    "fixed best": fixed,
                    "fixed start": learner.fixed(HARD_WINDOWS, start),
                    "mean": statistics.fmean(outcomes),
                    "worst": min(outcomes),
                }
            )
    return results


def family() -> list[dict[str, Any]]:
    """Learners that are drawn at random: skill as a share of that of the best, and of that of the same start, fixed."""
    rng = np.random.default_rng(FAMILY_SEED)
    draws = [draw(rng) for _ in range(FAMILY)]
    results = []
    for decades in FAMILY_DECADES:
        start = BEST * 10.0**decades
        for k, (learner, windows) in enumerate(draws):
            outcome = drive(TUNERS["ours"](), start, windows, FAMILY_SEED + k, learner)
            best, fixed = learner.fixed(windows), learner.fixed(windows, start)
            results.append(
                {
                    "start": decades,
                    "skill": outcome.skill,
                    "fixed best": best,
                    "fixed start": fixed,
                    "noise": learner.noise,
                }
            )
    return results


def print_hard(results: list[dict[str, Any]]) -> None:
    """Prints a row for each learner and start."""
    print(f"\nLearners that are hard to tune, {RUNS} runs each of {HARD_WINDOWS} windows\n")
    rows = []
    for result in results:
        best, goal = result["fixed best"], 0.95 if result["start"] == 0 else 0.80
        row = [f"{result['learner']}, {result['start']:+d} decades"]
        row += [f"{result[name]:.3f}" for name in ("fixed best", "fixed start", "mean", "worst")]
        if best >= LOST:
            share = result["mean"] / best
            row += [f"{share:.3f}", f">= {goal} {ok(share >= goal)}"]
        rows.append(row + [""] * (7 - len(row)))
    print_table(["", "best fixed", "start fixed", "ours", "worst", "share", "goal"], rows)


def print_family(results: list[dict[str, Any]]) -> None:
    """Prints quantiles over the drawn learners."""
    print(f"\n{FAMILY} learners drawn at random; shares of the skill of a fixed learning rate where it is >= {LOST}\n")
    rows = []
    for decades in FAMILY_DECADES:
        mine = [result for result in results if result["start"] == decades]
        for name in ("fixed best", "fixed start"):
            shares = [result["skill"] / result[name] for result in mine if result[name] >= LOST]
            quantiles = [f"{quantile:.2f}" for quantile in np.quantile(shares, (0.0, 0.05, 0.25, 0.5, 0.95))]
            worse, better = np.mean(np.less(shares, 0.95)), np.mean(np.greater(shares, 1.05))
            rows.append(
                [f"{decades:+d} decades, of {name}", str(len(shares)), *quantiles, f"{worse:.0%}", f"{better:.0%}"]
            )
        lost = [result["skill"] for result in mine if result["fixed start"] < LOST]
        rescued = np.mean(np.greater(lost, 0.5)) if lost else 0.0
        rows.append(
            [f"{decades:+d} decades, the start learns nothing", str(len(lost)), *[""] * 6, f"{rescued:.0%} > 0.5"]
        )
    print_table(["", "n", "worst", "5 %", "25 %", "50 %", "95 %", "< 0.95", "> 1.05"], rows)


def flat(walk: float) -> dict[str, Any]:
    """How often a probe commits where nothing differs."""
    commits, probes, seed = 0, 0, FIRST_SEED
    while probes < FLAT_PROBES:
        outcome = drive(optix.BackoffOptimizer(SPACES), BEST, FLAT_WINDOWS, seed, Learner(learns=False, walk=walk))
        commits += sum(decision.kind in ("commit", "reverse") for decision in outcome.decisions)
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


def print_learner(learned: list[dict[str, Any]]) -> None:
    """Prints a row for each start and tuner."""
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


def print_flat(flats: list[dict[str, Any]]) -> None:
    """Prints a row for each walk."""
    print("\nAn objective that nothing changes\n")
    rows = [
        [f"random walk {f['walk']:g} a window", str(f["probes"]), str(f["commits"]), f"{f['share']:.1%}", "<= 5 %"]
        for f in flats
    ]
    print_table(["noise 0.08 and", "probes", "commits", "share", "goal"], rows)


def print_toy(toys: list[dict[str, Any]]) -> None:
    """Prints a row for each mode."""
    goals = {"no exploit, no explore": "0.39", "full PBT": ">= 1.10"}
    print(f"\nPBT's toy, {TOY_SEEDS} seeds, best member (optimum 1.2)\n")
    print_table(
        ["", "mean", "lowest", "highest", "goal"],
        [
            [t["mode"], f"{t['mean']:.3f}", f"{t['low']:.3f}", f"{t['high']:.3f}", goals.get(t["mode"], "")]
            for t in toys
        ],
    )


PARTS = {
    "learner": (learner, print_learner),
    "hard": (hard, print_hard),
    "family": (family, print_family),
    "flat": (lambda: [flat(walk) for walk in WALKS], print_flat),
    "toy": (toy, print_toy),
}


def main(parts: list[str]) -> None:
    """Prints the tables and writes them."""
    results = {}
    for name in parts or PARTS:
        make, show = PARTS[name]
        results[name] = make()
        show(results[name])
    write_results("tuning", results)


if __name__ == "__main__":
    main(sys.argv[1:])
