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
from keras_optix.experience.carry import CarrySpec, initial_carry, misfit
from keras_optix.ops.distributions import (
    Bernoulli,
    Categorical,
    DiagonalGaussian,
    Distribution,
    MultiCategorical,
    StateDependentGaussian,
)
from keras_optix.reprs import OneLineRepr
from keras_optix.validation import check_bool, check_float, check_int, check_kind

_ROWS = 2  # rows of the example that a user's own distribution is tried on
_ALWAYS = 2**31 - 1  # more env steps than an episode has


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
        takes_values: Whether a network gives the value of each action, so that one that ends in softmax is refused.
            False here.
        carry_specs: What it remembers between two steps of an episode, such as noise that lasts for several steps: a
            `CarrySpec` for each array. ``()`` here. Set by `build`; see `sample_next`.
        features: How many of the outputs of a default network, the last ones, are the units of its last hidden layer.
            0 here. Set by `build`.
        initial_weight: The value with which those parameters begin that the network does not give; see `outputs`. 0
            here.
        learns_weight: Whether an optimizer changes those parameters. True here. If False, only the agent's own code
            does, through ``agent.head.weight``.

    Examples:
        >>> class Tempered(optix.distributions.CategoricalDistribution):
        ...     def sample(self, parameters, noise):
        ...         return super().sample(parameters / 2.0, noise)
        >>> agent = optix.PPOAgent(distribution=Tempered())
    """

    parameters: int
    noise: NoiseSpec
    carry_specs: tuple[CarrySpec, ...] = ()
    features: int = 0
    initial_weight: float = 0.0
    learns_weight: ClassVar[bool] = True
    takes_logits: ClassVar[bool] = False
    takes_values: ClassVar[bool] = False

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

    def sample_next(self, parameters: Any, noise: Any, carry: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
        """Chooses actions in the next step of an episode. Override it for a distribution with `carry_specs`.

        Args:
            parameters: ``[B, P]`` float32.
            noise: As for `sample`.
            carry: A tensor ``[B, ...]`` for each of `carry_specs`: what the call for the step before returned, or the
                initial value in the first step of an episode.

        Returns:
            The choices, as from `sample`, and the carry for the next step. Here the carry is returned unchanged.
        """
        return self.sample(parameters, noise), carry

    @abc.abstractmethod
    def log_prob(self, parameters: Any, choices: Any) -> Any:
        """Computes the log-probability (log-density if continuous) ``[B]`` of choices ``[B, ...]``."""

    @abc.abstractmethod
    def entropy(self, parameters: Any) -> Any:
        """Computes the entropy in nats, ``[B]``."""

    @property
    def outputs(self) -> tuple[int, ...]:
        """The numbers of outputs that a policy network may have, first that of a default network: `P` or fewer.

        If a network gives only the first of the parameters, the others are a weight of the agent, which is the same for
        all observations and begins with `initial_weight`.
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


class OverActions(ActionDistribution):
    """A distribution of `keras_optix.ops.distributions`, applied to the actions of a space.

    A derived class says which kind of actions it is for (`_kind`), and makes the distribution over them (`_parts`).
    """

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
class CategoricalDistribution(OverActions):
    """A choice of one of n actions, given n logits. The default for Discrete actions. Its noise is Gumbel ``[n]``.

    Examples:
        >>> distribution = optix.distributions.CategoricalDistribution()
        >>> agent = optix.PPOAgent(distribution=distribution)  # the default where actions are Discrete
    """

    takes_logits = True
    _kind = DiscreteActions

    def _parts(self, actions: Any) -> tuple[Distribution, NoiseSpec]:
        return Categorical(actions.n), NoiseSpec("gumbel", (actions.n,))


@keras.saving.register_keras_serializable("keras_optix")
class MultiCategoricalDistribution(OverActions):
    """Several independent choices, given the logits of each, one after the other.

    The default for MultiDiscrete actions. Its noise is Gumbel ``[P]``.

    Examples:
        >>> distribution = optix.distributions.MultiCategoricalDistribution()
        >>> agent = optix.PPOAgent(distribution=distribution)  # the default where actions are MultiDiscrete
    """

    takes_logits = True
    _kind = MultiDiscreteActions

    def _parts(self, actions: Any) -> tuple[Distribution, NoiseSpec]:
        return MultiCategorical(actions.sizes), NoiseSpec("gumbel", (sum(actions.sizes),))


@keras.saving.register_keras_serializable("keras_optix")
class BernoulliDistribution(OverActions):
    """Independent bits, given a logit for each. The default for MultiBinary actions. Its noise is logistic ``[k]``.

    Examples:
        >>> distribution = optix.distributions.BernoulliDistribution()
        >>> agent = optix.PPOAgent(distribution=distribution)  # the default where actions are MultiBinary
    """

    takes_logits = True
    _kind = MultiBinaryActions

    def _parts(self, actions: Any) -> tuple[Distribution, NoiseSpec]:
        return Bernoulli(actions.shape[0]), NoiseSpec("logistic", actions.shape)


@keras.saving.register_keras_serializable("keras_optix")
class GaussianDistribution(OverActions):
    """A Gaussian with independent axes. The default for Box actions. Its noise is standard normal ``[k]``.

    A network gives the means, or means and log standard deviations.

    Examples:
        >>> distribution = optix.distributions.GaussianDistribution()
        >>> agent = optix.PPOAgent(distribution=distribution)  # the default where actions are a Box
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


@keras.saving.register_keras_serializable("keras_optix")
class StateDependentNoise(OverActions):
    """A Gaussian over Box actions whose noise is smooth: a function of the state, drawn anew every few steps.

    Generalised state-dependent exploration (Raffin, Kober and Stulp 2021, "Smooth Exploration for Robotic Reinforcement
    Learning", arXiv 2005.05719), known as ``use_sde=True`` from Stable-Baselines3. The noise of an action is the
    features that the policy network gives, times a random matrix ``[features, k]`` for k axes. The matrix is held for
    `resample_every` env steps, in which the same state gets the same noise, so that actions do not jitter as with noise
    that is independent in each step. Each environment has its own matrix. The log-probability and the entropy are those
    of a choice over all matrices: a Gaussian with independent axes (see
    `keras_optix.ops.distributions.StateDependentGaussian`).

    The standard deviations of the matrix's entries are a trainable weight of the agent (`log_std`), which is saved with
    it. Until the next draw, a matrix is scaled by the standard deviations of the current policy version.

    A network of your own must give the mean of each axis and then the features, ``[B, k + features]``. The features
    are usually its last hidden layer::

        inputs = keras.layers.Input((3,))
        hidden = keras.layers.Dense(64, activation="tanh")(inputs)
        mean = keras.layers.Dense(1)(hidden)
        policy = keras.Model(inputs, keras.layers.Concatenate()([mean, hidden]))
        agent = optix.PPOAgent(policy, distribution=optix.distributions.StateDependentNoise(features=64))

    The agent has a carry (the matrix, and for how many steps it still holds), so `Agent.act` must be given one. With
    noise of zeros, as in evaluations, the action is the mean and the carry stays as it is. Its noise is standard normal
    ``[features, k]``.

    Args:
        resample_every: Env steps for which a matrix is held; it is also drawn anew when an episode begins. None draws
            only then. Choose at most the window size: a matrix that is held over many updates is no longer independent
            of the policy that has learned from it. Stable-Baselines3 calls it ``sde_sample_freq``; its value of -1 is
            ``resample_every=window_size`` here. Defaults to 4.
        features: The number of features. Defaults to 64, the last hidden layer of a default network. For images it is
            512 (from 36 pixels) or 128.
        log_std: The log standard deviation of the matrix's entries at first (``log_std_init``). The standard deviation
            of an action is larger, by the root of the sum of the squared features. Defaults to -2.
        learn_features: Whether the features learn from the variance of the noise, too. If False, the default, their
            gradients come from the means alone.

    Raises:
        ConfigurationError: An argument is out of range.

    Examples:
        >>> noise = optix.distributions.StateDependentNoise(resample_every=16)
        >>> agent = optix.PPOAgent(distribution=noise)
    """

    _kind = ContinuousActions

    def __init__(
        self,
        resample_every: int | None = 4,
        *,
        features: int = 64,
        log_std: float = -2.0,
        learn_features: bool = False,
    ) -> None:
        if resample_every is not None:
            check_int("resample_every", resample_every, minimum=1, fix="None draws anew only when an episode begins.")
        self.resample_every = resample_every
        self.features = check_int("features", features, minimum=1)
        self.log_std = check_float("log_std", log_std)
        self.learn_features = check_bool("learn_features", learn_features)
        self.initial_weight = self.log_std

    def _parts(self, actions: Any) -> tuple[Distribution, NoiseSpec]:
        axes = actions.shape[0]
        matrix = (self.features, axes)
        self.carry_specs = (CarrySpec(matrix), CarrySpec((), "int32"))
        return StateDependentGaussian(axes, self.features, self.learn_features), NoiseSpec("normal", matrix)

    def sample_next(self, parameters: Any, noise: Any, carry: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
        """See `ActionDistribution.sample_next`. The carry is the matrix, and the steps for which it still holds."""
        matrix, left = carry
        random = ops.max(ops.abs(noise), axis=(1, 2)) > 0.0  # False for the zeros that ask for the mean
        drawn = ops.logical_and(random, left <= 0)
        matrix = ops.where(drawn[:, None, None], noise, matrix)
        lasts = _ALWAYS if self.resample_every is None else self.resample_every
        left = ops.where(drawn, ops.full_like(left, lasts), left) - ops.cast(random, left.dtype)
        used = matrix * ops.cast(random, matrix.dtype)[:, None, None]
        return self.sample(parameters, used), (matrix, left)

    @property
    def outputs(self) -> tuple[int, ...]:
        """See `ActionDistribution.outputs`: the means and the features."""
        return (self.noise.shape[1] + self.features,)

    def meaning(self, action_space: Any) -> str:
        """See `ActionDistribution.meaning`."""
        features = f"{self.features} features (usually the last hidden layer)"
        return f"the mean of each axis of {action_space}, then {features}"

    def get_config(self) -> dict[str, Any]:
        """See `ActionDistribution.get_config`."""
        names = ("resample_every", "features", "log_std", "learn_features")
        return {name: getattr(self, name) for name in names}


_DEFAULTS: tuple[type[OverActions], ...] = (
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
    if not distribution.outputs or not all(1 <= count <= size for count in distribution.outputs):
        problem = f"`{name}.outputs` must be {size}, the number of parameters, or fewer, or several such numbers."
        raise SpaceError(describe(problem, outputs=distribution.outputs))
    try:
        drawn = ops.convert_to_tensor(noise.draw(np.random.default_rng(0), (_ROWS,)))
        parameters = ops.zeros((_ROWS, size))
        choices = distribution.sample(parameters, drawn)
        carry = tuple(map(ops.convert_to_tensor, initial_carry(distribution.carry_specs, _ROWS)))
        following, after = distribution.sample_next(parameters, drawn, carry)
        found = {
            "sample": choices,
            "sample_next": following,
            "log_prob": distribution.log_prob(parameters, choices),
            "entropy": distribution.entropy(parameters),
        }
    except Exception as error:
        problem = f"{name} cannot be called on {_ROWS} observations: {type(error).__name__}: {error}"
        raise SpaceError(problem) from error
    number = ((_ROWS,), "float32")
    choice = ((_ROWS, *actions.shape), np.dtype(actions.dtype).name)
    wanted = {"sample": choice, "sample_next": choice, "log_prob": number, "entropy": number}
    for method, value in found.items():
        given = (tuple(np.shape(value)), keras.backend.standardize_dtype(value.dtype))
        if given != wanted[method]:
            shape, dtype = wanted[method]
            problem = f"`{name}.{method}` must return {dtype} of shape {shape} for {_ROWS} observations."
            raise SpaceError(describe(problem, shape=given[0], dtype=given[1]))
    wrong = misfit(distribution.carry_specs, after, _ROWS)
    if wrong:
        problem = f"`{name}.sample_next` must return choices and the carry as `carry_specs` says, but {wrong}."
        raise SpaceError(describe(problem, carry_specs=distribution.carry_specs))
