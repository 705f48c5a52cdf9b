"""Support for `fit` on a live feed: its steps are compiled before the feed opens, and the feed may end."""

from __future__ import annotations

import contextlib
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from concurrent.futures import Future
from typing import Any, Protocol, runtime_checkable

import numpy as np
import tensorflow as tf

from keras_optix.experience.window import Window
from keras_optix.store.files import Saved

_POLL_SECONDS = 0.05

TrainFunction = Callable[[Any], Mapping[str, Any]]


@runtime_checkable
class LiveSource(Protocol):
    """A source that does not wait for the learner."""

    def prepare(self, stopping: Callable[[], bool]) -> bool:
        """Waits for the next window, and returns whether the agent can learn something from it."""
        ...

    def blank(self) -> Window:
        """Makes a window without any steps."""
        ...

    def logs(self) -> dict[str, float]:
        """Returns the logs of the feed."""
        ...


class Restorable(Protocol):
    """An agent whose whole state can be saved and restored."""

    def save_run(self) -> Saved:
        """Returns the whole state."""
        ...

    def restore_run(self, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> None:
        """Restores a state that `save_run` returned."""
        ...


class WarmUp:
    """Compiles the steps of a `fit` before its feed is opened, and leaves the agent unchanged.

    A compilation takes seconds, during which a feed would run ahead and Python would not react to Ctrl-C. So the steps
    are run on a window without any env steps, in a thread that the main thread can stop waiting for.

    Args:
        agent: The agent, whose state is restored afterwards.
    """

    def __init__(self, agent: Restorable) -> None:
        self._agent = agent
        self._warm: weakref.WeakSet[Any] = weakref.WeakSet()
        self._left: tuple[Future[None], Saved] | None = None

    def run(self, functions: Sequence[TrainFunction], blank: Callable[[], Window]) -> None:
        """Compiles the functions that are not compiled yet.

        Args:
            functions: The functions that Keras made from the steps.
            blank: Makes a window without any env steps.
        """
        cold = [function for function in functions if function not in self._warm]
        if not cold:
            return
        # An endless dataset whose windows have the specs of the feed's, so that a function has one signature for both.
        windows = tf.data.Dataset.from_tensors(blank()).repeat()
        finished: Future[None] = Future()
        self._left = finished, self._agent.save_run()

        def compile_all() -> None:
            try:
                for function in cold:
                    function(iter(windows))
                finished.set_result(None)
            except BaseException as error:
                finished.set_exception(error)

        if threading.current_thread() is not threading.main_thread() or tf.distribute.has_strategy():
            compile_all()  # only the main thread gets interrupts, and a distribution strategy belongs to its thread
        else:
            threading.Thread(target=compile_all, name="keras_optix_compile", daemon=True).start()
            while not futures.wait([finished], _POLL_SECONDS).done:
                pass
        self.cancel()
        finished.result()
        self._warm.update(functions)

    def cancel(self) -> None:
        """Waits for a compilation that an interrupted `fit` left running, and restores the agent's state."""
        if self._left is not None:
            finished, (arrays, values) = self._left
            futures.wait([finished])
            self._left = None
            self._agent.restore_run(arrays, values)


@contextlib.contextmanager
def feeds_may_end() -> Iterator[None]:
    """Silences Keras' warning that the data ran out, because a feed may end."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Your input ran out of data", UserWarning)
        yield
