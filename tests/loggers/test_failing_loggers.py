"""Loggers that fail, and runs with very many events: the run goes on, and nothing grows without bound."""

from __future__ import annotations

import contextlib
import errno
import json
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.tensorflow_stub.errors import DataLossError

from keras_optix.loggers.base import Logger
from keras_optix.loggers.loop_log import MOST_RECORDS, LoopLog, bounded
from keras_optix.loggers.tensorboard import LoopWriter, TensorBoardLogger
from keras_optix.loop.record import EventKind, LoopRecord
from keras_optix.loop.scheduler_state import LoopState
from keras_optix.states import to_json


class Failing(Logger):
    """Raises `error` while there is one, and counts its calls."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.calls = error, 0

    def scalars(self, step: int, values: Any) -> None:
        self.calls += 1
        if self.error is not None:
            raise self.error

    def text(self, step: int, tag: str, markdown: str) -> None:
        self.scalars(step, {})

    def close(self, status: str) -> None:
        self.scalars(0, {})


class Essential(Failing):
    is_essential = True


def record(number: int, state: LoopState = LoopState.ACTIVE, kind: EventKind = EventKind.FEED) -> LoopRecord:
    return LoopRecord(kind, number, 10 * number, state, f"event {number}")


def write(log: LoopLog, step: int) -> None:
    log.scalars(LoopState.ACTIVE, step, {"loop/score": 1.0}, {})


def test_a_disk_that_is_full_ends_no_run_and_other_loggers_are_called() -> None:
    failing, other = Failing(OSError(errno.ENOSPC, "No space left on device")), Failing()
    log = LoopLog([failing, other], 0)
    for step in range(100):
        write(log, step)
        log.note(record(step))
    log.close()
    assert failing.calls < 5
    assert other.calls > 200
    (notice,) = log.aids.take_notices()
    assert "Failing 1 could not be written ([Errno 28] No space left on device)" in notice
    assert "Failing 1 (failed" in log.aids.missing


def test_a_mistake_in_a_logger_is_raised_until_it_has_shown_something() -> None:
    log = LoopLog([Failing(TypeError("a mistake"))], 0)
    with pytest.raises(TypeError, match="a mistake"):
        write(log, 0)
    tracker = Failing()
    log = LoopLog([tracker], 0)
    write(log, 0)
    tracker.error = RuntimeError("the tracker's server does not answer")
    for step in range(10):
        write(log, step)
    assert "the tracker's server does not answer" in log.aids.missing


def test_errors_of_an_essential_logger_reach_the_caller() -> None:
    """Those of a `LoopCallback`, whose hooks end `fit`."""
    callback = Essential()
    log = LoopLog([callback], 0)
    write(log, 0)
    callback.error = OSError("of the callback")
    with pytest.raises(OSError, match="of the callback"):
        write(log, 1)


def test_an_event_file_that_may_be_torn_is_left_and_a_new_one_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = TensorBoardLogger(tmp_path)
    logger.open(None)
    logger.scalars(1, {"a": 1.0})
    really = LoopWriter.scalars

    def torn(self: LoopWriter, step: int, values: Any) -> None:
        self._file.write(b"half a record")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(LoopWriter, "scalars", torn)
        with pytest.raises(OSError, match="No space"):
            logger.scalars(2, {"a": 2.0})
    assert LoopWriter.scalars is really
    logger.scalars(3, {"a": 3.0})
    logger.close("success")
    found = []
    for path in sorted(tmp_path.glob("events*")):
        with contextlib.suppress(DataLossError):  # the end of the torn file
            for event in map(Event.FromString, RawEventFileLoader(str(path)).Load()):
                found += [(event.step, value.simple_value) for value in event.summary.value if value.tag == "a"]
    assert found == [(1, 1.0), (3, 3.0)]


def test_records_are_bounded_in_memory_and_in_a_resume_point() -> None:
    log = LoopLog((), 0)
    kept = log.records
    for number in range(30_000):
        state = LoopState.COOLING if number % 1000 >= 900 else LoopState.ACTIVE
        log.note(record(number, state))
    assert log.records is kept
    assert len(kept) <= MOST_RECORDS
    assert kept[-1].message == "event 29999"
    assert [r.window_id for r in kept] == sorted(r.window_id for r in kept)
    changes = [r.window_id for r in kept if r.window_id % 1000 in (0, 900)]
    assert changes == [n for n in range(30_000) if n % 1000 in (0, 900)]  # the timeline keeps every state
    assert len(json.dumps(to_json(tuple(kept)))) < 500_000
    log.restore([record(k) for k in range(10_000)])
    assert len(log.records) <= MOST_RECORDS
    few = [record(k) for k in range(10)]
    assert bounded(few) == few


def test_texts_on_disk_are_bounded() -> None:
    """A feed that breaks again and again has an event each time; each text has the latest 50."""

    class Counts(Logger):
        texts, characters, last = 0, 0, ""

        def text(self, step: int, tag: str, markdown: str) -> None:
            if tag == "loop/events":
                self.texts, self.characters, self.last = self.texts + 1, self.characters + len(markdown), markdown

    counts = Counts()
    log = LoopLog([counts], 0)
    for number in range(20):
        log.note(record(number))
    assert counts.texts == 20
    for number in range(20, 5000):
        log.note(record(number))
    assert counts.texts < 150
    log.close()
    assert "event 4999" in counts.last  # the last text holds the last event
