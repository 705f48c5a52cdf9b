"""Plays whole episodes with one version of a policy and measures what they return."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from keras_optix.arguments import names_checked
from keras_optix.evaluators.returns import ReturnEvaluator
from keras_optix.experience.actions import actions_for
from keras_optix.experience.actor import Actor
from keras_optix.experience.carry import initial_carry, renewed
from keras_optix.experience.env_kinds import check_env, check_env_kwargs
from keras_optix.experience.envs import Envs
from keras_optix.experience.making import EnvLike, is_env_fn, make_envs
from keras_optix.experience.policy_params import PolicyParams
from keras_optix.experience.rollout import Rollout, ends
from keras_optix.experience.source import WindowSource
from keras_optix.records import EpisodeRecord, EvalMetrics
from keras_optix.validation import check_agent, check_bool, check_int, check_seed

MAX_ENVS = 20
MAX_EPISODE_STEPS = 100_000


class Evaluable(Protocol):
    """What `evaluate_policy` measures: an agent."""

    def bind(self, observation_space: Any, action_space: Any) -> None:
        """Fits the agent to the spaces, or raises."""
        ...

    def policy_params(self) -> PolicyParams:
        """Reads out the current version of the policy."""
        ...

    def make_actor(self, batch_size: int) -> Actor:
        """Returns an actor for `batch_size` environments."""
        ...


def copy_training_statistics(envs: Envs, agent: Any) -> None:
    """Gives environments that were made for an evaluation what those have seen that the agent was trained on.

    With `NormalizeObservation` in a factory, a new environment would show the policy observations that it has never
    seen the like of.

    Args:
        envs: The environments.
        agent: Whose policy is to play; it may have been trained on none.
    """
    sources: Sequence[WindowSource] = getattr(agent, "sources", ())
    for source in sources:
        if not source.deterministic and source.give_statistics(envs):
            return


class EpisodePlayer:
    """Plays whole episodes on environments of its own, again and again.

    Every environment plays the same number of episodes (up to one): taking the first episodes that end would favour
    short ones.

    Args:
        envs: The environments; the player owns and closes them.
        actor: For as many environments.
        max_steps: Environment steps after which an episode is cut: an environment without a time limit may never end
            one. What it returned so far counts, as with Gymnasium's `TimeLimit`. Defaults to 100,000.
    """

    def __init__(self, envs: Envs, actor: Actor, *, max_steps: int = MAX_EPISODE_STEPS) -> None:
        self._envs = envs
        self._actor = actor
        self._max_steps = max_steps
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
            episodes: How many, at least 1.
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
        still = noise_of.zeros((n,))
        # One round plays all, unless an episode is cut: there are environments that cannot be reset one by one, so its
        # environment waits until the others are through, and the next round resets them all.
        with self._envs.use():
            while left.any():
                self._envs.reset(seed, rollout.observations)
                seed = None  # later rounds draw on from the same generators
                returns, lengths = np.zeros(n), np.zeros(n, np.int64)
                wanted = left > 0
                carry = initial_carry(self._actor.carry, n)
                while wanted.any():
                    noise = still if deterministic else noise_of.draw(rng, (n,))
                    chosen, _, carry = self._actor.act([leaf[0] for leaf in rollout.observations], noise, carry)
                    self._envs.step(self._actions.to_env(chosen), rollout, 0, wanted)
                    self._envs.finish(rollout)
                    counted = np.logical_and(rollout.valid[0], wanted)
                    returns[counted] += rollout.own_rewards[0, counted]
                    lengths += counted
                    self.env_steps += int(np.count_nonzero(counted))
                    ended = np.logical_and(counted, ends(rollout)[0])
                    cut = np.logical_and(counted, ~ended & (lengths >= self._max_steps))
                    for i in np.flatnonzero(ended | cut):
                        played[i].append(EpisodeRecord(float(returns[i]), int(lengths[i]), version, version))
                        returns[i], lengths[i] = 0.0, 0
                        left[i] -= 1
                    wanted &= (left > 0) & ~cut
                    if carry:  # the row after one that is no transition begins an episode, too
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

    An episode that has not ended after 100,000 environment steps is cut, and what it returned so far counts: without a
    time limit, a good policy may play for ever.

    Wrappers with running statistics (Gymnasium's `NormalizeObservation` and `NormalizeReward`) in environments that are
    made here take over what those of the agent's training environments have seen, and add nothing. Returns are in the
    environment's own rewards, beneath a wrapper that normalises them.

    Args:
        agent: The agent. If it has seen no environment yet, it is bound to this one's spaces.
        env: A Gymnasium id, an environment, a vector environment or a factory. An environment that was passed in is
            stepped and reset, and left open; others are made and closed here. If the agent trains on it, the episode
            that is running there is cut: the next window begins a new one.
        episodes: How many, at least 1. Defaults to 10.
        seed: Seeds environments and actions; equal seeds give equal episodes.
        deterministic: Take the most likely action (default) instead of sampling.
        env_kwargs: Keyword arguments for the environment of an id.

    Returns:
        `primary_score` is the mean undiscounted return, `stderr` its standard error, `episodes` their number;
        `metrics` has `episode_return_std`, `_min`, `_max` and `episode_length`; `episode_returns` and
        `episode_lengths` are arrays with a value for each episode, environment by environment.

    Raises:
        ConfigurationError: An argument is invalid.
        SpaceError: The environment does not fit the agent.
    """
    check_agent(
        "agent", agent, "bind", "policy_params", "make_actor", fix="The arguments are evaluate_policy(agent, env)."
    )
    check_env("env", env, swapped="The arguments are evaluate_policy(agent, env).")
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
