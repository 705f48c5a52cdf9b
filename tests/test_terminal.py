"""A line that is redrawn in place, and whole lines between."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import Any

import pytest

from keras_optix.terminal import StatusLine, redraws


class Terminal(io.StringIO):
    """A terminal of 20 columns, as `COLUMNS` says."""

    def isatty(self) -> bool:
        return True


class OutStream(io.StringIO):
    """What ipykernel puts in the place of standard output."""

    __module__ = "ipykernel.iostream"


def seen(stream: io.StringIO) -> list[str]:
    """The lines that stay on a screen, as a terminal or a notebook renders them."""
    lines = []
    for line in stream.getvalue().split("\n"):
        shown = ""
        for part in line.split("\r"):
            shown = part + shown[len(part) :]
        lines.append(shown.rstrip())
    return lines


Show = Callable[[], io.StringIO]


@pytest.fixture(params=[Terminal, OutStream])
def show(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Show:
    """Puts a screen in the place of standard output; in the test itself, for pytest changes it between the two."""

    def shown() -> Any:
        monkeypatch.setattr(sys, "stdout", request.param())
        monkeypatch.setenv("COLUMNS", "20")
        return sys.stdout

    return shown


def test_a_line_is_drawn_over_the_one_before(show: Show) -> None:
    screen = show()
    status = StatusLine()
    status.draw("a long line")
    status.draw("short")
    assert seen(screen) == ["short"]
    status.finish("last")
    assert seen(screen) == ["last", ""]


def test_what_is_said_stays_and_the_line_goes_on_below(show: Show) -> None:
    screen = show()
    status = StatusLine()
    status.say("Epoch 1/2")
    status.draw("3 windows, 2 s")
    status.say("new best\nof all")
    status.draw("4 windows")
    assert seen(screen) == ["Epoch 1/2", "new best", "of all", "4 windows"]


def test_only_a_terminal_has_a_width(show: Show) -> None:
    screen = show()
    StatusLine().draw("x" * 30)
    assert seen(screen) == ["x" * (19 if screen.isatty() else 30)]


def test_a_file_gets_whole_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    status = StatusLine()
    status.finish("3 windows")
    status.say("new best")
    assert sys.stdout.getvalue() == "3 windows\nnew best\n"  # type: ignore[attr-defined]


def test_another_output_has_no_line_yet(show: Show, monkeypatch: pytest.MonkeyPatch) -> None:
    show()
    status = StatusLine()
    status.draw("3 windows")
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    status.say("to a file")
    assert sys.stdout.getvalue() == "to a file\n"  # type: ignore[attr-defined]


def test_who_redraws(monkeypatch: pytest.MonkeyPatch) -> None:
    assert redraws(Terminal())
    assert redraws(OutStream())
    assert not redraws(io.StringIO())
    monkeypatch.setattr(sys, "__stdout__", io.StringIO())
    monkeypatch.setenv("PYCHARM_HOSTED", "1")
    assert redraws(sys.__stdout__)  # type: ignore[arg-type]
    assert not redraws(io.StringIO())
