"""The gap between training and held-out scores: told once, if it is large and has grown."""

from __future__ import annotations

import json

import numpy as np

from keras_optix.loop.gap import GapState, TrainingGap
from keras_optix.states import read_state, to_json
from keras_optix.statistics.estimates import Estimate, estimate_from_samples


def told(gaps: list[float], stderr: float = 1.0) -> list[int]:
    """The evaluations at which a notice comes."""
    gap = TrainingGap()
    return [
        k
        for k, mean in enumerate(gaps)
        if gap.observe(Estimate(100.0 + mean, stderr, 50 + k), Estimate(100.0, stderr, 50))[0]
    ]


def test_it_is_told_once_when_it_has_grown_twice() -> None:
    assert told([0.0, 0.0, 0.0, 9.0, 9.0, 9.0, 9.0]) == [4]


def test_what_is_no_growth() -> None:
    assert told([9.0] * 20) == []  # large from the beginning: the environment is harder
    assert told([0.0, 0.0, 0.0, 9.0, 0.0, 9.0, 0.0]) == []  # once each
    assert told([-9.0, -9.0, -9.0, 0.0, 0.0, 0.0]) == []  # it has grown, and is not large
    assert told([0.0, 0.0, 1.0, 2.0, 2.5]) == []  # within the noise


def test_without_noise_every_growth_counts() -> None:
    assert told([0.0, 1.0, 1.0], stderr=0.0) == [2]


def test_the_numbers_and_the_words() -> None:
    gap = TrainingGap()
    for training in (10.0, 10.5, 90.0):
        assert gap.observe(Estimate(training, 1.0, 50), Estimate(9.5, 1.0, 50)) == ("", None)
    words, evidence = gap.observe(Estimate(95.0, 1.0, 50), Estimate(9.5, 1.0, 50))
    assert "training (95.0 ± 1) and held-out episodes (9.5 ± 1)" in words.replace("1.0", "1")
    assert evidence is not None
    assert evidence.difference == 85.5
    assert gap.state.latest == 85.5
    gap.skip()
    assert gap.state.latest is None


def test_a_gap_that_stays_is_seldom_told() -> None:
    """Normal returns of ten episodes; the gap is three standard errors at all 30 evaluations of 400 runs.

    At most 5 % are told: with a true rate of 2.5 % or less, this test fails with a probability below 0.3 %.
    """
    rng, found = np.random.default_rng(0), 0
    for _ in range(400):
        gap = TrainingGap()
        for _ in range(30):
            training = estimate_from_samples(rng.normal(3.0 * np.sqrt(0.2), 1.0, 10))
            found += bool(gap.observe(training, estimate_from_samples(rng.normal(0.0, 1.0, 10)))[0])
    assert found <= 20


def test_the_same_returns_of_training_confirm_nothing() -> None:
    gap, held_out = TrainingGap(), Estimate(0.0, 1.0, 50)
    gap.observe(Estimate(0.0, 1.0, 50), held_out)
    new = Estimate(9.0, 1.0, 50)
    assert not any(gap.observe(new, held_out)[0] for _ in range(5))
    assert gap.state.latest == 9.0
    assert gap.observe(Estimate(9.0, 1.0, 51), held_out)[0]  # a control: new episodes that earned as much


def test_its_state_goes_through_json() -> None:
    gap = TrainingGap()
    gap.observe(Estimate(3.0, np.inf, 1), Estimate(1.0, 1.0, 50))
    values = json.loads(json.dumps(to_json(gap.state), allow_nan=False))
    assert read_state(GapState, values, "gap") == gap.state
