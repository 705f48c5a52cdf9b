"""Environments of every kind behind one interface that the collector steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv

from keras_optix.errors import ConfigurationError, EnvError, describe
from keras_optix.experience.spaces import observation_layout

EnvLike = str | gymnasium.Env | VectorEnv | Callable[[], gymnasium.Env]


@dataclass
class StepRows:
    """Row ``t`` of a window's buffers, written by `Envs.step`: views of ``[N, ...]`` arrays."""

    next_observations: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    valid: np.ndarray


class Envs(Protocol):
    """`N` environments that reset themselves when an episode ends, and only then."""

    num_envs: int
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]

    def reset(self, seed: int | None, observations: np.ndarray) -> None:
        """Resets all environments and writes the first observations, ``[N, ...]``."""
        ...

    def step(
        self, actions: np.ndarray, rows: StepRows, observations: np.ndarray, wanted: np.ndarray | None = None
    ) -> Any:
        """Steps all environments.

        Args:
            actions: ``[N]``, as the action space wants them.
            rows: Where the transition goes.
            observations: ``[N, ...]``, where the observations to act on next go.
            wanted: ``[N]`` bool: the others need not be stepped, and what their rows hold does not matter.

        Returns:
            The info value of the step.
        """
        ...

    def close(self) -> None:
        """Closes all environments."""
        ...


class SequentialEnvs:
    """Steps single environments one after the other, without a vector environment between.

    Semantics are those of Gymnasium's same-step autoreset: an environment whose episode ended is reset at once, so
    every row is a transition.

    Args:
        envs: At least one environment, all with the same spaces.
    """

    def __init__(self, envs: list[gymnasium.Env]) -> None:
        self._envs = envs
        self.num_envs = len(envs)
        self.observation_space = envs[0].observation_space
        self.action_space = envs[0].action_space
        self._shape = observation_layout(self.observation_space)[0]

    def reset(self, seed: int | None, observations: np.ndarray) -> None:
        """See `Envs.reset`. Environment i is seeded with ``seed + i``."""
        for i in range(self.num_envs):
            observations[i] = self._reset_one(i, None if seed is None else seed + i)

    def step(
        self, actions: np.ndarray, rows: StepRows, observations: np.ndarray, wanted: np.ndarray | None = None
    ) -> list[dict[str, Any]]:
        """See `Envs.step`."""
        indices = range(self.num_envs) if wanted is None else np.flatnonzero(wanted).tolist()
        following, rewards, terminations, truncations, infos = [], [], [], [], []
        resets = []
        for i in indices:
            observation, reward, terminated, truncated, info = self._envs[i].step(actions[i])
            following.append(self._checked(i, observation))
            rewards.append(reward)
            terminations.append(terminated)
            truncations.append(truncated)
            infos.append(info)
            if terminated or truncated:
                resets.append((i, self._reset_one(i, None)))
        # One write per row and not one per environment: writing a number into an array costs more than a list's append.
        where: Any = slice(None) if wanted is None else indices
        rows.next_observations[where] = following
        rows.rewards[where] = rewards
        rows.terminated[where] = terminations
        rows.truncated[where] = truncations
        rows.valid[:] = True
        observations[:] = rows.next_observations
        for i, first in resets:
            observations[i] = first
        return infos

    def close(self) -> None:
        """See `Envs.close`."""
        for env in self._envs:
            env.close()

    def _reset_one(self, index: int, seed: int | None) -> Any:
        observation, _ = self._envs[index].reset(seed=seed)
        return self._checked(index, observation)

    def _checked(self, index: int, observation: Any) -> Any:
        """The observation, if its shape is that of the space: NumPy would stretch another one."""
        shape = observation.shape if isinstance(observation, np.ndarray) else np.shape(observation)
        if shape != self._shape:
            raise EnvError(
                describe(
                    f"The environment returned an observation of shape {shape}, "
                    f"but its observation space says {self._shape}.",
                    env=str(self._envs[index]),
                )
            )
        return observation


class VectorEnvs:
    """A Gymnasium vector environment, in any of its three autoreset modes.

    Args:
        env: The vector environment.

    Raises:
        ConfigurationError: It does not say which autoreset mode it has.
    """

    def __init__(self, env: VectorEnv) -> None:
        self._env = env
        self.num_envs = env.num_envs
        self.observation_space = env.single_observation_space
        self.action_space = env.single_action_space
        mode = (env.metadata or {}).get("autoreset_mode")
        if not isinstance(mode, AutoresetMode):
            raise ConfigurationError(
                describe(
                    "The vector environment must say in `metadata['autoreset_mode']` how it resets.",
                    fix="Set it to a gymnasium.vector.AutoresetMode.",
                    autoreset_mode=mode,
                )
            )
        self._mode = mode
        self._ended = np.zeros(self.num_envs, bool)

    def reset(self, seed: int | None, observations: np.ndarray) -> None:
        """See `Envs.reset`."""
        first, _ = self._env.reset(seed=seed)
        self._ended[:] = False
        observations[:] = first

    def step(
        self, actions: np.ndarray, rows: StepRows, observations: np.ndarray, wanted: np.ndarray | None = None
    ) -> dict[str, Any]:
        """See `Envs.step`."""
        # In next-step mode, an environment that ended ignores this action and resets: no transition.
        skipped = self._ended.copy() if self._mode is AutoresetMode.NEXT_STEP else None
        following, rewards, terminated, truncated, info = self._env.step(actions)
        rows.next_observations[:] = following
        rows.rewards[:] = rewards
        rows.terminated[:] = terminated
        rows.truncated[:] = truncated
        rows.valid[:] = True if skipped is None else ~skipped
        if skipped is not None and skipped.any():
            rows.rewards[skipped] = 0.0
            rows.terminated[skipped] = False
            rows.truncated[skipped] = False
        observations[:] = following
        ended = np.logical_or(rows.terminated, rows.truncated)
        if ended.any():
            if self._mode is AutoresetMode.SAME_STEP:
                self._take_final_observations(rows, ended, info)
            elif self._mode is AutoresetMode.DISABLED:
                reset, _ = self._env.reset(options={"reset_mask": ended.copy()})
                observations[ended] = reset[ended]
        self._ended[:] = ended
        return info

    def close(self) -> None:
        """See `Envs.close`."""
        self._env.close()

    def _take_final_observations(self, rows: StepRows, ended: np.ndarray, info: dict[str, Any]) -> None:
        final = info.get("final_obs")
        if final is None:
            raise EnvError(
                describe(
                    "A vector environment with same-step autoreset must give the last observation of an episode in "
                    "`info['final_obs']`; without it a truncated episode cannot be bootstrapped.",
                    info_keys=sorted(info),
                )
            )
        for i in np.flatnonzero(ended):
            rows.next_observations[i] = final[i]


def make_envs(env: EnvLike, num_envs: int) -> Envs:
    """Makes `num_envs` environments out of an id, a factory, an environment or a vector environment.

    Raises:
        ConfigurationError: `env` is none of these, or one environment was given where several are wanted.
    """
    if isinstance(env, VectorEnv):
        if num_envs not in (1, env.num_envs):
            raise ConfigurationError(
                describe(
                    "`num_envs` must be left out, or agree with the vector environment.",
                    num_envs=num_envs,
                    vector_env_num_envs=env.num_envs,
                )
            )
        return VectorEnvs(env)
    if isinstance(env, gymnasium.Env):
        if num_envs != 1:
            raise ConfigurationError(
                describe(
                    "One environment cannot be stepped as several.",
                    fix="Give its id or a factory, for example `lambda: gymnasium.make('CartPole-v1')`.",
                    num_envs=num_envs,
                )
            )
        return SequentialEnvs([env])
    if isinstance(env, str):
        return SequentialEnvs([_make_by_id(env) for _ in range(num_envs)])
    if callable(env):
        made = [env() for _ in range(num_envs)]
        if not all(isinstance(one, gymnasium.Env) for one in made):
            raise ConfigurationError(
                describe("The factory must return a gymnasium.Env.", returned=type(made[0]).__name__)
            )
        return SequentialEnvs(made)
    raise ConfigurationError(
        describe("`env` must be a Gymnasium id, an Env, a VectorEnv or a factory of an Env.", env=type(env).__name__)
    )


def is_recipe(env: EnvLike) -> bool:
    """Whether `env` makes environments (an id, a factory) rather than being one."""
    return not isinstance(env, gymnasium.Env | VectorEnv)


def recipe_of(env: EnvLike) -> EnvLike | None:
    """What makes another environment like `env`: its id, its factory or its spec; None where nothing does."""
    if isinstance(env, gymnasium.Env | VectorEnv):
        spec = env.spec
        # Only a spec that is registered by name can be made again; a vector environment's spec makes one of its kind.
        return (lambda: gymnasium.make(spec)) if spec is not None and spec.id in gymnasium.registry else None
    return env


def _make_by_id(env_id: str) -> gymnasium.Env:
    try:
        return gymnasium.make(env_id)
    except gymnasium.error.Error as error:
        raise ConfigurationError(describe(f"The environment cannot be made: {error}", env=env_id)) from error
