"""Passes a run to a logger that may fail, and limits how often long texts are written."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_optix.loggers.base import HParam, Logger
from keras_optix.loop.aids import DISK_ERRORS, MISSED, Aid, Aids
from keras_optix.loop.record import LoopRecord
from keras_optix.store.manifest import PolicySnapshot

_FREE = 100  # texts that are written at once
_LONGEST = 60.0  # seconds between two texts of a run with very many events


class Shown:
    """A logger whose errors do not end the run.

    An error of the disk or of the network never ends it. Any other error does so until the logger has shown something,
    because it is then a mistake in the logger. Errors of an essential logger (`Logger.is_essential`) always do.

    Args:
        logger: The logger.
        aid: Counts its failures.
    """

    def __init__(self, logger: Logger, aid: Aid) -> None:
        self._logger, self._worked = logger, False
        self._aid = aid

    def open(self, resumed_from: int | None) -> None:
        """See `Logger`. An error at the beginning reaches the caller."""
        self._logger.open(resumed_from)

    def begin(self, run_id: str) -> None:
        """See `Logger`. An error at the beginning reaches the caller."""
        self._logger.begin(run_id)

    def hparams(self, values: Mapping[str, HParam], metrics: Sequence[str], first: Sequence[str]) -> None:
        """See `Logger`."""
        self._call(lambda: self._logger.hparams(values, metrics, first))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See `Logger`."""
        if self._call(lambda: self._logger.scalars(step, values)):
            self._worked = True

    def event(self, record: LoopRecord) -> None:
        """See `Logger`."""
        self._call(lambda: self._logger.event(record))

    def snapshot(self, snapshot: PolicySnapshot, path: Path) -> None:
        """See `Logger`."""
        self._call(lambda: self._logger.snapshot(snapshot, path))

    def animation(self, step: int, tag: str, gif: bytes) -> None:
        """See `Logger`."""
        self._call(lambda: self._logger.animation(step, tag, gif))

    def text(self, step: int, tag: str, markdown: str) -> None:
        """See `Logger`."""
        self._call(lambda: self._logger.text(step, tag, markdown))

    def close(self, status: str) -> None:
        """See `Logger`."""
        self._call(lambda: self._logger.close(status), at_once=True)

    def _call(self, act: Callable[[], Any], *, at_once: bool = False) -> bool:
        if self._logger.is_essential:
            act()
            return True
        return (
            self._aid.attempt(act, at_once=at_once, errors=(Exception,) if self._worked else DISK_ERRORS) is not MISSED
        )


def shown_by(loggers: Sequence[Logger], aids: Aids) -> list[Shown]:
    """Returns loggers that may fail, each by itself."""
    names = [type(logger).__name__ for logger in loggers]
    numbered = [name if names.count(name) == 1 else f"{name} {k + 1}" for k, name in enumerate(names)]
    return [Shown(logger, aids.of(name)) for logger, name in zip(loggers, numbered, strict=True)]


class Pace:
    """Allows the first texts at once, and later ones less and less often, so that files do not grow without bound.

    Attributes:
        pending: Whether the latest text was not allowed.
    """

    def __init__(self) -> None:
        self.pending = False
        self._texts = 0
        self._next = 0.0

    def allows(self) -> bool:
        """Returns whether a text may be written now."""
        now = time.monotonic()
        self._texts += 1
        self.pending = self._texts > _FREE and now < self._next
        if not self.pending:
            self._next = now + min(_LONGEST, 0.01 * self._texts)
        return not self.pending
