"""Pools the scores of windows into evaluations."""

from __future__ import annotations

from msgspec.structs import replace

from keras_optix.evaluators.evaluation import Evaluation, estimate_of
from keras_optix.records import EvalMetrics
from keras_optix.states import Count, State
from keras_optix.statistics.estimates import Estimate, pool


class PoolState(State, frozen=True):
    """The scores that a `ScorePool` has gathered.

    Attributes:
        estimate: The pooled score; None while the pool is empty.
        skip_until: Windows up to this number are ignored.
        total: Sum of the numbers of the pooled windows.
        count: Number of pooled windows.
    """

    estimate: Estimate | None = None
    skip_until: int = -1
    total: int = 0
    count: Count = 0


class ScorePool:
    """Gathers the scores of windows until they make an evaluation.

    When a hyperparameter changes, windows that were collected by weights from before the change say nothing about it.
    `drop_until` empties the pool and skips such windows.

    Args:
        min_episodes: Episodes that an evaluation needs; 0 if every scored window is an evaluation. The attribute may be
            set at any time.

    Attributes:
        state: The scores gathered so far.
    """

    def __init__(self, min_episodes: int = 0) -> None:
        self.min_episodes = min_episodes
        self.state = PoolState()

    @property
    def estimate(self) -> Estimate | None:
        """The pooled score; None while the pool is empty."""
        return self.state.estimate

    @property
    def skip_until(self) -> int:
        """Windows up to this number are ignored."""
        return self.state.skip_until

    def add(self, metrics: EvalMetrics, window_id: int) -> None:
        """Adds the score of a window. A window without evidence adds nothing."""
        estimate, state = estimate_of(metrics), self.state
        if estimate is None or window_id <= state.skip_until:
            return
        if state.estimate is None:
            self.state = replace(state, estimate=estimate, total=window_id, count=1)
        else:
            pooled = pool(state.estimate, estimate)
            self.state = replace(state, estimate=pooled, total=state.total + window_id, count=state.count + 1)

    def drop_until(self, window_id: int) -> None:
        """Empties the pool, and ignores windows up to and including `window_id`."""
        self.state = PoolState(skip_until=window_id)

    @property
    def ready(self) -> bool:
        """Whether there is enough evidence for an evaluation."""
        return self.estimate is not None and self.estimate.n >= max(self.min_episodes, 1)

    def take(self, *, window_id: int, policy_version: int, env_steps: int, at_end: bool = False) -> Evaluation:
        """Returns the pooled score as an evaluation and empties the pool.

        Args:
            window_id: The last window.
            policy_version: Version of the weights that acted in it.
            env_steps: Environment steps of the run.
            at_end: Whether the scores belong to the weights at the end of the windows (epochs). Otherwise they belong
                to the weights at the beginning.

        Raises:
            ValueError: The pool is empty.
        """
        state = self.state
        if state.estimate is None:
            raise ValueError("The pool is empty; ask `ready` first.")
        lag = window_id - state.total / state.count + (0.0 if at_end else 1.0)
        self.drop_until(state.skip_until)
        return Evaluation(state.estimate, window_id, policy_version, env_steps, lag)
