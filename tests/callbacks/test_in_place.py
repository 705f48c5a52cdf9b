"""An evaluation in the training environments: what is known of the score that it gives."""

from __future__ import annotations

import math
from typing import Any

import pytest

from keras_optix.callbacks.agent_in_place import AgentInPlaceEvaluation
from keras_optix.evaluators.returns import Measure, ReturnEvaluator, ReturnState
from keras_optix.evaluators.scorer import Scorer
from keras_optix.loop.adapter import PolicyRef
from keras_optix.records import EvalMetrics


class ToyAgent:
    policy_version = 3

    def set_state(self, state: Any) -> None:
        pass

    def pause_updates(self, paused: bool) -> None:
        pass


def test_the_number_of_pooled_windows_counts_where_no_episode_ends() -> None:
    """A standard error of three windows has two degrees of freedom; taken as exactly known, chance would confirm."""
    scorer = Scorer(ReturnEvaluator())
    scorer.state = ReturnState(Measure.RATE)
    agent: Any = ToyAgent()
    evaluation = AgentInPlaceEvaluation(agent, PolicyRef(0, 0, 3, dict), scorer, {}, episodes=3)
    for k, rate in enumerate((1.0, 1.2, 1.4)):
        assert not evaluation.pool.ready
        evaluation.pool.add(EvalMetrics(rate), k)
    assert evaluation.pool.ready
    estimate = evaluation.result().estimate
    assert (estimate.mean, estimate.stderr) == pytest.approx((1.2, 0.2 / math.sqrt(3)))
    assert (estimate.n, estimate.dof) == (3, 2.0)
