"""`WandbLogger` shows a run in Weights & Biases."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_optix.loggers.base import HParam
from keras_optix.loggers.tracker import Tracker, facts_of
from keras_optix.optional import load_optional
from keras_optix.store.manifest import PolicySnapshot
from keras_optix.validation import check_choice, check_name, check_path

_UNSAFE = re.compile(r"[^\w.\-]")  # in ids of runs and names of artifacts
_LONGEST = 100  # characters of such an id


class WandbLogger(Tracker):
    """Shows runs in Weights & Biases: scalars over env steps, hyperparameters as the config, events as pages.

    The file of the best policy is an artifact of type ``policy``, with its score, env steps and hyperparameters as
    metadata; each new best is a new version.

    A run that is resumed continues the W&B run, which has the name of the folder of the snapshots as its id. W&B
    cannot delete rows, so those of steps after the resume point stay as they were shown first, and are not repeated.
    With ``mode="offline"``, W&B cannot continue a run: the rest is a second local run of the same id, which repeats the
    rows after the resume point. ``wandb sync`` sends both.

    Args:
        project: Name of the project.
        entity: User or team that owns the project. None: your own.
        name: Name of the runs, which need not be different. None: the name of the folder of the snapshots.
        group: Group of the runs.
        tags: Tags of the runs.
        mode: ``"online"``, ``"offline"`` or ``"disabled"``. None: as W&B is set up (`WANDB_MODE`).
        directory: Where W&B keeps its folder ``wandb``. None: as W&B is set up.

    Raises:
        ConfigurationError: wandb is not installed, or an argument is invalid.

    Examples:
        >>> logger = optix.loggers.WandbLogger(project="cartpole", mode="offline")  # doctest: +SKIP
    """

    module = "wandb"

    def __init__(
        self,
        project: str = "keras_optix",
        *,
        entity: str | None = None,
        name: str | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
        mode: str | None = None,
        directory: str | os.PathLike[str] | None = None,
    ) -> None:
        self.project = check_name("project", project, "the name of a project")
        self.entity = None if entity is None else check_name("entity", entity, "a user or a team")
        self.name = None if name is None else check_name("name", name, "the name of a run")
        self.group = None if group is None else check_name("group", group, "the name of a group")
        given = [tags] if isinstance(tags, str) else tags
        self.tags = tuple(check_name("tags", tag, "a list of tags") for tag in given)
        self.mode = None if mode is None else check_choice("mode", mode, ("online", "offline", "disabled"))
        self.directory = None if directory is None else check_path("directory", directory)
        self._run: Any = None
        super().__init__()

    def _start(self, run_id: str, *, resumed: bool) -> int | None:
        wandb = self._load()
        self._run = wandb.init(
            project=self.project,
            entity=self.entity,
            name=self.name or run_id,
            group=self.group,
            tags=list(self.tags) or None,
            mode=self.mode,
            dir=self.directory,
            id=_safe(run_id),
            resume="allow" if resumed else None,
            reinit="create_new",  # a run of your own is left alone
        )
        return int(self._run.starting_step) - 1 if resumed else None

    def _send_hparams(self, values: Mapping[str, HParam]) -> None:
        self._run.config.update(dict(values), allow_val_change=True)

    def _send_scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def _send_text(self, step: int, tag: str, markdown: str) -> None:
        to_html = load_optional("markdown", needed_by="WandbLogger", extra="wandb").markdown
        page = self._load().Html(to_html(markdown, extensions=["tables"]))
        self._run.log({tag: page}, commit=False)  # with the latest row; a row of its own would count when resuming

    def _send_best(self, snapshot: PolicySnapshot, path: Path) -> None:
        facts = facts_of(snapshot)
        artifact = self._load().Artifact(f"policy-{self._run.id}", type="policy", metadata=facts)
        artifact.add_file(str(path), name="policy.npz")
        self._run.log_artifact(artifact, aliases=["best", f"snapshot-{snapshot.snapshot_id}"])

    def animation(self, step: int, tag: str, gif: bytes) -> None:
        """See `Logger`."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "episode.gif"
            file.write_bytes(gif)
            self._run.log({tag: self._load().Video(str(file), format="gif")}, commit=False)

    def _finish(self, status: str) -> None:
        run, self._run = self._run, None
        run.finish(exit_code=0 if status == "success" else 1)


def _safe(name: str) -> str:
    return _UNSAFE.sub("-", name)[:_LONGEST]
