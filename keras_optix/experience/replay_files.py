"""A replay buffer as a growing part of a run: its rows are written to files of their own beside the resume points."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from keras_optix.errors import StateError
from keras_optix.experience.replay import ReplayBuffer
from keras_optix.store.files import Arrays, Saved, parse_json
from keras_optix.store.increments import Span

_ROWS = "rows.json"  # which rows a file holds


class ReplayFiles:
    """See `keras_optix.store.increments.Growing`.

    Args:
        buffer: The replay buffer.
        settle: Called before the buffer is saved: gives it the priorities that are not known to it yet.
    """

    def __init__(self, buffer: ReplayBuffer, settle: Callable[[], None]) -> None:
        self._buffer = buffer
        self._settle = settle
        self._unwritten: dict[int, Arrays] = {}
        self._end = 0
        self._saved = 0  # transitions that are in files

    def save(self) -> Saved:
        """See `Growing.save`."""
        self._settle()
        return {}, self._buffer.state()

    def check(self, arrays: Arrays, values: Any) -> None:
        """See `Growing.check`."""
        self._buffer.check_state(values)

    def new_files(self) -> dict[int, Arrays]:
        """See `Growing.new_files`."""
        if self._buffer.added > self._saved:
            rows, values = self._buffer.take_new()
            self._unwritten[self._end] = rows | {_ROWS: np.frombuffer(json.dumps(values).encode(), np.uint8)}
            self._end, self._saved = self._end + 1, self._buffer.added
        # While nothing can be written, rows that were overwritten in the buffer need no file any more.
        first = self.span.first
        self._unwritten = {number: arrays for number, arrays in self._unwritten.items() if number >= first}
        return dict(self._unwritten)

    def confirm(self) -> None:
        """See `Growing.confirm`."""
        self._unwritten.clear()

    @property
    def span(self) -> Span:
        """See `Growing.span`."""
        return Span(min(self._buffer.oldest_needed(), self._end), self._end)

    def restore(self, files: Iterator[Arrays], span: Span, arrays: Arrays, values: Any) -> None:
        """See `Growing.restore`."""

        def chunks() -> Iterator[tuple[dict[str, np.ndarray], Any]]:
            for file in files:
                rows = dict(file)
                try:
                    yield rows, parse_json(rows.pop(_ROWS).tobytes())
                except (KeyError, ValueError) as error:
                    problem = f"A file of the replay buffer does not say which rows it holds: {error}"
                    raise StateError(problem) from error

        self._buffer.restore(list(chunks()), values)
        self._unwritten.clear()
        self._end, self._saved = span.end, self._buffer.added
