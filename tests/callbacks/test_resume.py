"""A run of an agent that is cut off and resumed is the run that was not."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import keras_optix as optix
from keras_optix.distributions import CarrySpec
from keras_optix.experience import collector
from keras_optix.testing import IdentityEnv
from tests.power_cut import Cut

MakeAgent = Callable[..., optix.PPOAgent]
WINDOWS = 24


class Unsavable(IdentityEnv):
    """Cannot say where it stands."""

    save_state = None


def start(
    make: MakeAgent,
    directory: Path,
    *,
    env: Any = lambda: IdentityEnv(4),
    cut: int | None = None,
    resume: bool = True,
    interval: float | None = 0.0,
    prefetch: int = 0,
    log_dir: Path | None = None,
    **options: Any,
) -> tuple[optix.PPOAgent, optix.OptixCallback]:
    """One process: an agent, its dataset and the callback; runs until it is cut off or has had its windows."""
    keras.utils.set_random_seed(0)
    agent = make(4, 4, normalize_rewards=True, seed=3)
    settings: dict[str, Any] = {
        "scheduler": optix.BackoffScheduler(plateau_threshold=50, dormant_threshold=100),
        "tuner": optix.BackoffOptimizer({"learning_rate": (1e-4, 1e-1), "gamma": (0.9, 0.999)}, max_rounds=1),
        "max_windows": WINDOWS,
    }
    callback = optix.OptixCallback(
        optix.ReturnEvaluator(6),
        checkpoint_dir=directory,
        resume=resume,
        resume_interval=interval,
        restore_best_weights=False,
        log_dir=log_dir,
        verbose=0,
        **(settings | options),
    )
    num_envs = 1 if isinstance(env, IdentityEnv) else 2
    dataset = optix.dataset_from_env(env, agent, window_size=16, num_envs=num_envs, seed=0, prefetch=prefetch)
    if cut is None:
        agent.fit(dataset, callbacks=[callback], verbose=0)
    else:
        with pytest.raises(ConnectionError, match="power"):
            agent.fit(dataset, callbacks=[callback, Cut(cut)], verbose=0)
    return agent, callback


def assert_same_run(
    one: tuple[optix.PPOAgent, optix.OptixCallback], other: tuple[optix.PPOAgent, optix.OptixCallback]
) -> None:
    (agent, callback), (agent2, callback2) = one, other
    arrays, values = agent.save_run()
    arrays2, values2 = agent2.save_run()
    assert values == values2
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, arrays2[name], err_msg=name)
    assert agent.hyperparams.snapshot() == agent2.hyperparams.snapshot()
    assert callback.scheduler_state == callback2.scheduler_state
    assert callback.tuner is not None
    assert callback2.tuner is not None
    assert callback.tuner_state == callback2.tuner_state
    assert callback.env_steps == callback2.env_steps
    assert callback.evaluation_env_steps == callback2.evaluation_env_steps
    tables = [dict(c.history) for c in (callback, callback2)]
    for table in tables:
        assert (np.diff(table.pop("seconds")) > 0.0).all()
    assert list(tables[0]) == list(tables[1])
    assert len(tables[0]["score"]) >= 3
    for name, column in tables[0].items():
        np.testing.assert_array_equal(column, tables[1][name], err_msg=name)
    told = [[str(r) for r in c.events if r.kind != "resumed"] for c in (callback, callback2)]
    assert told[0] == told[1]
    carry, rows = agent.initial_carry(4), np.eye(4, dtype="float32")
    assert agent.act(rows, carry=carry)[0].tolist() == agent2.act(rows, carry=carry)[0].tolist()
    for acted in (agent, agent2):
        acted._act_rng.bit_generator.state = values["act"]  # one run is compared with several


@pytest.mark.parametrize("after", [0, 11])
def test_it_is_the_same_run_bit_by_bit(small_ppo: MakeAgent, tmp_path: Path, after: int) -> None:
    whole = start(small_ppo, tmp_path / "a", resume=False)
    assert {"improvement", "hyperparams"} <= {record.kind for record in whole[1].events}
    start(small_ppo, tmp_path / "b", cut=after)
    resumed = start(small_ppo, tmp_path / "b")
    assert_same_run(whole, resumed)
    (record,) = [record for record in resumed[1].events if record.kind == "resumed"]
    assert record.window_id == after
    assert "new episodes" not in record.message
    assert resumed[0].sources[0].windows == WINDOWS


class Drifting(optix.PPOAgent):
    """Leans to one action or another by the step of the episode, which its carry counts."""

    carry_specs = (CarrySpec((), "float32"),)

    def choose(
        self, observations: Any, noise: Any, weights: Any, carry: tuple[Any, ...] = ()
    ) -> tuple[Any, Any, tuple[Any, ...]]:
        (count,) = carry
        leaning = 2.0 * keras.ops.cos(count)[:, None] * keras.ops.arange(4, dtype="float32")
        choices, log_probs, _ = super().choose(observations, noise + leaning, weights)
        return choices, log_probs, (count + 1.0,)


@pytest.mark.parametrize("in_place", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["copies", "in_place"])
def test_a_policy_that_remembers_goes_on_in_the_middle_of_an_episode(
    small_network: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_place: bool
) -> None:
    """Windows have 16 steps and episodes 10, so that of two windows at most one ends with an episode."""

    def make(inputs: int, actions: int, **options: Any) -> Drifting:
        agent = Drifting(
            small_network(inputs, actions), small_network(inputs, 1), epochs=2, minibatch_size=8, **options
        )
        agent.compile(optimizer=keras.optimizers.Adam(1e-3), jit_compile=False)
        return agent

    def run(directory: str, **options: Any) -> Any:
        return start(make, tmp_path / directory, env=IdentityEnv(4) if in_place else lambda: IdentityEnv(4), **options)

    whole = run("a", resume=False)
    for cut in (4, 12):
        run("b", cut=cut)
    at = whole[0].sources[0]
    assert at._handed_out.carry[0].tolist() != [0.0] * at.num_envs
    assert_same_run(whole, run("b"))
    # A control: a run whose carry is not kept is another one.
    read = collector.read_collector_state

    def forgetful(*args: Any) -> Any:
        state, *rest = read(*args)
        return (dataclasses.replace(state, carry=tuple(np.zeros_like(leaf) for leaf in state.carry)), *rest)

    for cut in (4, 12):
        run("c", cut=cut)
    monkeypatch.setattr(collector, "read_collector_state", forgetful)
    another = run("c")
    with pytest.raises(AssertionError):
        assert_same_run(whole, another)


class Waiting(optix.LoopCallback):
    """Notes after which windows a procedure waits, and for what."""

    def __init__(self) -> None:
        super().__init__()
        self.loop: Any = None
        self.windows: dict[str, list[int]] = {}

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        waits_for = self.loop._loop.waits_for
        if waits_for is not None:
            self.windows.setdefault(type(waits_for).__name__, []).append(batch)


@pytest.mark.parametrize("in_place", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["in_place", "copies"])
def test_it_is_the_same_run_in_the_middle_of_a_variant(small_ppo: MakeAgent, tmp_path: Path, in_place: bool) -> None:
    """While it learns, and where nothing can be played beside training, while it is compared with its parent."""

    def run(directory: str, waiting: Waiting | None = None, **options: Any) -> Any:
        manager = optix.PolicyManager(auto_spawn=True, max_variants=1, variant_windows=5, seed=0)
        settings: dict[str, Any] = {
            "env": IdentityEnv(4) if in_place else lambda: IdentityEnv(4),
            "scheduler": optix.BackoffScheduler(
                max_interval=1,
                plateau_threshold=2,
                dormant_threshold=4,
                futility_confidence=None,
                patience_env_steps=0,
            ),
            "policy_manager": manager,
            "max_windows": 300 if in_place else 90,
            "callbacks": [] if waiting is None else [waiting],
        }
        if in_place:  # short probes: while nothing is learned, the loop is DORMANT only after some of them
            settings["tuner"] = optix.BackoffOptimizer({"learning_rate": (1e-4, 1e-2)}, block=2, max_rounds=1)
        return start(small_ppo, tmp_path / directory, **settings, **options), manager

    watched = Waiting()

    class Loop(optix.OptixCallback):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            watched.loop = self

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(optix, "OptixCallback", Loop, raising=False)
        whole, manager = run("whole", watched, resume=False)
    variants = [record for record in whole[1].events if record.kind == "variant"]
    assert len(variants) >= 2
    assert "Train" in watched.windows
    learning = watched.windows["Train"]
    comparing = [window for window in watched.windows.get("Evaluate", ()) if window > learning[0]]
    assert bool(comparing) is in_place
    for k, cut in enumerate([learning[1], *comparing[2:3]]):
        run(f"{k}", cut=cut)
        resumed, again = run(f"{k}")
        assert_same_run(whole, resumed)
        assert again.save() == manager.save()


def test_it_can_be_cut_off_again_and_again_and_while_a_candidate_is_tried_out(
    small_ppo: MakeAgent, tmp_path: Path
) -> None:
    """An environment that was passed in: candidates are confirmed in place, over several windows."""
    whole = start(small_ppo, tmp_path / "a", env=IdentityEnv(4), resume=False)
    trials = 0
    for _ in range(7):
        _, callback = start(small_ppo, tmp_path / "b", env=IdentityEnv(4), cut=2)
        assert callback._loop is not None
        trials += callback._loop.evaluates_in_place
    assert trials > 0
    assert_same_run(whole, start(small_ppo, tmp_path / "b", env=IdentityEnv(4)))


def test_what_was_promoted_after_the_last_point_is_not_lost(small_ppo: MakeAgent, tmp_path: Path) -> None:
    _, callback = start(small_ppo, tmp_path, cut=0)
    assert callback.best_snapshot is None
    point = next(tmp_path.rglob("resume.npz"))
    kept = point.read_bytes()
    _, callback = start(small_ppo, tmp_path, cut=12)
    best = callback.best_snapshot
    assert best is not None
    point.write_bytes(kept)
    _, resumed = start(small_ppo, tmp_path, env=Unsavable4, cut=0)
    assert resumed.best_snapshot == best
    assert resumed.scheduler_state.best is not None
    assert resumed.scheduler_state.best.mean == best.score


def Unsavable4() -> Unsavable:
    return Unsavable(4)


@pytest.mark.parametrize(("env", "prefetch"), [(Unsavable4, 0), (lambda: IdentityEnv(4), 1)])
def test_where_an_environment_cannot_be_saved_a_new_episode_begins_and_all_else_goes_on(
    small_ppo: MakeAgent, tmp_path: Path, env: Any, prefetch: int
) -> None:
    agent, callback = start(small_ppo, tmp_path, env=env, cut=9, prefetch=prefetch)
    before = agent.save_run()
    steps, run_id = callback.env_steps, callback.registry.run_id
    state = callback.scheduler_state

    class First(optix.LoopCallback):
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            if batch == 0:
                seen.append((self.model.save_run(), resumed().scheduler_state, resumed().env_steps))

    seen: list[Any] = []
    found: list[optix.OptixCallback] = []

    def resumed() -> optix.OptixCallback:
        return found[0]

    class Find(First):
        def on_loop_start(self) -> None:
            found.append(self.owner)

    hook = Find()
    hooks = {"callbacks": [hook]}
    original = optix.OptixCallback.on_train_begin

    def remember(self: optix.OptixCallback, logs: Any = None) -> None:
        hook.owner = self
        original(self, logs)

    optix.OptixCallback.on_train_begin = remember
    try:
        agent, callback = start(small_ppo, tmp_path, env=env, prefetch=prefetch, **hooks)
    finally:
        optix.OptixCallback.on_train_begin = original
    (arrays, values), then, then_steps = seen[0]
    for name, array in before[0].items():
        if not name.startswith("running_return"):
            np.testing.assert_array_equal(arrays[name], array, err_msg=name)
    assert values == before[1]
    assert (then, then_steps) == (state, steps)
    assert callback.registry.run_id == run_id
    assert any("new episodes" in record.message for record in callback.events)
    assert agent.sources[0].windows >= WINDOWS
    assert callback.env_steps == 32 * WINDOWS


def test_epochs_and_windows_of_the_whole_run_are_counted(small_ppo: MakeAgent, tmp_path: Path) -> None:
    def run(cut: int | None) -> Any:
        agent = small_ppo(4, 4)
        callback = optix.OptixCallback(checkpoint_dir=tmp_path, resume=True, resume_interval=0.0, verbose=0)
        dataset = optix.dataset_from_env(lambda: IdentityEnv(4), agent, window_size=8, seed=0)
        cuts = [] if cut is None else [Cut(cut)]
        history = agent.fit(dataset, callbacks=[callback, *cuts], verbose=0, steps_per_epoch=10, epochs=2)
        return agent, callback, history

    with pytest.raises(ConnectionError):
        run(6)
    agent, callback, _ = run(None)
    assert agent.sources[0].windows == 20
    assert callback.env_steps == 160


def test_beside_backup_and_restore(small_ppo: MakeAgent, tmp_path: Path) -> None:
    def run(cut: bool) -> Any:
        keras.utils.set_random_seed(0)
        agent = small_ppo(4, 4)
        callback = optix.OptixCallback(
            checkpoint_dir=tmp_path / "c", resume=True, resume_interval=0.0, restore_best_weights=False, verbose=0
        )
        dataset = optix.dataset_from_env(lambda: IdentityEnv(4), agent, window_size=8, seed=0)
        epochs: list[int] = []

        class Notes(keras.callbacks.Callback):
            def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
                epochs.append(epoch)
                if cut and epoch == 2:
                    raise ConnectionError("power")

        backup = keras.callbacks.BackupAndRestore(tmp_path / "b")
        agent.fit(dataset, callbacks=[backup, callback, Notes()], verbose=0, steps_per_epoch=4, epochs=6)
        return agent, epochs

    with pytest.raises(ConnectionError):
        run(True)
    agent, epochs = run(False)
    assert epochs == [3, 4, 5]
    assert agent.sources[0].windows == 24
    # Two epochs of one minibatch a window.
    assert int(agent.optimizer.iterations.numpy()) == 48


def test_a_point_of_another_agent_or_a_damaged_one_is_refused(small_ppo: MakeAgent, tmp_path: Path) -> None:
    start(small_ppo, tmp_path, cut=1)

    def other(inputs: int, actions: int, **options: Any) -> optix.PPOAgent:
        agent = optix.PPOAgent(update_epochs=2, minibatch_size=8, **options)
        agent.compile(optimizer=keras.optimizers.Adam(1e-3), jit_compile=False)
        return agent

    with pytest.raises(optix.errors.StateError, match="another architecture"):
        start(other, tmp_path)
    points = sorted(tmp_path.rglob("resume*.npz"))
    assert [point.name for point in points] == ["resume.npz", "resume.previous.npz"]
    for point in points:
        point.write_bytes(point.read_bytes()[:1000])
    with pytest.raises(optix.errors.RegistryError, match=r"resume point cannot be read.*Delete it"):
        start(small_ppo, tmp_path)


def test_nothing_is_written_where_nothing_would_be_kept(small_ppo: MakeAgent, tmp_path: Path) -> None:
    start(small_ppo, tmp_path, cut=5, interval=None, resume=False)
    assert not list(tmp_path.rglob("resume.npz"))
    agent = small_ppo(4, 4)
    callback = optix.OptixCallback(max_windows=2, resume_interval=0.0, verbose=0)
    written: list[Any] = []

    class Look(optix.LoopCallback):
        def on_window_end(self, window_id: int, eval_metrics: optix.EvalMetrics) -> None:
            written.extend(callback.registry.directory.rglob("resume.npz"))

    callback.callbacks.append(Look())
    agent.fit(optix.dataset_from_env(lambda: IdentityEnv(4), agent, window_size=8), callbacks=[callback], verbose=0)
    assert written == []


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"resume": True}, "needs the directory"),
        (
            {"resume": True, "checkpoint_dir": "c", "resume_interval": None},
            "`resume` needs resume points.*resume_interval",
        ),
        ({"resume_interval": -1.0}, "resume_interval"),
    ],
)
def test_options_that_contradict_are_refused(tmp_path: Path, options: dict[str, Any], match: str) -> None:
    if "checkpoint_dir" in options:
        options = options | {"checkpoint_dir": tmp_path}
    with pytest.raises(optix.ConfigurationError, match=match):
        optix.OptixCallback(**options)
