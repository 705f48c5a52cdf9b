"""PQN: one update by hand, exploration that a rollback does not begin again, and the loop on it as on other agents."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces

import keras_optix as optix
from keras_optix.agents.pqn_presets import PQN_PRESETS
from keras_optix.errors import ConfigurationError, SpaceError
from keras_optix.experience.actor import LiteRTActor
from keras_optix.testing import IdentityEnv

MakeAgent = Callable[..., optix.PQNAgent]
VECTOR, CHOICES = spaces.Box(-1.0, 1.0, (3,)), spaces.Discrete(3)


def windows(agent: optix.Agent, actions: int = 3, **options: Any) -> Any:
    given: dict[str, Any] = {"window_size": 16, "num_envs": 2, "seed": 0} | options
    return optix.dataset_from_env(lambda: IdentityEnv(actions), agent, **given)


def train(agent: optix.Agent, count: int, **options: Any) -> dict[str, list[float]]:
    history = agent.fit(windows(agent, **options), steps_per_epoch=1, epochs=count, verbose=0)
    found: dict[str, list[float]] = history.history
    return found


# One update


def test_the_first_gradient_is_that_of_the_mean_squared_error(small_pqn: MakeAgent) -> None:
    """One step of SGD moves the weights by ``-lr d/dw mean((G - Q(s, a))^2)``, with G by a loop over the rows."""
    options = {"update_epochs": 1, "minibatch_size": 1000, "max_grad_norm": 1e9, "gamma": 0.9, "q_lambda": 0.7}
    agent = small_pqn(optimizer=keras.optimizers.SGD(0.1), **options)
    window = next(iter(windows(agent, window_size=30)))
    ends = np.logical_or(window.terminated.numpy(), window.truncated.numpy())
    assert ends.any()
    following = np.asarray(agent.policy(tf.reshape(window.next_observations, (60, 3)))).max(-1).reshape(30, 2)
    targets = np.zeros((30, 2))
    for i in range(2):
        for t in reversed(range(30)):
            rest = following[t, i]
            if t < 29 and not ends[t, i]:
                rest = 0.3 * rest + 0.7 * targets[t + 1, i]
            targets[t, i] = window.rewards[t, i] + 0.9 * (0.0 if window.terminated[t, i] else rest)
    before = [tf.identity(v.value) for v in agent.trainable_variables]
    with tf.GradientTape() as tape:
        values = agent.policy(tf.reshape(window.observations, (60, 3)))
        chosen = tf.gather(values, tf.reshape(window.actions, (60,)), batch_dims=1)
        loss = tf.reduce_mean((targets.reshape(60) - chosen) ** 2)
    gradients = tape.gradient(loss, [v.value for v in agent.trainable_variables])
    logs = agent.train_step(window)
    for variable, old, gradient in zip(agent.trainable_variables, before, gradients, strict=True):
        np.testing.assert_allclose(variable.numpy(), old - 0.1 * gradient, rtol=1e-4, atol=1e-6)
    assert float(logs["loss"]) == pytest.approx(float(loss), rel=1e-5)
    assert float(logs["td_error"]) == pytest.approx(float(np.abs(targets.reshape(60) - chosen).mean()), rel=1e-5)
    assert float(logs["q_values"]) == pytest.approx(float(tf.reduce_mean(chosen)), rel=1e-5)
    greedy = [np.asarray(values).argmax(-1), np.asarray(agent(tf.reshape(window.observations, (60, 3)))).argmax(-1)]
    assert 0.0 <= float(logs["policy_change"]) <= 1.0
    assert greedy[0].shape == greedy[1].shape == (60,)


def test_a_window_without_a_transition_changes_nothing(small_pqn: MakeAgent) -> None:
    agent = small_pqn()
    train(agent, 1)
    window = next(iter(windows(agent, seed=1)))
    before = agent.get_state()
    logs = tf.function(agent.train_step, autograph=False)(window._replace(valid=tf.zeros_like(window.valid)))
    for name, array in agent.get_state().items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)
    assert {name: float(logs[name]) for name in ("loss", "td_error", "policy_change")} == dict.fromkeys(
        ("loss", "td_error", "policy_change"), 0.0
    )


def test_the_change_of_the_policy_is_the_share_of_greedy_actions_that_changed(small_pqn: MakeAgent) -> None:
    agent = small_pqn(optimizer=keras.optimizers.SGD(0.0))
    window = next(iter(windows(agent)))
    assert float(agent.train_step(window)["policy_change"]) == 0.0
    agent = small_pqn(optimizer=keras.optimizers.SGD(1.0))
    window = next(iter(windows(agent)))
    following = tf.reshape(window.next_observations, (32, 3))
    before = np.asarray(agent(following)).argmax(-1)
    logs = agent.train_step(window)
    changed = (before != np.asarray(agent(following)).argmax(-1)).mean()
    assert changed > 0.0
    assert float(logs["policy_change"]) == pytest.approx(changed)


# Exploration


def test_epsilon_falls_with_the_env_steps_of_training(small_pqn: MakeAgent) -> None:
    agent = small_pqn(exploration_env_steps=96, epsilon=0.1)
    history = train(agent, 5)
    assert history["epsilon"] == pytest.approx([1.0, 0.7, 0.4, 0.1, 0.1])
    agent.hyperparams["epsilon"] = 0.02
    assert train(agent, 2)["epsilon"] == pytest.approx([0.1, 0.02])
    agent.pause_updates(True)
    counted = agent.explored_env_steps
    train(agent, 1)
    assert agent.explored_env_steps == counted == 7 * 32


def test_a_window_is_collected_with_the_epsilon_that_is_logged(small_pqn: MakeAgent) -> None:
    agent = small_pqn(exploration_env_steps=64, epsilon=0.25)
    train(agent, 2)
    window = next(iter(windows(agent, seed=5)))
    greedy = np.asarray(agent(tf.reshape(window.observations, (32, 3)))).argmax(-1)
    chosen = tf.reshape(window.actions, (32,)).numpy()
    expected = np.log(np.where(chosen == greedy, 0.25 / 3 + 0.75, 0.25 / 3))
    assert len(set(np.round(expected, 3))) == 2
    np.testing.assert_allclose(tf.reshape(window.log_probs, (32,)), expected, rtol=1e-4)


def test_a_rollback_does_not_begin_exploration_again(small_pqn: MakeAgent) -> None:
    agent = small_pqn()
    train(agent, 1)
    old = agent.get_state()
    arrays, values = agent.save_run()
    weights = [np.array(w) for w in agent.policy.get_weights()]
    train(agent, 3)
    now = [np.array(variable.numpy()) for variable in agent.run_variables]
    agent.set_state(old)
    for mine, its in zip(agent.policy.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(mine, its)
    for variable, value in zip(agent.run_variables, now, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    assert now[0] == 4 * 32
    agent.restore_run(arrays, values)  # a resumed run goes on where it was
    assert agent.explored_env_steps == 32


def test_an_agent_that_takes_the_state_of_another_goes_on_with_its_own_exploration(small_pqn: MakeAgent) -> None:
    first, second, untrained = small_pqn(), small_pqn(), small_pqn()
    train(first, 3)
    train(second, 1)
    second.set_state(first.get_state())
    assert second.explored_env_steps == 32
    windows(untrained)  # binds it
    assert untrained.explored_env_steps == 0
    untrained.set_state(first.get_state())  # it has none of its own, and acts as the other did
    assert untrained.explored_env_steps == 96
    np.testing.assert_array_equal(untrained.head.weight.numpy(), first.head.weight.numpy())
    for mine, its in zip(second.policy.get_weights(), first.policy.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, its)


def test_a_file_holds_the_agent_and_how_far_exploration_has_come(small_pqn: MakeAgent, tmp_path: Path) -> None:
    agent = small_pqn(normalize_observations=True, normalize_rewards=True, q_lambda=0.5, initial_epsilon=0.9)
    agent.hyperparams["epsilon"] = 0.02
    train(agent, 3)
    agent.save(tmp_path / "agent.keras")
    loaded = keras.saving.load_model(tmp_path / "agent.keras")
    assert type(loaded) is optix.PQNAgent
    mine, its = agent.get_config(), loaded.get_config()
    assert {name: its[name] for name in mine if name != "policy"} == {n: v for n, v in mine.items() if n != "policy"}
    assert "distribution" not in mine
    for a, b in zip(agent.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert loaded.explored_env_steps == 96
    rows = np.eye(3, dtype=np.float32)
    np.testing.assert_array_equal(agent.act(rows, deterministic=True), loaded.act(rows, deterministic=True))
    assert train(loaded, 1)["epsilon"] == pytest.approx([0.9 + (0.02 - 0.9) * 96 / 200])


# Networks and arguments


@pytest.mark.parametrize(
    ("shape", "dtype", "kinds", "units"),
    [
        ((3,), np.float32, ["Dense", "Dense"], [120, 84, 3]),
        ((40, 40, 3), np.uint8, ["Conv2D", "Conv2D", "Conv2D", "Dense"], [512, 3]),
        ((8, 8, 2), np.uint8, ["Conv2D", "Dense"], [128, 3]),
    ],
)
def test_the_default_network_normalises_before_each_relu(
    shape: tuple[int, ...], dtype: Any, kinds: list[str], units: list[int]
) -> None:
    low, high = (0, 255) if dtype == np.uint8 else (-1.0, 1.0)
    agent = optix.PQNAgent(seed=0)
    agent.bind(spaces.Box(low, high, shape, dtype), CHOICES)
    names = [type(layer).__name__ for layer in agent.policy.layers]
    layers = [name for name in names if name in ("Conv2D", "Dense", "LayerNormalization", "Activation")]
    assert layers == [name for kind in kinds for name in (kind, "LayerNormalization", "Activation")] + ["Dense"]
    assert [layer.units for layer in agent.policy.layers if isinstance(layer, keras.layers.Dense)] == units
    observations = np.random.default_rng(0).integers(0, 256, (2, *shape)).astype(dtype)
    hidden = [layer for layer in agent.policy.layers if isinstance(layer, keras.layers.LayerNormalization)]
    found = np.asarray(keras.Model(agent.policy.input, hidden[0].output)(observations)).reshape(2, -1)
    np.testing.assert_allclose(found.mean(1), 0.0, atol=1e-4)
    np.testing.assert_allclose(found.std(1), 1.0, atol=2e-3)


def test_the_default_policy_is_lowered() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agent = optix.PQNAgent(seed=0)
        agent.bind(VECTOR, CHOICES)
        assert isinstance(agent.make_actor(1), LiteRTActor)
        assert isinstance(agent.make_actor(64), LiteRTActor)
    rows = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
    expected = np.asarray(agent(rows)).argmax(-1)
    np.testing.assert_array_equal([int(agent.act(row, deterministic=True)) for row in rows], expected)
    assert agent(rows).shape == (64, 3)
    assert agent.compute_output_shape(None) == (None, 3)


def test_a_network_must_give_values_of_discrete_actions() -> None:
    def network(activation: Any, outputs: int = 3) -> Any:
        return keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(outputs, activation=activation)])

    with pytest.raises(SpaceError, match=r"the value of each action \(its expected return\) is needed.*may be any"):
        optix.PQNAgent(network("softmax")).bind(VECTOR, CHOICES)
    with pytest.raises(SpaceError, match=r"\(None, 3\) is needed: the value of each action of Discrete\(3\)"):
        optix.PQNAgent(network(None, 4)).bind(VECTOR, CHOICES)
    optix.PQNAgent(network("sigmoid")).bind(VECTOR, CHOICES)  # rewards may be probabilities
    with pytest.raises(SpaceError, match=r"PQNAgent plays Discrete actions only"):
        optix.PQNAgent().bind(VECTOR, VECTOR)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": 1.5}, r"'epsilon' must be in \[0, 1\]"),
        ({"q_lambda": -0.1}, r"'q_lambda' must be in \[0, 1\]"),
        ({"initial_epsilon": 2}, r"`initial_epsilon` must be a number in \[0, 1\]"),
        ({"exploration_env_steps": 0}, r"`exploration_env_steps` must be.*initial_epsilon=epsilon"),
        ({"update_epochs": 0}, r"`update_epochs` must be"),
        ({"minibatch_size": 0}, r"`minibatch_size` must be"),
        ({"distribution": None}, r"distribution"),
    ],
)
def test_an_argument_out_of_range_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        optix.PQNAgent(**options)


# Presets


def test_the_preset_has_the_settings_of_cleanrl() -> None:
    """Those of the script: 4 minibatches of 128 env steps of 4 environments, exploration over half of 500,000."""
    agent = optix.PQNAgent.preset("CartPole-v1", seed=0)
    config = agent.get_config()
    script = {"gamma": 0.99, "q_lambda": 0.65, "epsilon": 0.05, "initial_epsilon": 1.0, "max_grad_norm": 10.0}
    script |= {"update_epochs": 4, "minibatch_size": 4 * 128 // 4, "exploration_env_steps": 500_000 // 2}
    assert {name: config[name] for name in script} == pytest.approx(script)
    assert agent.hyperparams["learning_rate"] == pytest.approx(2.5e-4)
    assert (agent.collection_defaults.window_size, agent.collection_defaults.num_envs) == (128, 4)
    assert agent.optimizer.epsilon == 1e-8
    assert optix.PQNAgent.preset("CartPole-v0", q_lambda=0.5).hyperparams["q_lambda"] == 0.5
    (preset,) = PQN_PRESETS
    assert re.search(r"cleanrl/pqn\.py, commit [0-9a-f]{40}", preset.provenance)
    assert preset.describe("CartPole-v1") == "preset of CartPole-v1 from CleanRL"
    with pytest.raises(ConfigurationError, match=r"PQNAgent\.preset knows no preset of this id"):
        optix.PQNAgent.preset("Pendulum-v1")
