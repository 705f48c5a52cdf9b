"""The policy, from observations to actions, as one pure function of observations, noise and weights."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_optix.agents.distributions import ActionDistribution
from keras_optix.agents.networks import network_inputs
from keras_optix.agents.normalization import RunningMoments
from keras_optix.agents.precision import in_float32
from keras_optix.errors import ConfigurationError, SpaceError, describe
from keras_optix.experience.actions import Actions
from keras_optix.experience.actor import Actor, NoiseSpec, RepeatableActor
from keras_optix.experience.carry import Carry, CarrySpec, misfit
from keras_optix.experience.lowering import FunctionActor
from keras_optix.experience.observations import Leaves, ObservationLayout
from keras_optix.reprs import OneLineRepr


class PolicyHead(OneLineRepr):
    """Combines the policy network, the observation normalisers and the parameters that the network does not give.

    It is a plain object, because the agent itself holds the layers and variables: Keras then tracks each of them once.

    Args:
        network: The policy network.
        layout: Layout of the observations.
        actions: Converts choices into actions of the environment.
        distribution: The distribution over the actions.
        normalizers: One for each leaf of the observations, None if the leaf is not normalised.
        weight: Variable with the parameters of the distribution that the network does not give, such as the log
            standard deviations of a Gaussian; None if the network gives all parameters.
    """

    def __init__(
        self,
        network: Any,
        layout: ObservationLayout,
        actions: Actions,
        distribution: ActionDistribution,
        normalizers: Sequence[RunningMoments | None],
        weight: Any,
    ) -> None:
        self.network = network
        self.layout = layout
        self.actions = actions
        self.distribution = distribution
        self._normalizers = list(normalizers)
        self.weight = weight
        self._acting: PolicyHead | None = None

    @property
    def variables(self) -> list[Any]:
        """The variables whose values an actor needs, in a fixed order."""
        own = [v for normalizer in self._normalizers if normalizer is not None for v in normalizer.variables]
        return [*self.network.variables, *own, *([] if self.weight is None else [self.weight])]

    @property
    def noise(self) -> NoiseSpec:
        """The noise that `choose` samples with."""
        return self.distribution.noise

    def inputs(self, observations: Any) -> Any:
        """Normalises observations, arrays ``[B, ...]`` in the structure of the observation space."""
        leaves = [
            leaf if normalizer is None else normalizer(leaf)
            for leaf, normalizer in zip(self.layout.flatten(observations), self._normalizers, strict=True)
        ]
        return self.layout.pack(leaves)

    def parameters(self, observations: Any, training: bool) -> Any:
        """Computes the parameters of the distribution, ``[B, P]``, for observations ``[B, ...]``."""
        inputs = network_inputs(self.network, self.inputs(observations), self.layout)
        return self.parameters_of(self.network(inputs, training=training))

    def parameters_of(self, outputs: Any) -> Any:
        """Computes the parameters of the distribution, ``[B, P]``, from the outputs of the network."""
        outputs = ops.cast(outputs, "float32")
        if self.weight is None:
            return outputs
        others = ops.zeros_like(outputs[:, :1]) + ops.cast(self.weight.value, "float32")
        return ops.concatenate([outputs, others], axis=-1)

    def acting(self) -> PolicyHead:
        """Returns a copy of this head in float32, for acting, made once; if the network is in float32, this head."""
        if self._acting is None:
            network = in_float32(self.network)
            same = network is self.network
            parts = (self.layout, self.actions, self.distribution, self._normalizers, self.weight)
            self._acting = self if same else PolicyHead(network, *parts)
        return self._acting

    def choose(
        self, observations: Any, noise: Any, weights: Sequence[Any], carry: tuple[Any, ...] = ()
    ) -> tuple[Any, Any, tuple[Any, ...]]:
        """See `Agent.choose`. The carry is that of the distribution; the network remembers nothing."""
        head = self.acting()
        with keras.StatelessScope(state_mapping=mapped(head.variables, weights)):
            parameters = head.parameters(observations, training=False)
        choices, after = self.distribution.sample_next(parameters, noise, carry)
        return choices, self.distribution.log_prob(parameters, choices), after

    def update_statistics(self, observations: Any, weights: Any) -> None:
        """Updates the normalisers with observations ``[B, ...]``; weights ``[B]`` are 0 for rows that do not count."""
        for leaf, normalizer in zip(self.layout.flatten(observations), self._normalizers, strict=True):
            if normalizer is not None:
                normalizer.update(leaf, weights)

    def batch_of(self, observations: Any) -> tuple[Leaves, bool]:
        """Converts one observation or a batch to leaves ``[B, ...]``; also returns whether it was a single observation.

        Raises:
            SpaceError: The shape is neither that of one observation nor that of a batch.
        """
        given = [np.asarray(value) for value in self.layout.flatten(observations)]
        wanted, shapes = [leaf.shape for leaf in self.layout.leaves], [array.shape for array in given]
        single = shapes == wanted
        if single:
            given = [array[None] for array in given]
        sizes = {array.shape[:1] for array in given}
        if len(sizes) != 1 or [array.shape[1:] for array in given] != wanted:
            problem = f"`observations` must have shape {self.layout.pack(wanted)}, or that with a batch axis in front."
            raise SpaceError(describe(problem, shape=self.layout.pack(shapes)))
        size = len(given[0])
        return [leaf.convert(array, (size,)) for leaf, array in zip(self.layout.leaves, given, strict=True)], single


def begun(specs: Sequence[CarrySpec], carry: Any, batch_size: int) -> Carry:
    """Checks the carry that `Agent.act` was given, and returns it as arrays.

    Args:
        specs: The carry of the policy.
        carry: The carry as given; None if `act` was called without one.
        batch_size: The number of observations.

    Raises:
        ConfigurationError: The policy has a carry, and `carry` is missing or of another shape; or the policy has no
            carry, and `carry` was given.
    """
    how = (
        f"An episode begins with `carry = agent.initial_carry({batch_size})`; then call "
        "`actions, carry = agent.act(observations, carry=carry)` for each of its steps."
    )
    if carry is None:
        if specs:
            problem = "The policy remembers what it did in the episode: `act` must be given its carry."
            raise ConfigurationError(describe(problem, fix=how, carry=None))
        return ()
    if not specs:
        if isinstance(carry, tuple | list) and not carry:
            return ()
        fix = "Leave `carry` out."
        raise ConfigurationError(describe("The policy has no carry.", fix=fix, carry=type(carry).__name__))
    wrong = misfit(specs, carry, batch_size)
    if wrong:
        raise ConfigurationError(f"`carry` must be what `initial_carry` or the last `act` returned, but {wrong}. {how}")
    return tuple(np.asarray(leaf) for leaf in carry)


def mapped(variables: Sequence[Any], weights: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Pairs variables with the arrays of `PolicyParams` that replace their values, cast to their dtypes."""
    return [(v, ops.cast(weight, v.dtype)) for v, weight in zip(variables, weights, strict=True)]


class ActActors:
    """The actors of `Agent.act`: lowered ones for single observations, compiled functions for batches of any size.

    An actor holds the weights and the observations of one call, so each call takes an actor that no other thread has,
    and gives it back. There are as many actors as calls that ever ran at the same time. Lists are atomic in Python, so
    only making an actor needs a lock.
    """

    def __init__(self) -> None:
        self._free: tuple[list[Actor], list[Actor]] = ([], [])  # for batches, and for single observations
        self._first: dict[bool, Actor] = {}
        self._lock = threading.RLock()

    def take(self, agent: Any, batch_size: int) -> Actor:
        """Returns an actor that no other thread uses until it is given back.

        If the call fails, the actor must not be given back, because it may hold only a part of the weights.

        Args:
            agent: The agent, which makes the actors.
            batch_size: The number of observations.
        """
        try:
            return self._free[batch_size == 1].pop()
        except IndexError:
            return self._made(agent, batch_size == 1)

    def give_back(self, actor: Actor, batch_size: int) -> None:
        """Lets other calls use the actor.

        Args:
            actor: What `take` returned.
            batch_size: As for `take`.
        """
        self._free[batch_size == 1].append(actor)

    def _made(self, agent: Any, single: bool) -> Actor:
        with self._lock:
            first = self._first.get(single)
            if isinstance(first, RepeatableActor):
                return first.another()
            # Lowering would need a conversion for each batch size.
            made: Actor = agent.make_actor(1) if single else FunctionActor(agent.lowerable())
            self._first[single] = made
            return made
