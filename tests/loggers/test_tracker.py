"""What all loggers of trackers do: nothing is sent twice, nothing too often, and a missing package is named."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from loggers_runs import cut_off_and_resumed, snapshot

import keras_optix as optix
from keras_optix.loggers import MLflowLogger, TrackioLogger, WandbLogger, tracker
from keras_optix.loggers.tracker import Tracker


class Fake(Tracker):
    """A tracker in memory: its runs by name, of which each keeps what was sent."""

    module = "json"
    runs: dict[str, dict[str, Any]]

    def __init__(self, runs: dict[str, dict[str, Any]] | None = None) -> None:
        self.runs = {} if runs is None else runs
        super().__init__()

    def _start(self, run_id: str, *, resumed: bool) -> int | None:
        known = run_id in self.runs
        assert known is resumed
        self.run = self.runs.setdefault(run_id, {"rows": [], "texts": [], "best": [], "hparams": [], "status": ""})
        return max((step for step, _ in self.run["rows"]), default=-1) if known else None

    def _send_hparams(self, values: Mapping[str, Any]) -> None:
        self.run["hparams"].append(dict(values))

    def _send_scalars(self, step: int, values: Mapping[str, float]) -> None:
        self.run["rows"].append((step, dict(values)))

    def _send_text(self, step: int, tag: str, markdown: str) -> None:
        self.run["texts"].append((step, tag, markdown))

    def _send_best(self, snapshot: Any, path: Path) -> None:
        self.run["best"].append(snapshot.snapshot_id)

    def _finish(self, status: str) -> None:
        self.run["status"] = status


def test_a_resumed_run_sends_each_step_once_and_hyperparameters_once(
    small_ppo: Callable[..., optix.PPOAgent], tmp_path: Path
) -> None:
    runs: dict[str, dict[str, Any]] = {}
    callback = cut_off_and_resumed(small_ppo, lambda: Fake(runs), tmp_path)
    ((run_id, run),) = runs.items()
    assert run_id == callback.registry.run_id
    assert [step for step, _ in run["rows"]] == [8 * (k + 1) for k in range(16)]
    assert len(run["hparams"]) == 1
    assert callback.best_snapshot is not None
    assert run["best"][-1] <= callback.best_snapshot.snapshot_id
    assert {tag for _, tag, _ in run["texts"][-2:]} == {"loop/events", "loop/timeline"}
    assert run["status"] == "success"


def test_texts_and_files_are_sent_at_once_and_then_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(tracker.time, "monotonic", lambda: now)
    fake = Fake()
    fake.open(None)
    fake.text(0, "loop/events", "before the run has its name")
    fake.begin("run")
    for number in range(1, 131):  # two minutes
        now += 1.0
        fake.scalars(number, {"a": 1.0})
        fake.text(number, "loop/events", f"after {number}")
        fake.snapshot(*snapshot(tmp_path, number))
    run = fake.runs["run"]
    assert [step for step, _, _ in run["texts"]] == [0, *range(10, 130, 10)]
    assert run["best"] == [1, 60, 120]
    fake.close("failure")
    assert run["texts"][-1] == (130, "loop/events", "after 130")
    assert run["best"][-1] == 130
    assert run["status"] == "failure"


def test_a_file_that_was_pruned_is_not_sent(tmp_path: Path) -> None:
    fake = Fake()
    fake.open(None)
    fake.begin("run")
    made, path = snapshot(tmp_path)
    path.unlink()
    fake.snapshot(made, path)
    fake.close("success")
    assert fake.runs["run"]["best"] == []


def test_a_text_that_could_not_be_sent_is_sent_later(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake()
    fake.open(None)
    fake.begin("run")
    with monkeypatch.context() as patched:
        patched.setattr(fake, "_send_text", lambda *_: (_ for _ in ()).throw(OSError("no network")))
        with pytest.raises(OSError, match="no network"):
            fake.text(1, "loop/events", "lost?")
    fake.close("success")
    assert fake.runs["run"]["texts"] == [(1, "loop/events", "lost?")]


def test_a_run_that_failed_before_it_began_is_none() -> None:
    fake = Fake()
    fake.open(None)
    fake.close("failure")
    assert fake.runs == {}


@pytest.mark.parametrize("kind", [MLflowLogger, WandbLogger, TrackioLogger])
def test_a_package_that_is_missing_is_named_at_once(kind: type[Tracker], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, kind.module, None)
    wanted = rf"`{kind.__name__}` needs {kind.module}, which .*pip install 'keras_optix\[{kind.module}\]'"
    with pytest.raises(optix.ConfigurationError, match=wanted):
        kind()


def test_a_package_that_is_broken_is_not_called_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mlflow.py").write_text("import a_package_that_does_not_exist\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mlflow", raising=False)
    with pytest.raises(optix.ConfigurationError, match=r"cannot be imported .*a_package_that_does_not_exist"):
        MLflowLogger()
