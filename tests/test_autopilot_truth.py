"""The rules by which `make bench-autopilot` judges the end of a run: runs made by hand, and lines that lie."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def _load(path: Path) -> ModuleType:
    """A module of the benchmarks, which are scripts and no package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look for their module there
    spec.loader.exec_module(module)
    return module


truth = _load(Path(__file__).parents[1] / "benchmarks" / "_autopilot_truth.py")
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
