"""The rules of population based training: which member copies which, and how hyperparameters are perturbed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist

import numpy as np

from keras_optix.states import Count, Finite, State
from keras_optix.statistics.estimates import Estimate, Evidence
from keras_optix.tuners.search_space import SearchSpace
from keras_optix.validation import check_float

_ROUNDING = 1e-9  # error of quantile * size where it should be a whole number: 0.07 * 100
_MOST_SIGNIFICANT = 7.0  # above it, rounding of the normal distribution hides the error rate


class Verdict(State, frozen=True):
    """The decision about a member at the end of a round, which is applied when the member's next turn begins.

    Attributes:
        kind: ``"exploit"``, ``"undecided"`` or ``"explore"``; it becomes the `TunerDecision.kind`.
        evidence: The comparison, or None if nothing was compared.
        cost: Environment steps of the round.
    """

    kind: str
    evidence: Evidence | None = None
    cost: Count = 0


class Record(State, frozen=True):
    """A member of the population; on one run, an evaluation of the history.

    Attributes:
        params: Hyperparameters that the score was earned with, or with which the member's next turn begins.
        score: The last evaluation; before the first one, a score with infinite standard error.
        state: Name of the stored state with which the member's next turn begins; None if no state is stored.
        scores: Means of the member's latest scores, oldest first, from which unknown noise is estimated. A member that
            copies another one takes over its scores with its weights. Empty on one run.
        verdict: What was decided at the end of the member's round, until its next turn begins.
    """

    params: dict[str, Finite]
    score: Estimate = Estimate(0.0, math.inf, 1)
    state: str | None = None
    scores: tuple[Finite, ...] = ()
    verdict: Verdict | None = None


class Selection:
    """Applies the rules of truncation selection and of exploring.

    Args:
        quantile: Share of the records that form the top, and share that form the bottom.
        perturbation_scale: Step of a perturbation, as a share of a hyperparameter's range in its space's coordinates.
        resample_probability: Probability that a hyperparameter is drawn anew instead.
        significance: Standard errors by which a record must lie below another one if the two were chosen at random.

    Raises:
        ConfigurationError: An argument is out of range.
    """

    def __init__(
        self, quantile: float, perturbation_scale: float, resample_probability: float, significance: float
    ) -> None:
        self.quantile = check_float("quantile", quantile, low=0.0, high=0.5, low_open=True)
        self.perturbation_scale = check_float(
            "perturbation_scale", perturbation_scale, low=0.0, high=1.0, low_open=True
        )
        self.resample_probability = check_float("resample_probability", resample_probability, low=0.0, high=1.0)
        self.significance = check_float("significance", significance, low=0.0, high=_MOST_SIGNIFICANT)

    def count(self, size: int) -> int:
        """Returns how many of `size` records form the top (and the bottom): at least one, and from two on disjoint."""
        return max(min(math.ceil(self.quantile * size - _ROUNDING), size // 2), 1)

    def limit(self, size: int, rivals: int) -> float:
        """Returns by how many standard errors the bottom must lie below the top, since both were chosen by score.

        Among equally good records, the lowest score looks bad and the highest looks good. With `n` records at the
        bottom of `size`, ``n * rivals`` of the ``size * (size - 1)`` ordered pairs may be compared. So among equals,
        the share of significant comparisons is at most ``size * (size - 1) / (n * rivals)`` times that of pairs chosen
        at random (a union bound). The error rate is divided by this factor: 1.645 becomes 1.96 for two members, 2.81
        for five.

        Args:
            size: Number of records.
            rivals: Number of records at the top that may be compared.
        """
        share = self.count(size) * rivals / (size * (size - 1))
        return -NormalDist().inv_cdf(NormalDist().cdf(-self.significance) * share)

    def explored(
        self, params: Mapping[str, float], spaces: Mapping[str, SearchSpace], rng: np.random.Generator
    ) -> dict[str, float]:
        """Perturbs every hyperparameter by one step up or down, or draws it anew. Never leaves the bounds.

        If a bound leaves less than half of the step, the step goes the other way. If it were clipped instead, a copy
        would often equal its original. Without noise two equal members have the same score, and then neither would ever
        copy or explore again.

        Args:
            params: Values to begin from.
            spaces: Search spaces of the hyperparameters to perturb.
            rng: Source of the random draws.
        """
        found = {}
        for name, space in spaces.items():
            unit = rng.random()
            if rng.random() >= self.resample_probability:
                unit = self._moved(space, space.to_unit(params[name]), 1.0 if unit < 0.5 else -1.0)
            found[name] = space.from_unit(unit)
        return found

    def _moved(self, space: SearchSpace, unit: float, sign: float) -> float:
        # On a range of few whole numbers, a smaller step would always be rounded away.
        step = max(self.perturbation_scale, space.resolution)
        room = 1.0 - unit if sign > 0.0 else unit
        if room < step / 2.0:
            sign = -sign
        return min(max(unit + sign * step, 0.0), 1.0)


def drawn(spaces: Mapping[str, SearchSpace], rng: np.random.Generator) -> dict[str, float]:
    """Draws a value for every hyperparameter, uniform in the coordinates of its space."""
    return {name: space.from_unit(rng.random()) for name, space in spaces.items()}
