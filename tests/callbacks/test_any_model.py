"""The loop on models of every kind: built by their first batch, with optimizers of their own, with odd metrics."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import keras_optix as optix

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 4)).astype("float32")
Y = X[:, :1].copy()
NAN = math.nan
tensorflow_only = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="its train_step is TensorFlow's")


class Net(keras.Model):
    """Makes one of its layers when it is called first."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.norm = keras.layers.Dense(8, "relu"), keras.layers.BatchNormalization()
        # Torch draws dropout from a generator of its own, which is no state of the model.
        torch = keras.backend.backend() == "torch"
        self.drop = keras.layers.Identity() if torch else keras.layers.Dropout(0.1, seed=1)
        self.out: Any = None

    def call(self, inputs: Any, training: bool = False) -> Any:
        if self.out is None:
            self.out = keras.layers.Dense(1)
        hidden = self.norm(self.hidden(inputs), training=training)
        return self.out(self.drop(hidden, training=training) if training else hidden)


def sequential() -> Any:
    return keras.Sequential([keras.layers.Dense(8, "relu"), keras.layers.BatchNormalization(), keras.layers.Dense(1)])


def half_built() -> Any:
    inner = keras.Sequential([keras.layers.Dense(8, "relu")])
    inner.build((None, 4))
    return keras.Sequential([inner, keras.layers.Dense(1)])


UNBUILT = {"sequential": sequential, "subclass": Net, "half built": half_built}


def fit(model: Any, callback: Any, epochs: int = 3, **options: Any) -> Any:
    options = {"batch_size": 16, "verbose": 0, "shuffle": False, "validation_data": (X, Y)} | options
    callbacks = callback if isinstance(callback, list) else [callback]
    return model.fit(X, Y, epochs=epochs, callbacks=callbacks, **options)


def loop(**options: Any) -> optix.OptixCallback:
    return optix.OptixCallback(**({"verbose": 0, "monitor": "val_loss"} | options))


def values(variables: Any) -> list[np.ndarray]:
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]


class Crash(keras.callbacks.Callback):
    def __init__(self, epoch: int) -> None:
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch == self.epoch:
            raise ConnectionError("power")


@pytest.mark.parametrize("kind", UNBUILT)
def test_a_model_that_its_first_batch_builds_is_kept_and_restored(kind: str) -> None:
    keras.utils.set_random_seed(0)
    model = UNBUILT[kind]()
    model.compile(keras.optimizers.Adam(0.3), "mse", jit_compile=False)
    callback = loop(tuner=optix.PBTOptimizer({"learning_rate": (1e-3, 1e-1)}))
    history = fit(model, callback, epochs=4)
    assert callback.best_snapshot is not None
    assert -callback.best_snapshot.score == pytest.approx(min(history.history["val_loss"]), rel=1e-5)
    assert model.evaluate(X, Y, verbose=0) == pytest.approx(min(history.history["val_loss"]), rel=1e-3)
    state = callback.registry.load(callback.best_snapshot)
    assert len([name for name in state if name.startswith("model/")]) == len(model.variables)
    # All slots, without the learning rate.
    assert len([name for name in state if name.startswith("optimizer/")]) == len(model.optimizer.variables) - 1


@pytest.mark.parametrize("kind", UNBUILT)
def test_a_run_of_such_a_model_goes_on_where_it_was_cut_off(tmp_path: Path, kind: str) -> None:
    def made(seed: int, rate: float) -> Any:
        keras.utils.set_random_seed(seed)
        model = UNBUILT[kind]()
        model.compile(keras.optimizers.Adam(rate), "mse", jit_compile=False)
        return model

    def callback(directory: str) -> optix.OptixCallback:
        return loop(checkpoint_dir=tmp_path / directory, resume=True, resume_interval=0.0, restore_best_weights=False)

    whole = made(0, 0.05)
    fit(whole, callback("a"), epochs=4)
    with pytest.raises(ConnectionError):
        fit(made(0, 0.05), [callback("b"), Crash(2)], epochs=4)
    model, resumed = made(7, 0.9), callback("b")
    fit(model, resumed, epochs=4)
    (record,) = [record for record in resumed.events if record.kind == "resumed"]
    assert "first batch" not in record.message
    for one, other in zip(values(model.variables), values(whole.variables), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["sequential", "subclass"])
def test_a_first_batch_that_is_not_finite_ends_with_an_error(kind: str) -> None:
    model = UNBUILT[kind]()
    model.compile(keras.optimizers.SGD(NAN), "mse", jit_compile=False)
    # On JAX and Torch Keras builds a model before the first batch, so that there is something to go back to.
    built = keras.backend.backend() != "tensorflow"
    with pytest.raises(optix.errors.NonFiniteError, match="6th time" if built else "no finite weights to go back to"):
        fit(model, loop(), epochs=5)


def test_a_later_batch_that_is_not_finite_goes_back_to_the_first() -> None:
    class Poison(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            if batch == 2 and not self.done:
                self.done = True
                self.model.layers[0].kernel.assign(keras.ops.full((4, 8), NAN))

        done = False

    model = sequential()
    model.compile(keras.optimizers.Adam(0.01), "mse", jit_compile=False)
    callback = loop(restore_best_weights=False)
    fit(model, [Poison(), callback])
    assert [record.kind for record in callback.events if record.kind == "non_finite"] == ["non_finite"]
    assert all(np.isfinite(array).all() for array in values(model.variables))


def test_weights_that_are_not_finite_behind_a_finite_loss_are_undone() -> None:
    """ReLU and dropped inputs may hide them; validation and the next epoch would be built on them."""

    class Poison(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if batch == 3 and len(self.model.history.epoch) == 1:
                self.model.layers[1].moving_mean.assign(keras.ops.full((8,), NAN))

    model = sequential()
    model.compile(keras.optimizers.Adam(0.01), "mse", jit_compile=False)
    callback = loop(restore_best_weights=False)
    fit(model, [callback, Poison()], epochs=4)
    (record,) = [record for record in callback.events if record.kind == "non_finite"]
    assert record.message.startswith("a weight was not finite")
    assert all(np.isfinite(array).all() for array in values(model.variables))


# Optimizers of a model's own


class Gan(keras.Model):
    """Two networks, two optimizers; the one of `compile` is never used."""

    def __init__(self, every: int = 1) -> None:
        super().__init__()
        self.critic = keras.Sequential([keras.layers.Dense(4, "relu"), keras.layers.Dense(1)])
        self.actor = keras.Sequential([keras.layers.Dense(4, "relu"), keras.layers.Dense(4)])
        self.every = every
        self.steps = keras.Variable(0, dtype="int32", trainable=False)
        self.both = {"c": keras.metrics.Mean("c_loss"), "a": keras.metrics.Mean("a_loss")}

    def compile(self, c_optimizer: Any, a_optimizer: Any, **options: Any) -> None:
        super().compile(**options)
        self.c_optimizer, self.optimizers = c_optimizer, {"actor": a_optimizer}

    @property
    def metrics(self) -> list[Any]:
        return list(self.both.values())

    def train_step(self, data: Any) -> Any:
        import tensorflow as tf

        x, _ = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(self.critic(x) - 1.0))
        variables = self.critic.trainable_variables
        self.c_optimizer.apply(tape.gradient(loss, variables), variables)
        with tf.GradientTape() as tape:
            other = tf.reduce_mean(tf.square(self.critic(self.actor(x))))
        variables = self.actor.trainable_variables
        self.optimizers["actor"].apply(tape.gradient(other, variables), variables)
        self.both["c"].update_state(loss)
        self.both["a"].update_state(other)
        return {name: metric.result() for name, metric in (("c_loss", self.both["c"]), ("a_loss", self.both["a"]))}


def gan(**options: Any) -> Gan:
    keras.utils.set_random_seed(0)
    model = Gan()
    model.compile(keras.optimizers.Adam(1e-3), keras.optimizers.Adam(2e-3), run_eagerly=False, **options)
    return model


def fit_gan(model: Any, callback: Any, epochs: int = 4) -> Any:
    return fit(model, callback, epochs, validation_data=None)


@tensorflow_only
def test_a_gan_is_kept_with_both_optimizers_and_each_learning_rate_has_a_name() -> None:
    model = gan()
    tuner = optix.BackoffOptimizer({"c_optimizer.learning_rate": (1e-4, 1e-2)}, block=2, max_rounds=1)
    callback = loop(monitor="c_loss", tuner=tuner)
    fit_gan(model, callback, 8)
    assert callback.best_snapshot is not None
    names = set(callback.registry.load(callback.best_snapshot))
    assert {name.rpartition("/")[0] for name in names} == {"model", "optimizer", "c_optimizer", "optimizers['actor']"}
    changed = [record.message for record in callback.events if record.kind == "hyperparams"]
    assert any("c_optimizer.learning_rate" in message for message in changed)
    assert float(keras.ops.convert_to_numpy(model.optimizers["actor"].learning_rate)) == pytest.approx(2e-3)


@tensorflow_only
def test_the_learning_rate_of_a_gan_is_ambiguous_and_its_names_are_told() -> None:
    callback = loop(monitor="c_loss", tuner=optix.BackoffOptimizer({"learning_rate": (1e-4, 1e-2)}))
    with pytest.raises(optix.errors.HyperparamError, match=r"Several optimizers.*'c_optimizer.learning_rate', .*actor"):
        fit_gan(gan(), callback)


@tensorflow_only
def test_without_bounds_all_that_trains_is_tuned() -> None:
    callback = loop(monitor="c_loss", tuner=optix.BackoffOptimizer())
    fit_gan(gan(), callback)
    assert tuple(callback.search_spaces) == ("c_optimizer.learning_rate", "optimizers['actor'].learning_rate")


@tensorflow_only
def test_the_guard_halves_what_trains_and_nothing_else() -> None:
    class Poison(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            if epoch == 1:
                self.model.critic.layers[0].kernel.assign(np.full((4, 4), np.nan, "float32"))

    model = gan()
    callback = loop(monitor="c_loss", restore_best_weights=False)
    fit_gan(model, [callback, Poison()])
    (record,) = [record for record in callback.events if record.kind == "non_finite"]
    assert "c_optimizer.learning_rate 0.001 -> 0.0005" in record.message
    assert "actor'].learning_rate 0.002 -> 0.001" in record.message
    assert float(keras.ops.convert_to_numpy(model.optimizer.learning_rate)) == pytest.approx(1e-3)  # RMSprop's default


class Own(keras.Sequential):
    """Trains with an optimizer that is not the one of `compile`."""

    hidden: Any = None  # an optimizer that nobody can find
    found: Any = None

    def train_step(self, data: Any) -> Any:
        import tensorflow as tf

        x, y = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(self(x, training=True) - y))
        optimizer = self.found if self.found is not None else HIDDEN[0]
        optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
        return {"loss": loss}


HIDDEN: list[Any] = []


def own(found: bool) -> Any:
    model = Own([keras.layers.Input((4,)), keras.layers.Dense(1)])
    HIDDEN[:] = [keras.optimizers.SGD(0.01)]
    if found:
        model.found = HIDDEN[0]
    model.compile("rmsprop", "mse", jit_compile=False)
    return model


@tensorflow_only
def test_the_only_optimizer_that_trains_is_the_one_that_is_tuned() -> None:
    model = own(found=True)
    tuner = optix.BackoffOptimizer({"learning_rate": (1e-4, 1e-1)}, block=2, max_rounds=1)
    callback = loop(tuner=tuner, monitor="loss")
    fit(model, callback, epochs=16, validation_data=None)  # a tuner looks at ten scores before its first probe
    assert float(keras.ops.convert_to_numpy(model.optimizer.learning_rate)) == pytest.approx(1e-3)
    moved = [record.message for record in callback.events if record.kind == "hyperparams"]
    assert moved
    assert all("learning_rate" in message for message in moved)


@tensorflow_only
def test_an_optimizer_that_cannot_be_found_is_asked_for() -> None:
    tuner = optix.BackoffOptimizer({"learning_rate": (1e-4, 1e-1)})
    with pytest.raises(
        optix.errors.HyperparamError, match=r"No optimizer.*made an update in the first epoch.*hyperparams="
    ):
        fit(own(found=False), loop(tuner=tuner, monitor="loss"), validation_data=None)
    tuner = optix.BackoffOptimizer()
    with pytest.raises(optix.errors.HyperparamError, match="No optimizer"):
        fit(own(found=False), loop(tuner=tuner, monitor="loss"), validation_data=None)


@tensorflow_only
def test_it_can_be_named() -> None:
    model = own(found=False)
    rate = HIDDEN[0].learning_rate
    tuner = optix.BackoffOptimizer({"learning_rate": (1e-3, 1e-1)}, block=2, max_rounds=1)
    callback = loop(tuner=tuner, hyperparams={"learning_rate": rate}, monitor="loss")
    fit(model, callback, epochs=16, validation_data=None)
    assert "hyperparams" in [record.kind for record in callback.events]
    assert float(keras.ops.convert_to_numpy(model.optimizer.learning_rate)) == pytest.approx(1e-3)


@tensorflow_only
def test_a_train_step_of_ones_own_goes_on_bit_by_bit(tmp_path: Path) -> None:
    class Same(keras.Sequential):
        def train_step(self, data: Any) -> Any:
            return super().train_step(data)

    def run(directory: str, *others: Any) -> Any:
        keras.utils.set_random_seed(0)
        model = Same([keras.layers.Input((4,)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.Adam(0.05), "mse", jit_compile=False)
        options = {"checkpoint_dir": tmp_path / directory, "resume": True, "resume_interval": 0.0}
        fit(
            model,
            [loop(monitor="loss", restore_best_weights=False, **options), *others],
            epochs=3,
            validation_data=None,
        )
        return model

    with pytest.raises(ConnectionError):
        run("a", Crash(1))
    resumed, whole = run("a"), run("b")
    for one, other in zip(values(resumed.variables), values(whole.variables), strict=True):
        np.testing.assert_array_equal(one, other)
    assert int(keras.ops.convert_to_numpy(resumed.optimizer.iterations)) == 12


@tensorflow_only
def test_a_gan_goes_on_where_it_was_cut_off(tmp_path: Path) -> None:
    def callback() -> optix.OptixCallback:
        tuner = optix.BackoffOptimizer()
        options = {"checkpoint_dir": tmp_path, "resume": True, "resume_interval": 0.0, "restore_best_weights": False}
        return loop(monitor="c_loss", tuner=tuner, **options)

    with pytest.raises(ConnectionError):
        fit_gan(gan(), [callback(), Crash(2)])
    model = gan()
    resumed = callback()
    history = fit_gan(model, resumed)
    assert len(history.epoch) == 2
    (record,) = [record for record in resumed.events if record.kind == "resumed"]
    assert "the first batch builds the rest of the model" in record.message
    # Four batches an epoch: two epochs of before, and two of now without the batch that only built.
    assert int(keras.ops.convert_to_numpy(model.c_optimizer.iterations)) == 15


# Metrics of every kind


class Odd(keras.callbacks.Callback):
    """Puts a log there that an epoch may not have, or not as a number."""

    def __init__(self, logged: Callable[[int], Any], name: str = "val_f1") -> None:
        super().__init__()
        self.logged, self.log = logged, name

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        value = self.logged(epoch)
        if value is not Odd:
            logs[self.log] = value


def plain() -> Any:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.01), "mse", jit_compile=False)
    return model


@functools.cache
def undisturbed() -> list[np.ndarray]:
    """The weights of a run without the callback."""
    model = plain()
    fit(model, [], epochs=6)
    return values(model.variables)


@pytest.mark.parametrize(
    "value",
    [NAN, math.inf, np.float32(NAN), np.array([NAN]), Odd],
    ids=["nan", "inf", "float32 nan", "array of nan", "missing"],
)
def test_an_epoch_without_a_number_is_no_evidence(tmp_path: Path, value: Any) -> None:
    callback = loop(monitor="val_f1", restore_best_weights=False, log_dir=tmp_path)
    model = plain()
    seen = Odd(lambda epoch: value if epoch % 2 else 0.5 + 0.01 * epoch)
    fit(model, [seen, callback], epochs=6)
    for one, other in zip(values(model.variables), undisturbed(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
    names = [record.kind for record in callback.events]
    assert "non_finite" not in names
    assert names.count("notice") == 1
    assert callback.best_snapshot is not None
    assert callback.best_snapshot.score == pytest.approx(0.54)


@pytest.mark.parametrize(
    "value",
    [np.ones((3, 3)), "good", {"a": {"b": 1.0}}, None, [1.0, 2.0]],
    ids=["matrix", "str", "dict", "None", "list"],
)
def test_a_log_that_is_no_number_harms_nothing(tmp_path: Path, value: Any) -> None:
    callback = loop(log_dir=tmp_path, tuner=optix.BackoffOptimizer({"learning_rate": (1e-3, 1e-1)}))
    fit(plain(), [Odd(lambda epoch: value, "val_odd"), callback], epochs=4)
    assert callback.best_snapshot is not None
    (record,) = [record for record in callback.events if record.kind == "notice"]
    assert "val_odd" in record.message
    monitored = loop(monitor="val_odd", mode="max")
    with pytest.warns(UserWarning, match="not one number"):
        fit(plain(), [Odd(lambda epoch: value, "val_odd"), monitored], epochs=3)
    assert monitored.best_snapshot is None


def test_validation_in_every_second_epoch_only() -> None:
    callback = loop()
    history = fit(plain(), callback, epochs=6, validation_freq=2)
    assert len(history.history["val_loss"]) == 3
    assert callback.best_snapshot is not None
    assert -callback.best_snapshot.score == pytest.approx(min(history.history["val_loss"]), rel=1e-5)


def test_a_log_that_never_comes_is_an_error_once_validation_has_run() -> None:
    with pytest.raises(optix.ConfigurationError, match=r"no such log.*val_f1.*val_loss"):
        fit(plain(), loop(monitor="val_f1"), epochs=6, validation_freq=2)
