"""Every state that the loop reaches can be written, read and is then the same, however odd its scores are."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drivers import machine, through_json
from toy_run import EPISODES, Run, Toy, manager

import keras_optix as optix
from keras_optix.evaluators.evaluation import Evaluation
from keras_optix.loop.guard import LARGEST_SCORE
from keras_optix.loop.run_state import read_run
from keras_optix.loop.scheduler import LoopEvent
from keras_optix.loop.scheduler_state import SchedulerState
from keras_optix.records import EvalMetrics
from keras_optix.states import read_state, to_json
from keras_optix.statistics.estimates import Estimate, compare, compare_alike, pool, trend
from keras_optix.statistics.member_weights import weights_from_scores

SCALES = (0.0, 5e-324, 1e-160, 1e-12, 1.0, 1e6, 1e80, 1e149)


def scores(rng: np.random.Generator, count: int) -> list[Estimate]:
    """Scores without noise, with unknown noise, of one sample and of many, that stay, fall, jump and change sign."""
    found, mean, scale = [], 0.0, 1.0
    for _ in range(count):
        if rng.random() < 0.15:
            scale = float(rng.choice(SCALES))
        mean = float(rng.choice([mean, mean, scale * rng.normal(), -mean, mean / 2.0]))
        stderr = float(rng.choice([0.0, math.inf, 1e-300, scale * rng.random(), abs(mean) * 0.05]))
        found.append(Estimate(mean, stderr, int(rng.choice([1, 2, 10, 1000]))))
    return found


@pytest.mark.parametrize("seed", range(12))
def test_states_of_the_scheduler_come_back(seed: int) -> None:
    rng = np.random.default_rng(seed)
    options: dict[str, Any] = {"plateau_threshold": 4, "dormant_threshold": 10} if seed % 2 else {}
    driven, steps = machine(**options), 0
    for k, score in enumerate(scores(rng, 120)):
        steps += int(rng.integers(0, 10**6))
        evaluation = Evaluation(score, k, k, steps)
        if driven.observe(evaluation).event is LoopEvent.CANDIDATE:
            driven.confirm(Evaluation(Estimate(score.mean, score.stderr, score.n + 1), k, k, steps))
        if driven.state.best is None or rng.random() < 0.1:
            driven.adopt(score, env_steps=steps)
        if rng.random() < 0.05:
            driven.shifted()
        assert read_state(SchedulerState, through_json(driven.state), "state") == driven.state


class Odd(Toy):
    """A toy whose returns have the sizes of `SCALES`, with and without noise."""

    def returns(self, p: float, rng: np.random.Generator, episodes: int = EPISODES) -> np.ndarray:
        scale, noise = SCALES[self.updates // 9 % len(SCALES)], (0.0, 1.0)[self.updates // 5 % 2]
        return -scale * abs(p - self.target) + scale * noise * rng.standard_normal(episodes)


@pytest.mark.parametrize(("managed", "tuned"), [(False, False), (True, False), (False, True)])
def test_resume_points_of_runs_with_odd_scores_come_back(tmp_path: Path, managed: bool, tuned: bool) -> None:
    policies = manager(auto_spawn=True, max_variants=2, variant_windows=4) if managed else None
    tuner = optix.BackoffOptimizer({"learning_rate": (1e-3, 1.0)}, block=2) if tuned else None

    def run() -> Run:
        made = Run(tmp_path, policies, tuner=tuner, when_dormant="watch", rollback=True)
        made.toy.__class__ = Odd
        return made

    one, other = run().begin(), run()
    other.registry.continue_run(str(one.registry.run_id))
    for k in range(150):
        if k % 40 == 20:
            one.toy.target += 1.0
        one.windows(1)
        arrays, values = one.loop.save()
        text = json.dumps(values, allow_nan=False)
        reading = other.loop.read(arrays, read_run(json.loads(text)))
        assert json.dumps(to_json(reading.saved), allow_nan=False) == text
    assert len(one.told()) > 5


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf, 2.0 * LARGEST_SCORE, -1e300])
def test_a_score_whose_square_is_infinite_is_not_taken(tmp_path: Path, score: float) -> None:
    run = Run(tmp_path, None).begin()
    run.windows(3)
    before = run.loop.scheduler.state
    run.loop.judge(run.toy.current(9, 9), EvalMetrics(score, stderr=1.0, episodes=4), {})
    assert run.loop.scheduler.state == before
    assert run.told("non_finite")


@pytest.mark.parametrize("size", [1e77, 1e100, 1e153, 1e155, 1e300])
def test_large_scores_raise_nothing(size: float) -> None:
    a, b = Estimate(size, size / 10.0, 5), Estimate(-size, size / 7.0, 9)
    assert pool(a, b).n == 14
    for test in (compare, compare_alike):
        evidence, z = test(a, b, "x")
        assert evidence.difference > 0.0
        assert not math.isnan(z)
    if size < LARGEST_SCORE:
        assert trend([size * k for k in range(5)]) > 0.0


def test_no_share_of_a_member_is_negative() -> None:
    """Sums of differences of probabilities are -1e-17 by rounding, for members that are hopeless."""
    rng, least = np.random.default_rng(0), []
    for _ in range(500):
        members, count = int(rng.integers(2, 5)), int(rng.integers(2, 10))
        levels = [k * float(rng.choice([0.0, 1.0, 100.0, 1e4, 1e6])) for k in range(members)]
        samples = [rng.normal(level, float(rng.choice([1e-9, 1e-3, 1.0, 10.0])), count) for level in levels]
        least.append(min(weights_from_scores(samples, [1.0] * members, 0.0)))
    assert min(least) == 0.0
