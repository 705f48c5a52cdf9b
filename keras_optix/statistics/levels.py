"""How sure the decisions of the loop are, as standard normal scores."""

from __future__ import annotations

from statistics import NormalDist


def one_sided(confidence: float) -> float:
    """The standard normal score that chance exceeds with probability ``1 - confidence``.

    Args:
        confidence: In (0, 1).
    """
    return NormalDist().inv_cdf(confidence)


LIKELY_Z = one_sided(0.95)  # enough to prefer one of two policies
SURE_Z = one_sided(0.99)  # enough to say after an alarm that the environment has changed
CERTAIN_Z = 4.0  # enough to say so without an alarm: 1 in 32,000
TWO_SIDED_Z = one_sided(0.975)  # two-sided 5 %
