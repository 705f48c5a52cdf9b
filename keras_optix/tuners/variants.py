"""Makes variants of a policy by adding noise to its hyperparameters, within their bounds."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from keras_optix.records import shortest
from keras_optix.tuners.search_space import SearchSpace
from keras_optix.validation import check_float


def perturbed(
    values: Mapping[str, float], spaces: Mapping[str, SearchSpace], noise_scale: float, rng: np.random.Generator
) -> dict[str, float]:
    """Adds noise to hyperparameters, in the coordinates of their search spaces, where each range is [0, 1].

    The noise is normal. A step past a bound is reflected there; if it were clipped, many variants would lie on the
    bounds. Results are rounded to float32, so that a value stays within its bounds in a float32 variable.

    Args:
        values: Hyperparameters by name. A value outside its space is moved to the nearest bound first.
        spaces: Search spaces by name. A hyperparameter without a space is returned unchanged.
        noise_scale: Standard deviation of the noise as a share of each range, in [0, 1]; 0 changes no value that is in
            its space. For whole numbers it is at least the distance from one to the next, because smaller noise would
            mostly be rounded away.
        rng: Source of the random draws.

    Returns:
        All of `values`; those with a space are perturbed.

    Raises:
        ConfigurationError: `noise_scale` is out of range, or a value is not a finite number.
    """
    noise_scale = check_float("noise_scale", noise_scale, low=0.0, high=1.0)
    found = dict(values)
    for name, value in values.items():
        space = spaces.get(name)
        if space is None or (noise_scale == 0.0 and value in space):
            continue
        scale = max(noise_scale, space.resolution) if noise_scale > 0.0 else 0.0
        found[name] = shortest(space.from_unit(_reflected(space.to_unit(value) + rng.normal(0.0, scale))))
    return found


def _reflected(unit: float) -> float:
    """Folds the real line into [0, 1] by reflection at both ends."""
    return 1.0 - abs(unit % 2.0 - 1.0)
