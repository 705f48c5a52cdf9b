"""A run that was cut off after it had become DORMANT knows why it ends, and learns from no further window."""

from __future__ import annotations

from pathlib import Path

from drivers import through_json

from keras_optix.loop.ending import Ending
from keras_optix.loop.run_state import read_run
from keras_optix.loop.scheduler_state import LoopState
from tests.loop.toy_run import Run, manager


def resumed(run: Run, directory: Path, *, variants: bool = False, when_dormant: str = "stop") -> Run:
    policies = manager(auto_spawn=True, max_variants=1, variant_windows=8, noise_scale=0.3) if variants else None
    again = Run(directory, policies, when_dormant=when_dormant)
    again.registry.continue_run(str(run.registry.run_id))
    arrays, values = run.loop.save()
    again.loop.resume(arrays, again.loop.read(arrays, read_run(through_json(values))))
    again.number = run.number
    return again


def test_a_run_that_was_dormant_ends_without_another_window(tmp_path: Path) -> None:
    run = Run(tmp_path, None, when_dormant="stop").begin()
    run.until(lambda: run.toy.stopped)
    assert run.loop.performer.ending is Ending.PLATEAU
    again = resumed(run, tmp_path)
    assert again.toy.stopped
    before = again.toy.p, again.loop.units, len(again.loop.log.records)
    generator = again.toy.rng.bit_generator.state
    again.loop.take(again.toy.window(again.number))  # Keras makes one step in any case
    again.toy.rng.bit_generator.state = generator
    assert (again.loop.units, len(again.loop.log.records)) == before[1:]
    run.loop.end()
    again.loop.end()
    assert again.toy.p == run.toy.p
    assert again.loop.performer.ending is Ending.PLATEAU
    assert again.loop.summary(where=False) == run.loop.summary(where=False)
    told = [[record.message for record in r.loop.log.records if record.kind != "resumed"] for r in (run, again)]
    assert told[0] == told[1]


def test_in_the_middle_of_a_variant_it_goes_on_and_the_reason_is_known(tmp_path: Path) -> None:
    policies = manager(auto_spawn=True, max_variants=1, variant_windows=8, noise_scale=0.3)
    run = Run(tmp_path, policies, when_dormant="stop").begin()
    run.until(lambda: run.loop.performer.windows_left > 0)
    again = resumed(run, tmp_path, variants=True)
    assert not again.toy.stopped
    assert again.loop.performer.ending is run.loop.performer.ending is Ending.PLATEAU
    assert again.loop.performer.why == run.loop.performer.why


def test_a_run_that_was_active_goes_on(tmp_path: Path) -> None:
    run = Run(tmp_path, None, when_dormant="stop").begin()
    run.windows(3)
    again = resumed(run, tmp_path)
    assert again.loop.state is LoopState.ACTIVE
    assert not again.toy.stopped
    again.windows(2)
    assert again.loop.units == 5
