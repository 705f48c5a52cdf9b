"""Names what a history of scores does: it trends, it stays in a range, or it is volatile.

The slope is the median of the slopes of all pairs (Sen, 1968, "Estimates of the regression coefficient based on
Kendall's tau"), its significance that of Kendall's S (Mann, 1945, "Nonparametric tests against trend", variance with
ties as in Kendall, 1975), and the spread the trimmed standard deviation of the residuals, as in least trimmed squares
(Rousseeuw, 1984, "Least median of squares regression", section 4). All three bear an outlier: one evaluation that went
wrong moves a mean, a standard deviation and a least-squares slope without limit, and these only within limits. Not the
MAD and not Qn: both bear more outliers, but are zero for scores that are often equal, such as 1, 9, 1, 9, 1.
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
    5  # Four scores come in perfect order by chance once in twelve times: no trend of four is significant at 5 %.
)
CLEARLY_MORE = 2.0  # A trend explains clearly more than the residuals: twice their variance, R² > 2/3.
_CHUNK = 256  # windows that are worked on at once, which bounds the memory
_NORMAL = NormalDist()


class _Evidence(NamedTuple):
    """What one window says. All sizes are in units of its largest absolute score, as far as that is a normal float.

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
    """Says whether scores are ``"trending"``, ``"ranging"`` or ``"volatile"``. Subclass it and override `detect`.

    The last `window` scores are split into a straight line and residuals. Both are measured against the level, which
    is the median of the absolute scores: so the scale of the scores and their sign do not matter, and nothing is
    divided by a mean near zero. Scores that scatter about zero are hence volatile, however small they are. Scores of
    which more than half are zero have level zero: any spread or significant slope that they have counts as large.

    - *volatile*: the standard deviation of the residuals is above `volatility_threshold` levels;
    - *trending*: the slope is significant (5 %, two-sided) and above `trend_threshold` levels per evaluation, rising or
      falling. Where both hold, it is trending if the line explains at least twice the variance of the residuals;
    - *ranging*: neither, or fewer than five scores, which cannot show a trend.

    A label is left only when the evidence is past the threshold by a share `hysteresis` of it. Nothing is remembered
    for that between calls: the label is walked forward over the history, from its first full window to its last. That
    costs O(``len(history) * window**2``), about ten milliseconds for a thousand scores and a window of ten. Histories
    of at most `window` scores have no earlier label, hence no band.

    Args:
        volatility_threshold: Residual standard deviation in levels, > 0.
        trend_threshold: Absolute slope in levels per evaluation, > 0.
        window: Scores that are looked at, >= 5.
        hysteresis: Half-width of the band as a share of the thresholds, in [0, 1]; 0 turns it off.

    Raises:
        ConfigurationError: An argument is out of range.
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
        """Returns the label of the end of `history`; a pure function of it.

        Args:
            history: Evaluations, oldest first. Those without a score are skipped; the others count as equally spaced.

        Returns:
            ``"trending"``, ``"ranging"`` or ``"volatile"``.

        Raises:
            ArgumentError: `history` is no sequence of `EvalMetrics`.
            NonFiniteError: A score is NaN, infinite or no number.
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
        # What is not significant is no trend, in or out of the band: the band only lets a trend that was one go on.
        trending = (
            evidence.slope > self.trend_threshold * evidence.level * self._band(label, TRENDING)
            and evidence.z > TWO_SIDED_Z * min(1.0, self._band(label, TRENDING))
        )  # fmt: skip
        if volatile and trending:
            needed = math.sqrt(CLEARLY_MORE) * evidence.spread * self._band(label, TRENDING)
            return TRENDING if evidence.trend_spread > needed else VOLATILE
        return VOLATILE if volatile else TRENDING if trending else RANGING

    def _band(self, label: str | None, candidate: str) -> float:
        """What to multiply the threshold of `candidate` with while `label` holds."""
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
    """The evidence of each row of ``[m, n]`` scores."""
    n = windows.shape[1]
    # So no difference overflows. The inverse of a peak below the normal floats would overflow itself, which NumPy 1.26
    # warns of: it divides some lanes of its registers that hold no score.
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
    """Standard deviation of each row of residuals of a line, without the fifth that is furthest from the median.

    The factor that makes it consistent is that of a normal distribution truncated on both sides.
    """
    n = residuals.shape[1]
    kept = n - n // 5
    squares = (residuals - np.median(residuals, axis=1, keepdims=True)) ** 2
    nearest = np.mean(np.partition(squares, kept - 1, axis=1)[:, :kept], axis=1)
    end = _NORMAL.inv_cdf((1 + kept / n) / 2)
    truncated = 1 - 2 * end * _NORMAL.pdf(end) * n / kept
    return np.asarray(np.sqrt(nearest / truncated * n / (n - 2)))  # the line took two degrees of freedom


def _kendall_z(scores: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """Absolute standard score of Kendall's S of each row, with corrections for ties and continuity."""
    n = scores.shape[1]
    equal = np.sum(scores[:, :, np.newaxis] == scores[:, np.newaxis, :], axis=2)
    tied = np.sum((equal - 1) * (2 * equal + 5), axis=1)
    variance = (n * (n - 1) * (2 * n + 5) - tied) / 18
    s = np.maximum(np.abs(np.sum(signs, axis=1)) - 1, 0)
    return np.asarray(s / np.sqrt(np.where(variance > 0, variance, 1.0)))
