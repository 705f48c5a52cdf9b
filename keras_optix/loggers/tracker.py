"""What the loggers of experiment trackers (MLflow, Weights & Biases, Trackio) have in common."""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_optix.loggers.base import HParam, Logger
from keras_optix.optional import load_optional
from keras_optix.store.manifest import PolicySnapshot

_TEXT_SECONDS = 10.0  # least time between two uploads of texts
_FILE_SECONDS = 60.0  # least time between two uploads of the best policy
_NOTHING = -1  # the step until which a run shows something that shows nothing yet


class Tracker(Logger):
    """Base class of loggers that send a run to a tracker.

    What a tracker replaces (texts, and the file of the best policy) is sent at once if the last one was sent some time
    ago, and otherwise later: the latest counts. Rows of steps that the tracker has already are not sent again.

    Attributes:
        module: Name of the package of the tracker, and of the extra that installs it.
    """

    module = ""

    def __init__(self) -> None:
        self._load()
        self._reset(resumed=False)

    def _load(self, submodule: str = "") -> Any:
        """Returns a module of the tracker's package. No attribute holds it: a logger is copied with its callback."""
        return load_optional(f"{self.module}{submodule}", needed_by=type(self).__name__, extra=self.module)

    def _reset(self, *, resumed: bool) -> None:
        self._resumed, self._started = resumed, False
        self._shown = _NOTHING
        self._texts: dict[str, tuple[int, str]] = {}  # by tag, what is still to be sent
        self._best: tuple[PolicySnapshot, Path] | None = None
        self._text_sent = self._best_sent = -math.inf

    # What a tracker does

    @abstractmethod
    def _start(self, run_id: str, *, resumed: bool) -> int | None:
        """Begins a run of the tracker, or continues the one with this name, if there is one.

        Args:
            run_id: Name of the run.
            resumed: Whether it is the continuation of an earlier run.

        Returns:
            The last step that the tracker has of the run, or None.
        """

    @abstractmethod
    def _send_hparams(self, values: Mapping[str, HParam]) -> None: ...

    @abstractmethod
    def _send_scalars(self, step: int, values: Mapping[str, float]) -> None: ...

    @abstractmethod
    def _send_text(self, step: int, tag: str, markdown: str) -> None: ...

    @abstractmethod
    def _send_best(self, snapshot: PolicySnapshot, path: Path) -> None: ...

    @abstractmethod
    def _finish(self, status: str) -> None:
        """Ends the run of the tracker; nothing of it must be left in an attribute."""

    # Logger

    def open(self, resumed_from: int | None) -> None:
        """See `Logger`."""
        self._reset(resumed=resumed_from is not None)

    def begin(self, run_id: str) -> None:
        """See `Logger`. The run of the tracker begins."""
        shown = self._start(run_id, resumed=self._resumed)
        self._shown = _NOTHING if shown is None else shown
        self._started = True

    def hparams(self, values: Mapping[str, HParam], metrics: Sequence[str], first: Sequence[str]) -> None:
        """See `Logger`. A resumed run keeps the values with which it began."""
        if self._started and (not self._resumed or self._shown == _NOTHING):
            self._send_hparams(values)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See `Logger`."""
        if not self._started:
            return
        if step > self._shown:
            self._send_scalars(step, {tag: float(value) for tag, value in values.items() if not math.isnan(value)})
            self._shown = step
        self._send_pending()

    def text(self, step: int, tag: str, markdown: str) -> None:
        """See `Logger`."""
        self._texts[tag] = step, markdown
        self._send_pending()

    def snapshot(self, snapshot: PolicySnapshot, path: Path) -> None:
        """See `Logger`. The file of the best policy is an artifact of the run."""
        self._best = snapshot, path
        self._send_pending()

    def close(self, status: str) -> None:
        """See `Logger`."""
        if not self._started:
            return
        self._text_sent = self._best_sent = -math.inf
        try:
            self._send_pending()
        finally:
            self._started = False
            self._finish(status)

    def _send_pending(self) -> None:
        if not self._started:
            return
        now = time.monotonic()
        if self._texts and now - self._text_sent >= _TEXT_SECONDS:
            self._text_sent = now
            for tag, (step, markdown) in list(self._texts.items()):
                self._send_text(step, tag, markdown)
                del self._texts[tag]
        if self._best is not None and now - self._best_sent >= _FILE_SECONDS:
            self._best_sent = now
            snapshot, path = self._best
            if path.exists():  # it is pruned if it is no longer the best
                self._send_best(snapshot, path)
            self._best = None


def facts_of(snapshot: PolicySnapshot) -> dict[str, HParam]:
    """Returns what is worth knowing of a snapshot, by name."""
    metrics = snapshot.eval_metrics
    known: dict[str, HParam | None] = {
        "snapshot": snapshot.snapshot_id,
        "run_id": snapshot.run_id,
        "env_steps": snapshot.env_steps,
        "score": snapshot.score,
        "stderr": metrics.stderr,
        "episodes": metrics.episodes,
        **snapshot.hyperparams.params,
    }
    return {name: value for name, value in known.items() if value is not None}
