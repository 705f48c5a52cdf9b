"""The objects of a run refer to each other one way, as the folders do."""

from __future__ import annotations

import functools
import types
from pathlib import Path
from typing import Any

from toy_run import Run, manager

import keras_optix as optix


def is_ours(value: Any) -> bool:
    return type(value).__module__.startswith("keras_optix.") and not isinstance(value, type)


def references(owner: Any) -> list[Any]:
    """Objects of this package that an object reaches: attributes, containers, closures and bound methods."""
    found, waiting, seen = [], list(getattr(owner, "__dict__", {}).values()), set()
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if is_ours(value):
            found.append(value)
        elif isinstance(value, types.MethodType):
            waiting.append(value.__self__)
        elif isinstance(value, types.FunctionType):
            waiting += [cell.cell_contents for cell in value.__closure__ or ()]
        elif isinstance(value, functools.partial):
            waiting += [value.func, *value.args, *value.keywords.values()]
        elif isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list | tuple | set):
            waiting += value
    return found


def cycles_from(root: Any) -> list[list[str]]:
    """Ways from an object back to itself, by the names of classes."""
    done: set[int] = set()
    way: list[Any] = []
    cycles = []

    def visit(value: Any) -> None:
        way.append(value)
        on_the_way = [id(one) for one in way]
        for other in references(value):
            if id(other) in on_the_way:
                cycles.append([type(one).__name__ for one in way[on_the_way.index(id(other)) :]])
            elif id(other) not in done:
                visit(other)
        done.add(id(way.pop()))

    visit(root)
    return cycles


def test_no_object_of_a_run_reaches_itself(tmp_path: Path) -> None:
    tuner = optix.BackoffOptimizer({"learning_rate": (1e-3, 1.0)})
    run = Run(tmp_path, manager(auto_spawn=True, regime_detector=optix.RegimeDetector()), tuner=tuner).begin()
    run.windows(40)
    assert cycles_from(run.loop) == []


def test_a_way_back_up_is_found(tmp_path: Path) -> None:
    run = Run(tmp_path, manager()).begin()
    run.loop.performer.journal.owner = run.loop.take  # type: ignore[attr-defined]
    assert any(cycle[0] == "Engine" and cycle[-1] == "Journal" for cycle in cycles_from(run.loop))
