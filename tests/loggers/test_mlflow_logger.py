"""Runs in MLflow, read back from its database and from a server: nothing is mocked but what must fail."""

from __future__ import annotations

import copy
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loggers_runs import GIF, HPARAMS, cut_off_and_resumed, show, snapshot

import keras_optix as optix
from keras_optix.loggers import MLflowLogger

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when it is imported
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")

# MLflow and what it imports (pydantic, SQLAlchemy) call what is deprecated.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:mlflow"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # SQLAlchemy's pool closes connections when it is collected
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def mlflow() -> Any:
    return pytest.importorskip("mlflow", reason="mlflow is not installed: pip install 'keras_optix[mlflow]'")


@pytest.fixture
def database(mlflow: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a database of its own; artifacts lie in the working directory."""
    monkeypatch.chdir(tmp_path)
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


def points(mlflow: Any, uri: str, run_id: str, name: str) -> list[tuple[int, float]]:
    history = mlflow.MlflowClient(tracking_uri=uri).get_metric_history(run_id, name)
    return sorted((metric.step, metric.value) for metric in history)


def artifact(mlflow: Any, uri: str, run_id: str, name: str, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return Path(mlflow.MlflowClient(tracking_uri=uri).download_artifacts(run_id, name, str(folder)))


def check_a_run(mlflow: Any, uri: str, tmp_path: Path) -> None:
    """Shows a run, reads it back, resumes it, and reads it back again."""
    logger = MLflowLogger("cartpole", tracking_uri=uri, run_name="first", tags={"task": "CartPole"})
    show(logger, "20261201-000000-abcd", range(1, 6), best=snapshot(tmp_path, 1))
    client = mlflow.MlflowClient(tracking_uri=uri)
    run = client.get_run(logger.mlflow_run_id)
    assert run.info.run_name == "first"
    assert run.info.status == "FINISHED"
    assert run.data.params == {name: str(value) for name, value in HPARAMS.items()}
    assert run.data.tags["task"] == "CartPole"
    assert run.data.tags["keras_optix.run_id"] == "20261201-000000-abcd"
    read = points(mlflow, uri, logger.mlflow_run_id, "loop/score")
    assert read == [(step, step / 10) for step in range(2, 6)]
    assert "train/loss" not in run.data.metrics  # NaN: there is nothing to show
    events = artifact(mlflow, uri, logger.mlflow_run_id, "loop/events.md", tmp_path / "down").read_text("utf-8")
    assert "step 5, with ±" in events
    best = artifact(mlflow, uri, logger.mlflow_run_id, "best", tmp_path / "down")
    assert np.load(best / "policy.npz")["kernel"].tolist() == [1.0] * 4
    assert json.loads((best / "snapshot.json").read_text())["score"] == 10.0
    film = artifact(mlflow, uri, logger.mlflow_run_id, "policy/episode-000000005.gif", tmp_path / "down")
    assert film.read_bytes() == GIF
    # It is resumed at step 3, from another process.
    second = MLflowLogger("cartpole", tracking_uri=uri)
    show(second, "20261201-000000-abcd", range(4, 9), resumed_from=3, best=snapshot(tmp_path, 2, 2.0))
    assert second.mlflow_run_id == logger.mlflow_run_id
    assert points(mlflow, uri, second.mlflow_run_id, "loop/state") == [(step, 0.0) for step in range(1, 9)]
    assert points(mlflow, uri, second.mlflow_run_id, "loop/score") == [(step, step / 10) for step in range(2, 9)]
    best = artifact(mlflow, uri, second.mlflow_run_id, "best", tmp_path / "down2")
    assert np.load(best / "policy.npz")["kernel"].tolist() == [2.0] * 4
    assert client.get_run(second.mlflow_run_id).info.status == "FINISHED"


def test_a_run_in_a_database(mlflow: Any, database: str, tmp_path: Path) -> None:
    check_a_run(mlflow, database, tmp_path)


def test_a_fit_that_was_cut_off_is_one_run(
    mlflow: Any, database: str, tmp_path: Path, small_ppo: Callable[..., optix.PPOAgent]
) -> None:
    callback = cut_off_and_resumed(
        small_ppo, lambda: MLflowLogger("counting", tracking_uri=database), tmp_path / "checkpoints"
    )
    client = mlflow.MlflowClient(tracking_uri=database)
    experiment = client.get_experiment_by_name("counting")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.tags["keras_optix.run_id"] == callback.registry.run_id
    assert run.info.status == "FINISHED"
    read = points(mlflow, database, run.info.run_id, "loop/state")
    assert [step for step, _ in read] == [8 * (k + 1) for k in range(16)]
    scores = points(mlflow, database, run.info.run_id, "loop/score")
    rows = zip(callback.history["env_steps"].tolist(), callback.history["score"].tolist(), strict=True)
    assert scores == [(step, pytest.approx(score)) for step, score in rows]
    assert run.data.params["model"] == "PPOAgent"


def test_names_that_mlflow_refuses_and_many_metrics_at_once(mlflow: Any, database: str) -> None:
    logger = MLflowLogger(tracking_uri=database)
    logger.open(None)
    logger.begin("run")
    for step in range(3):
        logger.scalars(step, {f"train/{k} (é|%)": float(k) for k in range(700)})
    logger.close("failure")
    run = mlflow.MlflowClient(tracking_uri=database).get_run(logger.mlflow_run_id)
    assert len(run.data.metrics) == 700
    assert points(
        mlflow,
        database,
        logger.mlflow_run_id,
        "train/7 (é|%)".replace("(", "_").replace(")", "_").replace("|", "_").replace("%", "_"),
    ) == [(k, 7.0) for k in range(3)]
    assert run.info.status == "FAILED"
    assert run.data.tags["keras_optix.env_steps"] == "2"


def test_a_server_that_does_not_answer_is_named_at_the_beginning(mlflow: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    logger = MLflowLogger(tracking_uri=f"http://127.0.0.1:{free_port()}")
    logger.open(None)
    with pytest.raises(optix.ConfigurationError, match=r"MLflow cannot be used.*Received: tracking_uri="):
        logger.begin("run")
    logger.close("failure")


def test_what_a_logger_is_given_is_checked(mlflow: Any) -> None:
    for given in ({"experiment": 3}, {"experiment": ""}, {"tracking_uri": 5000}, {"tags": "a"}, {"run_nam": "a"}):
        with pytest.raises(optix.ConfigurationError, match=next(iter(given))):
            MLflowLogger(**given)  # type: ignore[arg-type]
    logger = copy.deepcopy(MLflowLogger("cartpole", run_name="a"))
    assert repr(logger) == "MLflowLogger(experiment='cartpole', run_name='a')"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture
def server(mlflow: Any, tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A server of MLflow in a process of its own, which keeps artifacts itself."""
    port = free_port()
    folder = tmp_path / "server"
    folder.mkdir()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--artifacts-destination", str(folder)]
    with (tmp_path / "server.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 180
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                    break
            except OSError:
                assert process.poll() is None, (tmp_path / "server.log").read_text()
                assert time.monotonic() < deadline, (tmp_path / "server.log").read_text()
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}", process
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ends the server with the workers that it started."""
    if process.poll() is None:
        os.killpg(process.pid, 15)
        process.wait(30)


@pytest.mark.slow
def test_a_run_on_a_server(mlflow: Any, server: tuple[str, Any], tmp_path: Path) -> None:
    check_a_run(mlflow, server[0], tmp_path)


@pytest.mark.slow
def test_a_server_that_goes_away_ends_no_run(
    server: tuple[str, Any], small_ppo: Callable[..., optix.PPOAgent], monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, process = server
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(sys.modules["keras_optix.loggers.mlflow_logger"], "_SECONDS", 0.0)

    class Stops(optix.LoopCallback):
        def on_window_end(self, window_id: int, eval_metrics: Any) -> None:
            if window_id == 5:
                stop(process)

    agent = small_ppo()
    dataset = optix.dataset_from_env(optix.testing.CountingEnv, agent, window_size=4, num_envs=2, seed=0)
    logger = MLflowLogger(tracking_uri=uri)
    callback = optix.OptixCallback(
        optix.ReturnEvaluator(2), max_windows=20, verbose=0, loggers=[logger], callbacks=[Stops()]
    )
    agent.fit(dataset, callbacks=[callback], verbose=0)
    assert callback.env_steps == 160
    messages = [record.message for record in callback.events]
    assert any("MLflowLogger could not be written" in message for message in messages)
