"""Schedulers and tuners that hold their state, as the loop holds it, so that a test is one call after another."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from keras_optix.evaluators.evaluation import Evaluation
from keras_optix.loop.scheduler import BackoffScheduler
from keras_optix.loop.state_machine import StateMachine
from keras_optix.records import HyperparamSet
from keras_optix.states import to_json
from keras_optix.tuners.base_optimizer import BaseOptimizer, TunerDecision


def machine(**options: Any) -> StateMachine:
    """A scheduler with its state."""
    return StateMachine(BackoffScheduler(**options))


def through_json(value: Any) -> Any:
    """What a file would give back of a state."""
    return json.loads(json.dumps(to_json(value), allow_nan=False))


class Driven:
    """A tuner with its state. What it does not have is the tuner's.

    Args:
        tuner: The tuner, or one that is driven already.
    """

    def __init__(self, tuner: Any) -> None:
        self.tuner: BaseOptimizer = tuner.tuner if isinstance(tuner, Driven) else tuner
        self.state: Any = self.tuner.initial_state() if self.tuner.bound else None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tuner, name)

    @property
    def probe_running(self) -> bool:
        return self.tuner.probe_running(self.state)

    @property
    def monitored(self) -> bool:
        return self.tuner.monitored(self.state)

    def bind(self, defaults: Mapping[str, Any]) -> None:
        self.tuner = self.tuner.bound_to(defaults)

    def reset(self) -> None:
        self.state = self.tuner.initial_state()

    def begin(self, current: HyperparamSet) -> TunerDecision | None:
        self.state, decision = self.tuner.begin(self.state, current)
        return decision

    def shift(self, current: HyperparamSet) -> TunerDecision | None:
        self.state, decision = self.tuner.shift(self.state, current)
        return decision

    def observe_update(self, env_steps: int, logs: Mapping[str, float], current: HyperparamSet) -> TunerDecision | None:
        self.state, decision = self.tuner.observe_update(self.state, env_steps, logs, current)
        return decision

    def observe(self, evaluation: Evaluation, current: HyperparamSet) -> TunerDecision | None:
        self.state, decision = self.tuner.observe(self.state, evaluation, current)
        return decision

    def pause(self) -> TunerDecision | None:
        self.state, decision = self.tuner.pause(self.state)
        return decision

    def to_json(self) -> Any:
        return to_json(self.state)

    def from_json(self, values: Any) -> None:
        self.state = self.tuner.read_state(values)


def driven(tuner: Any) -> Driven:
    """A tuner with its state; one that is driven already stays as it is."""
    return tuner if isinstance(tuner, Driven) else Driven(tuner)
