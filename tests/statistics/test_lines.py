"""Lines through scores: against SciPy's regression, and the coverage of their errors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from keras_optix.statistics.estimates import Estimate, estimate_from_samples
from keras_optix.statistics.lines import forecast


def test_the_line_is_that_of_least_squares() -> None:
    rng = np.random.default_rng(0)
    times = np.array([1.0, 2.0, 4.0, 8.0, 9.0, 15.0])
    values = 3.0 + 0.5 * times + rng.normal(0.0, 1.0, 6)
    line = forecast(times.tolist(), [Estimate(value, math.inf, 1) for value in values.tolist()], 20.0)
    fit = scipy.stats.linregress(times, values)
    assert line is not None
    assert line.mean == pytest.approx(fit.intercept + 20.0 * fit.slope)
    # The error of the line at 20: that of the mean at the centre, and of the slope from there.
    residual = math.sqrt(np.square(values - fit.intercept - fit.slope * times).sum() / 4)
    assert line.stderr == pytest.approx(math.hypot(residual / math.sqrt(6), fit.stderr * (20.0 - times.mean())))
    assert line.dof == 4.0


def test_a_score_of_many_samples_counts_as_that_many_scores() -> None:
    times, means, counts = [0.0, 1.0, 2.0, 3.0], [0.0, 2.0, 1.0, 4.0], [1, 5, 1, 3]
    line = forecast(times, [Estimate(m, math.inf, n) for m, n in zip(means, counts, strict=True)], 5.0)
    slope, intercept = np.polyfit(np.repeat(times, counts), np.repeat(means, counts), 1)
    assert line is not None
    assert line.mean == pytest.approx(intercept + 5.0 * slope)


def test_the_larger_of_the_two_errors_counts() -> None:
    times, straight = [0.0, 1.0, 2.0], [0.0, 1.0, 2.0]
    exact = forecast(times, [Estimate(m, math.inf, 1) for m in straight], 3.0)
    known = forecast(times, [Estimate(m, 0.5, 10) for m in straight], 3.0)
    wander = forecast(times, [Estimate(m, 0.5, 10) for m in (0.0, 9.0, 2.0)], 3.0)
    assert exact is not None
    assert known is not None
    assert wander is not None
    assert (exact.mean, exact.stderr) == (3.0, 0.0)
    assert exact.below(3.1) == math.inf
    assert known.dof == 27.0
    assert known.stderr == pytest.approx(0.5 * math.sqrt(1.0 / 3.0 + 2.0))
    assert wander.dof == 1.0
    assert wander.stderr > 9.0


@pytest.mark.parametrize(("times", "count"), [([0.0, 1.0], 2), ([2.0, 2.0, 2.0], 3), ([], 0)])
def test_there_is_no_line_through_too_little(times: list[float], count: int) -> None:
    assert forecast(times, [Estimate(1.0, 1.0, 10)] * count, 3.0) is None


def test_the_error_is_right_where_the_line_is() -> None:
    """Of 2,000 lines through scores of ten episodes, 80 % lie within their own one-sided 80 % limit, or a few more.

    The larger of two variances is taken, so the coverage may only be too high. Below 0.77 it falls by chance with
    probability 0.0005.
    """
    rng = np.random.default_rng(0)
    times = [0.0, 1.0, 2.0, 4.0, 8.0]
    limit = scipy.stats.norm.ppf(0.8)
    inside = 0
    for _ in range(2000):
        scores = [estimate_from_samples(rng.normal(0.5 * time, 2.0, 10)) for time in times]
        line = forecast(times, scores, 12.0)
        assert line is not None
        inside += line.below(6.0) <= limit
    assert 0.77 <= inside / 2000 <= 0.95
