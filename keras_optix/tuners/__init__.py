"""Tuners change hyperparameters while training: by finite differences, by populations, or by a recorded schedule."""

from __future__ import annotations

from keras_optix.states import State
from keras_optix.tuners.backoff_optimizer import BackoffOptimizer
from keras_optix.tuners.base_optimizer import BaseOptimizer, TunerDecision
from keras_optix.tuners.pbt_optimizer import PBTOptimizer
from keras_optix.tuners.schedule import ReplaySchedule, Schedule, ScheduleStep
from keras_optix.tuners.search_space import Int, Linear, Log, OneMinusLog, SearchSpace

__all__ = [
    "BackoffOptimizer",
    "BaseOptimizer",
    "Int",
    "Linear",
    "Log",
    "OneMinusLog",
    "PBTOptimizer",
    "ReplaySchedule",
    "Schedule",
    "ScheduleStep",
    "SearchSpace",
    "State",
    "TunerDecision",
]
