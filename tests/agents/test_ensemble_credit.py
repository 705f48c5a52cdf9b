"""Members of an ensemble play alone in their turns or environments, and earn what they earn there."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import keras
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import keras_optix as optix
from keras_optix.agents.credit import Assignment
from keras_optix.agents.ensemble_head import RoutedActor
from keras_optix.evaluators.base import Scored
from keras_optix.evaluators.plans import LogPlan
from keras_optix.evaluators.scorer import Scorer
from keras_optix.experience.window import CollectedWindow
from keras_optix.testing import TwoRegimeBandit

PAYOFFS = (0.0, 1.0, 3.0)
SURE = 50.0  # a logit


class Manager:
    """A policy manager whose weights never change."""

    def __init__(self, agents: Sequence[optix.Agent], weights: Sequence[float]) -> None:
        self.agents, self.weights = agents, weights

    def subscribe(self, listener: Any) -> None:
        """Nothing to tell."""


def member(logits: Sequence[float], shape: tuple[int, ...] = (1,)) -> optix.PPOAgent:
    """An agent that chooses alike whatever it sees."""
    policy, value = (
        keras.Sequential([keras.layers.Input(shape), keras.layers.Dense(n, kernel_initializer="zeros")])
        for n in (len(logits), 1)
    )
    policy.layers[0].bias.assign(logits)
    return optix.PPOAgent(policy, value, seed=0)


def ensemble_of(logits: Sequence[Sequence[float]], weights: Sequence[float], **options: Any) -> optix.EnsembleAgent:
    agents = [member(each) for each in logits]
    return optix.EnsembleAgent(Manager(agents, weights), agents[0], **options)


def constant(members: int = 2, **options: Any) -> optix.EnsembleAgent:
    """Member i always takes arm i of three."""
    logits = SURE * np.eye(3)[:members]
    return ensemble_of(logits.tolist(), np.full(members, 1.0 / members).tolist(), **options)


def bandit(noise: float = 0.0, episode_length: int = 5, switch_every: int = 10**6) -> TwoRegimeBandit:
    return TwoRegimeBandit((PAYOFFS, PAYOFFS[::-1]), switch_every, noise, episode_length)


def source_of(ensemble: Any, env: Any = bandit, window_size: int = 4, **options: Any) -> Any:
    """The collector of a dataset."""
    optix.dataset_from_env(env, ensemble, window_size=window_size, **{"seed": 0} | options)
    return ensemble.sources[-1]


# Who plays


@pytest.mark.parametrize(
    ("credit", "members", "num_envs", "mode"),
    [
        ("auto", 3, 4, "slots"),
        ("auto", 3, 3, "turns"),
        ("auto", 1, 8, "none"),
        ("turns", 3, 4, "turns"),
        ("slots", 1, 2, "slots"),
        ("importance", 3, 9, "importance"),
    ],
)
def test_how_credit_is_given(credit: str, members: int, num_envs: int, mode: str) -> None:
    assert Assignment(members, credit, 2).mode(num_envs) == mode


def test_who_plays() -> None:
    slots = Assignment(2, "slots", 3)
    assert [slots.players(w, 5).tolist() for w in (0, 7)] == [[-1, -1, -1, 0, 1]] * 2
    turns = [Assignment(2, "turns", 3).players(w, 2).tolist() for w in range(15)]
    assert turns == [[p, p] for p in [-1] * 3 + [0] * 3 + [-1] * 3 + [1] * 3 + [-1] * 3]
    for credit in ("importance", "none"):
        assert Assignment(2, credit, 3).players(4, 2).tolist() == [-1, -1]


@pytest.mark.parametrize(
    "assignment", [Assignment(2, "slots", 3), Assignment(2, "turns", 3), Assignment(1, "turns", 1)]
)
def test_since_when_the_same_play(assignment: Assignment) -> None:
    """Against going back window by window."""
    for window in range(20):
        since = window
        while since and (assignment.players(since - 1, 4) == assignment.players(window, 4)).all():
            since -= 1
        assert assignment.unchanged_since(window, 4) == since


def test_invalid_credit() -> None:
    with pytest.raises(optix.ConfigurationError, match="credit"):
        constant(credit="fair")
    with pytest.raises(optix.ConfigurationError, match="solo_windows"):
        constant(solo_windows=0)
    ensemble = constant(credit="slots")
    with pytest.raises(optix.ConfigurationError, match="num_envs"):
        source_of(ensemble, num_envs=2)
    source_of(ensemble, num_envs=2, deterministic=True)
    source_of(ensemble, num_envs=3)


# Playing alone


def test_each_member_plays_an_environment_alone() -> None:
    ensemble = constant(credit="slots")
    collected = source_of(ensemble, num_envs=5, window_size=40).collect()
    actions, log_probs = collected.window.actions, collected.window.log_probs
    assert set(actions[:, :3].ravel()) == {0, 1}
    np.testing.assert_array_equal(actions[:, 3:], [[0, 1]] * 40)
    # The log-probabilities are those of who played: of the mixture a half, of a member one.
    np.testing.assert_allclose(log_probs, np.log([[0.5, 0.5, 0.5, 1.0, 1.0]] * 40), atol=1e-5)

    split = ensemble.split_window(collected)
    assert split.own is not None
    np.testing.assert_array_equal(split.own.actions, actions[:, :3])
    np.testing.assert_array_equal(split.own.observations, collected.window.observations[:, :3])
    assert [episode.env for episode in split.own.episodes] == [0, 1, 2] * 8
    for k, data in enumerate(split.members):
        assert data is not None
        np.testing.assert_array_equal(data.rewards, np.full((40, 1), PAYOFFS[k]))
        assert [(e.total_reward, e.env) for e in data.episodes] == [(5 * PAYOFFS[k], 3 + k)] * 8
        assert data.episode_returns.mean() == data.total_reward / 8
        assert data.infos == [[row[3 + k]] for row in collected.infos]
        assert data.dones.sum() == 8


@pytest.mark.parametrize("credit", ["none", "importance"])
def test_nobody_plays_alone_unless_asked_to(credit: str) -> None:
    """The control of the test above."""
    ensemble = constant(credit=credit)
    collected = source_of(ensemble, num_envs=5, window_size=40).collect()
    assert all(set(column) == {0, 1} for column in collected.window.actions.T)
    split = ensemble.split_window(collected)
    assert split.members == (None, None)
    assert split.own is not None
    assert split.own.episodes == collected.episodes
    np.testing.assert_array_equal(split.own.rewards, collected.window.rewards)


def test_members_take_turns_and_an_episode_that_changes_hands_counts_for_nobody() -> None:
    """Turns are of 8 steps, episodes of 5: of those that end at step 5, 10, ..., 95 every other one lies in a turn."""
    ensemble = constant(credit="turns", solo_windows=2)
    source = source_of(ensemble, num_envs=2)
    windows = [source.collect() for _ in range(24)]
    played: dict[int, list[float]] = {-1: [], 0: [], 1: []}
    for collected, player in zip(windows, [-1, -1, 0, 0, -1, -1, 1, 1] * 3, strict=True):
        split = ensemble.split_window(collected)
        parts = {-1: split.own, **dict(enumerate(split.members))}
        assert [who for who, data in parts.items() if data is not None] == [player]
        data = parts[player]
        assert data is not None
        np.testing.assert_array_equal(data.rewards, collected.window.rewards)
        if player >= 0:
            np.testing.assert_array_equal(collected.window.actions, player)
            np.testing.assert_allclose(collected.window.log_probs, 0.0, atol=1e-5)
        played[player] += [episode.total_reward for episode in data.episodes if episode.env == 0]
    begins_and_ends = [(end - 5, end) for end in range(5, 97, 5)]
    whole = [start // 8 for start, end in begins_and_ends if start // 8 == (end - 1) // 8]
    assert len(played[-1]) == sum(turn % 2 == 0 for turn in whole)
    assert played[0] == [0.0] * sum(turn % 4 == 1 for turn in whole)
    assert played[1] == [5.0] * sum(turn % 4 == 3 for turn in whole) != []
    # Control: some that ended in a member's turn were not its own.
    ended = [e for w in windows for e in w.episodes if w.window_id % 8 in (6, 7)]
    assert {5.0} < {episode.total_reward for episode in ended}


def test_a_turn_goes_on_where_a_run_goes_on() -> None:
    """The episode that runs when the collector is saved belongs to the turn in which it began."""
    ensemble = constant(credit="turns", solo_windows=2)
    source = source_of(ensemble)
    for _ in range(3):
        source.collect()
    saved = source.save()
    expected = [ensemble.split_window(source.collect()) for _ in range(6)]
    again = constant(credit="turns", solo_windows=2)
    restored = source_of(again, seed=7)
    assert restored.restore(*saved)
    found = [again.split_window(restored.collect()) for _ in range(6)]
    for one, other in zip(expected, found, strict=True):
        for data, same in zip((one.own, *one.members), (other.own, *other.members), strict=True):
            assert (data is None) == (same is None)
            if data is not None and same is not None:
                np.testing.assert_array_equal(data.actions, same.actions)
                assert data.episodes == same.episodes
    # Control: without the window that it began in, the same episode would not have been known to be the member's.
    assert [e.first_window for s in found if s.members[0] for e in s.members[0].episodes] == [2]


def test_the_mixture_plays_where_nothing_is_tried_out() -> None:
    """Greedy, the mixture takes the heaviest arm; member 0 alone would take the first."""
    ensemble = ensemble_of((SURE * np.eye(3)[:2]).tolist(), (0.25, 0.75), credit="turns", solo_windows=1)
    validation = source_of(ensemble, deterministic=True)
    training = source_of(ensemble, num_envs=2)
    assert [int(validation.collect().window.actions.max()) for _ in range(3)] == [1, 1, 1]
    assert [set(training.collect().window.actions.ravel()) == {0} for _ in range(3)] == [False, True, False]
    assert not isinstance(ensemble.make_actor(2), RoutedActor)
    assert ensemble.act(np.ones(1, np.float32), deterministic=True) == 1
    assert optix.evaluate_policy(ensemble, bandit, episodes=2, seed=0).primary_score == 5 * PAYOFFS[1]


def test_routing_works_in_every_space() -> None:
    """A tree of observations, MultiDiscrete actions, normalisers and networks that cannot be told apart by hand."""
    tree = spaces.Tuple([spaces.Box(-1.0, 1.0, (3,)), spaces.Dict(gear=spaces.Discrete(3, start=1))])
    for action_space, continuous in (
        (spaces.MultiDiscrete([3, 2]), "average"),
        (spaces.Box(-1.0, 1.0, (2,)), "average"),
        (spaces.Box(-1.0, 1.0, (2,)), "mixture"),
    ):
        agents = [optix.PPOAgent() for _ in range(2)]
        ensemble = optix.EnsembleAgent(Manager(agents, (0.5, 0.5)), agents[0], continuous=continuous, credit="slots")
        env = functools.partial(optix.testing.RandomEnv, tree, action_space)
        source = source_of(ensemble, env, num_envs=4, window_size=30)
        rng = np.random.default_rng(1)
        for one in agents:
            one.policy.set_weights([rng.normal(size=array.shape) for array in one.policy.get_weights()])
        collected = source.collect()
        for k, data in enumerate(ensemble.split_window(collected).members):
            assert data is not None
            head = agents[k].head
            rows = keras.tree.map_structure(lambda array: array[:, 0], data.observations)
            expected = head.distribution.log_prob(head.parameters(rows, training=False), data.actions[:, 0])
            np.testing.assert_allclose(collected.window.log_probs[:, 2 + k], expected, rtol=1e-3, atol=1e-3)


def test_the_info_of_a_vector_environment_stays_whole() -> None:
    class Counted(gymnasium.vector.VectorWrapper):
        """Hides the environments, so that it is stepped as one."""

    env = Counted(SyncVectorEnv([bandit] * 3, autoreset_mode=AutoresetMode.SAME_STEP))
    ensemble = constant()
    collected = source_of(ensemble, env).collect()
    assert isinstance(collected.infos[0], dict)
    data = ensemble.split_window(collected).members[1]
    assert data is not None
    assert data.infos[0] is collected.infos[0]
    env.close()


# Scores

LOGITS = ((0.0, 0.5, 1.0), (2.0, -1.0, 0.0))


def expected_pay(regime: int) -> np.ndarray:
    """Mean reward of a step of each member."""
    shares = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
    return shares @ np.array((PAYOFFS, PAYOFFS[::-1])[regime])


@pytest.mark.parametrize("credit", ["slots", "turns", "importance"])
def test_scores_are_what_members_earn(credit: str) -> None:
    """In both regimes. Each environment counts its own steps: a regime lasts 40 windows of 25, four turns of each."""
    ensemble = ensemble_of(LOGITS, (0.3, 0.7), credit=credit, solo_windows=5)
    env = functools.partial(bandit, 0.1, 5, 1000)
    source = source_of(ensemble, env, num_envs=6, window_size=25)
    evaluator = optix.ReturnEvaluator(min_episodes=2)
    scale = 1.0 if credit == "importance" else 5.0
    for regime in (0, 1):
        scores: list[list[float]] = [[], []]
        mixed = []
        for _ in range(40):
            collected = source.collect()
            mixed.append(float(collected.window.rewards.mean()))
            for mine, metrics in zip(scores, ensemble.member_metrics(collected, evaluator, {}), strict=True):
                if metrics is not None:
                    assert metrics.window_id == collected.window_id
                    mine.append(float(metrics.primary_score or 0.0))
        pay = expected_pay(regime)
        for k, mine in enumerate(scores):
            # A step varies by at most 1.3; each score is of 25 (slots, 150 in turns) steps, which episodes share out.
            steps = 25 * len(mine) * {"slots": 1, "turns": 6, "importance": 1}[credit]
            tolerance = 4 * 1.3 / np.sqrt(steps)
            assert np.mean(mine) / scale == pytest.approx(pay[k], abs=tolerance)
            # Controls: they are neither the other's nor the mixture's.
            assert abs(np.mean(mine) / scale - pay[1 - k]) > 2 * tolerance
        assert abs(np.mean(scores[0]) / scale - np.mean(mixed)) > 0.2


def test_an_importance_score_is_right_in_its_mean_and_wrong_where_rewards_come_late() -> None:
    """With one step for each arm the estimate is the member's mean by hand; a reward a step late is another's."""
    ensemble = ensemble_of(LOGITS, (0.5, 0.5), credit="importance")
    collected = source_of(ensemble, window_size=400).collect()
    metrics = ensemble.member_metrics(collected, optix.ReturnEvaluator(), {})
    actions = collected.window.actions[:, 0]
    shares = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
    ratios = shares / shares.mean(0)
    for k, found in enumerate(metrics):
        rho = ratios[k][actions]
        assert found is not None
        assert found.primary_score == pytest.approx((rho @ np.array(PAYOFFS)[actions]) / rho.sum(), rel=1e-4)
        assert found.metrics["effective_steps"] == pytest.approx(rho.sum() ** 2 / (rho @ rho), rel=1e-4)
        assert found.stderr is None
    # Control: one step late, rewards tell nothing of the actions, and members cannot be told apart.
    window = collected.window
    late = dataclasses.replace(collected, window=window._replace(rewards=np.roll(window.rewards, 1, 0)))
    first, second = (m.primary_score for m in ensemble.member_metrics(late, optix.ReturnEvaluator(), {}) if m)
    assert abs(first - second) < 0.3 < abs(np.subtract(*expected_pay(0)))


def test_an_importance_score_is_of_the_weights_that_acted() -> None:
    ensemble = ensemble_of(LOGITS, (0.5, 0.5), credit="importance")
    collected = source_of(ensemble, window_size=50).collect()
    before = ensemble.member_metrics(collected, optix.ReturnEvaluator(), {})
    ensemble.members[1].policy.layers[0].bias.assign([0.0, 0.0, 9.0])
    assert ensemble.member_metrics(collected, optix.ReturnEvaluator(), {}) == before
    following = ensemble.sources[0].collect()
    latest = ensemble.member_metrics(following, optix.ReturnEvaluator(), {})[1]
    assert latest is not None
    assert latest.primary_score == pytest.approx(PAYOFFS[2], abs=0.01)


def test_a_member_that_would_have_done_nothing_of_it_has_no_score() -> None:
    ensemble = ensemble_of((SURE * 10 * np.eye(3)[:2]).tolist(), (0.0, 1.0), credit="importance")
    first, second = ensemble.member_metrics(source_of(ensemble).collect(), optix.ReturnEvaluator(), {})
    assert first is None
    assert second is not None
    assert second.primary_score == PAYOFFS[1]


class Remembering(optix.BaseEvaluator):
    """Scores a window by its reward, and counts its calls."""

    def score(self, window_data: optix.WindowData, train_diagnostics: Mapping[str, float]) -> optix.EvalMetrics:
        return optix.EvalMetrics(window_data.total_reward + train_diagnostics["bonus"])

    def initial_state(self) -> int:
        return 0

    def observe(self, state: int, window_data: optix.WindowData, train_diagnostics: Mapping[str, float]) -> Scored:
        return Scored(self.score(window_data, train_diagnostics), state + 1)


def scores_of(ensemble: Any, collected: CollectedWindow, evaluator: Any) -> list[float | None]:
    found = ensemble.member_metrics(collected, evaluator, {"bonus": 100.0})
    return [None if metrics is None else metrics.primary_score for metrics in found]


def test_scores_leave_the_evaluator_as_it_was() -> None:
    ensemble = constant(credit="slots")
    source = source_of(ensemble, num_envs=3)
    first, second = source.collect(), source.collect()  # no episode ends in the first

    returns = Scorer(optix.ReturnEvaluator(rate_after=1))
    fresh = returns.save()
    assert scores_of(ensemble, first, returns) == [None, None]
    assert scores_of(ensemble, second, returns) == [0.0, 5.0]
    assert returns.save() == fresh, "a member decided what the mixture is scored by"
    assert returns.measure(first.window_data(), {}).primary_score is not None
    assert not returns.plays_episodes, "the rate is scored from now on"
    assert scores_of(ensemble, second, returns) == [0.0, 1.0]

    remembering = Scorer(Remembering())
    assert scores_of(ensemble, first, remembering) == [100.0, 104.0]
    assert remembering.state == 0
    assert scores_of(ensemble, second, optix.GreedyEvaluator()) == [0.0, 5.0]


@pytest.mark.parametrize("per_epoch", [False, True])
def test_logs_and_epochs_are_no_members(per_epoch: bool) -> None:
    ensemble = constant(credit="slots")
    evaluator = Remembering()
    evaluator.plan = LogPlan(per_epoch)
    assert scores_of(ensemble, source_of(ensemble, num_envs=3).collect(), evaluator) == [None, None]


def test_nobody_has_a_score_where_none_is_asked_for() -> None:
    ensemble = constant(credit="none")
    assert scores_of(ensemble, source_of(ensemble, num_envs=3).collect(), Remembering()) == [None, None]
