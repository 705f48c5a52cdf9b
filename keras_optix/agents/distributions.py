"""Distributions over actions, each with the noise that it is sampled with. You can add your own.

`ActionDistribution.sample` and `log_prob` are lowered to the actor. The mathematics of the distributions in this
package is in `keras_optix.ops.distributions`.
"""

from __future__ import annotations

import abc
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from keras_optix.errors import ConfigurationError, SpaceError, describe
from keras_optix.experience.actions import (
    Actions,
    ContinuousActions,
    DiscreteActions,
    MultiBinaryActions,
    MultiDiscreteActions,
    actions_for,
)
from keras_optix.experience.actor import NoiseSpec
from keras_optix.ops.distributions import Bernoulli, Categorical, DiagonalGaussian, Distribution, MultiCategorical
from keras_optix.reprs import OneLineRepr
from keras_optix.validation import check_kind

_ROWS = 2  # rows of the example that a user's own distribution is tried on


class ActionDistribution(OneLineRepr, abc.ABC):
    """A distribution over actions whose parameters are the outputs of the policy network.

    To write your own, derive a class from this one or from a distribution of the package, and give an object of it to
    an agent: ``PPOAgent(distribution=Tempered(2.0))``. The agent builds a copy for its environment, so that you may
    give the same object to several agents. Register the class with `keras.saving.register_keras_serializable`, so that
    a saved agent can be loaded.

    The methods are pure functions in `keras.ops`. `sample` and `log_prob` are lowered to LiteRT with the policy. If an
    operation cannot be lowered, the agent acts with a compiled function and warns. `keras.ops.argmax` is such an
    operation; use `keras_optix.ops.choices.argmax` instead.

    Attributes:
        parameters: The number of parameters per observation: `P`. Set by `build`.
        noise: The noise that it is sampled with; zeros must give the most likely choice. Set by `build`.
        takes_logits: Whether the parameters are logits, so that a network that ends in softmax is refused. False here.
    """

    parameters: int
    noise: NoiseSpec
    takes_logits: ClassVar[bool] = False

    @abc.abstractmethod
    def build(self, action_space: Any) -> None:
        """Sets `parameters` and `noise` for an environment. It is called once.

        Args:
            action_space: Action space of one environment.

        Raises:
            SpaceError: This is not a distribution over such actions.
        """

    @abc.abstractmethod
    def sample(self, parameters: Any, noise: Any) -> Any:
        """Chooses actions from parameters and noise.

        Args:
            parameters: ``[B, P]`` float32.
            noise: ``[B, ...]`` float32, drawn from the attribute `noise`, or zeros.

        Returns:
            Choices as windows keep them: ``[B]`` int64 from 0 (Discrete), ``[B, k]`` int64 from 0 (MultiDiscrete,
            MultiBinary), ``[B, k]`` float32 (Box; bounded axes are -1 .. 1).
        """

    @abc.abstractmethod
    def log_prob(self, parameters: Any, choices: Any) -> Any:
        """Computes the log-probability (log-density if continuous) ``[B]`` of choices ``[B, ...]``."""

    @abc.abstractmethod
    def entropy(self, parameters: Any) -> Any:
        """Computes the entropy in nats, ``[B]``."""

    @property
    def outputs(self) -> tuple[int, ...]:
        """The numbers of outputs that a policy network may have, first that of a default network: `P`, `P` / 2 or both.

        If a network gives only the first half of the parameters, the other half is a weight of the agent, which is the
        same for all observations and zero at first.
        """
        return (self.parameters,)

    def meaning(self, action_space: Any) -> str:
        """Returns a description of the outputs of a network, for an error message."""
        return f"the parameters of {type(self).__name__}"

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor, by name. Override it if the constructor takes arguments."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ActionDistribution:
        """Makes a distribution from a config that `get_config` returned."""
        return cls(**config)


class _OverActions(ActionDistribution):
    """A distribution of `keras_optix.ops.distributions`, applied to the actions of a space."""

    _kind: ClassVar[type[Any]]
    _over: Distribution

    def build(self, action_space: Any) -> None:
        """See `ActionDistribution.build`."""
        actions = actions_for(action_space)
        if not isinstance(actions, self._kind):
            fix = "Leave `distribution` out, or give a distribution over such actions."
            problem = f"{type(self).__name__} is not a distribution over such actions."
            raise SpaceError(describe(problem, fix=fix, action_space=action_space))
        self._over, self.noise = self._parts(actions)
        self.parameters = self._over.parameters

    @abc.abstractmethod
    def _parts(self, actions: Any) -> tuple[Distribution, NoiseSpec]:
        """Returns the distribution over the actions, and its noise."""

    def sample(self, parameters: Any, noise: Any) -> Any:
        """See `ActionDistribution.sample`."""
        return self._over.sample(parameters, noise)

    def log_prob(self, parameters: Any, choices: Any) -> Any:
        """See `ActionDistribution.log_prob`."""
        return self._over.log_prob(parameters, choices)

    def entropy(self, parameters: Any) -> Any:
        """See `ActionDistribution.entropy`."""
        return self._over.entropy(parameters)

    def meaning(self, action_space: Any) -> str:
        """See `ActionDistribution.meaning`."""
        return f"one logit per action of {action_space}"


@keras.saving.register_keras_serializable("keras_optix")
class CategoricalDistribution(_OverActions):
    """A choice of one of n actions, given n logits. The default for Discrete actions. Its noise is Gumbel ``[n]``."""

    takes_logits = True
    _kind = DiscreteActions

    def _parts(self, actions: Any) -> tuple[Distribution, NoiseSpec]:
        return Categorical(actions.n), NoiseSpec("gumbel", (actions.n,))


@keras.saving.register_keras_serializable("keras_optix")
class MultiCategoricalDistribution(_OverActions):
    """Several independent choices, given the logits of each, one after the other.

    The default for MultiDiscrete actions. Its noise is Gumbel ``[P]``.
    """

    takes_logits = True
    _kind = MultiDiscreteActions

    def _parts(self, actions: Any) -> tuple[Distribution, NoiseSpec]:
        return MultiCategorical(actions.sizes), NoiseSpec("gumbel", (sum(actions.sizes),))


@keras.saving.register_keras_serializable("keras_optix")
class BernoulliDistribution(_OverActions):
    """Independent bits, given a logit for each. The default for MultiBinary actions. Its noise is logistic ``[k]``."""

    takes_logits = True
    _kind = MultiBinaryActions

    def _parts(self, actions: Any) -> tuple[Distribution, NoiseSpec]:
        return Bernoulli(actions.shape[0]), NoiseSpec("logistic", actions.shape)


@keras.saving.register_keras_serializable("keras_optix")
class GaussianDistribution(_OverActions):
    """A Gaussian with independent axes. The default for Box actions. Its noise is standard normal ``[k]``.

    A network gives the means, or means and log standard deviations.
    """

    _kind = ContinuousActions

    def _parts(self, actions: Any) -> tuple[Distribution, NoiseSpec]:
        return DiagonalGaussian(actions.shape[0]), NoiseSpec("normal", actions.shape)

    @property
    def outputs(self) -> tuple[int, ...]:
        """See `ActionDistribution.outputs`."""
        return self.parameters // 2, self.parameters

    def meaning(self, action_space: Any) -> str:
        """See `ActionDistribution.meaning`."""
        return f"the mean of each axis of {action_space}, or means and log standard deviations"


_DEFAULTS: tuple[type[_OverActions], ...] = (
    CategoricalDistribution,
    MultiCategoricalDistribution,
    BernoulliDistribution,
    GaussianDistribution,
)


def is_default(distribution: ActionDistribution) -> bool:
    """Returns whether a distribution is one of the package, and not of a class derived from one."""
    return type(distribution) in _DEFAULTS


def check_distribution(distribution: Any) -> ActionDistribution | None:
    """Checks the argument `distribution` of an agent and returns it. None stands for the default of the action space.

    Raises:
        ArgumentError: It is not a distribution.
        ConfigurationError: No copy can be made from its config.
    """
    wanted = "a distribution over actions"
    fix = "Derive a class from optix.distributions.ActionDistribution and give an object of it, or leave it out."
    given: ActionDistribution | None = check_kind(
        "distribution", distribution, ActionDistribution, wanted=wanted, fix=fix, optional=True
    )
    if given is not None:
        _copied(given)
    return given


def distribution_for(action_space: Any, given: ActionDistribution | None = None) -> ActionDistribution:
    """Builds the distribution that a policy has over an environment's actions.

    Args:
        action_space: Action space of one environment.
        given: The distribution that the agent was given, which is not changed. None means the default of the space.

    Returns:
        A new object.

    Raises:
        ArgumentError: `given` is not a distribution.
        SpaceError: No agent plays the space, or `given` is not a distribution over such actions.
    """
    actions = actions_for(action_space)
    given = check_distribution(given)  # checked again: the attribute may have been set since the agent was made
    if given is None:
        distribution: ActionDistribution = next(one for one in _DEFAULTS if isinstance(actions, one._kind))()
    else:
        distribution = _copied(given)
    distribution.build(action_space)
    if not is_default(distribution):
        _try(distribution, actions)
    return distribution


def _copied(distribution: ActionDistribution) -> ActionDistribution:
    """Returns a copy that is not built."""
    try:
        return type(distribution).from_config(distribution.get_config())
    except (TypeError, KeyError) as error:
        problem = f"{type(distribution).__name__} cannot be made from its own config: {error}."
        fix = "Let `get_config` return the arguments of its constructor by name."
        raise ConfigurationError(describe(problem, fix=fix, distribution=distribution)) from error


def _try(distribution: ActionDistribution, actions: Actions) -> None:
    """Calls each method of a user's own distribution once, and checks the results.

    Raises:
        SpaceError: `build` left something out, a method fails, or its result has a wrong shape or dtype.
    """
    name = type(distribution).__name__
    size, noise = getattr(distribution, "parameters", None), getattr(distribution, "noise", None)
    if not isinstance(size, int) or not isinstance(noise, NoiseSpec):
        problem = f"`{name}.build` must set `parameters`, an integer, and `noise`, a NoiseSpec."
        raise SpaceError(describe(problem, parameters=size, noise=noise))
    if not distribution.outputs or not set(distribution.outputs) <= {size, size / 2}:
        problem = f"`{name}.outputs` must be {size}, the number of parameters, or half of it, or both."
        raise SpaceError(describe(problem, outputs=distribution.outputs))
    try:
        drawn = noise.draw(np.random.default_rng(0), (_ROWS,))
        parameters = ops.zeros((_ROWS, size))
        choices = distribution.sample(parameters, ops.convert_to_tensor(drawn))
        found = {
            "sample": choices,
            "log_prob": distribution.log_prob(parameters, choices),
            "entropy": distribution.entropy(parameters),
        }
    except Exception as error:
        problem = f"{name} cannot be called on {_ROWS} observations: {type(error).__name__}: {error}"
        raise SpaceError(problem) from error
    number = ((_ROWS,), "float32")
    wanted = {"sample": ((_ROWS, *actions.shape), np.dtype(actions.dtype).name), "log_prob": number, "entropy": number}
    for method, value in found.items():
        given = (tuple(np.shape(value)), keras.backend.standardize_dtype(value.dtype))
        if given != wanted[method]:
            shape, dtype = wanted[method]
            problem = f"`{name}.{method}` must return {dtype} of shape {shape} for {_ROWS} observations."
            raise SpaceError(describe(problem, shape=given[0], dtype=given[1]))
