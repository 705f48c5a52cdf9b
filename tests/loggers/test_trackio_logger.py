"""Runs in Trackio, read back from its database on this machine."""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loggers_runs import HPARAMS, cut_off_and_resumed, show, snapshot

import keras_optix as optix
from keras_optix.loggers import TrackioLogger

# Both are read when trackio is imported.
os.environ.setdefault("TRACKIO_DIR", tempfile.mkdtemp(prefix="trackio_"))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# Of what trackio imports.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def trackio() -> Any:
    return pytest.importorskip("trackio", reason="trackio is not installed: pip install 'keras_optix[trackio]'")


def logs(project: str, run: str) -> list[dict[str, Any]]:
    from trackio.sqlite_storage import SQLiteStorage

    return list(SQLiteStorage.get_logs(project, run))


def points(project: str, run: str, name: str) -> list[tuple[int, Any]]:
    return [(row["step"], row[name]) for row in logs(project, run) if name in row]


def test_a_run_that_is_resumed(trackio: Any, tmp_path: Path) -> None:
    project, run = f"shown-{tmp_path.name}", "first-20261201-000000-abcd"
    show(TrackioLogger(project, name="first"), "20261201-000000-abcd", range(1, 6), best=snapshot(tmp_path))
    assert points(project, run, "loop/score") == [(step, step / 10) for step in range(2, 6)]
    assert points(project, run, "train/loss") == []  # NaN: there is nothing to show
    reports = points(project, run, "loop/events")
    assert reports[-1] == (5, {"_type": "trackio.markdown", "_value": "| what happened |\n|---|\n| step 5, with ± |"})
    user = trackio.init(project=project, name="reads", embed=False)
    artifact = user.use_artifact("policy-20261201-000000-abcd:best")
    assert artifact.metadata["score"] == 10.0
    folder = Path(artifact.download(str(tmp_path / "down")))
    assert np.load(folder / "policy.npz")["kernel"].tolist() == [1.0] * 4
    user.finish()
    second = TrackioLogger(project, name="first")
    show(second, "20261201-000000-abcd", range(4, 9), resumed_from=3)
    assert points(project, run, "loop/state") == [(step, 0.0) for step in range(1, 9)]
    assert points(project, run, "loop/score") == [(step, step / 10) for step in range(2, 9)]
    (found,) = (one for one in trackio.Api().runs(project) if one.name == run)
    assert {name: found.config[name] for name in HPARAMS} == HPARAMS


def test_a_fit_that_was_cut_off_is_one_run(
    trackio: Any, tmp_path: Path, small_ppo: Callable[..., optix.PPOAgent]
) -> None:
    project = f"counting-{tmp_path.name}"
    callback = cut_off_and_resumed(small_ppo, lambda: TrackioLogger(project), tmp_path / "checkpoints")
    (run,) = trackio.Api().runs(project)
    assert run.name == callback.registry.run_id
    assert [step for step, _ in points(project, run.name, "loop/state")] == [8 * (k + 1) for k in range(16)]
    rows = zip(callback.history["env_steps"].tolist(), callback.history["score"].tolist(), strict=True)
    assert points(project, run.name, "loop/score") == [(step, pytest.approx(score)) for step, score in rows]


def test_what_a_logger_is_given_is_checked(trackio: Any) -> None:
    for given in ({"project": 3}, {"name": ""}, {"space_id": 3}, {"projekt": "a"}):
        with pytest.raises(optix.ConfigurationError, match=next(iter(given))):
            TrackioLogger(**given)  # type: ignore[arg-type]
    assert repr(copy.deepcopy(TrackioLogger("cartpole"))) == "TrackioLogger(project='cartpole')"
