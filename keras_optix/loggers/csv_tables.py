"""Tables in CSV files that survive kills and full disks, and get further columns while they grow."""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from keras_optix.errors import ConfigurationError, describe
from keras_optix.store.files import write_atomically

STEP = "env_steps"


class Table:
    """A CSV file with a header, whose rows are on disk when `append` returns.

    A row with further columns makes the file be written again, atomically, with a longer header. A column stays where
    it is, and rows from before it was known have empty cells. This is rare: almost all columns appear early.

    Args:
        path: The file. Nothing happens to it before the first row.
        columns: The first columns, which every file has.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self._path, self._first = path, tuple(columns)
        self._columns = list(columns)
        self._file: BinaryIO | None = None
        self._end: int | None = None  # where the last whole row ends; None before there is a file of this run

    def resume(self, step: int) -> None:
        """Continues a file: drops the rows of later steps, and a row that was cut off.

        Args:
            step: The last step whose rows are kept.

        Raises:
            ConfigurationError: The file is not such a table.
            OSError: The file cannot be read or written.
        """
        if not self._path.exists():
            return
        rows = self._rows()
        self._columns = next(rows, list(self._first))
        if self._columns[: len(self._first)] != list(self._first):
            problem, fix = "A run cannot be continued in this file, which has other columns.", "Give another directory."
            raise ConfigurationError(describe(problem, fix=fix, path=str(self._path), columns=self._columns))
        at = self._columns.index(STEP)
        self._write_again(row for row in rows if row[at].isdecimal() and int(row[at]) <= step)

    def append(self, row: Mapping[str, object]) -> None:
        """Writes a row.

        Args:
            row: Values by column. None and NaN are empty cells, and so are columns that are left out.

        Raises:
            OSError: The row cannot be written. The next row is written after the last whole one.
        """
        if self._end is None:
            self._write_again(())
        further = [name for name in row if name not in self._columns]
        if further:
            self._columns += further
            try:
                self.close()
                self._open().close()
                self._write_again(itertools.islice(self._rows(), 1, None))
            except OSError:
                del self._columns[-len(further) :]
                raise
        try:
            self._write(_line([_cell(row.get(name)) for name in self._columns]))
        except OSError:
            self.close()
            raise

    def remove(self) -> None:
        """Removes the file of an earlier run, if there is one."""
        self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Closes the file. Another `append` opens it again."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _write(self, line: bytes) -> None:
        if self._file is None:
            self._file = self._open()
        if self._file.write(line) != len(line):
            raise OSError(f"only a part of a row was written to {self._path}")
        self._end = self._file.tell()

    def _open(self) -> BinaryIO:
        """Opens the file behind the last whole row, and removes a part of a row."""
        file = self._path.open("r+b", buffering=0)
        file.seek(self._end or 0)
        file.truncate()
        return file

    def _write_again(self, rows: Iterable[list[str]]) -> None:
        """Writes the file with a header and these rows in the place of the old one."""
        self.close()
        width = len(self._columns)
        end = 0

        def write(file: BinaryIO) -> None:
            nonlocal end
            file.write(_line(self._columns))
            for row in rows:
                file.write(_line(row + [""] * (width - len(row))))
            end = file.tell()

        write_atomically(self._path, write)
        self._end = end

    def _rows(self) -> Iterator[list[str]]:
        """Yields the header and the whole rows."""
        # A row that was cut off has no end of line, or an open quote, or too few cells.
        with self._path.open(encoding="utf-8", errors="replace", newline="") as lines:
            yield from _whole(csv.reader(_ended(lines), strict=True))


def _ended(lines: Iterable[str]) -> Iterator[str]:
    """Yields the lines that have an end."""
    return (line for line in lines if line.endswith("\n"))


def _whole(rows: Iterator[list[str]]) -> Iterator[list[str]]:
    """Yields the rows until one is cut off."""
    width = 0
    try:
        for row in rows:
            if len(row) < width:
                return
            width = width or len(row)
            yield row
    except csv.Error:  # an open quote at the end
        return


def _line(cells: Sequence[object]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode()


def _cell(value: object) -> object:
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else value
