"""What the scheduler remembers, as one record that goes to JSON and back."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from keras_optix.errors import StateError, describe
from keras_optix.statistics.estimates import Estimate
from keras_optix.validation import check_float, check_int


class LoopState(enum.Enum):
    """The four states of the loop."""

    ACTIVE = "active"
    COOLING = "cooling"
    DORMANT = "dormant"
    WATCHDOG = "watchdog"


@dataclass(frozen=True)
class SchedulerState:
    """All state of a `BackoffScheduler`; JSON by `to_json` and `from_json`.

    Attributes:
        loop_state: The state of the loop.
        interval: Windows between evaluations. A float, so that a fractional backoff factor really backs off.
        last_window: Window of the last evaluation, or None.
        evaluations: Evaluations so far.
        since_best: Evaluations since the best was promoted.
        since_active: Evaluations without improvement since the loop last became ACTIVE.
        best: Confirmed score of the best weights of this regime.
        baseline: First score of this regime; progress is measured from it.
        level: What the scores average to since the best was promoted or a degradation was seen, but for the `recent`
            ones: the reference of the CUSUM.
        recent: The latest scores, which are not in the level yet.
        cusum: The CUSUM statistic, in standard errors.
        cooldown_until: Number of the last evaluation of the cooldown after a degradation.
        history: The latest scores, oldest first.
        pending: A candidate waits for `confirm`.
        regime_index: Change points until now: after each, nothing is the best any more.
    """

    loop_state: LoopState = LoopState.ACTIVE
    interval: float = 1.0
    last_window: int | None = None
    evaluations: int = 0
    since_best: int = 0
    since_active: int = 0
    best: Estimate | None = None
    baseline: float | None = None
    level: Estimate | None = None
    recent: tuple[Estimate, ...] = ()
    cusum: float = 0.0
    cooldown_until: int = 0
    history: tuple[float, ...] = ()
    pending: bool = False
    regime_index: int = 0

    def to_json(self) -> dict[str, Any]:
        """Returns the state as JSON values."""
        return vars(self) | {
            "loop_state": self.loop_state.value,
            "best": None if self.best is None else self.best.to_json(),
            "level": None if self.level is None else self.level.to_json(),
            "recent": [score.to_json() for score in self.recent],
            "history": list(self.history),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> SchedulerState:
        """Restores what `to_json` returned.

        Raises:
            StateError: Something is missing, is of another kind, or does not belong there.
        """
        fix = "Resume from a complete state, or start a new run."
        if not isinstance(values, Mapping):
            raise StateError(describe("The state of the scheduler must be a mapping.", fix=fix, values=values))
        unknown = sorted(map(str, values.keys() - _READERS.keys()))
        if unknown:
            raise StateError(describe("The state of the scheduler has unknown entries.", fix=fix, unknown=unknown))
        fields = {}
        for name, read in _READERS.items():
            try:
                fields[name] = read(values[name])
            except (KeyError, TypeError, ValueError) as error:
                received: dict[str, Any] = {name: values.get(name, "missing")}
                problem = f"The state of the scheduler has no valid `{name}`."
                raise StateError(describe(problem, fix=fix, **received)) from error
        return cls(**fields)


def _read_flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise TypeError


def _read_history(value: object) -> tuple[float, ...]:
    if isinstance(value, list | tuple):
        return tuple(check_float("history", score) for score in value)
    raise TypeError


def _read_recent(value: object) -> tuple[Estimate, ...]:
    if isinstance(value, list | tuple):
        return tuple(Estimate.from_json(score) for score in value)
    raise TypeError


def _optional(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else read(value)


_read_count = partial(check_int, "count", minimum=0)
_READERS: dict[str, Callable[[Any], Any]] = {
    "loop_state": LoopState,
    "interval": partial(check_float, "interval", low=1.0),
    "last_window": _optional(_read_count),
    "evaluations": _read_count,
    "since_best": _read_count,
    "since_active": _read_count,
    "best": _optional(Estimate.from_json),
    "baseline": _optional(partial(check_float, "baseline")),
    "level": _optional(Estimate.from_json),
    "recent": _read_recent,
    "cusum": partial(check_float, "cusum", low=0.0),
    "cooldown_until": _read_count,
    "history": _read_history,
    "pending": _read_flag,
    "regime_index": _read_count,
}
