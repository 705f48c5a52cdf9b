"""What the benchmarks share: measuring two rates alternately, and printing and writing what came out."""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Work = Callable[[], int]
"""Does a piece of work and returns how many steps that was."""


def rate(work: Work, seconds: float) -> float:
    """Steps per second of `work`, repeated for at least `seconds`."""
    steps, start, now = 0, time.perf_counter(), 0.0
    while now < seconds:
        steps += work()
        now = time.perf_counter() - start
    return steps / now


def alternate(ours: Work, reference: Work, *, rounds: int, seconds: float) -> list[tuple[float, float]]:
    """Rates of two works, one after the other, so that a machine that slows down slows both."""
    ours(), reference()  # what is made at the first call is not measured
    return [(rate(ours, seconds), rate(reference, seconds)) for _ in range(rounds)]


def interquartile_mean(values: Sequence[float]) -> float:
    """The mean without the lowest and the highest quarter (Agarwal et al. 2021, arXiv 2108.13264)."""
    cut = len(values) // 4
    return statistics.fmean(sorted(values)[cut : len(values) - cut])


def interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % bootstrap percentile interval of the interquartile mean; the runs of one task are one stratum."""
    import scipy.stats  # which the environment with Stable-Baselines3 does not have

    found = scipy.stats.bootstrap(
        (values,),
        lambda sample, axis: scipy.stats.trim_mean(sample, 0.25, axis=axis),
        n_resamples=10_000,
        method="percentile",
        rng=0,
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints columns as wide as what is in them; the first one is left-aligned."""
    widths = [max(len(line[k]) for line in (header, *rows)) for k in range(len(header))]
    for line in (header, *rows):
        others = (cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))
        print("  ".join((line[0].ljust(widths[0]), *others)).rstrip(), flush=True)


def ok(reached: bool) -> str:
    """What a table says of a goal."""
    return "OK" if reached else "short"


def commit_in_force(tree: Path | None = None) -> str:
    """The commit, with a plus sign if files of the library are not as they were then.

    Args:
        tree: Another checkout; None means the one of this file.
    """
    root = Path(__file__).resolve().parents[1] if tree is None else tree

    def git(*arguments: str) -> str:
        # Without locks: somebody may be committing.
        command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    changed = git("status", "--porcelain", "--", "keras_optix")
    return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")


def write_results(name: str, results: Any) -> None:
    """Writes ``results/<name>.json``."""
    directory = Path(__file__).parent / "results"
    directory.mkdir(exist_ok=True)
    (directory / f"{name}.json").write_text(json.dumps(results, indent=1))
