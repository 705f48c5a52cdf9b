"""Measures how long actions take from the observation until they are sent."""

from __future__ import annotations

import numpy as np

_KEPT = 4096


class LatencyMeter:
    """Keeps the last 4,096 durations, and counts those that were too long. One thread adds, others read.

    Args:
        deadline: Seconds; a longer duration counts as late.

    Attributes:
        late: The number of late actions.
    """

    def __init__(self, deadline: float) -> None:
        self.late = 0
        self._deadline = deadline
        self._durations = np.zeros(_KEPT)
        self._count = 0

    def add(self, seconds: float) -> None:
        """Adds a duration."""
        self._durations[self._count % _KEPT] = seconds
        self._count += 1
        self.late += seconds > self._deadline

    def percentiles(self, *percents: float) -> list[float]:
        """Returns percentiles of the last 4,096 durations in seconds; NaN before the first duration."""
        known = self._durations[: min(self._count, _KEPT)]
        return (
            [float(value) for value in np.percentile(known, percents)] if len(known) else [float("nan")] * len(percents)
        )
