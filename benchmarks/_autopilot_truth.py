"""Whether the last line of a run is true: hand-written rules that judge a run by its own curve, and read its line.

Pure functions of numbers and text, apart from the library, so that they do not share its mistakes.

A run is *solved* if what it leaves reaches the threshold of the environment; *never learned* if neither what it leaves
nor its curve is better than the untrained policy; *cut off* if it was stopped at its limit of env steps; *degraded* if
it ended while its latest scores lay far below its best; and *stuck* otherwise: it learned, and then found nothing
better. The first of these that holds is the verdict. Where a number lies within its noise of a boundary, both verdicts
are true, and `verdicts` returns both.
"""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

LATEST = 3  # scores at the end of a curve, or in a row, that are taken together
SURE = 2.0  # standard errors beyond which a comparison counts as decided
LEARNED, NOT_LEARNED = 3.0, 1.0  # standard errors above the untrained policy: certainly learned, certainly not
FALLEN, KEPT = 0.5, 0.25  # share of the progress that is lost: certainly degraded, certainly not


class Verdict(enum.StrEnum):
    """How a run ended."""

    SOLVED = "solved"
    NEVER_LEARNED = "never learned"
    CUT_OFF = "cut off"
    DEGRADED = "degraded"
    STUCK = "stuck"


@dataclass(frozen=True)
class Score:
    """A mean return and its standard error."""

    mean: float
    stderr: float

    def above(self, other: Score) -> float:
        """By how many standard errors this one is higher; infinite where there is no noise but a difference."""
        difference = self.mean - other.mean
        stderr = math.hypot(self.stderr, other.stderr)
        if stderr == 0.0:
            return math.copysign(math.inf, difference) if difference else 0.0
        return difference / stderr


@dataclass(frozen=True)
class Run:
    """What is known of a run.

    Attributes:
        env_steps: Env steps of training at each evaluation.
        scores: The scores of the evaluations.
        untrained: The policy before training, fresh greedy episodes.
        left: What `fit` leaves, fresh greedy episodes.
        announced: The score that the run announces, or None if it has no best.
        best_at: Env steps at which the best was found, or None.
        end: Env steps at the end.
        threshold: Return at which the environment counts as solved, or None.
        limit: Env steps at which the run would have been stopped in any case, or None.
    """

    env_steps: Sequence[int]
    scores: Sequence[Score]
    untrained: Score
    left: Score
    announced: Score | None
    best_at: int | None
    end: int
    threshold: float | None
    limit: int | None


def verdicts(run: Run) -> frozenset[Verdict]:
    """The verdicts that the numbers of a run allow; one, unless a number is too close to a boundary."""
    found: set[Verdict] = set()
    for verdict, holds in (
        (Verdict.SOLVED, _solved(run)),
        (Verdict.NEVER_LEARNED, _never_learned(run)),
        (Verdict.CUT_OFF, run.limit is not None and run.end >= run.limit),
        (Verdict.DEGRADED, _degraded(run)),
        (Verdict.STUCK, True),
    ):
        if holds is not False:
            found.add(verdict)
        if holds is True:
            break
    return frozenset(found)


def _solved(run: Run) -> bool | None:
    """Whether the threshold is reached; None if the noise does not let that be known."""
    if run.threshold is None:
        return False
    margin = SURE * run.left.stderr
    if abs(run.left.mean - run.threshold) < margin:
        return None
    return run.left.mean >= run.threshold


def _never_learned(run: Run) -> bool | None:
    """Whether nothing is better than the untrained policy, neither what is left nor any part of the curve."""
    start = run.untrained
    if run.scores and run.scores[0].mean > start.mean:
        start = run.scores[0]  # a curve of sampled actions may begin higher
    rows = [run.scores[k : k + LATEST] for k in range(len(run.scores) - LATEST + 1)]
    z = max([run.left.above(run.untrained), *(together(row).above(start) for row in rows)])
    # The highest of many rows is above the start by chance, so the curve has to show more than what is left.
    if run.left.above(run.untrained) > LEARNED or z > LEARNED + 1.0:
        return False
    return True if z < NOT_LEARNED else None


def _degraded(run: Run) -> bool | None:
    """Whether the latest scores lie far below the best, which was found before them."""
    best = run.left if run.announced is None else run.announced
    after = [
        score
        for steps, score in zip(run.env_steps, run.scores, strict=True)
        if run.best_at is None or steps > run.best_at
    ]
    if len(after) < LATEST:
        return False
    latest = together(after[-LATEST:])
    fall, progress = best.mean - latest.mean, best.mean - run.untrained.mean
    noise = SURE * math.hypot(best.stderr, latest.stderr)
    if fall <= max(noise, KEPT * progress):
        return False
    return True if fall - noise > FALLEN * progress else None


def together(scores: Sequence[Score]) -> Score:
    """The mean of several scores; a standard error that is not known is estimated from their scatter."""
    mean = sum(score.mean for score in scores) / len(scores)
    if all(math.isfinite(score.stderr) for score in scores):
        return Score(mean, math.sqrt(sum(score.stderr**2 for score in scores)) / len(scores))
    scatter = sum((score.mean - mean) ** 2 for score in scores) / max(len(scores) - 1, 1)
    return Score(mean, math.sqrt(scatter / len(scores)))


# What the line says

_NUMBER = r"([-\u2212]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?)"
_THRESHOLD = re.compile(rf"counts as solved at {_NUMBER}: (not )?reached")
_REACHED = re.compile(rf"(?<!not )reached {_NUMBER}")
_BETTER = re.compile(rf"nothing better in {_NUMBER} env steps?")
_BEST = re.compile(rf"[Bb]est {_NUMBER}(?: ± {_NUMBER})?")
_AFTER = re.compile(rf"after {_NUMBER} windows?, {_NUMBER} env steps?")


def without_path(line: str) -> str:
    """The line without the file that it ends with, whose name may contain any words."""
    return re.split(r": (?=/|\w:\\|\.)", line, maxsplit=1)[0]


def said(line: str) -> Verdict | None:
    """The verdict of a last line, or None if it gives no reason for the end."""
    text = without_path(line)
    threshold = _THRESHOLD.search(text)
    if (threshold and not threshold[2]) or _REACHED.search(_THRESHOLD.sub("", text)):
        return Verdict.SOLVED
    if "nothing was learned" in text:
        return Verdict.NEVER_LEARNED
    if "limit" in text or "max_env_steps" in text:
        return Verdict.CUT_OFF
    if re.search(r"degraded|fell", text):
        return Verdict.DEGRADED
    return Verdict.STUCK if "nothing better" in text else None


def wrong(line: str, run: Run) -> list[str]:
    """What is not true in a last line; empty if it agrees with the run."""
    text, allowed = without_path(line), verdicts(run)
    found = []
    if said(line) not in allowed:
        names = " or ".join(sorted(allowed))
        found.append(f"says {said(line) or 'nothing of the end'}, is {names}")
    threshold = _THRESHOLD.search(text)
    if threshold and (run.threshold is None or not math.isclose(number(threshold[1]), run.threshold, rel_tol=1e-3)):
        found.append(f"the threshold is {run.threshold}")
    if run.threshold is not None and not threshold and said(line) is not Verdict.SOLVED:
        found.append("does not say that the threshold was not reached")
    found += _wrong_counts(text, run)
    best = _BEST.search(text)
    if best and run.announced is not None and not _same(number(best[1]), run.announced):
        found.append(f"the score announced is {run.announced.mean:.4g}")
    return found


def _wrong_counts(text: str, run: Run) -> list[str]:
    found = []
    after, better = _AFTER.search(text), _BETTER.search(text)
    if after and number(after[2]) != run.end:
        found.append(f"ended after {run.end:,} env steps")
    if better and run.best_at is not None:
        waited = run.end - run.best_at
        # Less is true as well: the last evaluation is before the end, and the best may have been promoted late.
        if number(better[1]) > waited:
            found.append(f"the best was found {waited:,} env steps before the end")
    return found


def _same(shown: float, score: Score) -> bool:
    """Whether a number is a score as it is shown: rounded to the digits that its standard error leaves."""
    return abs(shown - score.mean) <= max(0.5 * score.stderr, 0.01 * abs(score.mean), 0.01)


def number(text: str) -> float:
    """A number with separators of thousands and either sign."""
    return float(text.replace(",", "").replace("\u2212", "-"))
