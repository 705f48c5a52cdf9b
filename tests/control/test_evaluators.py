"""Scores of windows, and windows that are no evidence."""

from __future__ import annotations

import numpy as np
import pytest

from keras_optix.control.evaluators import ReturnEvaluator
from keras_optix.control.evidence import Estimate
from keras_optix.control.records import EpisodeData, EpisodeRecord, EvalMetrics
from keras_optix.control.score_pool import ScorePool
from keras_optix.errors import ConfigurationError


def window(*returns: float) -> EpisodeData:
    rows = np.ones((4, 2), np.float32)
    flags = np.zeros((4, 2), bool)
    valid = np.array([[True, True], [True, False], [True, True], [True, True]])
    episodes = tuple(EpisodeRecord(value, 3, 0, 0) for value in returns)
    return EpisodeData(rows, rows, rows, flags, flags, valid, [{}] * 4, 7, episodes)


def test_the_return_of_the_episodes_that_ended() -> None:
    metrics = ReturnEvaluator().score(window(10.0, 20.0, 30.0), {})
    assert (metrics.primary_score, metrics.episodes, metrics.episode_id) == (20.0, 3, 7)
    assert metrics.stderr == pytest.approx(10.0 / np.sqrt(3))
    assert metrics.metrics["episode_return_max"] == 30.0


def test_no_episode_is_no_evidence_and_one_has_no_error() -> None:
    assert ReturnEvaluator().score(window(), {}) == EvalMetrics(None, {}, 7, episodes=0)
    assert ReturnEvaluator().score(window(4.0), {}).stderr is None
    with pytest.raises(ConfigurationError, match="min_episodes"):
        ReturnEvaluator(1)


def test_what_an_evaluator_sees() -> None:
    data = window(1.0)
    assert data.length == 7
    assert data.total_reward == 7.0
    assert not data.dones.any()


def test_windows_are_pooled_until_there_are_enough_episodes() -> None:
    pool = ScorePool(min_episodes=3)
    pool.add(ReturnEvaluator().score(window(1.0), {}), 0)
    pool.add(ReturnEvaluator().score(window(), {}), 1)
    assert not pool.ready
    pool.add(ReturnEvaluator().score(window(2.0, 6.0), {}), 2)
    assert pool.ready
    evaluation = pool.take(window_id=2, policy_version=4, env_steps=30)
    assert (evaluation.score.mean, evaluation.score.n) == (3.0, 3)
    assert evaluation.score.stderr == pytest.approx(np.std([1, 2, 6], ddof=1) / np.sqrt(3))
    assert not pool.ready
    with pytest.raises(ValueError, match="empty"):
        pool.take(window_id=2, policy_version=4, env_steps=30)


def test_windows_that_a_change_has_not_reached_are_left_out() -> None:
    pool = ScorePool()
    pool.add(EvalMetrics(1.0), 0)
    pool.drop_until(2)
    pool.add(EvalMetrics(100.0), 2)
    assert not pool.ready
    pool.add(EvalMetrics(3.0), 3)
    assert pool.take(window_id=3, policy_version=0, env_steps=0).score == Estimate(3.0, float("inf"), 1)
