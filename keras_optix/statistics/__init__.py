"""Numbers with their uncertainty: estimates, tests, comparisons. NumPy, and nothing of the loop."""

from __future__ import annotations

from keras_optix.statistics.estimates import Estimate, Evidence

__all__ = [
    "Estimate",
    "Evidence",
]
