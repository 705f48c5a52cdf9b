"""Search spaces map every hyperparameter to the unit interval, where a step means the same for all of them."""

from __future__ import annotations

import abc
import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from keras_optix.arguments import NamesChecked
from keras_optix.errors import ConfigurationError, describe
from keras_optix.records import shortest
from keras_optix.validation import check_float

_LARGEST = shortest(np.finfo(np.float32).max)
_LARGEST_INT = 2**24  # float32 holds all whole numbers up to here


@dataclass(frozen=True, repr=False)
class SearchSpace(NamesChecked, abc.ABC):
    """A closed interval of values with a scale. It is immutable, and equal to another with the same scale and bounds.

    Hyperparameters are float32, and so are the bounds, written with as few digits as needed: 0.1 stays 0.1, 1 / 3
    becomes 0.33333334. So a value stays within the bounds when a float32 variable rounds it.

    To write your own scale, override `_forward` and `_backward`.

    Args:
        low: Smallest value.
        high: Largest value, above `low`.

    Raises:
        ConfigurationError: The bounds are not finite, not in order, or outside what the scale can take.

    Examples:
        >>> isinstance(optix.tuners.Log(1e-5, 1e-1), optix.tuners.SearchSpace)
        True
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        low, high = self.low, self.high
        for name, value in (("low", low), ("high", high)):
            object.__setattr__(self, name, shortest(check_float(name, value, low=-_LARGEST, high=_LARGEST)))
        if self.low >= self.high:
            equal = "They are one float32 number. Leave a constant out of the bounds."
            fix = "Swap them." if self.low > self.high else equal
            raise ConfigurationError(describe("`low` must be below `high`.", fix=fix, low=low, high=high))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.low!r}, {self.high!r})"

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    @property
    def resolution(self) -> float:
        """Smallest step in [0, 1] that leads from each value to the next; 0 if values are continuous."""
        return 0.0

    @abc.abstractmethod
    def _forward(self, value: float) -> float:
        """Maps a value to a coordinate that rises with the value and in which the scale is linear."""

    @abc.abstractmethod
    def _backward(self, coordinate: float) -> float:
        """Inverts `_forward`."""

    def to_unit(self, value: float) -> float:
        """Maps a value to [0, 1], `low` to 0 and `high` to 1; values outside the bounds are clipped.

        Raises:
            ConfigurationError: `value` is not a finite number.
        """
        clipped = min(max(check_float("value", value), self.low), self.high)
        start, end = self._forward(self.low), self._forward(self.high)
        return min(max((self._forward(clipped) - start) / (end - start), 0.0), 1.0)

    def from_unit(self, unit: float) -> float:
        """Maps [0, 1] to a value, 0 to `low` and 1 to `high`. The value never leaves the bounds, whatever `unit` is.

        Raises:
            ConfigurationError: `unit` is not a finite number.
        """
        unit = check_float("unit", unit)
        if unit <= 0.0:
            return self.low
        if unit >= 1.0:
            return self.high
        start, end = self._forward(self.low), self._forward(self.high)
        return min(max(self._backward(start + unit * (end - start)), self.low), self.high)


class Linear(SearchSpace):
    """A linear scale.

    Examples:
        >>> optix.tuners.Linear(0.0, 0.05).from_unit(0.5)
        0.025
    """

    def _forward(self, value: float) -> float:
        return value

    def _backward(self, coordinate: float) -> float:
        return coordinate


class Int(Linear):
    """A linear scale on whole numbers of at most 2**24 in size. Values are floats, and `from_unit` rounds them.

    Rounding gives the two ends half the share of [0, 1] that the other values have. With equal shares the ends would
    not be at 0 and 1, or the values not in the middle of their shares, and then a tuner's step up would not reach as
    far as its step down.

    Examples:
        >>> optix.BackoffOptimizer({"update_epochs": optix.tuners.Int(1, 20)}).__class__.__name__
        'BackoffOptimizer'
    """

    def __post_init__(self) -> None:
        for name, value in (("low", self.low), ("high", self.high)):
            fix = "Use `Log` or `Linear`: float32 skips whole numbers beyond 2**24."
            if not check_float(name, value, low=-_LARGEST_INT, high=_LARGEST_INT, fix=fix).is_integer():
                raise ConfigurationError(describe("`Int` needs whole numbers.", low=self.low, high=self.high))
        super().__post_init__()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({int(self.low)}, {int(self.high)})"

    def __contains__(self, value: float) -> bool:
        return super().__contains__(value) and float(value).is_integer()

    @property
    def resolution(self) -> float:
        """See `SearchSpace.resolution`."""
        return 1.0 / (self.high - self.low)

    def _backward(self, coordinate: float) -> float:
        # `round` takes the even neighbour of a midpoint: from a whole number, that is as far up as down.
        return float(round(coordinate))


class Log(SearchSpace):
    """A logarithmic scale, for learning rates and coefficients; `low` must be positive.

    Examples:
        >>> round(optix.tuners.Log(1e-5, 1e-1).from_unit(0.5), 6)  # the middle between 1e-5 and 1e-1
        0.001
    """

    def __post_init__(self) -> None:
        low = self.low
        super().__post_init__()
        if self.low <= 0.0:
            raise ConfigurationError(
                describe("`Log` needs positive bounds.", fix="Use `Linear` for a range that holds 0.", low=low)
            )

    def _forward(self, value: float) -> float:
        return math.log(value)

    def _backward(self, coordinate: float) -> float:
        return math.exp(coordinate)


class OneMinusLog(SearchSpace):
    """A logarithmic scale on ``1 - value``, for discounts and decays; `high` must be below 1, `low` may be negative.

    Examples:
        >>> round(optix.tuners.OneMinusLog(0.9, 0.999).from_unit(0.5), 4)  # logarithmic in the distance to 1
        0.99
    """

    def __post_init__(self) -> None:
        high = self.high
        super().__post_init__()
        if self.high >= 1.0:
            fix = "Use `Linear` for a range that holds 1; 0.99999994 is the float32 below it."
            raise ConfigurationError(describe("`OneMinusLog` needs bounds below 1.", fix=fix, high=high))

    def _forward(self, value: float) -> float:
        return -math.log1p(-value)

    def _backward(self, coordinate: float) -> float:
        return -math.expm1(-coordinate)


_NEAR_ONE = ("_gamma", "_discount", "_lambda", "_beta_1", "_beta_2", "_momentum", "_decay")
_COUNTS = ("_epochs", "_steps", "_size", "_units", "_layers", "_interval", "_horizon")


def infer_space(name: str, bounds: SearchSpace | tuple[float, float]) -> SearchSpace:
    """Returns the search space for a hyperparameter.

    A `SearchSpace` is returned unchanged. For a pair, the scale is inferred from the name and the bounds; the first
    line that fits decides:

    - `OneMinusLog`: the last word of the name is gamma, discount, lambda, beta_1, beta_2, momentum or decay, the lower
      bound is at least 0 and the upper one in [0.5, 1). (The upper bound of a weight decay is far below 0.5.)
    - `Int`: the last word is epochs, steps, size, units, layers, interval or horizon, or the first is num or n, and
      both bounds are integers: ``(1, 20)``, not ``(1.0, 20.0)``.
    - `Log`: both bounds are positive and at least a factor of 10 apart.
    - `Linear`: everything else.

    Underscores separate the words of a name.

    Args:
        name: Name of the hyperparameter.
        bounds: ``(low, high)`` or a search space.

    Returns:
        The search space.

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
    try:
        return _scale_of(name, *bounds)(*bounds)
    except ConfigurationError as error:
        raise ConfigurationError(f"Hyperparameter {name!r}: {error}") from None


def _scale_of(name: str, low: float, high: float) -> type[SearchSpace]:
    """See `infer_space`."""
    words = "_" + name.strip("_")  # `lambda` is a keyword in Python, so its name is often `lambda_`
    linear = Linear(low, high)
    if words.endswith(_NEAR_ONE) and linear.low >= 0.0 and 0.5 <= linear.high < 1.0:
        return OneMinusLog
    counts = words.endswith(_COUNTS) or words.startswith(("_num_", "_n_"))
    if counts and isinstance(low, numbers.Integral) and isinstance(high, numbers.Integral):
        return Int
    if linear.low > 0.0 and linear.high / linear.low >= 10.0:
        return Log
    return Linear


def infer_spaces(param_bounds: Mapping[str, SearchSpace | tuple[float, float]]) -> dict[str, SearchSpace]:
    """Applies `infer_space` to every entry.

    Args:
        param_bounds: Bounds by name.

    Returns:
        Search spaces by name, in the order of `param_bounds`.

    Raises:
        ConfigurationError: There is no entry, or an entry is invalid.
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
