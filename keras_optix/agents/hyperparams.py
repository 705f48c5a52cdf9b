"""Hyperparameters as variables: the compiled step reads them, so changing one costs an assignment, not a retrace.

They are not weights of the model: restoring a policy does not undo what a tuner found.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from keras_optix.arguments import NamesChecked, unknown_attribute
from keras_optix.errors import HyperparamError, StateError, UnknownNameError, describe
from keras_optix.foreign_names import ARGUMENTS
from keras_optix.kinds import with_kind
from keras_optix.records import LEARNING_RATE, shortest
from keras_optix.validation import is_finite_number, nearest, nearest_of, refuse_kind


@dataclass(frozen=True)
class Hyperparam(NamesChecked):
    """Default and legal range of a hyperparameter.

    Attributes:
        value: Default.
        low: Smallest legal value.
        high: Largest legal value.

    Raises:
        ConfigurationError: One is no number, or the range is empty.
    """

    value: float
    low: float = 0.0
    high: float = math.inf

    def __post_init__(self) -> None:
        # Kinds only: that the value is legal is checked where the hyperparameter has its name.
        for name, value in (("value", self.value), ("low", self.low), ("high", self.high)):
            if isinstance(value, bool) or not isinstance(value, numbers.Real):
                refuse_kind(name, value, "a number", fix="Such as Hyperparam(0.99, low=0.0, high=1.0).")
        if not self.low <= self.high:
            problem = "The smallest legal value must not be above the largest."
            raise HyperparamError(describe(problem, low=self.low, high=self.high))


def declared(name: str, value: Any, low: float = 0.0, high: float = math.inf) -> Hyperparam:
    """A hyperparameter that is an argument of an algorithm: what is no number is refused under its own name.

    Args:
        name: The argument.
        value: What was given.
        low: Smallest legal value.
        high: Largest legal value.

    Raises:
        ArgumentError: It is no number.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        refuse_kind(name, value, f"a number in [{low:g}, {high:g}]")
    return Hyperparam(float(value), low, high)


def learning_rate_of(optimizer: Any) -> Any:
    """The variable of an optimizer's learning rate; None if it has a schedule, or several learning rates."""
    variable = getattr(optimizer, "learning_rate", None)  # a `MultiOptimizer` raises AttributeError
    return variable if isinstance(variable, keras.Variable) else None


class Hyperparams(MutableMapping[str, float]):
    """A mapping of name to value whose values are variables.

    Reading gives a Python float (the shortest that gives the float32 back), `tensor` what a compiled step reads.
    Names are fixed; values outside the legal range are refused.

    Args:
        specs: Default and range by name.
    """

    def __init__(self, specs: Mapping[str, Hyperparam]) -> None:
        # A plain object, no dict or list: Keras would track the variables as weights of the model.
        self._specs = dict(specs)
        self._variables: dict[str, Any] = {}
        self._read_all: Any = None
        for name, spec in specs.items():
            self._check(name, spec.value)
            self._variables[name] = keras.Variable(spec.value, dtype="float32", trainable=False, name=name)

    if not TYPE_CHECKING:  # for checkers, they have no attributes

        def __getattr__(self, name: str) -> Any:
            """Called where there is no such attribute: hyperparameters are items."""
            if name.startswith("_"):
                raise AttributeError(name)
            if name in self._variables:
                raise UnknownNameError(f"Hyperparameters are read by name: write hyperparams[{name!r}].")
            raise unknown_attribute("The mapping of hyperparameters", name, self._variables, ARGUMENTS)

        def __setattr__(self, name: str, value: Any) -> None:
            """Refuses attributes: what was set would be ignored."""
            if not name.startswith("_"):
                meant = name if name in self._variables else nearest_of(name, self._variables) or name
                raise UnknownNameError(
                    f"Hyperparameters are set by name, not as attributes. Received: {name}={with_kind(value)}. "
                    f"Write agent.hyperparams[{meant!r}] = ...; there are {', '.join(self._variables)}."
                )
            super().__setattr__(name, value)

    def attach_optimizer(self, optimizer: Any) -> None:
        """Makes the optimizer's learning rate the hyperparameter `learning_rate`.

        With a `LearningRateSchedule`, and with several optimizers in one, there is no such variable.
        """
        variable = learning_rate_of(optimizer)
        if variable is not None:
            self._specs[LEARNING_RATE] = Hyperparam(float(variable.numpy()))
            self._variables[LEARNING_RATE] = variable
        else:
            self._specs.pop(LEARNING_RATE, None)
            self._variables.pop(LEARNING_RATE, None)
        self._read_all = None

    def tensor(self, name: str) -> Any:
        """The value as a scalar tensor, read when the step runs."""
        return self._variable(name).value

    def assign(self, values: Mapping[str, float]) -> None:
        """Sets several values, all or none.

        Raises:
            HyperparamError: A name is unknown or a value is not legal; then none is changed.
        """
        for name, value in values.items():
            self._variable(name)
            self._check(name, value)
        for name, value in values.items():
            self._variables[name].assign(float(value))

    def snapshot(self) -> dict[str, float]:
        """All values at once, in one compiled call: reading them one by one costs a tenth of a window."""
        if self._read_all is None:
            variables = list(self._variables.values())
            read_all = tf.function(lambda: tf.stack([v.value for v in variables]), autograph=False)
            # One function each for many agents is no retracing, but TensorFlow would warn of it.
            self._read_all = read_all.get_concrete_function()
        values = self._read_all().numpy() if self._variables else []
        return {name: shortest(value) for name, value in zip(self._variables, values, strict=True)}

    def __getitem__(self, name: str) -> float:
        return shortest(self._variable(name).numpy())

    def __setitem__(self, name: str, value: float) -> None:
        self.assign({name: value})

    def __delitem__(self, name: str) -> None:
        raise HyperparamError(describe("A hyperparameter cannot be removed.", name=name))

    # The inherited two expect a KeyError, and reading an unknown name raises an error that says more.

    def __contains__(self, name: object) -> bool:
        return name in self._variables

    def get(self, name: str, default: Any = None) -> Any:
        """The value, or `default` where there is no such hyperparameter."""
        known = name in self._variables
        return self[name] if known else default

    def __iter__(self) -> Iterator[str]:
        return iter(self._variables)

    def __len__(self) -> int:
        return len(self._variables)

    def __repr__(self) -> str:
        return f"Hyperparams({self.snapshot()!r})"

    def check(self, values: Mapping[str, float]) -> None:
        """Checks names and values without changing anything.

        Raises:
            HyperparamError: A name is unknown or a value is not legal.
        """
        for name, value in values.items():
            self._variable(name)
            self._check(name, value)

    def _variable(self, name: str) -> Any:
        try:
            return self._variables[name]
        except KeyError:
            pass
        if name == LEARNING_RATE:
            raise StateError(
                "There is no tunable learning rate: the agent is not compiled, or its optimizer has a "
                "LearningRateSchedule or several learning rates. Call `agent.compile(optimizer=...)` with a number as "
                "learning rate first."
            )
        raise HyperparamError(
            describe(
                "Unknown hyperparameter.",
                fix=f"Known are: {', '.join(sorted({*self._variables, LEARNING_RATE}))}."
                + (f" Here it is {ARGUMENTS[name]}." if name in ARGUMENTS else nearest(str(name), self._variables)),
                name=name,
            )
        )

    def _check(self, name: str, value: Any) -> None:
        spec = self._specs[name]
        if not is_finite_number(value) or not spec.low <= value <= spec.high:
            raise HyperparamError(
                describe(f"Hyperparameter {name!r} must be in [{spec.low:g}, {spec.high:g}].", **{name: value})
            )
