"""Puts environments behind the one interface that the collector steps; see `vector_envs` for vector environments."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import gymnasium
import numpy as np
from gymnasium import spaces

from keras_optix.errors import ConfigurationError, EnvError, SpaceError, describe
from keras_optix.experience.closing import close_all
from keras_optix.experience.contract import (
    FLAGS,
    NUMBERS,
    Where,
    flag_of,
    info_of,
    name_of,
    reset_of,
    reward_of,
    step_of,
)
from keras_optix.experience.env_thread import Progress
from keras_optix.experience.observations import Leaves, ObservationLayout
from keras_optix.experience.rollout import Rollout
from keras_optix.experience.savable import SavableEnv
from keras_optix.experience.statistics import RewardsBeneath
from keras_optix.experience.taps import untapped
from keras_optix.experience.usage import Tenant, innermost_of
from keras_optix.reprs import OneLineRepr


class Envs(Protocol):
    """`N` environments that reset themselves when an episode ends, and only then."""

    num_envs: int
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    layout: ObservationLayout
    tenant: Tenant
    own_rewards: bool

    @property
    def resetting(self) -> np.ndarray | None:
        """``[N]`` bool: True for environments that only reset in the next row, which is then not a transition.

        None if the environments never have such rows. It is up to date after `reset` and `finish`.
        """
        ...

    def reset(self, seed: int | None, observations: Leaves, only: np.ndarray | None = None) -> None:
        """Resets environments and writes the first observations, leaves of ``[T + 1, N, ...]``, at row 0.

        Args:
            seed: The seed; None continues with the generators that the environments have.
            observations: The leaves that are written to.
            only: ``[N]`` bool, the environments to reset; the others continue their episodes. If environments can only
                be reset together, all of them are True or none. None resets all.
        """
        ...

    def step(self, actions: np.ndarray, rollout: Rollout, t: int, wanted: np.ndarray | None = None) -> Any:
        """Steps all environments.

        Args:
            actions: ``[N, ...]``, elements of the action space.
            rollout: Receives the transition at row `t`, and the observations to act on next at row ``t + 1``.
            t: The row.
            wanted: ``[N]`` bool, the environments to step. The others need not be stepped, and their rows may hold
                anything. None steps all.

        Returns:
            The info value of the step.
        """
        ...

    def finish(self, rollout: Rollout) -> None:
        """Marks rows that are not a transition as not valid; called after the last step of a rollout."""
        ...

    def save(self) -> list[Mapping[str, Any]] | None:
        """Returns the states of the environments, or None if they cannot be saved."""
        ...

    def restore(self, states: Sequence[Mapping[str, Any]]) -> bool:
        """Puts the environments into saved states; returns False, and changes nothing, if that cannot be done."""
        ...

    def members(self) -> list[Any]:
        """Returns the objects that are stepped: the single environments, or the vector environment."""
        ...

    def use(self) -> AbstractContextManager[np.ndarray]:
        """Surrounds stepping and resetting; yields ``[N]`` bool, the environments that other code used since before."""
        ...

    def note_calls(self, progress: Progress) -> None:
        """Notes each call of an environment in `progress` from now on."""
        ...

    def place(self, at: tuple[int, str]) -> str:
        """Describes, for a message, the environment and the method that `Progress.place` names."""
        ...

    def release(self) -> None:
        """Leaves the environments open, and removes everything that was attached to them."""
        ...

    def close(self) -> None:
        """Closes all environments, see `close_all`; does nothing once they were given up."""
        ...

    def give_up(self) -> None:
        """Called when a call of an environment does not return.

        Ends the processes of environments. In this process nothing can be ended: `close` then waits until `close_late`.
        """
        ...

    def close_late(self) -> None:
        """Closes environments that were given up, after the call has returned at last."""
        ...


class SequentialEnvs(OneLineRepr):
    """Steps single environments one after the other, without a vector environment around them.

    It behaves like Gymnasium's same-step autoreset: an environment whose episode ended is reset at once, so every row
    is a transition.

    Args:
        envs: At least one environment, all with the same spaces.

    Attributes:
        tenant: Notices if other code uses the environments.
        own_rewards: Whether the rewards before normalisation are known, too.

    Raises:
        SpaceError: The observation space is not supported, or spaces differ between environments.
        ConfigurationError: One environment was given twice.
    """

    def __init__(self, envs: list[gymnasium.Env]) -> None:
        self._envs = envs
        self.num_envs = len(envs)
        self._all = range(len(envs))
        self.observation_space = envs[0].observation_space
        self.action_space = envs[0].action_space
        for env in envs[1:]:
            if (env.observation_space, env.action_space) != (self.observation_space, self.action_space):
                raise SpaceError(
                    describe(
                        "All environments must have the same spaces.",
                        first=(self.observation_space, self.action_space),
                        other=(env.observation_space, env.action_space),
                    )
                )
        if len({id(innermost_of(env)) for env in envs}) < len(envs):
            raise ConfigurationError(
                describe(
                    "Each call of a factory must make a new environment, but this one returned the same one again.",
                    fix="Make the environment inside the factory.",
                    num_envs=len(envs),
                )
            )
        self.episode_limit = episode_limit_of(envs[0])
        self.reward_threshold = reward_threshold_of(envs[0])
        self._scalar_box = isinstance(self.action_space, spaces.Box) and self.action_space.shape == ()
        self.layout = ObservationLayout(self.observation_space)
        self._single = self.layout.single
        self._beneath = [RewardsBeneath(env, 0.0) for env in envs]
        self.own_rewards = all(rewards.wrapper for rewards in self._beneath)
        self.tenant = Tenant(envs)
        self.resetting: np.ndarray | None = None
        self._progress: Progress | None = None
        self._given_up = False
        self._bind_methods()

    def reset(self, seed: int | None, observations: Leaves, only: np.ndarray | None = None) -> None:
        """See `Envs.reset`. Environment i is seeded with ``seed + i``."""
        for i in self._all if only is None else np.flatnonzero(only).tolist():
            _write(observations, 0, i, self._reset_one(i, None if seed is None else seed + i))

    def step(
        self, actions: np.ndarray, rollout: Rollout, t: int, wanted: np.ndarray | None = None
    ) -> list[dict[str, Any]]:
        """See `Envs.step`."""
        indices = self._all if wanted is None else np.flatnonzero(wanted).tolist()
        # The action of a Box without axes must be an array too; indexing would give a number.
        each: Any = [np.asarray(action) for action in actions] if self._scalar_box else actions
        following = rollout.observations
        single = self._single
        first, after, row = following[0], t + 1, rollout.rewards[t]
        infos = []
        steps, beneath = self._steps, self._beneath if self.own_rewards else None
        for i in indices:
            result = steps[i](each[i])
            try:
                observation, reward, terminated, truncated, info = result
            except (TypeError, ValueError):
                observation, reward, terminated, truncated, info = step_of(result, self._where(i, t))
            # The types that almost every environment returns need no conversion.
            if type(reward) not in NUMBERS:
                reward = reward_of(reward, self._where(i, t))
            if (terminated is not False and type(terminated) not in FLAGS) or (
                truncated is not False and type(truncated) not in FLAGS
            ):
                terminated = flag_of("terminated", terminated, self._where(i, t))
                truncated = flag_of("truncated", truncated, self._where(i, t))
            if type(info) is not dict:
                info = info_of(info, self._where(i, t))
            infos.append(info)
            row[i] = reward
            if beneath is not None:
                rollout.own_rewards[t, i] = beneath[i].pop_earned()
            if single is not None and single.is_plain(observation, ()):
                first[after, i] = observation
            else:
                _write(following, after, i, self._converted(i, observation))
            if terminated or truncated:
                rollout.terminated[t, i] = terminated
                rollout.truncated[t, i] = truncated
                rollout.finals.append((t, i, [leaf[after, i].copy() for leaf in following]))
                _write(following, after, i, self._reset_one(i, None))
        return infos

    def finish(self, rollout: Rollout) -> None:
        """Does nothing, because every row is a transition. See `Envs.finish`."""

    def save(self) -> list[Mapping[str, Any]] | None:
        """See `Envs.save`. Returns None unless each environment is a `SavableEnv`."""
        savable = self._savable()
        return None if savable is None else [env.save_state() for env in savable]

    def restore(self, states: Sequence[Mapping[str, Any]]) -> bool:
        """See `Envs.restore`. Returns False unless each environment is a `SavableEnv`."""
        savable = self._savable()
        if savable is None:
            return False
        for env, state in zip(savable, states, strict=True):
            env.load_state(state)
        return True

    def members(self) -> list[Any]:
        """See `Envs.members`."""
        return list(self._envs)

    @contextlib.contextmanager
    def use(self) -> Iterator[np.ndarray]:
        """See `Envs.use`."""
        with self.tenant.use() as used:
            self._bind_methods()
            for rewards in self._beneath:
                rewards.pop_earned()  # discards rewards of steps that other code took
            yield used

    def release(self) -> None:
        """See `Envs.release`."""
        self.tenant.release()
        for rewards in self._beneath:
            rewards.release()

    def note_calls(self, progress: Progress) -> None:
        """See `Envs.note_calls`."""
        self._progress = progress
        self._bind_methods()

    def place(self, at: tuple[int, str]) -> str:
        """See `Envs.place`."""
        return f"Environment {at[0]} ({name_of(self._envs[at[0]])}), in `{at[1]}`"

    def close(self) -> None:
        """See `Envs.close`."""
        if not self._given_up:
            self.release()
            close_all(self._envs)

    def give_up(self) -> None:
        """See `Envs.give_up`."""
        self._given_up = True

    def close_late(self) -> None:
        """See `Envs.close_late`."""
        self._given_up = False
        self.close()

    def _savable(self) -> list[SavableEnv] | None:
        savable: list[SavableEnv] = [env for env in self._envs if isinstance(env, SavableEnv)]
        return savable if len(savable) == self.num_envs else None

    def _bind_methods(self) -> None:
        """Finds the methods beneath the taps that notice other code; they may have been replaced since the last use."""
        self._steps = [untapped(env, "step") for env in self._envs]
        self._resets = [untapped(env, "reset") for env in self._envs]
        progress = self._progress
        if progress is not None:
            self._steps = [progress.noted(step, i, "step") for i, step in enumerate(self._steps)]
            self._resets = [progress.noted(reset, i, "reset") for i, reset in enumerate(self._resets)]

    def _reset_one(self, index: int, seed: int | None) -> Leaves:
        return self._converted(index, reset_of(self._resets[index](seed=seed), self._where(index, None)))

    def _where(self, index: int, t: int | None) -> Where:
        at = "" if t is None else f", row {t} of the window"
        return lambda: f"Environment {index}{at}: {name_of(self._envs[index])}"

    def _converted(self, index: int, observation: Any) -> Leaves:
        try:
            return self.layout.convert(observation)
        except EnvError as error:
            raise EnvError(f"{error} {self._where(index, None)()}.") from None


def episode_limit_of(env: Any) -> int | None:
    """Returns the steps after which an environment truncates an episode, if its spec has that number, else None."""
    limit = getattr(getattr(env, "spec", None), "max_episode_steps", None)
    return limit if isinstance(limit, int) else None


def _write(observations: Leaves, t: int, i: int, leaves: Leaves) -> None:
    for target, value in zip(observations, leaves, strict=True):
        target[t, i] = value


def reward_threshold_of(env: Any) -> float | None:
    """Returns the mean return at which an environment counts as solved, according to its spec."""
    threshold = getattr(getattr(env, "spec", None), "reward_threshold", None)
    return float(threshold) if isinstance(threshold, int | float) else None
