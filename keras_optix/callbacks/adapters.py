"""Chooses the adapter for an agent or for an ordinary model, and refuses options that do not apply to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from keras_optix.callbacks.agent_adapter import AgentAdapter
from keras_optix.callbacks.fit_adapter import FitAdapter
from keras_optix.callbacks.loop_agent import LoopAgent
from keras_optix.callbacks.loop_callback import LoopCallback
from keras_optix.callbacks.model_adapter import ModelAdapter
from keras_optix.callbacks.policies import check_fits
from keras_optix.callbacks.policy_manager import PolicyManager
from keras_optix.errors import ConfigurationError, describe
from keras_optix.evaluators.base import BaseEvaluator
from keras_optix.evaluators.held_out import HeldOutEvaluator
from keras_optix.evaluators.monitors import MonitorEvaluator
from keras_optix.evaluators.returns import GreedyEvaluator, ReturnEvaluator
from keras_optix.experience.held_out import HeldOut


def is_agent(model: Any) -> bool:
    """Whether a model is an agent, which learns from windows. Other models are trained in epochs."""
    return isinstance(model, LoopAgent)


def agent_adapter(
    agent: Any,
    evaluator: BaseEvaluator | None,
    variables: Mapping[str, Any],
    manager: PolicyManager | None,
    callbacks: Sequence[LoopCallback],
    eval_env: HeldOut | None = None,
) -> FitAdapter:
    """Returns the adapter of an agent.

    Args:
        agent: The agent that `fit` trains.
        evaluator: Scores the agent; None: the default.
        variables: Hyperparameters by name; must be empty, because an agent has its own.
        manager: The policy manager, or None.
        callbacks: The callbacks of the loop.
        eval_env: The held-out environments of evaluations; None: evaluations are not held out.

    Raises:
        ConfigurationError: An option does not apply to agents, or does not fit this one.
        StateError: The agent has no training data.
    """
    if variables:
        problem = "An agent has its hyperparameters itself. The option `hyperparams` is for ordinary models."
        raise ConfigurationError(describe(problem, fix="Leave `hyperparams` out.", hyperparams=sorted(variables)))
    adapter = AgentAdapter(agent)
    if eval_env is not None:
        scored = HeldOutEvaluator(GreedyEvaluator() if evaluator is None else evaluator)
        adapter.hold_out(eval_env, episodes=scored.plan.episodes, steps=scored.plan.together)
    if evaluator is not None and evaluator.plan.must_play and not adapter.can_play:
        problem = "This evaluator plays on a second environment, and no second one can be made from the dataset."
        fix = "Give the dataset an id or a factory of environments, or score its windows with ReturnEvaluator."
        raise ConfigurationError(describe(problem, fix=fix, evaluator=type(evaluator).__name__))
    if manager is not None:
        check_fits(manager, callbacks, agent, evaluator or ReturnEvaluator())
    return adapter


def model_adapter(
    model: Callable[[], Any],
    evaluator: BaseEvaluator,
    variables: Mapping[str, Any],
    manager: PolicyManager | None,
    when_dormant: str,
    resumed: Mapping[str, Any] | None,
) -> FitAdapter:
    """Returns the adapter of an ordinary model.

    Args:
        model: Returns the model that `fit` trains.
        evaluator: Scores the model.
        variables: Hyperparameters by name.
        manager: The policy manager; must be None, because an ordinary model has no policies.
        when_dormant: What follows DORMANT.
        resumed: What the adapter saved of the run that is resumed; None for a new run.

    Raises:
        ConfigurationError: An option does not apply to ordinary models.
    """
    if manager is not None:
        problem, fix = "`policy_manager` needs an agent, and this is an ordinary model.", "Leave `policy_manager` out."
        raise ConfigurationError(describe(problem, fix=fix, model=type(model()).__name__))
    if not isinstance(evaluator, MonitorEvaluator):
        problem = "An ordinary model has no windows that an evaluator could score. Its score is a log."
        fix = 'Give `monitor="val_loss"` instead of an evaluator.'
        raise ConfigurationError(describe(problem, fix=fix, evaluator=type(evaluator).__name__))
    if when_dormant == "watch":
        problem, fix = "Only an agent can be watched, because it acts while it does not learn.", 'Give "stop".'
        raise ConfigurationError(describe(problem, fix=fix, when_dormant=when_dormant))
    return ModelAdapter(model, variables, resumed)
