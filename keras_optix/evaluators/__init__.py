"""Evaluators define what a score is and where it comes from."""

from __future__ import annotations

from keras_optix.evaluators.base import BaseEvaluator, Scored
from keras_optix.evaluators.evaluation import Evaluation
from keras_optix.evaluators.monitors import MonitorEvaluator
from keras_optix.evaluators.plans import EpisodePlan, EvaluationPlan, LogPlan, WindowPlan
from keras_optix.evaluators.played import EpisodeSteps, PlayedEpisode
from keras_optix.evaluators.returns import GreedyEvaluator, ReturnEvaluator
from keras_optix.states import State

__all__ = [
    "BaseEvaluator",
    "EpisodePlan",
    "EpisodeSteps",
    "Evaluation",
    "EvaluationPlan",
    "GreedyEvaluator",
    "LogPlan",
    "MonitorEvaluator",
    "PlayedEpisode",
    "ReturnEvaluator",
    "Scored",
    "State",
    "WindowPlan",
]
