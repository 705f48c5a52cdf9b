"""Each built-in callback of Keras does its job in `agent.fit`, alone and beside the loop.

What they must do is computed by hand: `Climber` has one weight, its action is this weight, and the environment pays the
action. So a return is the weight that acted.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import keras
import numpy as np
import pytest
import tensorflow as tf
from versions import older

import keras_optix as optix
from keras_optix.testing import CountingEnv

NAN = math.nan
AGENT_LOGS = {"loss", "episode_return", "episode_length", "policy_lag"}


class PaysTheAction(gymnasium.Env[np.ndarray, np.ndarray]):
    """Pays the action; an episode is one step unless told otherwise."""

    def __init__(self, episode_length: int = 1) -> None:
        self._length = episode_length
        self._step = 0
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (1,), np.float32)
        self.action_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self._step = 0
        return np.ones(1, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self._step += 1
        return np.ones(1, np.float32), float(action[0]), self._step >= self._length, False, {}


class Climber(optix.Agent):
    """Window k adds ``learning_rate * moves[k]`` to its weight and logs ``script[k]`` as `loss`; the last ones stay."""

    def __init__(self, moves: Sequence[float], script: Sequence[float]) -> None:
        inputs, weight = keras.layers.Input((1,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
        super().__init__(keras.Sequential([inputs, weight]))
        self.moves, self.script = tuple(moves), tuple(script)

    def train_step(self, window: optix.Window) -> dict[str, Any]:
        kernel, spread = self.policy.trainable_variables[0], self.log_std
        gradient = tf.fill((1, 1), -self._now(self.moves, window))
        self.optimizer.apply_gradients([(gradient, kernel), (tf.zeros(1), spread)])
        return {"loss": self._now(self.script, window)}

    @property
    def weight(self) -> float:
        return float(self.policy.get_weights()[0][0, 0])

    def _now(self, values: tuple[float, ...], window: optix.Window) -> Any:
        return tf.constant(values, tf.float32)[tf.minimum(len(values) - 1, tf.cast(window.window_id, tf.int32))]


Made = tuple[Climber, Any, Any]


def climber(
    moves: Sequence[float] = (1.0,), script: Sequence[float] = (0.0,), optimizer: Any = None, **options: Any
) -> Made:
    """An agent with its training and its validation data. It acts by its weight alone."""
    agent = Climber(moves, script)
    agent.compile(keras.optimizers.SGD(1.0) if optimizer is None else optimizer, jit_compile=False, **options)
    # Exactly the hundred episodes that `episode_return` is the mean of.
    training = optix.dataset_from_env(PaysTheAction, agent, window_size=100, seed=0)
    validation = optix.dataset_from_env(PaysTheAction, agent, window_size=100, deterministic=True)
    agent.log_std.assign([-40.0])
    return agent, training, validation


def validated(validation: Any) -> dict[str, Any]:
    return {"validation_data": validation, "validation_steps": 1}


def states_equal(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return set(a) == set(b) and all(np.array_equal(a[name], b[name]) for name in a)


@pytest.fixture(params=["alone", "with the loop"])
def loop(request: pytest.FixtureRequest) -> list[optix.OptixCallback]:
    """Nothing, or the loop, to be put in the same list; it changes no weights."""
    if request.param == "alone":
        return []
    return [optix.OptixCallback(rollback_on_degradation=False, restore_best_weights=False, verbose=0)]


# History


@pytest.mark.parametrize("steps_per_execution", [1, 2])
def test_history_has_the_logs_of_the_last_window_of_each_epoch(
    loop: list[optix.OptixCallback], steps_per_execution: int
) -> None:
    agent, training, validation = climber(script=range(6), steps_per_execution=steps_per_execution)
    given = keras.callbacks.History()
    history = agent.fit(
        training, steps_per_epoch=2, epochs=3, verbose=0, callbacks=[*loop, given], **validated(validation)
    )
    assert history is given is agent.history
    assert history.epoch == [0, 1, 2]
    assert set(history.history) == AGENT_LOGS | {f"val_{name}" for name in AGENT_LOGS - {"loss"}}
    assert history.history["loss"] == [1.0, 3.0, 5.0]
    np.testing.assert_allclose(history.history["episode_return"], [1.0, 3.0, 5.0])
    # The weights after the epoch, not those that collected its last window.
    np.testing.assert_allclose(history.history["val_episode_return"], [2.0, 4.0, 6.0])
    assert history.history["policy_lag"] == history.history["val_policy_lag"] == [0.0, 0.0, 0.0]
    assert agent.weight == agent.policy_version == 6
    # The last window of training, not of validation.
    assert agent.last_window_id == 5


def test_a_short_validation_scores_the_weights_of_its_epoch() -> None:
    agent, training, _ = climber()
    validation = optix.dataset_from_env(PaysTheAction, agent, window_size=10, deterministic=True)
    history = agent.fit(training, steps_per_epoch=2, epochs=3, verbose=0, **validated(validation))
    np.testing.assert_allclose(history.history["val_episode_return"], [2.0, 4.0, 6.0])


# EarlyStopping

UP_AND_DOWN = [1.0] * 6 + [-1.0] * 6  # the weight after each window: 1 2 3 4 5 6 5 4 3 2 1 0


@pytest.mark.parametrize("monitor", ["episode_return", "val_episode_return"])
def test_early_stopping_stops_and_restores_the_best_epoch(loop: list[optix.OptixCallback], monitor: str) -> None:
    agent, training, validation = climber(UP_AND_DOWN)
    stopping = keras.callbacks.EarlyStopping(monitor, mode="max", patience=2, restore_best_weights=True)
    history = agent.fit(
        training, steps_per_epoch=2, epochs=6, verbose=0, callbacks=[*loop, stopping], **validated(validation)
    )
    np.testing.assert_allclose(history.history["episode_return"], [1.0, 3.0, 5.0, 5.0, 3.0])
    np.testing.assert_allclose(history.history["val_episode_return"], [2.0, 4.0, 6.0, 4.0, 2.0])
    assert (stopping.best_epoch, stopping.stopped_epoch) == (2, 4)
    assert agent.weight == 6.0
    assert agent.act(np.ones(1), deterministic=True) == pytest.approx(6.0)
    # The optimizer stays where it is; weights that it did not make are another version.
    assert int(agent.optimizer.iterations.numpy()) == 10
    assert agent.policy_version == 11
    for callback in loop:
        assert callback.best_snapshot is not None
        assert callback.best_snapshot.score == pytest.approx(6.0)


def test_early_stopping_leaves_the_last_weights_unless_told_otherwise() -> None:
    agent, training, _ = climber(UP_AND_DOWN)
    stopping = keras.callbacks.EarlyStopping("episode_return", mode="max", patience=2)
    agent.fit(training, steps_per_epoch=2, epochs=6, verbose=0, callbacks=[stopping])
    assert agent.weight == 2.0
    assert agent.policy_version == 10


@pytest.mark.parametrize("last", ["loop", "stopping"])
def test_where_the_loop_and_early_stopping_both_restore_the_last_one_wins(last: str) -> None:
    # The smallest loss is in epoch 1, at whose end the weight is 4; the loop promotes the weight 6, after six updates.
    agent, training, _ = climber(UP_AND_DOWN, script=[9.0, 9.0, 9.0, 0.0, 9.0])
    stopping = keras.callbacks.EarlyStopping("loss", patience=3, restore_best_weights=True)
    callbacks = [optix.OptixCallback(verbose=0), stopping]
    if last == "loop":
        callbacks.reverse()
    agent.fit(training, steps_per_epoch=2, epochs=6, verbose=0, callbacks=callbacks)
    assert agent.weight == (6.0 if last == "loop" else 4.0)
    # Only the loop restores the optimizer.
    assert int(agent.optimizer.iterations.numpy()) == 6


def test_a_return_that_is_not_known_yet_must_be_kept_from_monitors(tmp_path: Path) -> None:
    """Until an episode ended, `episode_return` is NaN, and nothing is greater than NaN: Keras needs a later start."""

    def fit(*callbacks: Any) -> list[float]:
        agent = climber([0.0])[0]
        agent.policy.set_weights([np.ones((1, 1), np.float32)])
        training = optix.dataset_from_env(lambda: PaysTheAction(12), agent, window_size=8)
        history = agent.fit(training, steps_per_epoch=1, epochs=4, verbose=0, callbacks=list(callbacks))
        returns: list[float] = history.history["episode_return"]
        return returns

    options: dict[str, Any] = {"monitor": "episode_return", "mode": "max"}
    saving = {"save_best_only": True, "save_weights_only": True, **options}
    returns = fit(
        keras.callbacks.EarlyStopping(patience=1, **options),
        keras.callbacks.ModelCheckpoint(tmp_path / "nan{epoch}.weights.h5", **saving),
        keras.callbacks.ModelCheckpoint(
            tmp_path / "known{epoch}.weights.h5", initial_value_threshold=-math.inf, **saving
        ),
    )
    np.testing.assert_allclose(returns, [NAN, 12.0])
    assert {path.name for path in tmp_path.iterdir()} == {"nan1.weights.h5", "known2.weights.h5"}
    returns = fit(keras.callbacks.EarlyStopping(patience=1, start_from_epoch=1, **options))
    np.testing.assert_allclose(returns, [NAN, 12.0, 12.0])


# ModelCheckpoint


def test_checkpoints_of_each_epoch_load_into_a_fresh_agent(
    loop: list[optix.OptixCallback], small_network: Callable[[int, int], Any], tmp_path: Path
) -> None:
    def make() -> tuple[optix.Agent, Any]:
        agent = optix.ReinforceAgent(small_network(2, 2), small_network(2, 1))
        agent.compile(keras.optimizers.Adam(1e-3), jit_compile=False)
        return agent, optix.dataset_from_env(CountingEnv, agent, window_size=8, seed=0)

    agent, training = make()
    agent.hyperparams["learning_rate"] = 5e-3
    states: list[dict[str, np.ndarray]] = []
    notes = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: states.append(agent.get_state()))
    saving = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.weights.h5", save_weights_only=True)
    agent.fit(training, steps_per_epoch=2, epochs=3, verbose=0, callbacks=[*loop, saving, notes])
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{k}.weights.h5" for k in (1, 2, 3)]
    assert not states_equal(states[0], states[2])
    fresh, _ = make()
    for epoch, state in enumerate(states, 1):
        fresh.load_weights(tmp_path / f"{epoch}.weights.h5")
        assert states_equal(fresh.get_state(), state)
        assert fresh.policy_version == 2 * epoch
        assert fresh.hyperparams["learning_rate"] == 5e-3


def test_checkpoints_of_the_best_epoch_only(loop: list[optix.OptixCallback], tmp_path: Path) -> None:
    agent, training, validation = climber(UP_AND_DOWN, script=[0.0, 9.0, 0.0])
    options: dict[str, Any] = {"mode": "max", "save_best_only": True, "save_weights_only": True}
    saving = [
        keras.callbacks.ModelCheckpoint(tmp_path / f"{monitor}.weights.h5", monitor, **options)
        for monitor in ("episode_return", "val_episode_return", "loss")
    ]
    agent.fit(training, steps_per_epoch=2, epochs=5, verbose=0, callbacks=[*loop, *saving], **validated(validation))
    assert agent.weight == 2.0
    for monitor, best in (("loss", 2.0), ("episode_return", 6.0), ("val_episode_return", 6.0)):
        fresh = climber()[0]
        fresh.load_weights(tmp_path / f"{monitor}.weights.h5")
        assert fresh.weight == fresh.policy_version == best


@pytest.mark.parametrize(
    ("steps_per_execution", "saved"),
    [(1, {"1-3": 3.0, "2-2": 6.0, "3-1": 9.0, "3-4": 12.0}), (2, {"1-4": 4.0, "2-4": 8.0, "3-4": 12.0})],
)
def test_a_checkpoint_every_three_windows(
    loop: list[optix.OptixCallback], tmp_path: Path, steps_per_execution: int, saved: dict[str, float]
) -> None:
    agent, training, _ = climber(steps_per_execution=steps_per_execution)
    path = tmp_path / "{epoch}-{batch}.weights.h5"
    saving = keras.callbacks.ModelCheckpoint(path, save_weights_only=True, save_freq=3)
    agent.fit(training, steps_per_epoch=4, epochs=3, verbose=0, callbacks=[*loop, saving])
    fresh = climber()[0]
    found = {}
    for file in tmp_path.iterdir():
        fresh.load_weights(file)
        found[file.name.removesuffix(".weights.h5")] = fresh.weight
    assert found == saved


def test_the_best_of_every_few_windows_is_broken_in_keras(tmp_path: Path) -> None:
    """If this fails, Keras has repaired it (`monitor_op` is set at the end of an epoch only): delete the test."""
    agent, training, _ = climber()
    path = tmp_path / "best.weights.h5"
    options: dict[str, Any] = {"mode": "max", "save_best_only": True, "save_weights_only": True}
    saving = keras.callbacks.ModelCheckpoint(path, "episode_return", save_freq=2, **options)
    with pytest.raises(TypeError, match="'NoneType' object is not callable"):
        agent.fit(training, steps_per_epoch=9, verbose=0, callbacks=[saving])
    assert agent.weight == 4.0  # at the second time


def test_weights_that_are_loaded_while_training_goes_on_are_a_new_version(tmp_path: Path) -> None:
    agent, _, _ = climber()
    training = optix.dataset_from_env(PaysTheAction, agent, window_size=100, seed=0, prefetch=1)
    path = tmp_path / "early.weights.h5"
    seen: list[tuple[float, int, float]] = []

    def after(batch: int, logs: Any) -> None:
        seen.append((agent.weight, agent.policy_version, logs["policy_lag"]))
        if batch == 0:
            agent.save_weights(path)
        if batch == 3:
            agent.load_weights(path)

    agent.fit(
        training,
        steps_per_epoch=6,
        verbose=0,
        callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=after)],
    )
    # Versions 1 to 4, then the first one again as version 5. Collected ahead: each window is one version old, and the
    # one that was under way when the weights changed is two.
    assert seen == [
        (1.0, 1, 0.0),
        (2.0, 2, 1.0),
        (3.0, 3, 1.0),
        (4.0, 4, 1.0),
        (2.0, 6, 2.0),
        (3.0, 7, 1.0),
    ]


def test_loaded_weights_are_forgiven_what_went_wrong_before_them(tmp_path: Path) -> None:
    """A NaN of an earlier fit must not be taken for one of the loaded weights."""
    agent, training, _ = climber([1.0, NAN])
    agent.fit(training, steps_per_epoch=1, verbose=0)
    assert agent.last_update == (0, True)
    agent.save_weights(tmp_path / "good.weights.h5")
    good = agent.get_weights()
    for restore in (lambda: agent.load_weights(tmp_path / "good.weights.h5"), lambda: agent.set_weights(good)):
        agent.fit(training, steps_per_epoch=1, verbose=0)
        assert math.isnan(agent.weight)
        assert not agent.last_update[1]
        restore()
        assert agent.weight == 1.0
        assert agent.last_update[1]


def test_weights_are_not_loaded_before_the_environment_is_known(tmp_path: Path) -> None:
    climber()[0].save_weights(tmp_path / "a.weights.h5")
    with pytest.raises(optix.errors.StateError, match="knows no environment"):
        Climber([1.0], [0.0]).load_weights(tmp_path / "a.weights.h5")


# ReduceLROnPlateau, LearningRateScheduler


def test_the_learning_rate_drops_on_a_plateau(loop: list[optix.OptixCallback]) -> None:
    agent, training, _ = climber()
    rates: list[float] = []
    notes = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: rates.append(agent.hyperparams["learning_rate"])
    )
    dropping = keras.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=1, min_lr=0.25)
    history = agent.fit(training, steps_per_epoch=2, epochs=5, verbose=0, callbacks=[*loop, dropping, notes])
    assert rates == [1.0, 0.5, 0.25, 0.25, 0.25]
    assert history.history["learning_rate"] == [1.0, 1.0, 0.5, 0.25, 0.25]
    # The compiled step takes it: two windows at each of these rates.
    assert agent.weight == 2 * (1.0 + 1.0 + 0.5 + 0.25 + 0.25)
    assert agent.get_hyperparams().params["learning_rate"] == 0.25


def test_a_return_that_rises_keeps_the_learning_rate() -> None:
    """The control: the same callback on a log that gets better, and on its opposite."""
    for mode, expected in (("max", 1.0), ("min", 0.125)):
        agent, training, validation = climber()
        dropping = keras.callbacks.ReduceLROnPlateau("val_episode_return", mode=mode, factor=0.5, patience=1)
        agent.fit(training, steps_per_epoch=1, epochs=4, verbose=0, callbacks=[dropping], **validated(validation))
        assert agent.hyperparams["learning_rate"] == expected


def test_a_schedule_over_epochs(loop: list[optix.OptixCallback]) -> None:
    agent, training, _ = climber()
    given: list[float] = []

    def halve(epoch: int, rate: float) -> float:
        given.append(rate)
        return 2.0**-epoch

    seen: list[float] = []
    notes = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(agent.hyperparams["learning_rate"])
    )
    schedule = keras.callbacks.LearningRateScheduler(halve)
    history = agent.fit(training, steps_per_epoch=2, epochs=3, verbose=0, callbacks=[*loop, schedule, notes])
    assert given == [1.0, 1.0, 0.5]
    assert seen == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]
    assert history.history["learning_rate"] == [1.0, 0.5, 0.25]
    assert agent.weight == 2 * (1.0 + 0.5 + 0.25)


# CSVLogger


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_csv_has_a_row_an_epoch_and_goes_on_in_the_next_fit(loop: list[optix.OptixCallback], tmp_path: Path) -> None:
    agent, training, validation = climber(script=range(9))
    path = tmp_path / "log.csv"
    for epochs in (2, 1):
        logger = keras.callbacks.CSVLogger(path, append=True)
        agent.fit(
            training, steps_per_epoch=2, epochs=epochs, verbose=0, callbacks=[*loop, logger], **validated(validation)
        )
    rows = rows_of(path)
    assert set(rows[0]) == {"epoch"} | AGENT_LOGS | {f"val_{name}" for name in AGENT_LOGS - {"loss"}}
    assert [row["epoch"] for row in rows] == ["0", "1", "0"]
    assert [float(row["loss"]) for row in rows] == [1.0, 3.0, 5.0]
    np.testing.assert_allclose([float(row["val_episode_return"]) for row in rows], [2.0, 4.0, 6.0])
    assert {row["episode_length"] for row in rows} == {"1.0"}


def test_a_csv_of_ppo_and_reinforce_has_a_column_for_each_log(small_network: Any, tmp_path: Path) -> None:
    every = {"policy_loss", "value_loss", "entropy", "explained_variance", "episode_return", "episode_length"}
    for kind, further in ((optix.PPOAgent, {"approx_kl", "clip_fraction"}), (optix.ReinforceAgent, set())):
        agent = kind(
            small_network(2, 2), small_network(2, 1), **({"update_epochs": 1} if kind is optix.PPOAgent else {})
        )
        agent.compile(jit_compile=False)
        path = tmp_path / f"{kind.__name__}.csv"
        training = optix.dataset_from_env(CountingEnv, agent, window_size=6)
        agent.fit(training, steps_per_epoch=1, epochs=2, verbose=0, callbacks=[keras.callbacks.CSVLogger(path)])
        first, second = rows_of(path)
        assert every | further | {"policy_lag"} <= {name for name, text in first.items() if text != "NA"}
        assert (first["episode_return"], second["episode_return"]) == ("6.0", "6.0")
        assert all(math.isfinite(float(second[name])) for name in every | further)
        assert float(first["policy_loss"]) != float(second["policy_loss"])


# TensorBoard


def written(log_dir: Path) -> dict[str, list[tuple[int, float]]]:
    """Step and value of everything of one number, by tag."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(log_dir), size_guidance={"tensors": 0})
    events.Reload()
    arrays = {tag: [(e.step, tf.make_ndarray(e.tensor_proto)) for e in events.Tensors(tag)] for tag in tags_of(events)}
    return {tag: [(k, float(a)) for k, a in values if np.ndim(a) == 0] for tag, values in arrays.items()}


def tags_of(events: Any) -> list[str]:
    tags: list[str] = events.Tags()["tensors"]
    return tags


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_gets_the_scalars_of_epochs_and_of_windows(tmp_path: Path) -> None:
    """Beside the loop, which writes its own."""
    agent, training, validation = climber(script=range(4))
    callbacks = [
        optix.OptixCallback(restore_best_weights=False, log_dir=tmp_path / "loop", verbose=0),
        keras.callbacks.TensorBoard(tmp_path / "keras", update_freq=1, histogram_freq=1),
    ]
    agent.fit(training, steps_per_epoch=2, epochs=2, verbose=0, callbacks=callbacks, **validated(validation))
    train, watched = written(tmp_path / "keras" / "train"), written(tmp_path / "keras" / "validation")
    assert {f"epoch_{name}" for name in AGENT_LOGS} <= set(train)
    assert train["epoch_loss"] == [(0, 1.0), (1, 3.0)]
    assert train["epoch_episode_return"] == [(0, pytest.approx(1.0)), (1, pytest.approx(3.0))]
    assert train["epoch_learning_rate"] == [(0, 1.0), (1, 1.0)]
    assert train["batch_loss"] == [(1, 0.0), (2, 1.0), (3, 2.0), (4, 3.0)]
    assert any(tag.endswith("kernel/histogram") for tag in train)
    assert watched["epoch_episode_return"] == [(0, pytest.approx(2.0)), (1, pytest.approx(4.0))]
    assert watched["evaluation_episode_return_vs_iterations"] == [(2, pytest.approx(2.0)), (4, pytest.approx(4.0))]
    assert not any("loop/" in tag for tag in train)
    assert list((tmp_path / "loop").rglob("events.out.tfevents.*"))


# BackupAndRestore


def raising_in(epoch: int) -> Any:
    def begin(now: int, logs: Any) -> None:
        if now == epoch:
            raise LookupError("power cut")

    return keras.callbacks.LambdaCallback(on_epoch_begin=begin)


def final_weight(windows: int, momentum: float) -> float:
    weight = velocity = 0.0
    for _ in range(windows):
        velocity = momentum * velocity + 1.0
        weight += velocity
    return weight


def test_an_interrupted_run_goes_on_in_a_fresh_agent(loop: list[optix.OptixCallback], tmp_path: Path) -> None:
    def make() -> Made:
        return climber(optimizer=keras.optimizers.SGD(1.0, momentum=0.5))

    agent, training, _ = make()
    options: dict[str, Any] = {"steps_per_epoch": 2, "epochs": 5, "verbose": 0}
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    with pytest.raises(LookupError, match="power cut"):
        agent.fit(training, callbacks=[*loop, backup, raising_in(3)], **options)
    interrupted = agent.get_state()

    fresh, training, _ = make()
    restored: list[Any] = []
    notes = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: restored.append((fresh.get_state(), fresh.policy_version)),
    )
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    history = fresh.fit(training, callbacks=[*loop, backup, notes], **options)
    ((state, version),) = restored
    assert states_equal(state, interrupted)
    assert version == agent.policy_version == 6
    assert history.epoch == [3, 4]
    # As if nothing had happened, momentum included.
    assert fresh.weight == final_weight(10, momentum=0.5)
    assert fresh.policy_version == 10
    assert not (tmp_path / "backup").exists()
    for callback in loop:
        assert callback.best_snapshot is not None
        assert callback.best_snapshot.policy_version == 9


def test_the_interrupted_agent_itself_goes_on_and_its_version_does_not_go_back(tmp_path: Path) -> None:
    agent, training, _ = climber()

    def cut(batch: int, logs: Any) -> None:
        if agent.policy_version == 7:
            raise LookupError("power cut")

    options: dict[str, Any] = {"steps_per_epoch": 2, "epochs": 5, "verbose": 0}
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    with pytest.raises(LookupError, match="power cut"):
        agent.fit(training, callbacks=[backup, keras.callbacks.LambdaCallback(on_train_batch_end=cut)], **options)
    assert agent.weight == 7.0
    history = agent.fit(training, callbacks=[backup], **options)
    assert history.epoch == [3, 4]
    assert agent.weight == 10.0
    # 7 updates, the restored weights (of 6 updates), 4 more.
    assert agent.policy_version == 12


def test_a_backup_every_few_windows_begins_its_epoch_again(loop: list[optix.OptixCallback], tmp_path: Path) -> None:
    agent, training, _ = climber()
    options: dict[str, Any] = {"steps_per_epoch": 2, "epochs": 5, "verbose": 0}
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup", save_freq=3)
    with pytest.raises(LookupError, match="power cut"):
        agent.fit(training, callbacks=[*loop, backup, raising_in(4)], **options)
    assert agent.weight == 8.0
    fresh, training, _ = climber()
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup", save_freq=3)
    history = fresh.fit(training, callbacks=[*loop, backup], **options)
    # The last backup was of window 6, in epoch 2, which is repeated.
    assert history.epoch == [2, 3, 4]
    assert fresh.weight == fresh.policy_version == 6 + 3 * 2


# TerminateOnNaN


def test_a_loss_that_is_not_a_number_ends_fit(capsys: pytest.CaptureFixture[str]) -> None:
    for script, windows in (([0.0, 0.0, NAN], 3), ([0.0, math.inf], 2), ([0.0], 8)):
        agent, training, _ = climber(script=script)
        history = agent.fit(
            training, steps_per_epoch=4, epochs=2, verbose=0, callbacks=[keras.callbacks.TerminateOnNaN()]
        )
        assert agent.weight == windows
        assert len(history.epoch) == (2 if windows == 8 else 1)
        assert ("Invalid loss" in capsys.readouterr().out) is (windows < 8)


def test_with_several_steps_in_one_execution_the_last_loss_counts() -> None:
    agent, training, _ = climber(script=[0.0, NAN, 0.0, 0.0, 0.0, NAN], steps_per_execution=2)
    agent.fit(training, steps_per_epoch=8, verbose=0, callbacks=[keras.callbacks.TerminateOnNaN()])
    assert agent.weight == 2.0
    agent, training, _ = climber(script=[NAN, 0.0, 0.0, 0.0, 0.0, NAN, 0.0], steps_per_execution=2)
    agent.fit(training, steps_per_epoch=8, verbose=0, callbacks=[keras.callbacks.TerminateOnNaN()])
    assert agent.weight == 6.0


@pytest.mark.parametrize("first", ["loop", "terminate"])
def test_beside_the_loop_a_nan_is_undone_and_ends_fit_in_either_order(first: str) -> None:
    """Both act on the same window: the loop puts the weights back, and Keras, which saw the log, stops."""
    agent, training, _ = climber([1.0, 1.0, NAN, 1.0], [0.0, 0.0, NAN, 0.0])
    loop = optix.OptixCallback(restore_best_weights=False, verbose=0)
    callbacks = [loop, keras.callbacks.TerminateOnNaN()]
    if first == "terminate":
        callbacks.reverse()
    agent.fit(training, steps_per_epoch=8, verbose=0, callbacks=callbacks)
    assert agent.last_window_id == 2
    assert agent.weight == 2.0
    assert agent.hyperparams["learning_rate"] == 0.5
    assert [record.window_id for record in loop.events if record.kind == "non_finite"] == [2]


@pytest.mark.skipif(older("keras", "3.13"), reason="TerminateOnNaN has `raise_error` since Keras 3.13")
@pytest.mark.parametrize("first", ["loop", "terminate"])
def test_beside_the_loop_a_nan_that_raises_is_undone_only_if_the_loop_comes_first(first: str) -> None:
    agent, training, _ = climber([1.0, 1.0, NAN, 1.0], [0.0, 0.0, NAN, 0.0])
    callbacks = [
        optix.OptixCallback(restore_best_weights=False, verbose=0),
        keras.callbacks.TerminateOnNaN(raise_error=True),
    ]
    if first == "terminate":
        callbacks.reverse()
    with pytest.raises(RuntimeError, match="NaN or Inf loss encountered at batch 2"):
        agent.fit(training, steps_per_epoch=8, verbose=0, callbacks=callbacks)
    np.testing.assert_equal(agent.weight, 2.0 if first == "loop" else NAN)


@pytest.mark.parametrize("kind", [optix.PPOAgent, optix.ReinforceAgent])
def test_a_nan_in_ppo_and_reinforce_ends_fit(small_network: Any, kind: Any) -> None:
    agent = kind(small_network(2, 2), small_network(2, 1))
    agent.compile(jit_compile=False)
    training = optix.dataset_from_env(CountingEnv, agent, window_size=6)
    agent.value.set_weights([np.full(weight.shape, NAN) for weight in agent.value.get_weights()])
    agent.fit(training, steps_per_epoch=5, verbose=0, callbacks=[keras.callbacks.TerminateOnNaN()])
    assert agent.last_window_id == 0


# LambdaCallback


@pytest.mark.parametrize(
    ("steps_per_execution", "batches"), [(1, [(0, 0), (1, 1), (2, 2), (3, 3)]), (2, [(0, 1), (2, 3)])]
)
def test_hooks_are_called_in_their_order_with_their_numbers(
    loop: list[optix.OptixCallback], steps_per_execution: int, batches: list[tuple[int, int]]
) -> None:
    agent, training, validation = climber(script=range(8), steps_per_execution=steps_per_execution)
    calls: list[tuple[Any, ...]] = []

    def note_batch(name: str) -> Any:
        return lambda batch, logs: calls.append((name, batch, None if logs is None else logs.get("loss")))

    hooks: dict[str, Any] = {
        "on_train_begin": lambda logs: calls.append(("train begins",)),
        "on_train_end": lambda logs: calls.append(("train ends", logs["loss"])),
        "on_epoch_begin": lambda epoch, logs: calls.append(("epoch begins", epoch)),
        "on_epoch_end": lambda epoch, logs: calls.append(("epoch ends", epoch, logs["loss"])),
        "on_train_batch_begin": note_batch("window begins"),
        "on_train_batch_end": note_batch("window ends"),
        "on_test_begin": lambda logs: calls.append(("test begins",)),
        "on_test_end": lambda logs: calls.append(("test ends", round(logs["episode_return"], 4))),
        "on_test_batch_end": note_batch("test window ends"),
    }
    counting = keras.callbacks.LambdaCallback(**hooks)
    agent.fit(training, steps_per_epoch=4, epochs=2, verbose=0, callbacks=[counting, *loop], **validated(validation))
    expected: list[tuple[Any, ...]] = [("train begins",)]
    for epoch in (0, 1):
        expected.append(("epoch begins", epoch))
        for first, last in batches:
            expected += [("window begins", first, None), ("window ends", last, 4.0 * epoch + last)]
        tested = steps_per_execution - 1
        expected += [("test begins",), ("test window ends", tested, None), ("test ends", 4.0 * (epoch + 1))]
        expected.append(("epoch ends", epoch, 4.0 * epoch + 3))
    assert calls == [*expected, ("train ends", 7.0)]


# SwapEMAWeights

EMA = [1.0, 1.5, 2.25, 3.125]  # of the weights 1 2 3 4: half the average before and half the weight


def averaging() -> Any:
    return keras.optimizers.SGD(1.0, use_ema=True, ema_momentum=0.5)


def test_validation_plays_the_averaged_weights_and_training_the_raw_ones(loop: list[optix.OptixCallback]) -> None:
    agent, training, validation = climber(optimizer=averaging())
    raw: list[tuple[float, int]] = []
    notes = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: raw.append((agent.weight, agent.policy_version))
    )
    callbacks = [*loop, keras.callbacks.SwapEMAWeights(), notes]
    history = agent.fit(training, steps_per_epoch=1, epochs=4, verbose=0, callbacks=callbacks, **validated(validation))
    # A return is the weight that acted.
    np.testing.assert_allclose(history.history["val_episode_return"], EMA)
    np.testing.assert_allclose(history.history["episode_return"], [0.0, 1.0, 2.0, 3.0], atol=1e-6)
    assert raw == [(1.0, 1), (2.0, 2), (3.0, 3), (4.0, 4)]
    assert history.history["policy_lag"] == history.history["val_policy_lag"] == [0.0] * 4
    # Keras ends with the averages, which are weights that no update made: another version.
    assert agent.weight == EMA[-1]
    assert agent.policy_version == 5
    for callback in loop:
        assert callback.best_snapshot is not None
        assert (callback.best_snapshot.score, callback.best_snapshot.policy_version) == (pytest.approx(3.0), 3)


def test_without_swapping_validation_plays_the_raw_weights_until_fit_ends() -> None:
    """The control for the test above. The averages that Keras ends with are not scored by episodes of the raw ones."""
    agent, training, _ = climber(optimizer=averaging())
    validation = optix.dataset_from_env(PaysTheAction, agent, window_size=10, deterministic=True)
    history = agent.fit(training, steps_per_epoch=1, epochs=4, verbose=0, **validated(validation))
    np.testing.assert_allclose(history.history["val_episode_return"], [1.0, 2.0, 3.0, 4.0])
    score = agent.evaluate(validation, steps=1, verbose=0, return_dict=True)
    assert score["episode_return"] == pytest.approx(EMA[-1])


def test_the_loop_promotes_saves_and_restores_raw_weights(tmp_path: Path) -> None:
    agent, training, validation = climber(optimizer=averaging())
    loop = optix.OptixCallback(checkpoint_dir=tmp_path, verbose=0)
    callbacks = [keras.callbacks.SwapEMAWeights(), loop]
    agent.fit(training, steps_per_epoch=1, epochs=4, verbose=0, callbacks=callbacks, **validated(validation))
    best = loop.best_snapshot
    assert best is not None
    # Window 3 was collected by the weight 3, and the average of 1, 2 and 3 came with it.
    assert (best.score, best.policy_version) == (pytest.approx(3.0), 3)
    assert agent.weight == 3.0
    fresh, training, validation = climber(optimizer=averaging())
    optix.CheckpointRegistry(tmp_path).load_best(fresh)
    assert fresh.weight == 3.0
    history = fresh.fit(
        training,
        steps_per_epoch=1,
        verbose=0,
        callbacks=[keras.callbacks.SwapEMAWeights()],
        **validated(validation),
    )
    np.testing.assert_allclose(history.history["val_episode_return"], EMA[3:])


def test_checkpoints_hold_the_averages_if_weights_are_swapped_at_the_end_of_an_epoch(tmp_path: Path) -> None:
    agent, training, _ = climber(optimizer=averaging())
    callbacks = [
        keras.callbacks.SwapEMAWeights(swap_on_epoch=True),
        keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.weights.h5", save_weights_only=True),
    ]
    history = agent.fit(training, steps_per_epoch=1, epochs=4, verbose=0, callbacks=callbacks)
    np.testing.assert_allclose(history.history["episode_return"], [0.0, 1.0, 2.0, 3.0], atol=1e-6)
    fresh = climber(optimizer=averaging())[0]
    found = []
    for k in range(1, 5):
        fresh.load_weights(tmp_path / f"{k}.weights.h5")
        found.append(fresh.weight)
    assert found == EMA


# ProgbarLogger


@pytest.mark.parametrize("verbose", [1, 2])
def test_a_progress_bar_that_is_given_takes_the_place_of_our_line(
    loop: list[optix.OptixCallback], capsys: pytest.CaptureFixture[str], verbose: int
) -> None:
    agent, training, _ = climber(script=[7.0])
    bar = keras.callbacks.ProgbarLogger()
    agent.fit(training, steps_per_epoch=2, epochs=2, verbose=verbose, callbacks=[*loop, bar])
    out = capsys.readouterr().out
    assert "Epoch 2/2" in out
    assert "2/2" in out
    assert re.search(r"episode_return: 3\.0", out) if verbose == 2 else "episode_return: " in out
    assert "loss: 7.0000" in out
    assert "2/2 windows" not in out
    agent.fit(training, steps_per_epoch=2, epochs=2, verbose=verbose, callbacks=[*loop])
    out = capsys.readouterr().out
    assert out.count("2/2 windows") == 2
    assert "loss: " not in out


def test_a_progress_bar_that_is_given_is_silent_where_fit_is(capsys: pytest.CaptureFixture[str]) -> None:
    agent, training, _ = climber()
    agent.fit(training, steps_per_epoch=2, verbose=0, callbacks=[keras.callbacks.ProgbarLogger()])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("owner", ["ReduceLROnPlateau", "LearningRateScheduler"])
def test_two_owners_of_the_learning_rate_are_named(small_ppo: Any, owner: str) -> None:
    others = {
        "ReduceLROnPlateau": lambda: keras.callbacks.ReduceLROnPlateau("episode_return", mode="max"),
        "LearningRateScheduler": lambda: keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.5 * rate),
    }
    agent = small_ppo()
    training = optix.dataset_from_env(CountingEnv, agent, window_size=8)
    loop = optix.OptixCallback(tuner=optix.BackoffOptimizer({"learning_rate": (1e-5, 1e-1)}), verbose=0)
    with pytest.warns(UserWarning, match=f"{owner} and BackoffOptimizer") as told:
        agent.fit(training, steps_per_epoch=4, epochs=3, callbacks=[loop, others[owner]()], verbose=0)
    assert len([w for w in told if "owner" in str(w.message)]) == 1
    # The control: a tuner of something else shares nothing with them.
    agent = small_ppo()
    training = optix.dataset_from_env(CountingEnv, agent, window_size=8)
    loop = optix.OptixCallback(tuner=optix.BackoffOptimizer({"gamma": (0.9, 0.99)}), verbose=0)
    agent.fit(training, steps_per_epoch=2, callbacks=[loop, others[owner]()], verbose=0)


def test_a_callback_list_is_looked_into(small_ppo: Any) -> None:
    agent = small_ppo()
    training = optix.dataset_from_env(CountingEnv, agent, window_size=8)
    loop = optix.OptixCallback(max_windows=2, verbose=0)
    history = agent.fit(training, callbacks=keras.callbacks.CallbackList([loop]), verbose=0)
    assert loop.env_steps == 16
    assert history.epoch == [0]
