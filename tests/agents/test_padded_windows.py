"""Windows whose tail is padding: nothing is learnt from it, whatever it holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces

import keras_optix as optix
from keras_optix.experience.window import Window

NUM_ENVS = 2
ROWS = Window._fields[:8]  # fields with axes of time and environments
ALGORITHMS = ["ppo", "ppo_one_batch", "reinforce"]

MakeAgent = Callable[..., Any]


@pytest.fixture
def make_agent(small_network: Callable[[int, int], Any]) -> MakeAgent:
    """Makes a bound agent with Adam; `ppo_one_batch` takes a window as one minibatch."""

    def make(algorithm: str, *, jit: bool = False, box: bool = False, scale: bool = False, **options: Any) -> Any:
        keras.utils.set_random_seed(0)
        networks = small_network(2, 2), small_network(2, 1)
        options = {"normalize_observations": scale, "normalize_rewards": scale, "seed": 0} | options
        agent: Any
        if algorithm == "reinforce":
            agent = optix.ReinforceAgent(*networks, **options)
        else:
            size = 10_000 if algorithm == "ppo_one_batch" else 8
            agent = optix.PPOAgent(*networks, update_epochs=2, minibatch_size=size, **options)
        agent.compile(optimizer=keras.optimizers.Adam(0.01), jit_compile=jit)
        agent.bind(spaces.Box(-np.inf, np.inf, (2,)), spaces.Box(-2.0, 2.0, (2,)) if box else spaces.Discrete(2))
        return agent

    return make


def window_of(lengths: list[int], steps: int, *, box: bool = False, number: int = 0, garbage: bool = False) -> Window:
    """A window whose column i has `lengths[i]` transitions, the last of which goes on, and then padding."""
    rng = np.random.default_rng(number)
    shape = (steps, len(lengths))
    valid = np.arange(steps)[:, None] < np.array(lengths)
    last = np.arange(steps)[:, None] == np.array(lengths) - 1
    actions = rng.normal(size=(*shape, 2)).astype(np.float32) if box else rng.integers(0, 2, shape)
    rows = {
        "observations": rng.normal(1.0, 2.0, (*shape, 2)).astype(np.float32),
        "actions": actions,
        "rewards": rng.normal(size=shape).astype(np.float32),
        "terminated": (rng.random(shape) < 0.1) & ~last,
        "truncated": np.zeros(shape, bool),
        "valid": valid,
        "next_observations": rng.normal(1.0, 2.0, (*shape, 2)).astype(np.float32),
        "log_probs": np.full(shape, np.log(0.5), np.float32),
    }
    for name, array in rows.items():
        # What garbage the padding holds must not matter, as long as it is a number.
        filler = 0 if name != "log_probs" or not garbage else -200.0
        if garbage and name in ("observations", "rewards", "next_observations"):
            filler = 50.0
        elif garbage and name == "actions":
            filler = 1
        array[~valid] = filler
    return Window(
        **{name: tf.constant(array) for name, array in rows.items()},
        seed=tf.constant([3, number]),
        window_id=tf.constant(number, tf.int64),
        policy_version=tf.constant(0, tf.int64),
        episode_return=tf.constant(0.0),
        episode_length=tf.constant(0.0),
    )


def prepared(agent: Any, num_envs: int = NUM_ENVS) -> Any:
    """Gives an agent that scales rewards its running returns, as a dataset would."""

    class Source:
        """All that an agent asks of a source before it trains."""

    source: Any = Source()
    source.num_envs = num_envs
    agent.attach_source(source)
    return agent


def train(agent: Any, window: Window) -> dict[str, float]:
    """One train step, compiled as `fit` compiles it."""
    step = tf.function(agent.train_step, autograph=False, jit_compile=agent.jit_compile)
    return {name: float(value) for name, value in step(window).items()}


def weights_of(agent: Any) -> list[np.ndarray]:
    return [np.array(array) for array in agent.get_weights()]


def state_of(agent: Any) -> dict[str, np.ndarray]:
    """Weights, statistics and the optimizer's moments."""
    return {name: np.array(array) for name, array in agent.get_state().items()}


def assert_same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.parametrize("jit", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_window_without_a_transition_changes_nothing(make_agent: MakeAgent, algorithm: str, jit: bool) -> None:
    agent = prepared(make_agent(algorithm, jit=jit, scale=True))
    start = weights_of(agent)
    # With moments in Adam, a gradient of zero would move the weights.
    train(agent, window_of([16, 9], 16))
    before = state_of(agent)
    assert any(not np.array_equal(a, b) for a, b in zip(start, agent.get_weights(), strict=True))
    logs = train(agent, window_of([0, 0], 16, number=1, garbage=True))
    assert_same(before, state_of(agent))
    assert set(logs.values()) == {0.0}


def test_a_gradient_of_zero_would_move_the_weights(make_agent: MakeAgent) -> None:
    """The control: this is what a minibatch without a transition does to Adam."""
    agent = make_agent("ppo")
    train(agent, window_of([16, 9], 16))
    before = weights_of(agent)
    agent.optimizer.apply([tf.zeros_like(variable.value) for variable in agent.trainable_variables])
    assert any(not np.array_equal(a, b) for a, b in zip(before, agent.get_weights(), strict=True))


@pytest.mark.parametrize(("valid", "updates"), [(0, 0), (1, 1), (8, 1), (9, 2), (24, 3), (25, 4), (32, 4)])
def test_ppo_runs_as_many_minibatches_as_transitions_fill(make_agent: MakeAgent, valid: int, updates: int) -> None:
    """Minibatches of 8, two epochs."""
    agent = make_agent("ppo")
    lengths = [min(valid, 16), max(valid - 16, 0)]
    train(agent, window_of(lengths, 16))
    assert int(agent.optimizer.iterations) == 2 * updates


def test_ppo_shows_each_transition_once_in_an_epoch(make_agent: MakeAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = make_agent("ppo")
    compute_losses = agent.compute_losses
    seen: list[np.ndarray] = []

    def spy(rows: Any) -> Any:
        seen.append(np.asarray(rows.returns)[np.asarray(rows.weights) > 0.0])
        return compute_losses(rows)

    monkeypatch.setattr(agent, "compute_losses", spy)
    window = window_of([16, 5], 16)
    expected = agent.prepare(window)[0]
    agent.train_step(window)  # not compiled: the spy sees numbers
    assert [len(returns) for returns in seen] == [8, 8, 5] * 2
    wanted = np.sort(np.asarray(expected.returns)[np.asarray(expected.weights) > 0.0])
    for epoch in (seen[:3], seen[3:]):
        # Computed twice: nothing promises that sums are associated alike.
        np.testing.assert_allclose(np.sort(np.concatenate(epoch)), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    ("box", "jit"),
    [
        (False, False),
        pytest.param(True, False, marks=pytest.mark.slow),
        pytest.param(True, True, marks=pytest.mark.slow),
    ],
)
def test_what_the_padding_holds_does_not_matter(make_agent: MakeAgent, algorithm: str, box: bool, jit: bool) -> None:
    """Bit by bit, over two windows, statistics and the optimizer's moments included."""

    def trained(garbage: bool) -> tuple[dict[str, np.ndarray], list[dict[str, float]]]:
        agent = prepared(make_agent(algorithm, jit=jit, box=box, scale=True))
        windows = [window_of([13, 3], 16, box=box, number=k, garbage=garbage) for k in range(2)]
        logs = [train(agent, window) for window in windows]
        return state_of(agent), logs

    (clean, clean_logs), (spoilt, spoilt_logs) = trained(False), trained(True)
    assert_same(clean, spoilt)
    assert clean_logs == spoilt_logs
    assert all(np.isfinite(value) for logs in clean_logs for value in logs.values())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_one_transition_in_a_window_is_learnt_from(make_agent: MakeAgent, algorithm: str) -> None:
    agent = prepared(make_agent(algorithm, scale=True), num_envs=1)
    for number in range(3):
        before = weights_of(agent)
        logs = train(agent, window_of([1], 64, number=number, garbage=True))
        assert all(np.isfinite(value) for value in logs.values())
        assert logs["value_loss"] > 0.0
        assert any(not np.array_equal(a, b) for a, b in zip(before, agent.get_weights(), strict=True))
        assert all(np.isfinite(array).all() for array in agent.get_weights())
    (moments,) = agent.observation_moments
    assert float(moments.count) == float(agent.reward_moments.count) == 3.0


def test_the_stored_probability_of_padding_may_be_anything(make_agent: MakeAgent) -> None:
    """Far above that of the policy, the ratio is 0; far below, it is infinite, which must not become NaN."""
    agent = make_agent("ppo", box=True)
    window = window_of([5, 0], 16, box=True)
    log_probs = np.where(window.valid, window.log_probs, -1e6).astype(np.float32)
    logs = train(agent, window._replace(log_probs=tf.constant(log_probs)))
    assert all(np.isfinite(value) for value in logs.values())
    assert all(np.isfinite(array).all() for array in agent.get_weights())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_statistics_are_those_of_the_transitions(make_agent: MakeAgent, algorithm: str) -> None:
    agent = prepared(make_agent(algorithm, scale=True))
    windows = [window_of(lengths, 16, number=k, garbage=True) for k, lengths in enumerate([[7, 2], [0, 0], [16, 1]])]
    for window in windows:
        train(agent, window)
    kept = np.concatenate([window.observations[window.valid] for window in windows])
    (moments,) = agent.observation_moments
    assert float(moments.count) == len(kept) == 26
    np.testing.assert_allclose(moments.mean, kept.mean(0), rtol=1e-4)
    np.testing.assert_allclose(moments.variance, kept.var(0), rtol=1e-4)


@pytest.mark.parametrize("algorithm", ["ppo_one_batch", "reinforce"])
def test_a_padded_window_teaches_what_its_transitions_alone_teach(make_agent: MakeAgent, algorithm: str) -> None:
    """Against the window cut to its length. Where the shuffling of minibatches is at work, it differs."""
    padded = window_of([11, 11], 16, garbage=True)
    cut = padded._replace(**{name: getattr(padded, name)[:11] for name in ROWS})
    agents = [prepared(make_agent(algorithm, scale=True)) for _ in range(2)]
    logs = [train(agent, window) for agent, window in zip(agents, (padded, cut), strict=True)]
    assert logs[0] == pytest.approx(logs[1], rel=1e-4, abs=1e-5)
    for a, b in zip(weights_of(agents[0]), weights_of(agents[1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
