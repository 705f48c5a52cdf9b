"""What is wrong in a resume point is found when it is read, wherever it is, and before anything of a run is changed."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drivers import through_json
from toy_run import Run, manager

import keras_optix as optix
from keras_optix.loop.managed_policies import ManagedPolicies
from keras_optix.loop.run_state import read_run

BY_OTHERS = {"adapter", "in_place"}  # of the toy, which reads them itself
# Any names.
FREE = {"params", "start", "values", "hyperparams", "permanent", "kept", "stored", "metrics", "before", "sides"}
TUNERS = {
    "backoff": lambda: optix.BackoffOptimizer({"learning_rate": (1e-3, 1.0)}, block=2),
    "population": lambda: optix.PBTOptimizer({"learning_rate": (1e-3, 1.0)}, population=2, ready_interval=2, seed=0),
    "run": lambda: optix.PBTOptimizer({"learning_rate": (1e-3, 1.0)}, ready_interval=2, seed=0),
}


def evolving() -> ManagedPolicies:
    return manager(auto_spawn=True, max_variants=2, variant_windows=20, noise_scale=0.3)


def places(values: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every dictionary in a resume point that has fields of its own."""
    if isinstance(values, dict):
        if not place or place[-1] not in FREE:
            yield place
        for name, value in values.items():
            if name not in BY_OTHERS:
                yield from places(value, (*place, name))
    elif isinstance(values, list):
        for k, value in enumerate(values[:2]):
            yield from places(value, (*place, k))


def at(values: Any, place: tuple[Any, ...]) -> Any:
    for step in place:
        values = values[step]
    return values


@pytest.mark.parametrize("tuner", TUNERS)
def test_whatever_is_wrong_is_named_before_anything_is_changed(tmp_path: Path, tuner: str) -> None:
    run = Run(tmp_path, evolving(), tuner=TUNERS[tuner](), when_dormant="stop").begin()
    run.windows(20)
    points = [run.loop.save()]
    run.until(lambda: bool(run.told("variant")))
    points.append(run.loop.save())
    again = Run(tmp_path, evolving(), tuner=TUNERS[tuner](), when_dormant="stop")
    again.registry.continue_run(str(run.registry.run_id))
    untouched = json.dumps(again.loop.save()[1]["adapter"]), again.loop.scheduler.state, again.loop.tuning.state
    looked = 0
    for arrays, values in points:
        values = json.loads(json.dumps(values, allow_nan=False))
        again.loop.read(arrays, read_run(values))  # the control
        for place in places(values):
            found = at(values, place)
            damages: list[tuple[str, Any]] = [("mood", 1)]
            if "__float__" not in found:
                damages += [(name, None) for name in found]  # left out
                damages += [(name, [{"x": []}]) for name in found if name not in BY_OTHERS | {"state"}]
            for name, wrong in damages:
                damaged = copy.deepcopy(values)
                if wrong is None:
                    del at(damaged, place)[name]
                else:
                    at(damaged, place)[name] = wrong
                with pytest.raises(optix.errors.StateError, match=rf"{name}|cannot be continued"):
                    again.loop.read(arrays, read_run(damaged))
                looked += 1
    assert looked > 150
    after = json.dumps(again.loop.save()[1]["adapter"]), again.loop.scheduler.state, again.loop.tuning.state
    assert after[:2] == untouched[:2]
    assert type(after[2]) is type(untouched[2])


def test_what_an_evaluator_cannot_read_is_no_error_out_of_its_depth(tmp_path: Path) -> None:
    run = Run(tmp_path, None).begin()
    run.windows(5)
    arrays, values = run.loop.save()
    for name in ("evaluator", "pool"):
        for wrong in ({}, {"x": 1}, 3, None):
            damaged = copy.deepcopy(values)
            damaged["loop"][name] = wrong
            with pytest.raises(optix.errors.StateError):
                run.loop.read(arrays, read_run(damaged))


def test_a_table_that_lacks_a_column_is_refused(tmp_path: Path) -> None:
    run = Run(tmp_path, None).begin()
    run.windows(5)
    arrays, values = run.loop.save()
    for change in ({"history/0": np.zeros(99)}, {}):
        damaged = {name: array for name, array in arrays.items() if name != "history/0"} | change
        with pytest.raises(optix.errors.StateError, match="table"):
            run.loop.read(damaged, read_run(values))


def test_the_state_of_another_tuner_is_refused(tmp_path: Path) -> None:
    tuners = {**TUNERS, "other": lambda: optix.BackoffOptimizer({"gamma": (0.5, 0.9)})}
    bounds = {"learning_rate": (1e-3, 1.0)}
    for name, make in tuners.items():
        state = make().initial_state()
        values = through_json(state)
        for other in (optix.BackoffOptimizer(bounds), optix.PBTOptimizer(bounds, population=3)):
            if name == "backoff" and isinstance(other, optix.BackoffOptimizer):
                assert other.read_state(values) == state
                continue
            with pytest.raises(optix.errors.StateError):
                other.read_state(values)
