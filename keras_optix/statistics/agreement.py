"""Whether scores from two places, the training environments and copies of them, are of one kind."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from keras_optix.statistics.estimates import Estimate, Evidence, as_normal_score, standardised

_LIMIT = 4.0  # standard errors: two-sided 1 in 16,000 for each look
_MARGIN = 0.5  # standard deviations of one episode
_ROUNDING = 1e-5  # of a score: batches of other sizes round differently, and episodes add that up
_REASON = "scores of copies minus training scores of the same weights"


class Agreement:
    """Compares what the same weights earn in training and in copies of the environments, and keeps count.

    A comparison needs three scores: training before, the copies, training after. The weights that the copies played
    earn something between the two from training, however fast learning was, if it went one way; so a difference is
    how far the score of the copies is outside of that range. The score before was often chosen for being high (a
    candidate is), which only widens the range. Learning that turns in between can still leave it, so a difference
    counts only beyond half a standard deviation of one episode, and beyond what rounding can do where scores have no
    noise. Standardised differences are pooled over all comparisons by Stouffer's method, and four standard errors say
    that the copies are other environments. The number of comparisons doubles from one decision to the next, so that a
    run takes few: with 15 decisions (30,000 comparisons) fewer than 1 run in 1,000 is told so falsely, and far fewer by
    the range and the margin.

    Attributes:
        comparisons: Comparisons so far.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forgets everything."""
        self.comparisons = 0
        self._before: Estimate | None = None
        self._copies: Estimate | None = None
        self._sum = 0.0  # of standardised differences
        self._differences = 0.0
        self._variances = 0.0

    def played(self, before: Estimate, copies: Estimate) -> None:
        """Some weights were scored in training, and then by copies.

        Args:
            before: The score in training.
            copies: The score by copies.
        """
        self._before, self._copies = before, copies

    def cancel(self) -> None:
        """Other weights act now: the next score in training says nothing about those."""
        self._before = self._copies = None

    def observe(self, after: Estimate) -> Evidence | None:
        """Takes the next score in training.

        Returns:
            The evidence that the copies are other environments; None if there is none.
        """
        before, copies = self._before, self._copies
        self.cancel()
        if before is None or copies is None or not all(_is_sampled(e) for e in (before, copies, after)):
            return None
        nearest = min(max(copies.mean, min(before.mean, after.mean)), max(before.mean, after.mean))
        difference = copies.mean - nearest
        bound = before if abs(copies.mean - before.mean) < abs(copies.mean - after.mean) else after
        variances = (copies.stderr**2, bound.stderr**2)
        deviation = math.sqrt(sum(e.stderr**2 * e.n for e in (before, copies, after)) / 3.0)
        rounding = _ROUNDING * max(abs(e.mean) for e in (before, copies, after))
        beyond = max(abs(difference) - max(_MARGIN * deviation, rounding), 0.0)
        squares = sum(v * v / max(e.n - 1, 1) for v, e in zip(variances, (copies, bound), strict=True))
        dof = sum(variances) ** 2 / squares if squares > 0.0 else math.inf
        z = as_normal_score(standardised(math.copysign(beyond, difference), math.sqrt(sum(variances))), dof)
        self.comparisons += 1
        self._sum += max(-_MOST, min(z, _MOST))
        self._differences += difference
        self._variances += sum(variances)
        if self.comparisons & (self.comparisons - 1) or abs(self._sum) / math.sqrt(self.comparisons) <= _LIMIT:
            return None
        k = self.comparisons
        return Evidence(self._differences / k, math.sqrt(self._variances) / k, k, _REASON)

    def to_json(self) -> dict[str, Any]:
        """Returns all that is kept as JSON values."""
        waiting = None
        if self._before is not None and self._copies is not None:
            waiting = [self._before.to_json(), self._copies.to_json()]
        return {
            "comparisons": self.comparisons,
            "waiting": waiting,
            "sums": [self._sum, self._differences, self._variances],
        }

    def from_json(self, values: Mapping[str, Any]) -> None:
        """Restores what `to_json` returned."""
        self.reset()
        self.comparisons = int(values["comparisons"])
        self._sum, self._differences, self._variances = (float(value) for value in values["sums"])
        if values["waiting"] is not None:
            self._before, self._copies = (Estimate.from_json(value) for value in values["waiting"])


_MOST = 20.0  # a standardised difference counts for no more: one cannot decide for all that follow


def _is_sampled(estimate: Estimate) -> bool:
    """Whether the noise of an estimate is known from several episodes."""
    return estimate.n > 1 and math.isfinite(estimate.stderr)
