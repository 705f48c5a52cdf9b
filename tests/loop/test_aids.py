"""Aids: a failure is told once, counted, tried again later and never ends the run."""

from __future__ import annotations

import itertools

import pytest

from keras_optix.errors import DirectoryError
from keras_optix.loop.aids import MISSED, Aids


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Disk:
    """Fails while it is full, and counts the attempts."""

    def __init__(self, clock: Clock, seconds: float = 0.0) -> None:
        self.full, self.attempts = True, 0
        self._clock, self._seconds = clock, seconds

    def write(self) -> str:
        self.attempts += 1
        if self.full:
            self._clock.now += self._seconds
            raise OSError(28, "No space left on device")
        return "written"


def test_a_failure_is_told_once_and_tried_again_less_and_less_often() -> None:
    clock = Clock()
    disk, aids = Disk(clock), Aids(clock)
    aid = aids.of("a snapshot")
    times = []
    for _ in range(3000):  # a window each 0.1 s: five minutes
        before = disk.attempts
        assert aid.attempt(disk.write) is MISSED
        if disk.attempts > before:
            times.append(clock.now)
        clock.now += 0.1
    assert [round(b - a) for a, b in itertools.pairwise(times)] == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert aids.take_notices() == [
        "a snapshot could not be written ([Errno 28] No space left on device); the run goes on, and it is tried again"
    ]
    assert aids.take_notices() == []
    assert aids.missing == "a snapshot (failed 10 times; the last error: [Errno 28] No space left on device)"
    disk.full = False
    clock.now += 60.0
    assert aid.attempt(disk.write) == "written"
    assert aids.missing == ""
    disk.full = True
    assert aid.attempt(disk.write) is MISSED
    assert aids.take_notices() == []  # told once
    assert aid.attempt(disk.write, at_once=True) is MISSED
    assert aid.failures == 12


def test_attempts_that_take_long_are_at_most_a_tenth_of_the_time() -> None:
    """A lock that is held is waited for, a minute each time."""
    clock = Clock()
    disk = Disk(clock, seconds=60.0)
    aid = Aids(clock).of("a snapshot")
    begin = clock.now
    while clock.now < begin + 36_000.0:
        aid.attempt(disk.write)
        clock.now += 1.0
    assert disk.attempts * 60.0 <= 0.1 * 36_000.0


def test_only_what_was_said_to_be_survived_is_survived() -> None:
    aid = Aids().of("a log")

    def mistake() -> None:
        raise TypeError("a mistake in the code")

    def directory() -> None:
        raise DirectoryError("held")

    assert aid.attempt(directory) is MISSED
    with pytest.raises(TypeError):
        aid.attempt(mistake, at_once=True)
    assert aid.attempt(mistake, at_once=True, errors=(Exception,)) is MISSED
