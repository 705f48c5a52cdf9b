"""Statistics on scores: estimates with standard errors, tests and comparisons. Needs NumPy, and nothing of the loop."""

from __future__ import annotations

from keras_optix.statistics.estimates import Estimate, Evidence

__all__ = [
    "Estimate",
    "Evidence",
]
