"""The course of training: its returns over the whole run, as far as they are needed to see whether they still rise."""

from __future__ import annotations

from msgspec.structs import replace

from keras_optix.loop.scheduler_state import TimedScore
from keras_optix.states import State
from keras_optix.statistics.estimates import Estimate, pool, trend
from keras_optix.statistics.levels import one_sided
from keras_optix.statistics.lines import forecast

_MOST = 128  # scores that are kept; beyond that, neighbours are pooled
_FEWEST = 6  # scores in the second half of the run from which a line is drawn
_SHARE = 0.05  # of the progress of training: a gain below it does not matter
_SURE_Z = one_sided(0.9)


class Course(State, frozen=True):
    """The returns of training since the run (or the regime) began.

    Attributes:
        scores: The scores, oldest first, each of some windows.
    """

    scores: tuple[TimedScore, ...] = ()

    def add(self, env_steps: int, score: Estimate) -> Course:
        """Adds a score.

        Args:
            env_steps: Env steps of the run.
            score: The mean return of the episodes that ended in the latest windows.
        """
        scores = (*self.scores, TimedScore(env_steps, score))
        if len(scores) > _MOST:
            pairs = zip(scores[::2], scores[1::2], strict=False)
            pooled = tuple(TimedScore((a.env_steps + b.env_steps) // 2, pool(a.score, b.score)) for a, b in pairs)
            scores = (*pooled, *scores[2 * len(pooled) :])
        return replace(self, scores=scores)

    def rises(self) -> bool:
        """Returns whether training still rises by what matters, or whether it is too early to tell.

        A line through the second half of the run is extended by as many env steps as the run has had. Training rises if
        the line goes up at a one-sided confidence of 90 %, and gains more than 5 % of the progress of training so far.
        """
        if not self.scores:
            return False  # nothing is known, and nothing will be: the environment has no episodes, for example
        first, now = self.scores[0], self.scores[-1].env_steps
        begin = first.env_steps
        late = [one for one in self.scores if one.env_steps - begin >= (now - begin) / 2.0]
        if len(late) < _FEWEST or now == begin:
            return True
        times, scores = [one.env_steps for one in late], [one.score for one in late]
        here, there = forecast(times, scores, now), forecast(times, scores, 2 * now - begin)
        if here is None or there is None:
            return True
        matters = there.mean - here.mean > _SHARE * abs(here.mean - first.score.mean)
        return matters and trend([score.mean for score in scores]) > _SURE_Z
