"""Any evaluator scores held-out episodes; metrics of infos."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from keras_optix.errors import ArgumentError, ConfigurationError
from keras_optix.evaluators.base import BaseEvaluator
from keras_optix.evaluators.held_out import HeldOutEvaluator
from keras_optix.evaluators.monitors import MonitorEvaluator
from keras_optix.evaluators.plans import EpisodePlan, WindowPlan
from keras_optix.evaluators.played import EpisodeSteps, PlayedEpisode, info_at, window_of, with_infos
from keras_optix.evaluators.returns import GreedyEvaluator, ReturnEvaluator
from keras_optix.records import EpisodeRecord, EvalMetrics, WindowData


def episode(total: float, name: str = "", info: Any = None, length: int = 1) -> PlayedEpisode:
    """An episode whose first step earns everything."""
    steps = EpisodeSteps(
        {"place": np.arange(length)[:, None]},
        np.zeros(length, np.int64),
        np.array([total] + [0.0] * (length - 1), np.float32),
        True,
        False,
        [{"t": t} for t in range(length)],
    )
    return PlayedEpisode.of(EpisodeRecord(total, length, 0, 0), info or {}, env_name=name, steps=steps)


class Windows(BaseEvaluator):
    """Scores windows; its answer may be anything."""

    def __init__(self, answer: Any = None) -> None:
        self.answer = answer

    def score(self, window_data: Any, train_diagnostics: Any) -> Any:
        return window_data.total_reward if self.answer is None else self.answer


# One environment


def test_the_plan_says_how_many_episodes_and_how_they_act() -> None:
    greedy = HeldOutEvaluator(GreedyEvaluator(6)).plan
    assert (greedy.episodes, greedy.every, greedy.acting, greedy.together) == (6, None, "greedy, held-out", False)
    returns = HeldOutEvaluator(ReturnEvaluator(7)).plan
    assert (returns.episodes, returns.deterministic, returns.when_needed) == (7, True, True)
    windows = HeldOutEvaluator(Windows()).plan
    assert (windows.episodes, windows.together, windows.episodes_needed) == (10, True, 0)

    class Sampled(Windows):
        plan = EpisodePlan(3, every=4, deterministic=False)

    sampled = HeldOutEvaluator(Sampled()).plan
    assert (sampled.episodes, sampled.every, sampled.acting) == (3, 4, "sampled, held-out")


class InPlace(Windows):
    plan = WindowPlan(in_place=True)


@pytest.mark.parametrize(
    ("evaluator", "words"),
    [
        (MonitorEvaluator("val_loss"), r"this evaluator scores a log of `fit` instead"),
        (ReturnEvaluator(in_place=True), r"`in_place` says: in the training environments"),
        (InPlace(), r"`in_place` says: in the training environments"),
    ],
)
def test_contradictions_are_refused(evaluator: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        HeldOutEvaluator(evaluator)


def test_an_evaluator_of_episodes_scores_as_without_it() -> None:
    episodes = [episode(total) for total in (1.0, 2.0, 6.0)]
    assert HeldOutEvaluator(GreedyEvaluator()).measure_episodes(episodes) == GreedyEvaluator().score_episodes(episodes)
    assert HeldOutEvaluator(ReturnEvaluator()).episode_scores(episodes) == [1.0, 2.0, 6.0]


def test_an_evaluator_of_windows_gets_one() -> None:
    scored = HeldOutEvaluator(Windows()).measure_episodes([episode(1.0), episode(2.0, length=3)])
    assert scored == EvalMetrics(3.0)
    given = EvalMetrics(5.0, stderr=0.5)
    assert HeldOutEvaluator(Windows(given)).measure_episodes([episode(1.0)]) is given


def test_the_window_of_episodes_of_several_lengths() -> None:
    data = window_of([episode(1.0, length=1), episode(2.0, length=3)])
    assert data.valid.tolist() == [[True, True], [False, True], [False, True]]
    assert data.terminated.tolist() == [[True, False], [False, False], [False, True]]
    assert not data.truncated.any()
    assert data.rewards.tolist() == [[1.0, 2.0], [0.0, 0.0], [0.0, 0.0]]
    assert data.observations["place"].tolist() == [[[0], [0]], [[0], [1]], [[0], [2]]]
    assert data.infos == [[{"t": 0}, {"t": 0}], [{}, {"t": 1}], [{}, {"t": 2}]]
    assert data.episode_returns.tolist() == [1.0, 2.0]
    assert data.length == 4


# Several environments


def test_the_score_is_stratified() -> None:
    """Environments differ by 100, episodes within one by 2: only the latter is noise."""
    episodes = [episode(total, name) for name, level in (("a", 0.0), ("b", 100.0)) for total in (level - 1, level + 1)]
    metrics = HeldOutEvaluator(GreedyEvaluator(), ["a", "b"]).measure_episodes(episodes)
    assert metrics is not None
    assert metrics.primary_score == 50.0
    assert metrics.episodes == 4
    assert metrics.metrics == {"eval/a": 0.0, "eval/b": 100.0}
    assert metrics.stderr == pytest.approx(math.sqrt(1.0 + 1.0) / 2.0)  # each: sqrt(2) / sqrt(2)
    pooled = GreedyEvaluator().score_episodes(episodes).stderr
    assert pooled is not None
    assert pooled > 20.0
    assert metrics.episode_returns is not None
    assert metrics.episode_returns.tolist() == [-1.0, 1.0, 99.0, 101.0]


def test_the_stratified_error_is_that_of_the_mean() -> None:
    """Over 2,000 evaluations, the mean of the squared error is the variance of the score, within 10 %.

    The relative standard deviation of a variance from 2,000 scores is 3.2 %, of the mean of the squared errors less:
    10 % are three of them, so the rate of false failures is below 0.3 %; the seed is fixed.
    """
    rng, scores, errors = np.random.default_rng(1), [], []
    evaluator = HeldOutEvaluator(GreedyEvaluator(), ["a", "b", "c"])
    for _ in range(2_000):
        episodes = [
            episode(value, name)
            for name, sd in (("a", 0.5), ("b", 1.0), ("c", 3.0))
            for value in rng.normal(0.0, sd, 5).tolist()
        ]
        metrics = evaluator.measure_episodes(episodes)
        assert metrics is not None
        assert metrics.primary_score is not None
        assert metrics.stderr is not None
        scores.append(metrics.primary_score)
        errors.append(metrics.stderr**2)
    assert np.mean(errors) == pytest.approx(np.var(scores), rel=0.1)


def test_an_unknown_error_stays_unknown() -> None:
    episodes = [episode(1.0, "a"), episode(2.0, "b")]
    metrics = HeldOutEvaluator(Windows(), ["a", "b"]).measure_episodes(episodes)
    assert metrics == EvalMetrics(1.5, {"eval/a": 1.0, "eval/b": 2.0})

    class Silent(Windows):
        def score(self, window_data: Any, train_diagnostics: Any) -> Any:
            return None if window_data.total_reward > 1.5 else 1.0

    assert HeldOutEvaluator(Silent(), ["a", "b"]).measure_episodes(episodes) is None


# Metrics


def test_a_metric_takes_the_place_of_the_return() -> None:
    episodes = [episode(9.0, info={"profit": 1}), episode(9.0, info={"profit": np.array([4.0])})]
    for evaluator in (GreedyEvaluator(metric="profit"), ReturnEvaluator(metric=lambda info: np.sum(info["profit"]))):
        metrics = evaluator.score_episodes(episodes)
        assert metrics.primary_score == 2.5
        assert metrics.stderr == pytest.approx(1.5)
        assert metrics.metrics["episode_return"] == 9.0
        assert evaluator.episode_scores(episodes) == [1.0, 4.0]
        assert not evaluator.scores_returns_in(evaluator.initial_state())
    assert GreedyEvaluator().scores_returns_in(None)
    assert GreedyEvaluator().in_training() is None
    assert GreedyEvaluator(metric="profit").in_training().metric == "profit"


@pytest.mark.parametrize(
    ("metric", "kind", "words"),
    [
        ("sharpe", ConfigurationError, r"no such key\. Received: metric='sharpe'\. Keys are: 'name', 'nan', 'profit'"),
        ("name", ArgumentError, r"info\['name'\] of an episode's last step must be a number.*a string"),
        ("nan", ConfigurationError, r"must be a finite number\. Received: metric=nan"),
        (lambda info: None, ArgumentError, r"The function .* must be a number\. Received: metric=None"),
    ],
)
def test_a_metric_that_cannot_be_read(metric: Any, kind: Any, words: str) -> None:
    played = episode(1.0, info={"profit": 1.0, "name": "x", "nan": math.nan})
    with pytest.raises(kind, match=words):
        GreedyEvaluator(metric=metric).score_episodes([played])
    for wrong in (5, ["profit"], ""):
        with pytest.raises(ConfigurationError, match=r"`metric` must"):
            GreedyEvaluator(metric=wrong)  # type: ignore[arg-type]


class Told(gymnasium.Env[Any, Any]):
    """Episodes of 3 steps; the info has the number of the step, and of the episode."""

    observation_space = gymnasium.spaces.Box(0.0, 1.0, (1,))
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, number: int = 0) -> None:
        self.number = self.episodes = 10 * number

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.episodes, self.t = self.episodes + 1, 0
        return np.zeros(1, np.float32), {"step": 0}

    def step(self, action: Any) -> Any:
        self.t += 1
        done = self.t == 3 + self.number // 10
        info = {"step": self.t, "episode": self.episodes} | ({"profit": 1.5 * self.t} if done else {})
        return np.zeros(1, np.float32), 1.0, done, False, info


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_the_last_info_is_found_in_vector_environments(mode: AutoresetMode) -> None:
    """Environment 0 has episodes of 3 steps, environment 1 of 4: in the fourth row both forms differ."""
    env = SyncVectorEnv([lambda: Told(0), lambda: Told(1)], autoreset_mode=mode)
    env.reset(seed=0)
    rows = [env.step(np.zeros(2, np.int64)) for _ in range(4)]
    infos, ended = [row[4] for row in rows], np.stack([row[2] for row in rows])
    assert ended.tolist() == [[False, False], [False, False], [True, False], [False, True]]
    assert info_at(infos[2], 0, ended=True) == {"step": 3, "episode": 1, "profit": 4.5}
    assert info_at(infos[2], 1, ended=False) == {"step": 3, "episode": 11}
    assert info_at(infos[3], 1, ended=True) == {"step": 4, "episode": 11, "profit": 6.0}
    data = data_of(infos, ended, [EpisodeRecord(3.0, 3, 0, 0, 0), EpisodeRecord(4.0, 4, 0, 0, 1)])
    assert ReturnEvaluator(metric="profit").score(data, {}).primary_score == pytest.approx(5.25)


def data_of(infos: Any, ended: np.ndarray, episodes: Any) -> WindowData:
    zeros, no = np.zeros(ended.shape), np.zeros(ended.shape, bool)
    return WindowData(zeros, zeros, zeros, ended, no, ~no, infos, 3, tuple(episodes))


def test_other_forms_of_infos() -> None:
    old = {"final_info": np.array([None, {"profit": 2.0}], object), "_final_info": np.array([False, True])}
    assert info_at(old, 1, ended=True) == {"profit": 2.0}
    assert info_at([{"a": 1}, {"final_info": {"profit": 3.0}}], 1, ended=True) == {"profit": 3.0}
    assert info_at([{"a": 1}, {"b": 2}], 1, ended=True) == {"b": 2}
    assert info_at({"shared": 7, "each": np.array([1, 2])}, 1, ended=False) == {"shared": 7, "each": 2}


def test_episodes_that_are_left_out_do_not_shift_the_others() -> None:
    """Environment 0 ends in rows 0 and 2; the first of these episodes began before, and is not counted."""
    ended = np.array([[True, False], [False, True], [True, False]])
    infos = [[{"t": t, "i": i} for i in range(2)] for t in range(3)]
    kept = with_infos(data_of(infos, ended, [EpisodeRecord(0.0, 1, 0, 0, 1), EpisodeRecord(0.0, 2, 0, 0, 0)]))
    assert [played.info for played in kept if isinstance(played, PlayedEpisode)] == [{"t": 1, "i": 1}, {"t": 2, "i": 0}]
    again = with_infos(data_of(infos, ended, kept))
    assert again == kept
    assert again[0] is kept[0]


def test_a_metric_waits_for_the_end_of_an_episode() -> None:
    evaluator = ReturnEvaluator(rate_after=4, metric="profit")
    nothing = data_of([[{}]] * 3, np.zeros((3, 1), bool), [])
    state, notices = evaluator.initial_state(), []
    for _ in range(4):
        scored = evaluator.observe(state, nothing, {})
        state, notices = scored.state, [*notices, scored.notice]
        assert scored.metrics.primary_score is None
    assert [notice is not None for notice in notices] == [False, True, False, False]
    assert "A metric is read when an episode ends" in notices[1]


def test_a_member_of_an_ensemble_is_scored_by_what_it_did() -> None:
    ended = np.array([[True]])
    data = data_of([[{"profit": 8.0}]], ended, [EpisodeRecord(2.0, 1, 0, 0, 0)])
    for evaluator, score in ((GreedyEvaluator(metric="profit"), 8.0), (GreedyEvaluator(), 2.0), (Windows(6.0), 6.0)):
        for scored_by in (evaluator, HeldOutEvaluator(evaluator)):
            metrics = scored_by.measure_member(scored_by.initial_state(), data, {})
            assert metrics is not None
            assert metrics.primary_score == score
