"""Finds the optimizers of an ordinary model, and which of them train it.

A model may ignore the optimizer that it was compiled with: `compile` creates an RMSprop if none is given, and a GAN has
two optimizers of its own. Tuning a learning rate that is not used would be pointless, so the optimizers that really
make updates are found.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import keras

COMPILED = "optimizer"  # the attribute that holds the optimizer of `compile`
_METHODS = ("train_step", "make_train_function")
_COUNTERS = ("iteration", "iterations")  # names of the variable that counts updates
_LIBRARIES = frozenset({"keras", "tensorflow", "jax", "jaxlib", "torch", "numpy", "builtins", "keras_optix", "pandas"})
_MOST_OBJECTS = 200_000
_LONGEST = 1000  # a longer list holds data
_DEPTH = 24


class Optimizers:
    """The optimizers of a model by the path of the attribute that holds them, such as ``"d_optimizer"``.

    If `train_step` is Keras' own, the only optimizer is the one that the model was compiled with. Otherwise it is every
    Keras optimizer that is an attribute of the model, of its layers or of its sub-models, directly or in a list or a
    dict. Then `look` finds out which of them count updates.

    Args:
        model: The model.
        used: Paths of the optimizers that are known to train, because the run is resumed.

    Attributes:
        certain: Whether `train_step` is Keras' own.
        found: Optimizers by path; the one that the model was compiled with comes first.
        used: Paths of the optimizers that have been seen to make an update.
    """

    def __init__(self, model: Any, used: tuple[str, ...] = ()) -> None:
        self.certain = all(
            getattr(type(model), name, None) is getattr(keras.Model, name, None) and name not in vars(model)
            for name in _METHODS
        )
        self.found: dict[str, Any] = {}
        self.used: set[str] = set(used)
        self._counts: dict[str, int] = {}
        self.find(model)
        if self.certain:
            self.used = set(self.found)
        # Optimizers that exist before the first step may have made updates in an earlier `fit`.
        self._counts = {path: _updates(optimizer) for path, optimizer in self.found.items()}

    def find(self, model: Any) -> None:
        """Finds the optimizers. Called several times, because some are created only by the first step."""
        if self.certain:
            optimizer = getattr(model, COMPILED, None)
            self.found = {} if optimizer is None else {COMPILED: optimizer}
            return
        before = {id(optimizer) for optimizer in self.found.values()}
        for path, part in _walk(model):
            if isinstance(part, keras.optimizers.Optimizer) and id(part) not in before:
                self.found[path] = part

    def look(self) -> None:
        """Notes which optimizers have made updates since the last call."""
        if self.certain:
            return
        for path, optimizer in self.found.items():
            count = _updates(optimizer)
            if count != self._counts.get(path, 0):
                self._counts[path] = count
                self.used.add(path)

    @property
    def rates(self) -> dict[str, keras.Variable]:
        """The learning rates by the path of their optimizer, except those that a LearningRateSchedule sets.

        On JAX only that of the optimizer of `compile`, because a compiled step treats the others as constants.
        """
        paths = (COMPILED,) if keras.backend.backend() == "jax" else tuple(self.found)
        rates = {path: getattr(self.found[path], "learning_rate", None) for path in paths if path in self.found}
        return {path: rate for path, rate in rates.items() if isinstance(rate, keras.Variable)}

    @property
    def in_use(self) -> dict[str, keras.Variable]:
        """The learning rates that make updates, by path. For an optimizer that wraps another, that of the inner one."""
        return {path: rate for path, rate in self.rates.items() if path in self.used and not self._wraps(path)}

    @property
    def scaled(self) -> bool:
        """Whether a LossScaleOptimizer skips updates that are not finite."""
        kind = keras.optimizers.LossScaleOptimizer
        return any(isinstance(optimizer, kind) for optimizer in self.found.values())

    def _wraps(self, path: str) -> bool:
        """Whether this optimizer wraps another one that is in use and has its own learning rate."""
        rate = self.found[path].learning_rate
        inner = (other for other in self.used if other.startswith(f"{path}.") and other in self.found)
        return any(self.found[other].learning_rate is not rate for other in inner)

    def variables(self) -> dict[str, list[Any]]:
        """Returns the variables by path. A variable that several optimizers share (by wrapping) is listed once."""
        seen: set[int] = set()
        found: dict[str, list[Any]] = {}
        for path, optimizer in self.found.items():
            new = [variable for variable in optimizer.variables if id(variable) not in seen]
            seen |= {id(variable) for variable in new}
            if new:
                found[path] = new
        return found


def _updates(optimizer: Any) -> int:
    """Returns how many updates an optimizer has made; with gradient accumulation, how many gradients it got.

    With gradient accumulation `iterations` is a quotient that grows only now and then, so the variable behind it is
    read.
    """
    counters = [variable for variable in optimizer.variables if variable.name in _COUNTERS]
    read = keras.ops.convert_to_numpy
    return sum(int(read(counter)) for counter in counters) if counters else int(read(optimizer.iterations))


def layers_of(model: Any) -> list[Any]:
    """Returns the model and all layers in it, including nested ones."""
    return [part for _, part in _walk(model) if isinstance(part, keras.Layer)]


def _walk(model: Any) -> Iterator[tuple[str, Any]]:
    """Yields the objects that a model holds, each with the path of its attribute; the nearest first."""
    queue: deque[tuple[str, Any, int]] = deque([("", model, 0)])
    seen: set[int] = {id(model)}
    while queue and len(seen) < _MOST_OBJECTS:
        path, owner, depth = queue.popleft()
        yield path, owner
        if depth >= _DEPTH or isinstance(owner, keras.optimizers.LossScaleOptimizer):
            continue  # it already has the variables and the learning rate of the optimizer that it wraps
        for step, value in _parts(owner):
            if id(value) not in seen and _may_hold(value):
                seen.add(id(value))
                queue.append((f"{path}{step}" if path else step.removeprefix("."), value, depth + 1))


def _parts(owner: Any) -> list[tuple[str, Any]]:
    """Returns the objects that an object holds, each with its part of the path; public attributes come first."""
    if isinstance(owner, Mapping | list | tuple | set | frozenset) and len(owner) > _LONGEST:
        return []
    if isinstance(owner, Mapping):
        return [(f"[{key!r}]", value) for key, value in owner.items()]
    if isinstance(owner, list | tuple | set | frozenset):
        return [(f"[{k}]", value) for k, value in enumerate(owner)]
    attributes = sorted(vars(owner).items(), key=lambda item: (item[0] != COMPILED, item[0].startswith("_")))
    return [(f".{name.lstrip('_')}", value) for name, value in attributes]


def _may_hold(value: Any) -> bool:
    """Whether a value may hold an optimizer: layers, containers, and objects of a user's own classes may."""
    if isinstance(value, keras.optimizers.Optimizer | keras.Layer | Mapping | list | tuple | set | frozenset):
        return True
    library = type(value).__module__.partition(".")[0]
    return library not in _LIBRARIES and not isinstance(value, type) and hasattr(value, "__dict__")
