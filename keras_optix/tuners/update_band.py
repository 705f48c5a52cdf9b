"""Finds a plausible learning rate from the size of the updates, without extra environment steps.

The KL divergence of an update measures how far it moves the policy. After a few windows it shows whether a learning
rate is wrong by decades, while scores are still flat (Schulman et al. 2017, section 4, already bound the KL divergence
of PPO). Where an agent learns from a replay buffer, the size is that of a gradient step: by how much it moves the
predictions of its batch, as a share of their errors. It does not tell which of two plausible learning rates is better.
So it is used only while no score speaks for the current value, and asks for nothing while the updates lie inside the
band.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from msgspec.structs import replace

from keras_optix.records import EFFECTIVE_STEP_SIZE
from keras_optix.states import Finite, NonNegative, State
from keras_optix.statistics.estimates import Evidence, as_normal_score, estimate_from_samples

_FEWEST = 3  # updates
_SETTLED = 8  # updates after which a learning rate that the band did not change is taken to be right
_MOST = 16
_SIGNIFICANCE = 2.0
APPROX_KL: Final = "approx_kl"
# By log: the learning rate is about the size to the power of this. For a KL divergence it is between lr ~ KL (noisy
# gradients) and lr ~ sqrt(KL) (steady ones); a gradient step moves predictions in proportion to the learning rate.
EXPONENTS = {APPROX_KL: 2.0 / 3.0, EFFECTIVE_STEP_SIZE: 1.0}
_LARGEST_MOVE = 1.0  # decades
_SMALLEST = 1e-12  # a KL divergence of 0 (or below 0 by rounding) has no logarithm


@dataclass(frozen=True)
class Move:
    """A change of the learning rate that the size of the updates suggests.

    Attributes:
        factor: Factor by which to multiply the learning rate.
        evidence: Distance of the updates from the band, in decades of their size.
    """

    factor: float
    evidence: Evidence


class UpdateBand(State, frozen=True):
    """State of the search for a learning rate whose updates lie in a band.

    A search begins when the geometric mean of the updates lies significantly outside the band. It ends when the mean
    lies in the inner third (in decades), or when the search would turn back.

    Attributes:
        low: Lower edge of the band.
        high: Upper edge of the band.
        log: The log that measures the updates, one of `EXPONENTS`.
        sizes: Logarithms (base 10) of the sizes of the updates with the current learning rate.
        direction: 1 while the search goes upwards, -1 while it goes downwards, 0 while there is no search.
        over: Whether the search has ended for good.
    """

    low: NonNegative
    high: NonNegative
    log: Literal["approx_kl", "effective_step_size"] = APPROX_KL
    sizes: tuple[Finite, ...] = ()
    direction: Literal[-1, 0, 1] = 0
    over: bool = False

    @property
    def pending(self) -> bool:
        """Whether a change may still come: a search is running, or too few updates were seen. False without updates."""
        return not self.over and (self.direction != 0 or 0 < len(self.sizes) < _SETTLED)

    def add(self, size: float) -> UpdateBand:
        """Adds an update and keeps the latest 16."""
        return replace(self, sizes=(*self.sizes, size_of(size))[-_MOST:])

    def forget(self) -> UpdateBand:
        """Clears the updates, because the learning rate was changed."""
        return replace(self, sizes=())

    def rest(self, *, over: bool = False) -> UpdateBand:
        """Ends a search without making the suggested change.

        Args:
            over: Whether the search has ended for good.
        """
        return replace(self, sizes=(), direction=0, over=over or self.over)

    @property
    def above(self) -> bool:
        """Whether the updates are significantly too large, or too few are known to tell."""
        return len(self.sizes) < _FEWEST or outside(self.sizes, -math.inf, self.high, self.log) is not None

    def ask(self) -> tuple[UpdateBand, Move | None]:
        """Decides whether the learning rate should change.

        Returns:
            The next state, and the change or None.
        """
        if self.over or len(self.sizes) < _FEWEST:
            return self, None
        low, high = self.low, self.high
        middle = math.sqrt(low * high)
        if self.direction:
            third = (high / low) ** (1.0 / 6.0)
            low, high = middle / third, middle * third
        found, mean = outside(self.sizes, low, high, self.log), estimate_from_samples(self.sizes).mean
        if found is None:
            inside = math.log10(low) <= mean <= math.log10(high)
            # Late errors that grow because values diverge make each step small beside them: no reason for larger ones.
            settled = self.log == EFFECTIVE_STEP_SIZE and len(self.sizes) >= _SETTLED
            return (replace(self, over=True, direction=0) if (self.direction and inside) or settled else self), None
        towards: Literal[-1, 1] = -1 if found.difference > 0.0 else 1
        if self.direction == -towards:
            return replace(self, over=True, direction=0), None
        decades = min(max(EXPONENTS[self.log] * (math.log10(middle) - mean), -_LARGEST_MOVE), _LARGEST_MOVE)
        return replace(self, sizes=(), direction=towards), Move(10.0**decades, found)


def size_of(update: float) -> float:
    """Returns the logarithm (base 10) of the size of an update."""
    return math.log10(max(update, _SMALLEST))


def outside(sizes: Sequence[float], low: float, high: float, log: str = APPROX_KL) -> Evidence | None:
    """Returns evidence, in decades, that the geometric mean of updates lies outside a band, or None.

    Args:
        sizes: Logarithms of the sizes of the updates.
        low: Lower edge; a number up to 0 means that there is no lower edge.
        high: Upper edge.
        log: The log that measures the updates.
    """
    if len(sizes) < _FEWEST:
        return None
    estimate = estimate_from_samples(sizes)
    below = low > 0.0 and estimate.mean < math.log10(low)
    edge = low if below else high
    difference = estimate.mean - math.log10(edge)
    reason = f"{log} {10.0**estimate.mean:.2g} {'below' if below else 'above'} {edge:.2g} (in decades)"
    evidence = Evidence(difference, estimate.stderr, estimate.n, reason)
    z = as_normal_score(evidence.z, estimate.dof)
    return evidence if (z < -_SIGNIFICANCE if below else z > _SIGNIFICANCE) else None
