"""The progress line: a single line in the terminal, which does not scroll, while `fit` runs."""

from __future__ import annotations

import sys
import time
import weakref
from collections import deque
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import keras

from keras_optix.formatting import format_number, format_per_unit, format_seconds
from keras_optix.terminal import STATUS, redraws

_TTY_INTERVAL = 0.1  # seconds between redraws
_FILE_INTERVAL = 10.0  # seconds between lines if a line cannot be redrawn
_RATE_STEPS = 50  # number of latest steps whose mean time is shown
_COMPILED: weakref.WeakSet[Any] = weakref.WeakSet()  # train functions that have made a step


@runtime_checkable
class ProgressReporter(Protocol):
    """A callback that has something to add to the progress line."""

    def progress(self) -> Mapping[str, str]:
        """Returns texts by label, such as ``{"best": "481.2", "state": "ACTIVE"}``."""
        ...


class FitProgress(keras.callbacks.ProgbarLogger):  # type: ignore[misc]
    """Replaces Keras' progress bar, which prints every log and scrolls once the logs are wider than the screen.

    It shows the number of windows so far, the time, the mean episode return, what other callbacks add, and how quickly
    a live feed is answered. In a terminal or a notebook the line is redrawn in place; elsewhere a line is printed every
    ten seconds and at the end of an epoch. The time per window does not include the first step, which compiles.

    Args:
        reporters: Callbacks that add to the line.
    """

    def __init__(self, reporters: list[ProgressReporter]) -> None:
        super().__init__()
        self._reporters = reporters
        self._started = 0.0
        self._drawn_at = 0.0
        self._steps: deque[tuple[float, int]] = deque(maxlen=_RATE_STEPS + 1)  # time and windows after a step

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """See `keras.callbacks.Callback`."""
        super().on_train_begin(logs)
        self._steps.clear()

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """See `keras.callbacks.Callback`."""
        self._started = time.monotonic()
        self._drawn_at = 0.0
        self.seen = 0
        self._steps.clear()
        if self.verbose and self.epochs > 1:
            STATUS.say(f"Epoch {epoch + 1}/{self.epochs}")

    def on_train_batch_begin(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """See `keras.callbacks.Callback`."""
        compiles = batch == 0 and self.model.train_function not in _COMPILED
        if compiles and self.verbose == 1 and redraws(sys.stdout):
            # TensorFlow prints messages on the same screen while it compiles. They should begin at the left edge.
            STATUS.draw("compiling")
            sys.stdout.write("\r")
            sys.stdout.flush()

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """See `keras.callbacks.Callback`."""
        _COMPILED.add(self.model.train_function)
        self.seen = batch + 1
        now = time.monotonic()
        self._steps.append((now, self.seen))
        in_place = redraws(sys.stdout)
        due = now - max(self._drawn_at, self._started) >= (_TTY_INTERVAL if in_place else _FILE_INTERVAL)
        if self.verbose == 1 and due:
            self._drawn_at = now
            (STATUS.draw if in_place else STATUS.finish)(self._line(logs or {}))

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """See `keras.callbacks.Callback`."""
        if self.verbose:
            STATUS.finish(self._line(logs or {}))

    def _line(self, logs: Mapping[str, Any]) -> str:
        count = f"{self.seen}" if self.target is None else f"{self.seen}/{self.target}"
        windows = "window" if count == "1" else "windows"
        parts = [f"{count} {windows}", format_seconds(time.monotonic() - self._started)]
        parts += self._rate()
        parts.append(f"return {_shown(logs, 'episode_return')}")
        if "val_episode_return" in logs:
            parts.append(f"val_return {_shown(logs, 'val_episode_return')}")
        for reporter in self._reporters:
            parts += [f"{label} {text}" for label, text in reporter.progress().items()]
        if "feed_dropped" in logs:
            parts += _of_feed(logs)
        return " · ".join(parts)

    def _rate(self) -> list[str]:
        """Returns the mean time of the latest windows, once two steps have been made."""
        if len(self._steps) < 2:
            return []
        (begin, before), (end, after) = self._steps[0], self._steps[-1]
        return [format_per_unit((end - begin) / (after - before), "window")]


def _of_feed(logs: Mapping[str, Any]) -> list[str]:
    """Returns how quickly a live feed is answered, and how much of it was lost, if anything was."""
    parts = [f"latency p99 {float(logs['feed_latency_p99_ms']):.1f}ms"]
    losses = {"dropped": "feed_dropped", "late": "feed_late", "reconnects": "feed_reconnects"}
    return parts + [f"{label} {int(logs[name])}" for label, name in losses.items() if logs[name]]


def _shown(logs: Mapping[str, Any], name: str) -> str:
    """Formats a log; a dash if no episode has ended."""
    return format_number(float(logs.get(name, float("nan"))))
