"""GAE and discounted returns against loops, identities and an analytic world."""

from __future__ import annotations

import numpy as np
import pytest
from arrays import with_arrays
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_optix.ops import returns as functions

discounted_returns, gae = with_arrays(functions.discounted_returns), with_arrays(functions.gae)
linear_recurrence = with_arrays(functions.linear_recurrence)
q_lambda_returns = with_arrays(functions.q_lambda_returns)


def loop_recurrence(inputs: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    solution = np.zeros_like(inputs)
    following = np.zeros_like(inputs[0])
    for t in reversed(range(len(inputs))):
        following = solution[t] = inputs[t] + coefficients[t] * following
    return solution


def random_window(seed: int, steps: int, n: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    terminated = rng.random((steps, n)) < 0.15
    return {
        "rewards": rng.normal(size=(steps, n)).astype(np.float32),
        "values": rng.normal(size=(steps, n)).astype(np.float32),
        "next_values": rng.normal(size=(steps, n)).astype(np.float32),
        "terminated": terminated,
        "truncated": ~terminated & (rng.random((steps, n)) < 0.15),
        "valid": np.ones((steps, n), bool),
    }


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 70), st.integers(1, 5), st.integers(0, 1000))
def test_linear_recurrence_equals_a_loop(steps: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(steps, n)).astype(np.float32)
    coefficients = rng.uniform(0, 1, (steps, n)).astype(np.float32)
    got = np.asarray(linear_recurrence(inputs, coefficients))
    np.testing.assert_allclose(got, loop_recurrence(inputs, coefficients), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_gae_equals_a_loop_over_episodes(seed: int) -> None:
    w = random_window(seed, 20, 3)
    gamma, lam = 0.9, 0.8
    advantages, returns = gae(**w, gamma=np.float32(gamma), gae_lambda=np.float32(lam))
    expected = np.zeros((20, 3))
    for i in range(3):
        running = 0.0
        for t in reversed(range(20)):
            alive = 1.0 - w["terminated"][t, i]
            delta = w["rewards"][t, i] + gamma * alive * w["next_values"][t, i] - w["values"][t, i]
            done = w["terminated"][t, i] or w["truncated"][t, i]
            running = expected[t, i] = delta + (0.0 if done else gamma * lam * running)
    np.testing.assert_allclose(np.asarray(advantages), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(np.asarray(returns), expected + w["values"], rtol=1e-4, atol=1e-4)


def test_gae_with_lambda_zero_is_the_td_error() -> None:
    w = random_window(7, 9, 2)
    advantages, _ = gae(**w, gamma=np.float32(0.9), gae_lambda=np.float32(0.0))
    td = w["rewards"] + 0.9 * (1.0 - w["terminated"]) * w["next_values"] - w["values"]
    np.testing.assert_allclose(np.asarray(advantages), td, rtol=1e-5, atol=1e-5)


def test_gae_with_lambda_one_is_return_minus_value() -> None:
    w = random_window(8, 30, 2)
    # Inside an episode, the value of a successor is the value of the next row's observation.
    inside = ~(w["terminated"] | w["truncated"])[:-1]
    w["next_values"][:-1][inside] = w["values"][1:][inside]
    advantages, _ = gae(**w, gamma=np.float32(0.9), gae_lambda=np.float32(1.0))
    rest = {name: w[name] for name in ("rewards", "next_values", "terminated", "truncated", "valid")}
    returns = discounted_returns(**rest, gamma=np.float32(0.9))
    np.testing.assert_allclose(np.asarray(advantages), np.asarray(returns) - w["values"], rtol=1e-4, atol=1e-4)


def test_discounted_returns_stop_at_episode_ends() -> None:
    # Rewards 1; row 1 terminates, row 3 is truncated, the window ends after row 5. V of every successor is 10.
    column = np.ones((6, 1), np.float32)
    terminated = np.zeros((6, 1), bool)
    truncated = np.zeros((6, 1), bool)
    terminated[1], truncated[3] = True, True
    returns = discounted_returns(column, 10 * column, terminated, truncated, np.ones((6, 1), bool), np.float32(0.5))
    np.testing.assert_allclose(np.asarray(returns)[:, 0], [1.5, 1.0, 4.0, 6.0, 4.0, 6.0])


def test_discounted_returns_are_bootstrapped_before_a_padded_tail() -> None:
    """Rewards 1, 2, 4, then padding that holds garbage; V of every true successor is 10."""
    rewards = np.array([[1.0], [2.0], [4.0], [7.0], [9.0]], np.float32)
    following = np.array([[10.0], [10.0], [10.0], [50.0], [60.0]], np.float32)
    none = np.zeros((5, 1), bool)
    valid = np.array([[True], [True], [True], [False], [False]])
    returns = discounted_returns(rewards, following, none, none, valid, np.float32(0.5))
    # 4 + 0.5 * 10 = 9, 2 + 0.5 * 9 = 6.5, 1 + 0.5 * 6.5 = 4.25
    np.testing.assert_array_equal(np.asarray(returns)[:, 0], [4.25, 6.5, 9.0, 0.0, 0.0])


@pytest.mark.parametrize(
    ("ending", "expected"),
    [
        # The rows after the hole are 1 + 0.5 * 6 = 4 and 1 + 0.5 * 10 = 6 each time.
        ("goes on", [4.0, 6.0, 0.0, 4.0, 6.0]),  # bootstrapped at the hole, as the data stops there
        ("terminated", [1.5, 1.0, 0.0, 4.0, 6.0]),
        ("truncated", [4.0, 6.0, 0.0, 4.0, 6.0]),
    ],
)
def test_discounted_returns_before_a_single_row_that_is_no_transition(ending: str, expected: list[float]) -> None:
    """A hole in the middle, or the reset row of a next-step autoreset; rewards 1, V of every true successor 10."""
    rewards = np.array([[1.0], [1.0], [7.0], [1.0], [1.0]], np.float32)
    following = np.array([[10.0], [10.0], [50.0], [10.0], [10.0]], np.float32)
    valid = np.array([[True], [True], [False], [True], [True]])
    ended = np.array([[False], [True], [False], [False], [False]])
    none = np.zeros((5, 1), bool)
    terminated, truncated = (ended if ending == flag else none for flag in ("terminated", "truncated"))
    returns = discounted_returns(rewards, following, terminated, truncated, valid, np.float32(0.5))
    np.testing.assert_array_equal(np.asarray(returns)[:, 0], expected)


@pytest.mark.parametrize("length", [0, 1, 2, 13, 63, 64])
def test_a_padded_window_is_as_good_as_one_of_its_true_length(length: int) -> None:
    steps, gamma, lam = 64, np.float32(0.97), np.float32(0.9)
    w = random_window(length, steps, 2)
    w["valid"][length:] = False
    w["terminated"][length:] = w["truncated"][length:] = False
    if length:
        w["terminated"][length - 1] = w["truncated"][length - 1] = False
    padded = [*gae(**w, gamma=gamma, gae_lambda=lam)]
    names = ("rewards", "next_values", "terminated", "truncated", "valid")
    padded.append(discounted_returns(**{name: w[name] for name in names}, gamma=gamma))
    for result in padded:
        np.testing.assert_array_equal(np.asarray(result)[length:], 0.0)
    if length:
        short = {name: array[:length] for name, array in w.items()}
        cut = [*gae(**short, gamma=gamma, gae_lambda=lam)]
        cut.append(discounted_returns(**{name: short[name] for name in names}, gamma=gamma))
        for result, expected in zip(padded, cut, strict=True):
            # The scan associates 64 steps in another order than `length`; sums of that many are of the order of 10.
            np.testing.assert_allclose(np.asarray(result)[:length], np.asarray(expected), rtol=1e-4, atol=1e-4)


def test_rows_that_are_no_transition_change_nothing() -> None:
    """A next-step autoreset inserts a row after each episode; the others must be as without it."""
    rewards = np.array([[1.0], [2.0], [3.0], [4.0]], np.float32)
    values = np.array([[0.1], [0.2], [0.3], [0.4]], np.float32)
    following = np.array([[0.2], [9.0], [0.4], [0.5]], np.float32)
    terminated = np.array([[False], [True], [False], [False]])
    none = np.zeros((4, 1), bool)
    gamma, lam = np.float32(0.9), np.float32(0.8)
    without, _ = gae(rewards, values, following, terminated, none, ~none, gamma, lam)

    def with_row(values: np.ndarray, filler: float) -> np.ndarray:
        return np.insert(values, 2, filler, axis=0)

    advantages, returns = gae(
        with_row(rewards, 0.0),
        with_row(values, 7.0),
        with_row(following, 8.0),
        with_row(terminated, False),
        np.zeros((5, 1), bool),
        with_row(~none, False),
        gamma,
        lam,
    )
    # The scan associates five steps in another order than four; the control differs by 7 or more.
    np.testing.assert_allclose(np.delete(np.asarray(advantages), 2, 0), np.asarray(without), rtol=1e-5, atol=1e-5)
    assert float(np.asarray(advantages)[2, 0]) == 0.0
    assert float(np.asarray(returns)[2, 0]) == 0.0


@pytest.mark.parametrize(("bootstrap", "converges"), [(True, True), (False, False)])
def test_infinite_horizon_value_is_reached_only_with_truncation_bootstrapped(bootstrap: bool, converges: bool) -> None:
    """Reward 1 for ever, truncated every 8 steps: the value is 1 / (1 - gamma). The control must fail."""
    gamma = 0.95
    ended = np.zeros((16, 1), bool)
    ended[7::8] = True
    none = np.zeros((16, 1), bool)
    value = 0.0
    for _ in range(200):
        column = np.full((16, 1), value, np.float32)
        _, returns = gae(
            np.ones((16, 1), np.float32),
            column,
            column,
            none if bootstrap else ended,
            ended if bootstrap else none,
            np.ones((16, 1), bool),
            np.float32(gamma),
            np.float32(0.9),
        )
        value += 0.5 * (float(np.mean(np.asarray(returns))) - value)
    assert (abs(value * (1 - gamma) - 1.0) < 0.02) is converges


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_what_a_masked_row_holds_does_not_matter(wrong: float) -> None:
    w = random_window(3, 20, 3)
    w["valid"][[4, 11, 12, 19]] = False
    w["valid"][7, 1] = False
    gamma, lam = np.float32(0.9), np.float32(0.8)
    names = ("rewards", "values", "next_values")
    spoilt = {name: np.where(w["valid"], w[name], wrong).astype(np.float32) for name in names}
    both = [gae(**rows, gamma=gamma, gae_lambda=lam) for rows in (w | spoilt, w)]
    del w["values"], spoilt["values"]
    both += [(discounted_returns(**rows, gamma=gamma),) for rows in (w | spoilt, w)]
    for got, expected in zip([*both[0], *both[2]], [*both[1], *both[3]], strict=True):
        assert np.isfinite(np.asarray(expected)).all()
        np.testing.assert_array_equal(np.asarray(got), np.asarray(expected))


def q_lambda_by_a_loop(w: dict[str, np.ndarray], gamma: float, q_lambda: float, *, cut: bool = True) -> np.ndarray:
    """The recursion of the definition, one row after the other; without `cut` returns do not end with their episode."""
    steps, n = w["rewards"].shape
    returns = np.zeros((steps + 1, n))
    for i in range(n):
        for t in reversed(range(steps)):
            if not w["valid"][t, i]:
                continue
            ended = bool(w["terminated"][t, i] or w["truncated"][t, i]) and cut
            following = t + 1 < steps and w["valid"][t + 1, i] and not ended
            rest = w["next_values"][t, i]
            if following:
                rest = (1.0 - q_lambda) * rest + q_lambda * returns[t + 1, i]
            returns[t, i] = w["rewards"][t, i] + (0.0 if w["terminated"][t, i] and cut else gamma * rest)
    return returns[:-1]


def q_window(seed: int, steps: int, n: int) -> dict[str, np.ndarray]:
    w = random_window(seed, steps, n)
    del w["values"]
    w["valid"] = np.random.default_rng(seed + 100).random((steps, n)) < 0.9
    for name in ("rewards", "next_values"):
        w[name][~w["valid"]] = np.nan  # whatever they hold
    return w


@pytest.mark.parametrize("q_lambda", [0.0, 0.65, 1.0])
@pytest.mark.parametrize(("seed", "steps"), [(0, 1), (1, 2), (2, 33), (3, 64)])
def test_q_lambda_returns_equal_a_loop(seed: int, steps: int, q_lambda: float) -> None:
    w = q_window(seed, steps, 3)
    returns = q_lambda_returns(**w, gamma=np.float32(0.9), q_lambda=np.float32(q_lambda))
    np.testing.assert_allclose(returns, q_lambda_by_a_loop(w, 0.9, q_lambda), rtol=1e-4, atol=1e-4)
    if steps > 2:
        wrong = q_lambda_by_a_loop(w, 0.9, q_lambda, cut=False)
        assert np.abs(returns - wrong).max() > 0.1, "the control ignores the ends of episodes"


def test_q_lambda_returns_at_the_ends_of_lambda() -> None:
    w = random_window(9, 40, 3)
    del w["values"]
    gamma = np.float32(0.9)
    one_step = w["rewards"] + 0.9 * ~w["terminated"] * w["next_values"]
    np.testing.assert_allclose(q_lambda_returns(**w, gamma=gamma, q_lambda=np.float32(0.0)), one_step, rtol=1e-5)
    whole = discounted_returns(**w, gamma=gamma)
    np.testing.assert_allclose(
        q_lambda_returns(**w, gamma=gamma, q_lambda=np.float32(1.0)), whole, rtol=1e-4, atol=1e-4
    )


def test_q_lambda_returns_by_hand() -> None:
    """Rewards 1, V of every true successor 10, gamma and lambda 1/2; row 1 terminates, row 3 is truncated."""
    column = np.ones((6, 1), np.float32)
    terminated, truncated = np.zeros((6, 1), bool), np.zeros((6, 1), bool)
    terminated[1], truncated[3] = True, True
    half = np.float32(0.5)
    returns = q_lambda_returns(column, 10 * column, terminated, truncated, np.ones((6, 1), bool), half, half)
    # 1 + (5 + 1/2) / 2;  1;  1 + (5 + 3) / 2;  1 + 10 / 2, twice with 1 + (5 + 3) / 2 before it
    np.testing.assert_allclose(returns[:, 0], [3.75, 1.0, 5.0, 6.0, 5.0, 6.0])
