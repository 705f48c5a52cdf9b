"""How a policy chooses: distributions over actions, each with the noise that it is sampled with. An open set.

What is lowered to the actor is `ActionDistribution.sample` and `log_prob`; the mathematics of those that come with the
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

_ROWS = 2  # of the example that a distribution of somebody's own is tried on


class ActionDistribution(OneLineRepr, abc.ABC):
    """A distribution over actions, with the outputs of the policy network as its parameters.

    For one of your own, derive from this class, or from one of those that come with the package, and give an object of
    it to an agent: ``PPOAgent(distribution=Tempered(2.0))``. The agent builds a copy for its environment, so that one
    object may be given to several. Register the class with `keras.saving.register_keras_serializable`, so that a saved
    agent can be loaded.

    The methods are pure functions in `keras.ops`. `sample` and `log_prob` are lowered to LiteRT with the policy; where
    an operation cannot be, the agent acts by a compiled function and warns. `keras.ops.argmax` is such an operation,
    and `keras_optix.ops.choices.argmax` stands in for it.

    Attributes:
        parameters: How many numbers it takes for an observation: `P`. Set by `build`.
        noise: The noise that it is sampled with; zeros must give the most likely choice. Set by `build`.
        takes_logits: Whether the parameters are logits, so that a network that ends in softmax is refused. False here.
    """

    parameters: int
    noise: NoiseSpec
    takes_logits: ClassVar[bool] = False

    @abc.abstractmethod
    def build(self, action_space: Any) -> None:
        """Sets `parameters` and `noise` for an environment; called once.

        Args:
            action_space: Of one environment.

        Raises:
            SpaceError: It is no distribution over such actions.
        """

    @abc.abstractmethod
    def sample(self, parameters: Any, noise: Any) -> Any:
        """Chooses.

        Args:
            parameters: ``[B, P]`` float32.
            noise: ``[B, ...]`` float32, as of `noise`.

        Returns:
            Choices as windows keep them: ``[B]`` int64 from 0 (Discrete), ``[B, k]`` int64 from 0 (MultiDiscrete,
            MultiBinary), ``[B, k]`` float32 (Box; bounded axes are -1 .. 1).
        """

    @abc.abstractmethod
    def log_prob(self, parameters: Any, choices: Any) -> Any:
        """Log-probability (a density if continuous) ``[B]`` of choices ``[B, ...]``."""

    @abc.abstractmethod
    def entropy(self, parameters: Any) -> Any:
        """Entropy in nats, ``[B]``."""

    @property
    def outputs(self) -> tuple[int, ...]:
        """How many outputs a policy network may have, first those of a default network: `P`, and perhaps half of that.

        Where a network gives only the first half, the other one is a weight of the agent, the same for all
        observations and zero at first.
        """
        return (self.parameters,)

    def meaning(self, action_space: Any) -> str:
        """What the outputs of a network are, for an error."""
        return f"the parameters of {type(self).__name__}"

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor, by name; override it where there are some."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ActionDistribution:
        """Makes one of what `get_config` returned."""
        return cls(**config)


class _OverActions(ActionDistribution):
    """One of `keras_optix.ops.distributions`, over the actions of a space."""

    _kind: ClassVar[type[Any]]
    _over: Distribution

    def build(self, action_space: Any) -> None:
        """See `ActionDistribution.build`."""
        actions = actions_for(action_space)
        if not isinstance(actions, self._kind):
            fix = "Leave `distribution` out, or give one over such actions."
            problem = f"{type(self).__name__} is no distribution over such actions."
            raise SpaceError(describe(problem, fix=fix, action_space=action_space))
        self._over, self.noise = self._parts(actions)
        self.parameters = self._over.parameters

    @abc.abstractmethod
    def _parts(self, actions: Any) -> tuple[Distribution, NoiseSpec]:
        """The distribution over actions, and its noise."""

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
    """One of n actions by the logits of all; of Discrete actions the default. Sampled with Gumbel noise ``[n]``."""

    takes_logits = True
    _kind = DiscreteActions

    def _parts(self, actions: Any) -> tuple[Distribution, NoiseSpec]:
        return Categorical(actions.n), NoiseSpec("gumbel", (actions.n,))


@keras.saving.register_keras_serializable("keras_optix")
class MultiCategoricalDistribution(_OverActions):
    """Several independent choices by the logits of each, one after the other; of MultiDiscrete actions the default.

    Sampled with Gumbel noise ``[P]``.
    """

    takes_logits = True
    _kind = MultiDiscreteActions

    def _parts(self, actions: Any) -> tuple[Distribution, NoiseSpec]:
        return MultiCategorical(actions.sizes), NoiseSpec("gumbel", (sum(actions.sizes),))


@keras.saving.register_keras_serializable("keras_optix")
class BernoulliDistribution(_OverActions):
    """Independent bits by a logit each; of MultiBinary actions the default. Sampled with logistic noise ``[k]``."""

    takes_logits = True
    _kind = MultiBinaryActions

    def _parts(self, actions: Any) -> tuple[Distribution, NoiseSpec]:
        return Bernoulli(actions.shape[0]), NoiseSpec("logistic", actions.shape)


@keras.saving.register_keras_serializable("keras_optix")
class GaussianDistribution(_OverActions):
    """A Gaussian with independent axes; of Box actions the default. Sampled with standard normal noise ``[k]``.

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
    """Whether a distribution is one of those that come with the package, and not derived from one."""
    return type(distribution) in _DEFAULTS


def check_distribution(distribution: Any) -> ActionDistribution | None:
    """Returns what an agent takes for a distribution; None stands for the default one of the actions.

    Raises:
        ArgumentError: It is none.
        ConfigurationError: No copy can be made of its config.
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
    """The distribution that a policy has over an environment's actions, built for them.

    Args:
        action_space: Of one environment.
        given: What the agent was given; it stays as it is. None: the default one of the actions.

    Returns:
        A new object.

    Raises:
        ArgumentError: What was given is no distribution.
        SpaceError: No agent plays the space, or what was given is no distribution over such actions.
    """
    actions = actions_for(action_space)
    given = check_distribution(given)  # which may have been set since the agent was made
    if given is None:
        distribution: ActionDistribution = next(one for one in _DEFAULTS if isinstance(actions, one._kind))()
    else:
        distribution = _copied(given)
    distribution.build(action_space)
    if not is_default(distribution):
        _try(distribution, actions)
    return distribution


def _copied(distribution: ActionDistribution) -> ActionDistribution:
    """A copy that is not built."""
    try:
        return type(distribution).from_config(distribution.get_config())
    except (TypeError, KeyError) as error:
        problem = f"{type(distribution).__name__} cannot be made of its own config: {error}."
        fix = "Let `get_config` return the arguments of its constructor by name."
        raise ConfigurationError(describe(problem, fix=fix, distribution=distribution)) from error


def _try(distribution: ActionDistribution, actions: Actions) -> None:
    """Calls what somebody wrote once, and checks what comes of it.

    Raises:
        SpaceError: `build` left something out, a method fails, or shapes or dtypes are others than windows have.
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
