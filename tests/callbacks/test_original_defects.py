"""The defects of the original, tensor-optix, as regression tests: the whole loop on scripts whose truth is known.

`make bench-loop` runs the same scripts at full length and prints the original's numbers beside ours.
"""

from __future__ import annotations

import math
from typing import Any

import pytest

import keras_optix as optix
from tests.benchmark_modules import load_benchmark

scripted = load_benchmark("_scripted")

PEAK = 90.0
CLIMB_AND_COLLAPSE = [10.0 * k for k in range(10)] + [0.0]
# The original scores each window of these scripts. The default plays episodes, and the same must hold if it may do so
# as often. With its own budget it may not: that is less than one evaluation for each of these small windows.
SCORED_WINDOWS: dict[str, Any] = {}
PLAYED_EPISODES: dict[str, Any] = {"evaluator": None, "evaluation_budget": 100.0}
each_way = pytest.mark.parametrize("scored", [SCORED_WINDOWS, PLAYED_EPISODES], ids=["windows", "episodes"])


def per_episode(noise: float) -> float:
    """The noise of an episode that gives a window's mean this noise."""
    return noise * math.sqrt(scripted.EPISODES)


@each_way
@pytest.mark.parametrize("rollback", [False, True])
def test_climb_then_collapse_ends_with_the_weights_of_the_peak(rollback: bool, scored: dict[str, Any]) -> None:
    """The original saves the weights after the update: it ends at 0, and rolls back to 0 fifty times."""
    run = scripted.run(CLIMB_AND_COLLAPSE, rollback_on_degradation=rollback, max_windows=40, **scored)
    assert run.agent.true_score == PEAK
    assert run.loop.best_snapshot.score == pytest.approx(PEAK)
    assert [truth for _, truth in run.notes.improvements] == CLIMB_AND_COLLAPSE[:-1]
    for snapshot, truth in run.notes.improvements:
        assert snapshot.score == pytest.approx(truth, abs=1e-9)
    if rollback:
        assert 1 <= run.count("rollback") <= 10
        assert set(run.notes.after_degradations) == {PEAK}
        # Degradations do not put DORMANT off for ever: the original counts from zero after each. The end is the first
        # one from the fifth on after 2.8 times the windows of the peak; between two of them is a cooldown of 3.
        assert run.windows_of("dormant") == [10 + 1 + 5 * (3 + 1)]
    else:
        assert set(run.notes.after_degradations) == {0.0}


def test_the_score_of_a_snapshot_is_that_of_its_weights_under_noise() -> None:
    run = scripted.run(CLIMB_AND_COLLAPSE, noise=per_episode(5.0), rollback_on_degradation=True, max_windows=40)
    assert run.agent.true_score >= PEAK - 20.0
    assert len(run.notes.improvements) >= 4
    for snapshot, truth in run.notes.improvements:
        assert abs(snapshot.score - truth) < 4.0 * snapshot.eval_metrics.stderr


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_flat_noisy_score_is_trained_and_not_degraded(seed: int) -> None:
    """The original sees 522 to 544 degradations in 599 windows, and is never DORMANT."""
    options: dict[str, Any] = {"scheduler": scripted.every_window(), "max_windows": 100, **SCORED_WINDOWS}
    run = scripted.run([1000.0], noise=per_episode(50.0), seed=seed, **options)
    assert run.loop.state is optix.LoopState.DORMANT
    assert run.windows_of("dormant")[0] < 60
    assert run.count("degradation") <= 1


def test_watching_a_flat_noisy_score_raises_no_alarm() -> None:
    options: dict[str, Any] = {"scheduler": scripted.every_window(), "when_dormant": "watch", "max_windows": 250}
    run = scripted.run([1000.0], noise=per_episode(50.0), **options)
    assert run.loop.state is optix.LoopState.WATCHDOG
    assert run.count("degradation") <= 1
    assert run.notes.dormant == 1 + run.count("degradation")


def test_dormant_is_called_once_without_noise() -> None:
    """The original calls it at every evaluation from there on, 580 times in 599 windows."""
    run = scripted.run([1000.0], scheduler=scripted.every_window(), when_dormant="watch", max_windows=100)
    assert run.windows_of("dormant") == [21]
    assert run.notes.dormant == 1


@each_way
def test_a_straight_line_without_noise_is_not_trained(scored: dict[str, Any]) -> None:
    """The original (1.17.9) is DORMANT at window 30: its test of a slope takes the line itself for noise."""
    windows = 60
    run = scripted.run([float(k) for k in range(windows + 1)], max_windows=windows, **scored)
    assert run.loop.state is optix.LoopState.ACTIVE
    assert run.count("improvement") == windows


def test_dormant_comes_when_the_intervals_say() -> None:
    """The original counts to it with intervals of its own, until window 1300."""
    run = scripted.run(
        [1000.0], scheduler=optix.BackoffScheduler(max_interval=10, max_interval_share=None), max_windows=300
    )
    # The first window is promoted; 5 evaluations until COOLING, at intervals of 1; then 15 more.
    assert run.windows_of("plateau") == [6]
    assert run.windows_of("dormant") == [6 + 2 + 4 + 8 + 12 * 10]


@each_way
def test_negative_and_small_scores_lead_to_the_same_events(scored: dict[str, Any]) -> None:
    curve = [100.0 * math.tanh(k / 8.0) if k < 25 else -50.0 for k in range(100)]
    events = []
    for shift in (-160.0, 0.0, 1000.0):
        options: dict[str, Any] = {"scheduler": scripted.every_window(), "rollback_on_degradation": True}
        options |= {"noise": per_episode(10.0), "max_windows": 45, **scored}
        run = scripted.run([shift + score for score in curve], **options)
        events.append([(record.kind, record.window_id) for record in run.loop.events])
    assert events[0] == events[1] == events[2]
    assert {"improvement", "plateau", "degradation", "rollback"} <= {event for event, _ in events[0]}
