"""Files of parts of a run that grow: what a point needs is there, and what none needs is removed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keras_optix.store.increments import Increments, Span


class Numbers:
    """A part that holds its newest numbers; a file has those that were added since the one before."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.values: list[int] = []
        self.firsts: list[int] = []  # of each file, the number of its first value
        self.written = 0

    def add(self, count: int) -> None:
        self.values += range(len(self.values), len(self.values) + count)

    def save(self) -> tuple[dict[str, np.ndarray], Any]:
        return {}, {}

    def check(self, arrays: Mapping[str, np.ndarray], values: Any) -> None:
        pass

    def new_files(self) -> dict[int, dict[str, np.ndarray]]:
        new = self.values[self.written :]
        return {len(self.firsts): {"values": np.array(new)}} if new else {}

    def confirm(self) -> None:
        if self.values[self.written :]:
            self.firsts.append(self.written)
            self.written = len(self.values)

    @property
    def span(self) -> Span:
        oldest = len(self.values) - self.most
        ends = [*self.firsts[1:], self.written]
        first = next((k for k, end in enumerate(ends) if end > oldest), len(self.firsts))
        return Span(first, len(self.firsts))

    def restore(self, files: Iterator[Any], span: Span, arrays: Any, values: Any) -> None:
        self.values = [int(one) for file in files for one in file["values"]]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_files_hold_what_is_new_and_those_that_no_point_needs_are_removed(tmp_path: Path) -> None:
    part, files = Numbers(most=5), Increments(tmp_path)
    before: Mapping[str, Span] = {}
    for _ in range(5):
        part.add(2)
        spans = files.write({"numbers0": part})
        if before:
            files.remove_before(before)
        before = spans
    # The point before the last needs the newest five of eight numbers, the last point those of ten.
    assert names(tmp_path) == [
        "numbers0.000001.npz",
        "numbers0.000002.npz",
        "numbers0.000003.npz",
        "numbers0.000004.npz",
    ]
    assert spans == {"numbers0": Span(2, 5)}
    found = [file["values"].tolist() for file in files.read("numbers0", spans["numbers0"])]
    assert found == [[4, 5], [6, 7], [8, 9]]
    files.check(spans)
    files.clear()
    assert names(tmp_path) == []


def test_without_anything_new_no_file_is_written(tmp_path: Path) -> None:
    part, files = Numbers(most=5), Increments(tmp_path)
    part.add(1)
    assert files.write({"numbers0": part}) == files.write({"numbers0": part}) == {"numbers0": Span(0, 1)}
    assert names(tmp_path) == ["numbers0.000000.npz"]


def test_other_files_of_the_run_are_left_alone(tmp_path: Path) -> None:
    for name in ("000001.npz", "resume.npz", "resume.previous.npz", "schedule.json", "mine.000001.npz.txt"):
        (tmp_path / name).touch()
    there = names(tmp_path)
    Increments(tmp_path).clear()
    assert names(tmp_path) == there


@pytest.mark.parametrize("name", ["../numbers0", "/numbers0", "numbers0/..", "Numbers0", ""])
def test_a_forged_name_does_not_lead_out_of_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="no part of a run"):
        Increments(tmp_path).check({name: Span(0, 1)})


def test_a_missing_or_damaged_file_is_found(tmp_path: Path) -> None:
    part, files = Numbers(most=5), Increments(tmp_path)
    part.add(3)
    spans = files.write({"numbers0": part})
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    with pytest.raises(ValueError, match="damaged"):
        files.check(spans)
    path.unlink()
    with pytest.raises(OSError, match="No such file"):
        files.check(spans)
