"""The blocks of a probe: where they begin, what undoing takes back, and how far a probe goes."""

from __future__ import annotations

import math

import pytest

from keras_optix.evaluators.evaluation import Evaluation
from keras_optix.statistics.estimates import Estimate
from keras_optix.tuners.probe import Probe, Segment, arms
from keras_optix.tuners.search_space import Int, Log

LEVEL = (Estimate(1.0, 0.1, 10),)
SPACE = Log(1e-5, 1e-1)


def evaluation(window: int, score: float = 1.0, lag: float = 0.0) -> Evaluation:
    return Evaluation(Estimate(score, 0.1, 10), window, training_lag_windows=lag)


def begun(window: int = 10, lag: float = 0.0) -> Probe:
    return Probe(
        name="x",
        base=1.0,
        below=0.5,
        above=2.0,
        start=0,
        first=1,
        level=LEVEL,
        segments=(Segment(window, 1, 0.0, 0.0),),
        times=(-lag,),
        exposures=(0.0,),
        scores=(1.0,),
        stderrs=(0.1,),
        left=2,
    )


def test_blocks_alternate_and_the_next_round_begins_with_the_other_side() -> None:
    probe, sides, lengths = begun(), [], []
    for block in range(8):
        sides.append(probe.side)
        lengths.append(probe.left)
        probe = probe.next_block(evaluation(11 + block), LEVEL, 2, undo=False)
    assert sides == [1, -1, -1, 1, -1, 1, 1, -1]
    assert lengths == [2] * 4 + [4] * 4


def test_exposures_count_windows_above_minus_windows_below() -> None:
    probe = begun().add(evaluation(11)).add(evaluation(12))
    probe = probe.next_block(evaluation(12), LEVEL, 2, undo=False).add(evaluation(13)).add(evaluation(14))
    assert probe.times == (0, 1, 2, 3, 4)
    assert probe.exposures == (0, 1, 2, 1, 0)


def test_a_block_that_is_undone_takes_its_training_back() -> None:
    probe = begun().add(evaluation(11)).add(evaluation(12, 0.5))
    probe = probe.next_block(evaluation(12), LEVEL, 2, undo=True).add(evaluation(13)).add(evaluation(14))
    assert probe.times == (0, 1, 2, 1, 2)
    assert probe.exposures == (0, 1, 2, -1, -2)
    assert probe.in_block == 2


def test_with_a_lag_the_first_score_after_undoing_is_of_the_restored_weights() -> None:
    """The weights that collected a window do not know it: with a lag of 1, the restored ones played window 13."""
    probe = begun(lag=1.0).add(evaluation(11, lag=1.0)).add(evaluation(12, lag=1.0))
    assert probe.times == (-1, 0, 1)
    probe = probe.next_block(evaluation(12, lag=1.0), LEVEL, 2, undo=True)
    probe = probe.add(evaluation(13, lag=1.0)).add(evaluation(14, lag=1.0))
    assert probe.times[3:] == (-1, 0)
    # With a lag of 2, that window was played by the weights from before.
    assert begun().next_block(evaluation(12), LEVEL, 2, undo=True).add(evaluation(13, lag=2.0)).times[-1] == 1


def test_the_change_of_a_block_is_that_of_its_scores_against_those_before() -> None:
    probe = begun().add(evaluation(11)).add(evaluation(12))
    fallen = (Estimate(0.2, 0.1, 10), Estimate(0.4, 0.1, 10))
    change = probe.change(fallen, (1.0,) * 3)
    assert change.evidence.difference == pytest.approx(0.3 - 1.0)
    assert change.z < -3.0
    assert not change.noisy
    total = probe.changed(change.evidence).changed(change.evidence).total(1)
    assert total.evidence.difference == pytest.approx(-1.4)
    assert total.z == pytest.approx(math.sqrt(2.0) * change.evidence.z)
    assert probe.total(-1).z == 0.0


@pytest.mark.parametrize(
    ("floor", "ceiling", "below", "above"),
    [
        (None, None, 1e-4, 1e-2),
        (None, 0.75, 1e-4, 10**-2.5),  # half of the way to the limit
        (0.25, None, 10**-3.5, 1e-2),
        (None, 0.51, 1e-4, 1e-3),  # too near: the base itself
        (0.49, 0.51, 1e-4, 1e-2),  # on both sides: the limits cannot both be right
    ],
)
def test_a_probe_goes_half_of_the_way_to_a_limit(
    floor: float | None, ceiling: float | None, below: float, above: float
) -> None:
    assert arms(SPACE, 0.5, 0.25, floor, ceiling, 0.02) == pytest.approx((below, above))


def test_the_values_of_a_probe_differ_even_where_numbers_are_whole() -> None:
    for unit in (0.0, 0.5, 1.0):
        low, high = arms(Int(1, 3), unit, 0.02, None, None, 0.02)
        assert low < high
