"""Records the schedule of hyperparameters under which weights were trained, writes it as JSON, and replays it."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from keras_optix.errors import ConfigurationError, StateError, describe
from keras_optix.evaluators.evaluation import Evaluation
from keras_optix.records import HyperparamSet
from keras_optix.states import Count, Finite, State, read_state, to_json
from keras_optix.store.files import UNREADABLE, parse_json, read_bytes, write_atomically
from keras_optix.tuners.base_optimizer import BaseOptimizer, TunerDecision
from keras_optix.validation import check_bool, check_kind, check_path

_FORMAT: Final = 2


@dataclass(frozen=True)
class ScheduleStep:
    """A change of hyperparameters.

    Attributes:
        env_steps: Environment steps (batches) of training before the change.
        params: The values that changed, by name.
        kind: The kind of the tuner's decision that caused the change.
        permanent: Whether the values were meant to stay; False for the values of a probe.

    Examples:
        >>> step = optix.tuners.ScheduleStep(10_000, {"learning_rate": 3e-4}, kind="probe", permanent=True)
        >>> step.params["learning_rate"]
        0.0003
    """

    env_steps: Count
    params: dict[str, Finite]
    kind: str
    permanent: bool


@dataclass(frozen=True)
class Schedule:
    """All hyperparameters under which weights were trained, in order.

    A schedule follows the weights: if the loop restores a snapshot, or a population copies a member, the schedule
    continues from that of the copied weights. Env steps count only the training of these weights.

    Training that was undone is therefore not in the schedule, and neither are the values under which it happened:
    `left_out` counts its env steps.

    Attributes:
        start: The tuned hyperparameters at the beginning, by name.
        steps: The changes, in order.
        left_out: Env steps (batches) of the run that are not part of the weights, because they were undone or because
            other weights learned from them. Defaults to 0. Only a schedule with 0 describes a run completely, and a
            replay with the same seeds repeats that run exactly.

    Examples:
        >>> schedule = optix.tuners.Schedule(start={"learning_rate": 1e-3})
        >>> callback = optix.OptixCallback(tuner=optix.tuners.ReplaySchedule(schedule))
    """

    start: dict[str, float]
    steps: tuple[ScheduleStep, ...] = ()
    left_out: Count = 0

    def then(self, step: ScheduleStep) -> Schedule:
        """Returns the schedule with one more step."""
        return dataclasses.replace(self, steps=(*self.steps, step))

    def without_probes(self) -> Schedule:
        """Returns the schedule without the values of probes."""
        return dataclasses.replace(self, steps=tuple(step for step in self.steps if step.permanent))

    def at(self, env_steps: int) -> dict[str, float]:
        """Returns the values after `env_steps` env steps of training."""
        params = dict(self.start)
        for step in self.steps:
            if step.env_steps <= env_steps:
                params |= step.params
        return params

    @functools.cached_property
    def latest(self) -> dict[str, float]:
        """The values after all steps. Cached, because the loop reads it after every window."""
        return self.at(max((step.env_steps for step in self.steps), default=0))

    def to_json(self) -> dict[str, Any]:
        """Returns the schedule as JSON values."""
        values: dict[str, Any] = to_json(_ScheduleFile(_FORMAT, self.start, self.steps, self.left_out))
        return values

    @classmethod
    def from_json(cls, values: Any) -> Schedule:
        """Makes a schedule from the values that `to_json` returned.

        Raises:
            ConfigurationError: The values are not a schedule.
        """
        if isinstance(values, Mapping) and values.get("format") == 1:
            values = {**values, "format": _FORMAT, "left_out": 0}  # which format 1 did not count
        if isinstance(values, Mapping) and values.get("format", _FORMAT) != _FORMAT:
            fix = f"This version reads formats 1 and {_FORMAT}."
            raise ConfigurationError(describe("This schedule has another format.", fix=fix, format=values["format"]))
        try:
            read = read_state(_ScheduleFile, values, "schedule")
        except StateError as error:
            fix = "Give a file that `Schedule.save` wrote."
            raise ConfigurationError(describe("This is not a schedule.", fix=fix, error=str(error))) from error
        return cls(read.start, read.steps, read.left_out)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the schedule as JSON.

        Args:
            path: The file. An existing file is replaced.
        """
        text = json.dumps(self.to_json(), indent=1)
        write_atomically(Path(path), lambda file: file.write(text.encode()))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Schedule:
        """Reads a file that `save` wrote.

        Args:
            path: The file.

        Raises:
            ConfigurationError: The file cannot be read or does not hold a schedule.
        """
        try:
            values = parse_json(read_bytes(Path(check_path("path", path))))
        except UNREADABLE as error:
            raise ConfigurationError(
                describe("The schedule cannot be read.", path=str(path), error=str(error))
            ) from error
        return cls.from_json(values)


class _ScheduleFile(State, frozen=True):
    """A schedule as it is written to a file."""

    format: Literal[2]
    start: dict[str, Finite]
    steps: tuple[ScheduleStep, ...]
    left_out: Count = 0


class ReplayState(State, frozen=True):
    """The state of a `ReplaySchedule` in a run.

    Attributes:
        done: Number of steps that were applied.
    """

    done: Count = 0


class ReplaySchedule(BaseOptimizer):
    """Applies a schedule that a tuner found at the same env steps, and tunes nothing.

    The values are those under which the weights of the schedule were trained, after as many env steps of training. If
    nothing was undone (`Schedule.left_out` is 0) and the seeds are the same, the replay repeats the run exactly.
    Otherwise the environments and the random numbers of that run had gone on during the training that was undone, so
    the replay is another run under the same values; the event with which it begins says so.

    Args:
        schedule: A `Schedule`, or the path of one.
        probes: Whether to apply the values of probes too. Defaults to False: only the values that were meant to stay.

    Raises:
        ConfigurationError: The schedule cannot be read.

    Examples:
        >>> step = optix.tuners.ScheduleStep(10_000, {"learning_rate": 3e-4}, kind="probe", permanent=True)
        >>> schedule = optix.tuners.Schedule({"learning_rate": 1e-3}, (step,))
        >>> callback = optix.OptixCallback(tuner=optix.tuners.ReplaySchedule(schedule))  # or the path of schedule.json
    """

    def __init__(self, schedule: Schedule | str | os.PathLike[str], *, probes: bool = False) -> None:
        super().__init__()
        hints = {"a tuner": "Give the schedule that it found: callback.schedule."}
        if isinstance(schedule, str | os.PathLike):
            schedule = Schedule.load(schedule)
        fix = "Such as callback.schedule, or the path of a schedule.json."
        loaded: Schedule = check_kind(
            "schedule", schedule, Schedule, wanted="a Schedule or the path of one", fix=fix, hints=hints
        )
        self.schedule = loaded if check_bool("probes", probes) else loaded.without_probes()
        self._spaces = {}  # a schedule needs no search spaces

    @property
    def names(self) -> tuple[str, ...]:
        """See `BaseOptimizer.names`."""
        return tuple({name: None for step in self.schedule.steps for name in step.params} | self.schedule.start)

    def values_to_check(self) -> list[dict[str, float]]:
        """See `BaseOptimizer.values_to_check`."""
        return [self.schedule.start, *(step.params for step in self.schedule.steps)]

    def initial_state(self) -> ReplayState:
        """See `BaseOptimizer.initial_state`."""
        return ReplayState()

    def begin(self, state: ReplayState, current: HyperparamSet) -> tuple[ReplayState, TunerDecision | None]:
        """See `BaseOptimizer.begin`."""
        undone = self.schedule.left_out
        kind = f"replay without the {undone:,} steps that were undone" if undone else "replay"
        return state, TunerDecision(kind, dict(self.schedule.start), permanent=True)

    def shift(self, state: ReplayState, current: HyperparamSet) -> tuple[ReplayState, TunerDecision | None]:
        """See `BaseOptimizer.shift`. The schedule goes on."""
        return state, None

    def observe_update(
        self, state: ReplayState, env_steps: int, logs: Mapping[str, float], current: HyperparamSet
    ) -> tuple[ReplayState, TunerDecision | None]:
        """See `BaseOptimizer.observe_update`."""
        params: dict[str, float] = {}
        done, steps = state.done, self.schedule.steps
        while done < len(steps) and steps[done].env_steps <= env_steps:
            params |= steps[done].params
            done += 1
        return ReplayState(done), TunerDecision("replay", params, permanent=True) if params else None

    def observe(
        self, state: ReplayState, evaluation: Evaluation, current: HyperparamSet
    ) -> tuple[ReplayState, TunerDecision | None]:
        """See `BaseOptimizer.observe`. A schedule does not depend on scores."""
        return state, None
