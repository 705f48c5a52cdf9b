"""The state machine: each arrow by hand, then the ways in which the original goes wrong."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_optix.control.evidence import Estimate
from keras_optix.control.scheduler import (
    BackoffScheduler,
    Decision,
    Evaluation,
    LoopEvent,
    LoopState,
    SchedulerState,
)
from keras_optix.errors import ConfigurationError, NonFiniteError, StateError

BEST = Estimate(100.0, 1.0, 10)


def scheduler_in(**state: object) -> BackoffScheduler:
    scheduler = BackoffScheduler(plateau_threshold=3, dormant_threshold=6)
    base = SchedulerState(best=BEST, level=BEST, baseline=0.0, since_best=1, since_active=1)
    scheduler.state = dataclasses.replace(base, **state)
    return scheduler


def score(mean: float, stderr: float = 1.0, n: int = 10, window: int = 1) -> Evaluation:
    return Evaluation(Estimate(mean, stderr, n), window)


ACTIVE, COOLING, DORMANT, WATCHDOG = LoopState.ACTIVE, LoopState.COOLING, LoopState.DORMANT, LoopState.WATCHDOG


@pytest.mark.parametrize(
    ("state", "mean", "event", "after"),
    [
        ({}, 100.0, LoopEvent.NONE, ACTIVE),
        ({}, 102.0, LoopEvent.NONE, ACTIVE),  # 1.4 standard errors: noise
        ({}, 103.0, LoopEvent.CANDIDATE, ACTIVE),  # 2.1 standard errors
        ({"since_active": 1}, 100.0, LoopEvent.NONE, ACTIVE),
        ({"since_active": 2}, 100.0, LoopEvent.PLATEAU, COOLING),
        ({"loop_state": COOLING, "since_active": 3}, 100.0, LoopEvent.NONE, COOLING),
        ({"loop_state": COOLING, "since_active": 3}, 103.0, LoopEvent.CANDIDATE, COOLING),
        ({"loop_state": COOLING, "since_best": 4, "since_active": 4}, 100.0, LoopEvent.NONE, COOLING),
        ({"loop_state": COOLING, "since_best": 5, "since_active": 5}, 100.0, LoopEvent.DORMANT, DORMANT),
        ({}, 94.0, LoopEvent.NONE, ACTIVE),  # 95 % of the progress from 0 is 95, and 1 below is noise
        ({}, 80.0, LoopEvent.DEGRADATION, ACTIVE),
        ({"loop_state": COOLING, "since_active": 3}, 80.0, LoopEvent.DEGRADATION, ACTIVE),
        ({"cusum": 4.9}, 93.0, LoopEvent.DEGRADATION, ACTIVE),  # a small drop, once more
        ({"loop_state": WATCHDOG}, 103.0, LoopEvent.NONE, WATCHDOG),
        ({"loop_state": WATCHDOG}, 80.0, LoopEvent.DEGRADATION, ACTIVE),
    ],
)
def test_every_arrow(state: dict[str, object], mean: float, event: LoopEvent, after: LoopState) -> None:
    scheduler = scheduler_in(**state)
    decision = scheduler.observe(score(mean))
    assert (decision.event, decision.after) == (event, after)
    assert scheduler.loop_state is after


def test_a_candidate_is_crowned_only_by_a_second_evaluation() -> None:
    scheduler = scheduler_in(loop_state=COOLING, interval=8.0)
    assert scheduler.observe(score(110.0)).event is LoopEvent.CANDIDATE
    with pytest.raises(StateError, match="waits for `confirm`"):
        scheduler.observe(score(110.0))
    (decision,) = scheduler.confirm(score(108.0))
    assert decision.event is LoopEvent.IMPROVEMENT
    assert decision.evidence.difference == 8.0
    assert scheduler.state.best == Estimate(108.0, 1.0, 10)
    assert (scheduler.loop_state, scheduler.state.interval) == (ACTIVE, 1.0)
    with pytest.raises(StateError, match="no candidate"):
        scheduler.confirm(score(108.0))


def test_a_candidate_that_was_noise_is_rejected_and_counts_as_no_improvement() -> None:
    scheduler = scheduler_in(since_active=2)
    scheduler.observe(score(110.0))
    decisions = scheduler.confirm(score(100.5))
    assert [d.event for d in decisions] == [LoopEvent.REJECTED, LoopEvent.PLATEAU]
    assert scheduler.state.best == BEST


def test_the_first_best_needs_a_confirmation_too() -> None:
    scheduler = BackoffScheduler()
    assert scheduler.observe(score(5.0)).event is LoopEvent.CANDIDATE
    assert scheduler.confirm(score(4.0))[0].event is LoopEvent.IMPROVEMENT
    assert scheduler.state.best == Estimate(4.0, 1.0, 10)


def test_the_interval_grows_also_by_a_fraction_and_up_to_its_maximum() -> None:
    scheduler = BackoffScheduler(backoff_factor=1.4, max_interval=3, plateau_threshold=1, dormant_threshold=50)
    scheduler.state = dataclasses.replace(scheduler.state, best=BEST, level=BEST, baseline=0.0)
    window, gaps = 0, []
    for _ in range(8):
        start = window
        while not scheduler.due(window):
            window += 1
        gaps.append(window - start)
        scheduler.observe(score(100.0, window=window))
    assert gaps == [0, 2, 2, 3, 3, 3, 3, 3]
    assert scheduler.state.interval == 3.0


def test_the_interval_counts_from_the_last_evaluation() -> None:
    scheduler = scheduler_in(last_window=10, interval=4.0)
    assert [scheduler.due(window) for window in (11, 13, 14, 99)] == [False, False, True, True]


def test_watch_follows_dormant_only_and_a_degradation_there_begins_a_new_era() -> None:
    scheduler = scheduler_in(loop_state=DORMANT)
    assert scheduler.watch().after is WATCHDOG
    with pytest.raises(StateError, match="DORMANT"):
        scheduler.watch()
    assert scheduler.observe(score(100.0)).event is LoopEvent.NONE
    decision = scheduler.observe(score(60.0))
    assert (decision.event, decision.before, decision.after) == (LoopEvent.DEGRADATION, WATCHDOG, ACTIVE)
    assert scheduler.state.era == 1
    assert scheduler.state.best is None


def test_state_survives_json() -> None:
    scheduler = BackoffScheduler()
    for k, mean in enumerate([5.0, 6.0, 5.5, 7.0, 3.0]):
        if scheduler.observe(score(mean, window=k)).event is LoopEvent.CANDIDATE:
            scheduler.confirm(score(mean, window=k))
    restored = SchedulerState.from_json(json.loads(json.dumps(scheduler.state.to_json())))
    assert restored == scheduler.state


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_is_refused_by_name(bad: float) -> None:
    with pytest.raises(NonFiniteError, match="must be finite"):
        BackoffScheduler().observe(score(bad))


@pytest.mark.parametrize(
    "options",
    [
        {"base_interval": 0},
        {"base_interval": True},
        {"backoff_factor": 1.0},
        {"max_interval": 0},
        {"base_interval": 5, "max_interval": 4},
        {"plateau_threshold": 0},
        {"plateau_threshold": 20},
        {"dormant_threshold": 5},
        {"degradation_threshold": 1.1},
        {"improvement_margin": -0.1},
        {"confidence": 0.8},
        {"cusum_limit": 0.0},
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match="Received: "):
        BackoffScheduler(**options)


def run(scores: np.ndarray, scheduler: BackoffScheduler, again: Callable[[int], float]) -> list[Decision]:
    """Drives a loop of one evaluation per window without known errors, until DORMANT."""
    decisions = []
    for k, mean in enumerate(scores):
        if scheduler.loop_state is DORMANT:
            break
        decision = scheduler.observe(Evaluation(Estimate(float(mean), math.inf, 1), k))
        decisions.append(decision)
        if decision.event is LoopEvent.CANDIDATE:
            decisions += scheduler.confirm(Evaluation(Estimate(again(k), math.inf, 1), k))
    return decisions


def count(decisions: list[Decision], event: LoopEvent) -> int:
    return sum(decision.event is event for decision in decisions)


@pytest.mark.parametrize("seed", range(10))
def test_flat_scores_with_noise_reach_dormant_without_false_degradations(seed: int) -> None:
    """True score 1000, 5 % noise. The original: more than 500 'degradations' in 599 windows, never DORMANT."""
    rng = np.random.default_rng(seed)
    scheduler = BackoffScheduler()
    decisions = run(rng.normal(1000.0, 50.0, 599), scheduler, lambda k: float(rng.normal(1000.0, 50.0)))
    assert scheduler.loop_state is DORMANT
    assert count(decisions, LoopEvent.DEGRADATION) <= 1


@pytest.mark.parametrize("slope", [0.001, 1.0, 50.0])
def test_a_noise_free_straight_improvement_is_never_dormant(slope: float) -> None:
    """The original declares it DORMANT at window 30."""
    scheduler = BackoffScheduler()
    run(slope * np.arange(300.0) - 160.0, scheduler, lambda k: slope * k - 160.0)
    assert scheduler.loop_state is ACTIVE
    assert scheduler.state.best is not None
    assert scheduler.state.best.mean == pytest.approx(slope * 299 - 160.0)


def test_degradations_on_the_way_do_not_put_dormant_off() -> None:
    scheduler = BackoffScheduler()
    scores = np.tile([1000.0] * 6 + [100.0], 60)
    decisions = run(scores, scheduler, lambda k: float(scores[k]))
    assert count(decisions, LoopEvent.DEGRADATION) >= 1
    assert scheduler.loop_state is DORMANT


@settings(deadline=None, max_examples=30)
@given(st.floats(-1e4, 1e4), st.floats(0.01, 1e3), st.integers(0, 50))
def test_shifting_and_scaling_all_scores_changes_no_decision(shift: float, scale: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    means = np.concatenate([np.linspace(0, 20, 40), np.full(30, 20.0), np.full(20, 5.0)]) + rng.normal(0, 1, 90)
    noise = rng.normal(0, 1, 90)

    def events(a: float, b: float) -> list[LoopEvent]:
        # Two decimals: the same numbers up to rounding, far from any threshold by chance.
        values = a + b * np.round(means, 2)
        second = a + b * np.round(means + noise, 2)
        return [d.event for d in run(values, BackoffScheduler(), lambda k: float(second[k]))]

    assert events(shift, scale) == events(0.0, 1.0)


def cusum_run_length(drop: float, seed: int) -> int:
    """Evaluations of the watchdog until it alarms, with a drop of `drop` sd from the start; at most 5000."""
    rng = np.random.default_rng(seed)
    scheduler = BackoffScheduler()
    # The level is well known: 100 evaluations of standard error 1.
    scheduler.state = SchedulerState(
        loop_state=WATCHDOG, best=Estimate(0.0, 0.1, 1000), level=Estimate(0.0, 0.1, 1000), baseline=0.0
    )
    for k in range(5000):
        if scheduler.observe(score(float(rng.normal(-drop, 1.0)), 1.0, 10, k)).event is LoopEvent.DEGRADATION:
            return k + 1
    return 5000


def test_cusum_run_lengths() -> None:
    """Its table: about 900 evaluations between false alarms; drops of 1, 2, 3 sd are seen after about 10, 4, 3."""
    lengths = {drop: np.mean([cusum_run_length(drop, seed) for seed in range(60)]) for drop in (0.0, 1.0, 2.0, 3.0)}
    assert lengths[0.0] > 500
    assert lengths[1.0] < 14
    assert lengths[2.0] < 5
    assert lengths[3.0] < 3.5


@pytest.mark.parametrize(
    ("best", "mean", "stderr", "doubts"),
    [
        (Estimate(477.0, 16.5, 10), 500.0, 0.0, True),  # the ceiling of CartPole: 1.4 standard errors of the best
        (Estimate(477.0, 10.0, 10), 500.0, 0.0, False),  # 2.3: a candidate already
        (Estimate(477.0, 16.5, 10), 480.0, 16.0, False),  # the score itself is no better known
        (Estimate(477.0, 16.5, 10), 470.0, 0.0, False),  # below
        (Estimate(477.0, 0.0, 10), 500.0, 5.0, False),  # the best is known exactly
    ],
)
def test_a_best_that_is_badly_known_is_doubted(best: Estimate, mean: float, stderr: float, doubts: bool) -> None:
    scheduler = scheduler_in(best=best, level=best)
    assert scheduler.doubts_best(Estimate(mean, stderr, 10)) is doubts
    assert not scheduler_in(best=best, loop_state=WATCHDOG).doubts_best(Estimate(mean, stderr, 10))
    assert not BackoffScheduler().doubts_best(Estimate(mean, stderr, 10))


def test_evaluating_the_best_again_settles_it() -> None:
    scheduler = scheduler_in(best=Estimate(477.0, 16.5, 10), level=Estimate(477.0, 16.5, 10))
    evidence = scheduler.reassess(score(470.0, 15.0))
    assert evidence.difference == -7.0
    best = scheduler.state.best
    assert best is not None
    assert (best.mean, best.n) == (473.5, 20)
    assert best.stderr < 12.0
    assert scheduler.observe(score(500.0, 0.0)).event is LoopEvent.CANDIDATE
    with pytest.raises(StateError, match="no best"):
        BackoffScheduler().reassess(score(1.0))


def test_a_noisy_best_is_not_replaced_more_often_for_being_doubted() -> None:
    """Equal weights, scores of sd 1: at 95 % a candidate is one evaluation in twenty, with doubts or without."""
    rng = np.random.default_rng(0)
    candidates = evaluations = 0
    for _ in range(300):
        samples = rng.normal(0.0, 1.0, 10)
        first = Estimate(float(samples.mean()), float(samples.std(ddof=1) / math.sqrt(10)), 10)
        scheduler = scheduler_in(best=first, level=first, baseline=-100.0)
        scheduler.dormant_threshold = 10**6
        for window in range(4):
            samples = rng.normal(0.0, 1.0, 10)
            seen = score(float(samples.mean()), float(samples.std(ddof=1) / math.sqrt(10)), window=window)
            if scheduler.doubts_best(seen.score):
                again = rng.normal(0.0, 1.0, 10)
                scheduler.reassess(score(float(again.mean()), float(again.std(ddof=1) / math.sqrt(10))))
            evaluations += 1
            if scheduler.observe(seen).event is LoopEvent.CANDIDATE:
                candidates += 1
                break
    assert candidates / evaluations < 0.1
