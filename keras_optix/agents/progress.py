"""One line in the terminal while `fit` runs, that does not scroll."""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import keras

_TTY_INTERVAL = 0.1  # seconds between redraws
_FILE_INTERVAL = 10.0  # seconds between lines where the output is no terminal


@runtime_checkable
class ProgressReporter(Protocol):
    """A callback that has something to add to the progress line."""

    def progress(self) -> Mapping[str, str]:
        """Returns texts by label, such as ``{"best": "481.2", "state": "ACTIVE"}``."""
        ...


class FitProgress(keras.callbacks.ProgbarLogger):  # type: ignore[misc]
    """Takes the place of Keras' progress bar, which prints every log and scrolls once they are wider than the screen.

    Shows windows, time, the mean episode return, what the other callbacks add, and how a live feed is answered. In a
    terminal the line is redrawn in place; elsewhere a line is printed every ten seconds and at the end of an epoch.

    Args:
        reporters: Callbacks that add to the line.
    """

    def __init__(self, reporters: list[ProgressReporter]) -> None:
        super().__init__()
        self._reporters = reporters
        self._started = 0.0
        self._drawn_at = 0.0
        self._width = 0

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """See `keras.callbacks.Callback`."""
        self._started = time.monotonic()
        self._drawn_at = 0.0
        self.seen = 0
        if self.verbose and self.epochs > 1:
            print(f"Epoch {epoch + 1}/{self.epochs}")

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """See `keras.callbacks.Callback`."""
        self.seen = batch + 1
        now = time.monotonic()
        in_place = sys.stdout.isatty()
        due = now - max(self._drawn_at, self._started) >= (_TTY_INTERVAL if in_place else _FILE_INTERVAL)
        if self.verbose == 1 and due:
            self._drawn_at = now
            self._draw(logs or {}, "" if in_place else "\n")

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """See `keras.callbacks.Callback`."""
        if self.verbose:
            self._draw(logs or {}, "\n")

    def _draw(self, logs: Mapping[str, Any], end: str) -> None:
        line = self._line(logs)
        if sys.stdout.isatty():
            # One column is left free: a line that fills the last one wraps in some terminals.
            line = line[: shutil.get_terminal_size().columns - 1]
            padding = " " * max(self._width - len(line), 0)
            self._width = 0 if end else len(line)
            sys.stdout.write("\r" + line + padding + end)
        else:
            sys.stdout.write(line + end)
        sys.stdout.flush()

    def _line(self, logs: Mapping[str, Any]) -> str:
        elapsed = time.monotonic() - self._started
        total = "" if self.target is None else f"/{self.target}"
        parts = [f"window {self.seen}{total}", f"{elapsed:.0f}s"]
        if self.seen:
            parts.append(f"{1000.0 * elapsed / self.seen:.0f}ms/window")
        parts.append(f"return {_shown(logs.get('episode_return', math.nan))}")
        if "val_episode_return" in logs:
            parts.append(f"val_return {_shown(logs['val_episode_return'])}")
        for reporter in self._reporters:
            parts += [f"{label} {text}" for label, text in reporter.progress().items()]
        if "feed_dropped" in logs:
            parts += _of_feed(logs)
        return " · ".join(parts)


def _of_feed(logs: Mapping[str, Any]) -> list[str]:
    """How quickly a live feed is answered, and what was lost of it, if anything was."""
    parts = [f"latency p99 {float(logs['feed_latency_p99_ms']):.1f}ms"]
    losses = {"dropped": "feed_dropped", "late": "feed_late", "reconnects": "feed_reconnects"}
    return parts + [f"{label} {int(logs[name])}" for label, name in losses.items() if logs[name]]


def _shown(value: Any) -> str:
    """A return, or a dash where no episode has ended."""
    number = float(value)
    return "-" if math.isnan(number) else f"{number:.1f}"
