"""Whether scores from two places, the training environments and copies of them, are of one kind."""

from __future__ import annotations

import math

from msgspec.structs import replace

from keras_optix.states import Count, Finite, NonNegative, State
from keras_optix.statistics.estimates import Estimate, Evidence, as_normal_score, standardised

_LIMIT = 4.0  # standard errors: two-sided 1 in 16,000 for each look
_MARGIN = 0.5  # standard deviations of one episode
_ROUNDING = 1e-5  # of a score: batches of other sizes round differently, and episodes add that up
_REASON = "scores of copies minus training scores of the same weights"


class AgreementState(State, frozen=True):
    """What an `Agreement` knows.

    Attributes:
        comparisons: Comparisons so far.
        before: The score in training of weights that copies played since; None where none waits.
        copies: Their score by the copies.
        total: Sum of the standardised differences.
        differences: Sum of the differences.
        variances: Sum of their variances.
    """

    comparisons: Count = 0
    before: Estimate | None = None
    copies: Estimate | None = None
    total: Finite = 0.0
    differences: Finite = 0.0
    variances: NonNegative = 0.0


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
        state: What is known until now.
    """

    def __init__(self) -> None:
        self.state = AgreementState()

    @property
    def comparisons(self) -> int:
        """Comparisons so far."""
        return self.state.comparisons

    def reset(self) -> None:
        """Forgets everything."""
        self.state = AgreementState()

    def played(self, before: Estimate, copies: Estimate) -> None:
        """Some weights were scored in training, and then by copies.

        Args:
            before: The score in training.
            copies: The score by copies.
        """
        self.state = replace(self.state, before=before, copies=copies)

    def cancel(self) -> None:
        """Other weights act now: the next score in training says nothing about those."""
        self.state = replace(self.state, before=None, copies=None)

    def observe(self, after: Estimate) -> Evidence | None:
        """Takes the next score in training.

        Returns:
            The evidence that the copies are other environments; None if there is none.
        """
        before, copies = self.state.before, self.state.copies
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


_MOST = 20.0  # a standardised difference counts for no more: one cannot decide for all that follow


def _is_sampled(estimate: Estimate) -> bool:
    """Whether the noise of an estimate is known from several episodes."""
    return estimate.n > 1 and math.isfinite(estimate.stderr)
