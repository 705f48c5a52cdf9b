"""The rules of `make bench-tuning-replay` and `make bench-swap-replay`, on runs made by hand."""

from __future__ import annotations

import importlib
from dataclasses import asdict
from types import ModuleType
from typing import Any

import pytest

from tests.benchmark_modules import BENCHMARKS


def _load(name: str) -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        return importlib.import_module(name)


swap, tuning = _load("swap_replay"), _load("tuning_replay_agents")


def curve(returns: list[float], *, evaluations: int = 0, first: int = 40_960) -> list[list[Any]]:
    """Points of 1,024 env steps; `evaluations` env steps of evaluations come between two of them."""
    return [[first + 1024 * k, value, 0.0, evaluations * k] for k, value in enumerate(returns)]


def swapped(returns: list[float], **options: Any) -> Any:
    return swap.recovery({"swap": 50_000, "end": 150_000, "curve": curve(returns, **options)})


BEFORE = [100.0] * 9  # up to 49,152 env steps


def test_the_first_of_three_points_in_a_row_is_the_recovery() -> None:
    found = swapped([*BEFORE, 10.0, 95.0, 10.0, 91.0, 90.0, 90.0], evaluations=7)
    assert (found.before, found.recovered, found.steps) == (100.0, True, 40_960 + 12 * 1024 - 50_000)
    assert found.all_steps == found.steps + 4 * 7  # four points after the last one before the change


def test_two_points_in_a_row_are_no_recovery_and_the_rest_of_the_run_is_a_bound() -> None:
    found = swapped([*BEFORE, 10.0, 95.0, 95.0, 10.0])
    assert (found.recovered, found.steps) == (False, 100_000)


def test_only_the_last_env_steps_before_the_change_are_what_to_get_back_to() -> None:
    assert swapped([5.0] * 20 + [100.0] * 9 + [90.0] * 3, first=20_480).before == 100.0
    assert not swapped(BEFORE).recovered


def test_a_change_point_counts_as_seen_after_the_change_and_as_false_before_it() -> None:
    events = [["change_point", steps, "ACTIVE", ""] for steps in (30_000, 52_000, 60_000)]
    result = {"swap": 50_000, "events": [["degradation", 51_000, "ACTIVE", ""], *events]}
    assert (swap.detection(result), swap.false_alarms(result)) == (2_000, 1)
    assert swap.detection({"swap": 70_000, "events": events}) is None


@pytest.mark.parametrize(
    ("module", "spec"),
    [
        (swap, swap.Spec("alone", 0, 50_000, 150_000, "abc")),
        (tuning, tuning.Spec("CartPole-v1", "fixed", 1e-3, 0, 50_000, "abc")),
    ],
)
def test_runs_of_another_commit_or_seed_are_missing(module: ModuleType, spec: Any) -> None:
    same = asdict(spec)
    for result, any_commit, there in (
        (same, False, True),
        (same | {"commit": "abd"}, False, False),
        (same | {"commit": "abd"}, True, True),
        (same | {"seed": 1}, True, False),
    ):
        assert (module.missing([spec], [result], any_commit=any_commit) == []) is there


def test_a_tuner_must_not_harm_a_good_start_and_must_help_a_bad_one() -> None:
    low, high, wide = (tuning.Summary(0.0, *bounds) for bounds in ((1.0, 2.0), (3.0, 4.0), (1.5, 3.5)))
    assert [tuning.holds(fixed, tuned, good_start=True) for fixed, tuned in ((high, low), (high, wide))] == [
        False,
        True,
    ]
    pairs = ((low, high), (low, wide), (high, low))
    assert [tuning.holds(fixed, tuned, good_start=False) for fixed, tuned in pairs] == [True, False, False]


def test_the_table_takes_the_newest_of_equal_runs() -> None:
    def run(method: str, seed: int, last: float) -> dict[str, Any]:
        made = {"task": "Pendulum-v1", "method": method, "start": 1e-4, "seed": seed, "last": last, "best": None}
        curve = [[1_000, None, {}], [2_000, last - 1.0, {}], [3_000, last + 1.0, {}]]
        return made | {"values": {"learning_rate": 1e-3}, "decisions": [1, 2], "curve": curve}

    runs = [run("fixed", 0, 5.0), run("fixed", 0, 7.0), run("tuned", 0, 9.0)]
    lines, rows = tuning.table_of("Pendulum-v1", runs)
    assert lines[0] == ["fixed, 0.0001", "1", *["7.0 [7.0, 7.0]"] * 3, "1.0e-03", "2.0", "-"]
    assert [row["mean"] for row in rows] == [7.0, 9.0]
    lines, _ = tuning.table_of("Pendulum-v1", [run(how, seed, 5.0 + seed) for how in tuning.METHODS for seed in (0, 1)])
    assert lines[1][-1] == "short"  # equal scores from a bad start
    assert tuning.table_of("CartPole-v1", runs) == ([], [])
