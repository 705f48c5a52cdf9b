"""Tells whether a `fit` still runs, so that one callback, or one model, is not used by two at once."""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any, Protocol

from keras_optix.errors import StateError, describe

_FIT = "fit"


class RunningFit:
    """A call of `fit`, found on the stack of its thread.

    Keras does not say when a `fit` fails, so a flag could stay set. The stack says whether the call still runs. No
    frame is kept, because it would keep the data of the call.

    Args:
        model: The model that `fit` trains.
    """

    def __init__(self, model: Any) -> None:
        self._thread = threading.get_ident()
        self._model = weakref.ref(model)
        calls = [frame for frame in _outwards(sys._getframe()) if _is_fit_of(frame, model)]
        self._call = (id(calls[-1]), calls[-1].f_code) if calls else None

    @property
    def is_running(self) -> bool:
        """Whether the call has not ended. False if it was not found, because hooks were called by hand."""
        return any((id(frame), frame.f_code) == self._call for frame in _outwards(self._top()))

    @property
    def is_here(self) -> bool:
        """Whether the caller of this was called by this `fit`, and not by another one of the same model within it."""
        model = self._model()
        nearest = next((frame for frame in _outwards(sys._getframe()) if _is_fit_of(frame, model)), None)
        return nearest is not None and (id(nearest), nearest.f_code) == self._call

    def _top(self) -> FrameType | None:
        return sys._current_frames().get(self._thread)


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
        raise StateError(describe(problem, fix=fix, thread=_name_of(running._thread)))


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _is_fit_of(frame: FrameType, model: Any) -> bool:
    return frame.f_code.co_name == _FIT and frame.f_locals.get("self") is model


def _name_of(ident: int) -> str:
    return next((thread.name for thread in threading.enumerate() if thread.ident == ident), str(ident))
