"""An ordinary Keras model as what the loop trains: epochs, scored by a log. Works on every backend of Keras."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from keras_optix.callbacks.trainee import (
    Candidate,
    HyperparamAccess,
    State,
    Trainee,
    Unit,
    prefixed,
    under,
)
from keras_optix.control.records import LEARNING_RATE, EvalMetrics, shortest
from keras_optix.control.search_space import Log, SearchSpace
from keras_optix.errors import ConfigurationError, HyperparameterError, describe
from keras_optix.experience.position import Saved
from keras_optix.validation import check_architecture, is_finite_number

_RATES = Log(1e-5, 1e-1)  # where a tuner without bounds looks


class VariableHyperparams:
    """The learning rate of an optimizer, and variables by name, as hyperparameters.

    Args:
        model: The model.
        variables: Further variables by name.
    """

    def __init__(self, model: Any, variables: Mapping[str, Any]) -> None:
        self.variables = dict(variables)
        rate = getattr(model.optimizer, "learning_rate", None)
        # With a LearningRateSchedule there is no variable: the schedule owns the learning rate.
        if isinstance(rate, keras.Variable):
            self.variables[LEARNING_RATE] = rate

    def check(self, values: Mapping[str, float]) -> None:
        """Raises `HyperparameterError` for a name or value that is not legal."""
        for name, value in values.items():
            if name not in self.variables:
                known = ", ".join(sorted(self.variables)) or "none"
                raise HyperparameterError(
                    describe(
                        "The model has no such hyperparameter.",
                        fix=f"Known are: {known}. Name a variable with `hyperparams={{name: variable}}`. "
                        "A learning rate under a LearningRateSchedule cannot be tuned.",
                        name=name,
                    )
                )
            if not is_finite_number(value) or (name == LEARNING_RATE and value < 0):
                received: dict[str, Any] = {name: value}
                raise HyperparameterError(describe(f"Hyperparameter {name!r} cannot be this.", **received))

    def assign(self, values: Mapping[str, float]) -> None:
        """Sets several values, all or none."""
        self.check(values)
        for name, value in values.items():
            self.variables[name].assign(value)

    def snapshot(self) -> dict[str, float]:
        """All values."""
        read = keras.ops.convert_to_numpy
        return {name: shortest(read(variable)) for name, variable in self.variables.items()}


class ModelTrainee(Trainee):
    """Trains an ordinary model, epoch by epoch.

    Args:
        model: Gives the model, built and compiled. A callable, because on JAX its variables are in place only after
            Keras' `Callback.model` was asked for it.
        variables: Variables that a tuner may set, by name.

    Raises:
        ConfigurationError: A variable is none of the model's where only these can be changed (JAX).
    """

    unit = "epoch"
    steps = "steps"
    exact = True
    metrics = ("loop/best", "loop/score", "epoch/loss", "epoch/val_loss")

    def __init__(self, model: Callable[[], Any], variables: Mapping[str, Any]) -> None:
        self._model = model
        if not model().optimizer.built:
            # Snapshots hold the optimizer's slots from the first one on.
            model().optimizer.build(model().trainable_variables)
        self._hyperparams = VariableHyperparams(model(), variables)
        if keras.backend.backend() == "jax":
            self._check_tracked(variables)
        self._good: State | None = None
        self._now: State | None = None  # the state as it is, once it was read
        self.epoch = 0
        self._seen = 0  # batches of this epoch
        self._total = 0  # batches of the run
        self._counted = 0  # of these, in epochs that ended

    @property
    def hyperparams(self) -> HyperparamAccess:
        """See `Trainee`."""
        return self._hyperparams

    @property
    def search_spaces(self) -> Mapping[str, SearchSpace]:
        """See `Trainee`."""
        rate = self._hyperparams.snapshot().get(LEARNING_RATE)
        return {} if rate is None or rate not in _RATES else {LEARNING_RATE: _RATES}

    def begin_epoch(self) -> None:
        """Keeps the state as it is now, if all of it is finite."""
        self._seen = 0
        state = self.get_state()
        if all(np.isfinite(array).all() for array in state.values() if array.dtype.kind == "f"):
            self._good = state

    def last_good(self) -> State | None:
        """See `Trainee`."""
        return self._good

    def note_batch(self, batch: int) -> None:
        """Notes that the batch of this number in its epoch was learned from."""
        self._total += batch + 1 - self._seen
        self._seen = batch + 1
        self._now = None

    def take(self, epoch: int, logs: Mapping[str, Any], metrics: EvalMetrics) -> Unit:
        """The epoch that ended now."""
        self.epoch = epoch + 1
        steps, self._counted = self._total - self._counted, self._total
        candidate = Candidate(epoch, self._total, epoch, self.get_state)
        return Unit(candidate, steps, logs, lambda evaluator: metrics)

    def get_state(self) -> State:
        """Weights and optimizer slots by name, as copies; hyperparameters are not among them."""
        if self._now is None:  # nothing was learned since
            self._now = {name: _to_numpy(variable) for name, variable in self._variables().items()}
        return self._now

    def set_state(self, state: State) -> None:
        """See `Trainee`.

        Raises:
            StateError: Names or shapes disagree; then nothing is changed.
        """
        variables = self._variables()
        check_architecture(variables, state, fix="Build the model with the same layers and optimizer.")
        for name, variable in variables.items():
            variable.assign(state[name])
        self._now = None

    def stop(self) -> None:
        """See `Trainee`."""
        self._model().stop_training = True

    def save(self) -> Saved:
        """See `Trainee`."""
        return prefixed("model/", self.get_state()), {"total": self._total, "hyperparams": self.hyperparams.snapshot()}

    def restore(self, arrays: State, values: Mapping[str, Any], *, weights: bool) -> str:
        """See `Trainee`."""
        if weights:
            self.set_state(under("model/", arrays))
        self.hyperparams.assign(values["hyperparams"])
        self._total = self._counted = values["total"]
        return ""

    def close(self) -> None:
        """Forgets the state that was kept."""
        self._good = self._now = None

    def _variables(self) -> dict[str, Any]:
        """Everything that a snapshot holds, by a name that does not depend on the names of layers."""
        # A new learning rate is a decision of the tuner, which restoring weights must not undo.
        tuned = {id(variable) for variable in self._hyperparams.variables.values()}
        model = self._model()
        groups = {"model": model.variables, "optimizer": model.optimizer.variables}
        return {
            f"{group}/{k:03d}": variable
            for group, variables in groups.items()
            for k, variable in enumerate(v for v in variables if id(v) not in tuned)
        }

    def _check_tracked(self, variables: Mapping[str, Any]) -> None:
        model = self._model()
        known = {id(variable) for variable in (*model.variables, *model.optimizer.variables)}
        for name, variable in variables.items():
            if id(variable) not in known:
                raise ConfigurationError(
                    describe(
                        "On JAX a compiled step reads only the model's own variables; this one would be a constant.",
                        fix="Make it an attribute of a layer.",
                        name=name,
                    )
                )


def _to_numpy(variable: Any) -> np.ndarray:
    array = np.array(keras.ops.convert_to_numpy(variable))
    # A dtype that NumPy's files do not know (bfloat16) is exact in float32.
    return array if array.dtype.kind in "fiub" else array.astype(np.float32)
