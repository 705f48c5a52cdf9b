"""Evaluates an agent in its training environments while learning pauses."""

from __future__ import annotations

from dataclasses import replace

from keras_optix.callbacks.loop_agent import LoopAgent
from keras_optix.evaluators.evaluation import metrics_of
from keras_optix.evaluators.score_pool import PoolState, ScorePool
from keras_optix.evaluators.scorer import Scorer
from keras_optix.loop.adapter import InPlaceEvaluation, PolicyRef, TrainingUnit
from keras_optix.states import Count, State
from keras_optix.statistics.comparisons import EvaluationResult
from keras_optix.store.files import Arrays, Saved, prefixed


class InPlaceState(State, frozen=True):
    """What an `AgentInPlaceEvaluation` needs to be resumed, in addition to arrays.

    Attributes:
        window_id: The window that the candidate collected.
        env_steps: Environment steps of the run up to the end of that window.
        policy_version: Policy version of the candidate when it was scored.
        version: Policy version that the candidate has while it is evaluated.
        episodes: How many episodes are played, if more than the evaluator asks for.
        pool: The scores so far.
    """

    window_id: int
    env_steps: Count
    policy_version: int
    version: int
    episodes: Count
    pool: PoolState


class AgentInPlaceEvaluation(InPlaceEvaluation):
    """Evaluates weights in place: they act in the training environments while learning pauses.

    Used for sources that cannot be created a second time (a live feed, an environment that was passed in), and for
    evaluators that need whole windows.

    Args:
        agent: The agent, which gets the candidate's weights and pauses learning.
        candidate: The weights to be evaluated.
        scorer: Scores the windows until it has as many episodes as it needs, each begun and ended by these weights; or
            a single window.
        before: The state of training, which is restored afterwards.
        version: Policy version of the weights in an evaluation that is resumed. None: the evaluation begins now.
        episodes: How many episodes (or windows, if these are scored), if more than the evaluator asks for.
    """

    def __init__(
        self,
        agent: LoopAgent,
        candidate: PolicyRef,
        scorer: Scorer,
        before: Arrays,
        version: int | None = None,
        episodes: int = 0,
    ) -> None:
        self.candidate = candidate
        self.pool = ScorePool(max(scorer.plan.episodes_needed, episodes))
        self._agent = agent
        self._scorer = scorer
        self._before = before
        self._episodes = episodes
        if version is None:
            agent.set_state(candidate.state())
        agent.pause_updates(True)
        self._version = agent.policy_version if version is None else version

    def add(self, unit: TrainingUnit) -> bool:
        """See `InPlaceEvaluation`."""
        data = unit.data() if unit.candidate.policy_version == self._version else None
        if data is not None:
            whole = tuple(episode for episode in data.episodes if episode.first_version == self._version)
            self.pool.add(self._scorer.measure(replace(data, episodes=whole), unit.logs), data.window_id)
        return self.pool.ready

    def result(self) -> EvaluationResult:
        """See `InPlaceEvaluation`."""
        score = self.pool.take(window_id=0, policy_version=0, env_steps=0).score
        metrics = metrics_of(score, of_episodes=self._scorer.plan.episodes_needed > 0)
        return EvaluationResult(score, metrics=metrics)

    def end(self, *, keep: bool) -> None:
        """See `InPlaceEvaluation`."""
        if not keep:
            self._agent.set_state(self._before)
        self._agent.pause_updates(False)

    def save(self) -> Saved:
        """See `InPlaceEvaluation`."""
        arrays = prefixed("before/", self._before) | prefixed("candidate/", self.candidate.state())
        return arrays, InPlaceState(
            window_id=self.candidate.window_id,
            env_steps=self.candidate.env_steps,
            policy_version=self.candidate.policy_version,
            version=self._version,
            episodes=self._episodes,
            pool=self.pool.state,
        )
