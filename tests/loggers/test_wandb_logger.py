"""Runs in Weights & Biases in offline mode, read back from the files that `wandb sync` would send."""

from __future__ import annotations

import copy
import json
import os
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from loggers_runs import GIF, HPARAMS, cut_off_and_resumed, show, snapshot

import keras_optix as optix
from keras_optix.loggers import WandbLogger

os.environ.setdefault("WANDB_SILENT", "true")
os.environ.setdefault("WANDB_ERROR_REPORTING", "false")

# Of wandb and what it imports (pydantic, protobuf).
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
_BLOCK, _FILE_HEADER, _HEADER = 32768, 7, struct.Struct("<IHB")


@pytest.fixture(scope="module")
def wandb() -> Iterator[Any]:
    module = pytest.importorskip("wandb", reason="wandb is not installed: pip install 'keras_optix[wandb]'")
    yield module
    module.teardown()


def records(path: Path) -> Iterator[Any]:
    """Yields the records of a ``.wandb`` file, which is a log in the format of LevelDB."""
    from wandb.proto.wandb_internal_pb2 import Record

    data = path.read_bytes()
    assert data[:4] == b":W&B"
    at, record = _FILE_HEADER, b""
    while at + _HEADER.size <= len(data):
        if _BLOCK - at % _BLOCK < _HEADER.size:
            at += _BLOCK - at % _BLOCK
            continue
        _, length, kind = _HEADER.unpack_from(data, at)
        record += data[at + _HEADER.size : at + _HEADER.size + length]
        at += _HEADER.size + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(record)
            record = b""


def files(folder: Path) -> list[Path]:
    """Returns the files of runs in the order of their times, once the process of wandb has written all of them."""
    found = sorted(folder.glob("wandb/offline-run-*/run-*.wandb"), key=lambda path: path.parent.name)
    deadline = time.monotonic() + 30
    while not all(any(record.HasField("exit") for record in records(path)) for path in found):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def rows(path: Path, name: str) -> list[tuple[int, Any]]:
    found = []
    for record in records(path):
        for item in record.history.item:
            if name in (item.key, "/".join(item.nested_key)):
                found.append((record.history.step.num, json.loads(item.value_json)))
    return found


def config(path: Path) -> dict[str, Any]:
    updates = [update for record in records(path) for update in [*record.run.config.update, *record.config.update]]
    return {update.key: json.loads(update.value_json) for update in updates if update.key}


def test_a_run_offline(wandb: Any, tmp_path: Path) -> None:
    logger = WandbLogger("cartpole", name="first", tags="small", mode="offline", directory=tmp_path)
    show(logger, "20261201-000000-abcd", range(1, 6), best=snapshot(tmp_path))
    (path,) = files(tmp_path)
    assert rows(path, "loop/score") == [(step, step / 10) for step in range(2, 6)]
    assert [step for step, _ in rows(path, "loop/state")] == [1, 2, 3, 4, 5]
    assert rows(path, "train/loss") == []  # NaN: there is nothing to show
    assert {name: config(path)[name] for name in HPARAMS} == HPARAMS
    (run,) = (record.run for record in records(path) if record.run.run_id)
    assert (run.run_id, run.display_name, run.project, list(run.tags)) == (
        "20261201-000000-abcd",
        "first",
        "cartpole",
        ["small"],
    )
    pages = sorted(path.parent.glob("files/media/html/loop/events_5_*.html"))
    assert "<td>step 5, with ±</td>" in pages[0].read_text("utf-8")
    (film,) = path.parent.glob("files/media/videos/policy/episode_5_*.gif")
    assert film.read_bytes() == GIF
    (artifact,) = (record.artifact for record in records(path) if record.artifact.name)
    assert artifact.name == "policy-20261201-000000-abcd"
    assert [entry.path for entry in artifact.manifest.contents] == ["policy.npz"]
    assert json.loads(artifact.metadata)["score"] == 10.0
    assert {"best", "snapshot-1"} <= set(artifact.aliases)
    (ended,) = (record.exit.exit_code for record in records(path) if record.HasField("exit"))
    assert ended == 0


def test_a_fit_that_was_cut_off_offline_is_two_files_of_one_run(
    wandb: Any, tmp_path: Path, small_ppo: Callable[..., optix.PPOAgent]
) -> None:
    callback = cut_off_and_resumed(
        small_ppo, lambda: WandbLogger(mode="offline", directory=tmp_path), tmp_path / "checkpoints"
    )
    first, second = files(tmp_path)
    assert first.name == second.name == f"run-{callback.registry.run_id}.wandb"
    steps = [step for step, _ in rows(first, "loop/state")]
    assert steps == [8 * (k + 1) for k in range(len(steps))]
    after = [step for step, _ in rows(second, "loop/state")]
    assert after == list(range(after[0], 129, 8))
    assert after[0] <= steps[-1] + 8  # nothing is missing; W&B cannot continue a run offline
    scores = dict(rows(first, "loop/score")) | dict(rows(second, "loop/score"))
    expected = dict(zip(callback.history["env_steps"].tolist(), callback.history["score"].tolist(), strict=True))
    assert scores == pytest.approx(expected)
    (failed,) = (record.exit.exit_code for record in records(first) if record.HasField("exit"))
    assert failed == 1


def test_online_a_resumed_run_continues_behind_the_last_row(
    wandb: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no server of W&B here: its run is a stand-in that says at which step it continues."""
    logged: list[int] = []
    asked: dict[str, Any] = {}
    stand_in = SimpleNamespace(
        id="run",
        starting_step=7,
        config={},
        log=lambda values, step=None, commit=True: logged.append(step) if "loop/state" in values else None,
        log_artifact=lambda artifact, aliases: None,
        finish=lambda exit_code: None,
    )

    def init(**options: Any) -> Any:
        asked.update(options)
        return stand_in

    monkeypatch.setattr(wandb, "init", init)
    show(WandbLogger(mode="online"), "run", range(4, 10), resumed_from=3)
    assert logged == [7, 8, 9]
    assert (asked["id"], asked["resume"]) == ("run", "allow")
    assert stand_in.config == {}  # those with which it began
    show(WandbLogger(), "new run/x", range(1, 3))
    assert (asked["id"], asked["resume"]) == ("new-run-x", None)


def test_what_a_logger_is_given_is_checked(wandb: Any) -> None:
    for given in ({"project": 3}, {"mode": "of"}, {"tags": [3]}, {"directory": 5}, {"projekt": "a"}):
        with pytest.raises(optix.ConfigurationError, match=next(iter(given))):
            WandbLogger(**given)  # type: ignore[arg-type]
    logger = copy.deepcopy(WandbLogger("cartpole", mode="offline"))
    assert repr(logger) == "WandbLogger(project='cartpole', mode='offline')"
