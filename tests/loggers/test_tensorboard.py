"""What TensorBoard is told of the loop: scalars as declared, one timeline, a row per run, no orphans on resuming."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from drivers import through_json
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams.backend_context import Context
from tensorboard.plugins.hparams.list_session_groups import Handler

import keras_optix as optix
from keras_optix.loggers import tags
from keras_optix.loggers.loop_log import LoopLog
from keras_optix.loggers.tensorboard import LoopWriter, TensorBoardLogger
from keras_optix.loggers.timeline import timeline
from keras_optix.loop.record import EventKind, LoopRecord
from keras_optix.states import read_state
from keras_optix.statistics.estimates import Evidence
from keras_optix.testing import CountingEnv

ACTIVE, COOLING, DORMANT, WATCHDOG = optix.LoopState
ROOT = Path(__file__).parents[2]

# TensorBoard's own code calls what NumPy and protobuf deprecate.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def read(log_dir: Path) -> EventAccumulator:
    events = EventAccumulator(str(log_dir), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    return events


def points(log_dir: Path, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in read(log_dir).Scalars(tag)]


def texts(log_dir: Path, tag: str) -> list[str]:
    return [event.tensor_proto.string_val[0].decode() for event in read(log_dir).Tensors(tag)]


def hparams_tab(log_dir: Path) -> tuple[list[str], list[str], dict[str, tuple[dict[str, Any], str, dict[str, float]]]]:
    """What the HParams tab shows: columns, metrics, and per run its values, status and metrics."""
    multiplexer = EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(log_dir))
    multiplexer.Reload()
    context = Context(TBContext(data_provider=MultiplexerDataProvider(multiplexer, str(log_dir))))
    ctx = RequestContext()
    experiment = context.experiment_from_metadata(ctx, "", True, context.hparams_metadata(ctx, ""), [])
    request = api_pb2.ListSessionGroupsRequest(
        slice_size=100,
        allowed_statuses=api_pb2.Status.values(),
        col_params=[api_pb2.ColParams(metric=metric.name) for metric in experiment.metric_infos],
    )
    rows = {}
    for group in Handler(ctx, context, "", request).run().session_groups:
        values = {name: getattr(value, value.WhichOneof("kind")) for name, value in group.hparams.items()}
        (session,) = group.sessions
        assert session.start_time_secs > 1e9
        metrics = {value.name.tag: value.value for value in group.metric_values}
        rows[group.name] = (values, api_pb2.Status.Name(session.status), metrics)
    columns = [info.name for info in experiment.hparam_infos]
    return columns, [info.name.tag for info in experiment.metric_infos], rows


def record(event: str, window: int, state: optix.LoopState, why: str | None = None, *, steps: int = 10) -> LoopRecord:
    evidence = None if why is None else Evidence(-1.5, 0.5, 8, why)
    kind = EventKind(event) if event in list(EventKind) else EventKind.NOTICE
    return LoopRecord(kind, window, (window + 1) * steps, state, event, evidence)


def windows(log: LoopLog, numbers: range, **values: float) -> None:
    for k in numbers:
        log.tick(10 * (k + 1), k)
        log.scalars(ACTIVE, 10 * (k + 1), {f"loop/{name}": value * k for name, value in values.items()}, {})


WRITES = """
import sys
{first}
from keras_optix.loggers.loop_log import LoopLog, LoopRecord
from keras_optix.loggers.tensorboard import TensorBoardLogger
from keras_optix.loggers.tags import HPARAM_METRICS
from keras_optix.loop.scheduler_state import LoopState
log = LoopLog([TensorBoardLogger(sys.argv[1])], 2)
log.hparams({{"learning_rate": 1e-3, "seed": 3}}, HPARAM_METRICS)
log.tick(8, 0)
log.note(LoopRecord("candidate", 0, 8, LoopState.ACTIVE, "candidate"))
log.scalars(LoopState.ACTIVE, 8, {{"loop/best": 1.5}}, {{"episode_return": 2.5}})
log.close()
print(sorted({{"tensorflow", "keras", "torch", "jax"}} & {{name for name, module in sys.modules.items() if module}}))
"""


@pytest.mark.parametrize("first", ["", 'sys.modules["tensorflow"] = None'])
def test_writing_needs_no_tensorflow_and_does_not_load_it(tmp_path: Path, first: str) -> None:
    command = [sys.executable, "-c", WRITES.format(first=first), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.splitlines()[-1] == "[]"
    assert points(tmp_path, "loop/best") == [(8, 1.5)]
    assert points(tmp_path, "rollout/episode_return") == [(8, 2.5)]
    assert hparams_tab(tmp_path)[2]["."][1] == "STATUS_SUCCESS"


def test_a_writer_that_writes_nothing_leaves_nothing(tmp_path: Path) -> None:
    LoopWriter(tmp_path / "runs" / "a").close()
    assert list((tmp_path / "runs" / "a").iterdir()) == []
    with pytest.raises(optix.ConfigurationError, match=r"status.*'success', 'failure'"):
        LoopWriter(tmp_path).close("done")


def test_scalars_are_on_disk_within_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("keras_optix.loggers.tensorboard.time.monotonic", lambda: now[0])
    writer = LoopWriter(tmp_path)
    writer.scalars(1, {"loop/best": 1.0})
    assert read(tmp_path).Tags()["scalars"] == []
    now[0] = 6.0
    writer.scalars(2, {"loop/best": 2.0, "loop/score": math.nan})
    assert points(tmp_path, "loop/best") == [(1, 1.0), (2, 2.0)]
    assert read(tmp_path).Tags()["scalars"] == ["loop/best"]
    writer.close()


# HParams


def test_runs_side_by_side_are_rows_of_one_table(tmp_path: Path) -> None:
    for k, (name, rate) in enumerate([("a", 1e-3), ("b", 3e-4)]):
        log = LoopLog([TensorBoardLogger(tmp_path / name)], 0)
        values = {"algorithm": "PPO", "clip_ratio": 0.2, "learning_rate": rate, "normalize": True, "seed": k}
        log.hparams(values, tags.HPARAM_METRICS)
        windows(log, range(3), best=1.0 + k, score=2.0)
        log.close("failure" if k else "success")
    columns, metrics, rows = hparams_tab(tmp_path)
    assert columns == ["learning_rate", "algorithm", "clip_ratio", "normalize", "seed"]
    assert metrics == list(tags.HPARAM_METRICS)
    shown = {"algorithm": "PPO", "clip_ratio": 0.2, "normalize": True}
    first = (shown | {"learning_rate": 1e-3, "seed": 0}, "STATUS_SUCCESS", {"loop/best": 2.0, "loop/score": 4.0})
    second = (shown | {"learning_rate": 3e-4, "seed": 1}, "STATUS_FAILURE", {"loop/best": 4.0, "loop/score": 4.0})
    assert rows == {"a": first, "b": second}
    # TensorBoard on one run alone shows the same columns.
    assert hparams_tab(tmp_path / "b") == (columns, metrics, {".": second})


def test_hparams_that_json_and_float32_would_spoil(tmp_path: Path) -> None:
    import numpy as np

    log = LoopLog([TensorBoardLogger(tmp_path)], 0)
    log.hparams({"learning_rate": float(np.float32(1e-3)), "steps": np.int64(5), "limit": math.inf}, [])
    log.close()
    assert hparams_tab(tmp_path)[2]["."][0] == {"learning_rate": 1e-3, "steps": 5, "limit": "inf"}
    log = LoopLog([TensorBoardLogger(tmp_path)], 0)
    with pytest.raises(optix.ConfigurationError, match=r"hyperparameter must be.*layers=\[1, 2\]"):
        log.hparams({"layers": [1, 2]}, [])  # type: ignore[dict-item]
    log.close()


# Resuming


def test_a_resumed_run_forgets_what_came_after(tmp_path: Path) -> None:
    log = LoopLog([TensorBoardLogger(tmp_path)], 0)
    log.hparams({"learning_rate": 1e-3}, ["loop/best"])
    windows(log, range(10), best=1.0, score=1.0)
    log.note(record("plateau", 9, COOLING))
    log.close("failure")
    kept = log.records
    assert hparams_tab(tmp_path)[2]["."][1] == "STATUS_FAILURE"

    log = LoopLog([TensorBoardLogger(tmp_path)], 0, purge_from=60)
    log.restore([])
    log.hparams({"learning_rate": 5e-4}, ["loop/best"])  # what the tuner made of it: no reason for another row
    windows(log, range(6, 8), best=-1.0)
    # Nothing is claimed of a run that goes on.
    assert hparams_tab(tmp_path)[2]["."][1] == "STATUS_UNKNOWN"
    log.close()
    assert points(tmp_path, "loop/best") == [*((10 * (k + 1), k) for k in range(6)), (70, -6), (80, -7)]
    assert points(tmp_path, "loop/score") == [(10 * (k + 1), k) for k in range(6)]
    # `EventAccumulator` keeps texts; what TensorBoard's Python loader uses does not.
    loader = EventMultiplexer({".": str(tmp_path)})
    loader.Reload()
    assert loader.Tensors(".", "loop/events") == []
    assert [event.step for event in loader.Tensors(".", "loop/timeline")] == [80]
    assert hparams_tab(tmp_path)[2]["."][:2] == ({"learning_rate": 1e-3}, "STATUS_SUCCESS")
    assert len(kept) == 1


def test_a_second_run_in_a_directory_replaces_the_first(tmp_path: Path) -> None:
    for rate, value in ((1e-3, 1.0), (3e-4, 2.0)):
        log = LoopLog([TensorBoardLogger(tmp_path)], 0)
        log.hparams({"learning_rate": rate}, ["loop/best"])
        windows(log, range(int(4 / value)), best=value)
        log.close()
    assert points(tmp_path, "loop/best") == [(10, 0.0), (20, 2.0)]
    assert hparams_tab(tmp_path)[2]["."] == ({"learning_rate": 3e-4}, "STATUS_SUCCESS", {"loop/best": 2.0})


def test_restored_records_go_on_in_the_timeline(tmp_path: Path) -> None:
    log = LoopLog([TensorBoardLogger(tmp_path)], 0, purge_from=100)
    log.restore([record("plateau", 4, COOLING)])
    log.note(record("resumed", 9, COOLING))
    assert [r.kind for r in log.records] == ["plateau", "resumed"]
    # The first event brings the timeline back, though the state is the same.
    (drawn,) = texts(tmp_path, "loop/timeline")
    assert "| COOLING | 5 | 5 | 50 (50%) |" in drawn
    windows(log, range(10, 12))
    log.close()
    assert "| COOLING | 5 | 7 | 70 (58%) |" in texts(tmp_path, "loop/timeline")[-1]


# Records


@pytest.mark.parametrize("evidence", [None, Evidence(math.inf, 0.5, 3, "a|b"), Evidence(-1.25, math.inf, 1, "")])
def test_records_survive_strict_json(evidence: Evidence | None) -> None:
    before = LoopRecord(EventKind.PLATEAU, 3, 48, COOLING, "plateau ACTIVE -> COOLING", evidence)
    assert read_state(LoopRecord, through_json(before), "record") == before


@pytest.mark.parametrize(("verbose", "printed"), [(0, ""), (1, ""), (2, "epoch 3, 40 steps, COOLING: plateau\n")])
def test_verbose_prints_every_record(capsys: pytest.CaptureFixture[str], verbose: int, printed: str) -> None:
    log = LoopLog((), verbose, unit="epoch", steps="steps")
    log.note(record("plateau", 3, COOLING))
    log.close()
    assert capsys.readouterr().out == printed
    assert str(log.records[0]) == "window 3, 40 env steps, COOLING: plateau"


def test_the_last_text_of_a_step_holds_all_events_of_it(tmp_path: Path) -> None:
    """TensorBoard's default loader shows no other."""
    log = LoopLog([TensorBoardLogger(tmp_path)], 0)
    for k in range(60):
        log.note(record(f"event {k}", k // 2, ACTIVE, "a|b"))
    log.close()
    written = texts(tmp_path, "loop/events")
    assert len(written) == 60
    rows = written[-1].splitlines()[2:]
    assert [row.split(" | ")[3].split(":")[0] for row in rows] == [f"event {k}" for k in range(59, 9, -1)]
    assert rows[0] == ("| 29 | 300 | ACTIVE | event 59: a\\|b<br>(difference -1.5, standard error 0.5, n 8) |")


def test_evidence_without_samples_is_only_a_reason() -> None:
    evidence = Evidence(0.0, 0.0, 0, "watching for a degradation")
    assert (
        LoopRecord(EventKind.WATCHDOG, 1, 20, WATCHDOG, "watchdog", evidence).why
        == "watchdog: watching for a degradation"
    )


# Timeline


def rows_of(markdown: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines()[4:]]


def test_the_timeline_has_a_row_per_state() -> None:
    records = [
        record("candidate", 0, ACTIVE, "first evaluation"),
        record("improvement", 0, ACTIVE, "first confirmed score"),
        record("plateau", 3, COOLING, "5 evaluations without improvement"),
        record("rejected", 5, COOLING, "not confirmed"),
        record("dormant", 7, DORMANT, "20 evaluations without improvement"),
        record("watchdog", 7, WATCHDOG),
        record("degradation", 8, ACTIVE, "below the level"),
    ]
    drawn = timeline(records, 9, 100, ended="end of the run")
    assert drawn.splitlines()[0] == "10 windows, 100 env steps, end of the run"
    because = "<br>(difference -1.5, standard error 0.5, n 8)"
    assert rows_of(drawn) == [
        ["ACTIVE", "0", "4", "40 (40%)", "████░░░░░░", f"plateau<br>5 evaluations without improvement{because}"],
        ["COOLING", "4", "4", "40 (40%)", "░░░░████░░", f"dormant<br>20 evaluations without improvement{because}"],
        ["DORMANT", "8", "0", "0 (0%)", "░░░░░░░░█░", "watchdog"],
        ["WATCHDOG", "8", "1", "10 (10%)", "░░░░░░░░█░", f"degradation<br>below the level{because}"],
        ["ACTIVE", "9", "1", "10 (10%)", "░░░░░░░░░█", "end of the run"],
    ]


@pytest.mark.parametrize(
    ("records", "last", "row"),
    [
        ([], (-1, 0), ["ACTIVE", "0", "0", "0 (0%)", "█░░░░░░░░░", "goes on"]),
        ([], (9, 1000), ["ACTIVE", "0", "10", "1,000 (100%)", "██████████", "goes on"]),
        ([record("dormant", 9, DORMANT)], (9, 100), ["DORMANT", "10", "0", "0 (0%)", "░░░░░░░░░█", "goes on"]),
    ],
)
def test_the_last_row_of_a_timeline(records: list[LoopRecord], last: tuple[int, int], row: list[str]) -> None:
    drawn = timeline(records, *last)
    assert rows_of(drawn)[-1] == row
    assert drawn.splitlines()[0].endswith(f"now {row[0]}")


def test_a_timeline_of_epochs_that_begins_late() -> None:
    drawn = timeline([record("plateau", 29, COOLING)], 31, 320, first_window=20, unit="epoch", steps="steps")
    assert drawn.splitlines()[0] == "12 epochs, 320 steps, now COOLING"
    assert "from epoch | epochs in it | steps in it" in drawn.splitlines()[2]
    assert [row[1:3] for row in rows_of(drawn)] == [["20", "10"], ["30", "2"]]


def test_a_timeline_does_not_grow_without_end() -> None:
    records = [record("plateau", k, COOLING if k % 2 == 0 else ACTIVE) for k in range(99)]
    rows = rows_of(timeline(records, 99, 1000))
    assert len(rows) == 51
    assert rows[0] == ["50 earlier", "0", "50", "500 (50%)", "█████░░░░░", ""]
    assert rows[1][:2] == ["ACTIVE", "50"]


def test_the_timeline_is_written_at_transitions_and_at_the_end(tmp_path: Path) -> None:
    log = LoopLog([TensorBoardLogger(tmp_path)], 0)
    windows(log, range(20, 24))
    log.note(record("improvement", 23, ACTIVE))
    log.note(record("reassessed", 23, ACTIVE))
    log.note(record("plateau", 23, COOLING))
    log.tick(300, 29)
    log.close("failure")
    written = texts(tmp_path, "loop/timeline")
    assert [len(rows_of(text)) for text in written] == [1, 2, 2]
    assert [row[1:3] + row[-1:] for row in rows_of(written[-1])] == [["20", "4", "plateau"], ["24", "6", "failed"]]


# Tags


def test_the_reference_lists_the_tags() -> None:
    found = re.search(r"<!-- tags -->\n(.*?)\n<!-- /tags -->", (ROOT / "docs/reference/tags.md").read_text(), re.DOTALL)
    assert found is not None
    assert found.group(1).strip() == tags.markdown()


def test_undeclared_tags_are_found() -> None:
    declared = ["loop/best", "train/policy_loss", "hyperparams/learning_rate", "epoch/val_loss"]
    assert tags.undeclared([*declared, "loop/bset", "train/", "x/loop/best"]) == {"loop/bset", "train/", "x/loop/best"}
    assert not tags.undeclared(tags.HPARAM_METRICS)
    assert len({tag.name for tag in tags.TAGS}) == len(tags.TAGS)


def test_logs_of_an_ordinary_model_are_those_of_an_epoch(tmp_path: Path) -> None:
    log = LoopLog([TensorBoardLogger(tmp_path)], 0, unit="epoch", steps="steps")
    log.tick(100, 0)
    log.scalars(ACTIVE, 100, {"loop/best": 1.0}, {"val_loss": 0.5, "episode_return": 3.0})
    log.close()
    written = set(read(tmp_path).Tags()["scalars"])
    assert written == {"loop/state", "loop/best", "epoch/val_loss", "epoch/episode_return"}
    assert not tags.undeclared(written)
    assert "1 epochs, 100 steps" in texts(tmp_path, "loop/timeline")[-1]


def test_fit_writes_the_declared_tags_and_no_others(small_ppo: Callable[..., optix.PPOAgent], tmp_path: Path) -> None:
    agent = small_ppo()
    scheduler = optix.BackoffScheduler(plateau_threshold=2, dormant_threshold=4, max_interval=2)
    callback = optix.OptixCallback(optix.ReturnEvaluator(2), scheduler=scheduler, log_dir=tmp_path, verbose=0)
    dataset = optix.dataset_from_env(CountingEnv, agent, window_size=8, num_envs=2, seed=0)
    agent.fit(dataset, callbacks=[callback], verbose=0)
    written = set(read(tmp_path).Tags()["scalars"])
    assert not tags.undeclared(written)
    missing = {tag.name for tag in tags.TAGS if not any(map(tag.matches, written))}
    # Those of ordinary models, of a policy manager (see test_policies), of a live feed (see test_live), of held-out
    # environments (see test_eval_env), and of greedy evaluations (see test_evaluations).
    elsewhere = ("policies/", "feed/", "eval/", "loop/gap", "loop/score_sampled")
    assert {name for name in missing if not name.startswith(elsewhere)} == {"epoch/<log>"}
    (drawn,) = texts(tmp_path, "loop/timeline")[-1:]
    assert [row[0] for row in rows_of(drawn)] == ["ACTIVE", "COOLING", "DORMANT"]
