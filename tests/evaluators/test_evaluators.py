"""Scores of windows, and windows that are no evidence."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping

import numpy as np
import pytest

from keras_optix.errors import ConfigurationError, StateError, UnknownNameError
from keras_optix.evaluators.base import BaseEvaluator, Scored
from keras_optix.evaluators.monitors import MonitorEvaluator
from keras_optix.evaluators.plans import EpisodePlan, LogPlan, WindowPlan
from keras_optix.evaluators.returns import GreedyEvaluator, ReturnEvaluator
from keras_optix.evaluators.score_pool import ScorePool
from keras_optix.evaluators.scorer import Scorer, ScorerState
from keras_optix.records import EpisodeRecord, EvalMetrics, WindowData
from keras_optix.states import read_state, to_json
from keras_optix.statistics.estimates import Estimate


def through_json(state: ScorerState) -> ScorerState:
    """What a point to resume from makes of a state."""
    return read_state(ScorerState, json.loads(json.dumps(to_json(state), allow_nan=False)), "scorer")


def window(*returns: float) -> WindowData:
    rows = np.ones((4, 2), np.float32)
    flags = np.zeros((4, 2), bool)
    valid = np.array([[True, True], [True, False], [True, True], [True, True]])
    episodes = tuple(EpisodeRecord(value, 3, 0, 0) for value in returns)
    return WindowData(rows, rows, rows, flags, flags, valid, [{}] * 4, 7, episodes)


def test_the_return_of_the_episodes_that_ended() -> None:
    metrics = ReturnEvaluator().score(window(10.0, 20.0, 30.0), {})
    assert (metrics.primary_score, metrics.episodes, metrics.window_id) == (20.0, 3, 7)
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


class Length(BaseEvaluator):
    def score(self, window_data: WindowData, train_diagnostics: Mapping[str, float]) -> EvalMetrics:
        return EvalMetrics(float(window_data.length))


def test_an_evaluator_of_ones_own_needs_no_more_than_a_score() -> None:
    evaluator = Length()
    assert not evaluator.plays_episodes
    assert evaluator.plan == WindowPlan(min_episodes=0, in_place=False)
    plan = evaluator.plan
    assert (plan.must_play, plan.deterministic, plan.per_epoch) == (False, False, False)
    scorer = Scorer(evaluator)
    scorer.reset()
    scorer.restore(scorer.read(through_json(scorer.save())))
    assert scorer.state is None
    assert scorer.take_notices() == []
    assert evaluator.score_episodes([EpisodeRecord(1.0, 3, 0, 0)]) is None


def steps(time_steps: int, environments: int = 2, reward: float = 0.5, episodes: int = 0) -> WindowData:
    """A window of steps that all are valid, with `episodes` that ended."""
    rows = np.full((time_steps, environments), reward, np.float32)
    flags = np.zeros(rows.shape, bool)
    ended = (EpisodeRecord(4.0, 3, 0, 0),) * episodes
    return WindowData(rows, rows, rows, flags, flags, ~flags, [{}] * time_steps, 3, ended)


def test_where_episodes_do_not_end_the_reward_rate_is_scored() -> None:
    evaluator = Scorer(ReturnEvaluator(5, rate_after=100))
    for _ in range(3):
        assert evaluator.measure(steps(32), {}) == EvalMetrics(None, {}, 3, episodes=0)
        assert (evaluator.plan.episodes_needed, evaluator.plays_episodes) == (5, True)
    assert evaluator.take_notices() == []
    assert evaluator.measure(steps(32), {}) == EvalMetrics(0.5, {"reward_rate": 0.5}, 3)
    assert (evaluator.plan.episodes_needed, evaluator.plays_episodes) == (0, False)
    (notice,) = evaluator.take_notices()
    assert "128 steps of each environment" in notice
    assert evaluator.take_notices() == []
    # An episode that ends later: a rate, still, so that there never are two measures in one history.
    assert evaluator.measure(steps(32, reward=2.0, episodes=4), {}).primary_score == 2.0
    assert evaluator.take_notices() == []


@pytest.mark.parametrize("environments", [1, 8])
def test_time_steps_count_however_many_environments_there_are(environments: int) -> None:
    evaluator = Scorer(ReturnEvaluator(rate_after=100))
    evaluator.measure(steps(99, environments), {})
    assert evaluator.plays_episodes
    evaluator.measure(steps(1, environments), {})
    assert not evaluator.plays_episodes


def test_one_episode_is_enough_to_score_returns_for_good() -> None:
    evaluator = Scorer(ReturnEvaluator(rate_after=100))
    evaluator.measure(steps(90), {})
    assert evaluator.measure(steps(90, episodes=1), {}).primary_score == 4.0
    for _ in range(5):
        assert evaluator.measure(steps(90), {}).primary_score is None
    assert evaluator.take_notices() == []
    assert evaluator.plays_episodes


def test_only_rows_that_are_transitions_count_in_the_rate() -> None:
    evaluator = Scorer(ReturnEvaluator(rate_after=1))
    data = window()
    data.rewards[~data.valid] = 1000.0
    assert evaluator.measure(data, {}).primary_score == 1.0
    data.valid[:] = False
    assert evaluator.measure(data, {}).primary_score is None


def test_a_new_run_decides_again() -> None:
    evaluator = Scorer(ReturnEvaluator(5, rate_after=10))
    evaluator.measure(steps(10), {})
    assert evaluator.plan.episodes_needed == 0
    evaluator.reset()
    assert (evaluator.plan.episodes_needed, evaluator.plays_episodes, evaluator.take_notices()) == (5, True, [])
    assert evaluator.measure(steps(9), {}).primary_score is None
    assert evaluator.measure(steps(9, episodes=1), {}).primary_score == 4.0


@pytest.mark.parametrize("before", [(), (6,), (6, 6)])
def test_the_state_of_a_return_evaluator_survives_json(before: tuple[int, ...]) -> None:
    first, second = Scorer(ReturnEvaluator(5, rate_after=10)), Scorer(ReturnEvaluator(5, rate_after=10))
    for time_steps in before:
        first.measure(steps(time_steps), {})
    second.restore(second.read(through_json(first.save())))
    assert second.plan == first.plan
    assert second.take_notices() == first.take_notices()
    for data in (steps(5), steps(5, episodes=1)):
        assert second.measure(data, {}) == first.measure(data, {})
        assert second.save() == first.save()


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"state": {"measure": "rate", "steps": 3.0}},
        {"state": {"measure": "median", "steps": 3.0}, "notices": []},
        {"state": {"measure": "rate", "steps": "three"}, "notices": []},
        {"state": {"measure": "rate", "steps": -3.0}, "notices": []},
        {"state": {"measure": "rate", "steps": 3.0}, "notices": [3]},
        {"state": {"measure": "rate", "steps": 3.0, "mood": 1}, "notices": []},
        {"state": None, "notices": []},
        None,
    ],
)
def test_a_state_that_is_none_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(StateError, match=r"(state of the ReturnEvaluator|scorer) (has no valid|has unknown|must be)"):
        Scorer(ReturnEvaluator()).read(read_state(ScorerState, values, "scorer", part=True))


def test_greedy_episodes_are_the_evaluation_and_windows_are_not() -> None:
    evaluator = GreedyEvaluator(episodes=4, every=7)
    assert evaluator.plan == EpisodePlan(4, 7)
    assert evaluator.plan.episodes_needed == 4
    assert evaluator.plan.deterministic
    assert evaluator.plays_episodes
    assert evaluator.score(window(10.0), {}) == EvalMetrics(None, {}, 7, episodes=0)
    metrics = evaluator.score_episodes([EpisodeRecord(value, 3, 0, 0) for value in (1.0, 2.0, 6.0)])
    assert (metrics.primary_score, metrics.episodes) == (3.0, 3)
    assert metrics.stderr == pytest.approx(math.sqrt(7.0 / 3.0))


@pytest.mark.parametrize(
    "make",
    [
        lambda: ReturnEvaluator(rate_after=0),
        lambda: ReturnEvaluator(rate_after=1e4),  # type: ignore[arg-type]
        lambda: GreedyEvaluator(episodes=1),
        lambda: GreedyEvaluator(every=0),
        lambda: GreedyEvaluator(every=True),
    ],
)
def test_options_of_evaluators_that_make_no_sense_are_refused(make: object) -> None:
    with pytest.raises(ConfigurationError, match="Received: "):
        make()  # type: ignore[operator]


def test_a_pool_follows_an_evaluator_that_needs_no_episodes_any_more() -> None:
    pool = ScorePool(min_episodes=5)
    pool.add(EvalMetrics(2.0), 0)
    assert not pool.ready
    pool.min_episodes = 0
    assert pool.ready


@pytest.mark.parametrize("evaluator", [ReturnEvaluator(), GreedyEvaluator()])
def test_the_score_of_episodes_is_the_mean_of_theirs(evaluator: ReturnEvaluator | GreedyEvaluator) -> None:
    episodes = [EpisodeRecord(total, 3, 0, 0) for total in (1.0, 2.0, 6.0)]
    assert evaluator.episode_scores(episodes) == [1.0, 2.0, 6.0]
    assert evaluator.score_episodes(episodes).primary_score == 3.0


@pytest.mark.parametrize("name", ["min_episodes", "in_place", "from_logs", "per_epoch", "to_json", "from_json"])
def test_a_name_that_the_loop_would_not_look_at_is_refused_where_it_is_set(name: str) -> None:
    with pytest.raises(UnknownNameError, match=rf"Own sets `{name}`.*(plan = optix|initial_state)"):
        type("Own", (BaseEvaluator,), {name: 1})
    with pytest.raises(UnknownNameError, match=f"Length sets `{name}`"):
        setattr(Length(), name, 1)


@pytest.mark.parametrize(
    "make",
    [
        lambda: WindowPlan(min_episodes=-1),
        lambda: WindowPlan(in_place=1),  # type: ignore[arg-type]
        lambda: EpisodePlan(episodes=0),
        lambda: EpisodePlan(5, every=0),
        lambda: EpisodePlan(5, deterministic="yes"),  # type: ignore[arg-type]
        lambda: LogPlan(per_epoch="no"),  # type: ignore[arg-type]
    ],
)
def test_plans_that_make_no_sense_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ConfigurationError, match="Received: "):
        make()


class Count(BaseEvaluator):
    """Scores a window by how many came before it."""

    def score(self, window_data: WindowData, train_diagnostics: Mapping[str, float]) -> EvalMetrics:
        return EvalMetrics(0.0)

    def initial_state(self) -> int:
        return 0

    def observe(self, state: int, window_data: WindowData, train_diagnostics: Mapping[str, float]) -> Scored:
        return Scored(EvalMetrics(float(state)), state + 1, f"{state} before" if state else None)


def test_one_evaluator_serves_several_runs_at_once() -> None:
    evaluator = Count()
    first, second = Scorer(evaluator), Scorer(evaluator)
    assert [first.measure(window(), {}).primary_score for _ in range(3)] == [0.0, 1.0, 2.0]
    assert second.measure(window(), {}).primary_score == 0.0
    assert first.take_notices() == ["1 before", "2 before"]
    again = Scorer(evaluator)
    again.restore(again.read(through_json(first.save())))
    assert again.measure(window(), {}).primary_score == 3.0
    assert first.measure_alone(window(), {}) == EvalMetrics(3.0)
    assert first.state == 3, "what a member played is no part of the run"
    with pytest.raises(StateError, match="state of the Count has no valid"):
        again.read(ScorerState("three"))


@pytest.mark.parametrize(
    "evaluator", [ReturnEvaluator(5, rate_after=10), MonitorEvaluator("val_loss"), GreedyEvaluator()]
)
def test_an_evaluator_of_the_library_is_only_a_configuration(evaluator: BaseEvaluator) -> None:
    before = dict(vars(evaluator))
    scorer = Scorer(evaluator)
    for number in range(12):
        scorer.measure(steps(5), {"val_loss": math.nan if number else 1.0})
    scorer.finish()
    assert vars(evaluator) == before
