"""Support for the steps of `fit`: the collectors that feed it, and the bookkeeping around an algorithm's step."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import tensorflow as tf

from keras_optix.agents.state import PolicyClock
from keras_optix.experience.closing import HURRY
from keras_optix.experience.source import WindowSource
from keras_optix.experience.transformations import is_as_made, is_endless, source_of
from keras_optix.experience.window import Window

Step = Callable[[Window], dict[str, Any]]


@runtime_checkable
class FitFailureListener(Protocol):
    """A callback that is told when `fit` fails. Keras does not call `on_train_end` in this case."""

    def on_fit_failed(self, error: BaseException) -> None:
        """Handles the error, before it reaches the user."""
        ...


@runtime_checkable
class SiblingListener(Protocol):
    """A callback that is told which other callbacks the same `fit` has."""

    def on_siblings(self, callbacks: Sequence[Any]) -> None:
        """Receives the other callbacks, before `fit` begins."""
        ...


class Sources:
    """The collectors that feed an agent. It is a plain object, so that Keras does not track them.

    Attributes:
        fitting: The source of the windows of the running `fit`; None if no `fit` runs or its source is not known.
    """

    def __init__(self) -> None:
        self._collectors: list[WindowSource] = []
        self.fitting: WindowSource | None = None
        self._fitted: Any = None
        self._tested: Any = None

    def add(self, collector: WindowSource) -> None:
        """Adds a collector."""
        self._collectors.append(collector)

    def all(self) -> tuple[WindowSource, ...]:
        """Returns all collectors, in the order in which they were added."""
        return tuple(self._collectors)

    def begin(self, dataset: Any) -> None:
        """Notes that a `fit` begins, and finds the source of its windows."""
        source = source_of(dataset)
        if source is None and len(self._collectors) == 1:
            source = self._collectors[0]  # the dataset may be a transformed one of this collector
        self.fitting = source if source in self._collectors else None
        self._fitted = dataset
        HURRY.asked = False
        for collector in self._collectors:
            collector.error = None  # an error from before this `fit`

    def drain(self) -> None:
        """Notes that a `fit` has ended: waits for windows that are being collected ahead, and closes live feeds."""
        self.fitting = self._fitted = None
        for collector in self._collectors:
            collector.drain()

    def failed(self, error: BaseException) -> BaseException | None:
        """Notes that a `fit` failed; if it was interrupted, nothing waits for environments any more.

        Args:
            error: The error, or the interrupt.

        Returns:
            The error of a collector, as of `pop_error`.
        """
        if not isinstance(error, Exception):
            HURRY.asked = True
            for collector in self._collectors:
                collector.leave()
        return self.pop_error()

    @contextlib.contextmanager
    def testing(self, dataset: Any) -> Iterator[None]:
        """Surrounds an `evaluate`, which may be part of a `fit`."""
        self._tested = dataset
        HURRY.asked = False
        try:
            yield
        finally:
            self._tested = None

    @contextlib.contextmanager
    def apart(self) -> Iterator[None]:
        """Surrounds a step on a window that was given, and does not come from the dataset of a `fit` or `evaluate`."""
        before = self.fitting, self._fitted, self._tested
        self.fitting = self._fitted = self._tested = None
        try:
            yield
        finally:
            self.fitting, self._fitted, self._tested = before

    def prepare_to_fit(self) -> None:
        """Waits for the window of the next step in Python, where Ctrl-C is handled; see `WindowSource.prepare`."""
        _prepare(self._fitted)

    def next_window(self, spec: Any) -> Any:
        """Collects the window of the next step of a `fit` at once, without the threads of `tf.data` in between.

        Args:
            spec: The specs of the dataset's elements.

        Returns:
            The window as tensors, or the batches that are learned from after it. None if the dataset was transformed,
            or if a strategy distributes its elements; the window was prepared then, see `prepare_to_fit`.
        """
        source = self.fitting
        if source is None or not is_as_made(self._fitted) or tf.distribute.has_strategy():
            self.prepare_to_fit()
            return None
        source.prepare()
        given = tf.nest.flatten(source.collect_for_learner())
        tensors = [tf.convert_to_tensor(v, s.dtype) for v, s in zip(given, tf.nest.flatten(spec), strict=True)]
        return tf.nest.pack_sequence_as(spec, tensors)

    def logs(self) -> Mapping[str, float]:
        """Returns the logs of the source of the running `fit`."""
        return {} if self.fitting is None else self.fitting.logs()

    def prepare_to_test(self) -> None:
        """Waits for the next window of an `evaluate`; see `prepare_to_fit`."""
        _prepare(self._tested)

    def pop_error(self) -> BaseException | None:
        """Returns and clears the error of a collector, or None if there is no error."""
        for collector in self._collectors:
            error, collector.error = collector.error, None
            if error is not None:
                return error
        return None


class ByWindow:
    """Compiles a step once for each kind of window: each window size, number of environments and dtype.

    Otherwise, Keras would compile it again with relaxed shapes, which are None wherever the windows so far differ. A
    step that relies on the size of its window would then fail.

    Args:
        compiled: Makes the functions to call, for a step that was not traced yet.
    """

    def __init__(self, compiled: Callable[[], Any]) -> None:
        self._compiled = compiled
        self._by_signature: dict[str, Any] = {}
        self._last: tuple[Any, Any] = (None, None)

    def of(self, iterator: Any) -> tuple[Any, Any]:
        """Returns the compiled functions for the windows of an iterator, and the iterator to continue with.

        Args:
            iterator: A `tf.data.Iterator`, or a Python iterator over tensors or arrays.
        """
        spec = getattr(iterator, "element_spec", None)
        if spec is None:
            first = next(iterator)
            spec = tf.nest.map_structure(tf.type_spec_from_value, tf.nest.map_structure(tf.convert_to_tensor, first))
            iterator = itertools.chain([first], iterator)
        if spec is not self._last[0]:
            self._last = spec, self._named(repr(spec))
        return self._last[1], iterator

    def _named(self, signature: str) -> Any:
        if signature not in self._by_signature:
            self._by_signature[signature] = self._compiled()
        return self._by_signature[signature]


def _prepare(dataset: Any) -> None:
    # Of a dataset with an end, the last window that is prepared would be delivered to nobody.
    if is_endless(dataset):
        source = source_of(dataset)
        if source is not None:
            source.prepare()


def in_order(iterator: Iterator[Window], prepare: Callable[[], None]) -> Iterator[Window]:
    """Returns a Python iterator over the remaining windows; raises StopIteration at once if there are none.

    Args:
        iterator: The windows.
        prepare: Called before each window is taken.
    """

    def following() -> Iterator[Window]:
        while True:
            prepare()
            try:
                yield next(iterator)
            except StopIteration:
                return

    windows = following()
    return itertools.chain([next(windows)], windows)


@contextlib.contextmanager
def shadowed(model: Any, method: str, replacement: Step) -> Iterator[None]:
    """Replaces a method while Keras compiles it, so that a subclass need not call the method of its base class."""
    model.__dict__[method] = replacement
    try:
        yield
    finally:
        del model.__dict__[method]


def tracked(step: Step, clock: PolicyClock, weights: Callable[[], Sequence[Any]] | None) -> Step:
    """Wraps a step: notes its window and whether all is finite, and adds the logs of episodes and policy lag.

    Args:
        step: `train_step` or `test_step`.
        clock: The clock, in which the window is noted.
        weights: Returns the variables that the step trains. None for a window that is not part of training: then
            nothing is noted.
    """

    def tracked_step(window: Window) -> dict[str, Any]:
        # Without the dependency, the version could be read before the window has been collected.
        with tf.control_dependencies([window.window_id, window.policy_version]):
            lag = clock.tensor() - window.policy_version
        known = {
            "episode_return": window.episode_return,
            "episode_length": window.episode_length,
            "policy_lag": tf.cast(lag, tf.float32),
        }
        with tf.control_dependencies([lag]):
            logs = step(window)
        if weights is None:
            return known | logs
        losses = [tf.convert_to_tensor(value) for name, value in logs.items() if name.endswith("loss")]
        with tf.control_dependencies(losses):
            # A gradient that is not finite makes the weights not finite, so that checking the weights is enough.
            checked = [*losses, *(variable.value for variable in weights())]
            finite = [tf.reduce_all(tf.math.is_finite(value)) for value in checked if value.dtype.is_floating]
            clock.note_window(window.window_id, tf.reduce_all(finite) if finite else True)
        return known | logs

    return tracked_step
