"""An ordinary Keras model as what the loop trains: epochs, scored by a log. Works on every backend of Keras."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import numpy as np

from keras_optix.callbacks.fit_adapter import FitAdapter
from keras_optix.callbacks.model_hyperparams import VariableHyperparams
from keras_optix.callbacks.optimizers import COMPILED, Optimizers, layers_of
from keras_optix.errors import StateError, describe
from keras_optix.evaluators.log_values import is_finite_log
from keras_optix.loop.adapter import HyperparamAccess, PolicyRef, TrainingUnit
from keras_optix.loop.engine import Engine
from keras_optix.records import LEARNING_RATE, EvalMetrics
from keras_optix.states import Count, State, read_state
from keras_optix.store.files import Arrays, Saved, prefixed, under
from keras_optix.tuners.search_space import SearchSpace
from keras_optix.validation import check_architecture

_LOSS = "loss"
_FIX = "Build the model with the same layers and optimizer."


class ModelRunState(State, frozen=True):
    """What a resumed run needs of a `ModelAdapter`, beside arrays.

    Attributes:
        total: Batches of the run.
        hyperparams: Values by name.
        optimizers: Names of the optimizers that train; none until that is known.
        shapes: What the model was built for, as JSON values, or None.
    """

    total: Count
    hyperparams: dict[str, float]
    optimizers: tuple[str, ...]
    shapes: Any


def read_model_run(values: Any) -> ModelRunState:
    """Reads what `ModelAdapter.save` returned.

    Raises:
        StateError: It is not that.
    """
    return read_state(ModelRunState, values, "resume point of the model", part=True)


class ModelAdapter(FitAdapter):
    """Trains an ordinary model, epoch by epoch.

    A state holds all variables of the model (weights, statistics, seed generators) and of its optimizers. The first
    batch may build the model or its optimizers; until then there is no state, and `ready` is False. An optimizer that
    is built later still has no part in the states before: they leave it as it is.

    Args:
        model: Gives the model. A callable, because on JAX its variables are in place only after Keras' `Callback.model`
            was asked for it.
        variables: Variables that a tuner may set, by name.
        resumed: What `save` returned of the run that goes on; None: a new run.

    Raises:
        ConfigurationError: A variable is none of the model's where only these can be changed (JAX).
    """

    unit = "epoch"
    steps = "steps"
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
        self._pending: Arrays | None = None  # of the run that is resumed, until the first batch has built the model
        self._good: Arrays | None = None
        self._now: Arrays | None = None  # the state as it is, once it was read
        self._looked = False  # at the weights in this epoch
        self.epoch = 0
        self._seen = 0  # batches of this epoch
        self._total = 0  # batches of the run
        self._counted = 0  # of these, in epochs that ended

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
        """See `Adapter`: of the optimizers that train."""
        self._look()
        return self._hyperparams.names_in_use

    def knows(self, names: Iterable[str]) -> bool:
        """See `Adapter`: with several optimizers, which of them trains is known after an epoch."""
        wanted = set(names)
        return self._hyperparams.known or (bool(wanted) and LEARNING_RATE not in wanted)

    def begin_epoch(self, number: int) -> None:
        """See `FitAdapter`. Keeps the state as it is now, if all of it is finite."""
        self.epoch = number
        self._begin_epoch()

    def after_batch(self, engine: Engine, batch: int, logs: Mapping[str, Any]) -> bool:
        """See `FitAdapter`: looks whether all is finite."""
        if self.note_batch(batch):
            engine.tuning.keep_start()
        trouble = self.trouble_in(logs)
        if trouble:
            self._recover(engine, trouble)
        return False

    def after_epoch(self, engine: Engine, number: int, logs: Mapping[str, Any]) -> bool:
        """See `FitAdapter`: takes the epoch through the loop."""
        if self.end_epoch(engine.tuning.wanted):
            metrics = engine.scorer.measure_logs(logs, number)
        else:
            # The score in the logs belongs to weights that are gone.
            metrics = EvalMetrics(None, window_id=number)
            self._recover(engine, "A weight")
        engine.take(self.epoch_as_unit(number, logs, metrics))
        # Which optimizers train is known after an epoch, and so what there is to tune.
        engine.tuning.join()
        self._begin_epoch()
        return True

    def units_in_epoch(self, steps: int | None) -> int | None:
        """See `FitAdapter`: an epoch is the unit."""
        return 1

    def _recover(self, engine: Engine, what: str) -> None:
        """The loss of an epoch is a running mean: it stays NaN until it is reset."""
        engine.recover_from_nan(self.epoch, what, self.last_good())
        self._model().reset_metrics()

    def _begin_epoch(self) -> None:
        self._seen = 0
        self._looked = False
        self._keep_good()

    def end_epoch(self, tuned: Iterable[str] | None) -> bool:
        """Returns whether all is finite after an epoch; after the first one it is known which optimizers train.

        Args:
            tuned: Names that a tuner sets, or is to set; None: all learning rates that train.

        Raises:
            HyperparamError: One of them trains nothing, or does not say what it means.
            StateError: The resumed run was one of another model.
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

    def is_finite(self) -> bool:
        """See `Adapter`. What a layer keeps beside its weights may be infinite on purpose (a mask), but not NaN."""
        if not self.ready:
            return True
        beside = {id(variable) for variable in self._model().non_trainable_variables}
        state, variables = self.get_state(), self._variables()
        floats = {name: array for name, array in state.items() if array.dtype.kind in "fc"}
        weights = all(np.isfinite(array).all() for name, array in floats.items() if id(variables[name]) not in beside)
        return weights and not any(np.isnan(floats[name]).any() for name in floats if id(variables[name]) in beside)

    def trouble_in(self, logs: Mapping[str, Any]) -> str:
        """What is not finite after a batch, in words; empty where nothing is.

        A loss that is not finite while the weights are is no trouble where the optimizer skips such an update (loss
        scaling), nor where it is one of several losses that a `train_step` of one's own logs. Weights are looked at
        once in an epoch for that, for it takes time; at its end they are looked at in any case.
        """
        bad = [name for name in logs if name.endswith(_LOSS) and not is_finite_log(logs[name])]
        if _LOSS in bad and not self._optimizers.scaled:
            return "The loss"
        if not bad or self._looked:
            return ""
        self._looked = True
        return "" if self.is_finite() else "A weight"

    def note_batch(self, batch: int) -> bool:
        """Notes that the batch of this number in its epoch was learned from.

        Returns:
            Whether it built the model, so that there is a state from now on.
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
            self._keep_good()  # the states before lack variables
        return built

    def epoch_as_unit(self, epoch: int, logs: Mapping[str, Any], metrics: EvalMetrics) -> TrainingUnit:
        """The epoch that ended now."""
        self.epoch = epoch + 1
        steps, self._counted = self._total - self._counted, self._total
        candidate = PolicyRef(epoch, self._total, epoch, self.get_state)
        return TrainingUnit(candidate, steps, logs, lambda scorer: metrics)

    def get_state(self) -> Arrays:
        """Weights and optimizer slots by name, as copies; hyperparameters are not among them."""
        if self._now is None:  # nothing was learned since
            self._now = {name: _to_numpy(variable) for name, variable in self._variables().items()}
        return self._now

    def set_state(self, state: Arrays) -> None:
        """See `Adapter`. Variables that are younger than the state stay as they are.

        Raises:
            StateError: Names or shapes disagree; then nothing is changed.
        """
        variables = self._variables()
        # An optimizer is one: without its slots its count of updates would mean something else.
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
        return prefixed("model/", self.get_state()), state

    def read(self, arrays: Arrays, values: Any) -> ModelRunState:
        """See `Adapter`."""
        return read_model_run(values)

    def restore(self, arrays: Arrays, saved: ModelRunState, *, weights: bool) -> str:
        """See `Adapter`.

        A model is built as it was built before. Where that cannot be had, the first batch builds it and the state comes
        after it; then that batch is not learned from.
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
                lost = "the first batch builds what is not built yet, and is not learned from"
        self.hyperparams.assign(saved.hyperparams)
        self._total = self._counted = saved.total
        return lost

    def close(self) -> None:
        """Forgets the state that was kept."""
        self._good = self._now = None

    # What it is made of

    def _prepare(self, *, run: bool = False) -> None:
        """Finds out whether all variables are there; of an optimizer they can be made.

        Args:
            run: The model was run, on inputs without values: its layers are built then, and it does not say so itself.
        """
        model, optimizers = self._model(), self._optimizers
        if not (model.built or run) or not _is_built(model):
            return
        if optimizers.certain:
            for optimizer in optimizers.found.values():
                if not optimizer.built:
                    # Snapshots hold its slots from the first one on.
                    optimizer.build(model.trainable_variables)
        self.ready = all(optimizer.built for optimizer in optimizers.found.values())

    def _look(self) -> None:
        """Notes which optimizers made updates."""
        self._model()  # on JAX their variables are empty before
        self._optimizers.look()

    def _build(self, shapes: Any) -> None:
        """Builds a model for the inputs that it had, if that is possible."""
        if self.ready or shapes is None:
            return
        with warnings.catch_warnings(), contextlib.suppress(Exception):
            # Where it fails, Keras warns or raises what the model's own code raises. The first batch builds it then.
            warnings.simplefilter("ignore")
            self._model().build_from_config(_as_shapes(shapes))
            self._prepare(run=True)

    def _build_optimizer(self, state: Arrays) -> None:
        """Builds the optimizer of `compile` as it was when a state was read, also for a `train_step` of one's own.

        What such a step trains is known from the state only: its slots tell.
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
        """Loads the state of the resumed run once all its variables are there.

        Raises:
            StateError: They never came.
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
        """Everything that a snapshot holds, by a name that does not depend on the names of layers.

        A name is given once: variables that come later get the numbers after it.
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
    """Whether all variables of a model are there: it is a graph of layers, or each layer in it is built."""
    if model.built and getattr(model, "inputs", None):
        return True
    return all(layer.built for layer in layers_of(model) if layer is not model)


def _slots_of(optimizer: Any, variables: Any) -> list[tuple[int, ...]] | None:
    """The shapes of what an optimizer would keep beside its learning rate, or None if that cannot be said."""
    with contextlib.suppress(Exception):  # one of a user's own may not be made again from its config
        other = type(optimizer).from_config(optimizer.get_config())
        other.build(variables)
        rate = other.learning_rate
        return [tuple(variable.shape) for variable in other.variables if variable is not rate]
    return None


def _group(name: str) -> str:
    return name.rpartition("/")[0]


def _build_config(model: Any) -> Any:
    """The shapes that a model was built for, as JSON values, or None."""
    with contextlib.suppress(Exception):  # a model may override it, and does so for another purpose
        return _as_json(model.get_build_config())
    return None


def _as_json(config: Any) -> Any:
    if config is None or isinstance(config, str | int | float):
        return config
    if isinstance(config, Mapping):
        return {str(name): _as_json(value) for name, value in config.items()}
    if isinstance(config, list | tuple):
        return [_as_json(value) for value in config]
    raise StateError(describe("A build config of this kind cannot be kept.", config=type(config).__name__))


def _as_shapes(config: Any) -> Any:
    """JSON has no tuples: a list of sizes is a shape."""
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
