"""The returns of training windows, which cost no env steps: they say when an evaluation is worth its episodes."""

from __future__ import annotations

from keras_optix.evaluators.base import BaseEvaluator
from keras_optix.evaluators.evaluation import Evaluation
from keras_optix.evaluators.returns import ReturnEvaluator
from keras_optix.evaluators.score_pool import PoolState, ScorePool
from keras_optix.evaluators.scorer import Scorer, ScorerState
from keras_optix.loop.adapter import TrainingUnit
from keras_optix.loop.course import Course
from keras_optix.records import EvalMetrics
from keras_optix.states import State
from keras_optix.statistics.estimates import Estimate, Evidence
from keras_optix.statistics.watch import Alarm, Watch, WatchState

_EPISODES = 10  # that must have ended in the latest windows until their mean counts as a score


class TrainingReturnsState(State, frozen=True):
    """The saved state of `TrainingReturns`.

    Attributes:
        scorer: The state of the evaluator that scores windows while the loop plays its evaluations elsewhere.
        pool: Returns that wait until there are enough for a score.
        watch: The state of the watch.
        alarm: The alarm that no evaluation has answered yet, or None.
        evidence: Its evidence.
        latest: The latest score, or None.
        course: The scores of the whole run.
    """

    scorer: ScorerState
    pool: PoolState
    watch: WatchState
    alarm: Alarm | None = None
    evidence: Evidence | None = None
    latest: Estimate | None = None
    course: Course = Course()


class TrainingReturns:
    """Watches the returns of training windows between two evaluations.

    If evaluations are episodes that the loop plays when it needs them, this also scores the windows for the tuner, and
    for WATCHDOG.

    Attributes:
        scorer: Scores windows: the mean return of the episodes that ended, or the reward rate.
        pool: Returns that wait until there are enough for a score.
        alarm: The alarm that no evaluation has answered yet, or None.
        evidence: Its evidence.
        latest: The latest score since the last evaluation, or None.
        course: The scores of the whole run.
    """

    def __init__(self, evaluator: BaseEvaluator | None = None) -> None:
        self.scorer = Scorer(ReturnEvaluator(_EPISODES) if evaluator is None else evaluator)
        self.pool = ScorePool(_EPISODES)
        self.alarm: Alarm | None = None
        self.evidence: Evidence | None = None
        self.latest: Estimate | None = None
        self.course = Course()
        self._watch = Watch()
        self._state = self._watch.initial_state()

    def reset(self) -> None:
        """Forgets everything, because a new run begins."""
        self.scorer.reset()
        self.pool.state = PoolState()
        self.forget()

    def score(self, unit: TrainingUnit) -> EvalMetrics:
        """Returns the score of a window."""
        metrics = unit.score(self.scorer)
        self.pool.min_episodes = self.scorer.plan.episodes_needed
        return metrics

    def add(self, metrics: EvalMetrics, window_id: int, env_steps: int, policy_version: int) -> Evaluation | None:
        """Adds the score of a window; returns a score of training as soon as enough episodes have ended.

        Args:
            metrics: The score of the window.
            window_id: Its number.
            env_steps: Environment steps of the run until then.
            policy_version: Version of the weights that acted in it.
        """
        self.pool.add(metrics, window_id)
        if not self.pool.ready:
            return None
        score = self.pool.take(window_id=window_id, policy_version=policy_version, env_steps=env_steps)
        self.latest = score.score
        self.course = self.course.add(env_steps, score.score)
        self._state, found = self._watch.observe(self._state, score.score)
        if found is not None:
            self.alarm, self.evidence = found
        return score

    def answered(self) -> None:
        """Begins to watch anew, because an evaluation was made."""
        self.alarm = self.evidence = None
        self._state = self._watch.restart(self._state)

    def drop_until(self, window_id: int) -> None:
        """Ignores windows up to and including `window_id`, because other weights act from then on."""
        self.pool.drop_until(window_id)
        self.latest = None

    def forget(self) -> None:
        """Forgets the scores so far, because they belong to other weights or to another regime."""
        self.course = Course()
        self.alarm = self.evidence = self.latest = None
        self._state = self._watch.initial_state()

    def save(self) -> TrainingReturnsState:
        """Returns everything that a resumed run needs."""
        return TrainingReturnsState(
            self.scorer.save(), self.pool.state, self._state, self.alarm, self.evidence, self.latest, self.course
        )

    def read(self, saved: TrainingReturnsState) -> ScorerState:
        """Reads the state of the scorer, whose type the evaluator defines, without changing anything."""
        return self.scorer.read(saved.scorer)

    def restore(self, saved: TrainingReturnsState, scorer: ScorerState) -> None:
        """Restores a state that `save` returned."""
        self.scorer.restore(scorer)
        self.pool.min_episodes = self.scorer.plan.episodes_needed
        self.pool.state, self._state = saved.pool, saved.watch
        self.alarm, self.evidence, self.latest = saved.alarm, saved.evidence, saved.latest
        self.course = saved.course
