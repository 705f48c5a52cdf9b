"""The mixture of several policies' distributions, as one pure function of observations and weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import keras
import numpy as np
import tensorflow as tf
from gymnasium import spaces

from keras_optix.agents.acting import PolicyHead, mapped
from keras_optix.agents.credit import EVERYBODY
from keras_optix.agents.distributions import ActionDistribution, distribution_for, is_default
from keras_optix.agents.epsilon_greedy import EpsilonGreedyDistribution
from keras_optix.agents.squashed import SquashedGaussianDistribution
from keras_optix.experience.actions import DiscreteActions, MultiBinaryActions, MultiDiscreteActions
from keras_optix.experience.actor import Actor, NoiseSpec
from keras_optix.experience.carry import Carry
from keras_optix.experience.lowering import Lowerable
from keras_optix.experience.observations import ObservationLayout
from keras_optix.ops.mixtures import (
    AveragedGaussian,
    BernoulliMixture,
    CategoricalMixture,
    GaussianMixture,
    Mixture,
    MultiCategoricalMixture,
)
from keras_optix.ops.squashed import SquashedMixture

AVERAGE: Final = "average"
MIXTURE: Final = "mixture"


def mixture_of(member: PolicyHead, members: int, continuous: str) -> tuple[Mixture, NoiseSpec]:
    """Returns the mixture of an ensemble over an environment's actions, and the noise that it samples with.

    Args:
        member: One of the members. All members have distributions that are `mixable`.
        members: M, the number of members.
        continuous: ``"average"`` or ``"mixture"``: how members with Gaussians are combined.
    """
    actions, noise = member.actions, member.noise
    if isinstance(actions, DiscreteActions):
        return CategoricalMixture(actions.n), NoiseSpec("gumbel", (actions.n,))
    if isinstance(actions, MultiDiscreteActions):
        return MultiCategoricalMixture(actions.sizes), noise
    if isinstance(actions, MultiBinaryActions):
        return BernoulliMixture(actions.shape[0]), noise
    (d,) = actions.shape
    mixture: Mixture = AveragedGaussian(d)
    if continuous == MIXTURE:
        mixture, noise = GaussianMixture(d, members), NoiseSpec("normal", (d + 2 * members,))
    return SquashedMixture(mixture, d) if is_squashed(member.distribution) else mixture, noise


def is_squashed(distribution: ActionDistribution) -> bool:
    """Returns whether a distribution is the hyperbolic tangent of a Gaussian, which is mixed with its like only."""
    return type(distribution) is SquashedGaussianDistribution


def mixable(distribution: ActionDistribution) -> bool:
    """Returns whether policies with a distribution can be mixed.

    These are the default distribution of an action space, epsilon-greedy choices, and squashed Gaussians. A class that
    a user derived from one of them may choose in another way than the mixture assumes.
    """
    return is_default(distribution) or type(distribution) in (EpsilonGreedyDistribution, SquashedGaussianDistribution)


class EnsembleHead(PolicyHead):
    """Combines the heads of M members and their weights. Each member normalises observations itself.

    Args:
        members: Heads of agents that play the same spaces.
        primary: The head of the primary, which is one of the members.
        weights: ``[M]`` variable that sums to 1.
        continuous: See `mixture_of`.
    """

    def __init__(self, members: Sequence[PolicyHead], primary: PolicyHead, weights: Any, continuous: str) -> None:
        layout = primary.layout
        nothing = [None] * len(layout.leaves)
        super().__init__(primary.network, layout, primary.actions, _default_of(primary), nothing, None)
        self.mixture, self._noise = mixture_of(primary, len(members), continuous)
        self._members = list(members)
        self._primary = primary
        self._weights = weights
        self._continuous = continuous
        self._together: EnsembleHead | None = None

    def acting(self) -> EnsembleHead:
        """See `PolicyHead.acting`."""
        if self._together is None:
            members = [member.acting() for member in self._members]
            same = all(acting is member for acting, member in zip(members, self._members, strict=True))
            parts = (self._primary.acting(), self._weights, self._continuous)
            self._together = self if same else EnsembleHead(members, *parts)
        return self._together

    @property
    def variables(self) -> list[Any]:
        """The variables whose values an actor needs, in order: those of each member, then the weights."""
        return [*(variable for member in self._members for variable in member.variables), self._weights]

    @property
    def noise(self) -> NoiseSpec:
        """The noise that `choose` samples with."""
        return self._noise

    def parameters(self, observations: Any, training: bool) -> Any:
        """Computes the parameters of the members' distributions, ``[M, B, P]``, for observations ``[B, ...]``.

        They are those of the default distribution of the actions: an epsilon-greedy member has logits, too.
        """
        return tf.stack([_as_default(member, member.parameters(observations, training)) for member in self._members])

    def choose(
        self, observations: Any, noise: Any, weights: Sequence[Any], carry: tuple[Any, ...] = ()
    ) -> tuple[Any, Any, tuple[Any, ...]]:
        """See `Agent.choose`. The log-probabilities are those of the mixture."""
        parameters, shares = self._parts(observations, weights)
        return (*self._drawn(parameters, shares[:, None], noise), carry)

    def choose_by_player(
        self, routed: Any, noise: Any, weights: Sequence[Any], carry: tuple[Any, ...] = ()
    ) -> tuple[Any, Any, tuple[Any, ...]]:
        """Chooses as `choose` does, but for each row either the mixture acts or one member alone.

        Args:
            routed: Observations ``[N, ...]`` and players ``[N]`` int32, as `routed_layout` packs them.
            noise: As for `choose`.
            weights: As for `choose`.
            carry: As for `choose`: ``()``, because members have no carry.

        Returns:
            As `choose`. The log-probability in each row is that of the player of this row.
        """
        observations, players = routed
        parameters, shares = self._parts(observations, weights)
        alone = tf.eye(len(self._members))
        routed_shares = tf.gather(tf.concat([shares[:, None], alone], 1), players, axis=1)
        return (*self._drawn(parameters, routed_shares, noise), carry)

    @property
    def routed_layout(self) -> ObservationLayout:
        """The layout of observations together with the player: 0 for the mixture, i + 1 for member i."""
        return ObservationLayout(spaces.Tuple((self.layout.space, spaces.Discrete(len(self._members) + 1))))

    def member_log_probs(self, observations: Any, choices: Any, weights: Sequence[Any]) -> Any:
        """Computes log-probabilities ``[M, B]`` of choices ``[B, ...]`` under each member; weights as for `choose`."""
        parameters, _ = self._parts(observations, weights)
        return tf.stack([self.distribution.log_prob(parameters[k], choices) for k in range(len(self._members))])

    def _parts(self, observations: Any, weights: Sequence[Any]) -> tuple[Any, Any]:
        """Computes the members' parameters ``[M, B, P]`` and their weights ``[M]``, for values of `variables`."""
        head = self.acting()
        with keras.StatelessScope(state_mapping=mapped(head.variables, weights)):
            return head.parameters(observations, training=False), self._weights.value

    def _drawn(self, parameters: Any, shares: Any, noise: Any) -> tuple[Any, Any]:
        choices = self.mixture.sample(parameters, shares, noise)
        return choices, self.mixture.log_prob(parameters, shares, choices)

    def update_statistics(self, observations: Any, weights: Any) -> None:
        """Updates the primary's normalisers with observations ``[B, ...]``; see `PolicyHead.update_statistics`."""
        self._primary.update_statistics(observations, weights)


def _default_of(member: PolicyHead) -> ActionDistribution:
    """Returns the default distribution of a member's actions, whose parameters the member's are converted to."""
    distribution = member.distribution
    if isinstance(distribution, EpsilonGreedyDistribution):
        return distribution_for(spaces.Discrete(distribution.outputs[0]))
    return distribution


def _as_default(member: PolicyHead, parameters: Any) -> Any:
    """Converts a member's parameters to those of the default distribution of the same actions."""
    distribution = member.distribution
    return distribution.logits(parameters) if isinstance(distribution, EpsilonGreedyDistribution) else parameters


@dataclass(frozen=True)
class EnsembleLowerable(Lowerable):
    """The policies of an ensemble, to be lowered as many small networks instead of one large network.

    Attributes:
        members: M, the number of members.
    """

    members: int = 1

    def work(self, batch_size: int) -> int:
        """Returns the multiplications of one member: no operation is larger than that, so more threads would idle."""
        return super().work(batch_size) // self.members

    def heavy(self, batch_size: int) -> bool:
        """Returns True: with constants, five networks of 64-64 take 17 us per call instead of 26.

        A new version then takes 1.2 ms instead of 0.05 ms.
        """
        return True


class RoutedActor:
    """An `Actor` in which each environment is played by the mixture or by one member, which may change per window.

    Args:
        actor: An actor that takes the players as one more observation; see `EnsembleHead.choose_by_player`.
        players: Returns the players of a window, given its number: ``[N]``, -1 for the mixture, i for member i.
    """

    def __init__(self, actor: Actor, players: Callable[[int], np.ndarray]) -> None:
        self.noise, self.carry = actor.noise, actor.carry
        self._actor = actor
        self._players_of = players
        self.begin_window(0)

    def begin_window(self, window_id: int) -> None:
        """See `WindowListener`."""
        self._players = (self._players_of(window_id) - EVERYBODY).astype(np.int32)

    def set_weights(self, arrays: Sequence[np.ndarray]) -> None:
        """See `Actor.set_weights`."""
        self._actor.set_weights(arrays)

    def act(
        self, observations: Sequence[np.ndarray], noise: np.ndarray, carry: Carry = ()
    ) -> tuple[np.ndarray, np.ndarray, Carry]:
        """See `Actor.act`."""
        return self._actor.act([*observations, self._players], noise, carry)
