"""`TrackioLogger` shows a run in Trackio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_optix.loggers.base import HParam
from keras_optix.loggers.tracker import Tracker, facts_of
from keras_optix.store.manifest import PolicySnapshot
from keras_optix.validation import check_name


class TrackioLogger(Tracker):
    """Shows runs in Trackio: scalars over env steps, hyperparameters as the config, events as reports.

    The file of the best policy is an artifact of the run; a new best replaces it. Trackio keeps everything on this
    machine, in the folder `TRACKIO_DIR`, unless a Space of Hugging Face is given. ``trackio show`` shows it.

    A run that is resumed continues its Trackio run, which has the name of the folder of the snapshots. The rows of
    steps after the resume point stay as they were shown first, and are not repeated.

    Args:
        project: Name of the project.
        name: What the names of the runs begin with; the name of the folder of the snapshots follows. None: only that.
        group: Group of the runs.
        space_id: A Space of Hugging Face, ``"user/name"``, to which everything is sent. None: this machine.

    Raises:
        ConfigurationError: trackio is not installed, or an argument is invalid.

    Examples:
        >>> logger = optix.loggers.TrackioLogger(project="cartpole")  # doctest: +SKIP
    """

    module = "trackio"

    def __init__(
        self,
        project: str = "keras_optix",
        *,
        name: str | None = None,
        group: str | None = None,
        space_id: str | None = None,
    ) -> None:
        self.project = check_name("project", project, "the name of a project")
        self.name = None if name is None else check_name("name", name, "the name of a run")
        self.group = None if group is None else check_name("group", group, "the name of a group")
        self.space_id = None if space_id is None else check_name("space_id", space_id, "a Space of Hugging Face")
        self._run: Any = None
        self._id = ""
        self._config: dict[str, Any] = {}  # with which a resumed run began
        super().__init__()

    def _start(self, run_id: str, *, resumed: bool) -> int | None:
        self._id = run_id
        name = run_id if self.name is None else f"{self.name}-{run_id}"
        # The config is kept with the first row, so `hparams` still fills it. Resuming replaces it.
        self._config = self._known_config(name) if resumed and self.space_id is None else {}
        self._run = self._load().init(
            project=self.project,
            name=name,
            group=self.group,
            space_id=self.space_id,
            config={"run_id": run_id, **self._config},
            resume="allow" if resumed else "never",
            embed=False,
        )
        following = getattr(self._run, "_next_step", 0)  # there is no public name for it
        return int(following) - 1 if resumed else None

    def _known_config(self, name: str) -> dict[str, Any]:
        """Returns the hyperparameters with which a run on this machine began."""
        for run in self._load().Api().runs(self.project):
            if run.name == name:
                return {key: value for key, value in (run.config or {}).items() if not key.startswith("_")}
        return {}

    def hparams(self, values: Mapping[str, HParam], metrics: Sequence[str], first: Sequence[str]) -> None:
        """See `Logger`. A resumed run keeps the values with which it began, if it is on this machine."""
        if self._started and not self._config:
            self._send_hparams(values)

    def _send_hparams(self, values: Mapping[str, HParam]) -> None:
        self._run.config.update(dict(values))

    def _send_scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def _send_text(self, step: int, tag: str, markdown: str) -> None:
        self._run.log({tag: self._load().Markdown(markdown)}, step=max(self._shown, 0))  # no later row: see `_start`

    def _send_best(self, snapshot: PolicySnapshot, path: Path) -> None:
        artifact = self._load().Artifact(f"policy-{self._id}", type="policy", metadata=facts_of(snapshot))
        artifact.add_file(str(path), name="policy.npz")
        self._run.log_artifact(artifact, aliases=["best"], overwrite=True)

    def _finish(self, status: str) -> None:
        run, self._run = self._run, None
        run.finish()
