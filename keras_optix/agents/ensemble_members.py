"""The members of an ensemble: which agents they are, their weights, and the spaces that they play."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from keras_optix.agents.agent import Agent
from keras_optix.errors import ConfigurationError, SpaceError, describe
from keras_optix.validation import check_kind, refuse_kind


@runtime_checkable
class WeightedAgents(Protocol):
    """The part of a policy manager that an ensemble needs.

    Attributes:
        agents: The members.
        weights: The weights of the members in the mixture, in their order; they sum to 1.
    """

    @property
    def agents(self) -> Sequence[Agent]:
        """The members."""
        ...

    @property
    def weights(self) -> Sequence[float]:
        """The weights of the members in the mixture."""
        ...

    def subscribe(self, listener: Callable[[Sequence[float]], None]) -> object:
        """Calls the listener with the weights on each change."""
        ...


@dataclass(frozen=True)
class FixedAgents:
    """Members with fixed weights. A loaded ensemble has it instead of a policy manager.

    Attributes:
        agents: The members.
        weights: The weights of the members in the mixture; they sum to 1.
    """

    agents: Sequence[Agent]
    weights: Sequence[float]

    def subscribe(self, listener: Callable[[Sequence[float]], None]) -> None:
        """Does nothing, because the weights never change."""


def weighted_agents_of(given: Any) -> WeightedAgents:
    """Returns the members of an ensemble with their weights, from a policy manager or from a list of agents.

    Agents in a list get equal weights.

    Raises:
        ConfigurationError: What was given is neither, or an entry of the list is not an agent or is in it twice.
    """
    if isinstance(given, list | tuple):
        for k, agent in enumerate(given):
            check_kind(f"agent {k} of the list", agent, Agent, wanted="an agent, such as PPOAgent()")
            if any(agent is other for other in given[:k]):
                raise ConfigurationError(describe("The same agent is in the list twice.", index=k, agent=agent.name))
        given = FixedAgents(tuple(given), [1.0 / len(given)] * len(given) if given else [])
    if isinstance(given, type) or not isinstance(given, WeightedAgents):
        fix = "Such as EnsembleAgent([first, second]), or give a PolicyManager that has these agents."
        hints = {"an agent": "An ensemble has several agents: EnsembleAgent([first, second])."}
        refuse_kind("policy_manager", given, "a PolicyManager or a list of agents", fix=fix, hints=hints)
    members: WeightedAgents = given
    return members


def refuse_carry(k: int, member: Agent) -> None:
    """Refuses a member of an ensemble that has a carry, because a mixture only mixes the actions of a single step.

    Args:
        k: Number of the member.
        member: The agent.

    Raises:
        ConfigurationError: The member has a carry.
    """
    if member.carry_specs:
        problem = (
            f"Member {k} of the ensemble, {member.name}, has a carry, and a policy that remembers cannot be mixed."
        )
        fix = "Members must be agents without a carry, whose `carry_specs` is ()."
        raise ConfigurationError(describe(problem, fix=fix, carry_specs=member.carry_specs))


def spaces_of_members(members: Sequence[Agent]) -> tuple[Any, Any] | None:
    """Returns the spaces that the members play, or None if no member is bound to an environment yet.

    Raises:
        SpaceError: Two members play different environments.
    """
    bound = [(k, member) for k, member in enumerate(members) if member.bound]
    for k, member in bound[1:]:
        first, agent = bound[0]
        for what, mine, other in zip(("observe", "act in"), agent.env_spaces, member.env_spaces, strict=True):
            if mine != other:
                raise SpaceError(
                    f"Members {first} and {k} of the ensemble, {agent.name} and {member.name}, play different "
                    f"environments: they {what} different spaces. Received: {mine} and {other}. Use members that play "
                    "the same environment."
                )
    return bound[0][1].env_spaces if bound else None
