"""Tests whether the training environments and copies of them give the same scores to the same weights."""

from __future__ import annotations

import math

from msgspec.structs import replace

from keras_optix.states import Count, Finite, NonNegative, State
from keras_optix.statistics.estimates import Estimate, Evidence, as_normal_score, standardised

_LIMIT = 4.0  # standard errors: two-sided 1 in 16,000 for each test
_MARGIN = 0.5  # standard deviations of one episode
_ROUNDING = 1e-5  # share of a score: batches of other sizes round differently, and episodes sum the differences
_REASON = "scores of copies minus training scores of the same weights"


class AgreementState(State, frozen=True):
    """The state of an `Agreement`.

    Attributes:
        comparisons: Number of comparisons so far.
        before: The score in training of the weights that were then scored in copies; None if no comparison is open.
        copies: The score of the same weights in copies.
        total: Sum of the standardised differences.
        differences: Sum of the differences.
        variances: Sum of the variances of the differences.
    """

    comparisons: Count = 0
    before: Estimate | None = None
    copies: Estimate | None = None
    total: Finite = 0.0
    differences: Finite = 0.0
    variances: NonNegative = 0.0


class Agreement:
    """Compares the scores of the same weights in training and in copies of the environments, and pools the differences.

    A comparison needs three scores: in training before, in the copies, and in training after. If learning went in one
    direction, however fast, the score in the copies should lie between the two scores in training. The difference is
    how far it lies outside this range. The score before was often chosen for being high (like that of a candidate),
    which only widens the range. Learning that changes direction can leave the range, so a difference counts only beyond
    half a standard deviation of one episode, and beyond rounding if scores have no noise. Standardised differences are
    pooled over all comparisons by Stouffer's method. At four standard errors, the copies are taken to be different
    environments. The number of comparisons doubles from one test to the next, so that a run has few tests: with 15
    tests (30,000 comparisons), fewer than 1 run in 1,000 gives a false alarm, and the range and the margin make this
    far rarer.

    Attributes:
        state: The state of the comparisons so far.
    """

    def __init__(self) -> None:
        self.state = AgreementState()

    @property
    def comparisons(self) -> int:
        """Number of comparisons so far."""
        return self.state.comparisons

    def reset(self) -> None:
        """Clears all comparisons."""
        self.state = AgreementState()

    def played(self, before: Estimate, copies: Estimate) -> None:
        """Begins a comparison: weights were scored in training, and then in copies.

        Args:
            before: The score in training.
            copies: The score in copies.
        """
        self.state = replace(self.state, before=before, copies=copies)

    def cancel(self) -> None:
        """Cancels a comparison, because the next score in training belongs to other weights."""
        self.state = replace(self.state, before=None, copies=None)

    def observe(self, after: Estimate) -> Evidence | None:
        """Completes a comparison with the next score in training.

        Returns:
            Evidence that the copies are different environments, or None.
        """
        before, copies = self.state.before, self.state.copies
        self.cancel()
        if before is None or copies is None or not all(_is_sampled(e) for e in (before, copies, after)):
            return None
        nearest = min(max(copies.mean, min(before.mean, after.mean)), max(before.mean, after.mean))
        difference = copies.mean - nearest
        bound = before if abs(copies.mean - before.mean) < abs(copies.mean - after.mean) else after
        variances = (copies.stderr * copies.stderr, bound.stderr * bound.stderr)
        deviation = math.sqrt(sum(e.stderr * e.stderr * e.n for e in (before, copies, after)) / 3.0)
        rounding = _ROUNDING * max(abs(e.mean) for e in (before, copies, after))
        beyond = max(abs(difference) - max(_MARGIN * deviation, rounding), 0.0)
        squares = sum(v * v / max(e.n - 1, 1) for v, e in zip(variances, (copies, bound), strict=True))
        dof = sum(variances) * sum(variances) / squares if squares > 0.0 else math.inf
        z = as_normal_score(standardised(math.copysign(beyond, difference), math.sqrt(sum(variances))), dof)
        state = self.state = replace(
            self.state,
            comparisons=self.state.comparisons + 1,
            total=self.state.total + max(-_MOST, min(z, _MOST)),
            differences=self.state.differences + difference,
            variances=self.state.variances + sum(variances),
        )
        k = state.comparisons
        if k & (k - 1) or abs(state.total) / math.sqrt(k) <= _LIMIT:
            return None
        return Evidence(state.differences / k, math.sqrt(state.variances) / k, k, _REASON)


_MOST = 20.0  # limit of a standardised difference, so that a single one cannot decide all later tests


def _is_sampled(estimate: Estimate) -> bool:
    """Returns whether the noise of an estimate is known from several episodes."""
    return estimate.n > 1 and math.isfinite(estimate.stderr)
