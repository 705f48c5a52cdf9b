"""Names for how policies choose actions: distributions, their noise (`NoiseSpec`), and memory (`CarrySpec`)."""

from __future__ import annotations

from keras_optix.agents.distributions import (
    ActionDistribution,
    BernoulliDistribution,
    CategoricalDistribution,
    GaussianDistribution,
    MultiCategoricalDistribution,
    StateDependentNoise,
)
from keras_optix.agents.epsilon_greedy import EpsilonGreedyDistribution
from keras_optix.agents.squashed import (
    ReparameterizedDistribution,
    SquashedGaussianDistribution,
    SquashedStateDependentNoise,
)
from keras_optix.experience.actor import NoiseSpec
from keras_optix.experience.carry import CarrySpec

__all__ = [
    "ActionDistribution",
    "BernoulliDistribution",
    "CarrySpec",
    "CategoricalDistribution",
    "EpsilonGreedyDistribution",
    "GaussianDistribution",
    "MultiCategoricalDistribution",
    "NoiseSpec",
    "ReparameterizedDistribution",
    "SquashedGaussianDistribution",
    "SquashedStateDependentNoise",
    "StateDependentNoise",
]
