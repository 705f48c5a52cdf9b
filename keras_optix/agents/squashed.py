"""Distributions over bounded Box actions that never leave the bounds: the hyperbolic tangent of a Gaussian."""

from __future__ import annotations

import abc
from typing import Any

import keras
import numpy as np

from keras_optix.agents.distributions import ActionDistribution, OverActions, StateDependentNoise
from keras_optix.errors import SpaceError, describe
from keras_optix.experience.actions import ContinuousActions
from keras_optix.experience.actor import NoiseSpec
from keras_optix.ops.distributions import Distribution
from keras_optix.ops.squashed import SquashedGaussian, SquashedStateDependentGaussian


class ReparameterizedDistribution(ActionDistribution):
    """A distribution over Box actions whose samples are differentiable functions of its parameters.

    `SACAgent` learns from the gradient of the action's value with respect to the action, so it needs one.

    Examples:
        >>> squashed = optix.distributions.SquashedGaussianDistribution()
        >>> isinstance(squashed, optix.distributions.ReparameterizedDistribution)
        True
    """

    @abc.abstractmethod
    def sample_with_log_prob(self, parameters: Any, noise: Any) -> tuple[Any, Any]:
        """Chooses actions, and computes their log-densities.

        Args:
            parameters: ``[B, P]`` float32.
            noise: ``[B, k]`` float32, standard normal, for k axes.

        Returns:
            ``(choices [B, k], log_probs [B])``, both differentiable with respect to the parameters.
        """


def unbounded_axes(action_space: Any) -> list[int]:
    """Returns the numbers of those axes of a Box that lack a lower or an upper bound."""
    low, high = np.ravel(action_space.low), np.ravel(action_space.high)
    axes: list[int] = np.flatnonzero(~(np.isfinite(low) & np.isfinite(high))).tolist()
    return axes


def check_bounded(name: str, action_space: Any) -> None:
    """Checks that all axes of an action space have bounds.

    Args:
        name: Name of the class that needs them, for the message.
        action_space: A Box.

    Raises:
        SpaceError: There are axes without a lower or an upper bound.
    """
    unbounded = unbounded_axes(action_space)
    if unbounded:
        problem = f"{name} gives actions between bounds, but axes of the action space have none."
        fix = "Wrap the environment in gymnasium.wrappers.RescaleAction or another wrapper that gives them bounds."
        raise SpaceError(describe(problem, fix=fix, axes=unbounded, action_space=action_space))


@keras.saving.register_keras_serializable("keras_optix")
class SquashedGaussianDistribution(OverActions, ReparameterizedDistribution):
    """The hyperbolic tangent of a Gaussian with independent axes. The default of `SACAgent`.

    For Box actions whose axes all have bounds, which it never leaves (Haarnoja et al. 2018, arXiv 1812.05905, appendix
    C). A network gives means and log standard deviations, which are clipped to -20 .. 2, or the means alone. The most
    likely action is taken to be the hyperbolic tangent of the mean. Its noise is standard normal ``[k]``. See
    `keras_optix.ops.squashed.Squashed` for how exact the log-density and the entropy are.

    Examples:
        >>> agent = optix.SACAgent()  # has one
        >>> own = optix.PPOAgent(distribution=optix.distributions.SquashedGaussianDistribution())
    """

    _kind = ContinuousActions
    _over: SquashedGaussian

    def build(self, action_space: Any) -> None:
        """See `ActionDistribution.build`."""
        super().build(action_space)
        check_bounded(type(self).__name__, action_space)

    def _parts(self, actions: Any) -> tuple[Distribution, NoiseSpec]:
        return SquashedGaussian(actions.shape[0]), NoiseSpec("normal", actions.shape)

    def sample_with_log_prob(self, parameters: Any, noise: Any) -> tuple[Any, Any]:
        """See `ReparameterizedDistribution.sample_with_log_prob`."""
        return self._over.sample_with_log_prob(parameters, noise)

    @property
    def outputs(self) -> tuple[int, ...]:
        """See `ActionDistribution.outputs`."""
        return self.parameters, self.parameters // 2

    def meaning(self, action_space: Any) -> str:
        """See `ActionDistribution.meaning`."""
        return f"the mean and the log standard deviation of each axis of {action_space}, or the means alone"


@keras.saving.register_keras_serializable("keras_optix")
class SquashedStateDependentNoise(StateDependentNoise, ReparameterizedDistribution):
    """The hyperbolic tangent of a Gaussian with state-dependent noise; see `StateDependentNoise`.

    For Box actions whose axes all have bounds. In Stable-Baselines3 it is ``SAC(use_sde=True)``, whose defaults these
    are, except for `resample_every`. The means are clipped to -2 .. 2. A gradient step of `SACAgent` draws its actions
    from the distribution over all matrices, so that it does not depend on which matrix is held.

    Args:
        resample_every: See `StateDependentNoise`. Defaults to 4.
        features: The number of features. Defaults to 256, the last hidden layer of the default network of `SACAgent`.
        log_std: The log standard deviation of the matrix's entries at first. Defaults to -3.
        learn_features: Whether the features learn from the variance of the noise, too. Defaults to True.

    Raises:
        ConfigurationError: An argument is out of range.

    Examples:
        >>> noise = optix.distributions.SquashedStateDependentNoise(resample_every=8)
        >>> agent = optix.SACAgent(distribution=noise)
    """

    _over: SquashedStateDependentGaussian

    def __init__(
        self,
        resample_every: int | None = 4,
        *,
        features: int = 256,
        log_std: float = -3.0,
        learn_features: bool = True,
    ) -> None:
        super().__init__(resample_every, features=features, log_std=log_std, learn_features=learn_features)

    def build(self, action_space: Any) -> None:
        """See `ActionDistribution.build`."""
        super().build(action_space)
        check_bounded(type(self).__name__, action_space)

    def _parts(self, actions: Any) -> tuple[Distribution, NoiseSpec]:
        _, noise = super()._parts(actions)
        over = SquashedStateDependentGaussian(actions.shape[0], self.features, self.learn_features)
        return over, noise

    def sample_with_log_prob(self, parameters: Any, noise: Any) -> tuple[Any, Any]:
        """See `ReparameterizedDistribution.sample_with_log_prob`."""
        return self._over.sample_with_log_prob(parameters, noise)
