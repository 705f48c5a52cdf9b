"""The last line of a run is true."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import keras_optix as optix
from keras_optix.loop.ending import Ending
from keras_optix.loop.options import LoopOptions
from tests.loop.toy_run import Run

ENDLESS = optix.BackoffScheduler(dormant_threshold=10**6, futility_confidence=None)


def ended(directory: Path, options: LoopOptions, windows: int, *, target: float = 0.0, threshold: float = 90.0) -> Run:
    """A run whose returns are 100 at the target, and 10 less for each unit of distance from it; it begins at 0."""
    run = Run(directory, None, evaluator=optix.GreedyEvaluator(), options=options, scheduler=ENDLESS)
    run.toy.steps, run.toy.target, run.toy.aim = 40, target, target
    run.toy.reward_threshold = threshold
    run.loop.begin()
    run.windows(windows)
    return run


def line(run: Run) -> str:
    run.loop.end()
    return run.loop.summary(where=False)


def test_a_target_is_said_to_be_reached_with_the_score_of_fresh_episodes(tmp_path: Path) -> None:
    run = ended(tmp_path, LoopOptions(target_score=95.0), 200, target=6.0)
    assert run.loop.performer.ending is Ending.TARGET
    text = line(run)
    assert ": reached 95.0. Best " in text
    assert "fresh episodes" in text
    assert "the environment counts as solved at 90.0: reached" in text
    assert "nothing was learned" not in text
    announced = run.loop.performer.announced
    assert announced is not None
    assert announced.n >= 40


def test_a_run_that_learned_nothing_says_so(tmp_path: Path) -> None:
    run = ended(tmp_path, LoopOptions(max_windows=60), 60, threshold=200.0)
    text = line(run)
    assert "stopped at the limit of 60 windows" in text
    assert "nothing was learned: the best is not better than the policy at the beginning (" in text
    assert "solved at 200.0: not reached" in text


def test_a_run_that_degraded_says_so(tmp_path: Path) -> None:
    options = LoopOptions(max_windows=90, rollback_on_degradation=False)
    run = ended(tmp_path, options, 60, target=6.0)
    best = run.loop.performer.best.snapshot
    assert best is not None
    run.toy.p = run.toy.aim = 0.0
    run.windows(30)
    text = line(run)
    assert "training had degraded since then: its latest evaluation scored" in text
    assert float(run.toy.p) == float(np.asarray(run.registry.load(best)["p"]))  # and the best is what is left
