"""One line of text that is redrawn in place while a program runs, and whole lines between."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TextIO


def redraws(stream: TextIO) -> bool:
    """Whether a stream shows a line in place of the one before, after a carriage return.

    A terminal does, and so do notebooks and PyCharm's console, which say that they are no terminal. A file and a pipe
    do not.
    """
    if stream.isatty():
        return True
    # The class tells, and not whether a notebook is at work: its output can be redirected to a file.
    return type(stream).__module__.startswith("ipykernel.") or (
        "PYCHARM_HOSTED" in os.environ and stream is sys.__stdout__
    )


class StatusLine:
    """The line at the bottom of standard output.

    There is one, `STATUS`, so that whoever prints a whole line does not write into it.
    """

    def __init__(self) -> None:
        self._shown = 0  # characters of the line that stands there now
        self._stream: TextIO | None = None

    def draw(self, text: str) -> None:
        """Shows a line in the place of the one before; only where `redraws` holds."""
        stream, shown = sys.stdout, self._open()
        text = _cut(text, stream)
        stream.write("\r" + text + " " * max(shown - len(text), 0))
        stream.flush()
        self._shown, self._stream = len(text), stream

    def finish(self, text: str) -> None:
        """Shows a line that stays: the next one is drawn below."""
        if redraws(sys.stdout):
            self.draw(text)
            sys.stdout.write("\n")
        else:
            sys.stdout.write(text + "\n")
        sys.stdout.flush()
        self._shown = 0

    def say(self, text: str) -> None:
        """Prints a text that stays, in the place of the line that is redrawn; that one follows below it."""
        shown = self._open()
        first, newline, rest = text.partition("\n")
        start = "\r" if shown else ""
        sys.stdout.write(start + first + " " * max(shown - len(first), 0) + newline + rest + "\n")
        sys.stdout.flush()
        self._shown = 0

    def _open(self) -> int:
        """Characters that stand in the line; none if standard output is another one now."""
        return self._shown if self._stream is sys.stdout else 0


STATUS = StatusLine()


def _cut(text: str, stream: TextIO) -> str:
    """As much of a line as a terminal shows: a line that wraps is not drawn over. Notebooks have no such width."""
    # One column is left free: a line that fills the last one wraps in some terminals.
    return text[: shutil.get_terminal_size().columns - 1] if stream.isatty() else text
