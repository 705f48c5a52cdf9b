"""The course of training: its returns over the whole run, as far as they are needed to see whether they still rise."""

from __future__ import annotations

from msgspec.structs import replace

from keras_optix.loop.scheduler_state import TimedScore
from keras_optix.states import State
from keras_optix.statistics.estimates import Estimate, pool, trend
from keras_optix.statistics.levels import one_sided
from keras_optix.statistics.lines import Forecast, forecast

_MOST = 128  # scores that are kept; beyond that, neighbours are pooled
_FEWEST, _FEWEST_LATEST = 6, 4  # scores from which lines are drawn
_LATE, _LATEST = 0.5, 0.25  # shares of the run, up to now, from which lines are drawn
_SHARE = 0.05  # of the progress of training: a gain below it does not matter
_SURE_Z = one_sided(0.9)
_FLAT_Z = one_sided(0.8)


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
        the line goes up at a one-sided confidence of 90 %, and gains more than 5 % of the progress of training so far,
        unless the last quarter of the run rules out such a gain at 80 %: returns that were rising and are flat now.
        """
        if not self.scores:
            return False  # nothing is known, and nothing will be: the environment has no episodes, for example
        late = self._since(_LATE)
        ends = self._ends(late, _FEWEST)
        if ends is None:
            return True
        here, there = ends
        worth = _SHARE * abs(here.mean - self.scores[0].score.mean)
        if there.mean - here.mean <= worth or trend([one.score.mean for one in late]) <= _SURE_Z:
            return False
        latest = self._ends(self._since(_LATEST), _FEWEST_LATEST)
        return latest is None or latest[1].below(latest[0].mean + worth) < _FLAT_Z

    def may_pass(self, limit: float) -> bool:
        """Returns whether training may come to lie above a limit: the line of `rises` does not rule that out at 80 %.

        Args:
            limit: A score.
        """
        ends = self._late_ends()
        return ends is None or ends[1].below(limit) < _FLAT_Z

    def reaches(self, limit: float) -> bool:
        """Returns whether training has come to a limit: the line of `rises` does not lie below it now, at 80 %.

        Args:
            limit: A score.
        """
        ends = self._late_ends()
        return ends is not None and ends[0].below(limit) < _FLAT_Z

    def _late_ends(self) -> tuple[Forecast, Forecast] | None:
        """Returns the line through the second half of the run, see `_ends`; None if it is too early for one."""
        return self._ends(self._since(_LATE), _FEWEST) if self.scores else None

    def _since(self, share: float) -> list[TimedScore]:
        """Returns the scores of the last share of the run."""
        begin, now = self.scores[0].env_steps, self.scores[-1].env_steps
        return [one for one in self.scores if now - one.env_steps <= share * (now - begin)]

    def _ends(self, scores: list[TimedScore], fewest: int) -> tuple[Forecast, Forecast] | None:
        """Returns a line through scores now, and after as many env steps as the run has had; None if there are few."""
        if len(scores) < fewest:
            return None
        begin, now = self.scores[0].env_steps, self.scores[-1].env_steps
        times, estimates = [one.env_steps for one in scores], [one.score for one in scores]
        here, there = forecast(times, estimates, now), forecast(times, estimates, 2 * now - begin)
        return None if here is None or there is None else (here, there)
