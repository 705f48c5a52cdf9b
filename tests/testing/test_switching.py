"""Regimes that change by a clock: the physics, the payoffs and the moment of the change."""

import json

import gymnasium
import numpy as np
import pytest

from keras_optix.errors import ConfigurationError
from keras_optix.experience.savable import join_state, split_state
from keras_optix.testing import RegimeClock, SwitchingCartPole, TwoRegimeBandit


def record(env, actions, seed=None):
    """Steps `env` and resets it at ends; with `seed` it is reset first."""
    seen = [] if seed is None else [env.reset(seed=seed)[0].tolist()]
    for action in actions:
        observation, reward, terminated, truncated, _ = env.step(action)
        seen.append((observation.tolist(), reward, terminated, truncated))
        if terminated or truncated:
            seen.append(env.reset()[0].tolist())
    return seen


def drawn(count=400, seed=0):
    return np.random.default_rng(seed).integers(2, size=count)


def reloaded(state):
    values, arrays = split_state(state, "env")
    return join_state(json.loads(json.dumps(values)), arrays)


def balancing(observation):
    return int(observation[2] + 0.5 * observation[3] + 0.05 * observation[0] + 0.1 * observation[1] > 0)


def balanced(env):
    observation, _ = env.reset(seed=0)
    steps, ended = 0, False
    while not ended:
        observation, _, terminated, truncated, _ = env.step(balancing(observation))
        steps += 1
        ended = terminated or truncated
    return steps


def test_without_changes_it_is_cartpole_v1():
    expected = record(gymnasium.make("CartPole-v1"), drawn(), seed=7)
    assert record(SwitchingCartPole({}), drawn(), seed=7) == expected
    assert record(SwitchingCartPole({0: {"gravity": 9.0}}), drawn(), seed=7) != expected  # control


def test_it_truncates_itself():
    assert balanced(SwitchingCartPole({})) == balanced(gymnasium.make("CartPole-v1")) == 500
    assert balanced(SwitchingCartPole({}, max_steps=30)) == 30
    assert balanced(SwitchingCartPole({0: {"swap_actions": True}})) < 30  # what balances one regime fails in the other


def test_a_swapped_world_with_swapped_actions_is_the_same():
    swapped = SwitchingCartPole({0: {"swap_actions": True}})
    expected = record(gymnasium.make("CartPole-v1"), drawn(), seed=3)
    assert record(swapped, 1 - drawn(), seed=3) == expected
    assert record(SwitchingCartPole({0: {"swap_actions": True}}), drawn(), seed=3) != expected


def test_physics_follow_with_what_derives_from_them():
    plain = gymnasium.make("CartPole-v1").unwrapped
    plain.gravity, plain.force_mag, plain.length, plain.polemass_length = 12.0, 7.0, 0.8, 0.8 * plain.masspole
    changes = {0: {"gravity": 12, "force": 7.0}, 1: {}, 2: {"pole_length": 0.8}}
    env = SwitchingCartPole(changes)
    env.regime_clock.steps = 2
    assert record(env, drawn(20), seed=1) == record(plain, drawn(20), seed=1)


def test_a_change_takes_effect_with_its_step_in_the_middle_of_an_episode():
    env = SwitchingCartPole({3: {"swap_actions": True}, 5: {"swap_actions": False}})
    actions = [0, 1, 0, 1, 0, 1, 0]
    _, info = env.reset(seed=0)
    assert info["regime"] == 0
    regimes = [env.step(action)[4]["regime"] for action in actions]
    assert regimes == [0, 0, 0, 1, 1, 2, 2]
    swapping = SwitchingCartPole({3: {"swap_actions": True}, 5: {"swap_actions": False}})
    as_pushed = [0, 1, 0, 0, 1, 1, 0]
    assert record(swapping, actions, seed=0) == record(SwitchingCartPole({}), as_pushed, seed=0)


def test_copies_with_one_clock_change_together():
    clock = RegimeClock()
    first, second = (SwitchingCartPole({4: {"force": 5.0}}, clock) for _ in range(2))
    alone = SwitchingCartPole({4: {"force": 5.0}})
    for env in (first, second, alone):
        env.reset(seed=0)
    regimes = [env.step(0)[4]["regime"] for _ in range(3) for env in (first, second)]
    assert regimes == [0, 0, 0, 0, 1, 1]
    assert clock.steps == 6
    assert [alone.step(0)[4]["regime"] for _ in range(3)] == [0, 0, 0]
    assert second.reset()[1]["regime"] == 1


@pytest.mark.parametrize("before", [10, 150])
def test_a_loaded_cartpole_goes_on_identically(before):
    changes = {100: {"swap_actions": True}, 200: {"gravity": 5.0, "pole_length": 1.0}}
    env = SwitchingCartPole(changes, max_steps=40)
    record(env, drawn(before), seed=0)
    state = reloaded(env.save_state())
    expected = record(env, drawn(300, seed=1))
    clock = RegimeClock()
    copy = SwitchingCartPole(changes, clock, max_steps=40)
    clock.steps = 230  # loading sets it back, and the regime with it
    copy.reset(seed=9)
    copy.load_state(state)
    assert clock.steps == before
    assert record(copy, drawn(300, seed=1)) == expected
    assert record(SwitchingCartPole(changes, max_steps=40), drawn(300, seed=1), seed=0)[1:] != expected


def test_the_bandit_pays_by_its_regime():
    payoffs = ((1.0, 0.0, 0.5), (-1.0, 3.0, 0.5))
    env = TwoRegimeBandit(payoffs, switch_every=500, noise=0.2, episode_length=4)
    assert env.best_returns == (4.0, 12.0)
    _, info = env.reset(seed=0)
    assert info["regime"] == 0
    paid = {(regime, arm): [] for regime in (0, 1) for arm in range(3)}
    for step in range(3000):
        observation, reward, terminated, truncated, info = env.step(step % 3)
        assert observation.tolist() == [1.0]
        assert info["regime"] == step // 500 % 2
        assert (terminated, truncated) == (step % 4 == 3, False)
        paid[info["regime"], step % 3].append(reward)
        if terminated:
            env.reset()
    for (regime, arm), rewards in paid.items():
        assert np.mean(rewards) == pytest.approx(payoffs[regime][arm], abs=5 * 0.2 / np.sqrt(len(rewards)))
        assert np.std(rewards) == pytest.approx(0.2, rel=0.2)


def test_the_best_arm_of_a_regime_earns_its_best_return():
    env = TwoRegimeBandit(switch_every=10, noise=0.0)
    for regime in (0, 1, 0):
        env.reset(seed=0)
        assert sum(env.step(regime)[1] for _ in range(10)) == env.best_returns[regime] == 10.0


def test_a_loaded_bandit_goes_on_identically():
    env = TwoRegimeBandit(switch_every=30)
    record(env, drawn(25), seed=0)
    state = reloaded(env.save_state())
    expected = record(env, drawn(60))
    copy = TwoRegimeBandit(switch_every=30)
    copy.load_state(state)
    assert copy.regime_clock.steps == 25
    assert record(copy, drawn(60)) == expected


@pytest.mark.parametrize(
    "arguments",
    [
        {"changes": None},
        {"changes": {0: "swap_actions"}},
        {"changes": {-1: {}}},
        {"changes": {"0": {}}},
        {"changes": {0: {"friction": 1.0}}},
        {"changes": {0: {1: 1.0}}},
        {"changes": {0: {"swap_actions": 1}}},
        {"changes": {0: {"gravity": "9.8"}}},
        {"changes": {0: {"gravity": -1.0}}},
        {"changes": {0: {"force": 0.0}}},
        {"changes": {0: {"pole_length": True}}},
        {"changes": {}, "clock": 3},
        {"changes": {}, "max_steps": 0},
    ],
)
def test_bad_arguments_of_the_cartpole_raise(arguments):
    with pytest.raises(ConfigurationError):
        SwitchingCartPole(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"payoffs": ((1.0, 0.0),)},
        {"payoffs": ((1.0, 0.0), (0.0,))},
        {"payoffs": ((), ())},
        {"payoffs": (("a",), ("b",))},
        {"payoffs": ((1.0,), (float("nan"),))},
        {"payoffs": 1.0},
        {"switch_every": 0},
        {"noise": -0.1},
        {"episode_length": 0},
        {"clock": "wall"},
    ],
)
def test_bad_arguments_of_the_bandit_raise(arguments):
    with pytest.raises(ConfigurationError):
        TwoRegimeBandit(**arguments)
