"""The tables of `loop.py` about run lengths, with a level that is known, or that is estimated from few scores.

One sum is that of `BackoffScheduler` as WATCHDOG; two are those of `Watch`, which looks at the scores of training
windows between two evaluations.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence

import numpy as np
from _run_lengths import SLACK, average_run_length, run_lengths

from keras_optix.evaluators.evaluation import Evaluation
from keras_optix.loop.scheduler import BackoffScheduler, LoopEvent
from keras_optix.loop.scheduler_state import LoopState, SchedulerState
from keras_optix.statistics.estimates import Estimate, pool
from keras_optix.statistics.watch import Alarm, Watch, WatchState

EPISODES = 10  # in a score
NUMBERS = (10, 20, 50, 100)  # scores from which mean and deviation are estimated
LONGEST = 20_000  # scores
EARLY = 100  # scores
MOVES = (0.5, 1.0, 2.0, 3.0)  # standard errors of a score
ONE_SUM = ["level and deviation", "h", "average", "median", f"alarm in {EARLY}"]
TWO_SUMS = ["level", "average", "median", f"up in {EARLY}", f"down in {EARLY}"]
DELAYS = ["level", *(f"drop {move:g}" for move in MOVES), *(f"rise {move:g}" for move in MOVES)]


def scores(rng: np.random.Generator, number: int, move: float = 0.0) -> Iterator[Estimate]:
    """Scores of ten normal episodes; their standard error is 1 on average, and estimated from the episodes."""
    means = rng.normal(move, 1.0, number).tolist()
    variances = (rng.chisquare(EPISODES - 1, number) / (EPISODES - 1)).tolist()
    return (Estimate(mean, math.sqrt(variance), EPISODES) for mean, variance in zip(means, variances, strict=True))


def share(found: Sequence[bool] | np.ndarray) -> str:
    """A share with its standard error."""
    mean = float(np.mean(found))
    return f"{mean:.1%} ± {100.0 * math.sqrt(mean * (1.0 - mean) / len(found)):.1f}"


def average(lengths: np.ndarray) -> str:
    """A mean with its standard error; a bound if some runs had no alarm."""
    bound = ">= " if (lengths >= LONGEST).any() else ""
    return f"{bound}{lengths.mean():,.0f} ± {lengths.std() / math.sqrt(len(lengths)):,.0f}"


# One sum


def plain_lengths(limit: float, runs: int, estimated_from: int | None) -> np.ndarray:
    """Run lengths of the plain CUSUM, all runs at once."""
    rng = np.random.default_rng(0)
    mean, deviation = np.zeros(runs), np.ones(runs)
    if estimated_from is not None:
        first = rng.normal(0.0, 1.0, (runs, estimated_from))
        mean, deviation = first.mean(axis=1), first.std(axis=1, ddof=1)
    cusum, lengths = np.zeros(runs), np.full(runs, LONGEST)
    running = np.arange(runs)
    for length in range(1, LONGEST):
        z = (rng.normal(0.0, 1.0, len(running)) - mean[running]) / deviation[running]
        cusum[running] = np.maximum(0.0, cusum[running] + z - SLACK)
        over = cusum[running] > limit
        lengths[running[over]] = length
        running = running[~over]
        if not len(running):
            break
    return lengths


def watchdog_lengths(limit: float, runs: int, estimated_from: int) -> np.ndarray:
    """Run lengths of the WATCHDOG whose best is known from some scores."""
    rng = np.random.default_rng(0)
    scheduler = BackoffScheduler(cusum_slack=SLACK, cusum_limit=limit)
    lengths = []
    for _ in range(runs):
        best = functools.reduce(pool, scores(rng, estimated_from))
        # No progress was made, so that the margin that is measured in it is 0.
        state = SchedulerState(loop_state=LoopState.WATCHDOG, best=best, level=best, baseline=math.inf)
        length = 0
        for score in scores(rng, LONGEST):
            length += 1
            state, decision = scheduler.observe(state, Evaluation(score, length))
            if decision.event is LoopEvent.DEGRADATION:
                break
        lengths.append(length)
    return np.array(lengths)


def one_sum(runs: int) -> Iterator[list[str]]:
    """Lines of the table of one sum: what is exact, then by simulation, then the WATCHDOG."""
    for limit in (5.0, 4.0):
        for number in (None, *NUMBERS):
            name = "known" if number is None else f"of {number} scores, then fixed"
            median, within = run_lengths(limit, number)
            # With estimates, the expectation is dominated by rare ones with which there is almost never an alarm.
            exact_average = f"{average_run_length(limit):,.1f}" if number is None else "-"
            yield [f"{name}: exact", f"{limit:g}", exact_average, f"{median:,.0f}", f"{within:.1%}"]
            found = plain_lengths(limit, 10 * runs, number)
            cells = [average(found), f"{np.median(found):,.0f}", share(found <= EARLY)]
            yield [f"{name}: simulated", f"{limit:g}", *cells]
        for number in (1, *NUMBERS):
            found = watchdog_lengths(limit, runs // 2, number)
            cells = [average(found), f"{np.median(found):,.0f}", share(found <= EARLY)]
            yield [f"WATCHDOG, best of {number} x {EPISODES} episodes", f"{limit:g}", *cells]


# Two sums


def started(watch: Watch, rng: np.random.Generator, number: int) -> WatchState:
    """The state after an evaluation that followed some scores without an alarm."""
    while True:
        state = watch.initial_state()
        for score in scores(rng, number):
            state, alarm = watch.observe(state, score)
            if alarm is not None:
                break
        else:
            return watch.restart(state)


def watch_length(
    watch: Watch, state: WatchState, given: Iterator[Estimate], side: Alarm | None
) -> tuple[int, Alarm | None]:
    """Scores until an alarm (of a side, if one is given), or all of them and None."""
    length = 0
    for score in given:
        length += 1
        state, alarm = watch.observe(state, score)
        if alarm is not None and side in (None, alarm[0]):
            return length, alarm[0]
    return length, None


def levels() -> Iterator[tuple[str, Watch, int]]:
    """Name, watch and number of scores before the evaluation."""
    default = Watch()
    for number in (1, 2, 5, default.lag):
        yield f"{number * EPISODES} episodes", default, number
    for number in NUMBERS[1:]:
        yield f"{number * EPISODES:,} episodes (lag {number})", Watch(lag=number), number


def two_sums_still(runs: int) -> Iterator[list[str]]:
    """Lines of the table of `Watch` while nothing moves."""
    watch = Watch()
    up, down = run_lengths(watch.up_limit), run_lengths(watch.down_limit)
    # The rates of the two sides add up, because at most one of two sums is far from 0.
    both = 1.0 / (1.0 / average_run_length(watch.up_limit) + 1.0 / average_run_length(watch.down_limit))
    yield ["known: exact", f"{both:,.0f}", "-", f"{up.within:.1%}", f"{down.within:.1%}"]
    for name, watch, number in levels():
        rng = np.random.default_rng(0)
        found = [watch_length(watch, started(watch, rng, number), scores(rng, LONGEST), None) for _ in range(runs)]
        lengths = np.array([length for length, _ in found])
        sides = [[length <= EARLY and side is each for length, side in found] for each in (Alarm.UP, Alarm.DOWN)]
        yield [name, average(lengths), f"{np.median(lengths):,.0f}", *map(share, sides)]


def two_sums_moved(runs: int) -> Iterator[list[str]]:
    """Lines of the table of `Watch` after a move: median delays, and the shares that are not seen in `EARLY` scores."""
    watch = Watch()
    falls, rises = ([average_run_length(limit, move) for move in MOVES] for limit in (watch.down_limit, watch.up_limit))
    yield ["known: exact averages", *(f"{delay:.1f}" for delay in (*falls, *rises))]
    for name, watch, number in levels():
        cells = []
        for side, sign in ((Alarm.DOWN, -1.0), (Alarm.UP, 1.0)):
            for move in MOVES:
                rng = np.random.default_rng(1)
                found = [
                    watch_length(watch, started(watch, rng, number), scores(rng, EARLY, sign * move), side)
                    for _ in range(runs)
                ]
                unseen = sum(alarm is None for _, alarm in found) / len(found)
                cells.append(f"{np.median([length for length, _ in found]):g} ({unseen:.0%})")
        yield [name, *cells]
