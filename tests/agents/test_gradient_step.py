"""A gradient step as Keras' own trainer makes it: scaled, accumulated, averaged, regularised, by any optimizer."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from versions import older

import keras_optix as optix
from keras_optix.agents.gradient_step import fusible, gradient_step
from keras_optix.testing import CountingEnv, IdentityEnv

MakeAgent = Callable[..., optix.PPOAgent]
SCALED: dict[str, Callable[[float], Any]] = {
    "none": keras.optimizers.SGD,
    "factor": lambda rate: keras.optimizers.SGD(rate, loss_scale_factor=1024.0),
    "wrapped": lambda rate: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(rate)),
}


@pytest.fixture
def policy_of() -> Any:
    """Sets the global dtype policy of a test, and the default one after it."""
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


def networks(**options: Any) -> tuple[Any, Any]:
    """A policy and a value network for `CountingEnv` whose first layer has these options."""

    def network(outputs: int) -> Any:
        first = keras.layers.Dense(8, activation="tanh", **options)
        return keras.Sequential([keras.layers.Input((2,)), first, keras.layers.Dense(outputs)])

    return network(2), network(1)


def window_of(agent: optix.Agent) -> optix.Window:
    return next(iter(optix.dataset_from_env(CountingEnv, agent, window_size=8, num_envs=2, seed=0)))


def moved_by(make: Callable[..., optix.Agent], optimizer: Any, *, step: Callable[..., Any] | None = None) -> Any:
    """How far one window moves each weight, and its logs."""
    keras.utils.set_random_seed(0)
    agent = make()
    agent.compile(optimizer=optimizer, jit_compile=False)
    window = window_of(agent)
    drawn = np.random.default_rng(0).normal
    window = window._replace(
        observations=tf.constant(drawn(size=(8, 2, 2)), tf.float32),
        rewards=tf.constant(drawn(0.0, 5.0, (8, 2)), tf.float32),
    )
    before = agent.get_weights()
    logs = (step or type(agent).train_step)(agent, window)
    return [now - old for now, old in zip(agent.get_weights(), before, strict=True)], logs


ALGORITHMS: dict[str, Callable[..., optix.Agent]] = {
    "ppo": lambda: optix.PPOAgent(*networks(), update_epochs=1, minibatch_size=64),
    "reinforce": lambda: optix.ReinforceAgent(*networks()),
}


# Loss scaling


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_scaled_loss_moves_weights_as_far_as_one_that_is_not(algorithm: str) -> None:
    """Clipped at 0.5 as well: it is the unscaled gradient that is clipped, else it would be 1,024 times too small."""
    wanted, _ = moved_by(ALGORITHMS[algorithm], SCALED["none"](0.1))
    assert sum(float(np.square(moves).sum()) for moves in wanted) ** 0.5 == pytest.approx(0.05, rel=1e-4)
    for kind in ("factor", "wrapped"):
        found, logs = moved_by(ALGORITHMS[algorithm], SCALED[kind](0.1))
        for a, b in zip(wanted, found, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-8)
        assert abs(float(logs["loss"])) < 1e3  # the log is not scaled


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_mixed_float16_learns_as_float32_does(algorithm: str, policy_of: Any) -> None:
    wanted, _ = moved_by(ALGORITHMS[algorithm], SCALED["none"](0.1))
    policy_of("mixed_float16")
    # At Keras' first scale, 32,768, these gradients overflow, and the step would be skipped.
    scaled = keras.optimizers.LossScaleOptimizer(SCALED["none"](0.1), initial_scale=256.0)
    found, _ = moved_by(ALGORITHMS[algorithm], scaled)
    size = max(float(np.abs(moves).max()) for moves in wanted)
    for a, b in zip(wanted, found, strict=True):
        np.testing.assert_allclose(a, b, atol=0.02 * size)


def test_the_control_of_a_loss_that_is_not_scaled_hardly_moves() -> None:
    def unscaled(agent: Any, window: Any) -> dict[str, Any]:
        rows, _ = agent.prepare(window)
        with tf.GradientTape() as tape:
            loss, logs = agent.compute_losses(rows)
        agent.optimizer.apply(tape.gradient(loss, agent.trainable_variables))
        return dict(logs)

    wanted, _ = moved_by(ALGORITHMS["ppo"], SCALED["none"](0.1), step=unscaled)
    found, _ = moved_by(ALGORITHMS["ppo"], SCALED["wrapped"](0.1), step=unscaled)
    assert max(np.abs(a).max() for a in found) < 1e-3 * max(np.abs(a).max() for a in wanted)


def test_layers_with_a_policy_of_their_own_get_a_scaled_loss() -> None:
    for dtype, wrapped in (("mixed_float16", True), ("mixed_bfloat16", False), ("float16", False)):
        agent = optix.PPOAgent(*networks(dtype=dtype))
        agent.compile("sgd", jit_compile=False)
        assert isinstance(agent.optimizer, keras.optimizers.LossScaleOptimizer) is wrapped
    agent = optix.PPOAgent(*networks(dtype="mixed_float16"))
    agent.compile("sgd", jit_compile=False, auto_scale_loss=False)
    assert isinstance(agent.optimizer, keras.optimizers.SGD)


def test_a_step_that_overflows_is_skipped_and_is_no_failure(small_ppo: MakeAgent) -> None:
    """A scale at which gradients overflow: Keras halves it and leaves the weights; so the run is not undone."""
    agent = small_ppo(update_epochs=1, minibatch_size=64)
    agent.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=3e38), jit_compile=False)
    dataset = optix.dataset_from_env(CountingEnv, agent, window_size=8, seed=0)
    before = agent.get_weights()
    callback = optix.OptixCallback(max_windows=1, restore_best_weights=False, verbose=0)
    agent.fit(dataset, callbacks=[callback], verbose=0)
    for a, b in zip(before, agent.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert agent.last_update == (0, True)
    assert not [event for event in callback.events if event.kind == "non_finite"]
    assert float(agent.optimizer.dynamic_scale) == pytest.approx(1.5e38, rel=1e-3)
    assert agent.policy_version == 0  # nothing was updated
    assert agent.hyperparams["learning_rate"] == pytest.approx(0.1)


def test_the_learning_rate_behind_a_loss_scale_is_the_one_that_is_tuned(small_ppo: MakeAgent) -> None:
    agent = small_ppo()
    agent.compile(SCALED["wrapped"](0.25), jit_compile=False)
    agent.bind(CountingEnv().observation_space, CountingEnv().action_space)
    agent.hyperparams["learning_rate"] = 0.125
    assert float(agent.optimizer.inner_optimizer.learning_rate) == 0.125
    state = agent.get_state()
    agent.hyperparams["learning_rate"] = 0.5
    agent.set_state(state)  # a decision of the tuner, which restoring weights does not undo
    assert agent.hyperparams["learning_rate"] == 0.5


class Handmade(optix.Agent):
    """Makes its gradient step itself."""

    complete = False

    def train_step(self, window: optix.Window) -> dict[str, Any]:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(self(tf.reshape(window.observations, (-1, 2)), training=True) ** 2)
            if self.complete:
                loss = self.optimizer.scale_loss(loss + sum(self.losses))
        variables = self.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return {"policy_loss": loss}


@pytest.mark.parametrize("kind", ["factor", "wrapped"])
def test_a_step_of_ones_own_that_does_not_scale_is_refused(kind: str) -> None:
    agent = Handmade(networks()[0])
    agent.compile(SCALED[kind](0.1), jit_compile=False)
    dataset = optix.dataset_from_env(CountingEnv, agent, window_size=8)
    with pytest.raises(optix.ConfigurationError, match=r"divides gradients by its loss scale.*self\.minimize"):
        agent.fit(dataset, steps_per_epoch=1, verbose=0)
    agent = Handmade(networks()[0])
    agent.complete = True
    agent.compile(SCALED[kind](0.1), jit_compile=False)
    agent.fit(optix.dataset_from_env(CountingEnv, agent, window_size=8), steps_per_epoch=1, verbose=0)


# Regularizers and add_loss


class Pull(keras.layers.Layer):  # type: ignore[misc]
    """Adds the mean square of its inputs to the loss."""

    def call(self, inputs: Any) -> Any:
        self.add_loss(3.0 * keras.ops.mean(keras.ops.square(inputs)))
        return inputs


@pytest.mark.parametrize("make", [optix.PPOAgent, optix.ReinforceAgent])
def test_an_l2_regularizer_adds_its_gradient_once(make: Any) -> None:
    """One step of SGD: the difference to the step without it is -lr * 2 lambda w."""
    options = {"update_epochs": 1, "minibatch_size": 64} if make is optix.PPOAgent else {}
    rate, weight = 0.1, 0.05
    kernels: list[np.ndarray] = []

    def build(regularizer: Any) -> Callable[..., optix.Agent]:
        def agent() -> optix.Agent:
            made = make(*networks(kernel_regularizer=regularizer), max_grad_norm=1e9, **options)
            kernels[:] = [made.policy.layers[0].kernel.numpy(), made.value.layers[0].kernel.numpy()]
            return made

        return agent

    plain, without = moved_by(build(None), keras.optimizers.SGD(rate))
    found, logs = moved_by(build(keras.regularizers.L2(weight)), keras.optimizers.SGD(rate))
    assert "regularization_loss" not in without
    expected = weight * sum(float(np.square(kernel).sum()) for kernel in kernels)
    assert float(logs["regularization_loss"]) == pytest.approx(expected, rel=1e-5)
    assert float(logs["loss"]) == pytest.approx(float(without["loss"]) + expected, rel=1e-4)
    differences = [b - a for a, b in zip(plain, found, strict=True)]
    regularised = [d for d in differences if np.abs(d).max() > 1e-4]
    assert len(regularised) == 2
    for difference, kernel in zip(regularised, kernels, strict=True):
        np.testing.assert_allclose(difference, -rate * 2 * weight * kernel, rtol=1e-3, atol=1e-6)


def test_losses_of_layers_count_in_every_minibatch_and_once() -> None:
    """`add_loss` and an activity regularizer, in PPO's loop of minibatches, compiled; a shared layer counts once."""
    shared = keras.layers.Dense(8, kernel_regularizer=keras.regularizers.L2(0.5), activity_regularizer="l2")
    inputs = keras.Input((2,))
    hidden = shared(inputs)
    policy = keras.Model(inputs, keras.layers.Dense(2)(Pull()(hidden)))
    value = keras.Model(inputs, keras.layers.Dense(1)(hidden))
    agent = optix.PPOAgent(policy, value, update_epochs=2, minibatch_size=8)
    agent.compile(keras.optimizers.SGD(0.0), jit_compile=False)
    window = window_of(agent)
    logs = tf.function(agent.train_step, autograph=False)(window)
    rows = tf.reshape(window.observations, (-1, 2))
    outputs = shared(rows).numpy()
    pull = 3.0 * np.square(outputs).mean()
    activity = 0.01 * np.square(outputs).sum(-1).mean()  # Keras divides it by the size of the batch, since 3.14
    if older("keras", "3.14"):
        activity *= 8
    weights = 0.5 * np.square(shared.kernel.numpy()).sum()
    assert float(logs["regularization_loss"]) == pytest.approx(pull + activity + weights, rel=1e-4)


def test_a_step_of_ones_own_is_told_of_losses_that_it_leaves_out() -> None:
    for complete in (False, True):
        agent = Handmade(networks(kernel_regularizer="l2")[0])
        agent.complete = complete
        agent.compile("sgd", jit_compile=False)
        dataset = optix.dataset_from_env(CountingEnv, agent, window_size=8)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            agent.fit(dataset, steps_per_epoch=2, verbose=0)
        said = [str(warning.message) for warning in seen if "losses of their own" in str(warning.message)]
        assert len(said) == (0 if complete else 1)


def test_the_members_of_an_ensemble_are_regularised_each_by_its_own() -> None:
    members = [optix.ReinforceAgent(*networks(kernel_regularizer=r)) for r in ("l2", None)]
    manager = optix.PolicyManager()
    for member in members:
        member.compile("sgd", jit_compile=False)
        manager.add_agent(member)
    ensemble = optix.EnsembleAgent(manager, members[0], learn="all")
    ensemble.compile(jit_compile=False)
    dataset = optix.dataset_from_env(CountingEnv, ensemble, window_size=8, num_envs=3, seed=0)
    history = ensemble.fit(dataset, steps_per_epoch=1, verbose=0).history
    assert history["regularization_loss"][0] > 0.0
    assert "member1/regularization_loss" not in history


# Optimizers


def test_gradients_are_accumulated_over_minibatches(small_ppo: MakeAgent) -> None:
    """Two epochs of one minibatch, accumulated: the weights move once, in the second, and the version says so."""
    agent = small_ppo(update_epochs=2, minibatch_size=64)
    agent.compile(keras.optimizers.SGD(0.1, gradient_accumulation_steps=4), jit_compile=False)
    dataset = optix.dataset_from_env(CountingEnv, agent, window_size=8, seed=0)
    windows = iter(dataset)
    before = agent.get_weights()
    agent.train_step(next(windows))
    assert agent.policy_version == 0
    for a, b in zip(before, agent.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    agent.train_step(next(windows))
    assert agent.policy_version == 1
    assert any(not np.array_equal(a, b) for a, b in zip(before, agent.get_weights(), strict=True))
    callback = optix.OptixCallback(max_windows=4, verbose=0)
    agent.fit(dataset, callbacks=[callback], verbose=0)
    assert agent.policy_version >= 3


def test_averages_of_weights_take_their_place_at_the_end_of_fit(small_ppo: MakeAgent) -> None:
    agent = small_ppo()
    agent.compile(keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5), jit_compile=False)
    dataset = optix.dataset_from_env(CountingEnv, agent, window_size=8, seed=0)
    before = agent.get_weights()
    agent.pause_updates(True)
    agent.fit(dataset, steps_per_epoch=1, verbose=0)
    for a, b in zip(before, agent.get_weights(), strict=True):  # without an update, Keras' averages are zeros
        np.testing.assert_array_equal(a, b)
    agent.pause_updates(False)
    agent.fit(dataset, steps_per_epoch=2, verbose=0)
    assert any(not np.array_equal(a, b) for a, b in zip(before, agent.get_weights(), strict=True))
    assert all(np.isfinite(weights).all() and np.abs(weights).max() < 10 for weights in agent.get_weights())


def test_averages_of_a_primary_are_put_into_no_other_member() -> None:
    members = [optix.ReinforceAgent(*networks()) for _ in range(2)]
    manager = optix.PolicyManager()
    for member in members:
        member.compile("sgd", jit_compile=False)
        manager.add_agent(member)
    ensemble = optix.EnsembleAgent(manager, members[1])
    ensemble.compile(keras.optimizers.SGD(0.1, use_ema=True), jit_compile=False)
    dataset = optix.dataset_from_env(CountingEnv, ensemble, window_size=8, num_envs=3, seed=0)
    other, primary = members[0].get_weights(), members[1].get_weights()
    ensemble.fit(dataset, steps_per_epoch=2, verbose=0)
    for a, b in zip(other, members[0].get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert any(not np.array_equal(a, b) for a, b in zip(primary, members[1].get_weights(), strict=True))


OPTIMIZERS = sorted(
    name
    for name, kind in vars(keras.optimizers).items()
    if inspect.isclass(kind) and issubclass(kind, keras.optimizers.Optimizer)
)
if older("keras", "3.13"):
    OPTIMIZERS.remove("Muon")  # On TensorFlow it fails in any model: it looks for the path of a variable that has none.
OPTIONS: dict[str, dict[str, Any]] = {
    "clipnorm": {"clipnorm": 0.1},
    "clipvalue": {"clipvalue": 0.01},
    "global_clipnorm": {"global_clipnorm": 0.1},
    "weight_decay": {"weight_decay": 0.1},
    "schedule": {"learning_rate": keras.optimizers.schedules.ExponentialDecay(1e-2, 10, 0.9)},
    "callable": {"learning_rate": lambda: 1e-2},
}


def optimizer_of(name: str) -> Any:
    if name in OPTIONS:
        return keras.optimizers.SGD(**{"learning_rate": 1e-2, **OPTIONS[name]})
    if name == "LossScaleOptimizer":
        return keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(1e-2))
    if name == "MultiOptimizer":
        parts = keras.optimizers.OptimizerMap(keras.optimizers.SGD(1e-2), {".*kernel": keras.optimizers.Adam(1e-2)})
        return keras.optimizers.MultiOptimizer(parts)
    return getattr(keras.optimizers, name)(learning_rate=1e-2)


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "Optimizer"] + sorted(OPTIONS))
def test_every_optimizer_of_keras_trains_and_is_restored(name: str) -> None:
    """One eager step of PPO; then its state goes through a snapshot into an agent of the same kind, which goes on."""
    agents = []
    for _ in range(2):
        agent = optix.PPOAgent(*networks(), update_epochs=1, minibatch_size=64)
        agent.compile(optimizer_of(name), jit_compile=False)
        agents.append(agent)
    one, two = agents
    window = window_of(one)
    two.bind(*one.env_spaces)
    before = one.get_weights()
    one.train_step(window)
    assert any(not np.array_equal(a, b) for a, b in zip(before, one.get_weights(), strict=True))
    assert one.policy_version == 1
    two.set_state(one.get_state())
    for agent in agents:
        agent.train_step(window)
    for a, b in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def steps_of(name: str, fuse: bool, optimizer: Any = None, *, embedded: bool = False) -> tuple[list[np.ndarray], int]:
    """Weights and iterations after three steps on a small model, its optimizer compiled by itself or not."""
    keras.utils.set_random_seed(0)
    inner = [keras.layers.Embedding(4, 3), keras.layers.Flatten()] if embedded else [keras.layers.Dense(3)]
    model = keras.Sequential([keras.layers.Input((2,)), *inner, keras.layers.Dense(1)])
    model.compile(optimizer or optimizer_of(name), jit_compile=False)
    model.optimizer.build(model.trainable_variables)
    rows = tf.constant([[1.0, 2.0], [3.0, 0.0]])

    @tf.function(autograph=False)
    def step() -> None:
        gradient_step(model, lambda: (tf.reduce_mean(tf.square(model(rows) - 1.0)), {}), fuse=fuse)

    for _ in range(3):
        step()
    return model.get_weights(), int(model.optimizer.iterations)


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "Optimizer"] + sorted(OPTIONS))
def test_an_optimizer_that_is_compiled_by_itself_does_the_same(name: str) -> None:
    (plain, steps), (fused, fused_steps) = steps_of(name, False), steps_of(name, True)
    assert steps == fused_steps == 3
    for a, b in zip(plain, fused, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    # A function of somebody's own may be more than XLA can compile.
    assert fusible(optimizer_of(name)) == (name != "callable")


@pytest.mark.parametrize("name", ["Adam", "global_clipnorm", "LossScaleOptimizer"])
def test_so_it_does_with_the_gradient_of_an_embedding(name: str) -> None:
    """Which has the rows that were looked up only."""
    for a, b in zip(steps_of(name, False, embedded=True)[0], steps_of(name, True, embedded=True)[0], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_an_optimizer_of_ones_own_is_not_compiled_by_itself() -> None:
    """It may do what XLA cannot: this one calls Python."""
    called: list[int] = []

    class Noisy(keras.optimizers.SGD):  # type: ignore[misc]
        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            shown = tf.numpy_function(lambda g: (called.append(1), g)[1], [gradient], tf.float32)
            super().update_step(tf.reshape(shown, gradient.shape), variable, learning_rate)

    assert not fusible(Noisy(0.1))
    weights, steps = steps_of("SGD", True, Noisy(1e-2))
    assert (steps, len(called)) == (3, 3 * 4)
    for a, b in zip(weights, steps_of("SGD", False)[0], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("jit", "fused"), [("auto", True), (False, False)])
def test_where_auto_goes_without_xla_the_optimizer_is_compiled(
    monkeypatch: pytest.MonkeyPatch, jit: Any, fused: bool
) -> None:
    asked: list[bool] = []

    def noted(model: Any, compute: Any, *, fuse: bool, **options: Any) -> dict[str, Any]:
        asked.append(fuse)
        return gradient_step(model, compute, **options)

    monkeypatch.setattr("keras_optix.agents.agent.gradient_step", noted)

    def network(outputs: int) -> Any:
        inner = [keras.layers.Reshape((2, 1)), keras.layers.Conv1D(4, 2), keras.layers.Flatten()]
        return keras.Sequential([keras.layers.Input((2,)), *inner, keras.layers.Dense(outputs)])

    agent = optix.PPOAgent(network(2), network(1), update_epochs=1, minibatch_size=64)
    agent.compile("sgd", jit_compile=jit)
    agent.train_step(window_of(agent))
    assert asked == [fused]


# Dtypes


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16", "mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("actions", [False, True], ids=["discrete", "box"])
def test_any_dtype_policy_trains_and_acts(dtype: str, actions: bool, policy_of: Any) -> None:
    policy_of(dtype)
    env = (lambda: IdentityEnv(3)) if not actions else "Pendulum-v1"
    agent = optix.PPOAgent(update_epochs=1, minibatch_size=64, normalize_observations=True)
    agent.compile(keras.optimizers.SGD(1e-3), jit_compile=False)
    dataset = optix.dataset_from_env(env, agent, window_size=8, seed=0)
    before = agent.get_weights()
    logs = agent.fit(dataset, steps_per_epoch=1, verbose=0).history
    assert np.isfinite(logs["loss"][0])
    assert any(not np.array_equal(a, b) for a, b in zip(before, agent.get_weights(), strict=True))
    assert np.isfinite(agent.act(np.zeros(agent.observation_shape), deterministic=True)).all()
