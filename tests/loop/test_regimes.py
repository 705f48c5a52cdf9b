"""RegimeDetector: labels of series whose label is known, what must not change them, and controls."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence

import numpy as np
import pytest
import scipy.stats

import keras_optix as optix
from keras_optix.loop import regimes

TIME = np.arange(10)


def history(scores: Iterable[float | None]) -> list[optix.EvalMetrics]:
    return [optix.EvalMetrics(primary_score=score if score is None else float(score)) for score in scores]


def label(scores: Iterable[float | None], **arguments: float) -> str:
    return optix.RegimeDetector(**arguments).detect(history(scores))  # type: ignore[arg-type]


def noise(seed: int, n: int = 10) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(n)


def labels_over_time(scores: Sequence[float], hysteresis: float) -> list[str]:
    detector = optix.RegimeDetector(hysteresis=hysteresis)
    records = history(scores)
    return [detector.detect(records[:end]) for end in range(10, len(records) + 1)]


def flips(labels: Sequence[str]) -> int:
    return sum(a != b for a, b in itertools.pairwise(labels))


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        (np.linspace(10, 100, 10), "trending"),  # the original calls it volatile
        (np.linspace(100, 10, 10), "trending"),
        (np.linspace(-1, 1, 10), "trending"),  # through zero
        (10 * 1.2**TIME, "trending"),
        (np.full(10, 0.1), "ranging"),
        (np.zeros(10), "ranging"),
        ([0.0] * 9 + [1.0], "ranging"),
        (1 + 0.001 * TIME, "ranging"),  # significant, but small
        ([1, -1] * 5, "volatile"),  # the mean is zero
        ([1.0, 3.0] * 5, "volatile"),
        ([1e308, -1e308] * 5, "volatile"),
        ([5e-324] * 10, "ranging"),
    ],
)
def test_series_without_noise(scores: Iterable[float], expected: str) -> None:
    assert label(scores) == expected


@pytest.mark.parametrize("position", range(10))
@pytest.mark.parametrize("height", [-1e6, -5.0, 5.0, 1e6])
def test_a_single_outlier_changes_nothing(position: int, height: float) -> None:
    for base, expected in ((np.ones(10), "ranging"), (1 + 0.2 * TIME, "trending")):
        scores = base + 0.05 * noise(position)
        scores[position] = height
        assert label(scores) == expected


def test_control_the_classical_statistics_do_not_bear_that_outlier() -> None:
    scores = 1 + 0.05 * noise(0)
    scores[4] = 5.0
    assert np.std(scores) / np.mean(scores) > 0.2


@pytest.mark.parametrize("seed", range(60))
def test_scale_and_sign_change_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = 1 + rng.uniform(-0.2, 0.2) * np.arange(25) + rng.uniform(0, 0.5) * rng.standard_normal(25)
    expected = label(scores)
    for factor in (0.01, 3.0, 1e4, -1.0, -7.0):
        assert label(factor * scores) == expected


def test_the_three_labels_occur_among_those_series() -> None:
    found = set()
    for seed in range(60):
        rng = np.random.default_rng(seed)
        found.add(label(1 + rng.uniform(-0.2, 0.2) * np.arange(25) + rng.uniform(0, 0.5) * rng.standard_normal(25)))
    assert found == {"trending", "ranging", "volatile"}


def test_a_trend_that_explains_clearly_more_than_the_noise_beats_it() -> None:
    strong = [label(1 + TIME + 1.3 * noise(seed)) for seed in range(200)]  # level 5.5, noise 24 % of it
    assert strong.count("trending") > 150
    assert strong.count("ranging") < 20
    weak = [label(3.25 + 0.17 * (TIME - 4.5) + 1.3 * noise(seed)) for seed in range(200)]  # a fifth of the variance
    assert weak.count("trending") < 20
    assert weak.count("volatile") > 150


def test_a_steep_slope_that_is_not_significant_is_no_trend() -> None:
    steep = 0
    for seed in range(300):
        scores = 1 + 0.5 * noise(seed)
        slope = abs(scipy.stats.theilslopes(scores).slope)
        if slope > 0.05 * np.median(np.abs(scores)) and scipy.stats.kendalltau(TIME, scores).pvalue > 0.06:
            steep += 1
            assert label(scores) != "trending"
    assert steep > 30


@pytest.mark.parametrize("n", [5, 6, 9, 10, 11, 30])
def test_the_statistics_are_those_of_the_books(n: int) -> None:
    scores = np.round(np.abs(noise(n, n)) + 0.1 * np.arange(n), 1)  # rounded, so that there are ties
    (evidence,) = regimes._evidence_of(scores[np.newaxis])
    peak = np.max(scores)
    assert evidence.slope * peak == pytest.approx(abs(scipy.stats.theilslopes(scores).slope))
    assert evidence.level * peak == pytest.approx(np.median(scores))
    signs = np.sign(scores[np.newaxis] - scores[:, np.newaxis])[np.triu_indices(n, 1)]
    s = abs(signs.sum())
    counts = np.unique(scores, return_counts=True)[1]
    variance = (n * (n - 1) * (2 * n + 5) - np.sum(counts * (counts - 1) * (2 * counts + 5))) / 18
    assert evidence.z == pytest.approx(max(s - 1, 0) / math.sqrt(variance))
    assert evidence.trend_spread == pytest.approx(np.std(evidence.slope * np.arange(n)))


@pytest.mark.parametrize("n", [5, 6, 9, 10, 20, 51])
def test_the_spread_estimates_the_standard_deviation_of_the_noise(n: int) -> None:
    scores = 100 + 2 * np.arange(n) + 3 * np.random.default_rng(0).standard_normal((3000, n))
    peaks = np.max(np.abs(scores), axis=1)
    spreads = [evidence.spread for evidence in regimes._evidence_of(scores)]
    assert np.mean(spreads * peaks) == pytest.approx(3, rel=0.1)


def test_hysteresis_quiets_a_series_at_the_threshold() -> None:
    scores = list(1 + 0.2 * noise(3, 400))
    without, default = (flips(labels_over_time(scores, hysteresis)) for hysteresis in (0.0, 0.2))
    assert without > 40
    assert default < without / 2


def test_detect_is_pure_and_works_through_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = optix.RegimeDetector()
    records = history(1 + 0.2 * noise(3, 100))
    first = detector.detect(records)
    detector.detect(history(np.linspace(1, 9, 30)))
    assert detector.detect(records) == first
    monkeypatch.setattr(regimes, "_CHUNK", 7)
    assert detector.detect(records) == first


def test_a_label_holds_inside_the_band_and_is_left_past_it() -> None:
    detector = optix.RegimeDetector()
    inside = regimes._Evidence(level=1.0, slope=0.0, z=0.0, spread=0.2, trend_spread=0.0)
    assert detector._next_label(inside._replace(spread=0.23), "ranging") == "ranging"
    assert detector._next_label(inside._replace(spread=0.17), "volatile") == "volatile"
    assert detector._next_label(inside._replace(spread=0.25), "ranging") == "volatile"
    assert detector._next_label(inside._replace(spread=0.15), "volatile") == "ranging"
    trend = inside._replace(slope=0.055, z=3.0, spread=0.05)
    assert detector._next_label(trend, None) == "trending"
    assert detector._next_label(trend, "ranging") == "ranging"
    assert detector._next_label(trend._replace(slope=0.045, z=1.7), "trending") == "trending"
    assert detector._next_label(trend._replace(slope=0.045), None) == "ranging"


def test_too_little_evidence_is_ranging_and_missing_scores_are_skipped() -> None:
    assert label([]) == "ranging"
    assert label([1, 100, 1, 100]) == "ranging"
    assert label([1, 100, 1, 100, 1]) == "volatile"
    assert label([None, 1, None, 2, None]) == "ranging"
    assert label([x for score in range(10, 20) for x in (None, 10.0 * score - 90)]) == "trending"


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_are_refused(score: float) -> None:
    with pytest.raises(optix.errors.NonFiniteError, match="primary_score"):
        label([1.0, score])


@pytest.mark.parametrize(
    "arguments",
    [{"volatility_threshold": 0}, {"trend_threshold": -1}, {"window": 4}, {"hysteresis": 1.1}, {"hysteresis": -0.1}],
)
def test_arguments_are_checked(arguments: dict[str, float]) -> None:
    with pytest.raises(optix.ConfigurationError, match=next(iter(arguments))):
        label([], **arguments)
