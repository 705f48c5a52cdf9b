"""Search spaces: every hyperparameter maps to the unit interval, where a step means the same for all of them."""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping

from keras_optix.errors import ConfigurationError, describe
from keras_optix.validation import check_float


class SearchSpace(abc.ABC):
    """A closed interval of values with a scale.

    Args:
        low: Smallest value.
        high: Largest value, above `low`.

    Raises:
        ConfigurationError: The bounds are not finite, not in order, or outside what the scale can take.
    """

    def __init__(self, low: float, high: float) -> None:
        self.low = check_float("low", low)
        self.high = check_float("high", high)
        if self.low >= self.high:
            raise ConfigurationError(describe("`low` must be below `high`.", low=low, high=high))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.low:g}, {self.high:g})"

    @abc.abstractmethod
    def _forward(self, value: float) -> float:
        """Maps a value to a coordinate in which the scale is linear."""

    @abc.abstractmethod
    def _backward(self, coordinate: float) -> float:
        """Inverts `_forward`."""

    def to_unit(self, value: float) -> float:
        """Maps a value to [0, 1]; values outside the bounds are clipped."""
        clipped = min(max(float(value), self.low), self.high)
        start, end = self._forward(self.low), self._forward(self.high)
        return min(max((self._forward(clipped) - start) / (end - start), 0.0), 1.0)

    def from_unit(self, unit: float) -> float:
        """Maps [0, 1] to a value; never leaves the bounds."""
        start, end = self._forward(self.low), self._forward(self.high)
        value = self._backward(start + min(max(float(unit), 0.0), 1.0) * (end - start))
        return min(max(value, self.low), self.high)


class Linear(SearchSpace):
    """A linear scale."""

    def _forward(self, value: float) -> float:
        return value

    def _backward(self, coordinate: float) -> float:
        return coordinate


class Int(Linear):
    """A linear scale on whole numbers; `from_unit` rounds."""

    def __init__(self, low: int, high: int) -> None:
        super().__init__(low, high)
        if not (self.low.is_integer() and self.high.is_integer()):
            raise ConfigurationError(describe("`Int` needs whole numbers.", low=low, high=high))

    def _backward(self, coordinate: float) -> float:
        return float(round(coordinate))


class Log(SearchSpace):
    """A logarithmic scale, for learning rates and coefficients; `low` must be positive."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__(low, high)
        if self.low <= 0.0:
            raise ConfigurationError(
                describe("`Log` needs positive bounds.", fix="Use `Linear` for a range that holds 0.", low=low)
            )

    def _forward(self, value: float) -> float:
        return math.log(value)

    def _backward(self, coordinate: float) -> float:
        return math.exp(coordinate)


class OneMinusLog(SearchSpace):
    """A logarithmic scale on ``1 - value``, for discounts and decays; `high` must be below 1."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__(low, high)
        if self.high >= 1.0:
            raise ConfigurationError(describe("`OneMinusLog` needs bounds below 1.", high=high))

    def _forward(self, value: float) -> float:
        return -math.log1p(-value)

    def _backward(self, coordinate: float) -> float:
        return -math.expm1(-coordinate)


_ONE_MINUS_LOG_NAMES = ("gamma", "discount", "gae_lambda", "lambda", "beta_1", "beta_2", "momentum", "decay")


def infer_space(name: str, bounds: SearchSpace | tuple[float, float]) -> SearchSpace:
    """Returns the search space for a hyperparameter.

    A `SearchSpace` is returned as it is. Of a tuple, the scale is inferred: `OneMinusLog` where the name ends in one
    of gamma, discount, lambda, beta_1, beta_2, momentum, decay and the bounds lie in [0, 1); else `Log` where the
    bounds are positive and at least a factor of 10 apart; else `Linear`.

    Raises:
        ConfigurationError: `bounds` is neither a `SearchSpace` nor a pair of numbers in order.
    """
    if isinstance(bounds, SearchSpace):
        return bounds
    if not isinstance(bounds, tuple | list) or len(bounds) != 2:
        raise ConfigurationError(
            describe(
                f"The bounds of hyperparameter {name!r} must be a pair (low, high) or a search space.",
                fix='For example {"learning_rate": (1e-5, 1e-2)} or {"learning_rate": Log(1e-5, 1e-2)}.',
                bounds=bounds,
            )
        )
    low, high = bounds
    linear = Linear(low, high)
    if name.endswith(_ONE_MINUS_LOG_NAMES) and linear.low >= 0.0 and linear.high < 1.0:
        return OneMinusLog(linear.low, linear.high)
    if linear.low > 0.0 and linear.high / linear.low >= 10.0:
        return Log(linear.low, linear.high)
    return linear


def infer_spaces(param_bounds: Mapping[str, SearchSpace | tuple[float, float]]) -> dict[str, SearchSpace]:
    """Applies `infer_space` to every entry.

    Raises:
        ConfigurationError: There is no entry, or one is invalid.
    """
    if not isinstance(param_bounds, Mapping) or not param_bounds:
        raise ConfigurationError(
            describe(
                "`param_bounds` must map at least one hyperparameter to its bounds.",
                fix='For example {"learning_rate": (1e-5, 1e-2)}.',
                param_bounds=param_bounds,
            )
        )
    return {name: infer_space(name, bounds) for name, bounds in param_bounds.items()}
