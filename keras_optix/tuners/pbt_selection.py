"""Who copies whom in population based training, how hyperparameters are perturbed, and the records of both."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist

import numpy as np

from keras_optix.states import Count, Finite, State
from keras_optix.statistics.estimates import Estimate, Evidence
from keras_optix.tuners.search_space import SearchSpace
from keras_optix.validation import check_float

_ROUNDING = 1e-9  # of quantile * size, which is no whole number where it should be one: 0.07 * 100
_MOST_SIGNIFICANT = 7.0  # beyond, the error rate is lost in the rounding of the normal distribution


class Verdict(State, frozen=True):
    """What was decided on a member when its round ended; it comes into force with the member's next turn.

    Attributes:
        kind: ``"exploit"``, ``"undecided"`` or ``"explore"``; the `TunerDecision.kind` to be.
        evidence: Why, or None where nothing was compared.
        cost: Environment steps of the round.
    """

    kind: str
    evidence: Evidence | None = None
    cost: Count = 0


class Record(State, frozen=True):
    """A member of the population; on one run, an evaluation of the history.

    Attributes:
        params: Hyperparameters that the score was earned with, or that its next turn begins with.
        score: The last evaluation; before the first, one that says nothing.
        state: Name of the kept state: on its next turn a member begins with it. None where none is kept.
        scores: Means of the member's latest scores, oldest first: its noise is estimated from them if it is not known.
            A member that copies another one takes over its scores with its weights. Empty on one run.
        verdict: What was decided at the end of the member's round, until its next turn begins.
    """

    params: dict[str, Finite]
    score: Estimate = Estimate(0.0, math.inf, 1)
    state: str | None = None
    scores: tuple[Finite, ...] = ()
    verdict: Verdict | None = None


class Selection:
    """The rules of truncation selection and of exploring.

    Args:
        quantile: Share of the records that are the top, and the bottom.
        perturbation_scale: Step of a perturbation, as a share of a hyperparameter's range in its space's coordinates.
        resample_probability: Probability that a hyperparameter is drawn anew instead.
        significance: Standard errors by which a record must lie below another one, were the two chosen blindly.

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
        """How many of `size` records are the top, and the bottom: at least one, and from two on they never overlap."""
        return max(min(math.ceil(self.quantile * size - _ROUNDING), size // 2), 1)

    def limit(self, size: int, rivals: int) -> float:
        """Standard errors that the bottom must lie below the top, given that both were chosen for their scores.

        The lowest of many equals looks bad and the highest good. With `n` at the bottom of `size`, the pairs that may
        be compared are ``n * rivals`` of the ``size * (size - 1)`` ordered ones. So of the comparisons of equals, the
        share found significant is at most ``size * (size - 1) / (n * rivals)`` times that of blind pairs (a union
        bound); the error rate is divided by it: 1.645 becomes 1.96 for two members, 2.81 for five.

        Args:
            size: How many records there are.
            rivals: How many of the top may be compared with.
        """
        share = self.count(size) * rivals / (size * (size - 1))
        return -NormalDist().inv_cdf(NormalDist().cdf(-self.significance) * share)

    def explored(
        self, params: Mapping[str, float], spaces: Mapping[str, SearchSpace], rng: np.random.Generator
    ) -> dict[str, float]:
        """Perturbs every hyperparameter: one step up or down, or, if so drawn, anywhere. Never leaves the bounds.

        A step of which a bound leaves less than half goes the other way. Clipped, a copy would often equal its
        original; two that are the same have the same score where there is no noise, and then neither ever copies or
        explores again.

        Args:
            params: Values to begin from.
            spaces: Search spaces of the hyperparameters to perturb.
            rng: Draws.
        """
        found = {}
        for name, space in spaces.items():
            unit = rng.random()
            if rng.random() >= self.resample_probability:
                unit = self._moved(space, space.to_unit(params[name]), 1.0 if unit < 0.5 else -1.0)
            found[name] = space.from_unit(unit)
        return found

    def _moved(self, space: SearchSpace, unit: float, sign: float) -> float:
        # On few whole numbers a smaller step would be rounded away, every time.
        step = max(self.perturbation_scale, space.resolution)
        room = 1.0 - unit if sign > 0.0 else unit
        if room < step / 2.0:
            sign = -sign
        return min(max(unit + sign * step, 0.0), 1.0)


def drawn(spaces: Mapping[str, SearchSpace], rng: np.random.Generator) -> dict[str, float]:
    """Draws a value of every hyperparameter, uniform in its space's coordinates."""
    return {name: space.from_unit(rng.random()) for name, space in spaces.items()}
