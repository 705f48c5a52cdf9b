"""`MLflowLogger` shows a run in MLflow."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from keras_optix.errors import ConfigurationError, describe
from keras_optix.loggers.base import HParam
from keras_optix.loggers.tracker import Tracker, facts_of
from keras_optix.store.manifest import PolicySnapshot
from keras_optix.validation import check_mapping, check_name

_RUN_TAG, _STEP_TAG = "keras_optix.run_id", "keras_optix.env_steps"
_SECONDS = 5.0  # between two requests
_MOST = 1000  # metrics in one request; MLflow's limit
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}
_STATUSES = {"success": "FINISHED", "failure": "FAILED"}
_UNSAFE = re.compile(r"[^\w/.\- :]")  # in names of metrics and parameters


class MLflowLogger(Tracker):
    """Shows runs in MLflow: scalars as metrics over env steps, hyperparameters as parameters, events as artifacts.

    The file of the best policy is the artifact ``best/policy.npz``, and facts on it are in ``best/snapshot.json``. The
    tables of events and of the states are the artifacts ``loop/events.md`` and ``loop/timeline.md``.

    A run that is resumed continues its MLflow run, which is found by the tag ``keras_optix.run_id``. MLflow cannot
    delete metrics, so those of steps after the resume point stay as they were shown first, and are not repeated.

    Metrics are sent every five seconds, so a process that is killed loses those of at most the last five. While the
    server does not answer, the training run goes on.

    Args:
        experiment: Name of the experiment, created if it does not exist.
        tracking_uri: Address of the server, or of a file or database of MLflow, such as ``"http://localhost:5000"`` or
            ``"sqlite:///mlflow.db"``. None: the one that MLflow is set to.
        run_name: Name of the runs, which need not be different. None: the name of the folder of the snapshots.
        tags: Further tags of the runs by name.

    Raises:
        ConfigurationError: mlflow is not installed, or an argument is invalid. At the beginning of `fit`: the server
            does not answer.

    Examples:
        >>> logger = optix.loggers.MLflowLogger("cartpole", tracking_uri="sqlite:///runs.db")  # doctest: +SKIP
    """

    module = "mlflow"

    def __init__(
        self,
        experiment: str = "keras_optix",
        *,
        tracking_uri: str | None = None,
        run_name: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        self.experiment = check_name("experiment", experiment, "the name of an experiment")
        self.tracking_uri = (
            None if tracking_uri is None else check_name("tracking_uri", tracking_uri, "an address of MLflow")
        )
        self.run_name = None if run_name is None else check_name("run_name", run_name, "the name of a run")
        self.tags = None if tags is None else dict(check_mapping("tags", tags, "a dict of tags by name"))
        self._client: Any = None
        self._id = ""  # of the MLflow run
        self._rows: list[tuple[int, int, Mapping[str, float]]] = []  # step, time in ms, values: what is not sent yet
        self._sent = 0.0
        super().__init__()

    @property
    def mlflow_run_id(self) -> str:
        """The id of the latest run in MLflow; empty before the first."""
        return self._id

    def _start(self, run_id: str, *, resumed: bool) -> int | None:
        self._rows, self._sent = [], time.monotonic()
        client = self._load().MlflowClient(tracking_uri=self.tracking_uri)
        try:
            with _little_patience():
                shown = self._find(client, run_id) if resumed else None
                if shown is None:
                    tags = {**(self.tags or {}), _RUN_TAG: run_id}
                    run = client.create_run(self._experiment_id(client), tags=tags, run_name=self.run_name or run_id)
                    self._id = run.info.run_id
                else:
                    client.update_run(self._id, status="RUNNING")
        except (OSError, self._load(".exceptions").MlflowException) as error:
            problem, fix = f"MLflow cannot be used: {error}.", "Start its server, or give another `tracking_uri`."
            uri = self._load().get_tracking_uri() if self.tracking_uri is None else self.tracking_uri
            raise ConfigurationError(describe(problem, fix=fix, tracking_uri=uri)) from error
        self._client = client
        return shown

    def _experiment_id(self, client: Any) -> str:
        known = client.get_experiment_by_name(self.experiment)
        if known is not None:
            return str(known.experiment_id)
        try:
            return str(client.create_experiment(self.experiment))
        except self._load(".exceptions").MlflowException:
            known = client.get_experiment_by_name(self.experiment)  # another process was faster
            if known is None:
                raise
            return str(known.experiment_id)

    def _find(self, client: Any, run_id: str) -> int | None:
        """Finds the MLflow run of a run; returns its last step, -1 if it has none, and None if there is no such run."""
        experiment = self._experiment_id(client)
        found = client.search_runs([experiment], f"tags.`{_RUN_TAG}` = '{run_id}'", max_results=1)
        if not found:
            return None
        self._id = found[0].info.run_id
        return int(found[0].data.tags.get(_STEP_TAG, -1))

    def _send_hparams(self, values: Mapping[str, HParam]) -> None:
        param = self._load(".entities").Param
        with _little_patience():
            self._client.log_batch(self._id, params=[param(_safe(name), str(v)) for name, v in values.items()])

    def _send_scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._rows.append((step, int(time.time() * 1000), values))
        if time.monotonic() - self._sent >= _SECONDS:
            self._send_rows()

    def _send_rows(self) -> None:
        entities = self._load(".entities")
        self._sent = time.monotonic()
        while self._rows:
            metrics: list[Any] = []
            rows = 0
            for step, when, values in self._rows:
                if rows and len(metrics) + len(values) > _MOST:
                    break
                metrics += [entities.Metric(_safe(tag), value, when, step) for tag, value in values.items()]
                rows += 1
            last = entities.RunTag(_STEP_TAG, str(self._rows[rows - 1][0]))
            with _little_patience():
                self._client.log_batch(self._id, metrics=metrics, tags=[last])
            del self._rows[:rows]

    def _send_text(self, step: int, tag: str, markdown: str) -> None:
        with _little_patience():
            self._client.log_text(self._id, markdown, f"{tag}.md")

    def _send_best(self, snapshot: PolicySnapshot, path: Path) -> None:
        with _little_patience(), _named(path, "policy.npz") as file:
            self._client.log_artifact(self._id, str(file), "best")
            self._client.log_dict(self._id, facts_of(snapshot), "best/snapshot.json")

    def animation(self, step: int, tag: str, gif: bytes) -> None:
        """See `Logger`. It is an artifact ``policy/episode-<step>.gif``."""
        folder, _, name = tag.rpartition("/")
        with _little_patience(), tempfile.TemporaryDirectory() as temporary:
            file = Path(temporary) / f"{name}-{step:09d}.gif"
            file.write_bytes(gif)
            self._client.log_artifact(self._id, str(file), folder)

    def _finish(self, status: str) -> None:
        try:
            self._send_rows()
        finally:
            client, self._client = self._client, None
            with _little_patience():
                client.set_terminated(self._id, _STATUSES[status])


@contextlib.contextmanager
def _little_patience() -> Iterator[None]:
    """Lets MLflow give up soon, because training waits. Without this it tries for minutes. Your own settings count."""
    changed = {name: value for name, value in _PATIENCE.items() if name not in os.environ}
    os.environ.update(changed)
    try:
        yield
    finally:
        for name in changed:
            os.environ.pop(name, None)


@contextlib.contextmanager
def _named(path: Path, name: str) -> Iterator[Path]:
    """Gives the file under another name, because MLflow calls an artifact what its file is called."""
    with tempfile.TemporaryDirectory() as folder:
        named = Path(folder) / name
        try:
            named.hardlink_to(path)
        except OSError:
            named.write_bytes(path.read_bytes())
        yield named


def _safe(name: str) -> str:
    return _UNSAFE.sub("_", name)
