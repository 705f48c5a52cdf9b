"""Lets the loop train an ordinary Keras model in epochs, scored by a log, on every backend of Keras."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import numpy as np

from keras_optix.callbacks.fit_adapter import FitAdapter, refuse_non_finite
from keras_optix.callbacks.model_hyperparams import VariableHyperparams
from keras_optix.callbacks.optimizers import COMPILED, Optimizers, layers_of
from keras_optix.errors import StateError, describe
from keras_optix.evaluators.log_values import is_finite_log
from keras_optix.loop.adapter import HyperparamAccess, PolicyRef, TrainingUnit
from keras_optix.loop.engine import Engine
from keras_optix.loop.finite import not_finite_in
from keras_optix.records import LEARNING_RATE, EvalMetrics
from keras_optix.states import Count, State, read_state
from keras_optix.store.files import Arrays, Saved, prefixed, under
from keras_optix.tuners.search_space import SearchSpace
from keras_optix.validation import check_architecture

_LOSS = "loss"
_FIX = "Build the model with the same layers and optimizer."


class ModelRunState(State, frozen=True):
    """What a `ModelAdapter` needs to resume a run, in addition to arrays.

    Attributes:
        total: Batches of the run.
        hyperparams: Values by name.
        optimizers: Names of the optimizers that train; empty until these are known.
        shapes: Input shapes that the model was built for, as JSON values, or None.
    """

    total: Count
    hyperparams: dict[str, float]
    optimizers: tuple[str, ...]
    shapes: Any


def read_model_run(values: Any) -> ModelRunState:
    """Reads and checks the state that `ModelAdapter.save` returned.

    Raises:
        StateError: `values` is not such a state.
    """
    return read_state(ModelRunState, values, "resume point of the model", part=True)


class ModelAdapter(FitAdapter):
    """Trains an ordinary model, epoch by epoch.

    A state holds all variables of the model (weights, statistics, seed generators) and of its optimizers. The first
    batch may build the model or its optimizers; until then there is no state, and `ready` is False. An optimizer may be
    built even later. Earlier states have no variables of it, and restoring them leaves it as it is.

    Args:
        model: Returns the model. It is a callable, because on JAX the model's variables are up to date only after
            Keras' `Callback.model` was read.
        variables: Variables that a tuner may set, by name.
        resumed: What `save` returned in the run that is resumed; None for a new run.

    Raises:
        ConfigurationError: On JAX, one of `variables` does not belong to the model, so that it could not be changed.
    """

    unit_name = "epoch"
    step_name = "steps"
    scores_are_deterministic = True
    metrics = ("loop/best", "loop/score", "epoch/loss", "epoch/val_loss")

    def __init__(
        self, model: Callable[[], Any], variables: Mapping[str, Any], resumed: Mapping[str, Any] | None = None
    ) -> None:
        self._model = model
        used = () if resumed is None else read_model_run(resumed).optimizers
        self._optimizers = Optimizers(model(), used)
        self._hyperparams = VariableHyperparams(self._optimizers, variables, resolved=bool(used))
        if keras.backend.backend() == "jax":
            self._hyperparams.check_tracked(model())
        self._names: dict[int, tuple[str, Any]] = {}  # of variables, by their id
        self._numbers: dict[str, int] = {}  # of variables by group
        self.ready = False
        self._prepare()
        self._pending: Arrays | None = None  # state of a resumed run, until the first batch has built the model
        self._good: Arrays | None = None
        self._now: Arrays | None = None  # the current state, once it was read
        self._looked = False  # whether the weights were checked in this epoch
        self.epoch = 0
        self._seen = 0  # batches so far in this epoch
        self._total = 0  # batches so far in the run
        self._counted = 0  # batches in epochs that have ended

    @property
    def hyperparams(self) -> HyperparamAccess:
        """See `Adapter`."""
        return self._hyperparams

    @property
    def search_spaces(self) -> Mapping[str, SearchSpace]:
        """See `Adapter`."""
        return self._hyperparams.search_spaces

    @property
    def rates(self) -> tuple[str, ...]:
        """See `Adapter`: the learning rates of the optimizers that train."""
        self._look()
        return self._hyperparams.names_in_use

    def knows(self, names: Iterable[str]) -> bool:
        """See `Adapter`. Which of several optimizers train is known only after an epoch."""
        wanted = set(names)
        return self._hyperparams.known or (bool(wanted) and LEARNING_RATE not in wanted)

    def begin_epoch(self, number: int) -> None:
        """See `FitAdapter`. Keeps a copy of the current state if all of it is finite."""
        self.epoch = number
        self._begin_epoch()

    def after_batch(self, engine: Engine, batch: int, logs: Mapping[str, Any]) -> bool:
        """See `FitAdapter`: checks that the loss and the weights are finite."""
        if self.note_batch(batch):
            engine.tuning.keep_start()
            engine.go_back_if_tuning_found_nan()
        trouble = self.trouble_in(logs)
        if trouble:
            self._recover(engine, trouble)
        return False

    def after_epoch(self, engine: Engine, number: int, logs: Mapping[str, Any]) -> bool:
        """See `FitAdapter`: passes the epoch to the engine."""
        if self.end_epoch(engine.tuning.wanted):
            metrics = engine.scorer.measure_logs(logs, number)
        else:
            # The score in the logs belongs to weights that were undone.
            metrics = EvalMetrics(None, window_id=number)
            self._recover(engine, "A weight")
        engine.take(self.epoch_as_unit(number, logs, metrics))
        # Only after an epoch it is known which optimizers train, and so which learning rates can be tuned.
        engine.tuning.join()
        self._begin_epoch()
        return True

    def units_in_epoch(self, steps: int | None) -> int | None:
        """See `FitAdapter`: an epoch is one unit."""
        return 1

    def _recover(self, engine: Engine, what: str) -> None:
        """Undoes the update, and resets the metrics: the loss of an epoch is a running mean, which would stay NaN."""
        engine.recover_from_nan(self.epoch, what, self.last_good())
        self._model().reset_metrics()

    def _begin_epoch(self) -> None:
        self._seen = 0
        self._looked = False
        self._keep_good()

    def end_epoch(self, tuned: Iterable[str] | None) -> bool:
        """Returns whether the state is finite after an epoch. After the first epoch, finds out which optimizers train.

        Args:
            tuned: Names of the hyperparameters that a tuner sets or will set; None: all learning rates that train.

        Raises:
            HyperparamError: A name is the learning rate of an optimizer that does not train, or may mean several.
            StateError: The resumed run had another model.
        """
        if self._pending is not None:
            self._load_pending(last=True)
        if not self._hyperparams.resolved:
            self._optimizers.find(self._model())
            self._optimizers.look()
            self._hyperparams.resolve(tuned)
        return self.is_finite()

    def last_good(self) -> Arrays | None:
        """See `Adapter`."""
        return self._good

    def not_finite_in(self, state: Arrays) -> str:
        """See `Adapter`. Non-trainable variables may be infinite on purpose (a mask), but not NaN."""
        beside = {id(variable) for variable in self._model().non_trainable_variables}
        return not_finite_in(state, [name for name, variable in self._variables().items() if id(variable) in beside])

    def is_finite(self) -> bool:
        """See `Adapter`."""
        return not self.ready or super().is_finite()

    def trouble_in(self, logs: Mapping[str, Any]) -> str:
        """Says in words what is not finite after a batch; empty if everything is finite.

        If the loss is not finite while the weights are, nothing is wrong in two cases: the optimizer skips such an
        update (loss scaling), or the loss is one of several that a custom `train_step` logs. Checking the weights takes
        time, so a batch makes this check at most once in an epoch. The end of the epoch always makes it.
        """
        bad = [name for name in logs if name.endswith(_LOSS) and not is_finite_log(logs[name])]
        if _LOSS in bad and not self._optimizers.scaled:
            return "The loss"
        if not bad or self._looked:
            return ""
        self._looked = True
        return "" if self.is_finite() else "A weight"

    def note_batch(self, batch: int) -> bool:
        """Notes that the batch with this number in its epoch was learned from.

        Returns:
            Whether this batch built the model, so that there is a state from now on.
        """
        self._total += batch + 1 - self._seen
        self._seen = batch + 1
        self._now = None
        built = not self.ready
        if built:
            self.ready = True
            self._optimizers.find(self._model())
        if not self._hyperparams.resolved:
            self._look()
        if self._pending is not None:
            self._load_pending()
        elif built or (not self._hyperparams.resolved and len(self._names) < self._size()):
            self._keep_good()  # earlier states lack variables
        return built

    def epoch_as_unit(self, epoch: int, logs: Mapping[str, Any], metrics: EvalMetrics) -> TrainingUnit:
        """Returns the epoch that has just ended as a `TrainingUnit`."""
        self.epoch = epoch + 1
        steps, self._counted = self._total - self._counted, self._total
        candidate = PolicyRef(epoch, self._total, epoch, self.get_state)
        return TrainingUnit(candidate, steps, logs, lambda scorer: metrics)

    def get_state(self) -> Arrays:
        """Returns copies of weights and optimizer slots by name, without hyperparameters."""
        if self._now is None:  # else nothing was learned since it was read
            self._now = {name: _to_numpy(variable) for name, variable in self._variables().items()}
        return self._now

    def set_state(self, state: Arrays) -> None:
        """See `Adapter`. Variables that were created after the state was read stay as they are.

        Raises:
            StateError: Names or shapes disagree. Nothing is changed then.
        """
        variables = self._variables()
        # The variables of an optimizer belong together: its count of updates would be wrong without its slots.
        younger = {_group(name) for name in variables if name not in state} - {"model"}
        variables = {name: v for name, v in variables.items() if name in state and _group(name) not in younger}
        self._assign(variables, {name: array for name, array in state.items() if _group(name) not in younger})

    def stop(self) -> None:
        """See `Adapter`."""
        self._model().stop_training = True

    def save(self) -> Saved:
        """See `Adapter`."""
        state = ModelRunState(
            total=self._total,
            hyperparams=self.hyperparams.snapshot(),
            optimizers=tuple(sorted(self._optimizers.used)) if self._hyperparams.resolved else (),
            shapes=_build_config(self._model()),
        )
        arrays = self.get_state()
        refuse_non_finite(self, arrays)
        return prefixed("model/", arrays), state

    def read(self, arrays: Arrays, values: Any) -> ModelRunState:
        """See `Adapter`."""
        return read_model_run(values)

    def restore(self, arrays: Arrays, saved: ModelRunState, *, weights: bool) -> str:
        """See `Adapter`.

        The model is built for the same inputs as before. If that is impossible, the first batch builds it, and the
        state is loaded after that batch, whose update is thereby lost.
        """
        lost = ""
        if weights:
            state = under("model/", arrays)
            self._build(saved.shapes)
            self._build_optimizer(state)
            if self.ready and set(self._variables()) == set(state):
                self._assign(self._variables(), state)
            elif self.ready and self._optimizers.certain:
                check_architecture(self._variables(), state, fix=_FIX)
            else:
                self._pending = state
                lost = "the first batch builds the rest of the model, and is not learned from"
        self.hyperparams.assign(saved.hyperparams)
        self._total = self._counted = saved.total
        return lost

    def close(self) -> None:
        """Drops the copies of the state."""
        self._good = self._now = None

    # Variables

    def _prepare(self, *, run: bool = False) -> None:
        """Finds out whether all variables exist, and creates those of the optimizers if possible.

        Args:
            run: Whether the model was run on symbolic inputs. Its layers are built then, although `model.built` may
                still be False.
        """
        model, optimizers = self._model(), self._optimizers
        if not (model.built or run) or not _is_built(model):
            return
        if optimizers.certain:
            for optimizer in optimizers.found.values():
                if not optimizer.built:
                    # So that even the first snapshot holds its slots.
                    optimizer.build(model.trainable_variables)
        self.ready = all(optimizer.built for optimizer in optimizers.found.values())

    def _look(self) -> None:
        """Notes which optimizers have made updates."""
        self._model()  # on JAX the optimizers' variables are empty until the model was read
        self._optimizers.look()

    def _build(self, shapes: Any) -> None:
        """Builds the model for the inputs that it had before, if that is possible."""
        if self.ready or shapes is None:
            return
        with warnings.catch_warnings(), contextlib.suppress(Exception):
            # If this fails, Keras warns or raises an error of the model's own code, and the first batch builds it.
            warnings.simplefilter("ignore")
            self._model().build_from_config(_as_shapes(shapes))
            self._prepare(run=True)

    def _build_optimizer(self, state: Arrays) -> None:
        """Builds the optimizer of `compile` as it was when the state was read, even for a custom `train_step`.

        Only the slots in the state say which variables a custom step trains.
        """
        model, optimizer = self._model(), self._optimizers.found.get(COMPILED)
        if self.ready or optimizer is None or optimizer.built or not _is_built(model):
            return
        slots = [
            state[name].shape for name in sorted(state, key=lambda name: (len(name), name)) if _group(name) == COMPILED
        ]
        if _slots_of(optimizer, model.trainable_variables) == slots:
            optimizer.build(model.trainable_variables)
            self._prepare(run=True)

    def _keep_good(self) -> None:
        if self.ready and self.is_finite():
            self._good = self.get_state()

    def _load_pending(self, *, last: bool = False) -> None:
        """Loads the state of the resumed run once all its variables exist.

        Raises:
            StateError: Some of them still do not exist at the end of the epoch.
        """
        state = self._pending or {}
        if not last and not set(state) <= set(self._variables()):
            return
        self._pending = None
        self._assign(self._variables(), state)
        self._keep_good()

    def _assign(self, variables: Mapping[str, Any], state: Arrays) -> None:
        check_architecture(variables, state, fix=_FIX)
        for name, variable in variables.items():
            variable.assign(state[name])
        self._now = None
        self._looked = False

    def _size(self) -> int:
        return len(self._all_variables())

    def _all_variables(self) -> list[tuple[str, Any]]:
        model = [("model", variable) for variable in self._model().variables]
        found = self._optimizers.variables().items()
        return model + [(group, variable) for group, variables in found for variable in variables]

    def _variables(self) -> dict[str, Any]:
        """Returns everything that a snapshot holds, by a name that does not depend on the names of layers.

        A variable keeps its name: variables that are created later get higher numbers.
        """
        # A new learning rate is a decision of the tuner, which restoring weights must not undo.
        tuned = {id(variable) for variable in self._hyperparams.all_rates}
        for group, variable in self._all_variables():
            if id(variable) not in self._names:
                number = self._numbers.get(group, 0)
                self._numbers[group] = number + 1
                self._names[id(variable)] = f"{group}/{number:03d}", variable
        return {name: variable for key, (name, variable) in self._names.items() if key not in tuned}


def _is_built(model: Any) -> bool:
    """Whether all variables of a model exist: it is a graph of layers, or each of its layers is built."""
    if model.built and getattr(model, "inputs", None):
        return True
    return all(layer.built for layer in layers_of(model) if layer is not model)


def _slots_of(optimizer: Any, variables: Any) -> list[tuple[int, ...]] | None:
    """Returns the shapes of an optimizer's variables except its learning rate, or None if they cannot be found."""
    with contextlib.suppress(Exception):  # a user's own class may not be rebuilt from its config
        other = type(optimizer).from_config(optimizer.get_config())
        other.build(variables)
        rate = other.learning_rate
        return [tuple(variable.shape) for variable in other.variables if variable is not rate]
    return None


def _group(name: str) -> str:
    return name.rpartition("/")[0]


def _build_config(model: Any) -> Any:
    """Returns the shapes that a model was built for, as JSON values, or None."""
    with contextlib.suppress(Exception):  # a model may override it for another purpose
        return _as_json(model.get_build_config())
    return None


def _as_json(config: Any) -> Any:
    if config is None or isinstance(config, str | int | float):
        return config
    if isinstance(config, Mapping):
        return {str(name): _as_json(value) for name, value in config.items()}
    if isinstance(config, list | tuple):
        return [_as_json(value) for value in config]
    raise StateError(describe("A build config of this kind cannot be saved.", config=type(config).__name__))


def _as_shapes(config: Any) -> Any:
    """Turns lists of sizes back into shapes, because JSON has no tuples."""
    if isinstance(config, Mapping):
        return {name: _as_shapes(value) for name, value in config.items()}
    if isinstance(config, list):
        sizes = all(size is None or isinstance(size, int) for size in config)
        return tuple(config) if sizes else [_as_shapes(value) for value in config]
    return config


def _to_numpy(variable: Any) -> np.ndarray:
    array = np.array(keras.ops.convert_to_numpy(variable))
    # A dtype that NumPy's files do not know (bfloat16) is exact in float32.
    return array if array.dtype.kind in "fiubc" else array.astype(np.float32)
