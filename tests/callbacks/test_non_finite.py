"""NaN in a loss or a weight: the weights before come back, the learning rate is halved, and it ends at some point."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_optix as optix
from keras_optix.testing import CountingEnv


class Breaking(optix.PPOAgent):
    """PPO whose update of some windows goes wrong."""

    broken: tuple[int, ...] = ()
    what = "weight"

    def train_step(self, window: Any) -> dict[str, Any]:
        logs = super().train_step(window)
        wrong = tf.reduce_any([window.window_id == k for k in self.broken])
        if self.what == "weight":
            first = self.trainable_variables[0]
            first.assign(tf.where(wrong, tf.constant(np.nan, tf.float32), first.value))
        else:
            logs["policy_loss"] = tf.where(wrong, tf.constant(np.inf, tf.float32), logs["policy_loss"])
        return logs


@pytest.fixture
def make(small_network: Callable[[int, int], Any]) -> Callable[..., Breaking]:
    def build(broken: tuple[int, ...], what: str = "weight", **options: Any) -> Breaking:
        agent = Breaking(small_network(2, 2), small_network(2, 1), update_epochs=2, minibatch_size=8)
        agent.broken, agent.what = broken, what
        agent.compile(optimizer=keras.optimizers.Adam(1e-3), jit_compile=False, **options)
        return agent

    return build


def run(agent: optix.Agent, **options: Any) -> optix.OptixCallback:
    callback = optix.OptixCallback(max_windows=8, restore_best_weights=False, verbose=0)
    dataset = optix.dataset_from_env(CountingEnv, agent, window_size=8, num_envs=1, seed=0, **options)
    agent.fit(dataset, callbacks=[callback], verbose=0)
    return callback


@pytest.mark.parametrize("what", ["weight", "loss"])
@pytest.mark.parametrize("prefetch", [0, 1])
def test_the_weights_before_come_back(make: Callable[..., Breaking], what: str, prefetch: int) -> None:
    agent = make((5,), what)
    acted: dict[int, Any] = {}
    after: dict[int, Any] = {}

    class Notes(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            after[batch] = agent.get_state()

    dataset = optix.dataset_from_env(CountingEnv, agent, window_size=8, seed=0, prefetch=prefetch)
    (source,) = agent.sources
    collect = source.collect

    def spy() -> Any:
        collected = collect()
        acted[collected.window_id] = agent.state_of(collected.policy)
        return collected

    source.collect = spy  # type: ignore[method-assign]
    callback = optix.OptixCallback(max_windows=8, restore_best_weights=False, verbose=0)
    agent.fit(dataset, callbacks=[callback, Notes()], verbose=0)
    (record,) = [record for record in callback.events if record.kind == "non_finite"]
    assert record.window_id == 5
    assert "learning rate 0.001 -> 0.0005 (1 of at most 5)" in record.message
    for name, array in acted[5].items():
        np.testing.assert_array_equal(after[5][name], array, err_msg=name)
    assert agent.hyperparams["learning_rate"] == pytest.approx(5e-4)
    assert all(np.isfinite(array).all() for array in agent.get_state().values())
    # It went on learning from there.
    assert any((after[7][name] != after[5][name]).any() for name in after[5])


def test_the_weights_before_come_back_with_several_steps_in_one_execution(make: Callable[..., Breaking]) -> None:
    agent = make((5,), steps_per_execution=4)
    callback = run(agent)
    assert [record.kind for record in callback.events if record.kind == "non_finite"] == ["non_finite"]
    assert all(np.isfinite(array).all() for array in agent.get_state().values())


def test_with_a_schedule_the_weights_come_back_and_the_schedule_stays(make: Callable[..., Breaking]) -> None:
    agent = make((5,))
    schedule = keras.optimizers.schedules.ExponentialDecay(1e-3, 10, 0.9)
    agent.compile(optimizer=keras.optimizers.Adam(schedule), jit_compile=False)
    assert "learning_rate" not in agent.hyperparams
    callback = run(agent)
    (record,) = [record for record in callback.events if record.kind == "non_finite"]
    assert "learning rate" not in record.message
    assert all(np.isfinite(array).all() for array in agent.get_state().values())


def test_what_does_not_get_better_ends_with_an_error_and_finite_weights(make: Callable[..., Breaking]) -> None:
    agent = make(tuple(range(2, 20)))
    with pytest.raises(
        optix.errors.NonFiniteError, match=r"6th time in this run.*window_id=7, learning_rate=3.125e-05"
    ):
        run(agent)
    assert all(np.isfinite(array).all() for array in agent.get_state().values())


def test_the_control_without_the_loop_the_weights_stay_broken(make: Callable[..., Breaking]) -> None:
    agent = make((1,))
    dataset = optix.dataset_from_env(CountingEnv, agent, window_size=8)
    agent.fit(dataset, steps_per_epoch=3, verbose=0)
    assert not np.isfinite(agent.trainable_variables[0].numpy()).all()
    assert not agent.last_update[1]
