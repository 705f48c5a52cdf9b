"""`CSVLogger` shows a run as tables in CSV files, which pandas and spreadsheets read directly."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from keras_optix.errors import ConfigurationError, DirectoryError, describe
from keras_optix.loggers.base import HParam, Logger
from keras_optix.loggers.csv_tables import STEP, Table
from keras_optix.loop.record import LoopRecord
from keras_optix.store.directory import check_writable
from keras_optix.store.manifest import PolicySnapshot
from keras_optix.store.processes import remove_left_over
from keras_optix.validation import check_path

_EVENTS = (STEP, "window", "state", "kind", "message", "because", "cost")
_SNAPSHOTS = (STEP, "window", "snapshot", "score", "stderr", "episodes", "regime", "path")


class CSVLogger(Logger):
    """Shows runs as tables in CSV files (UTF-8, with commas). It needs no further package.

    - ``scalars.csv``: a row after each window (epoch), with ``env_steps`` and a column for each tag. A tag that appears
      later becomes a further column at the right.
    - ``events.csv``: what the loop did, and why.
    - ``snapshots.csv``: each new best, with its score, the file of its arrays and its hyperparameters.
    - ``hyperparams.csv``: the hyperparameters with which the run began.

    A cell is empty where there is nothing to show. Each row is on disk at once, so that a process that is killed loses
    none. A run that is resumed continues the files, without the rows after its resume point; a new run replaces them.

    Args:
        log_dir: Directory of the files, created if it does not exist.

    Raises:
        ConfigurationError: The directory cannot be written.

    Examples:
        >>> callback = optix.OptixCallback(loggers=[optix.loggers.CSVLogger("runs/first")])
    """

    def __init__(self, log_dir: str | os.PathLike[str]) -> None:
        self.log_dir = Path(check_path("log_dir", log_dir))
        try:
            check_writable(self.log_dir)
        except DirectoryError as error:
            raise ConfigurationError(
                describe(
                    f"The log directory cannot be written: {error.__cause__}.",
                    fix="Give a directory that you may write to.",
                    log_dir=os.fspath(log_dir),
                )
            ) from error
        self._resumed, self._begun = False, False
        self._make_tables()

    def _make_tables(self) -> None:
        self._scalars = Table(self.log_dir / "scalars.csv", (STEP,))
        self._events = Table(self.log_dir / "events.csv", _EVENTS)
        self._snapshots = Table(self.log_dir / "snapshots.csv", _SNAPSHOTS)
        self._hyperparams = Table(self.log_dir / "hyperparams.csv", ("name", "value"))

    def open(self, resumed_from: int | None) -> None:
        """See `Logger`. The rows after that step are dropped."""
        self._make_tables()
        self._resumed = self._begun = resumed_from is not None
        remove_left_over(self.log_dir)
        if resumed_from is not None:
            for table in (self._scalars, self._events, self._snapshots):
                table.resume(resumed_from)

    def hparams(self, values: Mapping[str, HParam], metrics: Sequence[str], first: Sequence[str]) -> None:
        """See `Logger`. A resumed run keeps the values with which it began."""
        if not self._resumed:
            for name, value in values.items():
                self._write(self._hyperparams, {"name": name, "value": value})

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See `Logger`."""
        self._write(self._scalars, {STEP: step, **{tag: float(value) for tag, value in values.items()}})

    def event(self, record: LoopRecord) -> None:
        """See `Logger`."""
        values = (record.env_steps, record.window_id, record.state.name, record.kind, record.message, record.because)
        self._write(self._events, dict(zip(_EVENTS, (*values, record.cost), strict=True)))

    def snapshot(self, snapshot: PolicySnapshot, path: Path) -> None:
        """See `Logger`. The file stays where it is, and the row names it."""
        metrics = snapshot.eval_metrics
        values = (snapshot.env_steps, snapshot.window_id, snapshot.snapshot_id, snapshot.score, metrics.stderr)
        row: dict[str, object] = dict(
            zip(_SNAPSHOTS, (*values, metrics.episodes, snapshot.regime_index, str(path)), strict=True)
        )
        hyperparams = {f"hyperparams/{name}": value for name, value in snapshot.hyperparams.params.items()}
        self._write(self._snapshots, row | hyperparams)

    def close(self, status: str) -> None:
        """See `Logger`."""
        for table in self._tables:
            table.close()

    @property
    def _tables(self) -> tuple[Table, ...]:
        return self._scalars, self._events, self._snapshots, self._hyperparams

    def _write(self, table: Table, row: Mapping[str, object]) -> None:
        """Writes a row. The first row of a run removes the files of an earlier one."""
        if not self._begun:
            for old in self._tables:
                old.remove()
            self._begun = True
        table.append(row)
