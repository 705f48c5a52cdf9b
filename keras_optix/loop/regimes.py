"""Classifies a history of scores: they have a trend, stay in a range, or are volatile.

The slope is the median of the slopes of all pairs (Sen, 1968, "Estimates of the regression coefficient based on
Kendall's tau"). Its significance is that of Kendall's S (Mann, 1945, "Nonparametric tests against trend", variance with
ties as in Kendall, 1975). The spread is the trimmed standard deviation of the residuals, as in least trimmed squares
(Rousseeuw, 1984, "Least median of squares regression", section 4). All three are robust: a single outlier can move a
mean, a standard deviation or a least-squares slope without limit, but these only within limits. The MAD and Qn tolerate
more outliers, but are zero for scores that are often equal, such as 1, 9, 1, 9, 1.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from keras_optix.arguments import NamesChecked
from keras_optix.errors import NonFiniteError, describe
from keras_optix.records import EvalMetrics
from keras_optix.reprs import OneLineRepr
from keras_optix.statistics.levels import TWO_SIDED_Z
from keras_optix.validation import check_float, check_int, check_kind, is_finite_number

TRENDING, RANGING, VOLATILE = "trending", "ranging", "volatile"
MIN_SCORES = (
    5  # Four scores are in perfect order by chance once in twelve times, so no trend of four is significant at 5 %.
)
CLEARLY_MORE = 2.0  # A trend must explain twice the variance of the residuals: R² > 2/3.
_CHUNK = 256  # windows that are processed at once, which bounds the memory
_NORMAL = NormalDist()


class _Evidence(NamedTuple):
    """The statistics of one window, in units of its largest absolute score, as far as that is a normal float.

    Attributes:
        level: Median of the absolute scores.
        slope: Absolute change per evaluation.
        z: Absolute standard score of Kendall's S.
        spread: Standard deviation of the residuals.
        trend_spread: Standard deviation that the trend alone gives the scores.
    """

    level: float
    slope: float
    z: float
    spread: float
    trend_spread: float


class RegimeDetector(NamesChecked, OneLineRepr):
    """Labels scores as ``"trending"``, ``"ranging"`` or ``"volatile"``. For other labels, override `detect`.

    The last `window` scores are split into a straight line and residuals. Both are compared with the level, which is
    the median of the absolute scores. So the scale and the sign of the scores do not matter, and nothing is divided by
    a mean near zero. Scores that scatter about zero are therefore volatile, however small they are. If more than half
    of the scores are zero, the level is zero, and any spread or significant slope counts as large.

    - *volatile*: the standard deviation of the residuals is above `volatility_threshold` levels;
    - *trending*: the slope is significant (5 %, two-sided) and above `trend_threshold` levels per evaluation, rising or
      falling. If both hold, the label is trending if the line explains at least twice the variance of the residuals;
    - *ranging*: neither, or fewer than five scores, which cannot show a trend.

    The label changes only if the evidence is past the threshold by a share `hysteresis` of it. The detector remembers
    nothing between calls: it computes all labels of the history, from its first full window to its last. This costs
    O(``len(history) * window**2``), about ten milliseconds for a thousand scores and a window of ten. A history of at
    most `window` scores has no earlier label, and so no hysteresis.

    Args:
        volatility_threshold: Threshold of the residual standard deviation in levels, > 0. Defaults to 0.2.
        trend_threshold: Threshold of the absolute slope in levels per evaluation, > 0. Defaults to 0.05.
        window: Number of latest scores that decide, >= 5. Defaults to 10.
        hysteresis: Half-width of the band as a share of the thresholds, in [0, 1]; 0 turns it off. Defaults to 0.2.

    Raises:
        ConfigurationError: An argument is out of range.

    Examples:
        >>> detector = optix.RegimeDetector()
        >>> rising = [optix.EvalMetrics(100.0 + 20.0 * step) for step in range(10)]
        >>> detector.detect(rising)
        'trending'
    """

    def __init__(
        self,
        volatility_threshold: float = 0.2,
        trend_threshold: float = 0.05,
        window: int = 10,
        hysteresis: float = 0.2,
    ) -> None:
        self.volatility_threshold = check_float("volatility_threshold", volatility_threshold, low=0.0, low_open=True)
        self.trend_threshold = check_float("trend_threshold", trend_threshold, low=0.0, low_open=True)
        self.window = check_int("window", window, minimum=MIN_SCORES)
        self.hysteresis = check_float("hysteresis", hysteresis, low=0.0, high=1.0)

    def detect(self, history: Sequence[EvalMetrics]) -> str:
        """Returns the label at the end of `history`, which depends on nothing else.

        Args:
            history: Evaluations, oldest first. Evaluations without a score are skipped; the others count as equally
                spaced.

        Returns:
            ``"trending"``, ``"ranging"`` or ``"volatile"``.

        Raises:
            ArgumentError: `history` is not a sequence of `EvalMetrics`.
            NonFiniteError: A score is NaN, infinite or not a number.
        """
        scores = _scores_of(history)
        if len(scores) < MIN_SCORES:
            return RANGING
        windows = np.lib.stride_tricks.sliding_window_view(scores, min(self.window, len(scores)))
        label = None
        for first in range(0, len(windows), _CHUNK):
            for evidence in _evidence_of(windows[first : first + _CHUNK]):
                label = self._next_label(evidence, label)
        return label or RANGING

    def _next_label(self, evidence: _Evidence, label: str | None) -> str:
        volatile = evidence.spread > self.volatility_threshold * evidence.level * self._band(label, VOLATILE)
        # A slope must always be significant. The band only lets an existing trend continue with a weaker slope.
        trending = (
            evidence.slope > self.trend_threshold * evidence.level * self._band(label, TRENDING)
            and evidence.z > TWO_SIDED_Z * min(1.0, self._band(label, TRENDING))
        )  # fmt: skip
        if volatile and trending:
            needed = math.sqrt(CLEARLY_MORE) * evidence.spread * self._band(label, TRENDING)
            return TRENDING if evidence.trend_spread > needed else VOLATILE
        return VOLATILE if volatile else TRENDING if trending else RANGING

    def _band(self, label: str | None, candidate: str) -> float:
        """Returns the factor for the threshold of `candidate` while the label is `label`."""
        if label is None:
            return 1.0
        return 1.0 - self.hysteresis if label == candidate else 1.0 + self.hysteresis


def _scores_of(history: Sequence[EvalMetrics]) -> np.ndarray:
    fix = "Wrap numbers: [EvalMetrics(score) for score in scores]."
    check_kind("history", history, (Sequence, deque), wanted="a list of EvalMetrics", fix=fix)
    for entry in history:
        check_kind("history", entry, EvalMetrics, wanted="a list of EvalMetrics", fix=fix)
    scores = [entry.primary_score for entry in history if entry.primary_score is not None]
    for score in scores:
        if not is_finite_number(score):
            raise NonFiniteError(describe("A score of the history is not a finite number.", primary_score=score))
    return np.array(scores, dtype=np.float64)


def _evidence_of(windows: np.ndarray) -> list[_Evidence]:
    """Returns the statistics of each row of ``[m, n]`` scores."""
    n = windows.shape[1]
    # Dividing by the peak keeps differences from overflowing. The inverse of a peak below the normal floats would
    # overflow itself, and NumPy 1.26 warns of it, because it also divides register lanes that hold no score.
    peak = np.maximum(np.max(np.abs(windows), axis=1, keepdims=True), np.finfo(np.float64).tiny)
    scores = windows / peak
    earlier, later = np.triu_indices(n, k=1)
    rises = scores[:, later] - scores[:, earlier]
    slope = np.median(rises / (later - earlier), axis=1)
    residuals = scores - slope[:, np.newaxis] * np.arange(n)
    magnitude = np.abs(slope)
    columns = (
        np.median(np.abs(scores), axis=1),
        magnitude,
        _kendall_z(scores, np.sign(rises)),
        _spread(residuals),
        magnitude * math.sqrt((n * n - 1) / 12),
    )
    return [_Evidence(*map(float, row)) for row in zip(*columns, strict=True)]


def _spread(residuals: np.ndarray) -> np.ndarray:
    """Returns the standard deviation of each row of residuals, without the fifth that is furthest from the median.

    A factor, from a normal distribution truncated on both sides, makes the estimate consistent.
    """
    n = residuals.shape[1]
    kept = n - n // 5
    squares = (residuals - np.median(residuals, axis=1, keepdims=True)) ** 2
    nearest = np.mean(np.partition(squares, kept - 1, axis=1)[:, :kept], axis=1)
    end = _NORMAL.inv_cdf((1 + kept / n) / 2)
    truncated = 1 - 2 * end * _NORMAL.pdf(end) * n / kept
    return np.asarray(np.sqrt(nearest / truncated * n / (n - 2)))  # the line took two degrees of freedom


def _kendall_z(scores: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """Returns the absolute standard score of Kendall's S of each row, corrected for ties and continuity."""
    n = scores.shape[1]
    equal = np.sum(scores[:, :, np.newaxis] == scores[:, np.newaxis, :], axis=2)
    tied = np.sum((equal - 1) * (2 * equal + 5), axis=1)
    variance = (n * (n - 1) * (2 * n + 5) - tied) / 18
    s = np.maximum(np.abs(np.sum(signs, axis=1)) - 1, 0)
    return np.asarray(s / np.sqrt(np.where(variance > 0, variance, 1.0)))
