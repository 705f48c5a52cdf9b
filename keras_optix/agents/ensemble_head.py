"""Several policies as one: the mixture of their distributions, as one pure function of observations and weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from keras_optix.agents.acting import PolicyHead
from keras_optix.experience.actions import Actions, DiscreteActions, MultiBinaryActions, MultiDiscreteActions
from keras_optix.experience.actor import NoiseSpec
from keras_optix.experience.lowering import Lowerable
from keras_optix.ops.mixtures import (
    AveragedGaussian,
    BernoulliMixture,
    CategoricalMixture,
    GaussianMixture,
    Mixture,
    MultiCategoricalMixture,
)

AVERAGE, MIXTURE = "average", "mixture"


def mixture_of(actions: Actions, members: int, continuous: str) -> tuple[Mixture, NoiseSpec]:
    """The mixture that an ensemble has over an environment's actions, and the noise that it samples with.

    Args:
        actions: The actions.
        members: M.
        continuous: ``"average"`` or ``"mixture"``: what a Gaussian ensemble is.
    """
    if isinstance(actions, DiscreteActions):
        return CategoricalMixture(actions.n), actions.noise
    if isinstance(actions, MultiDiscreteActions):
        return MultiCategoricalMixture(actions.sizes), actions.noise
    if isinstance(actions, MultiBinaryActions):
        return BernoulliMixture(actions.shape[0]), actions.noise
    (d,) = actions.shape
    if continuous == AVERAGE:
        return AveragedGaussian(d), actions.noise
    return GaussianMixture(d, members), NoiseSpec("normal", (d + 2 * members,))


class EnsembleHead(PolicyHead):
    """The heads of M members and their weights, put together; each member normalises observations for itself.

    Args:
        members: Heads of agents that play the same spaces.
        primary: The one that learns, one of them.
        weights: ``[M]`` variable that sums to 1.
        continuous: See `mixture_of`.
    """

    def __init__(self, members: Sequence[PolicyHead], primary: PolicyHead, weights: Any, continuous: str) -> None:
        layout = primary.layout
        super().__init__(primary.network, layout, primary.actions, [None] * len(layout.leaves), None)
        self.mixture, self._noise = mixture_of(primary.actions, len(members), continuous)
        self._members = list(members)
        self._primary = primary
        self._weights = weights

    @property
    def variables(self) -> list[Any]:
        """What the actor needs of each version, in order: that of each member, then the weights."""
        return [*(variable for member in self._members for variable in member.variables), self._weights]

    @property
    def noise(self) -> NoiseSpec:
        """The noise that `choose` samples with."""
        return self._noise

    def parameters(self, observations: Any, training: bool) -> Any:
        """Parameters of the members' distributions, ``[M, B, P]``, for observations ``[B, ...]``."""
        return tf.stack([member.parameters(observations, training) for member in self._members])

    def choose(self, observations: Any, noise: Any, weights: Sequence[Any]) -> tuple[Any, Any]:
        """See `Agent.choose`; the log-probabilities are those of the mixture."""
        mapping = list(zip(self.variables, weights, strict=True))
        with keras.StatelessScope(state_mapping=mapping):
            parameters, shares = self.parameters(observations, training=False), self._weights.value
        choices = self.mixture.sample(parameters, shares, noise)
        return choices, self.mixture.log_prob(parameters, shares, choices)

    def update_statistics(self, observations: Any, weights: Any) -> None:
        """Takes observations ``[B, ...]`` into the primary's normalisers; see `PolicyHead.update_statistics`."""
        self._primary.update_statistics(observations, weights)


@dataclass(frozen=True)
class EnsembleLowerable(Lowerable):
    """The policies of an ensemble to be lowered, which are many small networks rather than a large one.

    Attributes:
        members: M.
    """

    members: int = 1

    def work(self, batch_size: int) -> int:
        """Multiplications of one member: the members' operations are no longer than its own, so threads would wait."""
        return super().work(batch_size) // self.members

    def heavy(self, batch_size: int) -> bool:
        """Constants: five networks of 64-64 take 17 microseconds a call, not 26; a new version 1.2 ms, not 0.05."""
        return True
