"""Checks that a policy manager fits the loop that it is given to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras_optix.callbacks.loop_callback import LoopCallback
from keras_optix.callbacks.policy_manager import PolicyManager, PolicyManagerCallback
from keras_optix.errors import ConfigurationError, describe
from keras_optix.evaluators.base import BaseEvaluator
from keras_optix.validation import check_kind


def manager_among(given: PolicyManager | None, callbacks: Sequence[LoopCallback]) -> PolicyManager | None:
    """Returns the policy manager of a loop, which may be given as an option or among the callbacks; or None.

    Args:
        given: The option `policy_manager`.
        callbacks: The callbacks of the loop.

    Raises:
        ConfigurationError: `given` is not a policy manager, or there are two of them.
    """
    hints = {
        "an agent": "Add it to a manager: manager.add_agent(agent).",
        "a registry": "Give it to the manager: PolicyManager(registry).",
    }
    check_kind("policy_manager", given, PolicyManager, fix="Give a PolicyManager().", hints=hints, optional=True)
    managers = {} if given is None else {id(given): given}
    for callback in callbacks:
        if isinstance(callback, PolicyManagerCallback):
            managers[id(callback.policy_manager)] = callback.policy_manager
    if len(managers) > 1:
        raise ConfigurationError(describe("A loop has one policy manager.", fix="Give only one.", given=len(managers)))
    return next(iter(managers.values()), None)


def check_fits(manager: PolicyManager, callbacks: Sequence[LoopCallback], agent: Any, evaluator: BaseEvaluator) -> None:
    """Refuses a policy manager that does not fit the agent or the evaluator.

    Args:
        manager: The manager.
        callbacks: The callbacks of the loop.
        agent: The agent that `fit` trains.
        evaluator: Scores the agent.

    Raises:
        ConfigurationError: The manager has agents, and the trained agent is neither one of them nor an ensemble of
            them; `as_callback` was given another agent; scores are logs; variants could not learn; or the agent cannot
            forget what `after_shift` says.
    """
    if not evaluator.plan.repeatable:
        raise ConfigurationError(
            describe(
                "A policy manager plays policies and compares their scores; a log says nothing about a stored one.",
                fix="Score windows: leave `monitor` out, or give an evaluator.",
                evaluator=type(evaluator).__name__,
            )
        )
    members = getattr(agent, "members", [agent])
    strangers = [other for other in manager.agents if not any(other is member for member in members)]
    if strangers:
        raise ConfigurationError(
            describe(
                "The policy manager has agents that do not act here.",
                fix="Train the ensemble: EnsembleAgent(manager, primary_agent=...).",
                trained=type(agent).__name__,
                strangers=[other.name for other in strangers],
            )
        )
    for callback in callbacks:
        given = callback.agent if isinstance(callback, PolicyManagerCallback) else None
        if given is not None and not any(given is own for own in (agent, *members)):
            raise ConfigurationError(
                describe(
                    "`as_callback(agent)` was given another agent than the one that `fit` trains.",
                    fix="Call `as_callback()` without an agent.",
                    trained=agent.name,
                    agent=getattr(given, "name", given),
                )
            )
    if manager.auto_spawn and getattr(agent, "learn", None) == "none":
        raise ConfigurationError(
            describe(
                "`auto_spawn` needs an agent that learns, and this ensemble does not.",
                auto_spawn=True,
                learn="none",
                fix="Leave `auto_spawn` out, or let the ensemble learn.",
            )
        )
    agent.check_after_shift(manager.after_shift)
