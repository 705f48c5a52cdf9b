"""Which adapter a model has: that of an agent, or that of an ordinary model; and which options are not for it."""

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
from keras_optix.evaluators.monitors import MonitorEvaluator


def is_agent(model: Any) -> bool:
    """Whether a model is an agent, which learns from windows; others are trained in epochs."""
    return isinstance(model, LoopAgent)


def agent_adapter(
    agent: Any,
    evaluator: BaseEvaluator,
    variables: Mapping[str, Any],
    manager: PolicyManager | None,
    callbacks: Sequence[LoopCallback],
) -> FitAdapter:
    """The adapter of an agent.

    Args:
        agent: What `fit` trains.
        evaluator: Scores it.
        variables: Hyperparameters by name; an agent has its own.
        manager: Evolves policies, or None.
        callbacks: Those of the loop.

    Raises:
        ConfigurationError: An option is not for an agent, or does not fit this one.
        StateError: It has no training data.
    """
    if variables:
        problem = "An agent has its hyperparameters itself; `hyperparams` is for ordinary models."
        raise ConfigurationError(describe(problem, fix="Leave it out.", hyperparams=sorted(variables)))
    adapter = AgentAdapter(agent)
    if evaluator.plan.must_play and not adapter.can_play():
        problem = "This evaluator plays on an environment of its own, and none can be made of the dataset's."
        fix = "Make the dataset of an id or a factory, or score its windows with ReturnEvaluator."
        raise ConfigurationError(describe(problem, fix=fix, evaluator=type(evaluator).__name__))
    if manager is not None:
        check_fits(manager, callbacks, agent, evaluator)
    return adapter


def model_adapter(
    model: Callable[[], Any],
    evaluator: BaseEvaluator,
    variables: Mapping[str, Any],
    manager: PolicyManager | None,
    when_dormant: str,
    resumed: Mapping[str, Any] | None,
) -> FitAdapter:
    """The adapter of an ordinary model.

    Args:
        model: Gives what `fit` trains.
        evaluator: Scores it.
        variables: Hyperparameters by name.
        manager: Evolves policies; None for an ordinary model.
        when_dormant: What follows DORMANT.
        resumed: What the adapter saved of the run that goes on; None: a new run.

    Raises:
        ConfigurationError: An option is not for an ordinary model.
    """
    if manager is not None:
        problem, fix = "A policy manager lets policies play; an ordinary model is none.", "Leave `policy_manager` out."
        raise ConfigurationError(describe(problem, fix=fix, model=type(model()).__name__))
    if not isinstance(evaluator, MonitorEvaluator):
        problem = "An ordinary model has no windows to evaluate; it is scored by a log."
        fix = 'Give `monitor="val_loss"` instead of an evaluator.'
        raise ConfigurationError(describe(problem, fix=fix, evaluator=type(evaluator).__name__))
    if when_dormant == "watch":
        problem = "Only an agent can be watched: it acts while it does not learn."
        raise ConfigurationError(describe(problem, when_dormant=when_dormant))
    return ModelAdapter(model, variables, resumed)
