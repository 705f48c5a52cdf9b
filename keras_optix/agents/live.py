"""What surrounds a step of `fit` on a live feed: it is compiled before the feed opens, and a feed may end."""

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
        """Waits until the next window is there; returns whether there is something to learn from in it."""
        ...

    def blank(self) -> Window:
        """A window without a step."""
        ...

    def logs(self) -> dict[str, float]:
        """What is logged of it."""
        ...


class Restorable(Protocol):
    """An agent whose whole state can be put back."""

    def save_run(self) -> Saved:
        """Returns it."""
        ...

    def restore_run(self, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> None:
        """Puts it back."""
        ...


class WarmUp:
    """Compiles the steps of a `fit` before its feed is opened, and leaves no trace in the agent.

    A compilation takes seconds, in which a feed would run ahead, and in which Python does not hear Ctrl-C. So the steps
    are run on a window without a step, in a thread that the main thread can stop waiting for.

    Args:
        agent: Is put back into its state.
    """

    def __init__(self, agent: Restorable) -> None:
        self._agent = agent
        self._warm: weakref.WeakSet[Any] = weakref.WeakSet()
        self._left: tuple[Future[None], Saved] | None = None

    def run(self, functions: Sequence[TrainFunction], blank: Callable[[], Window]) -> None:
        """Compiles what is not compiled yet.

        Args:
            functions: What Keras made of the steps.
            blank: Makes the window.
        """
        cold = [function for function in functions if function not in self._warm]
        if not cold:
            return
        # tf.data gives for ever what it gives once: the function has one signature, whoever calls it.
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
            compile_all()  # interrupts come to the main thread only; strategies belong to a thread
        else:
            threading.Thread(target=compile_all, name="keras_optix_compile", daemon=True).start()
            while not futures.wait([finished], _POLL_SECONDS).done:
                pass
        self.cancel()
        finished.result()
        self._warm.update(functions)

    def cancel(self) -> None:
        """Waits for what an interrupted `fit` left behind, and puts the agent back into its state."""
        if self._left is not None:
            finished, (arrays, values) = self._left
            futures.wait([finished])
            self._left = None
            self._agent.restore_run(arrays, values)


@contextlib.contextmanager
def feeds_may_end() -> Iterator[None]:
    """Silences Keras' warning that the data ran out: a feed that ends is no mistake."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Your input ran out of data", UserWarning)
        yield
