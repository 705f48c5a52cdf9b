"""Shifting and scaling all scores changes no decision: properties of the whole scheduler.

Scores are whole numbers, factors are powers of two and shifts are whole, so that the mapped scores are exact, and no
comparison is decided by the rounding of its inputs.
"""

from __future__ import annotations

import math

import pytest
from drivers import machine
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_optix.evaluators.evaluation import Evaluation
from keras_optix.loop.scheduler import Decision, LoopEvent
from keras_optix.loop.scheduler_state import LoopState
from keras_optix.statistics.estimates import Estimate

SCORES = st.integers(-50, 50)
PAIRS = st.tuples(SCORES, SCORES)  # an evaluation, and the second one of the same weights
# Phases of a run: level, slope and how long; the pairs are noise.
PHASES = st.lists(st.tuples(st.integers(-300, 300), st.integers(-20, 20), st.integers(3, 30)), min_size=1, max_size=4)
SCALES = st.integers(-10, 10).map(lambda exponent: 2.0**exponent)  # 1e-3 to 1e3
SHIFTS = st.integers(-10_000, 10_000)


def decisions_on(pairs: list[tuple[float, float]], stderr: float, n: int) -> list[Decision]:
    """The decisions of a loop that goes on as WATCHDOG when it is DORMANT."""
    scheduler = machine(plateau_threshold=3, dormant_threshold=10)
    decisions = []
    for k, (first, second) in enumerate(pairs):
        if scheduler.loop_state is LoopState.DORMANT:
            decisions.append(scheduler.watch())
        decisions.append(scheduler.observe(Evaluation(Estimate(first, stderr, n), k)))
        if decisions[-1].event is LoopEvent.CANDIDATE:
            decisions += scheduler.confirm(Evaluation(Estimate(second, stderr, n), k))
        elif decisions[-1].event is LoopEvent.DEGRADATION and k % 2:
            scheduler.rolled_back()
    return decisions


@pytest.mark.parametrize(("stderr", "n"), [(20.0, 1), (20.0, 10), (0.0, 10), (math.inf, 1)])
@settings(deadline=None, max_examples=60)
@given(phases=PHASES, noise=st.lists(PAIRS, min_size=1, max_size=40), scale=SCALES, shift=SHIFTS)
def test_shifting_and_scaling_all_scores_changes_no_decision(
    phases: list[tuple[int, int, int]], noise: list[tuple[int, int]], scale: float, shift: int, stderr: float, n: int
) -> None:
    means = [level + slope * k for level, slope, length in phases for k in range(length)]
    pairs = [(mean + noise[k % len(noise)][0], mean + noise[k % len(noise)][1]) for k, mean in enumerate(means)]
    plain = decisions_on([(float(first), float(second)) for first, second in pairs], stderr, n)
    mapped = decisions_on([(scale * a + shift, scale * b + shift) for a, b in pairs], scale * stderr, n)
    assert [(d.event, d.before, d.after) for d in mapped] == [(d.event, d.before, d.after) for d in plain]
    for one, other in zip(plain, mapped, strict=True):
        assert other.evidence.difference == pytest.approx(scale * one.evidence.difference, rel=1e-6, abs=1e-6 * scale)
