"""The end of a run: whether the target is reached, and which score is announced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from keras_optix.loop import actions as do
from keras_optix.loop.ending import Ending
from keras_optix.loop.final import announce, reach_target
from keras_optix.loop.procedures import Situation
from keras_optix.statistics.comparisons import EvaluationResult
from keras_optix.statistics.estimates import Estimate, estimate_from_samples
from tests.loop.scripted import names, play
from tests.loop.test_confirmation import BEST


def answers(mean: float, *, sd: float = 1.0, score: float = 10.0, budget: int = 99, plays: bool = True) -> Any:
    """The best has a score by which it was promoted; its fresh episodes have another mean."""
    rng = np.random.default_rng(0)
    left = [budget]

    def evaluate(action: do.Evaluate) -> EvaluationResult | None:
        scores = mean + sd * rng.standard_normal(action.episodes)
        return EvaluationResult(estimate_from_samples(scores)) if plays else None

    def may(action: do.MayEvaluate) -> bool:
        left[0] -= 1
        return left[0] >= 0

    found: dict[type[do.Action], Callable[[Any], Any]] = {
        do.ReadBest: lambda action: BEST,
        do.ReadBestScore: lambda action: Estimate(score, 0.5, 10),
        do.Evaluate: evaluate,
        do.MayEvaluate: may,
    }
    return found


def test_a_target_that_is_plainly_reached_ends_the_run_after_one_batch() -> None:
    asked, reached = play(reach_target(Situation(target=8.0)), answers(10.0))
    assert reached
    assert names(asked).count("Evaluate") == 1
    assert asked[-1] == do.Stop(Ending.TARGET)


def test_a_score_above_the_target_by_luck_is_found_out() -> None:
    asked, reached = play(reach_target(Situation(target=9.5)), answers(8.0))
    assert not reached
    assert "Stop" not in names(asked)
    assert "Reassess" in names(asked)  # and the score of the best is corrected


def test_a_score_near_the_target_plays_a_hundred_episodes_whose_mean_decides() -> None:
    asked, _ = play(reach_target(Situation(target=10.0)), answers(10.0, sd=5.0))
    assert sum(action.episodes for action in asked if isinstance(action, do.Evaluate)) == 100


def test_a_score_of_exactly_the_target_without_noise_reaches_it() -> None:
    asked, reached = play(reach_target(Situation(target=10.0)), answers(10.0, sd=0.0))
    assert reached
    assert names(asked).count("Evaluate") == 1


@pytest.mark.parametrize("target", [None, 11.0])
def test_without_a_target_or_below_it_nothing_is_played(target: float | None) -> None:
    asked, reached = play(reach_target(Situation(target=target)), answers(10.0))
    assert not reached
    assert "Evaluate" not in names(asked)


def test_where_nothing_can_be_played_the_confirmed_score_decides() -> None:
    _, reached = play(reach_target(Situation(target=9.0)), answers(0.0, plays=False))
    assert reached


def test_what_is_announced_is_what_fresh_episodes_find() -> None:
    asked, _ = play(announce(Situation(first_score=Estimate(0.0, 0.5, 10)), least=20), answers(8.0, sd=0.1))
    announced = asked[-1]
    assert isinstance(announced, do.Announce)
    assert announced.score.n == 60
    assert announced.score.mean == pytest.approx(8.0, abs=0.2)  # and not the 10 for which it was promoted


def test_a_noisy_score_plays_up_to_a_hundred_episodes_as_far_as_the_budget_allows() -> None:
    start = Situation(first_score=Estimate(0.0, 0.5, 10))
    asked, _ = play(announce(start, least=20), answers(8.0, sd=3.0))
    assert asked[-1].score.n == 100  # type: ignore[attr-defined]
    asked, _ = play(announce(start, least=20), answers(8.0, sd=3.0, budget=1))
    assert asked[-1].score.n == 40  # type: ignore[attr-defined]
    asked, _ = play(announce(start, least=20), answers(8.0, sd=3.0, budget=0))
    assert asked[-1].score.n == 20  # type: ignore[attr-defined]
    asked, _ = play(announce(start, least=0), answers(8.0, sd=3.0, budget=0))
    assert "Announce" not in names(asked)
