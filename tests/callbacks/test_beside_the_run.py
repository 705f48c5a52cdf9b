"""What lies beside a run of `fit` neither ends it nor spoils it: NaN from outside, a full disk, a second process."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import keras_optix as optix
from keras_optix.errors import NonFiniteError, RegistryError, StateError
from keras_optix.store import files
from keras_optix.testing import IdentityEnv
from tests.power_cut import Cut

MakeAgent = Callable[..., optix.PPOAgent]
WINDOWS = 12


def slow(value: Any) -> Any:
    return pytest.param(value, marks=pytest.mark.slow)


def fit(agent: optix.PPOAgent, callback: optix.OptixCallback, *others: Any, env: Any = None, **options: Any) -> None:
    made = env or (lambda: IdentityEnv(4))
    dataset = optix.dataset_from_env(made, agent, window_size=16, num_envs=2, seed=0)
    agent.fit(dataset, callbacks=[callback, *others], verbose=0, **options)


def loop(directory: Path | None = None, **options: Any) -> optix.OptixCallback:
    settings: dict[str, Any] = {"max_windows": WINDOWS, "verbose": 0, "resume_interval": 0.0}
    return optix.OptixCallback(optix.ReturnEvaluator(4), checkpoint_dir=directory, **settings | options)


def is_finite(state: Any) -> bool:
    return all(np.isfinite(array).all() for array in state.values() if array.dtype.kind == "f")


def snapshots_of(directory: Path) -> list[Any]:
    registry = optix.CheckpointRegistry(directory)
    return [registry.load(snapshot) for snapshot in registry.ranked_snapshots]


# Not finite


class Spoils(keras.callbacks.Callback):
    """Sets NaN in a variable before some windows."""

    def __init__(self, at: tuple[int, ...], which: str) -> None:
        super().__init__()
        self.at, self.which = at, which

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if batch not in self.at:
            return
        if self.which == "weight":
            variable = self.model.trainable_variables[0]
        else:
            variable = next(v for v in self.model.optimizer.variables if v.path.endswith("momentum"))
        variable.assign(np.full(variable.shape, np.nan, "float32"))


@pytest.mark.parametrize("at", [(5,), slow((1,)), slow((2, 6))])
def test_nan_weights_of_a_callback_are_undone_and_never_saved(
    small_ppo: MakeAgent, tmp_path: Path, at: tuple[int, ...]
) -> None:
    agent, callback = small_ppo(4, 4, seed=3), loop(tmp_path, restore_best_weights=False)
    seen: list[bool] = []

    class Looks(optix.LoopCallback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            seen.extend(is_finite(files.read_arrays(path)) for path in tmp_path.rglob("resume*.npz"))

    callback.callbacks.append(Looks())
    fit(agent, callback, Spoils(at, "weight"))
    assert is_finite(agent.get_state())
    assert is_finite({str(k): v for k, v in enumerate(agent.get_weights())})
    saved = snapshots_of(tmp_path)
    assert saved
    assert all(is_finite(state) for state in saved)
    told = [record.message for record in callback.events if record.kind == "non_finite"]
    assert 1 <= len(told) <= 2 * len(at)
    assert all("restored" in message for message in told)


def test_nan_in_an_optimizer_slot_is_found_where_it_would_be_saved(small_ppo: MakeAgent, tmp_path: Path) -> None:
    agent, callback = small_ppo(4, 4, seed=3), loop(tmp_path, restore_best_weights=False)
    agent.compile(optimizer=keras.optimizers.SGD(1e-9, momentum=0.9), jit_compile=False)
    fit(agent, callback, Spoils((7,), "slot"))
    assert is_finite(agent.get_state())
    assert all(is_finite(state) for state in snapshots_of(tmp_path))
    assert any(record.kind == "non_finite" for record in callback.events)


@pytest.mark.filterwarnings("ignore:The lowered policy computes other values")
def test_without_any_finite_state_fit_says_so(small_ppo: MakeAgent) -> None:
    agent, callback = small_ppo(4, 4), loop()
    agent.bind(IdentityEnv(4).observation_space, IdentityEnv(4).action_space)
    agent.trainable_variables[0].assign(np.full(agent.trainable_variables[0].shape, np.nan, "float32"))
    with pytest.raises(NonFiniteError, match="no finite weights to go back to"):
        fit(agent, callback)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_mutation_that_is_not_finite_is_undone(tmp_path: Path, value: float) -> None:
    calls: list[int] = []

    def spoil(agent: Any) -> None:
        calls.append(1)
        agent.p = value

    sys.path.insert(0, str(Path(__file__).parents[1] / "loop"))
    try:
        from toy_run import Run, manager
    finally:
        sys.path.pop(0)
    managed = manager(auto_spawn=True, max_variants=2, variant_windows=5, mutation_fn=spoil)
    run = Run(tmp_path, managed, when_dormant="stop").begin()
    run.until(lambda: len(calls) == 2)
    run.windows(20)
    assert np.isfinite(run.toy.p)
    assert sum("`mutation_fn` made weights" in message for message in run.told("non_finite")) == 2


def ordinary(**options: Any) -> Any:
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.layers.Input((4,)), keras.layers.Dense(8, activation="relu"), keras.layers.Dense(1)]
    )
    model.compile(optimizer=keras.optimizers.Adam(1e-2, **options), loss="mse", jit_compile=False)
    return model


def rows(seed: int = 0, *, bad: bool = False) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(64, 4)).astype("float32")
    y = x.sum(axis=1, keepdims=True)
    if bad:
        x[17, 2] = np.nan
    return x, y


@pytest.mark.parametrize("seed", [0, slow(1), slow(2), slow(3)])
def test_a_row_with_nan_never_makes_nan_the_best(tmp_path: Path, seed: int) -> None:
    model, (x, y), clean = ordinary(), rows(seed, bad=True), rows(seed + 100)
    callback = optix.OptixCallback(monitor="val_loss", checkpoint_dir=tmp_path, verbose=0)
    with contextlib.suppress(NonFiniteError):
        model.fit(x, y, validation_data=clean, epochs=8, verbose=0, callbacks=[callback])
    assert is_finite({str(k): v for k, v in enumerate(model.get_weights())})
    assert all(is_finite(state) for state in snapshots_of(tmp_path))


def test_averages_that_are_nan_are_not_swapped_into_a_best(tmp_path: Path) -> None:
    model, (x, y) = ordinary(use_ema=True, ema_momentum=0.5), rows()

    class Spoils(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            if epoch == 3:
                for average in self.model.optimizer._model_variables_moving_average:
                    average.assign(np.full(average.shape, np.nan, "float32"))

    callback = optix.OptixCallback(monitor="val_loss", checkpoint_dir=tmp_path, verbose=0)
    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    with contextlib.suppress(NonFiniteError):
        model.fit(x, y, validation_data=(x, y), epochs=8, verbose=0, callbacks=[Spoils(), swap, callback])
    saved = snapshots_of(tmp_path)
    assert saved
    assert all(is_finite(state) for state in saved)


# One run, one process


PROCESS = """
import sys, keras, keras_optix as optix
from keras_optix.testing import IdentityEnv
keras.utils.set_random_seed(0)
make = lambda n: keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(n)])
agent = optix.PPOAgent(make(4), make(1), update_epochs=1, minibatch_size=8)
agent.compile(optimizer=keras.optimizers.Adam(1e-3), jit_compile=False)
dataset = optix.dataset_from_env(lambda: IdentityEnv(4), agent, window_size=8, seed=0)

class Says(optix.LoopCallback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 2:
            print("runs", flush=True)
            input()

callback = optix.OptixCallback(optix.ReturnEvaluator(4), checkpoint_dir=sys.argv[1], resume=True, resume_interval=0.0,
                               max_windows=50, callbacks=[Says()], verbose=0)
agent.fit(dataset, callbacks=[callback], verbose=0)
"""


def test_a_second_process_does_not_enter_the_run(small_ppo: MakeAgent, tmp_path: Path) -> None:
    """The first is killed in the end, after which a second one may continue its run."""
    command = [sys.executable, "-c", PROCESS, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"runs\n"
        before = sorted(path.read_bytes() for path in tmp_path.rglob("resume*.npz"))
        with pytest.raises(
            RegistryError, match=rf"is running: process {child.pid} on .*, since 20.*resume=\"if_free\""
        ):
            fit(small_ppo(4, 4), loop(tmp_path, resume=True))
        mine = loop(tmp_path, resume="if_free")
        fit(small_ppo(4, 4), mine)
        assert sum("is running elsewhere" in record.message for record in mine.events) == 1
        assert not any(record.kind == "resumed" for record in mine.events)
        assert sorted(path.read_bytes() for path in tmp_path.rglob("resume*.npz")) == before
        child.kill()
    other = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(4)])
    value = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(1)])
    agent = optix.PPOAgent(other, value, update_epochs=1, minibatch_size=8)
    agent.compile(optimizer=keras.optimizers.Adam(1e-3), jit_compile=False)
    resumed = loop(tmp_path, resume=True, max_windows=5)
    dataset = optix.dataset_from_env(lambda: IdentityEnv(4), agent, window_size=8, seed=0)
    agent.fit(dataset, callbacks=[resumed], verbose=0)
    assert any(record.kind == "resumed" for record in resumed.events)


def test_a_fit_that_failed_in_this_process_can_be_resumed(tmp_path: Path) -> None:
    """Keras tells the callbacks of an ordinary model nothing when `fit` fails; the first callback is still there."""

    class Fails(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            if epoch == 2:
                raise ConnectionError("power")

    def run(*others: Any) -> optix.OptixCallback:
        model, (x, y) = ordinary(), rows()
        callback = optix.OptixCallback(
            monitor="loss", checkpoint_dir=tmp_path, resume=True, resume_interval=0.0, verbose=0
        )
        model.fit(x, y, epochs=5, verbose=0, callbacks=[callback, *others])
        return callback

    with pytest.raises(ConnectionError) as caught:
        run(Fails())
    second = run()  # the traceback of `caught` holds the first callback, and its lease
    assert caught.value.__traceback__ is not None
    assert any(record.kind == "resumed" for record in second.events)


@pytest.mark.parametrize("shared", ["callback", "model"])
def test_two_fits_at_once_are_refused(tmp_path: Path, shared: str) -> None:
    (x, y), running, go_on = rows(), threading.Event(), threading.Event()
    model = ordinary()
    callback = optix.OptixCallback(monitor="loss", verbose=0)

    class Waits(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            if epoch == 1:
                running.set()
                assert go_on.wait(60.0)

    def first() -> None:
        model.fit(x, y, epochs=3, verbose=0, callbacks=[callback, Waits()])

    thread = threading.Thread(target=first, name="the first")
    thread.start()
    assert running.wait(60.0)
    try:
        other = ordinary() if shared == "callback" else model
        mine = callback if shared == "callback" else optix.OptixCallback(monitor="loss", verbose=0)
        with pytest.raises(StateError, match=rf"(?i:{shared}).* in use by another `fit`.*thread='the first'"):
            other.fit(x, y, epochs=1, verbose=0, callbacks=[mine])
    finally:
        go_on.set()
        thread.join()
    assert callback.history.num_rows == 3  # the first was not disturbed
    ordinary().fit(x, y, epochs=1, verbose=0, callbacks=[callback])  # one after the other is allowed


@pytest.mark.parametrize("shared", ["callback", "agent"])
def test_the_fit_of_an_agent_goes_on_when_a_second_one_is_refused(small_ppo: MakeAgent, shared: str) -> None:
    """The second one is called in a hook of the first, so that it is certain that the first has not ended."""
    agent, refused = small_ppo(4, 4), []
    dataset = optix.dataset_from_env(lambda: IdentityEnv(4), agent, window_size=8, seed=0)

    class Again(optix.LoopCallback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if batch == 1:
                mine = callback if shared == "callback" else loop()
                with pytest.raises(StateError, match="in use by another `fit`") as caught:
                    agent.fit(dataset, callbacks=[mine], verbose=0)
                refused.append(caught.value)

    callback = loop(callbacks=[Again()])
    agent.fit(dataset, callbacks=[callback], verbose=0)
    assert len(refused) == 1
    assert callback._loop is not None
    assert callback._loop.units == WINDOWS


def test_a_fit_may_follow_one_that_failed_however_often(tmp_path: Path) -> None:
    """In the same place of the program, so that Python uses the same memory again for the frames of the calls."""
    model, (x, y) = ordinary(), rows()
    callback = optix.OptixCallback(monitor="loss", checkpoint_dir=tmp_path, resume_interval=0.0, verbose=0)

    class Fails(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            raise ConnectionError("power")

    for _ in range(4):
        with contextlib.suppress(ConnectionError):
            model.fit(x, y, epochs=2, verbose=0, callbacks=[callback, Fails()])
        model.fit(x, y, epochs=2, verbose=0, callbacks=[callback])
    assert callback.history.num_rows == 2


# The disk


class Full:
    """A disk that is full while `now` is true: nothing can be flushed, and nothing created."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.refused = False, 0
        for module, name in ((files.os, "fsync"), (Path, "open")):
            really = getattr(module, name)

            def refused(*given: Any, really: Any = really, **options: Any) -> Any:
                reads = really.__name__ == "open" and not any(set("wxa") & set(str(mode)) for mode in given[1:2])
                if self.now and not reads:
                    self.refused += 1
                    raise OSError(errno.ENOSPC, "No space left on device")
                return really(*given, **options)

            monkeypatch.setattr(module, name, refused)


@pytest.mark.parametrize("begin", [4, slow(0)])
def test_a_full_disk_ends_neither_a_run_nor_its_last_line(
    small_ppo: MakeAgent,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    begin: int,
) -> None:
    disk = Full(monkeypatch)

    class Fills(optix.LoopCallback):
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            if batch == begin:
                disk.now = True

    keras.utils.set_random_seed(0)
    agent = small_ppo(4, 4, seed=3)
    tuner = optix.BackoffOptimizer({"learning_rate": (1e-4, 1e-1)})
    callback = loop(tmp_path / "b", callbacks=[Fills()], log_dir=tmp_path / "logs", verbose=1, tuner=tuner)
    fit(agent, callback)
    assert callback._loop is not None
    assert callback._loop.units == WINDOWS
    assert disk.refused > 0
    notices = [record.message for record in callback.events if record.kind == "notice"]
    for what in ("the resume point", "the schedule"):
        assert sum(f"{what} could not be written" in notice for notice in notices) == 1
    assert "Not written: " in capsys.readouterr().out
    assert notices[-1].startswith("not written until the end: ")
    assert callback.best_snapshot is not None
    assert is_finite(agent.get_state())


def test_a_directory_that_is_removed_in_the_middle(small_ppo: MakeAgent, tmp_path: Path) -> None:
    class Removes(optix.LoopCallback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if batch == 6:
                shutil.rmtree(tmp_path / "c")

    callback = loop(tmp_path / "c", callbacks=[Removes()], restore_best_weights=False)
    with pytest.warns(UserWarning, match="not be read|not on disk"):
        fit(small_ppo(4, 4, seed=3), callback)
    assert callback._loop is not None
    assert callback._loop.units == WINDOWS


@pytest.mark.skipif(os.name == "nt", reason="the check is that of POSIX")
def test_a_registry_on_a_read_only_disk_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = optix.CheckpointRegistry(tmp_path)
    facts = {"eval_metrics": optix.EvalMetrics(1.0), "hyperparams": optix.HyperparamSet({})}
    saved = registry.save({"w": np.ones(2)}, **facts)

    def refuse(*given: Any, **options: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "touch", refuse)
    monkeypatch.setattr(files.os, "fsync", refuse)
    read = optix.CheckpointRegistry(tmp_path)
    assert read.best == saved
    assert read.load(saved)["w"].tolist() == [1.0, 1.0]
    with pytest.raises(RegistryError, match="Read-only"):
        read.save({"w": np.ones(2)}, **facts)
    with pytest.raises(RegistryError, match="Read-only"):
        optix.CheckpointRegistry(tmp_path / "new")
    with pytest.raises(RegistryError, match=r"cannot be written.*Read-only"):
        optix.OptixCallback(checkpoint_dir=tmp_path)


# The end of a run


@pytest.mark.parametrize("limit", [{"max_windows": WINDOWS}, slow({"max_env_steps": 32 * WINDOWS})])
def test_a_run_that_is_killed_at_its_end_gets_no_further_window(
    small_ppo: MakeAgent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: dict[str, int]
) -> None:
    """After its last resume point, before this was removed."""
    first = loop(tmp_path, resume=True, restore_best_weights=False, **{"max_windows": None} | limit)
    agent = small_ppo(4, 4, seed=3)
    with monkeypatch.context() as patched:
        patched.setattr(optix.OptixCallback, "on_train_end", lambda self, logs=None: self.leave_run())
        fit(agent, first)
    assert first._loop is not None
    state = agent.get_state()
    assert first._loop.units == WINDOWS
    resumed = loop(tmp_path, resume=True, restore_best_weights=False, **{"max_windows": None} | limit)
    again = small_ppo(4, 4, seed=3)
    fit(again, resumed)
    assert resumed._loop is not None
    assert resumed._loop.units == WINDOWS
    assert resumed.env_steps == 32 * WINDOWS
    assert resumed.ending == first.ending
    for name, array in again.get_state().items():
        np.testing.assert_array_equal(array, state[name], err_msg=name)
    assert not list(tmp_path.rglob("resume*.npz"))


def test_temporary_files_of_a_killed_process_are_removed_when_its_run_is_resumed(
    small_ppo: MakeAgent, tmp_path: Path
) -> None:
    with pytest.raises(ConnectionError):
        fit(small_ppo(4, 4), loop(tmp_path, resume=True), Cut(3))
    (folder,) = {path.parent for path in tmp_path.rglob("resume.npz")}
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as alive:
        tag = files.this_process().tag
        machine = tag.partition("-")[0]
        dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
        names = {
            f".resume.npz.{machine}-{int(dead.stdout)}-0123abcd": False,
            f".resume.npz.{machine}-{alive.pid}-0123abcd": True,
            f".resume.npz.{int(machine, 16) ^ 1:08x}-{int(dead.stdout)}-0123abcd": True,  # of another machine
            f".mine.{machine}-{int(dead.stdout)}-0123abcd": True,
        }
        for name in names:
            (folder / name).write_bytes(b"half")
        fit(small_ppo(4, 4), loop(tmp_path, resume=True))
        assert {name: (folder / name).exists() for name in names} == names
        alive.kill()
