"""A copy of a callback has its options and none of its runs; what two callbacks share, neither changes."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import keras_optix as optix
from keras_optix.testing import IdentityEnv

MakeAgent = Callable[..., optix.PPOAgent]


def regression(seed: int) -> Any:
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(1)])
    model.compile(optimizer=keras.optimizers.SGD(0.01), loss="mse", jit_compile=False)
    return model


def fit(model: Any, callback: Any, *others: Any, seed: int = 0, epochs: int = 12) -> Any:
    x = np.random.default_rng(seed).normal(size=(32, 4)).astype("float32")
    y = x.sum(axis=1, keepdims=True)
    callbacks = [callback, *others]
    model.fit(x, y, validation_data=(x, y), epochs=epochs, shuffle=False, verbose=0, callbacks=callbacks)
    return callback


def told(callback: optix.OptixCallback) -> Any:
    history = {name: column.tolist() for name, column in callback.history.items() if name != "seconds"}
    state = callback.scheduler_state, callback.tuner_state, callback.schedule, callback.search_spaces
    return [str(record) for record in callback.events], repr(history), state


def tuners() -> dict[str, Callable[[], Any]]:
    return {
        "backoff": lambda: optix.BackoffOptimizer(block=2, max_rounds=1),
        "population": lambda: optix.PBTOptimizer(population=2, ready_interval=2, seed=0),
    }


@pytest.mark.parametrize("name", ["backoff", pytest.param("population", marks=pytest.mark.slow)])
def test_two_callbacks_may_share_a_scheduler_and_a_tuner(name: str) -> None:
    """One fit after the other, and one in the middle of the other."""
    make = tuners()[name]

    def callback(tuner: Any, scheduler: Any) -> optix.OptixCallback:
        return optix.OptixCallback(monitor="val_loss", tuner=tuner, scheduler=scheduler, verbose=0)

    def scheduler() -> optix.BackoffScheduler:
        return optix.BackoffScheduler(max_interval=1, plateau_threshold=20, dormant_threshold=40)

    wanted = [told(fit(regression(seed), callback(make(), scheduler()), seed=seed)) for seed in (0, 1)]
    assert wanted[0] != wanted[1]
    tuner, shared = make(), scheduler()
    assert [told(fit(regression(seed), callback(tuner, shared), seed=seed)) for seed in (0, 1)] == wanted

    class Between(keras.callbacks.Callback):
        """Has the other fit in the middle of this one."""

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            if epoch == 5:
                inner.append(told(fit(regression(1), callback(tuner, shared), seed=1)))

    inner: list[Any] = []
    outer = told(fit(regression(0), callback(tuner, shared), Between()))
    assert [outer, *inner] == wanted


def test_a_copy_that_has_not_run_is_a_callback_of_its_own(tmp_path: Path) -> None:
    original = optix.OptixCallback(
        monitor="val_loss", tuner=optix.BackoffOptimizer(block=2), checkpoint_dir=tmp_path, verbose=0
    )
    copies = [copy.deepcopy(original), copy.deepcopy(original)]
    first, second = (told(fit(regression(0), one)) for one in copies)
    assert first == second
    assert first[0]
    assert original.events == []
    assert original.tuner_state is None
    assert told(fit(regression(0), original)) == first
    directories = {one.registry.run_folder for one in (original, *copies)}
    assert len(directories) == 3
    assert {one.registry.directory for one in copies} == {tmp_path}


def test_copies_of_a_callback_are_two_in_one_fit() -> None:
    original = optix.OptixCallback(monitor="val_loss", verbose=0)
    with pytest.raises(optix.ConfigurationError, match="two OptixCallbacks"):
        fit(regression(0), original, copy.deepcopy(original))
    fit(regression(0), copy.deepcopy(original))  # what did not begin is in nobody's way


def test_a_callback_whose_manager_has_agents_is_not_copied(small_ppo: MakeAgent) -> None:
    manager = optix.PolicyManager()
    manager.add_agent(small_ppo())
    with pytest.raises(optix.ConfigurationError, match="cannot be copied"):
        copy.deepcopy(optix.OptixCallback(policy_manager=manager))


DAMAGES: dict[str, Callable[[Any], Any]] = {
    "env_steps": lambda values: values["loop"].pop("env_steps"),
    "scheduler.best": lambda values: values["loop"]["scheduler"].update(best=3),
    "window": lambda values: values["adapter"]["agent"]["clock"].update(window="x"),
    "act": lambda values: values["adapter"]["agent"].pop("act"),
    "mood": lambda values: values["adapter"]["agent"].update(mood=1),
    "rng.state": lambda values: values["adapter"]["sources"][0]["rng"].update(state=None),
    "seeds": lambda values: values["adapter"].update(seeds={}),
    "steps": lambda values: values["loop"]["tuning"]["tuner"].update(steps=[]),
    "learning_rate": lambda values: values["adapter"]["hyperparams"].update(learning_rate=-1.0),
}


def test_a_damaged_point_is_refused_before_anything_is_changed(small_ppo: MakeAgent, tmp_path: Path) -> None:
    class Cut(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if batch == 3:
                raise ConnectionError("power")

    def start(*others: Any) -> None:
        agent = small_ppo(4, 4, seed=3)
        dataset = optix.dataset_from_env(lambda: IdentityEnv(4), agent, window_size=8, seed=0)
        before = {name: np.array(array) for name, array in agent.get_state().items()} if not others else {}
        callback = optix.OptixCallback(
            tuner=optix.BackoffOptimizer({"learning_rate": (1e-4, 1e-1)}),
            checkpoint_dir=tmp_path,
            resume=True,
            resume_interval=0.0,
            verbose=0,
        )
        try:
            agent.fit(dataset, callbacks=[callback, *others], verbose=0, steps_per_epoch=6)
        finally:
            for name, array in before.items():
                np.testing.assert_array_equal(agent.get_state()[name], array)
            if not others:
                assert agent.sources[0].windows == 0
                assert callback.events == []

    with pytest.raises(ConnectionError):
        start(Cut())
    point = next(tmp_path.rglob("resume.npz"))
    with np.load(point) as file:
        arrays = {name: file[name] for name in file.files}
    for name, damage in DAMAGES.items():
        values = json.loads(arrays["json"].tobytes())
        damage(values)
        np.savez(point, **arrays | {"json": np.frombuffer(json.dumps(values).encode(), np.uint8)})
        with pytest.raises((optix.errors.StateError, optix.errors.HyperparamError), match=name):
            start()
    older = json.loads(arrays["json"].tobytes()) | {"schema": 4}
    np.savez(point, **arrays | {"json": np.frombuffer(json.dumps(older).encode(), np.uint8)})
    with pytest.raises(optix.errors.RegistryError, match=r"schema 4 is not 7.*Delete it to begin a new run"):
        start()
