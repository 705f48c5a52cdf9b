"""Restores the best snapshot if it is significantly better than the current weights of an agent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_optix.errors import ConfigurationError, StateError, describe
from keras_optix.evaluators.evaluation import metrics_of
from keras_optix.evaluators.returns import ReturnEvaluator
from keras_optix.experience.evaluation import MAX_ENVS, EpisodePlayer, copy_training_statistics
from keras_optix.experience.making import EnvLike, is_env_fn, make_envs
from keras_optix.loop.actions import CURRENT, Action, Evaluate, Restore
from keras_optix.loop.regime_procedures import go_back_if_better
from keras_optix.loop.runner import run_at_once
from keras_optix.records import EvalMetrics, HyperparamSet
from keras_optix.statistics.comparisons import EvaluationResult
from keras_optix.statistics.estimates import Evidence, estimate_from_samples
from keras_optix.statistics.levels import one_sided
from keras_optix.store.manifest import PolicySnapshot
from keras_optix.store.registry import CheckpointRegistry
from keras_optix.validation import check_float, check_int


@dataclass(frozen=True)
class Evolved:
    """The result of `PolicyManager.evolve`.

    Attributes:
        rolled_back: Whether the best weights were loaded.
        evidence: Mean return of the best weights minus that of the current ones, over episodes of the same seeds.
        current: Score of the weights that the agent had.
        best: Score of the best weights in these episodes.
        snapshot: The snapshot of the best weights.
    """

    rolled_back: bool
    evidence: Evidence
    current: EvalMetrics
    best: EvalMetrics
    snapshot: PolicySnapshot


def roll_back_if_better(
    agent: Any,
    registry: CheckpointRegistry,
    env: EnvLike,
    *,
    episodes: int,
    seed: int,
    deterministic: bool,
    confidence: float,
) -> Evolved:
    """Plays the current weights and the registry's best on the same seeds; see `PolicyManager.evolve`."""
    check_int("episodes", episodes, minimum=2)
    if check_float("confidence", confidence, low=0.5, high=1.0) == 1.0:
        raise ConfigurationError(describe("`confidence` must be below 1: nothing is certain.", confidence=confidence))
    kept, evaluator = _Kept(), ReturnEvaluator()
    snapshot = registry.load_best(kept)
    owned = is_env_fn(env)
    envs = make_envs(env, min(episodes, MAX_ENVS) if owned else 1, exactly=False)
    try:
        agent.bind(envs.observation_space, envs.action_space)
        if owned:
            copy_training_statistics(envs, agent)
        player = EpisodePlayer(envs, agent.make_actor(envs.num_envs))

        def perform(action: Action) -> EvaluationResult | None:
            if isinstance(action, Restore):
                agent.set_state(kept.state)
                return None
            if not isinstance(action, Evaluate):
                raise StateError(describe("A rollback by hand only evaluates and restores.", action=action))
            current = action.policy is CURRENT
            params = agent.policy_params() if current else agent.params_from_state(kept.state, snapshot.policy_version)
            played = player.play(
                params,
                action.episodes,
                seed=action.seed,
                deterministic=deterministic,
            )
            # Equal positions have equal seeds: both policies play the same number of episodes in each environment.
            returns = tuple(episode.total_reward for episode in played)
            return EvaluationResult(estimate_from_samples(returns), returns, evaluator.score_episodes(played))

        limit = one_sided(confidence)
        current, best, compared = run_at_once(go_back_if_better(snapshot, episodes, seed, limit), perform)
    finally:
        envs.close() if owned else envs.release()
    now, then = (result.metrics or metrics_of(result.estimate) for result in (current, best))
    return Evolved(compared.z > limit, compared.evidence, now, then, snapshot)


class _Kept:
    """Holds the arrays of a snapshot without an agent."""

    def __init__(self) -> None:
        self.state: dict[str, np.ndarray] = {}

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        """See `Restorable`."""
        self.state = dict(state)

    def set_hyperparams(self, hyperparams: HyperparamSet) -> None:
        """See `Restorable`. Does nothing, because the hyperparameters of the agent stay as they are."""
