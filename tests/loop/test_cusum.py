"""The table of the CUSUM, by simulation, and the scheduler as WATCHDOG against it.

Exact (Brook and Evans 1972), for scores that are standardised with a known mean and a known error, slack k = 0.5: 931
evaluations between false alarms at h = 5, 335 at h = 4. The scheduler has to keep that where mean and error are
estimated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pytest
from drivers import machine

from keras_optix.evaluators.evaluation import Evaluation
from keras_optix.loop.scheduler import LoopEvent
from keras_optix.loop.scheduler_state import LoopState, SchedulerState
from keras_optix.statistics.estimates import Estimate

KNOWN = Estimate(0.0, 0.0, 10**9)
EPISODES = 10
LONGEST = 20_000


def run_length(scores: Iterable[Estimate], best: Estimate, limit: float) -> int:
    """Evaluations of the watchdog until it alarms, or until there are no more scores."""
    scheduler = machine(cusum_limit=limit)
    # No progress was made, so that the margin that is measured in it is 0.
    scheduler.state = SchedulerState(loop_state=LoopState.WATCHDOG, best=best, level=best, baseline=math.inf)
    evaluations = 0
    for score in scores:
        evaluations += 1
        if scheduler.observe(Evaluation(score, evaluations)).event is LoopEvent.DEGRADATION:
            break
    return evaluations


def plain_run_length(scores: Iterable[float], limit: float) -> int:
    cusum, evaluations = 0.0, 0
    for score in scores:
        evaluations += 1
        cusum = max(0.0, cusum - score - 0.5)
        if cusum > limit:
            break
    return evaluations


@pytest.mark.parametrize(("limit", "expected"), [(5.0, 931.0), (4.0, 335.0)])
def test_time_between_false_alarms(limit: float, expected: float) -> None:
    rng = np.random.default_rng(0)
    runs = 4000
    cusum, running, total = np.zeros(runs), np.ones(runs, bool), 0
    for _ in range(LONGEST):
        total += int(running.sum())
        cusum = np.maximum(0.0, cusum - rng.normal(0.0, 1.0, runs) - 0.5)
        running &= cusum <= limit
        if not running.any():
            break
    assert total / runs == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("limit", [5.0, 4.0])
def test_the_watchdog_alarms_when_the_plain_cusum_does(limit: float) -> None:
    """With a best and standard errors that are known, run for run: so the time between false alarms is the same."""
    rng = np.random.default_rng(0)
    for _ in range(25):
        scores = rng.normal(0.0, 1.0, LONGEST).tolist()
        watchdog = run_length((Estimate(score, 1.0, 1) for score in scores), KNOWN, limit)
        assert watchdog == plain_run_length(scores, limit)


@pytest.mark.parametrize(("drop", "expected"), [(1.0, 10.5), (2.0, 4.0), (3.0, 2.6)])
def test_delay_until_a_drop_is_seen(drop: float, expected: float) -> None:
    rng = np.random.default_rng(0)
    delays = []
    for _ in range(400):
        scores = (Estimate(score, 1.0, 1) for score in rng.normal(-drop, 1.0, 300).tolist())
        delays.append(run_length(scores, KNOWN, 5.0))
    assert np.mean(delays) == pytest.approx(expected, rel=0.1)


def known_error(noise: np.ndarray, rng: np.random.Generator) -> Iterator[Estimate]:
    return (Estimate(score, 1.0, 1) for score in noise.tolist())


def error_of_ten_episodes(noise: np.ndarray, rng: np.random.Generator) -> Iterator[Estimate]:
    """What `ReturnEvaluator` gives: the standard error is that of these ten episodes."""
    variances = rng.chisquare(EPISODES - 1, noise.size) / (EPISODES - 1)
    return (
        Estimate(score, math.sqrt(variance), EPISODES)
        for score, variance in zip(noise.tolist(), variances.tolist(), strict=True)
    )


def unknown_error(noise: np.ndarray, rng: np.random.Generator) -> Iterator[Estimate]:
    return (Estimate(score, math.inf, 1) for score in noise.tolist())


@pytest.mark.parametrize(
    ("make", "runs"),
    [(known_error, 100), (error_of_ten_episodes, 100), (unknown_error, 40)],
    ids=["known", "of ten episodes", "unknown"],
)
def test_false_alarms_are_as_rare_where_the_best_is_one_noisy_score(
    make: Callable[[np.ndarray, np.random.Generator], Iterator[Estimate]], runs: int
) -> None:
    """At h = 4, for speed. With z for Student's t, ten episodes would have a false alarm in about 140 evaluations."""
    rng = np.random.default_rng(0)
    lengths = []
    for _ in range(runs):
        scores = make(rng.normal(0.0, 1.0, 4000), rng)
        lengths.append(run_length(scores, best=next(scores), limit=4.0))
    assert 230 < np.mean(lengths) < 500


@pytest.mark.parametrize(("drop", "at_most"), [(1.0, 14), (2.0, 5), (3.0, 3)])
def test_a_drop_is_seen_as_fast_once_the_level_is_learned(drop: float, at_most: int) -> None:
    """The best is one noisy score; 50 evaluations later the level is known well."""
    rng = np.random.default_rng(0)
    lengths = []
    for _ in range(200):
        noise = rng.normal(0.0, 1.0, 400)
        noise[51:] -= drop
        scores = error_of_ten_episodes(noise, rng)
        lengths.append(run_length(scores, best=next(scores), limit=5.0))
    delays = [length - 50 for length in lengths if length > 50]
    assert len(delays) >= 180  # the others are false alarms
    assert np.median(delays) <= at_most
