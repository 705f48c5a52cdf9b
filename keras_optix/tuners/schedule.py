"""The schedule of hyperparameters that weights were trained under: recorded, written as JSON, replayed."""

from __future__ import annotations

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
from keras_optix.store.files import write_atomically
from keras_optix.tuners.base_optimizer import BaseOptimizer, TunerDecision
from keras_optix.validation import check_bool, check_kind, check_path

_FORMAT: Final = 1


@dataclass(frozen=True)
class ScheduleStep:
    """Values that came into force.

    Attributes:
        env_steps: Environment steps (batches) of training before it.
        params: The values that changed, by name.
        kind: Why: the kind of the tuner's decision.
        permanent: Whether they were meant to stay; the values of a probe were not.
    """

    env_steps: Count
    params: dict[str, Finite]
    kind: str
    permanent: bool


@dataclass(frozen=True)
class Schedule:
    """All values that weights were trained under, in order.

    It follows the weights: where the loop goes back to a snapshot, or a population copies a member, the schedule goes
    on from that of the snapshot, and env steps count the training of these weights alone.

    Attributes:
        start: The tuned hyperparameters at the beginning, by name.
        steps: What changed, and when.
    """

    start: dict[str, float]
    steps: tuple[ScheduleStep, ...] = ()

    def then(self, step: ScheduleStep) -> Schedule:
        """The schedule with one more step."""
        return Schedule(self.start, (*self.steps, step))

    def without_probes(self) -> Schedule:
        """The schedule without probes."""
        return Schedule(self.start, tuple(step for step in self.steps if step.permanent))

    def at(self, env_steps: int) -> dict[str, float]:
        """The values after so many env steps of training."""
        params = dict(self.start)
        for step in self.steps:
            if step.env_steps <= env_steps:
                params |= step.params
        return params

    @functools.cached_property
    def latest(self) -> dict[str, float]:
        """The values after all steps. Found once: it is asked for after every window."""
        return self.at(max((step.env_steps for step in self.steps), default=0))

    def to_json(self) -> dict[str, Any]:
        """Returns the schedule as JSON values."""
        values: dict[str, Any] = to_json(_ScheduleFile(_FORMAT, self.start, self.steps))
        return values

    @classmethod
    def from_json(cls, values: Any) -> Schedule:
        """Restores what `to_json` returned.

        Raises:
            ConfigurationError: It is no schedule.
        """
        if isinstance(values, Mapping) and values.get("format", _FORMAT) != _FORMAT:
            raise ConfigurationError(describe("This schedule has another format.", format=values["format"]))
        try:
            read = read_state(_ScheduleFile, values, "schedule")
        except StateError as error:
            fix = "Give what `Schedule.save` wrote."
            raise ConfigurationError(describe("This is no schedule.", fix=fix, error=str(error))) from error
        return cls(read.start, read.steps)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the schedule as JSON.

        Args:
            path: The file; one that is there is replaced.
        """
        text = json.dumps(self.to_json(), indent=1)
        write_atomically(Path(path), lambda file: file.write(text.encode()))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Schedule:
        """Reads what `save` wrote.

        Args:
            path: The file.

        Raises:
            ConfigurationError: The file cannot be read, or holds no schedule.
        """
        try:
            return cls.from_json(json.loads(Path(check_path("path", path)).read_text()))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ConfigurationError(
                describe("This schedule cannot be read.", path=str(path), error=str(error))
            ) from error


class _ScheduleFile(State, frozen=True):
    """A schedule as it is written to a file."""

    format: Literal[1]
    start: dict[str, Finite]
    steps: tuple[ScheduleStep, ...]


class ReplayState(State, frozen=True):
    """What a `ReplaySchedule` knows of a run.

    Attributes:
        done: Steps that were applied.
    """

    done: Count = 0


class ReplaySchedule(BaseOptimizer):
    """Applies a schedule that a tuner found, at the same env steps, and tunes nothing.

    Args:
        schedule: A `Schedule`, or the path of one.
        probes: Also apply the values that were only probed. Defaults to False: those that were meant to stay.

    Raises:
        ConfigurationError: The schedule cannot be read.
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
        self._spaces = {}  # a schedule needs none

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
        return state, TunerDecision("replay", dict(self.schedule.start), permanent=True)

    def shift(self, state: ReplayState, current: HyperparamSet) -> tuple[ReplayState, TunerDecision | None]:
        """See `BaseOptimizer.shift`: the schedule goes on."""
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
