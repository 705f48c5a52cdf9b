"""The synthetic market: what it pays, what it shows, and that each regime has its own winner."""

import itertools
import json
import math
from collections import Counter

import numpy as np
import pytest

from keras_optix.errors import ConfigurationError
from keras_optix.experience.savable import join_state, split_state
from keras_optix.testing import (
    MarketEnv,
    RegimeClock,
    jump_fading_position,
    momentum_position,
    reversion_position,
)

SPECIALISTS = {"trending": momentum_position, "ranging": reversion_position, "volatile": jump_fading_position}
RETURNS = slice(0, 8)


def returns_of(regime, position, episodes=20, **kwargs):
    env = MarketEnv((regime,), **kwargs)
    returns = []
    for episode in range(episodes):
        observation, _ = env.reset(seed=episode)
        total, ended = 0.0, False
        while not ended:
            observation, reward, _, ended, _ = env.step(int(position(observation)) + 1)
            total += reward
        returns.append(total)
    return np.array(returns)


@pytest.mark.parametrize("regime", SPECIALISTS)
def test_each_specialist_beats_the_others_in_its_regime(regime):
    payoffs = {name: returns_of(regime, position) for name, position in SPECIALISTS.items()}
    best = payoffs.pop(regime)
    assert best.mean() > 3.0
    assert best.mean() > 5.0 * best.std(ddof=1) / math.sqrt(len(best))
    for other in payoffs.values():
        ahead = best - other  # the same prices, so the pairs belong together
        assert ahead.mean() > 5.0 * ahead.std(ddof=1) / math.sqrt(len(ahead))
        assert other.mean() < 1.0


@pytest.mark.parametrize("regime", SPECIALISTS)
def test_staying_flat_pays_nothing_and_holding_nothing_on_average(regime):
    assert not returns_of(regime, lambda _: 0.0).any()
    held = returns_of(regime, lambda _: 1.0, episodes=40)
    assert held.mean() < 4.0 * held.std(ddof=1) / math.sqrt(len(held))


def test_the_reward_is_the_return_of_the_position_less_costs():
    env = MarketEnv(schedule={0: "trending", 100: "volatile"}, episode_length=200, cost=0.02, continuous=True)
    _, info = env.reset(seed=3)
    assert info == {"regime": "trending", "price": 100.0}
    generator, price, position = np.random.default_rng(0), info["price"], 0.0
    for step in range(200):
        action = generator.uniform(-1.5, 1.5, 1).astype(np.float32)
        observation, reward, terminated, truncated, info = env.step(action)
        chosen = min(1.0, max(-1.0, float(action[0])))
        change = 100.0 * math.log(info["price"] / price)
        carry = 0.06 * abs(chosen) if step >= 100 else 0.0
        assert reward == pytest.approx(chosen * change - 0.02 * abs(chosen - position) - carry)
        assert observation[7] == pytest.approx(5.0 * change, abs=1e-5)
        assert observation[8] == pytest.approx(chosen)
        assert info["regime"] == ("volatile" if step >= 100 else "trending")
        assert (terminated, truncated) == (False, step == 199)
        price, position = info["price"], chosen


def test_the_observation_shows_averages_of_past_prices():
    env = MarketEnv(("volatile",), episode_length=400)
    env.reset(seed=1)
    prices, shown = [100.0], []
    for _ in range(400):
        observation, _, _, _, info = env.step(1)
        prices.append(info["price"])
        shown.append(observation)
    log_prices = 100.0 * np.log(prices)
    changes = np.diff(log_prices)
    np.testing.assert_allclose(shown[-1][RETURNS], 5.0 * changes[-8:], rtol=1e-4, atol=1e-4)
    ages = np.arange(400)[::-1]
    average = (0.05 * 0.95**ages * log_prices[1:]).sum()
    assert shown[-1][9] == pytest.approx(5.0 * (log_prices[-1] - average), abs=1e-3)
    assert shown[-1][10] == pytest.approx(5.0 * math.sqrt((0.1 * 0.9**ages * changes**2).sum()), abs=1e-3)
    assert env.observation_space.contains(shown[-1])


def test_actions_do_not_move_prices():
    def prices(action):
        env = MarketEnv(regime_length=50)
        env.reset(seed=5)
        return [env.step(action)[4]["price"] for _ in range(250)]

    assert prices(0) == prices(1) == prices(2)


def test_drawn_regimes_have_the_mean_length_and_agree_between_copies():
    def regimes(regime_seed, steps=60_000):
        env = MarketEnv(regime_length=100, episode_length=steps, regime_seed=regime_seed)
        env.reset(seed=0)
        return [env.step(1)[4]["regime"] for _ in range(steps)]

    first = regimes(0)
    changes = sum(a != b for a, b in itertools.pairwise(first))
    assert abs(changes - 600) < 5 * math.sqrt(600)
    assert all(abs(count - 20_000) < 4_000 for count in Counter(first).values())
    assert first[:5_000] == regimes(0, 5_000) != regimes(1, 5_000)


def test_environments_that_share_a_clock_are_in_the_same_regime():
    clock = RegimeClock()
    schedule = {0: "ranging", 10: "volatile", 15: "trending"}
    first, second = (MarketEnv(schedule=schedule, clock=clock) for _ in range(2))
    first.reset(seed=0)
    for _ in range(9):
        assert first.step(1)[4]["regime"] == "ranging"
    assert second.reset(seed=1)[1]["regime"] == "ranging"
    assert second.step(1)[4]["regime"] == "ranging"
    assert first.step(1)[4]["regime"] == "volatile"
    assert MarketEnv(schedule=schedule).reset(seed=0)[1]["regime"] == "ranging"  # control: a clock of its own


@pytest.mark.parametrize("continuous", [False, True])
def test_a_loaded_market_goes_on_identically(continuous):
    def make():
        env = MarketEnv(regime_length=30, episode_length=60, continuous=continuous)
        env.action_space.seed(0)
        return env

    def record(env, steps):
        seen = []
        for _ in range(steps):
            action = np.array([0.3], np.float32) if continuous else 2
            observation, reward, _, truncated, info = env.step(action)
            seen.append((observation.tolist(), reward, truncated, info))
            if truncated:
                seen.append(env.reset()[0].tolist())
        return seen

    env = make()
    env.reset(seed=4)
    record(env, 100)
    values, arrays = split_state(env.save_state(), "market")
    expected = record(env, 150)
    copy = make()
    copy.load_state(join_state(json.loads(json.dumps(values)), arrays))
    assert record(copy, 150) == expected


@pytest.mark.parametrize(
    "arguments",
    [
        {"regimes": ()},
        {"regimes": "trending"},
        {"regimes": ("trending", "trending")},
        {"regimes": ("bull",)},
        {"regime_length": 0},
        {"episode_length": 0},
        {"cost": -1.0},
        {"schedule": {}},
        {"schedule": {5: "trending"}},
        {"schedule": {0: "bull"}},
        {"schedule": {0: "trending", -1: "ranging"}},
        {"regime_seed": 0.5},
        {"clock": 0},
        {"continuous": 1},
    ],
)
def test_bad_arguments_raise(arguments):
    with pytest.raises(ConfigurationError):
        MarketEnv(**arguments)
