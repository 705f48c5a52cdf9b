"""Checks the kinds of an agent's parts: its hyperparameters, its carry and its optimizer."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import keras

from keras_optix.agents.hyperparams import Hyperparam
from keras_optix.arguments import unknown_argument
from keras_optix.errors import ArgumentError, ConfigurationError, describe
from keras_optix.experience.carry import CarrySpec
from keras_optix.records import CollectionDefaults
from keras_optix.validation import check_bool, check_kind, check_mapping, refuse_kind

_COMPILE = ("run_eagerly", "steps_per_execution", "auto_scale_loss")
_COMPILE_OTHERS = (
    "loss",
    "loss_weights",
    "metrics",
    "weighted_metrics",
)  # arguments of Keras' `compile` that `refuse_losses` refuses with a message of its own
_ADAM = "keras.optimizers.Adam(3e-4)"


def check_hyperparams(hyperparams: Any) -> dict[str, Hyperparam]:
    """Returns the hyperparameters that an algorithm declares, as a dict.

    Raises:
        ArgumentError: `hyperparams` is not a mapping of names to `Hyperparam`s.
    """
    if hyperparams is None:
        return {}
    wanted = "a mapping of names to Hyperparams"
    checked = check_mapping("hyperparams", hyperparams, wanted, fix='Such as {"temperature": Hyperparam(1.0)}.')
    for name, spec in checked.items():
        fix = f'Write {{"{name}": Hyperparam(value, low, high)}}.'
        check_kind(f"hyperparams[{name!r}]", spec, Hyperparam, fix=fix)
    return dict(checked)


def check_collection_defaults(defaults: Any) -> CollectionDefaults:
    """Returns the defaults of `dataset_from_env` for an agent.

    Raises:
        ArgumentError: They are something else.
    """
    fix = "Such as keras_optix.records.CollectionDefaults(window_size=32, num_envs=8)."
    checked: CollectionDefaults = check_kind("collection_defaults", defaults, CollectionDefaults, fix=fix)
    return checked


def check_carry(agent: Any) -> None:
    """Checks that an agent's `choose` takes a carry, and that its `carry_specs` describe one.

    Args:
        agent: An `Agent`, which may be of a user's own class.

    Raises:
        ConfigurationError: `choose` does not take the carry.
        ArgumentError: `carry_specs` is not a tuple of `CarrySpec`s.
    """
    name, signature = type(agent).__name__, inspect.signature(agent.choose)
    try:
        signature.bind(None, None, (), ())
    except TypeError as error:
        problem = f"`{name}.choose` must take the carry and return it."
        fix = (
            "Write `def choose(self, observations, noise, weights, carry=())` and return (choices, log_probs, carry); "
            "an agent without a carry gets `()`, and returns it."
        )
        raise ConfigurationError(describe(problem, fix=fix, arguments=list(signature.parameters))) from error
    specs = agent.carry_specs
    wanted = "a tuple of CarrySpecs"
    check_kind("carry_specs", specs, tuple, wanted=wanted, fix="Such as (CarrySpec((64,)),); () means no carry.")
    for k, spec in enumerate(specs):
        check_kind(f"carry_specs[{k}]", spec, CarrySpec, fix="Such as CarrySpec((64,)).")


def refuse_two_carries(agent: Any, distribution: Any) -> None:
    """Refuses a distribution with a carry in an agent with a carry of its own.

    Args:
        agent: An `Agent`, which may be of a user's own class.
        distribution: The distribution over its actions, which has a carry.

    Raises:
        ConfigurationError: The agent has a carry of its own.
    """
    if agent.carry_specs:
        name, kind = type(distribution).__name__, type(agent).__name__
        problem = f"{name} keeps its noise in the carry, but {kind} has a carry of its own."
        fix = "Give the agent a distribution without a carry, such as the default of the action space."
        raise ConfigurationError(describe(problem, fix=fix, distribution=distribution, carry_specs=agent.carry_specs))


def check_optimizer(optimizer: Any) -> Any:
    """Returns the optimizer that `compile` was given, made from its name if it is a name.

    Raises:
        ArgumentError: It is not an optimizer, a config of one, or the name of one.
    """
    is_optimizer = isinstance(optimizer, str | Mapping | keras.optimizers.Optimizer)
    if isinstance(optimizer, type) or not is_optimizer:
        hints = {
            "the class of a Keras optimizer": f"That is the class; make one: optimizer={_ADAM}.",
            "a float": "Give the learning rate to an optimizer: optimizer=keras.optimizers.Adam(learning_rate).",
            "a learning rate schedule": "Give the schedule to an optimizer: optimizer=keras.optimizers.Adam(schedule).",
            "a list": "An agent has one optimizer.",
        }
        fix = f"Such as optimizer={_ADAM}."
        refuse_kind("optimizer", optimizer, "a Keras optimizer, or the name of one", fix=fix, hints=hints)
    if isinstance(optimizer, str):
        try:
            return keras.optimizers.get(optimizer)
        except ValueError as error:
            raise ArgumentError(
                f"There is no Keras optimizer of this name. Received: optimizer={optimizer!r}. "
                f"Give one, such as optimizer={_ADAM}."
            ) from error
    return optimizer


def check_compile(options: Mapping[str, Any]) -> None:
    """Checks the further arguments of `compile`.

    Raises:
        ArgumentError: An argument is of the wrong kind, or `compile` has no argument of this name.
    """
    for name, value in options.items():
        if name not in (*_COMPILE, *_COMPILE_OTHERS):
            raise unknown_argument("compile", name, value, ("optimizer", "jit_compile", *_COMPILE))
        if name in ("run_eagerly", "auto_scale_loss"):
            check_bool(name, value)
