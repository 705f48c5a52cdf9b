"""Tuning inside `fit`: what belongs together moves together, and nothing is compiled anew."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import keras_optix as optix
from keras_optix.states import to_json
from keras_optix.testing import IdentityEnv

MakeAgent = Callable[..., optix.PPOAgent]
NEVER = {"plateau_threshold": 10**6, "dormant_threshold": 10**7}


class Script(optix.tuners.BaseOptimizer):
    """Does what a script says after the evaluations of some windows.

    Args:
        script: Decisions by number of the evaluation.
    """

    def __init__(self, script: Mapping[int, optix.tuners.TunerDecision]) -> None:
        super().__init__({"learning_rate": (1e-5, 1e-1), "gamma": (0.9, 0.999)})
        self.script = script
        self.versions: list[int] = []

    def initial_state(self) -> dict[str, int]:
        return {"evaluations": 0}

    def observe(
        self, state: dict[str, int], evaluation: optix.evaluators.Evaluation, current: optix.HyperparamSet
    ) -> tuple[dict[str, int], optix.tuners.TunerDecision | None]:
        self.versions.append(evaluation.policy_version)
        return {"evaluations": state["evaluations"] + 1}, self.script.get(state["evaluations"])


def fit(
    agent: optix.PPOAgent,
    callback: optix.OptixCallback,
    extra: tuple[keras.callbacks.Callback, ...] = (),
    env: Any = lambda: IdentityEnv(4),
) -> None:
    dataset = optix.dataset_from_env(env, agent, window_size=16, num_envs=2, seed=0)
    agent.fit(dataset, callbacks=[callback, *extra], verbose=0)


def loop(tuner: optix.tuners.BaseOptimizer, windows: int = 20, **options: Any) -> optix.OptixCallback:
    settings = {
        "scheduler": optix.BackoffScheduler(**NEVER),
        "max_windows": windows,
        "restore_best_weights": False,
    } | options
    return optix.OptixCallback(optix.ReturnEvaluator(2), tuner=tuner, verbose=0, **settings)


class States(keras.callbacks.Callback):
    """Notes the state and hyperparameters after each window, before the next one is collected."""

    def __init__(self) -> None:
        super().__init__()
        self.states: list[dict[str, np.ndarray]] = []
        self.hyperparams: list[dict[str, float]] = []
        self.versions: list[int] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.states.append({name: np.array(array) for name, array in self.model.get_state().items()})
        self.hyperparams.append(self.model.hyperparams.snapshot())
        self.versions.append(self.model.policy_version)


def test_weights_slots_statistics_and_hyperparameters_go_back_together(small_ppo: MakeAgent) -> None:
    script = {
        2: optix.tuners.TunerDecision("mark", {"learning_rate": 5e-3}, keep="mark", permanent=True),
        5: optix.tuners.TunerDecision("change", {"learning_rate": 1e-4, "gamma": 0.91}, permanent=True),
        8: optix.tuners.TunerDecision("back", {"gamma": 0.95}, restore="mark", drop=("mark",), permanent=True),
    }
    tuner, states = Script(script), States()
    callback = loop(tuner)
    agent = small_ppo(4, 4, normalize_observations=True, normalize_rewards=True)
    fit(agent, callback, (states,))
    back = next(record for record in callback.events if record.message.startswith("back"))
    kept = next(record for record in callback.events if record.message.startswith("mark"))
    # What was kept are the weights that collected that window, from before they learned from it.
    before, now = states.states[kept.window_id - 1], states.states[back.window_id]
    assert set(before) == set(now)
    for name, array in before.items():
        np.testing.assert_array_equal(array, now[name], err_msg=name)
    assert any(name.startswith("optimizer/") and array.any() for name, array in before.items())
    # With the hyperparameters that they had, but for what the decision itself changes; the others stay as they are.
    values, in_force = states.hyperparams[kept.window_id - 1], states.hyperparams[back.window_id]
    assert in_force == values | {"gamma": 0.95}
    # Versions never go back, and no score from before counts for what comes after.
    assert all(later > earlier for earlier, later in zip(states.versions, states.versions[1:], strict=False))
    assert tuner.versions[9] > states.versions[back.window_id]


def test_the_schedule_follows_the_weights_and_not_the_clock(small_ppo: MakeAgent, tmp_path: Path) -> None:
    script = {
        0: optix.tuners.TunerDecision("mark", {"learning_rate": 2e-3}, keep="mark", permanent=True),
        2: optix.tuners.TunerDecision("lost", {"learning_rate": 1e-4}, permanent=True),
        4: optix.tuners.TunerDecision("back", {"learning_rate": 3e-3}, restore="mark", permanent=True),
        6: optix.tuners.TunerDecision("try", {"gamma": 0.95}),
    }
    callback = loop(Script(script), checkpoint_dir=tmp_path)
    agent = small_ppo(4, 4)
    fit(agent, callback)
    schedule = callback.schedule
    assert schedule is not None
    assert schedule.start == pytest.approx({"learning_rate": 1e-3, "gamma": 0.99})
    assert [step.kind for step in schedule.steps] == ["back", "try"]
    assert schedule.steps[0].env_steps == 0  # the weights that were kept had not learned from anything yet
    mark, back = (next(r for r in callback.events if r.message.startswith(kind)) for kind in ("mark", "back"))
    assert schedule.left_out == 32 * (back.window_id - mark.window_id + 1)
    assert [step.permanent for step in schedule.steps] == [True, False]
    written = optix.tuners.Schedule.load(callback.registry.run_folder / "schedule.json")
    assert written == schedule


def test_the_schedule_tells_of_values_that_somebody_else_set(small_ppo: MakeAgent) -> None:
    class Meddles(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            if batch == 3:
                self.model.hyperparams["gamma"] = 0.93

    callback = loop(Script({}), 8)
    with pytest.warns(UserWarning, match="two owners"):
        fit(small_ppo(4, 4), callback, (Meddles(),))
    assert callback.schedule is not None
    assert callback.schedule.steps == (optix.tuners.ScheduleStep(96, {"gamma": 0.93}, "current", True),)


def replayable(
    small_ppo: MakeAgent, tuner: optix.tuners.BaseOptimizer, seed: int, where: Path
) -> tuple[States, optix.OptixCallback, Path]:
    """A run of 32 windows of 32 env steps; returns also the file with its schedule."""
    keras.utils.set_random_seed(seed)
    states, callback = States(), loop(tuner, 32, checkpoint_dir=where)
    fit(small_ppo(4, 4, seed=3), callback, (states,))
    return states, callback, callback.registry.run_folder / "schedule.json"


def probing() -> optix.BackoffOptimizer:
    return optix.BackoffOptimizer({"learning_rate": (1e-5, 1e-1)}, block=2, max_rounds=1, update_band=None)


def test_a_schedule_without_undone_training_can_be_replayed_exactly(small_ppo: MakeAgent, tmp_path: Path) -> None:
    found, callback, file = replayable(small_ppo, probing(), 1, tmp_path / "found")
    assert callback.schedule is not None
    assert callback.schedule.left_out == 0
    assert len({values["learning_rate"] for values in found.hyperparams}) > 2
    replay = optix.tuners.ReplaySchedule(file, probes=True)
    replayed, again, _ = replayable(small_ppo, replay, 1, tmp_path / "replayed")
    # The end of `fit` undoes a probe, and the replay does so with its step.
    assert replayed.hyperparams[:-1] == found.hyperparams[:-1]
    for name, array in found.states[-1].items():
        np.testing.assert_array_equal(array, replayed.states[-1][name], err_msg=name)
    assert not [record for record in again.events if "undone" in record.message]
    # Without the probes only what was meant to stay is left.
    settled, _, _ = replayable(small_ppo, optix.tuners.ReplaySchedule(file), 1, tmp_path / "settled")
    assert len({values["learning_rate"] for values in settled.hyperparams}) == 1


def test_a_replay_leaves_out_what_was_undone_and_says_so(small_ppo: MakeAgent, tmp_path: Path) -> None:
    """The weights of the schedule were trained with these values for as long; the random numbers had gone on."""
    found, callback, file = replayable(small_ppo, probing(), 0, tmp_path / "found")
    schedule = callback.schedule
    assert schedule is not None
    assert schedule.left_out > 0
    assert callback.env_steps == 32 * 32
    assert schedule.steps[-1].env_steps == callback.env_steps - schedule.left_out  # the end of `fit` undoes a probe
    replay = optix.tuners.ReplaySchedule(file, probes=True)
    replayed, again, _ = replayable(small_ppo, replay, 0, tmp_path / "replayed")
    for window, values in enumerate(replayed.hyperparams):
        assert values["learning_rate"] == schedule.at(32 * (window + 1))["learning_rate"]
    assert again.schedule is not None
    assert again.schedule.left_out == 0
    assert again.events[0].message.startswith(f"replay without the {schedule.left_out} steps that were undone")
    # The control: it is another run.
    assert any(not np.array_equal(array, replayed.states[-1][name]) for name, array in found.states[-1].items())


def test_a_replay_sets_the_first_values_before_the_first_window(small_ppo: MakeAgent) -> None:
    states, agent = States(), small_ppo(4, 4)
    steps = (optix.tuners.ScheduleStep(64, {"gamma": 0.92}, "commit", True),)
    fit(agent, loop(optix.tuners.ReplaySchedule(optix.tuners.Schedule({"learning_rate": 7e-4}, steps)), 5), (states,))
    assert [values["learning_rate"] for values in states.hyperparams] == pytest.approx([7e-4] * 5)
    assert [values["gamma"] for values in states.hyperparams] == pytest.approx([0.99] + [0.92] * 4)


def test_a_schedule_of_something_else_is_refused_before_the_first_step(small_ppo: MakeAgent) -> None:
    agent = small_ppo(4, 4)
    with pytest.raises(optix.errors.HyperparamError, match="temperature"):
        fit(agent, loop(optix.tuners.ReplaySchedule(optix.tuners.Schedule({"temperature": 1.0}))))


def test_nothing_is_compiled_anew(small_network: Callable[[int, int], Any]) -> None:
    traces = []

    class Traced(optix.PPOAgent):
        def train_step(self, window: Any) -> dict[str, Any]:
            traces.append(window)
            return super().train_step(window)

    agent = Traced(small_network(4, 4), small_network(4, 1), update_epochs=1)
    agent.compile(optimizer=keras.optimizers.Adam(1e-3), jit_compile=False)
    for tuner in (
        optix.BackoffOptimizer(block=2, max_rounds=1),
        optix.PBTOptimizer(population=2, ready_interval=2, seed=0),
    ):
        callback = loop(tuner, 24)
        fit(agent, callback)
        assert len({str(record.message) for record in callback.events if record.kind == "hyperparams"}) > 4
    assert len(traces) == 1


def test_the_logs_of_one_update_count_once(small_ppo: MakeAgent) -> None:
    """With `steps_per_execution` Keras gives the logs of the last of several windows."""
    logged = []

    class Reads(Script):
        def observe_update(self, state: Any, env_steps: int, logs: Any, current: optix.HyperparamSet) -> Any:
            logged.append((env_steps, logs.get("approx_kl")))
            return state, None

    fit(small_ppo(4, 4, steps_per_execution=4), loop(Reads({}), 12))
    assert [env_steps for env_steps, _ in logged] == [32 * (k + 1) for k in range(12)]
    assert sum(size is not None for _, size in logged) == 3


def test_without_bounds_the_algorithm_s_own_are_taken(small_ppo: MakeAgent) -> None:
    agent = small_ppo(4, 4)
    tuner = optix.BackoffOptimizer()
    callback = loop(tuner, 3)
    fit(agent, callback)
    assert callback.search_spaces == agent.search_spaces
    assert next(iter(callback.search_spaces)) == "learning_rate"
    assert not tuner.bound  # it is configuration, and stays as it was


def test_nothing_to_tune_is_an_error_before_the_first_step() -> None:
    model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.1, 10)), loss="mse")
    callback = optix.OptixCallback(monitor="loss", tuner=optix.BackoffOptimizer(), verbose=0)
    with pytest.raises(optix.ConfigurationError, match="nothing to tune"):
        model.fit(np.ones((4, 1)), np.ones((4, 1)), callbacks=[callback], verbose=0)


# Population based training: the toy is in test_population.py


def test_a_population_of_agents_has_its_members_in_turns(small_ppo: MakeAgent) -> None:
    agent = small_ppo(4, 4)
    tuner = optix.PBTOptimizer({"learning_rate": (1e-4, 1e-2)}, population=3, ready_interval=2, seed=0)
    callback = loop(tuner, 60, restore_best_weights=True)
    fit(agent, callback)
    kinds = [record.message.split()[0] for record in callback.events if record.kind == "hyperparams"]
    assert len(kinds) >= 6
    assert set(kinds) <= {"switch", "exploit", "undecided"}
    assert not [record for record in callback.events if record.kind in ("degradation", "plateau")]


def test_a_population_can_be_resumed(small_ppo: MakeAgent, tmp_path: Path) -> None:
    class Cut(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if batch == 17:
                raise ConnectionError("power")

    def start(where: Path, *, cut: bool = False, resume: bool = False) -> tuple[Any, Any]:
        keras.utils.set_random_seed(0)
        agent = small_ppo(4, 4, seed=3)
        tuner = optix.PBTOptimizer({"learning_rate": (1e-4, 1e-2)}, population=2, ready_interval=2, seed=0)
        callback = loop(tuner, 40, checkpoint_dir=where, resume=resume, resume_interval=0.0)
        if cut:
            with pytest.raises(ConnectionError):
                fit(agent, callback, (Cut(),))
        else:
            fit(agent, callback)
        return agent, callback

    whole, callback = start(tmp_path / "whole")
    start(tmp_path / "cut", cut=True)
    resumed, again = start(tmp_path / "cut", resume=True)
    assert json.dumps(to_json(callback.tuner_state)) == json.dumps(to_json(again.tuner_state))
    assert callback.schedule == again.schedule
    for name, array in whole.get_state().items():
        np.testing.assert_array_equal(array, resumed.get_state()[name], err_msg=name)
