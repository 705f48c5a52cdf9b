"""Writes event files for TensorBoard without TensorFlow, even if TensorFlow is installed.

TensorBoard's own `EventFileWriter` opens files through TensorFlow if it can be imported. That takes seconds, and brings
a second framework into the process of a JAX or PyTorch user. `tf.summary` takes 14 ms for 20 scalars. `RecordWriter` is
all that is needed.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import struct
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
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
from keras_optix.loggers.tensorboard_layout import interval, layout
from keras_optix.store.files import make_folder, write_atomically
from keras_optix.store.processes import remove_left_over
from keras_optix.validation import check_choice, check_path

_FLUSH_SECONDS = 5.0
_PREFIX = "events.out.tfevents."
# TensorBoard uses the first start and the first end of a run that it reads. So start and end each have a file of their
# own, which a new run replaces. TensorBoard's Python loader never returns to an earlier file, so the name of the start
# file sorts before all others.
_START_NAME = f"{_PREFIX}0.hparams_start"
_END_SUFFIX = ".hparams_end"
_STATUSES = {"success": api_pb2.STATUS_SUCCESS, "failure": api_pb2.STATUS_FAILURE}


class TensorBoardLogger(Logger):
    """Shows runs in TensorBoard. ``OptixCallback(log_dir=...)`` creates one.

    The tab "Custom Scalars" answers at a glance how training goes: the score with its 95 % interval, the best, the
    return of training, the state of the loop, and the hyperparameters, all on one page.

    Args:
        log_dir: Directory of the event files, created if it does not exist.

    Raises:
        ConfigurationError: The directory cannot be written.

    Examples:
        >>> callback = optix.OptixCallback(loggers=[optix.loggers.TensorBoardLogger("runs/second")])
    """

    def __init__(self, log_dir: str | os.PathLike[str]) -> None:
        self.log_dir = Path(check_path("log_dir", log_dir))
        LoopWriter(self.log_dir).close()  # raises now if the directory cannot be written, not only in `fit`
        self._writer: LoopWriter | None = None
        self._open = False

    def open(self, resumed_from: int | None) -> None:
        """See `Logger`. TensorBoard drops the points of the directory after that step."""
        self._writer = LoopWriter(self.log_dir, resumed_from)
        self._open = True

    def hparams(self, values: Mapping[str, HParam], metrics: Sequence[str], first: Sequence[str]) -> None:
        """See `Logger`: the run becomes a row of the HParams tab, and gets its page of charts."""
        self._write(0, lambda writer: writer.hparams(values, metrics, first))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See `Logger`."""
        self._write(step, lambda writer: writer.scalars(step, {**values, **interval(values)}))

    def text(self, step: int, tag: str, markdown: str) -> None:
        """See `Logger`. The text is on disk when this method returns."""
        self._write(step, lambda writer: writer.text(step, tag, markdown))

    def animation(self, step: int, tag: str, gif: bytes) -> None:
        """See `Logger`. The tab "Images" shows it."""
        self._write(step, lambda writer: writer.animation(step, tag, gif))

    def close(self, status: str) -> None:
        """See `Logger`."""
        writer, self._writer, self._open = self._writer, None, False
        if writer is not None:
            writer.close(status)

    def _write(self, step: int, write: Callable[[LoopWriter], None]) -> None:
        """Writes to the event file, or to a new one if the last one may end within a record because writing failed."""
        if not self._open:
            return
        if self._writer is None:
            try:
                self._writer = LoopWriter(self.log_dir, max(step - 1, 0))
            except ConfigurationError as error:
                raise OSError(str(error)) from error
        try:
            write(self._writer)
        except OSError:
            writer, self._writer = self._writer, None
            writer.abandon()
            raise


class LoopWriter:
    """Writes scalars, texts and hyperparameters over environment steps.

    The event file is created at once, so that a directory that cannot be written raises at once. If nothing is written,
    the file is removed again.

    Args:
        log_dir: Directory of the event files, created if it does not exist.
        purge_from: The step at which the run continues: TensorBoard drops all points of `log_dir` after it. (Its
            default loader drops the points of a tag when this tag is written again.) None: a new run, so TensorBoard
            drops all points.

    Raises:
        ConfigurationError: The directory cannot be written.
    """

    def __init__(self, log_dir: str | os.PathLike[str], purge_from: int | None = None) -> None:
        self._directory = Path(log_dir)
        self._resumed = purge_from is not None
        self._first_step = 0 if purge_from is None else purge_from + 1
        self._begun = False
        try:
            make_folder(self._directory)
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
        weakref.finalize(self, self._file.close)  # in case `close` is never called
        self._records = RecordWriter(self._file)
        self._flushed = time.monotonic()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes scalars. NaN means that there is nothing to show yet, and is left out."""
        summary = Summary()
        for tag, value in values.items():
            if not math.isnan(value):
                summary.value.add(tag=tag, simple_value=value)
        self._add(Event(wall_time=time.time(), step=step, summary=summary))
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self._flush()

    def text(self, step: int, tag: str, markdown: str) -> None:
        """Writes a text to disk. Of several texts with the same tag and step, TensorBoard shows only the last."""
        self._add(Event(wall_time=time.time(), step=step, summary=text_pb(tag, markdown)))
        self._flush()

    def animation(self, step: int, tag: str, gif: bytes) -> None:
        """Writes a GIF to disk."""
        width, height = struct.unpack_from("<HH", gif, 6)
        summary = Summary()
        image = Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=gif)
        summary.value.add(tag=tag, image=image)
        self._add(Event(wall_time=time.time(), step=step, summary=summary))
        self._flush()

    def hparams(
        self, values: Mapping[str, HParam], metrics: Sequence[str], first: Sequence[str] = ("learning_rate",)
    ) -> None:
        """Makes the run a row of the HParams tab, and gives it a page of charts. A resumed run keeps what it has.

        Every run declares the columns, because TensorBoard takes them from any run that it finds. So there is one
        table, whether TensorBoard is started on one run or on a directory of several. Runs that are to be compared
        should have hyperparameters of the same names.

        Args:
            values: The hyperparameters with which the run starts, by name.
            metrics: Scalar tags whose latest values are shown next to the hyperparameters.
            first: Names of the leftmost columns. Five columns are shown, others only when ticked.

        Raises:
            ConfigurationError: A value is neither a number, a bool nor a string.
        """
        started = SessionStartInfo(start_time_secs=time.time())  # without a group name every run is a row
        columns = []
        for name, value in values.items():
            field, kind, shown = _hparam(name, value)
            setattr(started.hparams[name], field, shown)
            # TensorBoard puts columns that differ between runs first. A single run can only guess which these are.
            columns.append(api_pb2.HParamInfo(name=name, type=kind, differs=name in first))
        tags = [api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag)) for tag in metrics]
        experiment = api_pb2.Experiment(hparam_infos=columns, metric_infos=tags, time_created_secs=time.time())
        self._begin()
        path = self._directory / _START_NAME
        if not path.exists():
            config = _hparams_event(metadata.EXPERIMENT_TAG, HParamsPluginData(experiment=experiment))
            session = HParamsPluginData(session_start_info=started)
            page = Event(wall_time=time.time(), step=-1, summary=layout(values, metrics, first))
            _write_file(path, [config, _hparams_event(metadata.SESSION_START_INFO_TAG, session), page])

    def close(self, status: str = "success") -> None:
        """Writes out what is left, and notes how the run ended.

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

    def abandon(self) -> None:
        """Closes the file as it is."""
        with contextlib.suppress(OSError):
            self._file.close()

    def _begin(self) -> None:
        """Writes the beginning of the event file, and removes files that an earlier run left."""
        if self._begun:
            return
        self._begun = True
        stale = list(self._directory.glob(f"{_PREFIX}*{_END_SUFFIX}"))
        if not self._resumed:
            stale.append(self._directory / _START_NAME)
        for path in stale:
            path.unlink(missing_ok=True)
        remove_left_over(self._directory)
        self._records.write(_header().SerializeToString())
        # TensorBoard ignores the first START of a directory. If a new run had none, resuming it would purge nothing.
        start = SessionLog(status=SessionLog.START)
        self._records.write(Event(wall_time=time.time(), step=self._first_step, session_log=start).SerializeToString())

    def _add(self, event: Event) -> None:
        self._begin()
        self._records.write(event.SerializeToString())

    def _flush(self) -> None:
        self._file.flush()
        self._flushed = time.monotonic()


def _file_name() -> str:
    """Returns a new file name. Names sort by time, the order in which TensorBoard reads files."""
    seconds, rest = divmod(time.time_ns(), 10**9)
    return f"{_PREFIX}{seconds:010d}.{rest:09d}.{socket.gethostname()}.{os.getpid()}"


def _header() -> Event:
    source = SourceMetadata(writer="keras_optix")
    return Event(wall_time=time.time(), file_version="brain.Event:2", source_metadata=source)


def _write_file(path: Path, events: Sequence[Event]) -> None:
    """Writes a file of events whole, or not at all: a part of it would count as the file."""

    def write(file: Any) -> None:
        records = RecordWriter(file)
        for event in (_header(), *events):
            records.write(event.SerializeToString())

    write_atomically(path, write)


def _hparams_event(tag: str, data: HParamsPluginData) -> Event:
    summary = Summary()
    summary.value.add(tag=tag, metadata=metadata.create_summary_metadata(data), tensor=metadata.NULL_TENSOR)
    # A step before 0, so that no START purges it.
    return Event(wall_time=time.time(), step=-1, summary=summary)


def _hparam(name: str, value: object) -> tuple[str, int, HParam]:
    """Returns how a value is stored: its field, its type, and the value to show."""
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
