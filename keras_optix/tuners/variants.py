"""Variants of a policy: its hyperparameters with a little noise, never out of bounds."""

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

    The noise is normal. What leads past a bound is reflected there: clipped, many variants would lie on the bounds.
    Results are float32 values, written as hyperparameters are read, so that none leaves its bounds once a variable has
    held it.

    Args:
        values: Hyperparameters by name. One out of its space is brought into it first.
        spaces: Search spaces by name. A hyperparameter without one is returned as it is.
        noise_scale: Standard deviation of the noise as a share of each range, in [0, 1]; 0 changes no value that is in
            its space. Whole numbers get at least the distance from one to the next: less would mostly be rounded away.
        rng: Draws.

    Returns:
        All of `values`, those with a space perturbed.

    Raises:
        ConfigurationError: The noise is out of range, or a value is not a finite number.
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
    """Folds the real line into [0, 1] at both ends, as often as it takes."""
    return 1.0 - abs(unit % 2.0 - 1.0)
