"""The state of a `BackoffOptimizer`: what it knows of a run, apart from the running probe."""

from __future__ import annotations

import math
import statistics

import msgspec
from msgspec.structs import replace

from keras_optix.states import Count, Finite, NonNegative, State, Unbounded
from keras_optix.statistics.estimates import Estimate, noise_from_differences, trend
from keras_optix.statistics.levels import LIKELY_Z
from keras_optix.tuners.probe import LEVEL, Probe, Side
from keras_optix.tuners.update_band import UpdateBand

HISTORY = 64  # evaluations
RISING = 1.5  # trend with which the current values may be good
_PLATEAU = 32  # evaluations without a trend that make a plateau
_SAME = 8  # evaluations with exactly the best score that make one
_FAR = 5.0  # a rise between two levels of scores, in standard errors


class BackoffState(State, frozen=True):
    """The state of a `BackoffOptimizer` in a run.

    Attributes:
        parameter: Index of the hyperparameter that is probed next or now.
        probe: The running probe, or None.
        recent: The latest scores.
        history: Means of the scores.
        since_set: How many scores of the history belong to the current values.
        proven: Whether the score rose under the current values.
        learned: Whether the score ever rose.
        steps: Step of each hyperparameter, as a share of its range.
        directions: Direction of each hyperparameter's last commit, 1 upwards or -1.
        sides: Side of each hyperparameter that is tried next while nothing is learned; up first.
        floors: A value of each hyperparameter, below the current one, under which the score fell (in the coordinates of
            the search space).
        ceilings: A value above the current one under which it fell.
        falling: Whether the score fell under the current values although something was learned.
        base: Latest scores under the current values: the last window on which the weights had been trained, the score
            and its standard error.
        quiet: Evaluations left to wait.
        quiet_length: Length of the last wait in evaluations.
        active: False while the tuner is paused.
        band: The search by the size of the updates, or None.
        band_start: Environment steps before the updates that the band holds.
        env_steps: Environment steps at the last update.
        replays: Whether the agent learns from a replay buffer.
        gradient_steps: Its gradient steps since the learning rate was set by their size.
    """

    parameter: Count = 0
    probe: Probe | None = None
    recent: tuple[Estimate, ...] = ()
    history: tuple[Finite, ...] = ()
    since_set: Count = 0
    proven: bool = False
    learned: bool = False
    steps: dict[str, NonNegative] = msgspec.field(default_factory=dict)
    directions: dict[str, Side] = msgspec.field(default_factory=dict)
    sides: dict[str, Side] = msgspec.field(default_factory=dict)
    floors: dict[str, Finite] = msgspec.field(default_factory=dict)
    ceilings: dict[str, Finite] = msgspec.field(default_factory=dict)
    falling: bool = False
    base: tuple[tuple[Finite, Finite, Unbounded], ...] = ()
    quiet: Count = 0
    quiet_length: Count = 0
    active: bool = True
    band: UpdateBand | None = None
    band_start: Count = 0
    env_steps: Count = 0
    replays: bool = False
    gradient_steps: NonNegative = 0.0

    @property
    def careful(self) -> bool:
        """Whether there is something to lose: something was learned, and the current values do not destroy it."""
        return self.learned and not self.falling

    @property
    def current_scores(self) -> tuple[float, ...]:
        """Means of the scores under the current values."""
        return self.history[-self.since_set :] if self.since_set else ()

    @property
    def slope(self) -> float:
        """Trend of the scores under the current values, as a normal score."""
        return trend(self.current_scores) if self.since_set else 0.0

    @property
    def has_risen(self) -> bool:
        """Whether the latest scores under the current values lie far above the first ones.

        A smooth curve that has converged has a trend of little significance, because no line fits it.
        """
        scores = self.current_scores
        if len(scores) < 3 * LEVEL:
            return False
        rise = statistics.fmean(scores[-LEVEL:]) - statistics.fmean(scores[:LEVEL])
        return rise > _FAR * noise_from_differences(scores) * math.sqrt(2.0 / LEVEL)

    @property
    def nothing_to_win(self) -> bool:
        """Whether the score is on a plateau: it neither rises nor falls, or it is exactly the best all the time."""
        scores = self.current_scores
        latest = scores[-_SAME:]
        if len(latest) == _SAME and min(latest) == max(latest) == max(self.history):
            return True
        return len(scores) >= _PLATEAU and abs(trend(scores)) < LIKELY_Z

    @property
    def learns_by_itself(self) -> bool:
        """Whether an agent with a replay buffer is left alone: its score rises, or has not been seen for long.

        Its scores rise and fall while its values get better. So it takes more of them to see that nothing is learned,
        and a probe disturbs it for long: what it changes shows only once the buffer and the targets have followed.
        """
        return self.replays and (self.since_set < HISTORY or self.slope > RISING)

    def undone(self, probe: Probe) -> BackoffState:
        """Forgets the scores of a block that is undone: they are not those of the current weights' past."""
        kept = self.history[: len(self.history) - probe.in_block] or (probe.scores[probe.kept],)
        return replace(self, history=kept, recent=probe.level)

    def first_side(self, name: str) -> Side:
        """Returns the side that the next probe of a hyperparameter tries first; the only one if nothing was learned."""
        if not self.learned:
            return self.sides.get(name, 1)
        return -1 if name in self.ceilings and name not in self.floors else 1

    def turned(self, name: str) -> BackoffState:
        """Lets the next probe of a hyperparameter try the other side, while nothing is learned."""
        return replace(self, sides={**self.sides, name: -1 if self.sides.get(name, 1) > 0 else 1})

    def limited(self, name: str, side: Side, unit: float) -> BackoffState:
        """Remembers a value under which the score fell."""
        if side > 0:
            return replace(self, ceilings=self.ceilings | {name: unit})
        return replace(self, floors=self.floors | {name: unit})

    def freed(self, name: str, side: int = 0) -> BackoffState:
        """Forgets the limits of a hyperparameter: the upper one (1), the lower one (-1), or both (0)."""
        floors = {other: unit for other, unit in self.floors.items() if other != name or side > 0}
        ceilings = {other: unit for other, unit in self.ceilings.items() if other != name or side < 0}
        return replace(self, floors=floors, ceilings=ceilings)
