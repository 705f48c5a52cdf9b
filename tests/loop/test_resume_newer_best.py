"""A run is killed after a best was promoted, and resumed from a point that was written while this was being decided."""

from __future__ import annotations

from pathlib import Path

import pytest

from keras_optix.loop.run_state import read_run
from tests.loop.toy_run import Run


def learner(directory: Path) -> Run:
    """A run whose score climbs for about a hundred windows."""
    run = Run(directory, None, copyable=False)
    run.toy.target = run.toy.aim = 6.0
    run.toy.values["learning_rate"] = 0.05
    return run


def resumed(directory: Path, arrays: object, values: dict[str, object]) -> Run:
    """A process that continues the run."""
    again = learner(directory)
    again.registry.continue_run(str(again.registry.run_id))
    reading = again.loop.read(arrays, read_run(values, "fix"))  # type: ignore[arg-type]
    again.loop.resume(arrays, reading)  # type: ignore[arg-type]
    again.number = again.loop.units
    return again


@pytest.mark.parametrize("which", [0, 1])
def test_what_was_decided_after_the_point_is_not_decided_again(tmp_path: Path, which: int) -> None:
    """The first best (the second one) is being evaluated in place when the point is written.

    Resuming cleared the candidate but went on with its evaluation, and each process that resumed the run ended with a
    StateError (found by the simulated life).
    """
    run = learner(tmp_path).begin()
    run.until(lambda: len(run.told("improvement")) == which and run.loop.evaluates_in_place)
    arrays, values = run.loop.save()
    run.until(lambda: len(run.told("improvement")) > which)
    best = run.loop.performer.best.snapshot
    assert best is not None

    again = resumed(tmp_path, arrays, values)
    found = again.loop.performer.best.snapshot
    assert found is not None
    assert found.snapshot_id == best.snapshot_id
    assert not again.loop.evaluates_in_place
    assert not again.toy.paused
    again.windows(30)
    assert again.loop.units == 30 + read_run(values, "fix").loop.units


def test_a_control_whose_best_is_that_of_the_point_goes_on_with_the_evaluation(tmp_path: Path) -> None:
    run = learner(tmp_path).begin()
    run.until(lambda: len(run.told("improvement")) == 1 and run.loop.evaluates_in_place)
    again = resumed(tmp_path, *run.loop.save())
    assert again.loop.evaluates_in_place
    again.until(lambda: not again.loop.evaluates_in_place)
