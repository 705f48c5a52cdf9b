"""Schedules: recorded, written, read, replayed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from drivers import driven

from keras_optix.errors import ConfigurationError
from keras_optix.evaluators.evaluation import Evaluation
from keras_optix.records import HyperparamSet
from keras_optix.statistics.estimates import Estimate
from keras_optix.tuners.schedule import ReplaySchedule, Schedule, ScheduleStep

SCHEDULE = Schedule(
    {"learning_rate": 1e-3, "gamma": 0.99},
    (
        ScheduleStep(100, {"learning_rate": 3e-3}, "probe", permanent=False),
        ScheduleStep(200, {"learning_rate": 2e-3}, "commit", permanent=True),
        ScheduleStep(200, {"gamma": 0.98}, "commit", permanent=True),
        ScheduleStep(450, {"learning_rate": 5e-4}, "reverse", permanent=True),
    ),
)


def test_it_survives_the_disk(tmp_path: Path) -> None:
    SCHEDULE.save(tmp_path / "schedule.json")
    assert Schedule.load(tmp_path / "schedule.json") == SCHEDULE
    undone = Schedule(SCHEDULE.start, SCHEDULE.steps, left_out=96)
    assert Schedule.from_json(json.loads(json.dumps(undone.to_json()))) == undone
    assert undone.without_probes().left_out == undone.then(SCHEDULE.steps[0]).left_out == 96


def test_a_file_of_format_1_which_does_not_count_what_was_undone_can_be_read() -> None:
    values = SCHEDULE.to_json() | {"format": 1}
    assert values.pop("left_out") == 0
    assert Schedule.from_json(values) == SCHEDULE


def test_it_says_what_was_in_force() -> None:
    assert SCHEDULE.at(0) == {"learning_rate": 1e-3, "gamma": 0.99}
    assert SCHEDULE.at(150)["learning_rate"] == 3e-3
    assert SCHEDULE.without_probes().at(150)["learning_rate"] == 1e-3
    assert SCHEDULE.at(10_000) == {"learning_rate": 5e-4, "gamma": 0.98}


@pytest.mark.parametrize("probes", [False, True])
def test_replay_applies_the_same_values_at_the_same_steps(probes: bool) -> None:
    replay = driven(ReplaySchedule(SCHEDULE, probes=probes))
    current = HyperparamSet({"learning_rate": 0.5, "gamma": 0.5})
    begun = replay.begin(current)
    assert begun is not None
    values = dict(begun.params)
    expected = SCHEDULE if probes else SCHEDULE.without_probes()
    for env_steps in range(64, 1000, 64):
        decision = replay.observe_update(env_steps, {}, current)
        values |= {} if decision is None else decision.params
        assert values == expected.at(env_steps)
    assert replay.observe(Evaluation(Estimate(1.0, 0.1, 10), 3), current) is None
    assert replay.pause() is None


def test_a_replay_can_be_resumed() -> None:
    first, second = driven(ReplaySchedule(SCHEDULE)), driven(ReplaySchedule(SCHEDULE))
    current = HyperparamSet({"learning_rate": 0.5, "gamma": 0.5})
    first.observe_update(300, {}, current)
    second.from_json(json.loads(json.dumps(first.to_json())))
    assert second.observe_update(500, {}, current) == first.observe_update(500, {}, current)
    first.reset()
    again = first.observe_update(500, {}, current)
    assert again is not None
    assert again.params == {"learning_rate": 5e-4, "gamma": 0.98}


def test_it_names_what_it_sets_and_what_must_be_legal() -> None:
    replay = ReplaySchedule(SCHEDULE)
    assert set(replay.names) == {"learning_rate", "gamma"}
    assert {"learning_rate": 5e-4} in replay.values_to_check()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"format": 3, "start": {}, "steps": []}',
        '{"format": 1, "start": {"learning_rate": "fast"}, "steps": []}',
        '{"format": 1, "start": {}, "steps": [{"env_steps": -1, "params": {}, "kind": "", "permanent": true}]}',
        '{"format": 1, "start": {}, "steps": [{"env_steps": 1}]}',
    ],
)
def test_what_is_no_schedule_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "schedule.json"
    path.write_text(text)
    with pytest.raises(ConfigurationError):
        ReplaySchedule(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="nowhere"):
        ReplaySchedule(tmp_path / "nowhere.json")
