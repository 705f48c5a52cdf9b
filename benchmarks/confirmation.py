"""The sequential test that confirms a candidate, on synthetic policies: error rates, power and episodes.

Each simulated candidate is a policy whose true mean lies 0, 0.25, 0.5 or 1 standard deviations of an episode above the
best's. The returns are normal, heavy-tailed (Student's t with 3 degrees of freedom) or those of a lander that crashes
in a tenth of the episodes (two values). The candidate was chosen by an independent evaluation, so its fresh episodes
are unbiased. The same episodes are given to the sequential test, and to today's test with a fixed number of episodes
(`compare` at 95 %): 10, and the most that the sequential test plays.

The constants of the test were chosen with other seeds. The rates have a standard error of at most 0.5 points for 10,000
candidates.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from _report import commit_in_force, print_table, write_results

from keras_optix.statistics.estimates import Estimate, compare
from keras_optix.statistics.levels import LIKELY_Z
from keras_optix.statistics.sequential import Outcome, SequentialTest

DIFFERENCES = (0.0, 0.25, 0.5, 1.0)
KINDS = ("normal", "t3", "crash")
BEST_EPISODES = (10, 40, 160)
CORRELATIONS = (0.0, 0.5, 0.9)
FIRST = 10  # fresh episodes at the first look, and of the small fixed test
MOST = 80
CRASH = 0.1  # share of the episodes
CURED = "no crash"


Rows = list[tuple[tuple[Any, ...], dict[str, float]]]
"""The case of each row, and what was measured."""

Returns = Callable[[tuple[int, ...], np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class Episodes:
    """Returns of many candidates and of the best of each, in standard deviations of an episode of the best.

    Attributes:
        challenger: Shape [candidates, MOST].
        best: Shape [candidates, episodes].
        known: Episodes of the best before the first look.
    """

    challenger: np.ndarray
    best: np.ndarray
    known: int


def returns(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Returns of mean 0 and standard deviation 1."""
    if kind == "normal":
        return rng.standard_normal(shape)
    if kind == "t3":
        return rng.standard_t(3, shape) / math.sqrt(3.0)
    return (CRASH - (rng.random(shape) < CRASH)) / math.sqrt(CRASH * (1.0 - CRASH))


def independent(kind: str, difference: float | str, known: int, candidates: int, rng: np.random.Generator) -> Episodes:
    """Episodes on seeds of their own."""
    best = returns(kind, (candidates, max(known, 2 * MOST)), rng)
    if difference == CURED:  # never crashes, and is otherwise the same
        return Episodes(np.full((candidates, MOST), math.sqrt(CRASH / (1.0 - CRASH))), best, known)
    return Episodes(returns(kind, (candidates, MOST), rng) + float(difference), best, known)


def same_seeds(kind: str, difference: float, correlation: float, candidates: int, rng: np.random.Generator) -> Episodes:
    """Episodes of which those in the same column correlate as given."""
    shape = (candidates, MOST)
    if kind == "crash":  # a share of the seeds ends equally for both
        best = returns(kind, shape, rng)
        challenger = np.where(rng.random(shape) < correlation, best, returns(kind, shape, rng))
    else:
        first, second = rng.standard_normal((2, *shape))
        challenger, best = correlation * first + math.sqrt(1.0 - correlation**2) * second, first
        if kind == "t3":  # the bivariate t, whose two values share their scale
            scale = np.sqrt(3.0 / rng.chisquare(3, shape)) / math.sqrt(3.0)
            challenger, best = challenger * scale, best * scale
    return Episodes(challenger + difference, best, FIRST)


class Growing:
    """Estimates from the first episodes of each candidate, by cumulated sums: `estimate_from_samples`, but fast.

    The first episode is subtracted from all, so that equal episodes have a variance of exactly 0.
    """

    def __init__(self, scores: np.ndarray) -> None:
        self._first = scores[:, 0].tolist()
        centred = scores - scores[:, :1]
        self._sums = np.cumsum(centred, axis=1).tolist()
        self._squares = np.cumsum(centred**2, axis=1).tolist()

    def __call__(self, candidate: int, n: int) -> Estimate:
        """The estimate from the first `n` episodes."""
        total = self._sums[candidate][n - 1]
        variance = max(self._squares[candidate][n - 1] - total * total / n, 0.0) / (n - 1)
        return Estimate(self._first[candidate] + total / n, math.sqrt(variance / n), n)


def sequential(episodes: Episodes, *, replay: bool, paired: bool) -> dict[str, float]:
    """Outcomes of the sequential test, and the episodes that it used."""
    test = SequentialTest(max_episodes=MOST)
    counts = dict.fromkeys(Outcome, 0)
    used = again = pairs_chosen = looks = 0
    challengers, bests, total = Growing(episodes.challenger), Growing(episodes.best), len(episodes.challenger)
    for candidate in range(total):
        state, n, m = test.initial_state(), FIRST, episodes.known
        while True:
            challenger, best = challengers(candidate, n), bests(candidate, m)
            pairs = (episodes.challenger[candidate, :n], episodes.best[candidate, :n]) if paired else None
            state, verdict = test.observe(state, challenger, best, pairs=pairs)
            batch = test.next_batch(challenger, best, paired=paired)
            looks += 1
            pairs_chosen += verdict.paired
            if verdict.outcome is not Outcome.OPEN or batch.challenger == 0:
                break
            n += batch.challenger
            m += batch.best if replay else 0
        counts[verdict.outcome] += 1
        used, again = used + n, again + m - episodes.known
    found = {outcome.name.lower(): count / total for outcome, count in counts.items()}
    return found | {"episodes": used / total, "best again": again / total, "looks paired": pairs_chosen / looks}


def fixed(episodes: Episodes, n: int, *, paired: bool) -> float:
    """Share that passes today's test (Student's paired test for equal seeds) with `n` fresh episodes."""
    if paired:
        scores = Growing(episodes.challenger - episodes.best)
    else:
        scores, bests = Growing(episodes.challenger), Growing(episodes.best)
    total, passed = len(episodes.challenger), 0
    for candidate in range(total):
        reference = Estimate(0.0, 0.0, 1) if paired else bests(candidate, episodes.known)
        passed += compare(scores(candidate, n), reference, "").z > LIKELY_Z
    return passed / total


def crashes(share: float) -> Returns:
    """Two values: a share of the episodes lies far below the others."""
    return lambda shape, rng: (share - (rng.random(shape) < share)) / math.sqrt(share * (1.0 - share))


def log_normal(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """A long tail upwards (skewness 6)."""
    return (rng.lognormal(size=shape) - math.exp(0.5)) / math.sqrt((math.e - 1.0) * math.e)


HARD: dict[str, tuple[Returns, Returns]] = {  # of the challenger and of the best; the mean of each is 0
    "2 % crash": (crashes(0.02), crashes(0.02)),
    "5 % crash": (crashes(0.05), crashes(0.05)),
    "20 % crash": (crashes(0.2), crashes(0.2)),
    "50 % crash": (crashes(0.5), crashes(0.5)),
    "5 % succeed": (lambda shape, rng: -crashes(0.05)(shape, rng), lambda shape, rng: -crashes(0.05)(shape, rng)),
    "20 % succeed": (lambda shape, rng: -crashes(0.2)(shape, rng), lambda shape, rng: -crashes(0.2)(shape, rng)),
    "tail upwards": (log_normal, log_normal),
    "tail downwards": (lambda shape, rng: -log_normal(shape, rng), lambda shape, rng: -log_normal(shape, rng)),
    "3 x noisier": (lambda shape, rng: 3.0 * rng.standard_normal(shape), lambda shape, rng: rng.standard_normal(shape)),
    "3 x steadier": (
        lambda shape, rng: rng.standard_normal(shape) / 3.0,
        lambda shape, rng: rng.standard_normal(shape),
    ),
    "crashes, best never": (crashes(0.1), lambda shape, rng: np.zeros(shape)),
}


def measured(episodes: Episodes, *, replay: bool = False, paired: bool = False) -> dict[str, float]:
    """What a row shows."""
    row = sequential(episodes, replay=replay, paired=paired)
    return row | {f"fixed {n}": fixed(episodes, n, paired=paired) for n in (FIRST, MOST)}


def unpaired_cases() -> Iterator[tuple[str, float | str, int]]:
    """Returns, difference, and episodes behind the best."""
    for kind, known in itertools.product(KINDS, BEST_EPISODES):
        for difference in (*DIFFERENCES, CURED) if kind == "crash" else DIFFERENCES:
            yield kind, difference, known


def table(title: str, names: tuple[str, ...], rows: Rows) -> None:
    """Prints one table."""
    print(f"\n{title}")
    shares = (
        "better",
        "not_better",
        "open",
        "fixed 10",
        f"fixed {MOST}",
        f"fixed {MOST}, best {MOST}",
        "looks paired",
        "better, best again",
    )
    columns = list(rows[0][1])
    cells = [
        [
            " ".join(map(str, case)),
            *(f"{row[name]:.1%}" if name in shares else f"{row[name]:.1f}" for name in columns),
        ]
        for case, row in rows
    ]
    print_table((" / ".join(names), *columns), cells)


def of_independent_episodes(count: int, seed: int, *, replay: bool) -> Rows:
    """The best keeps its score, or plays again where `next_batch` says so."""
    rows: Rows = []
    for number, (kind, difference, known) in enumerate(unpaired_cases()):
        if replay and known >= 2 * MOST:
            continue  # the best needs no more episodes
        episodes = independent(kind, difference, known, count, np.random.default_rng((seed, 0, number)))
        row = measured(episodes, replay=replay)
        if replay:
            row[f"fixed {MOST}, best {MOST}"] = fixed(replace(episodes, known=max(known, MOST)), MOST, paired=False)
        rows.append(((kind, difference, known), row))
    return rows


def of_equal_seeds(count: int, seed: int) -> Rows:
    """The best plays each seed as well."""
    rows: Rows = []
    for number, (kind, correlation, difference) in enumerate(itertools.product(KINDS, CORRELATIONS, DIFFERENCES)):
        episodes = same_seeds(kind, difference, correlation, count, np.random.default_rng((seed, 1, number)))
        rows.append(((kind, correlation, difference), measured(episodes, replay=True, paired=True)))
    return rows


def of_hard_cases(count: int, seed: int) -> Rows:
    """Equal means where few episodes mislead."""
    rows: Rows = []
    for number, ((name, (challenger, best)), known) in enumerate(itertools.product(HARD.items(), BEST_EPISODES)):
        rng = np.random.default_rng((seed, 2, number))
        episodes = Episodes(challenger((count, MOST), rng), best((count, max(known, 2 * MOST)), rng), known)
        again = sequential(episodes, replay=True, paired=False)["better"]
        rows.append(((name, known), measured(episodes) | {"better, best again": again}))
    return rows


TABLES: dict[str, tuple[str, tuple[str, ...], Callable[[int, int], Rows]]] = {
    "independent": (
        "Independent episodes; the best keeps its score",
        ("returns", "difference", "episodes of the best"),
        functools.partial(of_independent_episodes, replay=False),
    ),
    "again": (
        "Independent episodes; the best plays again where that pays",
        ("returns", "difference", "episodes of the best"),
        functools.partial(of_independent_episodes, replay=True),
    ),
    "seeds": (
        "Equal seeds; the best is known from 10 of them and plays the others as well",
        ("returns", "correlation", "difference"),
        of_equal_seeds,
    ),
    "hard": ("Equal means where few episodes mislead", ("returns", "episodes of the best"), of_hard_cases),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=10_000, help="simulated candidates of each row")
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    options = parser.parse_args()
    start, results = time.perf_counter(), {}
    for name in options.tables:
        title, names, rows_of = TABLES[name]
        rows = rows_of(options.candidates, options.seed)
        table(f"{title} ({options.candidates} candidates a row)", names, rows)
        results[name] = [{"case": case, **row} for case, row in rows]
        written = {"commit": commit_in_force(), "options": vars(options), "tables": results}
        write_results(
            "_".join(("confirmation", *(options.tables if len(options.tables) < len(TABLES) else ()))), written
        )
    print(f"\n{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
