"""Tells whether a `fit` still runs, so that one callback, or one model, is not used by two at once."""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any, Protocol

import keras

from keras_optix.errors import StateError, describe


class RunningFit:
    """A call of `fit`, found on the stack of its thread.

    Keras does not say when a `fit` fails, so a flag could stay set. The stack says whether the call still runs. A call
    is known by its list of callbacks, of which Keras makes one for each call. No frame is kept, because it would keep
    the data of the call, and the number of a frame is used again by the next call.
    """

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        calls = (_callbacks_of(frame) for frame in _outwards(sys._getframe()))
        found = next((callbacks for callbacks in calls if callbacks is not None), None)
        self._callbacks = None if found is None else weakref.ref(found)

    @property
    def thread(self) -> str:
        """The name of its thread."""
        return next((one.name for one in threading.enumerate() if one.ident == self._thread), str(self._thread))

    @property
    def is_running(self) -> bool:
        """Whether the call has not ended. False if it was not found, because hooks were called by hand."""
        mine = None if self._callbacks is None else self._callbacks()
        if mine is None:
            return False
        top = sys._current_frames().get(self._thread)
        return any(_callbacks_of(frame) is mine for frame in _outwards(top))


class Fitted(Protocol):
    """A callback of the loop, as far as this module reads it."""

    model: Any
    running: RunningFit | None


def refuse_second_fit(callback: Fitted, model: Any, others: Iterable[Fitted]) -> None:
    """Refuses a callback, or a model, that another `fit` uses at this moment.

    Args:
        callback: The callback of the `fit` that begins.
        model: Its model.
        others: All callbacks of loops.

    Raises:
        StateError: A `fit` that runs uses the callback or the model.
    """
    for other in [callback, *others]:
        running = other.running
        # The model is read last, because on JAX that copies its variables.
        if running is None or not running.is_running or not (other is callback or other.model is model):
            continue
        what = "This OptixCallback" if other is callback else f"The model {getattr(model, 'name', '')!r}"
        problem = f"{what} is in use by another `fit`, which has not ended."
        fix = "Wait for its end (`callback.stop()` ends it), or create another callback and another model."
        raise StateError(describe(problem, fix=fix, thread=running.thread))


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _callbacks_of(frame: FrameType) -> keras.callbacks.CallbackList | None:
    """Returns the callbacks of a call of Keras' `fit`; None if the frame is of another function."""
    callbacks = frame.f_locals.get("callbacks") if frame.f_code.co_name == "fit" else None
    return callbacks if isinstance(callbacks, keras.callbacks.CallbackList) else None
