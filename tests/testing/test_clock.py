"""The clock for tests goes only when it is told to."""

from __future__ import annotations

import threading

import pytest

from keras_optix.testing import ScriptedClock


def test_it_advances_and_its_other_time_jumps() -> None:
    clock = ScriptedClock(start=100.0)
    clock.advance(5.0)
    assert (clock.monotonic(), clock.time()) == (5.0, 105.0)
    clock.jump(-50.0)
    assert (clock.monotonic(), clock.time()) == (5.0, 55.0)
    with pytest.raises(ValueError, match="seconds=-1"):
        clock.advance(-1.0)


def test_a_wait_passes_at_once_and_one_for_what_has_happened_takes_no_time() -> None:
    clock, event = ScriptedClock(), threading.Event()
    assert not clock.wait(event, 1000.0)
    assert (clock.monotonic(), clock.waited) == (1000.0, [1000.0])
    event.set()
    assert clock.wait(event, 1000.0)
    assert clock.monotonic() == 1000.0
