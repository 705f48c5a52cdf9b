"""The significance levels of the loop's decisions, as standard normal scores."""

from __future__ import annotations

from statistics import NormalDist


def one_sided(confidence: float) -> float:
    """Returns the standard normal score that chance exceeds with probability ``1 - confidence``.

    Args:
        confidence: The confidence, in (0, 1).
    """
    return NormalDist().inv_cdf(confidence)


LIKELY_Z = one_sided(0.95)  # enough to prefer one of two policies
SURE_Z = one_sided(0.99)  # enough to decide after an alarm that the environment has changed
CERTAIN_Z = 4.0  # enough to decide this without an alarm: 1 in 32,000 by chance
TWO_SIDED_Z = one_sided(0.975)  # two-sided 5 %
