"""CSV files of a run: what is in them, kills and resuming, columns that appear later, disks that cannot be written."""

from __future__ import annotations

import copy
import csv
import errno
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import keras_optix as optix
from keras_optix.loggers import CSVLogger
from keras_optix.loggers.csv_tables import Table
from keras_optix.loop.record import EventKind, LoopRecord
from keras_optix.loop.scheduler_state import LoopState
from keras_optix.statistics.estimates import Evidence
from keras_optix.testing import CountingEnv


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, strict=True))


def event(step: int, message: str) -> LoopRecord:
    return LoopRecord(EventKind.NOTICE, step // 8, step, LoopState.ACTIVE, message, Evidence(1.0, 0.5, 8, "because"))


def fit(agent: optix.PPOAgent, windows: int, logger: CSVLogger, **options: Any) -> optix.OptixCallback:
    dataset = optix.dataset_from_env(CountingEnv, agent, window_size=4, num_envs=2, seed=0)
    callback = optix.OptixCallback(
        optix.ReturnEvaluator(2), max_windows=windows, verbose=0, loggers=[logger], resume_interval=0, **options
    )
    agent.fit(dataset, callbacks=[callback], verbose=0)
    return callback


def test_a_run_as_four_tables(small_ppo: Callable[..., optix.PPOAgent], tmp_path: Path) -> None:
    callback = fit(small_ppo(), 20, CSVLogger(tmp_path / "csv"), checkpoint_dir=tmp_path / "checkpoints")
    rows = read(tmp_path / "csv/scalars.csv")
    assert [int(row["env_steps"]) for row in rows] == [8 * (k + 1) for k in range(20)]
    scored = [row for row in rows if row["loop/score"]]
    assert [float(row["loop/score"]) for row in scored] == callback.history["score"].tolist()
    events = read(tmp_path / "csv/events.csv")
    assert [row["message"] for row in events] == [record.message for record in callback.events]
    assert [row["because"] for row in events] == [record.because for record in callback.events]
    best = callback.best_snapshot
    assert best is not None
    last = read(tmp_path / "csv/snapshots.csv")[-1]
    assert int(last["snapshot"]) == best.snapshot_id
    assert Path(last["path"]).exists()
    assert float(last["hyperparams/learning_rate"]) == pytest.approx(1e-3)
    values = {row["name"]: row["value"] for row in read(tmp_path / "csv/hyperparams.csv")}
    assert values["model"] == "PPOAgent"
    assert float(values["learning_rate"]) == pytest.approx(1e-3)


def test_pandas_reads_it_directly(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    logger = CSVLogger(tmp_path)
    logger.open(None)
    logger.scalars(8, {"loop/state": 0.0, "train/loss": math.nan})
    logger.scalars(16, {"loop/state": 1.0, "train/loss": math.inf, "loop/score": 2.5})
    logger.close("success")
    table = pandas.read_csv(tmp_path / "scalars.csv")
    assert list(table) == ["env_steps", "loop/state", "train/loss", "loop/score"]
    assert table["env_steps"].tolist() == [8, 16]
    assert math.isnan(table["train/loss"][0])
    assert table["train/loss"][1] == math.inf
    assert math.isnan(table["loop/score"][0])


def test_columns_that_appear_later_are_at_the_right_and_empty_before(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    logger.open(None)
    for step in range(1, 6):
        names = ["a", "b, with a comma", 'c with a "quote"', "d", "e"][:step]
        logger.scalars(step, {name: float(step) for name in names})
    logger.scalars(6, {"a": 6.0})  # and columns may be missing later
    logger.close("success")
    rows = read(tmp_path / "scalars.csv")
    assert list(rows[0]) == ["env_steps", "a", "b, with a comma", 'c with a "quote"', "d", "e"]
    for step, row in enumerate(rows[:5], 1):
        assert list(row.values()) == [str(step), *[f"{step}.0"] * step, *[""] * (5 - step)]
    assert list(rows[5].values()) == ["6", "6.0", "", "", "", ""]
    assert {path.name for path in tmp_path.iterdir()} == {"scalars.csv"}


def test_commas_quotes_and_newlines_in_events(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    logger.open(None)
    messages = ["a, b", 'said "no"', "two\nlines", "two\r\nlines", "", "9 ± 1", "\n", '"']
    for step, message in enumerate(messages):
        logger.event(event(step, message))
    logger.close("success")
    assert [row["message"] for row in read(tmp_path / "events.csv")] == messages
    logger.open(4)
    logger.close("success")
    assert [row["message"] for row in read(tmp_path / "events.csv")] == messages[:5]


def test_wherever_a_kill_cut_the_file_off_whole_rows_are_kept(tmp_path: Path) -> None:
    """The oracle counts the rows that were complete at each length of the file."""
    logger = CSVLogger(tmp_path)
    logger.open(None)
    path = tmp_path / "events.csv"
    complete = {}
    for step, message in enumerate(["a, b", "two\nlines", '"', "\n\n"]):
        logger.event(event(step, message))
        complete[path.stat().st_size] = step + 1
    logger.close("success")
    whole = path.read_bytes()
    first = min(complete)
    for size in range(first, len(whole) + 1):
        path.write_bytes(whole[:size])
        logger.open(100)
        logger.event(event(50, "goes on"))
        logger.close("success")
        expected = [*range(max(n for end, n in complete.items() if end <= size)), 50]
        assert [int(row["env_steps"]) for row in read(path)] == expected, size


WRITES = """
import itertools, sys
from keras_optix.loggers.csv_logger import CSVLogger
logger = CSVLogger(sys.argv[1])
logger.open(None)
for step in itertools.count(1):
    logger.scalars(step, {f"tag {k}": float(step) for k in range(1 + step // 50)})
    print(step, flush=True)
"""


def test_a_process_that_is_killed_loses_no_row(tmp_path: Path) -> None:
    """What it said it had written is there, whole, and the run continues behind it."""
    process = subprocess.Popen([sys.executable, "-c", WRITES, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = [int(next(process.stdout)) for _ in range(300)]
    process.kill()
    said += [int(line) for line in process.stdout if line.endswith("\n")]
    process.wait(30)
    process.stdout.close()
    logger = CSVLogger(tmp_path)
    logger.open(said[-1])
    logger.scalars(said[-1] + 1, {"tag 0": -1.0})
    logger.close("success")
    rows = read(tmp_path / "scalars.csv")
    assert [int(row["env_steps"]) for row in rows] == list(range(1, said[-1] + 2))
    assert all(row["tag 0"] == f"{float(row['env_steps'])}" for row in rows[:-1])
    assert rows[100]["tag 2"] == "101.0"
    assert rows[98]["tag 2"] == ""


def test_a_resumed_run_continues_without_the_rows_after_its_resume_point(
    small_ppo: Callable[..., optix.PPOAgent], tmp_path: Path
) -> None:
    """The run is cut off; its rows are then those of a run that was not, but for times and the event that says so."""

    class Interrupt(optix.LoopCallback):
        def on_window_end(self, window_id: int, eval_metrics: Any) -> None:
            if window_id == 9:
                raise RuntimeError("cut off")

    logger = CSVLogger(tmp_path / "csv")
    options: dict[str, Any] = {"checkpoint_dir": tmp_path / "checkpoints"}
    with pytest.raises(RuntimeError, match="cut off"):
        fit(small_ppo(), 16, logger, callbacks=[Interrupt()], **options)
    before = read(tmp_path / "csv/scalars.csv")
    fit(small_ppo(), 16, CSVLogger(tmp_path / "csv"), resume=True, **options)
    steps = [int(row["env_steps"]) for row in read(tmp_path / "csv/scalars.csv")]
    assert steps == [8 * (k + 1) for k in range(16)]
    assert [int(row["env_steps"]) for row in before] == steps[: len(before)]
    kinds = [row["kind"] for row in read(tmp_path / "csv/events.csv")]
    assert kinds.count("resumed") == 1
    assert [int(row["env_steps"]) for row in read(tmp_path / "csv/events.csv")] == sorted(
        int(row["env_steps"]) for row in read(tmp_path / "csv/events.csv")
    )


def test_later_rows_are_dropped_and_earlier_ones_stay(tmp_path: Path) -> None:
    for resumed_from, kept in ((None, []), (0, []), (25, [10, 20]), (30, [10, 20, 30]), (99, [10, 20, 30, 40])):
        logger = CSVLogger(tmp_path)
        logger.open(None)
        for step in (10, 20, 30, 40):
            logger.scalars(step, {"a": 1.0})
            logger.event(event(step, "happened"))
        logger.close("failure")
        logger = CSVLogger(tmp_path)
        logger.open(resumed_from)
        logger.scalars(77, {"a": 2.0, "b": 3.0})
        logger.close("success")
        assert [int(row["env_steps"]) for row in read(tmp_path / "scalars.csv")] == [*kept, 77]
        if resumed_from is not None:
            assert [int(row["env_steps"]) for row in read(tmp_path / "events.csv")] == kept
        else:
            assert not (tmp_path / "events.csv").exists()  # those of the earlier run


def test_a_new_run_that_shows_nothing_leaves_the_earlier_one(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    logger.open(None)
    logger.scalars(1, {"a": 1.0})
    logger.close("success")
    logger.open(None)
    logger.close("failure")
    assert len(read(tmp_path / "scalars.csv")) == 1


def test_a_directory_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(optix.ConfigurationError, match=r"log directory cannot be written.*Received: log_dir="):
        CSVLogger(tmp_path / "file" / "below")
    with pytest.raises(optix.ConfigurationError, match="log_dir"):
        CSVLogger(3)  # type: ignore[arg-type]


def test_another_file_of_that_name_is_refused_when_a_run_is_to_be_continued_in_it(tmp_path: Path) -> None:
    (tmp_path / "scalars.csv").write_text("epoch,loss\n1,2\n")
    with pytest.raises(optix.ConfigurationError, match=r"other columns.*Received: path="):
        CSVLogger(tmp_path).open(8)
    assert (tmp_path / "scalars.csv").read_text() == "epoch,loss\n1,2\n"


class Full:
    """A file on a disk that is full: half of what is written arrives."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, data: bytes) -> int:
        self._file.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def test_a_full_disk_leaves_no_half_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "scalars.csv"
    table = Table(path, ("env_steps",))
    table.append({"env_steps": 1, "a": 1.0})
    table._file = Full(table._file)  # type: ignore[assignment]
    with pytest.raises(OSError, match="No space"):
        table.append({"env_steps": 2, "a": 2.0})
    table.append({"env_steps": 3, "a": 3.0})
    assert [row["a"] for row in read(path)] == ["1.0", "3.0"]
    # A column cannot be added while the disk is full, and can later.
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space")))
        with pytest.raises(OSError, match="No space"):
            table.append({"env_steps": 4, "b": 4.0})
    table.append({"env_steps": 5, "a": 5.0})
    table.append({"env_steps": 6, "b": 6.0})
    table.close()
    assert [tuple(row.values()) for row in read(path)] == [
        ("1", "1.0", ""),
        ("3", "3.0", ""),
        ("5", "5.0", ""),
        ("6", "", "6.0"),
    ]
    assert {found.name for found in tmp_path.iterdir()} == {"scalars.csv"}


def test_a_disk_that_cannot_be_written_ends_no_run(
    small_ppo: Callable[..., optix.PPOAgent], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Table, row: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Table, "append", refuse)
    callback = fit(small_ppo(), 6, CSVLogger(tmp_path))
    notices = [record.message for record in callback.events if record.kind is EventKind.NOTICE]
    assert any("CSVLogger could not be written ([Errno 30] Read-only file system)" in notice for notice in notices)
    assert callback.env_steps == 48


def test_a_logger_can_be_copied_with_its_callback(tmp_path: Path) -> None:
    logger = copy.deepcopy(CSVLogger(tmp_path))
    logger.open(None)
    logger.scalars(1, {"a": 1.0})
    logger.close("success")
    assert repr(logger) == f"CSVLogger(log_dir={str(tmp_path)!r})"
