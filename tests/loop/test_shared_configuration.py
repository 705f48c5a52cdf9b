"""Schedulers and tuners are configuration: several runs may have the same one, and none of them notices."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from toy_run import Run, course_of

import keras_optix as optix

BOUNDS = {"learning_rate": (1e-3, 1.0)}
TUNERS: dict[str, Callable[[], optix.tuners.BaseOptimizer]] = {
    "backoff": lambda: optix.BackoffOptimizer(BOUNDS, block=2, max_rounds=1),
    "backoff without bounds": lambda: optix.BackoffOptimizer(block=2, max_rounds=1),
    "population": lambda: optix.PBTOptimizer(BOUNDS, population=3, ready_interval=2, seed=0),
    "run": lambda: optix.PBTOptimizer(BOUNDS, ready_interval=2, seed=0),
    "replay": lambda: optix.tuners.ReplaySchedule(
        optix.tuners.Schedule({"learning_rate": 0.1}, (optix.tuners.ScheduleStep(9, {"learning_rate": 0.2}, "", True),))
    ),
}


def scheduler() -> optix.BackoffScheduler:
    return optix.BackoffScheduler(max_interval=2, plateau_threshold=30, dormant_threshold=60)


def run_of(directory: Path, tuner: Any, shared: Any, aim: float, learning_rate: float = 0.5) -> Run:
    run = Run(directory, None, tuner=tuner, scheduler=shared)
    run.toy.aim = run.toy.target = aim
    run.toy.values["learning_rate"] = learning_rate
    return run.begin()


def facts(run: Run) -> Any:
    return course_of(run, run.number), run.loop.scheduler.state, run.loop.tuning.state, run.loop.tuning.schedule


@pytest.mark.parametrize("name", TUNERS)
def test_two_runs_with_one_scheduler_and_one_tuner_are_those_with_their_own(tmp_path: Path, name: str) -> None:
    # So slow that the toy still learns when the first probe may begin.
    aims, windows, slow = (3.0, -5.0), 80, 0.02

    def own(k: int) -> Any:
        run = run_of(tmp_path / f"own{k}", TUNERS[name](), scheduler(), aims[k], slow)
        run.windows(windows)
        return facts(run)

    wanted = [own(k) for k in range(2)]
    assert wanted[0] != wanted[1]
    tuner, shared = TUNERS[name](), scheduler()
    before = pickle.dumps((vars(tuner), vars(shared)))
    one_after_the_other = []
    for k in range(2):
        run = run_of(tmp_path / f"after{k}", tuner, shared, aims[k], slow)
        run.windows(windows)
        one_after_the_other.append(facts(run))
    assert one_after_the_other == wanted
    interleaved = [run_of(tmp_path / f"between{k}", tuner, shared, aims[k], slow) for k in range(2)]
    for _ in range(windows):
        for run in interleaved:
            run.windows(1)
    assert [facts(run) for run in interleaved] == wanted
    assert pickle.dumps((vars(tuner), vars(shared))) == before, "configuration does not change"
    changed = {decision for story, *_ in wanted for decision in [record[0] for record in story[0]]}
    assert changed & {"hyperparams"}, "the control: the tuner did something"


def test_a_decision_is_a_function_of_the_state() -> None:
    """Asked twice with the same state, a scheduler and a tuner answer twice the same."""
    evaluation = optix.evaluators.Evaluation(optix.statistics.Estimate(1.0, 0.1, 10), 3)
    current = optix.HyperparamSet({"learning_rate": 0.1})
    state = scheduler().initial_state()
    assert scheduler().observe(state, evaluation) == scheduler().observe(state, evaluation)
    for name in ("backoff", "run"):
        tuner = TUNERS[name]()
        start = tuner.initial_state()
        assert tuner.observe(start, evaluation, current) == tuner.observe(start, evaluation, current)
        assert start == tuner.initial_state()


def test_a_tuner_of_ones_own_needs_no_more_than_observe(tmp_path: Path) -> None:
    class Halve(optix.tuners.BaseOptimizer):
        def initial_state(self) -> dict[str, int]:
            return {"seen": 0}

        def observe(self, state: Any, evaluation: Any, current: optix.HyperparamSet) -> Any:
            halved = max(current.params["learning_rate"] / 2, self.spaces["learning_rate"].low)
            decision = optix.tuners.TunerDecision("halve", {"learning_rate": halved}, permanent=True)
            return {"seen": state["seen"] + 1}, decision if state["seen"] % 3 == 2 else None

    run = run_of(tmp_path, Halve(), scheduler(), 3.0)
    run.windows(12)
    seen = run.loop.tuning.state["seen"]
    assert seen >= 6
    assert run.toy.values["learning_rate"] == 0.5 / 2 ** (seen // 3)
    assert run.loop.save()[1]["loop"]["tuning"]["tuner"] == {"seen": seen}


@pytest.mark.parametrize(
    ("answer", "received"),
    [
        (None, "None"),
        (optix.tuners.TunerDecision("x"), "TunerDecision"),
        (({}, None, None), "tuple"),
        (({}, 3), "tuple"),
    ],
)
def test_a_tuner_that_answers_with_no_pair_is_named(tmp_path: Path, answer: Any, received: str) -> None:
    class Older(optix.tuners.BaseOptimizer):
        def observe(self, state: Any, evaluation: Any, current: Any) -> Any:
            return answer

    run = run_of(tmp_path, Older(BOUNDS), scheduler(), 3.0)
    with pytest.raises(optix.errors.ArgumentError, match=rf"Older\.observe must return a pair.*Received: .*{received}"):
        run.windows(8)


def test_what_the_state_of_a_tuner_cannot_be_is_said_when_it_is_saved(tmp_path: Path) -> None:
    class Strange(optix.tuners.BaseOptimizer):
        def observe(self, state: Any, evaluation: Any, current: Any) -> Any:
            return {"kept": object()}, None

    run = run_of(tmp_path, Strange(BOUNDS), scheduler(), 3.0)
    run.windows(8)
    with pytest.raises(optix.errors.StateError, match=r"cannot be saved: object is not a type that JSON has"):
        run.loop.save()
