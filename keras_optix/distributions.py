"""How policies choose: the distributions that agents have by their actions, and the base class of one's own."""

from __future__ import annotations

from keras_optix.agents.distributions import (
    ActionDistribution,
    BernoulliDistribution,
    CategoricalDistribution,
    GaussianDistribution,
    MultiCategoricalDistribution,
)
from keras_optix.experience.actor import NoiseSpec

__all__ = [
    "ActionDistribution",
    "BernoulliDistribution",
    "CategoricalDistribution",
    "GaussianDistribution",
    "MultiCategoricalDistribution",
    "NoiseSpec",
]
