"""The state of a probe of `BackoffOptimizer`: its blocks, its scores, and what undone blocks do to both.

A block that is undone takes back its training. So a score belongs to a place on the run's lineage: `times` counts the
windows of training behind it that were kept (or kept until then), and `exposures` those under the upper value minus
those under the lower one. Both go back to the beginning of a block when it is undone. The scores of an undone block
remain evidence: they show what its value does.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

import msgspec
import numpy as np
from msgspec.structs import replace

from keras_optix.evaluators.evaluation import Evaluation
from keras_optix.states import Count, Finite, State, Unbounded
from keras_optix.statistics.estimates import Estimate, Evidence, compare, noise_from_differences, pool
from keras_optix.tuners.search_space import SearchSpace

Side = Literal[-1, 1]
_SIGNS: tuple[Side, ...] = (1, -1, -1, 1)
LEVEL = 4  # scores that make a level
_GROWTH = 1.5
_NOISY = 2.0  # levels that differ by this many times the noise of their scores show that learning itself is noisy


class Change(NamedTuple):
    """By how much the score changed in a block.

    Attributes:
        evidence: The change.
        z: Its significance as a normal score.
        noisy: Whether learning itself is so noisy that levels differ far more than the noise of their scores explains.
    """

    evidence: Evidence
    z: float
    noisy: bool


class Total(NamedTuple):
    """The sum of the changes in all blocks of a side."""

    side: Side
    evidence: Evidence

    @property
    def z(self) -> float:
        """Its significance."""
        return self.evidence.z


class Segment(State, frozen=True):
    """A stretch of training under one value.

    Attributes:
        window: The window after which the value was set.
        side: 1 above, -1 below.
        time: Windows of training on the lineage at its beginning.
        exposure: Exposure at its beginning.
    """

    window: int
    side: Side
    time: Finite
    exposure: Finite

    def at(self, window: float) -> tuple[float, float]:
        """Returns time and exposure of weights that were trained up to a window."""
        trained = window - self.window
        return self.time + trained, self.exposure + self.side * max(trained, 0.0)


class Probe(State, frozen=True):
    """The state of a running probe.

    Attributes:
        name: The hyperparameter that is probed.
        base: Its value before the probe.
        below: The lower value.
        above: The upper value; one of the two may be the base.
        start: Environment steps of the run when the probe began.
        first: The side that is tried first.
        level: The scores just before this block.
        segments: The stretches of training.
        times: For each score, the windows of training behind it.
        exposures: For each score, the windows under the upper value minus those under the lower one.
        scores: The scores.
        stderrs: The standard errors of the scores.
        left: Evaluations left in this block.
        begun: Number of scores before this block.
        kept: Number of the score whose weights are stored as the beginning of this block.
        earlier: Number of scores from before the probe, except for the one with which it began.
        sizes: Logarithms (base 10) of the sizes of the updates in this block.
        changes: For each block that ended, its side, the change of the score and its standard error.
        limited: Whether updates that are too large end the probe.
        block: Number of blocks that ended in this round.
        round: Number of rounds that ended.
    """

    name: str
    base: Finite
    below: Finite
    above: Finite
    start: Count
    first: Side
    level: tuple[Estimate, ...]
    segments: tuple[Segment, ...]
    times: tuple[Finite, ...]
    exposures: tuple[Finite, ...]
    scores: tuple[Finite, ...]
    stderrs: tuple[Unbounded, ...]
    left: Count
    begun: Count = 1
    kept: Count = 0
    earlier: Count = 0
    sizes: tuple[Finite, ...] = ()
    changes: tuple[tuple[Side, Finite, Unbounded], ...] = ()
    limited: bool = False
    block: Annotated[int, msgspec.Meta(ge=0, lt=len(_SIGNS))] = 0
    round: Count = 0

    @property
    def side(self) -> Side:
        """The side that is set in this block: 1 above, -1 below."""
        sign = _SIGNS[self.block] * self.first * (1 if self.round % 2 == 0 else -1)
        return 1 if sign > 0 else -1

    @property
    def value(self) -> float:
        """The value that is set in this block."""
        return self.above if self.side > 0 else self.below

    @property
    def in_block(self) -> int:
        """Number of scores in this block."""
        return len(self.scores) - self.begun

    @property
    def taken(self) -> int:
        """Number of scores since the probe began."""
        return len(self.scores) - 1 - self.earlier

    @property
    def last_block(self) -> bool:
        """Whether a round ends with this block."""
        return self.block + 1 == len(_SIGNS)

    def add(self, evaluation: Evaluation) -> Probe:
        """Adds a score."""
        window = evaluation.window_id - evaluation.training_lag_windows
        # With a lag, the first scores after a switch may belong to weights from before it.
        segment = next((s for s in reversed(self.segments) if s.window <= window), self.segments[0])
        time, exposure = segment.at(window)
        return replace(
            self,
            times=(*self.times, time),
            exposures=(*self.exposures, exposure),
            scores=(*self.scores, evaluation.score.mean),
            stderrs=(*self.stderrs, evaluation.score.stderr),
            left=max(self.left - 1, 0),
        )

    def next_block(self, evaluation: Evaluation, level: tuple[Estimate, ...], length: int, *, undo: bool) -> Probe:
        """Begins the next block.

        Args:
            evaluation: The latest evaluation.
            level: The latest scores.
            length: Evaluations of a block in the first round.
            undo: Whether this block is undone. Then the next one begins where this one began.
        """
        block, rounds = (0, self.round + 1) if self.last_block else (self.block + 1, self.round)
        kept = self.kept if undo else len(self.scores) - 1
        after = replace(
            self,
            block=block,
            round=rounds,
            left=length * 2**rounds,
            begun=len(self.scores),
            kept=kept,
            level=self.level if undo else level,
        )
        if undo:
            time, exposure = self.times[kept], self.exposures[kept]
        elif after.side != self.side:
            time, exposure = self.segments[-1].at(evaluation.window_id)
        else:
            return after
        segment = Segment(evaluation.window_id, after.side, time, exposure)
        return replace(after, segments=(*self.segments, segment), sizes=())

    def changed(self, evidence: Evidence) -> Probe:
        """Remembers by how much the score changed in this block."""
        return replace(self, changes=(*self.changes, (self.side, evidence.difference, evidence.stderr)))

    def total(self, side: Side) -> Total:
        """Returns the sum of the changes of the score in the blocks of a side."""
        mine = [(difference, stderr) for its_side, difference, stderr in self.changes if its_side == side]
        reason = f"the score got worse with {self.name} {self.above if side > 0 else self.below:.4g}"
        stderr = math.sqrt(sum(stderr * stderr for _, stderr in mine))
        return Total(side, Evidence(sum(difference for difference, _ in mine), stderr, len(self.scores), reason))

    def change(self, recent: Sequence[Estimate], history: Sequence[float]) -> Change:
        """Compares the latest scores of this block with those before it.

        Args:
            recent: The latest scores.
            history: Means of earlier scores, whose scatter shows the noise.
        """
        reason = f"the score got worse with {self.name} {self.value:.4g}"
        now, before = level_of(recent[-min(self.in_block, LEVEL) :], history), level_of(self.level, history)
        found, z = compare(now, before, reason, history=history)
        usual = _usual_change(history) if z < 0.0 else 0.0
        if usual <= _NOISY * found.stderr:
            return Change(found, z, False)
        found = Evidence(found.difference, usual, found.n, reason)
        return Change(found, found.z, True)


def _usual_change(history: Sequence[float]) -> float:
    """Estimates by how much levels differ from one to the next, apart from the trend: the noise of learning itself.

    Returns:
        The standard deviation, from a median absolute deviation; 0 for a short history.
    """
    if len(history) < 4 * LEVEL:
        return 0.0
    sums = np.concatenate([[0.0], np.cumsum(np.asarray(history, np.float64))])
    levels = (sums[LEVEL:] - sums[:-LEVEL]) / LEVEL
    changes = levels[LEVEL:] - levels[:-LEVEL]
    return 1.4826 * float(np.median(np.abs(changes - np.median(changes))))


def level_of(scores: Sequence[Estimate], history: Sequence[float]) -> Estimate:
    """Pools scores. Their noise is at least that which the scatter of the history shows.

    The standard error that a score states is about its episodes. With heavy tails, or where learning itself is noisy,
    scores scatter more than that.

    Args:
        scores: At least one score.
        history: Means of earlier scores.
    """
    pooled, noise = functools.reduce(pool, scores), noise_from_differences(history)
    if math.isinf(noise):
        return pooled
    shown = noise / math.sqrt(len(scores))
    return Estimate(pooled.mean, shown if math.isinf(pooled.stderr) else max(pooled.stderr, shown), pooled.n)


def arms(
    space: SearchSpace, unit: float, step: float, floor: float | None, ceiling: float | None, smallest: float
) -> tuple[float, float]:
    """Returns the lower and the upper value of a probe.

    A value under which the score fell is a limit: the probe goes half of the way to it, and no further than `step`. If
    that is less than `smallest`, the base takes the place of this side's value.

    Args:
        space: The search space.
        unit: The base, in the space's coordinates.
        step: The step, as a share of the range.
        floor: Limit below the base in the same coordinates, or None.
        ceiling: Limit above the base, or None.
        smallest: The smallest step.
    """

    def reach(limit: float | None) -> float:
        way = step if limit is None else min(step, 0.5 * abs(limit - unit))
        return 0.0 if way < smallest else way

    down, up = reach(floor), reach(ceiling)
    if down == up == 0.0:
        down = up = step
    while True:
        below, above = space.from_unit(unit - down), space.from_unit(unit + up)
        if below < above:
            return below, above
        # Rounding of an `Int` can make them equal.
        down, up = max(down, step) * _GROWTH, max(up, step) * _GROWTH
