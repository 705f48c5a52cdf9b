"""The hyperparameters of an ordinary model: learning rates that train it, and variables that the user names."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import keras

from keras_optix.callbacks.optimizers import Optimizers
from keras_optix.errors import ConfigurationError, HyperparamError, describe
from keras_optix.records import LEARNING_RATE, shortest
from keras_optix.tuners.search_space import Log, SearchSpace
from keras_optix.validation import is_finite_number

_RATES = Log(1e-5, 1e-1)  # what a tuner without bounds searches
_NAME_IT = "Name a variable with `hyperparams={name: variable}`"


class VariableHyperparams:
    """Learning rates and variables by name, as hyperparameters.

    The learning rate of a single optimizer is called ``learning_rate``. If there are several optimizers, the name of
    the attribute comes first (``d_optimizer.learning_rate``). If only one of them trains, ``learning_rate`` is that of
    this one, from the end of the first epoch on, when this is known; see `resolve`.

    Args:
        optimizers: The optimizers of the model.
        named: Variables that the user named. They take precedence over all others of the same name.
        resolved: Whether it is already known which optimizers train, because the run is resumed.
    """

    def __init__(self, optimizers: Optimizers, named: Mapping[str, Any], *, resolved: bool = False) -> None:
        self._optimizers = optimizers
        self._named = dict(named)
        self._resolved = resolved or optimizers.certain
        self.variables: dict[str, Any] = {}
        self._refresh()

    @property
    def known(self) -> bool:
        """Whether it is known what ``learning_rate`` means."""
        return self._resolved or LEARNING_RATE in self._named or len(self._optimizers.found) == 1

    @property
    def resolved(self) -> bool:
        """Whether it is known which optimizers train."""
        return self._resolved

    @property
    def all_rates(self) -> list[Any]:
        """All learning rates, even unused ones, and the named variables. The state of a snapshot excludes them."""
        return [*self._optimizers.rates.values(), *self._named.values()]

    @property
    def names_in_use(self) -> tuple[str, ...]:
        """The names of the learning rates that make updates, as far as that is known."""
        if LEARNING_RATE in self._named:
            return (LEARNING_RATE,)
        in_use = self._optimizers.in_use
        single = self.variables.get(LEARNING_RATE)
        if len(in_use) == 1 and any(rate is single for rate in in_use.values()):
            return (LEARNING_RATE,)
        # With a single optimizer, the name of its learning rate has no attribute in front.
        return tuple(name for name in map(_rate_of, in_use) if name in self.variables)

    @property
    def search_spaces(self) -> Mapping[str, SearchSpace]:
        """What a tuner without bounds searches: the learning rates that train."""
        values = self.snapshot()
        names = self.names_in_use if self._resolved else (LEARNING_RATE,)
        return {name: _RATES for name in names if name in values and values[name] in _RATES}

    def resolve(self, tuned: Iterable[str] | None) -> None:
        """Called when the first epoch has ended, so that it is known which optimizers train.

        Args:
            tuned: Names of the hyperparameters that a tuner sets or will set; None: all learning rates that train.

        Raises:
            HyperparamError: A name is the learning rate of an optimizer that does not train, or may mean several.
        """
        self._resolved = True
        self._refresh()
        if tuned is None:
            tuned = () if self._optimizers.in_use else (LEARNING_RATE,)
        for name in tuned:
            if name in self._named:
                continue
            if name == LEARNING_RATE:
                self._check_rate()
            elif name.removesuffix(f".{LEARNING_RATE}") in set(self._optimizers.found) - self._optimizers.used:
                warnings.warn(
                    f"The tuner sets {name!r}, and this optimizer made no update in the first epoch. Until it makes "
                    "one, its learning rate has no effect.",
                    stacklevel=2,
                )

    def check(self, values: Mapping[str, float]) -> None:
        """Raises `HyperparamError` for a name or value that is not legal."""
        for name, value in values.items():
            if name not in self.variables:
                known = ", ".join(sorted(self.variables)) or "none"
                raise HyperparamError(
                    describe(
                        "The model has no such hyperparameter.",
                        fix=f"Known are: {known}. {_NAME_IT}. "
                        "A learning rate under a LearningRateSchedule cannot be tuned.",
                        name=name,
                    )
                )
            if not is_finite_number(value) or (name.endswith(LEARNING_RATE) and value < 0):
                received: dict[str, Any] = {name: value}
                problem = f"Hyperparameter {name!r} must be finite, and a learning rate must be at least 0."
                raise HyperparamError(describe(problem, **received))

    def check_tracked(self, model: Any) -> None:
        """Checks that the named variables belong to the model. On JAX a compiled step reads only these.

        Raises:
            ConfigurationError: A named variable does not belong to the model.
        """
        optimizer = getattr(model, "optimizer", None)
        known = {id(variable) for variable in model.variables}
        known |= set() if optimizer is None else {id(variable) for variable in optimizer.variables}
        for name, variable in self._named.items():
            if id(variable) not in known:
                raise ConfigurationError(
                    describe(
                        "On JAX a compiled step reads only the model's own variables; this one would be a constant.",
                        fix="Make it an attribute of a layer.",
                        name=name,
                    )
                )

    def assign(self, values: Mapping[str, float]) -> None:
        """Sets several values: all of them, or none if one is refused."""
        self.check(values)
        for name, value in values.items():
            self.variables[name].assign(value)

    def snapshot(self) -> dict[str, float]:
        """Returns all values by name."""
        read = keras.ops.convert_to_numpy
        return {name: shortest(read(variable)) for name, variable in self.variables.items()}

    def _refresh(self) -> None:
        rates = self._optimizers.rates
        found: dict[str, Any] = {}
        single = list(rates.values())
        if len(self._optimizers.found) > 1:
            found = {_rate_of(path): rate for path, rate in rates.items()}
            single = list(self._optimizers.in_use.values()) if self._resolved else []
        if len(single) == 1:
            found[LEARNING_RATE] = single[0]
        self.variables = found | self._named

    def _check_rate(self) -> None:
        in_use = self._optimizers.in_use
        if len(in_use) == 1 and any(rate is self.variables.get(LEARNING_RATE) for rate in in_use.values()):
            return
        trained = sorted(self._optimizers.used)
        if len(in_use) > 1:
            names = ", ".join(repr(_rate_of(path)) for path in in_use)
            raise HyperparamError(
                describe(
                    "Several optimizers train this model, so `learning_rate` does not say which one is meant.",
                    fix=f"Give the tuner bounds for {names}, or no bounds at all: then it tunes all of them.",
                    optimizers=trained,
                )
            )
        if trained:
            fix = "A learning rate under a LearningRateSchedule cannot be tuned; give the tuner other names."
            problem = "The optimizer that trains this model has no learning rate that can be set."
            raise HyperparamError(describe(problem, fix=fix, optimizers=trained))
        raise HyperparamError(
            describe(
                "No optimizer of this model made an update in the first epoch: `train_step` uses none that is an "
                "attribute of the model, so its learning rate is not known.",
                fix=f"{_NAME_IT}, such as `hyperparams={{'learning_rate': optimizer.learning_rate}}`, or make the "
                "optimizer an attribute of the model.",
                optimizers=sorted(self._optimizers.found),
            )
        )


def _rate_of(path: str) -> str:
    return f"{path}.{LEARNING_RATE}"
