"""Leaves out what C++ code of libraries writes to the process's stderr, where nothing can switch it off.

Exceptions say what matters. Lines that TensorFlow and LiteRT write around a call which works as it should would only
hide the line of progress.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from typing import BinaryIO


class StderrFilter:
    """Holds back what is written to stderr while calls run, and then lets through what was not to be left out.

    Threads may use it at the same time: what is written belongs to all calls that run then. Lines of other code are
    only delayed.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0
        self._real = -1  # the descriptor that was number 2
        self._held: BinaryIO | None = None
        self._silent: list[tuple[int, int]] = []  # from which byte to which nothing is let through
        self._noise: set[bytes] = set()

    @contextlib.contextmanager
    def without_all(self) -> Iterator[None]:
        """Leaves out everything that is written."""
        begin = self._enter(())
        try:
            yield
        finally:
            self._exit(begin)

    @contextlib.contextmanager
    def without(self, *noise: bytes) -> Iterator[None]:
        """Leaves out the lines that contain one of some texts."""
        self._enter(noise)
        try:
            yield
        finally:
            self._exit(None)

    def _enter(self, noise: Sequence[bytes]) -> int:
        with self._lock:
            _flush()
            if not self._running:
                held = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  the last call closes it
                try:
                    self._real = os.dup(2)
                    os.dup2(held.fileno(), 2)
                except OSError:  # the process has no stderr
                    held.close()
                else:
                    self._held = held
            self._running += 1
            self._noise.update(noise)
            return self._written()

    def _exit(self, silent_since: int | None) -> None:
        with self._lock:
            _flush()
            if silent_since is not None:
                self._silent.append((silent_since, self._written()))
            self._running -= 1
            if self._running:
                return
            held, self._held = self._held, None
            silent, self._silent = self._silent, []
            noise, self._noise = self._noise, set()
            if held is None:
                return
            os.dup2(self._real, 2)
            os.close(self._real)
            with held:
                held.seek(0)
                kept = _without_lines(_without_parts(held.read(), silent), noise)
        while kept:
            kept = kept[os.write(2, kept) :]

    def _written(self) -> int:
        return 0 if self._held is None else os.fstat(self._held.fileno()).st_size


def _without_parts(text: bytes, parts: Sequence[tuple[int, int]]) -> bytes:
    """Returns a text without some parts, which may overlap."""
    kept, at = b"", 0
    for begin, end in sorted(parts):
        kept += text[at : max(begin, at)]
        at = max(end, at)
    return kept + text[at:]


def _without_lines(text: bytes, noise: set[bytes]) -> bytes:
    """Returns a text without the lines that contain one of some texts."""
    return b"".join(line for line in text.splitlines(keepends=True) if not any(one in line for one in noise))


def _flush() -> None:
    """Writes out what Python holds for stderr, which may be closed or None."""
    with contextlib.suppress(Exception):
        sys.stderr.flush()


STDERR = StderrFilter()
