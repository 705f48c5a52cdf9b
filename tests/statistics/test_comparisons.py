"""Which of two policies is better."""

from __future__ import annotations

import math

import numpy as np
import pytest

from keras_optix.statistics.comparisons import EvaluationResult, compare_policies, still_achieves
from keras_optix.statistics.estimates import Estimate, estimate_from_samples
from keras_optix.statistics.levels import SURE_Z


def played(scores: np.ndarray, *, episodes: bool = True) -> EvaluationResult:
    return EvaluationResult(estimate_from_samples(scores), tuple(scores) if episodes else None)


def test_on_the_same_seeds_what_the_seeds_do_cancels() -> None:
    rng = np.random.default_rng(0)
    luck = rng.normal(0.0, 50.0, 10)
    worse, better = luck + rng.normal(0.0, 1.0, 10), luck + 3.0 + rng.normal(0.0, 1.0, 10)
    paired = compare_policies(played(better), played(worse), "")
    apart = compare_policies(played(better, episodes=False), played(worse, episodes=False), "")
    assert paired.evidence.difference == pytest.approx(apart.evidence.difference)
    assert paired.z > 3.0
    assert abs(apart.z) < 0.5
    assert paired.evidence.n == 10


def test_different_numbers_of_episodes_are_no_pairs() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.normal(1.0, 1.0, 12), rng.normal(0.0, 1.0, 10)
    found = compare_policies(played(first), played(second), "")
    assert found.evidence.stderr == pytest.approx(math.sqrt(first.var(ddof=1) / 12 + second.var(ddof=1) / 10))


@pytest.mark.parametrize(("now", "expected"), [(100.0, True), (97.0, True), (90.0, False), (130.0, True)])
def test_a_policy_holds_unless_it_is_significantly_below(now: float, expected: bool) -> None:
    held, evidence = still_achieves(EvaluationResult(Estimate(now, 2.0, 100)), Estimate(100.0, 1.0, 100), SURE_Z)
    assert held is expected
    assert evidence.difference == pytest.approx(now - 100.0)


def test_noise_alone_rarely_tells_of_a_changed_world() -> None:
    rng = np.random.default_rng(2)
    fell = 0
    for _ in range(2000):
        known, now = rng.normal(0.0, 1.0, 10), rng.normal(0.0, 1.0, 10)
        fell += not still_achieves(played(now), estimate_from_samples(known), SURE_Z)[0]
    assert 5 <= fell <= 40  # 1 %
