"""The rules of `make bench-autopilot`: ends of runs made by hand, lines that lie, and comparisons at equal steps."""

from __future__ import annotations

import dataclasses
import importlib
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def _load(name: str) -> ModuleType:
    """A module of the benchmarks, which are scripts and no package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        return importlib.import_module(name)


truth, table = _load("_autopilot_truth"), _load("_autopilot_table")
Score, Verdict = truth.Score, truth.Verdict


def made(scores: list[float], **changes: Any) -> Any:
    """A run with a threshold of 200 that scores every 1,000 env steps with a standard error of 5."""
    values = {
        "env_steps": [1000 * (k + 1) for k in range(len(scores))],
        "scores": [Score(score, 5.0) for score in scores],
        "untrained": Score(-160.0, 10.0),
        "left": Score(max(scores), 5.0),
        "announced": Score(max(scores), 6.0),
        "best_at": 1000 * (scores.index(max(scores)) + 1),
        "end": 1000 * len(scores),
        "threshold": 200.0,
        "limit": 1_000_000,
    }
    return truth.Run(**{**values, **changes})


SOLVED = made([-150.0, 0.0, 150.0, 240.0, 235.0, 238.0, 230.0])
STUCK = made([-150.0, -50.0, 47.0, 30.0, 45.0, 40.0, 44.0])
UNTAUGHT = made([-165.0, -158.0, -160.0, -161.0, -157.0, -162.0], left=Score(-159.0, 8.0))
DEGRADED = made([-150.0, -50.0, 60.0, -90.0, -120.0, -140.0, -130.0])
CUT_OFF = made([-150.0, -100.0, -50.0, 0.0, 50.0, 100.0], limit=6000)
ENDS = {
    Verdict.SOLVED: SOLVED,
    Verdict.STUCK: STUCK,
    Verdict.NEVER_LEARNED: UNTAUGHT,
    Verdict.DEGRADED: DEGRADED,
    Verdict.CUT_OFF: CUT_OFF,
}

NOT_REACHED = "the environment counts as solved at 200: not reached"
LINES = {
    Verdict.SOLVED: "DORMANT after 7 windows, 7,000 env steps: nothing better in 3,000 env steps. "
    "Best 240.0 ± 6.0 at 4,000 env steps; the environment counts as solved at 200: reached: /tmp/best/000004.npz",
    Verdict.STUCK: "DORMANT after 7 windows, 7,000 env steps: nothing better in 4,000 env steps. "
    f"Best 47.0 ± 6.0 at 3,000 env steps; {NOT_REACHED}.",
    Verdict.NEVER_LEARNED: "DORMANT after 6 windows, 6,000 env steps: nothing better in 1,000 env steps. "
    f"Best -157.0 ± 6.0 at 5,000 env steps; {NOT_REACHED}; nothing was learned: the best is not better than the "
    "policy at the beginning (-160 ± 10).",
    Verdict.DEGRADED: "DORMANT after 7 windows, 7,000 env steps: degraded 5 times in 4,000 env steps since the best. "
    f"Best 60.0 ± 6.0 at 3,000 env steps; {NOT_REACHED}.",
    Verdict.CUT_OFF: "ACTIVE after 6 windows, 6,000 env steps: stopped at the limit of 6,000 env steps. "
    f"Best 100.0 ± 6.0 at 6,000 env steps; {NOT_REACHED}.",
}


@pytest.mark.parametrize("verdict", ENDS)
def test_each_end_is_recognised(verdict: Any) -> None:
    assert truth.verdicts(ENDS[verdict]) == {verdict}


@pytest.mark.parametrize("verdict", ENDS)
def test_a_line_that_is_true_agrees(verdict: Any) -> None:
    assert truth.said(LINES[verdict]) is verdict
    assert truth.wrong(LINES[verdict], ENDS[verdict]) == []


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("verdict", ENDS)
def test_the_line_of_another_end_does_not_agree(verdict: Any, line: Any) -> None:
    assert bool(truth.wrong(LINES[line], ENDS[verdict])) is (line is not verdict)


def test_a_line_without_a_reason_does_not_agree() -> None:
    line = "DORMANT after 7 windows, 7,000 env steps. Best 47.0 ± 6.0 at 3,000 env steps: /tmp/reached 200/limit.npz"
    assert truth.said(line) is None  # nor do words in the name of the file count
    assert truth.wrong(line, STUCK)


@pytest.mark.parametrize(
    ("words", "instead"),
    [
        ("4,000 env steps. Best", "40,000 env steps. Best"),  # longer than the run
        ("7,000 env steps:", "9,000 env steps:"),
        ("Best 47.0", "Best 119.8"),
        ("solved at 200", "solved at 300"),
        (f"; {NOT_REACHED}", ""),
    ],
)
def test_a_number_that_is_not_true_is_found(words: str, instead: str) -> None:
    line = LINES[Verdict.STUCK].replace(words, instead)
    assert line != LINES[Verdict.STUCK]
    assert truth.wrong(line, STUCK)


def test_near_the_threshold_both_verdicts_are_true() -> None:
    near = made([-150.0, 0.0, 150.0, 196.0, 190.0, 193.0, 194.0])
    assert truth.verdicts(near) == {Verdict.SOLVED, Verdict.STUCK}
    assert truth.verdicts(dataclasses.replace(near, left=Score(196.0, 0.5))) == {Verdict.STUCK}


def test_a_best_that_was_lost_is_not_called_unlearned() -> None:
    lost = dataclasses.replace(DEGRADED, left=Score(-160.0, 10.0))
    assert Verdict.NEVER_LEARNED not in truth.verdicts(lost)


def test_without_a_threshold_nothing_is_solved() -> None:
    assert truth.verdicts(dataclasses.replace(SOLVED, threshold=None)) == {Verdict.STUCK}


def test_scores_without_noise() -> None:
    flat = made([-500.0] * 6, untrained=Score(-500.0, 0.0), left=Score(-500.0, 0.0), threshold=-100.0)
    assert truth.verdicts(flat) == {Verdict.NEVER_LEARNED}
    full = made([20.0, 300.0, 500.0, 500.0], untrained=Score(9.0, 0.1), left=Score(500.0, 0.0), threshold=475.0)
    assert truth.verdicts(full) == {Verdict.SOLVED}


def test_unknown_errors_are_estimated_from_the_scatter() -> None:
    found = truth.together([Score(1.0, math.inf), Score(2.0, 0.1), Score(3.0, math.inf)])
    assert found.mean == 2.0
    assert found.stderr == pytest.approx(1.0 / math.sqrt(3.0))


def test_numbers_are_read_with_either_minus_sign() -> None:
    assert truth.number("-1,234.5") == -1234.5
    assert truth.number("\N{MINUS SIGN}160") == -160.0


# Comparisons


def evaluated(env_steps: int, evaluation_steps: int, fresh: float | None) -> dict[str, Any]:
    """An evaluation of Stable-Baselines3; a new best has played fresh episodes."""
    row: dict[str, Any] = {"env_steps": env_steps, "evaluation_steps": evaluation_steps}
    return row if fresh is None else row | {"fresh": {"score": fresh, "stderr": 1.0, "n": 100}}


THEIRS = {
    "spec": {"seed": 0},
    "evaluations": {
        "zoo": [evaluated(500, 10, 1.0), evaluated(1000, 20, None), evaluated(1500, 30, 5.0)],
        "fine": [evaluated(100, 100, 2.0), evaluated(200, 200, 4.0), evaluated(1400, 1400, 3.0)],
    },
}


def ended(end: int, evaluation: int = 0, **changes: Any) -> dict[str, Any]:
    """A run of ours that ended at `end` and was best at 100 env steps."""
    values = {
        "spec": {"seed": 0},
        "env_steps": end,
        "evaluation_steps": evaluation,
        "announced": {"score": 10.0, "stderr": 0.3, "n": 20, "env_steps": 100},
        "left": {"score": 10.0, "stderr": 0.4, "n": 100},
        "untrained": {"score": 0.0, "stderr": 0.1, "n": 100},
    }
    return values | changes


@pytest.mark.parametrize(
    ("total", "protocol", "score"),
    [
        (math.inf, "zoo", 5.0),
        (1529, "zoo", 1.0),  # the evaluations count, too
        (1530, "zoo", 5.0),
        (1100, "zoo", 1.0),  # an evaluation without a new best changes nothing
        (10, "zoo", 1.0),  # before the first evaluation, that one
        (math.inf, "fine", 3.0),  # the newest best, even if it is worth less
    ],
)
def test_the_best_model_until_then(total: float, protocol: str, score: float) -> None:
    assert table.best_until(THEIRS, total, protocol).mean == score


@pytest.mark.parametrize(("end", "evaluation", "found"), [(600, 0, ("fine", 4.0)), (1500, 30, ("zoo", 5.0))])
def test_equal_steps_with_the_evaluations_that_serve_it_better(
    end: int, evaluation: int, found: tuple[str, float]
) -> None:
    assert table.at_equal_steps([ended(end, evaluation)], [THEIRS]) == (found[0], [found[1]])


def test_runs_without_the_same_seed_are_not_compared() -> None:
    assert table.at_equal_steps([ended(600, spec={"seed": 1})], [THEIRS]) == ("", [])


@pytest.mark.parametrize(("left", "agrees"), [(11.0, True), (9.0, True), (11.01, False), (8.99, False)])
def test_agreement_is_within_two_standard_errors_of_the_difference(left: float, agrees: bool) -> None:
    result = ended(500, left={"score": left, "stderr": 0.4, "n": 100})
    assert table.agrees(result) is agrees


def test_no_best_agrees_with_nothing_and_was_never_found() -> None:
    result = ended(500, announced=None)
    assert not table.agrees(result)
    assert table.ratio_of(result) == math.inf
    assert table.ratio_of(ended(500)) == 5.0


def test_a_gain_is_a_share_of_the_progress() -> None:
    continued = ended(1000, left={"score": 10.4, "stderr": 0.4, "n": 100}, best_point={"score": 11.0})
    assert table.gains(ended(500), continued) == pytest.approx((0.04, 0.1))
    unplayed = ended(1000, left={"score": 12.0, "stderr": 0.4, "n": 100}, best_point=None)
    assert table.gains(ended(500), unplayed) == pytest.approx((0.2, 0.2))
