"""Kinds of what an agent is made of: networks, hyperparameters, an optimizer."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import keras

from keras_optix.agents.hyperparams import Hyperparam
from keras_optix.arguments import unknown_argument
from keras_optix.errors import ArgumentError, ConfigurationError, describe
from keras_optix.experience.carry import CarrySpec
from keras_optix.validation import check_bool, check_kind, check_mapping, refuse_kind

_COMPILE = ("run_eagerly", "steps_per_execution", "auto_scale_loss")
_COMPILE_OTHERS = (
    "loss",
    "loss_weights",
    "metrics",
    "weighted_metrics",
)  # Keras' own, which an agent has another use for
_ADAM = "keras.optimizers.Adam(3e-4)"


def check_hyperparams(hyperparams: Any) -> dict[str, Hyperparam]:
    """Returns the hyperparameters that an algorithm declares, as a dict.

    Raises:
        ArgumentError: They are no mapping of names to `Hyperparam`s.
    """
    if hyperparams is None:
        return {}
    wanted = "a mapping of names to Hyperparameters"
    checked = check_mapping("hyperparams", hyperparams, wanted, fix='Such as {"temperature": Hyperparam(1.0)}.')
    for name, spec in checked.items():
        fix = f'Write {{"{name}": Hyperparam(value, low, high)}}.'
        check_kind(f"hyperparams[{name!r}]", spec, Hyperparam, fix=fix)
    return dict(checked)


def check_carry(agent: Any) -> None:
    """Checks how an agent acts: that its `choose` takes and returns a carry, and that `carry_specs` says which.

    Args:
        agent: An `Agent`, of somebody's own algorithm too.

    Raises:
        ConfigurationError: `choose` does not take the carry.
        ArgumentError: `carry_specs` is no tuple of `CarrySpec`s.
    """
    name, signature = type(agent).__name__, inspect.signature(agent.choose)
    try:
        signature.bind(None, None, (), ())
    except TypeError as error:
        problem = f"`{name}.choose` must take the carry and return it."
        fix = (
            "Write `def choose(self, observations, noise, weights, carry=())` and return (choices, log_probs, carry); "
            "an agent without a carry is given `()`, and returns it."
        )
        raise ConfigurationError(describe(problem, fix=fix, arguments=list(signature.parameters))) from error
    specs = agent.carry_specs
    wanted = "a tuple of CarrySpecs"
    check_kind("carry_specs", specs, tuple, wanted=wanted, fix="Such as (CarrySpec((64,)),); () is no carry.")
    for k, spec in enumerate(specs):
        check_kind(f"carry_specs[{k}]", spec, CarrySpec, fix="Such as CarrySpec((64,)).")


def check_optimizer(optimizer: Any) -> Any:
    """Returns what `compile` takes for an optimizer.

    Raises:
        ArgumentError: It is none.
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
    """Checks what `compile` gets beside the optimizer.

    Raises:
        ArgumentError: An option is of the wrong kind, or there is none of its name.
    """
    for name, value in options.items():
        if name not in (*_COMPILE, *_COMPILE_OTHERS):
            raise unknown_argument("compile", name, value, ("optimizer", "jit_compile", *_COMPILE))
        if name in ("run_eagerly", "auto_scale_loss"):
            check_bool(name, value)
