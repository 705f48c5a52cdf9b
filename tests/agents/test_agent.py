"""Agents: binding, acting, hyperparameters, state, and the errors of a wrong order."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import gymnasium
import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_optix as optix
from keras_optix.testing import CountingEnv, IdentityEnv, RaisingEnv

MakeAgent = Callable[..., optix.PPOAgent]


def bind(agent: optix.Agent, env: gymnasium.Env | None = None) -> optix.Agent:
    env = CountingEnv() if env is None else env
    agent.bind(env.observation_space, env.action_space)
    return agent


# Spaces


@pytest.mark.parametrize(
    ("inputs", "outputs", "match"),
    [
        (3, 2, r"policy takes inputs of shape \(None, 3\).*observations have shape \(None, 2\)"),
        (2, 5, r"policy gives outputs of shape \(None, 5\), but \(None, 2\) is needed"),
    ],
)
def test_a_policy_that_does_not_fit_is_refused_with_both_shapes(
    small_network: Callable[[int, int], Any], inputs: int, outputs: int, match: str
) -> None:
    agent = optix.PPOAgent(small_network(inputs, outputs))
    with pytest.raises(optix.errors.SpaceError, match=match):
        optix.dataset_from_env(CountingEnv, agent)


def test_a_value_network_that_does_not_fit_is_refused(small_network: Callable[[int, int], Any]) -> None:
    with pytest.raises(optix.errors.SpaceError, match=r"value gives outputs of shape \(None, 2\)"):
        bind(optix.PPOAgent(small_network(2, 2), small_network(2, 2)))
    with pytest.raises(optix.errors.SpaceError, match=r"must be a keras.Model"):
        bind(optix.PPOAgent(keras.layers.Dense(2)))


def test_networks_are_built_for_the_spaces_if_none_are_given() -> None:
    agent = bind(optix.PPOAgent())
    assert agent.policy.output_shape == (None, 2)
    assert agent.value.output_shape == (None, 1)
    # A small last layer: the first policy is nearly uniform.
    assert np.abs(np.asarray(agent(np.ones((1, 2), np.float32)))).max() < 0.05


def test_a_model_without_an_input_shape_takes_it_from_the_environment() -> None:
    agent = bind(optix.PPOAgent(keras.Sequential([keras.layers.Dense(4), keras.layers.Dense(2)])))
    assert agent.policy.built
    assert agent.act(np.zeros(2)) in (0, 1)


def test_binding_again_is_for_the_same_spaces_only() -> None:
    agent = bind(bind(optix.PPOAgent()))
    with pytest.raises(optix.errors.SpaceError, match="another environment"):
        bind(agent, IdentityEnv())


def test_the_wrong_order_has_a_name(small_ppo: MakeAgent) -> None:
    with pytest.raises(optix.errors.StateError, match="knows no environment"):
        small_ppo().fit(None)
    with pytest.raises(optix.errors.StateError, match="knows no environment"):
        small_ppo().act(np.zeros(2))
    agent = optix.PPOAgent()
    dataset = optix.dataset_from_env(CountingEnv, agent, window_size=4)
    with pytest.raises(optix.errors.StateError, match=r"not compiled.*agent\.compile"):
        agent.fit(dataset, steps_per_epoch=1)


def test_compile_may_come_before_or_after_the_dataset() -> None:
    for first in ("compile", "dataset"):
        agent = optix.PPOAgent(update_epochs=1)
        if first == "compile":
            agent.compile(optimizer="sgd", jit_compile=False)
        dataset = optix.dataset_from_env(CountingEnv, agent, window_size=4)
        if first == "dataset":
            agent.compile(optimizer="sgd", jit_compile=False)
        agent.fit(dataset, steps_per_epoch=2, verbose=0)
        assert agent.policy_version == 2


# Acting


def test_act_takes_one_or_many() -> None:
    agent = bind(optix.PPOAgent(seed=0), IdentityEnv(4, start=3))
    one = agent.act(np.eye(4)[1])
    many = agent.act(np.eye(4, dtype=np.float32), deterministic=True)
    assert isinstance(one, np.integer)
    assert many.shape == (4,)
    assert {int(a) for a in many} <= {3, 4, 5, 6}
    for k in range(4):
        assert agent.act(np.eye(4)[k], deterministic=True) == many[k]
    with pytest.raises(optix.errors.SpaceError, match=r"\(4,\).*Received: shape=\(3,\)"):
        agent.act(np.zeros(3))


def test_act_samples_unless_told_otherwise_and_uses_the_current_weights() -> None:
    agent = bind(optix.PPOAgent(seed=0))
    observation = np.zeros(2, np.float32)
    assert len({int(agent.act(observation)) for _ in range(40)}) == 2
    for wanted in (1, 0):
        agent.policy.layers[-1].bias.assign(np.eye(2)[wanted])
        assert {int(agent.act(observation, deterministic=True)) for _ in range(3)} == {wanted}


# Hyperparameters


def test_hyperparameters_are_read_written_and_bounded(small_ppo: MakeAgent) -> None:
    agent = small_ppo(gamma=0.98)
    assert agent.hyperparams["gamma"] == 0.98
    assert agent.hyperparams["learning_rate"] == 0.001
    agent.hyperparams["learning_rate"] = 3e-4
    assert float(agent.optimizer.learning_rate) == pytest.approx(3e-4)
    assert set(agent.hyperparams) >= {"gamma", "gae_lambda", "clip_ratio", "entropy_coefficient", "learning_rate"}
    with pytest.raises(optix.errors.HyperparamError, match=r"'gamma' must be in \[0, 1\]\. Received: gamma=1\.5"):
        agent.hyperparams["gamma"] = 1.5
    with pytest.raises(optix.errors.HyperparamError, match=r"Unknown.*Received: name='gama'.*gamma"):
        agent.hyperparams["gama"] = 0.9
    for bad in (float("nan"), "0.9", True):
        with pytest.raises(optix.errors.HyperparamError):
            agent.hyperparams["gamma"] = bad  # type: ignore[assignment]
    with pytest.raises(optix.errors.HyperparamError):
        del agent.hyperparams["gamma"]


def test_setting_several_is_all_or_none(small_ppo: MakeAgent) -> None:
    agent = small_ppo()
    before = agent.get_hyperparams()
    with pytest.raises(optix.errors.HyperparamError):
        agent.set_hyperparams(optix.HyperparamSet({"gamma": 0.5, "clip_ratio": -1.0}))
    assert agent.get_hyperparams() == before
    agent.set_hyperparams(optix.HyperparamSet({"gamma": 0.5, "clip_ratio": 0.1}))
    assert agent.hyperparams["gamma"] == 0.5


@pytest.mark.parametrize("options", [{"gamma": 2.0}, {"clip_ratio": 0.0}, {"update_epochs": 0}, {"minibatch_size": 0}])
def test_bad_constructor_arguments(options: dict[str, Any]) -> None:
    with pytest.raises(optix.ConfigurationError, match="Received: "):
        optix.PPOAgent(**options)


def test_a_learning_rate_before_compile_or_under_a_schedule_is_explained() -> None:
    agent = optix.PPOAgent()
    with pytest.raises(optix.errors.StateError, match="not compiled"):
        agent.hyperparams["learning_rate"]
    agent.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(1e-3, 100)))
    assert "learning_rate" not in list(agent.hyperparams)
    with pytest.raises(optix.errors.StateError, match="LearningRateSchedule"):
        agent.hyperparams["learning_rate"] = 1e-3


def test_hyperparameters_are_asked_for_like_in_any_mapping(small_ppo: MakeAgent) -> None:
    hyperparams = small_ppo(gamma=0.5).hyperparams
    assert "gamma" in hyperparams
    assert "gama" not in hyperparams
    assert (hyperparams.get("gamma"), hyperparams.get("gama"), hyperparams.get("gama", 1.0)) == (0.5, None, 1.0)


def test_hyperparameters_are_no_weights(small_ppo: MakeAgent) -> None:
    agent = bind(small_ppo())
    assert len(agent.weights) == 8
    before = agent.get_state()
    agent.hyperparams["gamma"] = 0.5
    agent.hyperparams["learning_rate"] = 5e-5
    agent.set_state(before)
    assert agent.hyperparams["gamma"] == 0.5
    assert agent.hyperparams["learning_rate"] == 5e-5


class Traces(optix.PPOAgent):
    """Counts how often its step is traced."""

    traces = 0

    def train_step(self, window: Any) -> dict[str, Any]:
        self.traces += 1
        return super().train_step(window) | {"gamma": tf.identity(self.hyperparams.tensor("gamma"))}


@pytest.mark.parametrize("jit_compile", [False, True])
def test_assignments_and_a_restore_take_effect_without_a_retrace(
    small_network: Callable[[int, int], Any], jit_compile: bool
) -> None:
    agent = Traces(small_network(2, 2), small_network(2, 1), update_epochs=1)
    agent.compile(optimizer=keras.optimizers.Adam(1e-3), jit_compile=jit_compile)
    dataset = optix.dataset_from_env(CountingEnv, agent, window_size=4)
    agent.fit(dataset, steps_per_epoch=1, verbose=0)
    state = agent.get_state()
    for k in range(10):
        agent.hyperparams["gamma"] = 0.5 + k / 100
        agent.hyperparams["learning_rate"] = 1e-4 * (k + 1)
        history = agent.fit(dataset, steps_per_epoch=1, verbose=0)
        assert history.history["gamma"] == [pytest.approx(0.5 + k / 100)]
    agent.set_state(state)
    agent.fit(dataset, steps_per_epoch=2, verbose=0)
    assert agent.traces == 1


def test_a_learning_rate_of_zero_changes_no_weight(small_ppo: MakeAgent) -> None:
    """The control for the test above: the compiled step really reads the variable."""
    agent = small_ppo()
    dataset = optix.dataset_from_env(CountingEnv, agent, window_size=4)
    agent.fit(dataset, steps_per_epoch=1, verbose=0)
    before = agent.policy.get_weights()
    agent.hyperparams["learning_rate"] = 0.0
    agent.fit(dataset, steps_per_epoch=3, verbose=0)
    assert all(np.array_equal(a, b) for a, b in zip(before, agent.policy.get_weights(), strict=True))


# State


def test_a_restored_agent_continues_as_the_one_that_was_saved(small_ppo: MakeAgent) -> None:
    """Weights and optimizer slots: one more update gives the same weights."""

    def after_one_more(agent: optix.PPOAgent) -> list[np.ndarray]:
        dataset = optix.dataset_from_env(CountingEnv, agent, window_size=8, seed=3)
        agent.fit(dataset, steps_per_epoch=1, verbose=0)
        return agent.policy.get_weights()

    agent = small_ppo()
    agent.fit(optix.dataset_from_env(CountingEnv, agent, window_size=8), steps_per_epoch=3, verbose=0)
    state = agent.get_state()
    other = bind(small_ppo())
    other.set_state(state)
    for a, b in zip(after_one_more(agent), after_one_more(other), strict=True):
        np.testing.assert_array_equal(a, b)


def test_versions_never_go_back(small_ppo: MakeAgent) -> None:
    agent = small_ppo()
    dataset = optix.dataset_from_env(CountingEnv, agent, window_size=4)
    state = bind(agent).get_state()
    agent.fit(dataset, steps_per_epoch=3, verbose=0)
    version = agent.policy_version
    assert version == 6
    agent.set_state(state)
    assert agent.policy_version == 7
    agent.fit(dataset, steps_per_epoch=1, verbose=0)
    assert agent.policy_version == 9


def test_a_state_of_another_architecture_is_refused_and_nothing_is_changed(small_ppo: MakeAgent) -> None:
    agent, other = bind(small_ppo()), bind(small_ppo(4, 4), IdentityEnv(4))
    before = agent.get_state()
    with pytest.raises(optix.errors.StateError, match=r"another architecture.*has shape"):
        agent.set_state(other.get_state())
    with pytest.raises(optix.errors.StateError, match="another architecture"):
        agent.set_state({"model/000": np.zeros((2, 8), np.float32)})
    for name, array in agent.get_state().items():
        np.testing.assert_array_equal(array, before[name])


def test_a_state_loads_into_an_agent_that_only_acts(small_ppo: MakeAgent, small_network: Any) -> None:
    agent = bind(small_ppo())
    actor = bind(optix.PPOAgent(small_network(2, 2), small_network(2, 1)))
    actor.set_state(agent.get_state())
    observations = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    np.testing.assert_array_equal(actor.act(observations, True), agent.act(observations, True))


def test_a_policy_record_keeps_its_state_while_training_goes_on(small_ppo: MakeAgent) -> None:
    agent = small_ppo()
    dataset = optix.dataset_from_env(CountingEnv, agent, window_size=4)
    policy, before = agent.policy_record(), agent.get_state()
    agent.fit(dataset, steps_per_epoch=2, verbose=0)
    for name, array in agent.state_of(policy).items():
        np.testing.assert_array_equal(array, before[name])
    assert any(not np.array_equal(array, before[name]) for name, array in agent.get_state().items())


# fit


def test_what_an_environment_raises_reaches_the_caller_with_its_traceback(small_ppo: MakeAgent) -> None:
    env = RaisingEnv(10, KeyError("lost"))
    agent = small_ppo()
    dataset = optix.dataset_from_env(env, agent, window_size=4)
    with pytest.raises(KeyError, match="lost") as caught:
        agent.fit(dataset, steps_per_epoch=9, verbose=0)
    assert "raise self._error" in "".join(traceback.format_tb(caught.value.__traceback__))
    assert caught.value.__suppress_context__
    assert env.closed


def test_an_error_from_before_fit_is_not_raised_by_it(small_ppo: MakeAgent) -> None:
    agent = small_ppo()
    failing = optix.dataset_from_env(RaisingEnv(2, KeyError("earlier")), agent, window_size=4)
    with pytest.raises(Exception, match="earlier"):
        next(iter(failing))
    dataset = optix.dataset_from_env(CountingEnv(), agent, window_size=4)

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("of the callback")

    callback = keras.callbacks.LambdaCallback(on_train_batch_end=fail)
    with pytest.raises(RuntimeError, match="of the callback"):
        agent.fit(dataset, steps_per_epoch=2, verbose=0, callbacks=[callback])


def test_an_agent_of_ones_own_gets_the_logs_of_every_agent(small_network: Callable[[int, int], Any]) -> None:
    class Mine(optix.Agent):
        """Overrides `train_step` and nothing else."""

        def train_step(self, window: optix.Window) -> dict[str, Any]:
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(self.policy(tf.reshape(window.observations, (-1, 2))) ** 2)
            variables = self.trainable_variables
            self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
            return {"my_loss": loss, "scale": tf.identity(self.hyperparams.tensor("scale"))}

    agent = Mine(small_network(2, 2), hyperparams={"scale": optix.Hyperparam(0.5, 0.0, 1.0)})
    agent.compile(optimizer="adam")
    history = agent.fit(optix.dataset_from_env(CountingEnv, agent, window_size=6), steps_per_epoch=4, verbose=0)
    assert set(history.history) == {"my_loss", "scale", "episode_return", "episode_length", "policy_lag"}
    assert history.history["scale"] == [0.5]
    assert history.history["episode_return"] == [6.0]
    assert agent.last_window_id == 3


def test_an_agent_without_a_train_step_says_so() -> None:
    agent = optix.Agent()
    agent.compile()
    dataset = optix.dataset_from_env(CountingEnv, agent, window_size=6)
    with pytest.raises(NotImplementedError, match="train_step"):
        agent.fit(dataset, steps_per_epoch=1, verbose=0)


def test_a_paused_agent_acts_and_does_not_learn(small_ppo: MakeAgent) -> None:
    env = CountingEnv()
    agent = small_ppo()
    dataset = optix.dataset_from_env(env, agent, window_size=4)
    agent.pause_updates(True)
    before = agent.get_state()
    history = agent.fit(dataset, steps_per_epoch=3, verbose=0)
    assert env.steps == 12
    assert history.history["episode_return"] == [6.0]
    for name, array in agent.get_state().items():
        np.testing.assert_array_equal(array, before[name])
    agent.pause_updates(False)
    agent.fit(dataset, steps_per_epoch=1, verbose=0)
    assert agent.policy_version > 0


def test_validation_data_is_scored_and_not_learned_from(small_ppo: MakeAgent) -> None:
    agent = small_ppo()
    training = optix.dataset_from_env(CountingEnv, agent, window_size=4)
    validation = optix.dataset_from_env(lambda: CountingEnv(5), agent, window_size=10, deterministic=True)
    history = agent.fit(
        training, steps_per_epoch=2, epochs=2, validation_data=validation, validation_steps=1, verbose=0
    )
    assert history.history["val_episode_return"] == [15.0, 15.0]
    assert agent.policy_version == 8


def test_two_runs_with_one_seed_are_bit_equal(small_network: Callable[[int, int], Any]) -> None:
    def weights() -> list[np.ndarray]:
        keras.utils.set_random_seed(3)
        agent = optix.PPOAgent(small_network(4, 4), small_network(4, 1), update_epochs=2, minibatch_size=6)
        agent.compile(optimizer=keras.optimizers.Adam(1e-2), jit_compile=False)
        dataset = optix.dataset_from_env(lambda: IdentityEnv(4), agent, window_size=8, num_envs=2, seed=3)
        agent.fit(dataset, steps_per_epoch=10, verbose=0)
        return agent.get_weights()

    for a, b in zip(weights(), weights(), strict=True):
        np.testing.assert_array_equal(a, b)
