"""State-dependent noise: a function of the state within a period, another one afterwards, in all places that act."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces

import keras_optix as optix
from keras_optix.distributions import CarrySpec, GaussianDistribution, StateDependentNoise
from keras_optix.errors import ArgumentError, ConfigurationError, SpaceError
from keras_optix.experience.actor import LiteRTActor
from keras_optix.experience.lowering import FunctionActor
from keras_optix.testing import MatchEnv, RandomEnv

VECTOR, MOVES = spaces.Box(-1.0, 1.0, (3,)), spaces.Box(-1.0, 1.0, (2,))
LENGTH = 7  # env steps of an episode; not a multiple of the period below
PERIOD = 3


def bound(distribution: Any = None, observations: Any = VECTOR, actions: Any = MOVES, **options: Any) -> optix.PPOAgent:
    keras.utils.set_random_seed(0)
    given = StateDependentNoise(PERIOD) if distribution is None else distribution
    agent = optix.PPOAgent(distribution=given, update_epochs=2, minibatch_size=16, seed=0, **options)
    agent.bind(observations, actions)
    agent.compile(optimizer=keras.optimizers.Adam(1e-2), jit_compile=False)
    return agent


def states(rows: int) -> np.ndarray:
    return np.random.default_rng(1).uniform(-1.0, 1.0, (rows, 3)).astype(np.float32)


def parts(agent: optix.PPOAgent, observations: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means, features, and the standard deviations of a matrix."""
    outputs = np.asarray(agent.policy(observations))
    return outputs[:, :2], outputs[:, 2:], np.exp(agent.log_std.numpy()).reshape(-1, 2)


def constant_network() -> Any:
    """A policy with means of 0 and features of 1: an action is a sum over the matrix, whatever the state."""
    inputs = keras.layers.Input((3,))
    means = keras.layers.Dense(2, kernel_initializer="zeros")(inputs)
    features = keras.layers.Dense(4, kernel_initializer="zeros", bias_initializer="ones")(inputs)
    return keras.Model(inputs, keras.layers.Concatenate()([means, features]))


def constant_agent() -> optix.PPOAgent:
    return bound(StateDependentNoise(PERIOD, features=4), policy=constant_network())


# Acting


@pytest.mark.parametrize("kind", ["lowered", "function"])
def test_noise_is_a_function_of_the_state_within_a_period(kind: str) -> None:
    """The lowered actor and its fallback; the next period, and an agent with independent noise, are the controls."""
    agent = bound()
    rows = 5
    actor: Any = agent.make_actor(rows) if kind == "lowered" else FunctionActor(agent.lowerable())
    assert isinstance(actor, LiteRTActor) is (kind == "lowered")
    actor.set_weights(agent.policy_params().arrays)
    rng, carry, noises, matrices = np.random.default_rng(3), agent.initial_carry(rows), [], []
    for step in range(2 * PERIOD):
        observations = states(rows) * (1.0 + 0.1 * (step % PERIOD))  # another state in each step of a period
        mean, features, std = parts(agent, observations)
        choices, log_probs, carry = actor.act([observations], actor.noise.draw(rng, (rows,)), carry)
        np.testing.assert_allclose(choices - mean, np.einsum("nf,nfd->nd", features, std * carry[0]), atol=1e-5)
        parameters = np.asarray(agent.head.parameters(observations, training=False))
        np.testing.assert_allclose(log_probs, agent.head.distribution.log_prob(parameters, choices), rtol=1e-4)
        noises.append(choices - mean)
        matrices.append(carry[0])
        np.testing.assert_array_equal(carry[1], np.full(rows, PERIOD - 1 - step % PERIOD, np.int32), strict=True)
    for step in range(1, 2 * PERIOD):
        assert np.array_equal(matrices[step], matrices[step - 1]) is (step != PERIOD)
    # The two periods show the same states. Each environment has a matrix of its own.
    assert not np.allclose(noises[0], noises[PERIOD], atol=1e-3)
    assert len({matrix.tobytes() for matrix in matrices[0]}) == rows


def test_the_same_state_gets_the_same_action_where_independent_noise_gives_others() -> None:
    same, carry = [], (agent := bound()).initial_carry()
    for _ in range(2 * PERIOD):
        action, carry = agent.act(states(1)[0], carry=carry)
        same.append(action)
    np.testing.assert_array_equal(same[1:PERIOD], same[: PERIOD - 1])
    np.testing.assert_array_equal(same[PERIOD + 1 :], same[PERIOD:-1])
    assert not np.array_equal(same[PERIOD - 1], same[PERIOD])
    independent = bound(GaussianDistribution())
    others = [independent.act(states(1)[0]) for _ in range(2)]
    assert not np.array_equal(others[0], others[1])


def test_without_a_period_a_matrix_lasts_for_the_episode() -> None:
    agent = bound(StateDependentNoise(None))
    carry = agent.initial_carry(2)
    for _ in range(20):
        before = carry
        _, carry = agent.act(states(2), carry=carry)
        assert np.any(carry[0])
        assert not np.any(before[0]) or np.array_equal(before[0], carry[0])
    # An episode begins in one of two environments.
    fresh = tuple(np.where([[[1]], [[0]]] if leaf.ndim > 1 else [1, 0], 0, leaf).astype(leaf.dtype) for leaf in carry)
    _, after = agent.act(states(2), carry=fresh)
    assert [np.array_equal(after[0][k], carry[0][k]) for k in range(2)] == [False, True]


@pytest.mark.parametrize("rows", [1, 3], ids=["lowered", "function"])
def test_without_noise_the_action_is_the_mean_and_the_carry_stays(rows: int) -> None:
    agent = bound()
    mean, _, _ = parts(agent, states(rows))
    initial = agent.initial_carry(rows)
    _, during = agent.act(states(rows), carry=initial)
    for carry in (initial, during):
        actions, after = agent.act(states(rows), deterministic=True, carry=carry)
        np.testing.assert_allclose(actions, mean, atol=1e-6)
        for before, leaf in zip(carry, after, strict=True):
            np.testing.assert_array_equal(leaf, before)


def test_an_evaluation_plays_the_mean() -> None:
    agent = bound(actions=spaces.Box(-1.0, 1.0, (3,)))
    agent.policy.set_weights([np.zeros_like(weight) for weight in agent.policy.get_weights()])
    env = partial(MatchEnv, spaces.Box(-1.0, 1.0, (3,)))
    scores = [optix.evaluate_policy(agent, env, episodes=5, seed=0).primary_score for _ in range(2)]
    agent.log_std.assign(np.full(agent.log_std.shape, 3.0))
    assert scores == [optix.evaluate_policy(agent, env, episodes=5, seed=0).primary_score] * 2


# Windows


def check_periods(windows: list[optix.Window]) -> int:
    """Raises unless actions change exactly where an episode begins or a period ends; returns how often they change.

    The agent is `constant_agent`, so that an action shows the matrix.
    """
    begins, actions, valid = (np.concatenate([np.asarray(w[k]) for w in windows]) for k in (-2, 1, 5))
    assert valid.all()
    changes = 0
    for env in range(begins.shape[1]):
        step = 0
        for row in range(len(begins)):
            step = 0 if begins[row, env] else step + 1
            changed = row == 0 or not np.array_equal(actions[row, env], actions[row - 1, env])
            assert changed is (step % PERIOD == 0)
            changes += changed
    return changes


def test_windows_of_several_environments_have_the_noise_of_their_episodes() -> None:
    agent = constant_agent()
    env = partial(RandomEnv, VECTOR, MOVES, LENGTH)
    dataset = optix.dataset_from_env(env, agent, window_size=5, num_envs=2, seed=0)
    windows = [next(iter(dataset)) for _ in range(6)]
    assert (windows[0].begins.shape, windows[0].actions.shape) == ((5, 2), (5, 2, 2))
    # Of 30 rows, four episodes of 7 with 3 matrices each, and 2 rows of a fifth episode.
    assert check_periods(windows) == 2 * (4 * 3 + 1)
    # A window keeps the carry of its first row: in this row of the episode's middle, the matrix that acted.
    later = windows[1]
    step = 5 % LENGTH
    assert np.asarray(later.carry[1]).tolist() == [PERIOD - step % PERIOD] * 2
    std = np.exp(agent.log_std.numpy()).reshape(-1, 2)
    np.testing.assert_allclose(later.actions[0], (std * np.asarray(later.carry[0])).sum(1), atol=1e-6)
    independent = [w._replace(actions=np.random.default_rng(0).normal(size=(5, 2, 2))) for w in windows]
    with pytest.raises(AssertionError):
        check_periods(independent)


class Endless:
    """A feed with Box actions, in episodes of `LENGTH` steps."""

    observation_space, action_space = VECTOR, MOVES

    def stream(self) -> Iterator[Any]:
        for k in range(10_000):
            ended = k > 0 and k % LENGTH == 0
            yield states(1)[0], float(k > 0), ended, False, {"final_obs": states(1)[0]} if ended else {}


def test_a_live_feed_is_acted_with_the_noise_of_its_episodes() -> None:
    dataset = optix.dataset_from_stream(Endless(), constant_agent(), window_size=5, overflow="block", seed=0)
    assert check_periods(list(dataset.take(4))) == 2 * 3 + 2


def test_it_learns_from_what_it_did() -> None:
    """The first gradient step of a window has a ratio of 1: the learner's log-probabilities are the actor's."""
    agent = bound(StateDependentNoise(PERIOD), normalize_observations=True)
    agent.update_epochs, agent.minibatch_size = 1, 1000
    agent.compile(optimizer=keras.optimizers.Adam(1e-2), jit_compile=True)
    env = partial(RandomEnv, VECTOR, MOVES, LENGTH)
    dataset = optix.dataset_from_env(env, agent, window_size=16, num_envs=2, seed=0)
    first = agent.log_std.numpy().copy()
    assert first.tolist() == [-2.0] * 128
    for _ in range(2):
        history = agent.fit(dataset, steps_per_epoch=1, epochs=1, verbose=0).history
        assert abs(history["approx_kl"][-1]) < 1e-6
        assert history["clip_fraction"][-1] == 0.0
    assert not np.allclose(agent.log_std.numpy(), first)
    assert any(variable is agent.log_std for variable in agent.trainable_variables)


@pytest.mark.parametrize("learn_features", [False, True])
def test_features_learn_from_the_noise_only_if_they_are_told_to(learn_features: bool) -> None:
    given = StateDependentNoise(features=4, learn_features=learn_features)
    distribution = bound(given, policy=constant_network()).head.distribution
    values = np.random.default_rng(0).normal(size=(3, 2 + 4 + 8)).astype(np.float32)
    for function in (lambda p: distribution.log_prob(p, tf.zeros((3, 2))), distribution.entropy):
        variable = tf.Variable(values)
        with tf.GradientTape() as tape:
            found = tf.reduce_sum(function(variable))
        gradient = tape.gradient(found, variable).numpy()
        assert bool(np.any(gradient[:, 2:6])) is learn_features
        assert np.all(gradient[:, 6:] != 0.0)


# Saving


def test_a_saved_agent_explores_as_before(tmp_path: Path) -> None:
    agent = bound(StateDependentNoise(5, features=64, log_std=-1.5, learn_features=True))
    agent.log_std.assign(np.linspace(-2.0, -1.0, 128))
    agent.save(tmp_path / "agent.keras")
    loaded = keras.saving.load_model(tmp_path / "agent.keras")
    wanted = {"resample_every": 5, "features": 64, "log_std": -1.5, "learn_features": True}
    assert loaded.distribution.get_config() == wanted
    assert loaded.carry_specs == agent.carry_specs == (CarrySpec((64, 2)), CarrySpec((), "int32"))
    np.testing.assert_array_equal(loaded.log_std.numpy(), agent.log_std.numpy())
    _, carry = agent.act(states(1), carry=agent.initial_carry())
    for again, wanted_again in zip(loaded.act(states(1), carry=carry), agent.act(states(1), carry=carry), strict=True):
        for one, other in zip(again, wanted_again, strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_collector_goes_on_with_its_matrices() -> None:
    """Windows after a resume point are those of the run that was not interrupted; without the carry, they are not."""

    def start() -> tuple[optix.PPOAgent, Any]:
        agent = constant_agent()
        return agent, optix.dataset_from_env(partial(RandomEnv, VECTOR, MOVES, 50), agent, window_size=4, seed=0)

    agent, dataset = start()
    for _ in range(2):  # 8 rows: two rows of the third matrix
        next(iter(dataset))
    arrays, values = agent.sources[0].save()
    whole = next(iter(dataset))
    assert np.asarray(whole.carry[1]).tolist() == [1]
    resumed, again = start()
    assert resumed.sources[0].restore(arrays, values)
    np.testing.assert_array_equal(np.asarray(next(iter(again)).actions), np.asarray(whole.actions))
    forgetful, other = start()
    blank = {name: np.zeros_like(array) if name.startswith("carry/") else array for name, array in arrays.items()}
    assert forgetful.sources[0].restore(blank, values)
    assert not np.array_equal(np.asarray(next(iter(other)).actions), np.asarray(whole.actions))


# What is refused


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        (
            {"resample_every": 0},
            ConfigurationError,
            r"`resample_every` must be an integer >= 1.*resample_every=0.*None",
        ),
        ({"resample_every": 2.5}, ArgumentError, "`resample_every` must be an integer"),
        ({"features": 0}, ConfigurationError, "`features` must be an integer >= 1"),
        ({"log_std": float("inf")}, ConfigurationError, "`log_std` must be a number"),
        ({"learn_features": 1}, ArgumentError, "`learn_features` must be True or False"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        StateDependentNoise(**arguments)


def test_a_network_is_told_what_it_must_give() -> None:
    network = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(2)])
    with pytest.raises(SpaceError, match=r"\(None, 66\) is needed: the mean of each axis of Box.*, then 64 features"):
        bound(policy=network)
    with pytest.raises(SpaceError, match="StateDependentNoise is not a distribution over such actions"):
        bound(actions=spaces.Discrete(2))


def test_the_default_network_gives_its_last_hidden_layer() -> None:
    image = spaces.Box(0, 255, (10, 10, 1), np.uint8)
    with pytest.raises(SpaceError, match=r"has 128 units. Received: features=64\. Give the distribution features=128"):
        bound(observations=image)
    agent = bound(StateDependentNoise(features=128), observations=image)
    assert agent.policy.output_shape == (None, 2 + 128)
    agent = bound()
    hidden = keras.Model(agent.policy.input, agent.policy.layers[-2].input)
    np.testing.assert_array_equal(agent.policy(states(4))[:, 2:], hidden(states(4)))


class Counting(optix.PPOAgent):
    carry_specs = (CarrySpec((), "int32"),)


def test_what_cannot_be_combined_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="StateDependentNoise keeps its noise in the carry, but Counting has"):
        Counting(distribution=StateDependentNoise()).bind(VECTOR, MOVES)
    with pytest.raises(ConfigurationError, match=r"Member 0 of the ensemble, .* has a carry"):
        optix.EnsembleAgent([bound(), bound(GaussianDistribution())])
    with pytest.raises(ConfigurationError, match="must be given its carry"):
        bound().act(states(1))


class Held(GaussianDistribution):
    """Noise that stays for the whole episode; a distribution with a memory, derived from one without."""

    def build(self, action_space: Any) -> None:
        super().build(action_space)
        self.carry_specs = (CarrySpec(self.noise.shape),)

    def sample_next(self, parameters: Any, noise: Any, carry: Any) -> Any:
        (held,) = carry
        first = keras.ops.max(keras.ops.abs(held), axis=-1, keepdims=True) == 0.0
        held = keras.ops.where(first, noise, held)
        return self.sample(parameters, held), (held,)


class Wrong(Held):
    def sample_next(self, parameters: Any, noise: Any, carry: Any) -> Any:
        return super().sample_next(parameters, noise, carry)[0], ()


def test_a_distribution_of_a_user_may_have_a_memory() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agent = bound(Held())
        assert isinstance(agent.make_actor(1), LiteRTActor)
    carry, actions = agent.initial_carry(), []
    for _ in range(4):
        action, carry = agent.act(states(1)[0], carry=carry)
        actions.append(action)
    assert len({action.tobytes() for action in actions}) == 1
    with pytest.raises(SpaceError, match=r"`Wrong.sample_next` must return .* but it has 0 arrays and not 1"):
        bound(Wrong())
