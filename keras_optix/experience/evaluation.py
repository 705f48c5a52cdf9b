"""Plays whole episodes with one version of a policy and measures their returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np

from keras_optix.arguments import names_checked
from keras_optix.evaluators.returns import ReturnEvaluator
from keras_optix.experience.actions import actions_for
from keras_optix.experience.actor import Actor
from keras_optix.experience.carry import initial_carry, renewed
from keras_optix.experience.env_kinds import check_env, check_env_kwargs
from keras_optix.experience.envs import Envs
from keras_optix.experience.episode_recorder import EpisodeRecorder
from keras_optix.experience.making import EnvLike, is_env_fn, make_envs
from keras_optix.experience.policy_params import PolicyParams
from keras_optix.experience.rollout import Rollout, ends
from keras_optix.experience.source import WindowSource
from keras_optix.records import EpisodeRecord, EvalMetrics
from keras_optix.validation import check_agent, check_bool, check_int, check_seed

MAX_ENVS = 20
MAX_EPISODE_STEPS = 100_000


class Evaluable(Protocol):
    """The part of an agent that `evaluate_policy` uses."""

    def bind(self, observation_space: Any, action_space: Any) -> None:
        """Fits the agent to the spaces of an environment, or raises an error if its networks do not fit."""
        ...

    def policy_params(self) -> PolicyParams:
        """Returns the current version of the policy."""
        ...

    def make_actor(self, batch_size: int) -> Actor:
        """Returns an actor for `batch_size` environments."""
        ...


def copy_training_statistics(envs: Envs, agent: Any) -> None:
    """Copies running statistics from an agent's training environments to environments that were made for an evaluation.

    If a factory wraps environments in `NormalizeObservation`, a new environment has no statistics yet, and would show
    the policy observations on another scale than it was trained on.

    Args:
        envs: The environments of the evaluation.
        agent: The agent whose policy is to play; it may have no training environments.
    """
    sources: Sequence[WindowSource] = getattr(agent, "sources", ())
    for source in sources:
        if not source.deterministic and source.give_statistics(envs):
            return


class EpisodePlayer:
    """Plays whole episodes on its own environments; `play` may be called many times.

    Every environment plays the same number of episodes, or one more: taking the first episodes that end would favour
    short ones.

    Args:
        envs: The environments; the player owns and closes them.
        actor: An actor for as many environments.
        max_steps: Environment steps after which an episode is cut off, because an environment without a time limit may
            never end one. Its return so far counts, as with Gymnasium's `TimeLimit`. Defaults to 100,000.
        records: Whether the episodes are `PlayedEpisode`s: with the info of the last step (``"info"``), or also with
            all steps (``"steps"``). Defaults to ``""``: only returns and lengths are known.
        env_name: Name of the environment, which recorded episodes have.

    Attributes:
        max_steps: See above.
        cut_off: Number of episodes that were cut off so far.
    """

    def __init__(
        self,
        envs: Envs,
        actor: Actor,
        *,
        max_steps: int = MAX_EPISODE_STEPS,
        records: Literal["", "info", "steps"] = "",
        env_name: str = "",
    ) -> None:
        self._envs = envs
        self._actor = actor
        self.max_steps, self.cut_off = max_steps, 0
        recorder = EpisodeRecorder(envs.layout, envs.num_envs, env_name, steps=records == "steps")
        self._recorder = recorder if records else None
        self._actions = actions_for(envs.action_space)
        self.env_steps = 0

    def play(
        self,
        params: PolicyParams,
        episodes: int,
        *,
        seed: int | None,
        deterministic: bool,
    ) -> tuple[EpisodeRecord, ...]:
        """Plays `episodes` episodes from fresh resets.

        Args:
            params: The policy.
            episodes: The number of episodes, at least 1.
            seed: Seeds environments and actions.
            deterministic: Take the most likely action instead of sampling.

        Returns:
            The episodes, environment by environment.
        """
        n, version = self._envs.num_envs, params.version
        left = np.full(n, episodes // n) + (np.arange(n) < episodes % n)
        rng = np.random.default_rng(None if seed is None else (seed, 2))
        noise_of = self._actor.noise
        rollout = Rollout(self._envs.layout, 1, n, own_rewards=self._envs.own_rewards)
        self._actor.set_weights(params.arrays)
        played: list[list[EpisodeRecord]] = [[] for _ in range(n)]
        recorder = self._recorder
        still = noise_of.zeros((n,))
        # One round plays all episodes unless one is cut off. Some environments cannot be reset one by one, so an
        # environment whose episode was cut off waits until the others are done, and the next round resets them all.
        with self._envs.use():
            while left.any():
                self._envs.reset(seed, rollout.observations)
                seed = None  # later rounds continue with the same generators
                if recorder is not None:
                    recorder.begin()
                returns, lengths = np.zeros(n), np.zeros(n, np.int64)
                wanted = left > 0
                carry = initial_carry(self._actor.carry, n)
                while wanted.any():
                    noise = still if deterministic else noise_of.draw(rng, (n,))
                    chosen, _, carry = self._actor.act([leaf[0] for leaf in rollout.observations], noise, carry)
                    infos = self._envs.step(self._actions.to_env(chosen), rollout, 0, wanted)
                    self._envs.finish(rollout)
                    counted = np.logical_and(rollout.valid[0], wanted)
                    if recorder is not None:
                        recorder.add(rollout, chosen, infos, wanted, counted)
                    returns[counted] += rollout.own_rewards[0, counted]
                    lengths += counted
                    self.env_steps += int(np.count_nonzero(counted))
                    ended = np.logical_and(counted, ends(rollout)[0])
                    cut = np.logical_and(counted, ~ended & (lengths >= self.max_steps))
                    self.cut_off += int(np.count_nonzero(cut))
                    for i in np.flatnonzero(ended | cut):
                        record = EpisodeRecord(float(returns[i]), int(lengths[i]), version, version)
                        played[i].append(record if recorder is None else recorder.take(int(i), record))
                        returns[i], lengths[i] = 0.0, 0
                        left[i] -= 1
                    wanted &= (left > 0) & ~cut
                    if carry:  # a row after one that is not a transition begins an episode, too
                        carry = renewed(self._actor.carry, carry, ends(rollout)[0] | ~rollout.valid[0])
                    rollout.restart()
        return tuple(record for mine in played for record in mine)

    def close(self) -> None:
        """Closes the environments."""
        self._envs.close()


@names_checked
def evaluate_policy(
    agent: Evaluable,
    env: EnvLike,
    episodes: int = 10,
    seed: int | None = None,
    deterministic: bool = True,
    *,
    env_kwargs: Mapping[str, Any] | None = None,
) -> EvalMetrics:
    """Plays whole episodes with an agent and returns their mean return.

    An episode that has not ended after 100,000 environment steps is cut off, and its return so far counts: without a
    time limit, a good policy may play for ever.

    In environments that are made here, wrappers with running statistics (Gymnasium's `NormalizeObservation` and
    `NormalizeReward`) get a copy of the statistics of the agent's training environments, and do not update it. Returns
    are in the environment's own rewards, before a wrapper normalises them.

    Args:
        agent: The agent. If it is not bound to an environment yet, it is bound to the spaces of this one.
        env: A Gymnasium id, an environment, a vector environment or a factory. Environments of an id or a factory are
            made and closed here. An environment that you pass is reset and stepped, and left open; if the agent trains
            on it, the episode that is running there is cut off, and the next window begins a new one.
        episodes: The number of episodes, at least 1. Defaults to 10.
        seed: Seeds environments and actions; equal seeds give equal episodes.
        deterministic: Take the most likely action (default) instead of sampling.
        env_kwargs: Keyword arguments for `gymnasium.make` if `env` is an id or a spec.

    Returns:
        The result: `primary_score` is the mean undiscounted return, `stderr` its standard error and `episodes` the
        number of episodes; `metrics` has `episode_return_std`, `_min`, `_max` and `episode_length`; `episode_returns`
        and `episode_lengths` are arrays with a value for each episode, environment by environment.

    Raises:
        ConfigurationError: An argument is invalid.
        SpaceError: The environment does not fit the agent.

    Examples:
        >>> agent = optix.PPOAgent()
        >>> dataset = optix.dataset_from_env("CartPole-v1", agent, seed=0)  # tells it the spaces
        >>> result = optix.evaluate_policy(agent, "CartPole-v1", episodes=5, seed=0)
        >>> len(result.episode_returns)
        5
    """
    check_agent(
        "agent",
        agent,
        "bind",
        "policy_params",
        "make_actor",
        fix="The order of the arguments is evaluate_policy(agent, env).",
    )
    check_env("env", env, swapped="The order of the arguments is evaluate_policy(agent, env).")
    check_int("episodes", episodes, minimum=1)
    seed, env_kwargs = check_seed("seed", seed), check_env_kwargs(env_kwargs)
    deterministic = check_bool("deterministic", deterministic)
    owned = is_env_fn(env)
    envs = make_envs(env, min(episodes, MAX_ENVS) if owned else 1, env_kwargs, exactly=False)
    try:
        agent.bind(envs.observation_space, envs.action_space)
        if owned:
            copy_training_statistics(envs, agent)
        player = EpisodePlayer(envs, agent.make_actor(envs.num_envs))
        records = player.play(agent.policy_params(), episodes, seed=seed, deterministic=deterministic)
        return ReturnEvaluator().score_episodes(records)
    finally:
        envs.close() if owned else envs.release()
