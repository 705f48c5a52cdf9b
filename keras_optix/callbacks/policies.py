"""Whether a policy manager fits the loop that it is given to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras_optix.callbacks.loop_callback import LoopCallback
from keras_optix.callbacks.policy_manager import PolicyManager, PolicyManagerCallback
from keras_optix.errors import ConfigurationError, describe
from keras_optix.evaluators.base import BaseEvaluator
from keras_optix.validation import check_kind


def manager_among(given: PolicyManager | None, callbacks: Sequence[LoopCallback]) -> PolicyManager | None:
    """The policy manager of a loop, given as such or as a callback.

    Args:
        given: As such.
        callbacks: Those of the loop.

    Raises:
        ConfigurationError: It is none, or there are two.
    """
    hints = {
        "an agent": "Add it to a manager: manager.add_agent(agent).",
        "a registry": "Give it to the manager: PolicyManager(registry).",
    }
    check_kind("policy_manager", given, PolicyManager, fix="Such as PolicyManager().", hints=hints, optional=True)
    managers = {} if given is None else {id(given): given}
    for callback in callbacks:
        if isinstance(callback, PolicyManagerCallback):
            managers[id(callback.policy_manager)] = callback.policy_manager
    if len(managers) > 1:
        raise ConfigurationError(describe("A loop has one policy manager.", given=len(managers)))
    return next(iter(managers.values()), None)


def check_fits(manager: PolicyManager, callbacks: Sequence[LoopCallback], agent: Any, evaluator: BaseEvaluator) -> None:
    """Refuses a policy manager that has nothing to do with what is trained.

    Args:
        manager: The manager.
        callbacks: Those of the loop.
        agent: What is trained.
        evaluator: Scores it.

    Raises:
        ConfigurationError: The agent is neither one of the manager's nor made of them, a callback was made for another
            one, scores are logs, variants could not learn, or the agent cannot forget what it should.
    """
    if not evaluator.plan.repeatable:
        raise ConfigurationError(
            describe(
                "A policy manager lets policies play and compares what they earn; a log says nothing of one of them.",
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
                    "`as_callback(agent)` was given another agent than the one that is trained.",
                    trained=agent.name,
                    agent=getattr(given, "name", given),
                )
            )
    if manager.auto_spawn and getattr(agent, "learn", None) == "none":
        raise ConfigurationError(
            describe("Variants learn, and this ensemble does not.", auto_spawn=True, learn="none", fix="Leave one out.")
        )
    agent.check_after_shift(manager.after_shift)
