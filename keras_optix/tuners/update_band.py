"""A learning rate by the size of its updates: a prior that costs no environment steps.

How far an update moves the policy, its KL divergence, tells after a few windows whether a learning rate is off by
decades, where scores are still flat (a band on the KL divergence is as old as PPO: Schulman et al. 2017, section 4). It
says nothing about which of two sane learning rates is better, so it is asked only while no score speaks for the
setting, and goes quiet where an update lies inside the band.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from msgspec.structs import replace

from keras_optix.states import Finite, NonNegative, State
from keras_optix.statistics.estimates import Evidence, as_normal_score, estimate_from_samples

_FEWEST = 3  # updates
_SETTLED = 8  # updates after which a band that asks for nothing is taken to be right
_MOST = 16
_SIGNIFICANCE = 2.0
_EXPONENT = 2.0 / 3.0  # between lr ~ KL (noisy gradients) and lr ~ sqrt(KL) (steady ones)
_LARGEST_MOVE = 1.0  # decades
_SMALLEST = 1e-12  # a KL divergence of 0, or below it by rounding, has no logarithm


@dataclass(frozen=True)
class Move:
    """What the size of the updates asks for.

    Attributes:
        factor: By which the learning rate should change.
        evidence: In decades of the KL divergence.
    """

    factor: float
    evidence: Evidence


class UpdateBand(State, frozen=True):
    """State of the search for a learning rate whose updates lie in a band.

    A search begins where the geometric mean of the updates lies significantly outside the band, and ends where it does
    not lie outside the inner third (in decades), or where it would turn back.

    Attributes:
        low: Lower edge of the band, in nats.
        high: Upper edge.
        sizes: Logarithms (base 10) of the updates with the current learning rate.
        direction: 1 while it searches upwards, -1 downwards, 0 while it does not.
        over: Whether it came to an end.
    """

    low: NonNegative
    high: NonNegative
    sizes: tuple[Finite, ...] = ()
    direction: Literal[-1, 0, 1] = 0
    over: bool = False

    @property
    def pending(self) -> bool:
        """Whether it may still ask for a change: it searches, or has seen too little. Without updates it is not."""
        return not self.over and (self.direction != 0 or 0 < len(self.sizes) < _SETTLED)

    def add(self, size: float) -> UpdateBand:
        """Adds an update; those before the latest 16 are forgotten."""
        return replace(self, sizes=(*self.sizes, size_of(size))[-_MOST:])

    def forget(self) -> UpdateBand:
        """There is another learning rate."""
        return replace(self, sizes=())

    def rest(self, *, over: bool = False) -> UpdateBand:
        """The change that was asked for is not made: it searches no longer.

        Args:
            over: Nor ever again.
        """
        return replace(self, sizes=(), direction=0, over=over or self.over)

    @property
    def above(self) -> bool:
        """Whether the updates are known to be too large, or nothing is known of them."""
        return len(self.sizes) < _FEWEST or outside(self.sizes, -math.inf, self.high) is not None

    def ask(self) -> tuple[UpdateBand, Move | None]:
        """Whether the learning rate should change.

        Returns:
            The state after it, and the change or None.
        """
        if self.over or len(self.sizes) < _FEWEST:
            return self, None
        low, high = self.low, self.high
        middle = math.sqrt(low * high)
        if self.direction:
            third = (high / low) ** (1.0 / 6.0)
            low, high = middle / third, middle * third
        found, mean = outside(self.sizes, low, high), estimate_from_samples(self.sizes).mean
        if found is None:
            inside = math.log10(low) <= mean <= math.log10(high)
            return (replace(self, over=True, direction=0) if self.direction and inside else self), None
        towards: Literal[-1, 1] = -1 if found.difference > 0.0 else 1
        if self.direction == -towards:
            return replace(self, over=True, direction=0), None
        decades = min(max(_EXPONENT * (math.log10(middle) - mean), -_LARGEST_MOVE), _LARGEST_MOVE)
        return replace(self, sizes=(), direction=towards), Move(10.0**decades, found)


def size_of(kl: float) -> float:
    """Logarithm (base 10) of a KL divergence."""
    return math.log10(max(kl, _SMALLEST))


def outside(sizes: Sequence[float], low: float, high: float) -> Evidence | None:
    """Evidence, in decades, that the geometric mean of updates lies outside a band; None if there is none.

    Args:
        sizes: Logarithms of the updates.
        low: Lower edge; any number up to 0: there is none.
        high: Upper edge.
    """
    if len(sizes) < _FEWEST:
        return None
    estimate = estimate_from_samples(sizes)
    below = low > 0.0 and estimate.mean < math.log10(low)
    edge = low if below else high
    difference = estimate.mean - math.log10(edge)
    reason = f"approx_kl {10.0**estimate.mean:.2g} {'below' if below else 'above'} {edge:.2g} (in decades)"
    evidence = Evidence(difference, estimate.stderr, estimate.n, reason)
    z = as_normal_score(evidence.z, estimate.dof)
    return evidence if (z < -_SIGNIFICANCE if below else z > _SIGNIFICANCE) else None
