"""A second, independent evaluation of exactly the weights that scored well, before they are called the best."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from keras_optix.agents.agent import Agent
from keras_optix.control.evaluators import BaseEvaluator
from keras_optix.control.records import EvalMetrics, HyperparamSet
from keras_optix.control.score_pool import ScorePool
from keras_optix.experience.collector import Collector
from keras_optix.experience.evaluation import MAX_ENVS, EpisodePlayer
from keras_optix.experience.making import make_envs
from keras_optix.experience.window import CollectedWindow, PublishedPolicy


class OwnEnvironment:
    """Confirms a candidate at once, with whole episodes on environments of its own.

    Args:
        agent: Makes the actor.
        source: Says how to make one more environment.
        evaluator: Scores episodes.
        episodes: Episodes of a confirmation.
    """

    def __init__(self, agent: Agent, source: Collector, evaluator: BaseEvaluator, episodes: int) -> None:
        n = min(episodes, MAX_ENVS)
        if source.recipe is None:
            raise ValueError("The source has no recipe for another environment.")
        self._player = EpisodePlayer(make_envs(source.recipe, n), agent.make_actor(n))
        self._evaluator = evaluator
        self._episodes = episodes
        self._seeds = np.random.default_rng(None if source.seed is None else (source.seed, 3))

    @property
    def env_steps(self) -> int:
        """Environment steps that confirmations took so far."""
        return self._player.env_steps

    def evaluate(self, published: PublishedPolicy) -> EvalMetrics:
        """Plays the candidate's weights, sampling its actions as in training."""
        records = self._player.play(
            published.arrays,
            self._episodes,
            seed=int(self._seeds.integers(2**31)),
            deterministic=False,
            version=published.version,
        )
        metrics = self._evaluator.score_episodes(records)
        if metrics is None:
            raise ValueError("The evaluator cannot score episodes.")
        return metrics

    def close(self) -> None:
        """Closes the environments."""
        self._player.close()


class Hold:
    """Confirms a candidate in place: its weights act in the training environments while learning pauses.

    For sources that cannot be made a second time (a live feed, an environment that was passed in), and for evaluators
    that need whole windows.

    Args:
        agent: Takes the candidate's weights back and pauses.
        candidate: The window whose weights are to be confirmed.
        hyperparams: Hyperparameters in force when they were reached.
        evaluator: Scores windows.
        min_episodes: Episodes of a confirmation, begun and ended by these weights; 0 for one scored window.
    """

    def __init__(
        self,
        agent: Agent,
        candidate: CollectedWindow,
        hyperparams: HyperparamSet,
        evaluator: BaseEvaluator,
        min_episodes: int,
    ) -> None:
        self.candidate = candidate
        self.hyperparams = hyperparams
        self._agent = agent
        self._evaluator = evaluator
        self._before = agent.get_state()
        agent.set_state(agent.state_of(candidate.published))
        agent.pause_updates(True)
        self._version = agent.policy_version
        self.pool = ScorePool(min_episodes)

    def add(self, collected: CollectedWindow, logs: dict[str, Any]) -> bool:
        """Adds a window; returns whether there is enough evidence now."""
        if collected.published.version == self._version:
            data = collected.episode_data()
            whole = tuple(episode for episode in data.episodes if episode.first_version == self._version)
            self.pool.add(self._evaluator.score(replace(data, episodes=whole), logs), collected.window_id)
        return self.pool.ready

    def end(self, *, keep: bool) -> None:
        """Goes on learning: from the candidate's weights with `keep`, else from where training was."""
        if not keep:
            self._agent.set_state(self._before)
        self._agent.pause_updates(False)
