"""Hyperparameters as variables: the compiled step reads them, so changing one costs an assignment, not a retrace.

They are not weights of the model, so that restoring a policy does not undo what a tuner found.
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
    """The default and the legal range of a hyperparameter.

    Attributes:
        value: Default value.
        low: Smallest legal value. Defaults to 0.
        high: Largest legal value. Defaults to infinity.

    Raises:
        ConfigurationError: An argument is not a number, or the range is empty.

    Examples:
        >>> class Cautious(optix.Agent):
        ...     def __init__(self, caution=0.5, **kwargs):
        ...         super().__init__(hyperparams={"caution": optix.Hyperparam(caution, 0.0, 1.0)}, **kwargs)
        >>> Cautious().hyperparams["caution"]
        0.5
    """

    value: float
    low: float = 0.0
    high: float = math.inf

    def __post_init__(self) -> None:
        # Only kinds are checked here. `Hyperparams` checks the value, because its error can name the hyperparameter.
        for name, value in (("value", self.value), ("low", self.low), ("high", self.high)):
            if isinstance(value, bool) or not isinstance(value, numbers.Real):
                refuse_kind(name, value, "a number", fix="Such as Hyperparam(0.99, low=0.0, high=1.0).")
        if not self.low <= self.high:
            problem = "The smallest legal value must not be above the largest."
            raise HyperparamError(describe(problem, low=self.low, high=self.high))


def declared(name: str, value: Any, low: float = 0.0, high: float = math.inf) -> Hyperparam:
    """Makes a hyperparameter from an argument of an algorithm. An error names the argument.

    Args:
        name: Name of the argument.
        value: The value as given.
        low: Smallest legal value.
        high: Largest legal value.

    Raises:
        ArgumentError: The value is not a number.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        refuse_kind(name, value, f"a number in [{low:g}, {high:g}]")
    return Hyperparam(float(value), low, high)


def learning_rate_of(optimizer: Any) -> Any:
    """Returns the variable of an optimizer's learning rate; None if it has a schedule, or several learning rates."""
    variable = getattr(optimizer, "learning_rate", None)  # a `MultiOptimizer` raises AttributeError
    return variable if isinstance(variable, keras.Variable) else None


class Hyperparams(MutableMapping[str, float]):
    """A mapping from names to hyperparameters, each held by a variable.

    Reading an item returns a Python float (the shortest one that rounds to the same float32). `tensor` returns the
    tensor that a compiled step reads. The names are fixed, and values outside the legal range are refused.

    Args:
        specs: The default and the range of each hyperparameter, by name.
    """

    def __init__(self, specs: Mapping[str, Hyperparam]) -> None:
        # This is a plain object, not a dict or list: Keras would track the variables in those as weights of the model.
        self._specs = dict(specs)
        self._variables: dict[str, Any] = {}
        self._read_all: Any = None
        for name, spec in specs.items():
            self._check(name, spec.value)
            self._variables[name] = keras.Variable(spec.value, dtype="float32", trainable=False, name=name)

    if not TYPE_CHECKING:  # for type checkers, the mapping has no further attributes

        def __getattr__(self, name: str) -> Any:
            """Raises an error for an attribute that does not exist, because hyperparameters are items."""
            if name.startswith("_"):
                raise AttributeError(name)
            if name in self._variables:
                raise UnknownNameError(f"Hyperparameters are read by name: write hyperparams[{name!r}].")
            raise unknown_attribute("The mapping of hyperparameters", name, self._variables, ARGUMENTS)

        def __setattr__(self, name: str, value: Any) -> None:
            """Refuses attributes, because their values would be ignored."""
            if not name.startswith("_"):
                meant = name if name in self._variables else nearest_of(name, self._variables) or name
                raise UnknownNameError(
                    f"Hyperparameters are set by name, not as attributes. Received: {name}={with_kind(value)}. "
                    f"Write agent.hyperparams[{meant!r}] = ...; there are {', '.join(self._variables)}."
                )
            super().__setattr__(name, value)

    def attach_optimizer(self, optimizer: Any) -> None:
        """Makes the optimizer's learning rate the hyperparameter `learning_rate`.

        With a `LearningRateSchedule`, or with several optimizers in one, there is no such hyperparameter.
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
        """Returns the value as a scalar tensor, which is read when the step runs."""
        return self._variable(name).value

    def assign(self, values: Mapping[str, float]) -> None:
        """Sets several values. If one of them is invalid, none is changed.

        Raises:
            HyperparamError: A name is unknown or a value is not legal.
        """
        self.check(values)
        for name, value in values.items():
            self._variables[name].assign(float(value))

    def snapshot(self) -> dict[str, float]:
        """Returns all values, read in one compiled call: reading them one by one takes a tenth of a window's time."""
        if self._read_all is None:
            variables = list(self._variables.values())
            read_all = tf.function(lambda: tf.stack([v.value for v in variables]), autograph=False)
            # A concrete function: with many agents, TensorFlow would wrongly warn about retracing.
            self._read_all = read_all.get_concrete_function()
        values = self._read_all().numpy() if self._variables else []
        return {name: shortest(value) for name, value in zip(self._variables, values, strict=True)}

    def __getitem__(self, name: str) -> float:
        return shortest(self._variable(name).numpy())

    def __setitem__(self, name: str, value: float) -> None:
        self.assign({name: value})

    def __delitem__(self, name: str) -> None:
        raise HyperparamError(describe("A hyperparameter cannot be removed.", name=name))

    # The two inherited methods expect a KeyError, but reading an unknown name raises a more helpful error.

    def __contains__(self, name: object) -> bool:
        return name in self._variables

    def get(self, name: str, default: Any = None) -> Any:
        """Returns the value, or `default` if there is no hyperparameter of this name."""
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
                "LearningRateSchedule or several learning rates. First call `agent.compile(optimizer=...)` with an "
                "optimizer whose learning rate is a number."
            )
        raise HyperparamError(
            describe(
                "Unknown hyperparameter.",
                fix=f"Known names: {', '.join(sorted({*self._variables, LEARNING_RATE}))}."
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
