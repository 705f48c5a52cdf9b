"""The members of an ensemble: who they are, how much each counts, and what they play."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from keras_optix.agents.agent import Agent
from keras_optix.errors import ConfigurationError, SpaceError, describe
from keras_optix.validation import check_kind, refuse_kind


@runtime_checkable
class WeightedAgents(Protocol):
    """What an ensemble needs of a policy manager.

    Attributes:
        agents: The members.
        weights: How much each of them counts, in their order; they sum to 1.
    """

    @property
    def agents(self) -> Sequence[Agent]:
        """The members."""
        ...

    @property
    def weights(self) -> Sequence[float]:
        """How much each of them counts."""
        ...

    def subscribe(self, listener: Callable[[Sequence[float]], None]) -> object:
        """Calls the listener with the weights on each change."""
        ...


@dataclass(frozen=True)
class FixedAgents:
    """Members whose weights nobody changes: what a loaded ensemble has in the place of its policy manager.

    Attributes:
        agents: The members.
        weights: How much each of them counts; they sum to 1.
    """

    agents: Sequence[Agent]
    weights: Sequence[float]

    def subscribe(self, listener: Callable[[Sequence[float]], None]) -> None:
        """There will be nothing to tell."""


def weighted_agents_of(given: Any) -> WeightedAgents:
    """The members of an ensemble with their weights: of a policy manager, or of a list of agents, which count alike.

    Raises:
        ConfigurationError: There is no member, or one is no agent, or there twice.
    """
    if isinstance(given, list | tuple):
        for k, agent in enumerate(given):
            check_kind(f"agent {k} of the list", agent, Agent, wanted="an agent, such as PPOAgent()")
            if any(agent is other for other in given[:k]):
                raise ConfigurationError(describe("The same agent is in the list twice.", index=k, agent=agent.name))
        given = FixedAgents(tuple(given), [1.0 / len(given)] * len(given) if given else [])
    if isinstance(given, type) or not isinstance(given, WeightedAgents):
        fix = "Such as EnsembleAgent([first, second]), or with a PolicyManager that has them."
        hints = {"an agent": "An ensemble has several: EnsembleAgent([first, second])."}
        refuse_kind("policy_manager", given, "a PolicyManager or a list of agents", fix=fix, hints=hints)
    members: WeightedAgents = given
    return members


def refuse_carry(k: int, member: Agent) -> None:
    """Raises if a member of an ensemble has a carry: a mixture of policies mixes what they do in one step.

    Args:
        k: Its number.
        member: The agent.

    Raises:
        ConfigurationError: It has one.
    """
    if member.carry_specs:
        problem = (
            f"Member {k} of the ensemble, {member.name}, has a carry: it remembers, and such a policy is not mixed."
        )
        fix = "Members are agents without a carry, whose `carry_specs` is ()."
        raise ConfigurationError(describe(problem, fix=fix, carry_specs=member.carry_specs))


def spaces_of_members(members: Sequence[Agent]) -> tuple[Any, Any] | None:
    """The spaces that the members play, as far as they know them; None if none of them does.

    Raises:
        SpaceError: Two play different environments.
    """
    bound = [(k, member) for k, member in enumerate(members) if member.bound]
    for k, member in bound[1:]:
        first, agent = bound[0]
        for what, mine, other in zip(("observe", "act in"), agent.env_spaces, member.env_spaces, strict=True):
            if mine != other:
                raise SpaceError(
                    f"Members {first} and {k} of the ensemble, {agent.name} and {member.name}, play different "
                    f"environments: they {what} different spaces. Received: {mine} and {other}. Make members of one "
                    "environment."
                )
    return bound[0][1].env_spaces if bound else None
