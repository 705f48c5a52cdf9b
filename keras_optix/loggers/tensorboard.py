"""Writes what the loop knows for TensorBoard, without TensorFlow, also where that is installed.

TensorBoard's own `EventFileWriter` opens files through TensorFlow if it can be imported (seconds, and a second
framework in the process of a JAX or PyTorch user), and `tf.summary` takes 14 ms for 20 scalars. `RecordWriter` is all
that is needed.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event, SessionLog, SourceMetadata
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.record_writer import RecordWriter

from keras_optix.errors import ConfigurationError, describe
from keras_optix.loggers.base import HParam, Logger
from keras_optix.validation import check_choice, check_path

_FLUSH_SECONDS = 5.0
_PREFIX = "events.out.tfevents."
# TensorBoard believes the first start and the first end of a run that it reads. So each has a file of its own, which a
# new run replaces. Its Python loader never goes back to an earlier file, so that of the start sorts before all others.
_START_NAME = f"{_PREFIX}0.hparams_start"
_END_SUFFIX = ".hparams_end"
_STATUSES = {"success": api_pb2.STATUS_SUCCESS, "failure": api_pb2.STATUS_FAILURE}


class TensorBoardLogger(Logger):
    """Shows runs in TensorBoard: what ``OptixCallback(log_dir=...)`` does.

    Args:
        log_dir: Directory of the event files, made if it does not exist.

    Raises:
        ConfigurationError: It cannot be written.
    """

    def __init__(self, log_dir: str | os.PathLike[str]) -> None:
        self.log_dir = Path(check_path("log_dir", log_dir))
        LoopWriter(self.log_dir).close()  # fails now rather than when training begins
        self._writer: LoopWriter | None = None

    def open(self, resumed_from: int | None) -> None:
        """See `Logger`. TensorBoard forgets what it holds of the directory after that step."""
        self._writer = LoopWriter(self.log_dir, resumed_from)

    def hparams(self, values: Mapping[str, HParam], metrics: Sequence[str], first: Sequence[str]) -> None:
        """See `Logger`: the run is a row of the HParams tab."""
        if self._writer is not None:
            self._writer.hparams(values, metrics, first)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See `Logger`."""
        if self._writer is not None:
            self._writer.scalars(step, values)

    def text(self, step: int, tag: str, markdown: str) -> None:
        """See `Logger`. It is on disk when this returns."""
        if self._writer is not None:
            self._writer.text(step, tag, markdown)

    def close(self, status: str) -> None:
        """See `Logger`."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close(status)


class LoopWriter:
    """Writes scalars, texts and hyperparameters over environment steps.

    The file is made at once, so that a directory that cannot be written is an error at once; if nothing is written, it
    is removed again.

    Args:
        log_dir: Made if it does not exist.
        purge_from: The run goes on from this step: TensorBoard forgets all points of `log_dir` after it. (Its default
            loader does so for each tag when that is written again.) None: a new run, so it forgets all points.

    Raises:
        ConfigurationError: It cannot be written.
    """

    def __init__(self, log_dir: str | os.PathLike[str], purge_from: int | None = None) -> None:
        self._directory = Path(log_dir)
        self._resumed = purge_from is not None
        self._first_step = 0 if purge_from is None else purge_from + 1
        self._begun = False
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._path = self._directory / _file_name()
            self._file = self._path.open("xb")
        except OSError as error:
            raise ConfigurationError(
                describe(
                    f"The log directory cannot be written: {error}.",
                    fix="Give a directory that you may write to.",
                    log_dir=os.fspath(log_dir),
                )
            ) from error
        weakref.finalize(self, self._file.close)  # also if nobody closes it
        self._records = RecordWriter(self._file)
        self._flushed = time.monotonic()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes scalars; NaN says that there is nothing to show yet and is left out."""
        summary = Summary()
        for tag, value in values.items():
            if not math.isnan(value):
                summary.value.add(tag=tag, simple_value=value)
        self._add(Event(wall_time=time.time(), step=step, summary=summary))
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self._flush()

    def text(self, step: int, tag: str, markdown: str) -> None:
        """Writes a text and makes sure that it is on disk. Of several with one tag and step only the last is shown."""
        self._add(Event(wall_time=time.time(), step=step, summary=text_pb(tag, markdown)))
        self._flush()

    def hparams(
        self, values: Mapping[str, HParam], metrics: Sequence[str], first: Sequence[str] = ("learning_rate",)
    ) -> None:
        """Makes the run a row of the HParams tab. A resumed run keeps the row with which it began.

        The columns are part of every run, because TensorBoard takes them from any run it finds: whether it is started
        on one run or on the directory above several, there is one table. Runs that are to be compared should have
        hyperparameters of the same names.

        Args:
            values: The hyperparameters with which it starts, by name.
            metrics: Scalar tags whose latest values are shown beside them.
            first: Names of the leftmost columns: five are shown, others only when ticked.

        Raises:
            ConfigurationError: A value is neither a number, a bool nor a string.
        """
        started = SessionStartInfo(start_time_secs=time.time())  # without a group name every run is a row
        columns = []
        for name, value in values.items():
            field, kind, shown = _hparam(name, value)
            setattr(started.hparams[name], field, shown)
            # Columns that differ between runs come first; one run cannot know, but it can guess.
            columns.append(api_pb2.HParamInfo(name=name, type=kind, differs=name in first))
        tags = [api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag)) for tag in metrics]
        experiment = api_pb2.Experiment(hparam_infos=columns, metric_infos=tags, time_created_secs=time.time())
        self._begin()
        path = self._directory / _START_NAME
        if not path.exists():
            config = _hparams_event(metadata.EXPERIMENT_TAG, HParamsPluginData(experiment=experiment))
            session = HParamsPluginData(session_start_info=started)
            _write_file(path, [config, _hparams_event(metadata.SESSION_START_INFO_TAG, session)])

    def close(self, status: str = "success") -> None:
        """Writes out what is left, and how the run ended.

        Args:
            status: ``"success"`` or ``"failure"``.
        """
        ended = _STATUSES[check_choice("status", status, tuple(_STATUSES))]
        self._file.close()
        if not self._begun:
            self._path.unlink(missing_ok=True)
        elif (self._directory / _START_NAME).exists():
            session = HParamsPluginData(session_end_info=SessionEndInfo(status=ended, end_time_secs=time.time()))
            end = _hparams_event(metadata.SESSION_END_INFO_TAG, session)
            _write_file(self._directory / (_file_name() + _END_SUFFIX), [end])

    def _begin(self) -> None:
        """Writes what comes first, and takes back what is not true of this run."""
        if self._begun:
            return
        self._begun = True
        stale = list(self._directory.glob(f"{_PREFIX}*{_END_SUFFIX}"))
        if not self._resumed:
            stale.append(self._directory / _START_NAME)
        for path in stale:
            path.unlink(missing_ok=True)
        self._records.write(_header().SerializeToString())
        # The first START of a directory only says that there may be more: a new run needs one too, to be resumed.
        start = SessionLog(status=SessionLog.START)
        self._records.write(Event(wall_time=time.time(), step=self._first_step, session_log=start).SerializeToString())

    def _add(self, event: Event) -> None:
        self._begin()
        self._records.write(event.SerializeToString())

    def _flush(self) -> None:
        self._file.flush()
        self._flushed = time.monotonic()


def _file_name() -> str:
    """A new name; names sort by time, as TensorBoard reads them."""
    seconds, rest = divmod(time.time_ns(), 10**9)
    return f"{_PREFIX}{seconds:010d}.{rest:09d}.{socket.gethostname()}.{os.getpid()}"


def _header() -> Event:
    source = SourceMetadata(writer="keras_optix")
    return Event(wall_time=time.time(), file_version="brain.Event:2", source_metadata=source)


def _write_file(path: Path, events: Sequence[Event]) -> None:
    with contextlib.closing(RecordWriter(path.open("wb"))) as records:
        for event in (_header(), *events):
            records.write(event.SerializeToString())


def _hparams_event(tag: str, data: HParamsPluginData) -> Event:
    summary = Summary()
    summary.value.add(tag=tag, metadata=metadata.create_summary_metadata(data), tensor=metadata.NULL_TENSOR)
    # Before step 0, so that no START takes it back.
    return Event(wall_time=time.time(), step=-1, summary=summary)


def _hparam(name: str, value: object) -> tuple[str, int, HParam]:
    """How a value is stored: the field for it, its type, and what of it can be shown."""
    plain = value.item() if isinstance(value, np.generic) else value
    if isinstance(plain, bool):
        return "bool_value", api_pb2.DATA_TYPE_BOOL, plain
    if isinstance(plain, int | float) and math.isfinite(plain):
        # Six digits: 1e-3 is 0.0010000000474974513 as a float32.
        return "number_value", api_pb2.DATA_TYPE_FLOAT64, float(f"{plain:.6g}") if isinstance(plain, float) else plain
    if isinstance(plain, str | float):
        return "string_value", api_pb2.DATA_TYPE_STRING, str(plain)
    received: dict[str, Any] = {name: value}
    raise ConfigurationError(describe("A hyperparameter must be a number, a bool or a string.", **received))
