"""Prints a status line that is redrawn in place while a program runs, and whole lines above it."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TextIO


def redraws(stream: TextIO) -> bool:
    """Whether a stream overwrites its last line after a carriage return.

    A terminal does. Notebooks and PyCharm's console do too, although their `isatty` is False. Files and pipes do not.
    """
    if stream.isatty():
        return True
    # The class of the stream is checked, because in a notebook, too, output can be redirected to a file.
    return type(stream).__module__.startswith("ipykernel.") or (
        "PYCHARM_HOSTED" in os.environ and stream is sys.__stdout__
    )


class StatusLine:
    """The line at the bottom of standard output.

    All code uses the single object `STATUS`, so that whole lines are not printed into the status line.
    """

    def __init__(self) -> None:
        self._shown = 0  # characters of the line that is shown now
        self._stream: TextIO | None = None

    def draw(self, text: str) -> None:
        """Shows a line in place of the one before. Call it only if `redraws` is True for standard output."""
        stream, shown = sys.stdout, self._open()
        text = _cut(text, stream)
        stream.write("\r" + text + " " * max(shown - len(text), 0))
        stream.flush()
        self._shown, self._stream = len(text), stream

    def finish(self, text: str) -> None:
        """Shows a line for good; the next one is drawn below it."""
        if redraws(sys.stdout):
            self.draw(text)
            sys.stdout.write("\n")
        else:
            sys.stdout.write(text + "\n")
        sys.stdout.flush()
        self._shown = 0

    def say(self, text: str) -> None:
        """Prints a text in place of the status line. The next status line is drawn below the text."""
        shown = self._open()
        first, newline, rest = text.partition("\n")
        start = "\r" if shown else ""
        sys.stdout.write(start + first + " " * max(shown - len(first), 0) + newline + rest + "\n")
        sys.stdout.flush()
        self._shown = 0

    def _open(self) -> int:
        """Returns the number of characters in the line; 0 if standard output has been replaced."""
        return self._shown if self._stream is sys.stdout else 0


STATUS = StatusLine()


def _cut(text: str, stream: TextIO) -> str:
    """Cuts a line to the width of a terminal, because a wrapped line is not overwritten. Notebooks do not wrap."""
    # One column is left free, because in some terminals a line that fills the last column wraps.
    return text[: shutil.get_terminal_size().columns - 1] if stream.isatty() else text
