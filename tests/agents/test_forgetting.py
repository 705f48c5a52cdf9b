"""After a shift: running statistics count for less and adapt sooner, replay data go, and acting stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from gymnasium import spaces

import keras_optix as optix
from keras_optix.agents.normalization import RunningMoments, moments_in
from keras_optix.testing import CountingEnv
from tests.small_dqn import identity_env, small_dqn

VECTOR = spaces.Box(-np.inf, np.inf, (2,))


class ReplayAgent(optix.Agent):
    """Keeps numbers, oldest first."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.kept = np.arange(10)

    def forget_replay(self, share: float) -> None:
        self.kept = self.kept[len(self.kept) - round(share * len(self.kept)) :]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_moments_after_forgetting_are_those_of_weighted_data(share: float) -> None:
    """Of old rows, each counts for `share` of a new one; until there are new ones, nothing moves."""
    rng = np.random.default_rng(0)
    old, new = rng.normal(5.0, 3.0, (200, 2)), rng.normal(-20.0, 0.5, (40, 2))
    moments = RunningMoments((2,))
    moments.update(old, np.ones(200, np.float32))
    before = moments(old).numpy()
    moments.forget(share)
    np.testing.assert_array_equal(moments(old), before)
    moments.update(new[:1], np.zeros(1, np.float32))  # a row that does not count
    np.testing.assert_array_equal(moments(old), before)
    moments.update(new, np.ones(40, np.float32))
    weights = np.concatenate([np.full(200, share), np.ones(40)])
    rows = np.concatenate([old, new])
    mean = np.average(rows, 0, weights)
    np.testing.assert_allclose(moments.mean, mean, rtol=1e-4)
    np.testing.assert_allclose(moments.variance, np.average((rows - mean) ** 2, 0, weights), rtol=1e-3)
    assert float(moments.count) == pytest.approx(200 * share + 40)


def test_a_new_world_counts_for_half_after_the_share_of_the_data_seen() -> None:
    """As `AfterShift` says; without forgetting it takes as many rows as there were."""
    for share, rows in ((0.1, 100), (1.0, 1000)):
        moments = RunningMoments((1,))
        moments.update(np.zeros((1000, 1)), np.ones(1000, np.float32))
        moments.forget(share)
        moments.update(np.full((rows, 1), 8.0), np.ones(rows, np.float32))
        assert float(moments.mean[0]) == pytest.approx(4.0)


def trained_agent(**options: Any) -> tuple[optix.PPOAgent, Any]:
    agent = optix.PPOAgent(update_epochs=1, normalize_observations=True, normalize_rewards=True, seed=0, **options)
    agent.compile(optimizer="adam", jit_compile=False)
    dataset = optix.dataset_from_env(CountingEnv, agent, window_size=16, num_envs=2, seed=0)
    agent.fit(dataset, steps_per_epoch=3, verbose=0)
    return agent, dataset


def test_an_agent_forgets_both_kinds_of_statistics_and_acts_as_before() -> None:
    agent, dataset = trained_agent()
    assert {float(moments.count) for moments in moments_in(agent)} == {96.0}
    assert len(moments_in(agent)) == 2
    observations = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    before, version, parameters = agent.get_state(), agent.policy_version, agent(observations).numpy()
    agent.after_shift(optix.AfterShift(0.25))
    assert [float(moments.count) for moments in moments_in(agent)] == [24.0, 24.0]
    assert agent.policy_version == version
    np.testing.assert_array_equal(agent(observations), parameters)
    assert sum(not np.array_equal(array, before[name]) for name, array in agent.get_state().items()) == 2
    agent.fit(dataset, steps_per_epoch=1, verbose=0)
    assert [float(moments.count) for moments in moments_in(agent)] == [56.0, 56.0]
    agent.set_state(before)
    assert {float(moments.count) for moments in moments_in(agent)} == {96.0}


def test_actions_stay_the_same_through_the_lowered_policy() -> None:
    agent, _ = trained_agent()
    actor = agent.make_actor(50)
    observations = np.random.default_rng(1).normal(size=(50, 2)).astype(np.float32)
    noise = actor.noise.draw(np.random.default_rng(0), (50,))
    found = []
    for _ in range(2):
        actor.set_weights(agent.policy_params().arrays)
        found.append(actor.act([observations], noise)[:2])
        agent.after_shift(optix.AfterShift(0.0))
    for before, after in zip(*found, strict=True):
        np.testing.assert_array_equal(before, after)


def test_forgetting_costs_no_retrace() -> None:
    traces = 0

    class Counting(optix.PPOAgent):
        def train_step(self, window: optix.Window) -> dict[str, Any]:
            nonlocal traces
            traces += 1
            return super().train_step(window)

    agent = Counting(update_epochs=1, normalize_observations=True)
    agent.compile(optimizer="adam", jit_compile=False)
    dataset = optix.dataset_from_env(CountingEnv, agent, window_size=8, seed=0)
    for _ in range(3):
        agent.fit(dataset, steps_per_epoch=1, verbose=0)
        agent.after_shift(optix.AfterShift(0.5))
    assert traces == 1
    assert float(moments_in(agent)[0].count) == 0.5 * (8 + 0.5 * (8 + 0.5 * 8))


def test_replay_data_are_forgotten_by_an_agent_that_keeps_them() -> None:
    agent = ReplayAgent()
    agent.bind(VECTOR, spaces.Discrete(2))
    agent.after_shift(optix.AfterShift())
    assert list(agent.kept) == list(range(10))
    agent.after_shift(optix.AfterShift(replay=0.3))
    assert list(agent.kept) == [7, 8, 9]
    agent.after_shift(optix.AfterShift(replay=0.0))
    assert list(agent.kept) == []


def test_an_agent_without_replay_data_refuses_to_forget_them_and_forgets_nothing() -> None:
    agent = optix.PPOAgent(normalize_rewards=True)
    (moments,) = moments_in(agent)
    moments.update(np.ones(96), np.ones(96, np.float32))
    after = optix.AfterShift(0.1, replay=0.5)
    for call in (agent.check_after_shift, agent.after_shift):
        with pytest.raises(optix.ConfigurationError, match=r"PPOAgent keeps no replay.*Received: replay=0.5\. Leave"):
            call(after)
    assert float(moments.count) == 96.0
    with pytest.raises(NotImplementedError, match="PPOAgent must override"):
        agent.forget_replay(0.5)
    agent.check_after_shift(optix.AfterShift(0.1))


class Members:
    """A policy manager as an ensemble sees it."""

    def __init__(self, *agents: optix.Agent) -> None:
        self.agents = agents
        self.weights = [1.0 / len(agents)] * len(agents)

    def subscribe(self, listener: Callable[[Any], None]) -> None:
        pass


def test_an_ensemble_hands_it_on_to_its_members_once_each() -> None:
    members = [
        optix.PPOAgent(normalize_observations=True, normalize_rewards=True),
        ReplayAgent(normalize_observations=True),
    ]
    ensemble = optix.EnsembleAgent(Members(*members), members[0])
    ensemble.bind(VECTOR, spaces.Discrete(2))
    moments = moments_in(ensemble)
    assert len(moments) == 3
    for each in moments:
        each.update(np.ones((8, *each.mean.shape)), np.ones(8, np.float32))
    ensemble.after_shift(optix.AfterShift(0.5, replay=0.2))
    assert [float(each.count) for each in moments] == [4.0, 4.0, 4.0]
    assert list(members[1].kept) == [8, 9]
    alone = optix.EnsembleAgent(Members(members[0]), members[0])
    with pytest.raises(optix.ConfigurationError, match="EnsembleAgent keeps no replay"):
        alone.check_after_shift(optix.AfterShift(replay=0.2))


def test_an_agent_that_knows_no_environment_yet_has_nothing_to_forget() -> None:
    agent = optix.PPOAgent(normalize_rewards=True)
    agent.after_shift(optix.AfterShift())
    assert float(moments_in(agent)[0].count) == 0.0
    assert moments_in(keras.Sequential([keras.layers.Input((2,)), RunningMoments((2,))])) != []


def test_the_spaces_of_an_agent() -> None:
    agent = optix.PPOAgent()
    with pytest.raises(optix.errors.StateError, match="knows no environment"):
        _ = agent.env_spaces
    agent.bind(VECTOR, spaces.Discrete(2))
    assert agent.env_spaces == (VECTOR, spaces.Discrete(2))


def test_exploration_begins_again_by_the_share_that_counts() -> None:
    agent = small_dqn(exploration_env_steps=200, initial_epsilon=1.0, epsilon=0.2)
    agent.forget_exploration(0.5)  # knows no environment yet: there is nothing to forget
    fit = {"epochs": 1, "verbose": 0}
    agent.fit(optix.dataset_from_env(identity_env, agent, window_size=30, seed=0), steps_per_epoch=10, **fit)
    assert (agent.explored_env_steps, agent.exploration_left) == (300, -100)
    for share, explored, epsilon in ((1.0, 200, 0.2), (0.5, 100, 0.6), (0.0, 1, 0.996)):
        agent.after_shift(optix.AfterShift(exploration=share))
        assert agent.explored_env_steps == explored
        assert agent.exploration_left == 200 - explored
        assert float(agent.head.weight.numpy()[0]) == pytest.approx(epsilon)
    # Not 0: an agent that never trained would take the exploration of the state that it is given, which is over.
    state = agent.get_state()
    agent.set_state(state)
    assert agent.run_variables
    agent.fit(optix.dataset_from_env(identity_env, agent, window_size=99, seed=0), steps_per_epoch=1, **fit)
    assert float(agent.head.weight.numpy()[0]) == pytest.approx(0.6)


def test_an_agent_whose_exploration_does_not_end_refuses_to_begin_it_again() -> None:
    agent = optix.PPOAgent()
    after = optix.AfterShift(exploration=0.5)
    for call in (agent.check_after_shift, agent.after_shift):
        with pytest.raises(
            optix.ConfigurationError, match=r"PPOAgent has no exploration.*Received: exploration=0\.5\."
        ):
            call(after)
    with pytest.raises(NotImplementedError, match="PPOAgent must override"):
        agent.forget_exploration(0.5)
    with pytest.raises(optix.ConfigurationError, match="exploration"):
        optix.AfterShift(exploration=1.5)


def test_weights_that_are_restored_after_a_change_point_cost_no_second_share() -> None:
    assert optix.AfterShift(0.3, replay=0.1, exploration=0.0).for_restored == optix.AfterShift(0.3)
