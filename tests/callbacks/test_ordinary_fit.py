"""The loop on an ordinary Keras model. Runs on every backend: `make test-backends`."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import keras_optix as optix
from keras_optix.formatting import format_number

Options = dict[str, Any]


def data(n: int = 64, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A linear task with a little noise."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 4)).astype("float32")
    return x, (x @ np.array([[1.0], [-2.0], [0.5], [3.0]]) + 0.1 * rng.normal(size=(n, 1))).astype("float32")


class Scaled(keras.layers.Layer):
    """Multiplies by a variable that is a hyperparameter."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = self.add_weight(shape=(), initializer="ones", trainable=False)

    def call(self, inputs: Any) -> Any:
        return inputs * self.scale


def make(rate: float = 0.05) -> Any:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.layers.Input((4,)), Scaled(), keras.layers.Dense(8), keras.layers.Dense(1)])
    model.compile(optimizer=keras.optimizers.Adam(rate), loss="mse")
    return model


def fit(model: Any, callbacks: list[Any], epochs: int = 60, **options: Any) -> Any:
    options = {"shuffle": False, "verbose": 0, "batch_size": 16, "validation_data": data(seed=1)} | options
    return model.fit(*data(), epochs=epochs, callbacks=callbacks, **options)


def weights(model: Any) -> list[np.ndarray]:
    return [np.array(keras.ops.convert_to_numpy(v)) for v in (*model.variables, *model.optimizer.variables)]


class At(keras.callbacks.Callback):
    """Does something after a batch of an epoch, once."""

    def __init__(self, epoch: int, batch: int, action: Callable[[Any], None]) -> None:
        super().__init__()
        self.epoch, self.batch, self.action = epoch, batch, action
        self.now = -1

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.now = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if (self.now, batch) == (self.epoch, self.batch):
            self.action(self.model)


def ruin(value: float) -> Callable[[Any], None]:
    def action(model: Any) -> None:
        for variable in model.trainable_variables:
            variable.assign(keras.ops.full(variable.shape, value))

    return action


def test_it_ends_when_nothing_gets_better_with_the_best_weights(tmp_path: Path) -> None:
    model = make()
    callback = optix.OptixCallback(monitor="val_loss", checkpoint_dir=tmp_path, verbose=0)
    history = fit(model, [callback], epochs=1000)
    assert callback.state is optix.LoopState.DORMANT
    assert len(history.epoch) < 500
    values = history.history["val_loss"]
    best = callback.best_snapshot
    assert best is not None
    assert -best.score == pytest.approx(min(values), rel=1e-6)
    assert best.window_id == int(np.argmin(values))
    assert best.env_steps == 4 * (best.window_id + 1)
    assert model.evaluate(*data(seed=1), verbose=0) == pytest.approx(min(values), rel=1e-4)
    assert callback.env_steps == 4 * len(values)
    names = [record.kind for record in callback.events]
    assert names[:2] == ["candidate", "improvement"]
    assert names[-2:] == ["dormant", "restored"]


def test_without_options_it_watches_val_loss() -> None:
    callback = optix.OptixCallback(verbose=0, max_windows=3)
    history = fit(make(), [callback])
    assert len(history.epoch) == 3
    assert callback.best_snapshot is not None
    assert -callback.best_snapshot.score == pytest.approx(min(history.history["val_loss"]), rel=1e-6)


def test_a_loss_that_is_not_finite_is_undone_and_the_learning_rate_halved() -> None:
    model = make()
    seen: list[float] = []
    watch = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(logs["loss"]))
    callback = optix.OptixCallback(verbose=0, restore_best_weights=False)
    fit(model, [At(3, 0, ruin(np.nan)), callback, watch], epochs=6)
    (record,) = [record for record in callback.events if record.kind == "non_finite"]
    assert record.window_id == 3
    assert "the loss was not finite; restored the weights before, learning rate 0.05 -> 0.025" in record.message
    assert np.isfinite(seen).all()
    assert all(np.isfinite(array).all() for array in weights(model))
    assert float(keras.ops.convert_to_numpy(model.optimizer.learning_rate)) == pytest.approx(0.025)


def test_what_does_not_get_better_ends_with_an_error_and_finite_weights() -> None:
    model = make()
    broken = [At(epoch, 0, ruin(np.nan)) for epoch in range(2, 12)]
    with pytest.raises(optix.errors.NonFiniteError, match="6th time"):
        fit(model, [*broken, optix.OptixCallback(verbose=0)])
    assert all(np.isfinite(array).all() for array in weights(model))


def test_a_collapse_is_rolled_back() -> None:
    """Weights that are ruined in epoch 40 come back; without the rollback the loss stays high for a while."""

    def after(rollback: bool) -> tuple[list[str], float]:
        callback = optix.OptixCallback(
            verbose=0,
            rollback_on_degradation=rollback,
            restore_best_weights=False,
            scheduler=optix.BackoffScheduler(dormant_threshold=100, max_interval=1),
        )
        history = fit(make(3e-3), [At(40, 3, ruin(30.0)), callback], epochs=46)
        return [record.kind for record in callback.events], history.history["val_loss"][-1]

    events, loss = after(True)
    assert "degradation" in events
    assert events[events.index("degradation") + 1] == "rollback"
    events, without = after(False)
    assert "rollback" not in events
    assert loss < 0.01 * without


def test_the_tuner_moves_the_learning_rate_and_a_variable_and_restoring_does_not_undo_it() -> None:
    model = make()
    scale = model.layers[0].scale
    changes: list[tuple[dict[str, float], dict[str, float]]] = []

    class Notes(optix.LoopCallback):
        def on_hyperparam_update(self, old: optix.HyperparamSet, new: optix.HyperparamSet) -> None:
            changes.append((old.params, new.params))

    bounds = {"learning_rate": (1e-3, 1e-1), "scale": optix.tuners.Linear(0.5, 1.5)}
    callback = optix.OptixCallback(
        tuner=optix.BackoffOptimizer(bounds, block=2, max_rounds=1),
        hyperparams={"scale": scale},
        callbacks=[Notes()],
        scheduler=optix.BackoffScheduler(plateau_threshold=500, dormant_threshold=1000),
        verbose=0,
    )
    fit(model, [callback], epochs=50)  # ten scores before the first probe, and a wait before the second
    touched = {name for old, new in changes for name in new if old[name] != new[name]}
    assert touched == {"learning_rate", "scale"}
    in_force = {
        "learning_rate": float(keras.ops.convert_to_numpy(model.optimizer.learning_rate)),
        "scale": float(keras.ops.convert_to_numpy(scale)),
    }
    assert in_force == pytest.approx(changes[-1][1], rel=1e-5)
    assert "restored" in [record.kind for record in callback.events]


def test_a_value_that_is_set_is_what_the_compiled_step_reads() -> None:
    """At scale 0 the first kernel gets no gradient, so it stays as it is."""
    model = make()
    kernels: list[np.ndarray] = []

    class Set(optix.LoopCallback):
        def on_window_end(self, window_id: int, eval_metrics: optix.EvalMetrics) -> None:
            kernels.append(np.array(keras.ops.convert_to_numpy(model.layers[1].kernel)))
            if window_id == 1:
                callback._running().adapter.hyperparams.assign({"scale": 0.0, "learning_rate": 0.0})

    callback = optix.OptixCallback(
        tuner=optix.BackoffOptimizer({"scale": optix.tuners.Linear(0.0, 2.0)}),
        hyperparams={"scale": model.layers[0].scale},
        scheduler=optix.BackoffScheduler(base_interval=50),
        callbacks=[Set()],
        verbose=0,
    )
    fit(model, [callback], epochs=4)
    assert (kernels[0] != kernels[1]).any()
    np.testing.assert_array_equal(kernels[2], kernels[1])


def crash(epoch: int) -> At:
    def action(model: Any) -> None:
        raise ConnectionError("power")

    return At(epoch, 1, action)


@pytest.mark.parametrize("epoch", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_a_run_that_was_cut_off_goes_on_bit_by_bit(tmp_path: Path, epoch: int) -> None:
    def callback(directory: str, resume: bool) -> optix.OptixCallback:
        return optix.OptixCallback(
            tuner=optix.BackoffOptimizer({"learning_rate": (1e-3, 1e-1)}),
            checkpoint_dir=tmp_path / directory,
            resume=resume,
            resume_interval=0.0,
            restore_best_weights=False,
            verbose=0,
        )

    whole = make()
    uninterrupted = callback("a", False)
    fit(whole, [uninterrupted], epochs=12)
    with pytest.raises(ConnectionError, match="power"):
        fit(make(), [callback("b", True), crash(epoch)], epochs=12)
    model = make(rate=0.5)
    resumed = callback("b", True)
    history = fit(model, [resumed], epochs=12)
    assert len(history.epoch) == 12 - epoch
    for one, other in zip(weights(model), weights(whole), strict=True):
        np.testing.assert_array_equal(one, other)
    assert resumed.scheduler_state == uninterrupted.scheduler_state
    assert resumed.tuner is not None
    assert uninterrupted.tuner is not None
    assert resumed.tuner_state == uninterrupted.tuner_state
    assert [str(r) for r in resumed.events if r.kind != "resumed"] == [str(r) for r in uninterrupted.events]
    assert resumed.env_steps == uninterrupted.env_steps == 48
    assert not list(tmp_path.rglob("resume.npz"))


@pytest.mark.parametrize("first", ["optix", "backup"])
def test_it_works_beside_backup_and_restore(tmp_path: Path, first: str) -> None:
    def callbacks() -> tuple[optix.OptixCallback, list[Any]]:
        mine = optix.OptixCallback(
            checkpoint_dir=tmp_path / "c", resume=True, resume_interval=0.0, restore_best_weights=False, verbose=0
        )
        both = [mine, keras.callbacks.BackupAndRestore(tmp_path / "b")]
        return mine, both if first == "optix" else both[::-1]

    whole = make()
    fit(whole, [], epochs=10)
    with pytest.raises(ConnectionError, match="power"):
        fit(make(), [*callbacks()[1], crash(6)], epochs=10)
    model = make()
    mine, both = callbacks()
    history = fit(model, both, epochs=10)
    assert history.epoch == [6, 7, 8, 9]
    for one, other in zip(weights(model), weights(whole), strict=True):
        np.testing.assert_array_equal(one, other)
    assert mine.env_steps == 40


def test_newer_weights_of_a_backup_are_kept(tmp_path: Path) -> None:
    def callbacks(interval: float) -> tuple[optix.OptixCallback, list[Any]]:
        mine = optix.OptixCallback(
            checkpoint_dir=tmp_path / "c", resume=True, resume_interval=interval, restore_best_weights=False, verbose=0
        )
        return mine, [mine, keras.callbacks.BackupAndRestore(tmp_path / "b")]

    def stop_writing(model: Any) -> None:
        store = mine._resuming._store
        assert store is not None
        store._interval = None

    mine, both = callbacks(0.0)
    with pytest.raises(ConnectionError, match="power"):
        fit(make(), [*both, At(3, 0, stop_writing), crash(6)], epochs=10)
    whole, model = make(), make()
    fit(whole, [], epochs=10)
    mine, both = callbacks(0.0)
    fit(model, both, epochs=10)
    assert any("newer weights" in record.message for record in mine.events)
    for one, other in zip(weights(model), weights(whole), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_run_that_ended_is_not_resumed(tmp_path: Path) -> None:
    first = optix.OptixCallback(checkpoint_dir=tmp_path, resume_interval=0.0, verbose=0)
    fit(make(), [first], epochs=3)
    second = optix.OptixCallback(checkpoint_dir=tmp_path, resume=True, verbose=0)
    history = fit(make(), [second], epochs=3)
    assert len(history.epoch) == 3
    assert "resumed" not in [record.kind for record in second.events]


def test_a_copy_has_not_run_and_keeps_its_variables() -> None:
    import copy

    model = make()
    callback = optix.OptixCallback(
        tuner=optix.BackoffOptimizer({"scale": optix.tuners.Linear(0.5, 1.5)}),
        hyperparams={"scale": model.layers[0].scale},
        max_windows=2,
        verbose=0,
    )
    fit(model, [callback])
    copied = copy.deepcopy(callback)
    assert copied.best_snapshot is None
    assert copied.events == []
    assert copied._variables["scale"] is model.layers[0].scale
    assert copied.registry.directory != callback.registry.directory
    fit(model, [copied])
    assert copied.best_snapshot is not None


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"monitor": "val_los"}, "val_los.*val_loss"),
        ({"monitor": "accuracy"}, "accuracy"),
        ({"when_dormant": "watch"}, "Only an agent"),
        ({"evaluator": optix.ReturnEvaluator()}, 'monitor="val_loss"'),
        ({"tuner": optix.BackoffOptimizer({"gamma": (0.9, 0.99)})}, "no such hyperparameter.*gamma"),
    ],
)
def test_what_does_not_fit_an_ordinary_model_is_explained(options: Options, match: str) -> None:
    if options.get("monitor") == "val_los":
        options = {"mode": "min", **options}
    with pytest.raises(optix.ConfigurationError, match=match):
        fit(make(), [optix.OptixCallback(verbose=0, **options)])


def test_a_schedule_owns_its_learning_rate() -> None:
    model = make()
    schedule = keras.optimizers.schedules.ExponentialDecay(0.01, 10, 0.9)
    model.compile(optimizer=keras.optimizers.Adam(schedule), loss="mse")
    tuner = optix.BackoffOptimizer({"learning_rate": (1e-3, 1e-1)})
    with pytest.raises(optix.errors.HyperparamError, match="LearningRateSchedule"):
        fit(model, [optix.OptixCallback(tuner=tuner, verbose=0)])


def test_without_validation_it_says_that_nothing_is_scored() -> None:
    with pytest.warns(UserWarning, match="no 'val_loss' in the logs.*validation_data"):
        fit(make(), [optix.OptixCallback(verbose=0)], epochs=3, validation_data=None)


def test_another_owner_of_the_learning_rate_is_named() -> None:
    callback = optix.OptixCallback(
        tuner=optix.BackoffOptimizer({"learning_rate": (1e-4, 1e-1)}),
        scheduler=optix.BackoffScheduler(plateau_threshold=50, dormant_threshold=100),
        verbose=0,
    )
    other = keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.9 * rate)
    with pytest.warns(UserWarning, match=r"(?s)learning_rate.*BackoffOptimizer.*ReduceLROnPlateau"):
        fit(make(), [other, callback], epochs=5)


@pytest.mark.skipif(keras.backend.backend() == "tensorflow", reason="TensorFlow is there on its own backend")
def test_no_tensorflow_is_loaded_on_other_backends(tmp_path: Path) -> None:
    fit(make(), [optix.OptixCallback(log_dir=tmp_path, checkpoint_dir=tmp_path / "c", verbose=0)], epochs=2)
    assert "tensorflow" not in sys.modules


def test_a_loss_is_shown_as_a_loss(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Inside the loop higher is better; whoever looks sees what Keras logged."""
    callback = optix.OptixCallback(monitor="val_loss", log_dir=tmp_path, verbose=2)
    history = fit(make(0.01), [callback], epochs=4)
    losses = history.history["val_loss"]
    best = callback.best_snapshot
    assert best is not None
    assert best.score == -min(losses)

    shown = format_number(min(losses))
    assert callback.progress()["best"] == shown
    out = capsys.readouterr().out
    assert re.search(rf"^ACTIVE after 4 epochs, 16 steps\. Best {re.escape(shown)} at \d+ steps\.$", out, re.MULTILINE)
    assert re.search(rf"^epoch \d, \d+ steps, ACTIVE: improvement to {re.escape(format_number(losses[0]))}", out, re.M)
    assert "\n\n" not in out
    assert f"improvement to -{shown}" not in out

    events = EventAccumulator(str(tmp_path)).Reload()
    scores = [event.value for event in events.Scalars("loop/score")]
    assert scores == pytest.approx(losses, rel=1e-6)
    assert events.Scalars("loop/best")[-1].value == pytest.approx(min(losses), rel=1e-6)
