"""The guard against NaN counts, halves and gives up."""

from __future__ import annotations

from pathlib import Path

import pytest

from keras_optix.errors import NonFiniteError
from keras_optix.loop.guard import NonFiniteGuard
from keras_optix.loop.run_state import read_run
from tests.loop.toy_run import Run


def test_the_learning_rate_is_halved_each_time_until_it_gives_up() -> None:
    guard = NonFiniteGuard(max_recoveries=3)
    rate: float | None = 0.8
    for expected in (0.4, 0.2, 0.1):
        rate = guard.recover(7, "A loss", rate)
        assert rate == pytest.approx(expected)
    with pytest.raises(NonFiniteError, match=r"A loss is not finite, for the 4th time.*window_id=7, learning_rate=0.1"):
        guard.recover(7, "A loss", rate)


def test_a_recovery_counts_for_a_thousand_windows() -> None:
    """A run of weeks ended at its sixth failed update, whenever that came; found by the simulated life."""
    guard = NonFiniteGuard(max_recoveries=2)
    for window_id in range(0, 50_000, 500):
        guard.recover(window_id, "A loss", None)
    assert guard.recoveries == 100
    with pytest.raises(NonFiniteError, match="for the 3th time in 1,000 windows"):
        guard.recover(49_999, "A loss", None)
    guard.recover(50_000, "A loss", None)


def test_a_resumed_run_knows_which_recoveries_count(tmp_path: Path) -> None:
    run = Run(tmp_path, None).begin()
    run.windows(5)
    run.loop.recover_from_nan(4, "A loss", None)
    run.windows(5)
    arrays, values = run.loop.save()
    again = Run(tmp_path, None)
    again.loop.resume(arrays, again.loop.read(arrays, read_run(values, "fix")))
    assert (again.loop.guard.recoveries, again.loop.guard.recent) == (1, (4,))


def test_learning_rates_are_given_back_when_no_recovery_counts() -> None:
    guard = NonFiniteGuard()
    assert guard.recover_all(0, "A loss", {"learning_rate": 0.8, "actor": 0.4}) == {"learning_rate": 0.4, "actor": 0.2}
    assert guard.recover_all(600, "A loss", {"learning_rate": 0.4, "actor": 0.3}) == {
        "learning_rate": 0.2,
        "actor": 0.15,
    }
    now = {"learning_rate": 0.2, "actor": 0.15}
    assert guard.give_back(1_599, now) == {}  # the second one still counts
    # The second rate was changed to 0.3 between the two.
    assert guard.give_back(1_600, now) == {"learning_rate": 0.8, "actor": 0.3}
    assert guard.give_back(1_601, now) == {}


def test_a_learning_rate_that_was_changed_since_stays() -> None:
    guard = NonFiniteGuard()
    guard.recover_all(0, "A loss", {"learning_rate": 0.8, "actor": 0.4})
    assert guard.give_back(1_000, {"learning_rate": 0.1}) == {}
    assert guard.give_back(2_000, {"learning_rate": 0.4}) == {}


def test_a_run_of_weeks_keeps_its_learning_rate(tmp_path: Path) -> None:
    """One update in 2,500 windows fails: after 10,000 windows the rate was a sixteenth. Resumed in between."""
    run = Run(tmp_path, None).begin()
    run.toy.values.assign({"learning_rate": 0.5})
    for failed in range(4):
        for window in range(2_500):
            if window == 1_000:
                run.loop.recover_from_nan(run.loop.journal.window_id, "A loss", None)
                assert run.toy.values.snapshot()["learning_rate"] == 0.25
                arrays, values = run.loop.save()
                toy, number = run.toy, run.number
                run = Run(tmp_path, None, toy=toy)
                run.loop.resume(arrays, run.loop.read(arrays, read_run(values, "fix")))
                run.number = number
            run.windows(1)
        assert run.toy.values.snapshot()["learning_rate"] == 0.5
        given = [record.message for record in run.log.records if "as before" in record.message]
        assert len(given) == failed + 1
    assert given[-1] == "all updates were finite for 1,000 windows; learning rate 0.25 -> 0.5, as before"


def test_a_learning_rate_that_cannot_be_changed_stays() -> None:
    assert NonFiniteGuard().recover(0, "A loss", None) is None
