"""A run as a table: a row for each evaluation of an agent, or for each epoch of an ordinary model."""

from __future__ import annotations

import html
import importlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from keras_optix.errors import ConfigurationError, StateError, describe
from keras_optix.formatting import format_number
from keras_optix.loop.scheduler_state import LoopState

MOST_ROWS = 20_000
_SHOWN = 5  # rows from either end
_INTEGERS = ("window", "env_steps", "n")
_STATE = "state"
COLUMNS = ("window", "env_steps", "seconds", _STATE, "score", "stderr", "n", "best")
_STATES = [state.name for state in LoopState]


class LoopHistory(Mapping[str, np.ndarray]):
    """The table of a run: a mapping of column names to arrays of equal length, oldest row first.

    A row is an evaluation of an agent (whether or not it found an improvement), or an epoch of an ordinary model. The
    columns are:

    - `window`: Number of the last window (epoch) of the evaluation, from 0.
    - `env_steps`: Environment steps (batches) of training until then.
    - `seconds`: Seconds since the run began, without the time between a crash and resuming.
    - `state`: State of the loop after the evaluation: ``"ACTIVE"``, ``"COOLING"``, ``"DORMANT"`` or ``"WATCHDOG"``.
    - `score`, `stderr`, `n`: The score, its standard error (NaN if unknown) and the number of episodes (windows) behind
      it. For a monitored loss, the score is the loss itself. An epoch without a score has NaN, NaN and 0.
    - `best`: Score of the best weights after the evaluation, NaN before there are any. An agent's best is confirmed by
      further evaluations, so it need not be one of the scores.
    - A column for each hyperparameter, such as `learning_rate`: the value when the score was measured.
    - A column for each log of `fit`, such as `episode_return` or `val_loss`: the value of that window (epoch).

    Whenever the table exceeds 20,000 rows, every second row of its older half is dropped.
    """

    def __init__(self) -> None:
        self._columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return len(self._columns["window"])

    def __getitem__(self, name: str) -> np.ndarray:
        try:
            values = self._columns[name]
        except KeyError:
            problem = f"The history has no column of this name. Columns are: {', '.join(self._columns)}."
            raise KeyError(describe(problem, column=name)) from None
        return _array(name, values)

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    def __eq__(self, other: object) -> bool:
        """Returns whether all columns are equal; NaN equals NaN."""
        if not isinstance(other, LoopHistory):
            return NotImplemented
        return list(self) == list(other) and all(
            np.array_equal(mine, other[name], equal_nan=mine.dtype.kind == "f") for name, mine in self.items()
        )

    __hash__ = None  # type: ignore[assignment]

    def to_pandas(self) -> Any:
        """Returns the table as a `pandas.DataFrame`.

        Raises:
            ConfigurationError: pandas is not installed.
        """
        try:
            pandas = importlib.import_module("pandas")
        except ImportError as error:
            problem = "`to_pandas` needs pandas, which is not installed."
            fix = "Install it with `pip install pandas`, or use the columns as arrays: `history['score']`."
            raise ConfigurationError(describe(problem, fix=fix)) from error
        return pandas.DataFrame(dict(self))

    # The loop's side

    def append(self, row: Mapping[str, Any], hyperparams: Mapping[str, float], logs: Mapping[str, Any]) -> None:
        """Adds a row.

        Args:
            row: Values of `COLUMNS`; the state as a `LoopState`.
            hyperparams: Current values, by name.
            logs: Logs of the window (epoch), by name; logs that are not numbers are left out.
        """
        values = {name: row[name].name if name == _STATE else row[name] for name in COLUMNS}
        values |= {_named(name): value for name, value in hyperparams.items()}
        for name, value in logs.items():
            if isinstance(value, int | float | np.number) and _named(name) not in values:
                values[_named(name)] = float(value)
        before = self.num_rows
        for name, value in values.items():
            self._columns.setdefault(name, [math.nan] * before).append(value)
        for column in self._columns.values():
            if len(column) == before:
                column.append(math.nan)  # a log of earlier rows that is missing now
        if self.num_rows > MOST_ROWS:
            half = MOST_ROWS // 2
            self._columns = {name: column[:half:2] + column[half:] for name, column in self._columns.items()}

    def save(self) -> tuple[dict[str, np.ndarray], list[str]]:
        """Returns the table for a resumed run: arrays by name, and the names of the columns in their order."""
        arrays = {f"{k}": _array(name, column) for k, (name, column) in enumerate(self._columns.items())}
        names = list(self._columns)
        states = [_STATES.index(state) for state in self._columns[_STATE]]
        arrays[f"{names.index(_STATE)}"] = np.array(states, np.int8)
        return arrays, names

    def restore(self, arrays: Mapping[str, np.ndarray], names: Sequence[str]) -> None:
        """Restores a table that `save` returned.

        Raises:
            StateError: The values are not a table.
        """
        try:
            columns = {name: arrays[f"{k}"].tolist() for k, name in enumerate(names)}
            columns[_STATE] = [_STATES[index] for index in columns[_STATE]]
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise StateError(describe("This is not the table of a run.", names=names)) from error
        if not set(COLUMNS) <= set(columns) or len({len(column) for column in columns.values()}) != 1:
            raise StateError(describe("The table of the run lacks columns or values.", names=names))
        self._columns = columns

    # The table as text

    def __repr__(self) -> str:
        cells = self._cells()
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ["  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)) for row in cells]
        return "\n".join([self._title(), *lines])

    def _repr_html_(self) -> str:
        """Returns the table as HTML for a notebook."""
        head, *rows = self._cells()
        titles = "".join(f"<th>{html.escape(text)}</th>" for text in head)
        body = "".join("<tr>" + "".join(f"<td>{html.escape(text)}</td>" for text in row) + "</tr>" for row in rows)
        return f"<p>{html.escape(self._title())}</p><table><tr>{titles}</tr>{body}</table>"

    def _title(self) -> str:
        rows = "1 row" if self.num_rows == 1 else f"{self.num_rows:,} rows"
        return f"LoopHistory: {rows}, {len(self)} columns"

    def _cells(self) -> list[list[str]]:
        """Returns the names of the columns, and the first and last rows, as text."""
        rows = list(range(self.num_rows))
        gap: list[list[str]] = []
        if len(rows) > 2 * _SHOWN + 1:
            first, last = rows[:_SHOWN], rows[-_SHOWN:]
            gap = [["..."] * len(self)]
        else:
            first, last = rows, []
        return [list(self), *map(self._row, first), *gap, *map(self._row, last)]

    def _row(self, row: int) -> list[str]:
        return [_cell(name, column[row]) for name, column in self._columns.items()]


def spread(logged: dict[str, list[Any]], table: LoopHistory) -> None:
    """Gives the `History` that `fit` returns a value for each evaluation, if `fit` was one endless epoch.

    Args:
        logged: The values of the epoch by name, as `keras.callbacks.History` has them; changed in place. A log that
            only an epoch has, such as a log of validation, is NaN before the last evaluation.
        table: The table of the run, including the part before it was resumed.
    """
    rows = table.num_rows
    if rows == 0:
        return
    for name, values in logged.items():
        known = table.get(_named(name))
        logged[name] = [math.nan] * (rows - 1) + values[-1:] if known is None else known.tolist()
    for name in COLUMNS:
        column = table[name].tolist()
        logged[f"loop/{name}"] = [_STATES.index(state) for state in column] if name == _STATE else column


def _named(name: str) -> str:
    """Returns the column name of a hyperparameter or a log, with a prefix if it equals the name of a fixed column."""
    return f"log/{name}" if name in COLUMNS else name


def _array(name: str, values: list[Any]) -> np.ndarray:
    if name in _INTEGERS:
        return np.array(values, np.int64)
    return np.array(values, np.str_ if name == _STATE else np.float64)


def _cell(name: str, value: Any) -> str:
    show: Callable[[Any], str] = str if name == _STATE else format_number
    return f"{value:,}" if name in _INTEGERS else show(value)
