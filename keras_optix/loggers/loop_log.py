"""Keeps records of what the loop did and why, prints them, and passes them to loggers."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from keras_optix.loggers.base import HParam, Logger
from keras_optix.loggers.shown import Pace, shown_by
from keras_optix.loggers.timeline import in_cell, timeline
from keras_optix.loop.aids import Aids
from keras_optix.loop.record import EventKind, LoopRecord
from keras_optix.loop.scheduler_state import LoopState
from keras_optix.store.manifest import PolicySnapshot
from keras_optix.terminal import STATUS

__all__ = ["LoopLog", "LoopRecord"]

_RATE_WINDOWS = 20
_FOR_ALL = (EventKind.NOTICE, EventKind.FEED, EventKind.ENVIRONMENT)  # events that users should see by default
_FEED = "feed_"  # prefix of the logs of a live feed
_SHORTEST = 1e-3  # seconds
_EVENTS = 50  # most events in one text
MOST_RECORDS = 2_000  # in memory and in a resume point
_STATE_NUMBERS = {state: float(k) for k, state in enumerate(LoopState)}


class LoopLog:
    """The records of one run.

    Args:
        loggers: The loggers that show the run.
        verbose: 0 prints nothing, 1 prints records that users should see ("notice", "feed", "environment"), 2 prints
            every record.
        purge_from: The environment step at which the run is resumed; loggers drop what they showed after it. None: a
            new run.
        unit: Name of what the loop counts: ``"window"``, or ``"epoch"`` for an ordinary model.
        steps: Name of its steps: ``"env steps"``, or ``"steps"`` for an ordinary model.

    Attributes:
        records: The records, oldest first; see `MOST_RECORDS`.
        aids: The files and logs of the run, which may fail without ending it.
    """

    def __init__(
        self,
        loggers: Sequence[Logger],
        verbose: int,
        purge_from: int | None = None,
        *,
        unit: str = "window",
        steps: str = "env steps",
    ) -> None:
        self.records: list[LoopRecord] = []
        self.aids = Aids()
        self._loggers = shown_by(loggers, self.aids)
        for logger in self._loggers:
            logger.open(purge_from)
        self._texts = Pace()
        self._unshown: tuple[PolicySnapshot, Path] | None = None  # the new best, until it is on disk
        self._verbose = verbose
        self._unit = unit
        self._steps = steps
        self._times: deque[tuple[float, int]] = deque(maxlen=_RATE_WINDOWS)
        self._resumed = purge_from is not None
        self._first_window = 0
        self._last_window = -1
        self._last_steps = 0 if purge_from is None else purge_from
        self._drawn: LoopState | None = None

    @property
    def writes(self) -> bool:
        """Whether there are loggers, so that scalars are needed."""
        return bool(self._loggers)

    def begin(self, run_id: str) -> None:
        """Tells the loggers the name of the run; see `Logger.begin`."""
        for logger in self._loggers:
            logger.begin(run_id)

    def hparams(
        self, values: Mapping[str, HParam], metrics: Sequence[str], first: Sequence[str] = ("learning_rate",)
    ) -> None:
        """Shows the hyperparameters with which the run starts; see `Logger.hparams`.

        Args:
            values: The hyperparameters with which the run starts, by name.
            metrics: Scalar tags whose latest values are shown next to the hyperparameters.
            first: Names of the leftmost columns.
        """
        for logger in self._loggers:
            logger.hparams(values, metrics, first)

    def restore(self, records: Sequence[LoopRecord]) -> None:
        """Takes over the records of the run that is resumed."""
        self.records = bounded(list(records))
        if self.records:
            self._last_window = self.records[-1].window_id
            self._last_steps = max(self._last_steps, self.records[-1].env_steps)
        self._drawn = None

    def note(self, record: LoopRecord) -> None:
        """Keeps a record, shows it in the loggers, and prints it if `verbose` says so."""
        self.records.append(record)
        if len(self.records) > MOST_RECORDS:
            self.records[:] = bounded(self.records)
        self._last_window = max(self._last_window, record.window_id)
        self._last_steps = max(self._last_steps, record.env_steps)
        for logger in self._loggers:
            logger.event(record)
        if self._loggers and self._texts.allows():
            self._show(record.env_steps, "loop/events", self._events())
            if record.state is not self._drawn:
                self._draw()
        if self._verbose >= (1 if record.kind in _FOR_ALL else 2):
            STATUS.say(record.describe(self._unit, self._steps))

    def snapshot(self, snapshot: PolicySnapshot, path: Path) -> None:
        """Shows a new best in the loggers as soon as it is on disk.

        Args:
            snapshot: The snapshot.
            path: Its file. While the disk cannot be written, the file is not there yet.
        """
        self._unshown = snapshot, path
        self._show_snapshot()

    def animation(self, env_steps: int, gif: bytes) -> None:
        """Shows an episode of the policy in the loggers; see `Logger.animation`."""
        for logger in self._loggers:
            logger.animation(env_steps, "policy/episode", gif)

    def tick(self, env_steps: int, window_id: int) -> None:
        """Notes the time of a window, from which the rate of environment steps is computed.

        Args:
            env_steps: Environment steps of the run so far.
            window_id: Number of the window.
        """
        if self._last_window < 0 and not self._resumed:
            self._first_window = window_id
        self._last_window, self._last_steps = window_id, env_steps
        self._times.append((time.monotonic(), env_steps))

    def scalars(self, state: LoopState, env_steps: int, values: Mapping[str, float], logs: Mapping[str, float]) -> None:
        """Writes the scalars of a window; `keras_optix.loggers.tags` declares them.

        Args:
            state: State of the loop.
            env_steps: Environment steps of the run.
            values: Scalars of the loop by tag.
            logs: Logs of the train step by name. Their tags begin with ``rollout/``, ``feed/`` or ``train/``; those of
                an epoch of an ordinary model begin with ``epoch/``.
        """
        if not self._loggers:
            return
        tagged = {"loop/state": _STATE_NUMBERS[state], "time/env_steps_per_second": self._rate(), **values}
        for name, value in logs.items():
            tagged[self._tag(name)] = value
        for logger in self._loggers:
            logger.scalars(env_steps, tagged)
        self._show_snapshot()

    def close(self, status: str = "success") -> None:
        """Closes the loggers. The records are kept.

        Args:
            status: How the run ended, ``"success"`` or ``"failure"``.
        """
        self._show_snapshot()
        if self._loggers and self._last_window >= 0:
            if self._texts.pending:
                self._show(self._last_steps, "loop/events", self._events())
            self._draw("end of the run" if status == "success" else "failed")
        loggers, self._loggers = self._loggers, []
        for logger in loggers:
            logger.close(status)

    def _show_snapshot(self) -> None:
        if self._unshown is None or not self._unshown[1].exists():
            return
        (snapshot, path), self._unshown = self._unshown, None
        for logger in self._loggers:
            logger.snapshot(snapshot, path)

    def _rate(self) -> float:
        if not self._times:
            return math.nan
        (first_time, first_steps), (last_time, last_steps) = self._times[0], self._times[-1]
        elapsed = last_time - first_time
        # With `steps_per_execution` several windows arrive at once, and no time passes between them.
        return (last_steps - first_steps) / elapsed if elapsed > _SHORTEST else math.nan

    def _tag(self, log: str) -> str:
        if self._unit != "window":
            return f"{self._unit}/{log}"
        if log.startswith(_FEED):
            return f"feed/{log.removeprefix(_FEED)}"
        return f"rollout/{log}" if log.startswith("episode_") else f"train/{log}"

    def _events(self) -> str:
        """Returns a table of the latest events, because TensorBoard does not show the texts of all steps."""
        lines = [
            f"| after {self._unit} | after {self._steps} | state of the loop | what happened |",
            "|---|---|---|---|",
        ]
        for record in self.records[: -_EVENTS - 1 : -1]:
            lines.append(f"| {record.window_id} | {record.env_steps:,} | {record.state.name} | {in_cell(record.why)} |")
        return "\n".join(lines)

    def _draw(self, ended: str = "") -> None:
        if not self._loggers:
            return
        self._drawn = self.records[-1].state if self.records else LoopState.ACTIVE
        drawn = timeline(
            self.records,
            self._last_window,
            self._last_steps,
            first_window=self._first_window,
            unit=self._unit,
            steps=self._steps,
            ended=ended,
        )
        self._show(self._last_steps, "loop/timeline", drawn)

    def _show(self, step: int, tag: str, markdown: str) -> None:
        for logger in self._loggers:
            logger.text(step, tag, markdown)


def bounded(records: list[LoopRecord]) -> list[LoopRecord]:
    """Returns at most `MOST_RECORDS` records: of the older half, first those that changed the state of the loop."""
    if len(records) <= MOST_RECORDS:
        return records
    older, newer = records[: -MOST_RECORDS // 2], records[-MOST_RECORDS // 2 :]
    before = [None, *(record.state for record in older[:-1])]
    changes = [record for record, state in zip(older, before, strict=True) if record.state is not state]
    return changes[:1] + changes[1:][-MOST_RECORDS // 4 :] + newer
