"""A week of simulated life: a live run on a scripted clock, with faults drawn from a seed.

The feed reader, windows, loop, registry, resume points and lease are those of the package; the clock, the feed and
the disk are simulated, and the agent is a toy whose weights are one number (`_life_world.py`). After each event it is
checked what must hold (`_life.py`). A seed gives the same life again: `--seed N --days D` replays a violation.

python benchmarks/simulated_life.py [--seed 0] [--seeds 1] [--days 7] [--quiet]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from _report import print_table, write_results

sys.path.append(str(Path(__file__).resolve().parents[1]))

from _life import Life, report


def lived(seed: int, days: float, *, quiet: bool) -> dict[str, Any]:
    """One life in numbers."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        say = (lambda line: None) if quiet else (lambda line: print(f"seed {seed}, {line}", flush=True))
        life = Life(Path(folder), seed, say=say).live(days)
    found = {**report(life), "seconds": round(time.perf_counter() - began, 1)}
    print(f"seed {seed}: {found['days']} days in {found['seconds']} s; {life.lines[-1]}", flush=True)
    return found


def main() -> None:
    """Runs the lives and prints what happened."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, default=1, help="number of lives")
    parser.add_argument("--days", type=float, default=7.0)
    parser.add_argument("--quiet", action="store_true", help="do not print violations when they happen")
    parser.add_argument("--output", type=Path, help="a JSON file for the numbers")
    arguments = parser.parse_args()
    seeds = range(arguments.seed, arguments.seed + arguments.seeds)
    lives = [lived(seed, arguments.days, quiet=arguments.quiet) for seed in seeds]

    def total(name: str) -> Counter[str]:
        return sum((Counter(life[name]) for life in lives), Counter())

    for name in ("events by kind", "faults by kind", "ends"):
        print()
        print_table((name, "number"), [(kind, f"{count:,}") for kind, count in total(name).most_common()])
    violations = [f"seed {life['seed']}, {line}" for life in lives for line in life["violations"]]
    events, faults = sum(life["events"] for life in lives), sum(life["faults"] for life in lives)
    processes = sum(life["processes"] for life in lives)
    print(f"\n{events:,} events, {faults:,} faults, {processes:,} processes, {len(violations)} violations")
    for line in violations:
        print(line)
    if arguments.output is not None:
        write_results(arguments.output, {"lives": lives})
    sys.exit(1 if violations else 0)


if __name__ == "__main__":
    main()
