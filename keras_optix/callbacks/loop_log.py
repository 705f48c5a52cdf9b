"""What the loop did and why, kept as records, printed, and written for TensorBoard."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from keras_optix.callbacks.tensorboard import LoopWriter
from keras_optix.control.evidence import Evidence
from keras_optix.control.scheduler import LoopState

_RATE_WINDOWS = 20
_STATE_NUMBERS = {state: float(k) for k, state in enumerate(LoopState)}


@dataclass(frozen=True)
class LoopRecord:
    """Something that the loop did, and why.

    Attributes:
        event: A `LoopEvent` value, or ``"hyperparams"``, ``"rollback"``, ``"restored"``, ``"reassessed"``,
            ``"non_finite"``.
        window_id: Number of the window after which it happened.
        env_steps: Environment steps of the run until then.
        state: State of the loop after it.
        message: One sentence.
        evidence: Difference, standard error and n, or None where there is nothing to compare.
    """

    event: str
    window_id: int
    env_steps: int
    state: LoopState
    message: str
    evidence: Evidence | None = None

    def __str__(self) -> str:
        why = "" if self.evidence is None else f": {self.evidence}"
        return f"window {self.window_id}, {self.env_steps} env steps, {self.state.name}: {self.message}{why}"


class LoopLog:
    """The records of one run.

    Args:
        log_dir: Directory for TensorBoard, or None.
        verbose: 2 prints every record.

    Attributes:
        records: All records, oldest first.
    """

    def __init__(self, log_dir: str | os.PathLike[str] | None, verbose: int) -> None:
        self.records: list[LoopRecord] = []
        self._writer = None if log_dir is None else LoopWriter(log_dir)
        self._verbose = verbose
        self._times: deque[tuple[float, int]] = deque(maxlen=_RATE_WINDOWS)

    @property
    def writes(self) -> bool:
        """Whether scalars are written at all."""
        return self._writer is not None

    def note(self, record: LoopRecord) -> None:
        """Keeps a record."""
        self.records.append(record)
        if self._writer is not None:
            self._writer.text(record.env_steps, "loop/events", str(record))
        if self._verbose >= 2:
            print(f"\n{record}")

    def tick(self, env_steps: int) -> None:
        """Notes that a window was taken; the rate of environment steps comes from these."""
        self._times.append((time.monotonic(), env_steps))

    def scalars(self, state: LoopState, env_steps: int, values: Mapping[str, float], logs: Mapping[str, float]) -> None:
        """Writes the scalars of a window.

        Args:
            state: State of the loop.
            env_steps: Environment steps of the run.
            values: By tag.
            logs: Of the train step, by name; they get the groups ``rollout/`` and ``train/``.
        """
        if self._writer is None:
            return
        (first_time, first_steps), (last_time, last_steps) = self._times[0], self._times[-1]
        rate = (last_steps - first_steps) / (last_time - first_time) if last_time > first_time else float("nan")
        tagged = {"loop/state": _STATE_NUMBERS[state], "time/env_steps_per_second": rate, **values}
        for name, value in logs.items():
            group = "rollout" if name.startswith("episode_") else "train"
            tagged[f"{group}/{name}"] = float(value)
        self._writer.scalars(env_steps, tagged)

    def close(self) -> None:
        """Writes out what is left; records stay."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
