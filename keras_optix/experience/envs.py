"""Environments of every kind behind one interface that the collector steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, VectorEnv

from keras_optix.errors import ConfigurationError, EnvError, SpaceError, describe
from keras_optix.experience.observations import Leaves, ObservationLayout
from keras_optix.experience.rollout import Rollout, ends
from keras_optix.experience.savable import SavableEnv
from keras_optix.reprs import OneLineRepr

_WORKER_DIED = (BrokenPipeError, EOFError, ConnectionResetError)


class Envs(Protocol):
    """`N` environments that reset themselves when an episode ends, and only then."""

    num_envs: int
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    layout: ObservationLayout

    def reset(self, seed: int | None, observations: Leaves) -> None:
        """Resets all environments and writes the first observations, leaves of ``[T + 1, N, ...]``, at row 0."""
        ...

    def step(self, actions: np.ndarray, rollout: Rollout, t: int, wanted: np.ndarray | None = None) -> Any:
        """Steps all environments.

        Args:
            actions: ``[N, ...]``, as the action space wants them.
            rollout: Gets the transition at row `t`, and at row ``t + 1`` the observations to act on next.
            t: Row.
            wanted: ``[N]`` bool: the others need not be stepped, and what their rows hold does not matter.

        Returns:
            The info value of the step.
        """
        ...

    def finish(self, rollout: Rollout) -> None:
        """Called after the last step of a rollout: marks rows that are no transition as not valid."""
        ...

    def save(self) -> list[Mapping[str, Any]] | None:
        """Returns the states of the environments, or None if they cannot be saved."""
        ...

    def restore(self, states: Sequence[Mapping[str, Any]]) -> bool:
        """Puts the environments into saved states; returns False, and changes nothing, if that cannot be done."""
        ...

    def close(self) -> None:
        """Closes all environments."""
        ...


class SequentialEnvs(OneLineRepr):
    """Steps single environments one after the other, without a vector environment between.

    Semantics are those of Gymnasium's same-step autoreset: an environment whose episode ended is reset at once, so
    every row is a transition.

    Args:
        envs: At least one environment, all with the same spaces.

    Raises:
        SpaceError: The observation space is not supported, or spaces differ between environments.
    """

    def __init__(self, envs: list[gymnasium.Env]) -> None:
        self._envs = envs
        self._steps = [env.step for env in envs]
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
        self._scalar_box = isinstance(self.action_space, spaces.Box) and self.action_space.shape == ()
        self.layout = ObservationLayout(self.observation_space)
        self._single = self.layout.single

    def reset(self, seed: int | None, observations: Leaves) -> None:
        """See `Envs.reset`. Environment i is seeded with ``seed + i``."""
        for i in range(self.num_envs):
            _write(observations, 0, i, self._reset_one(i, None if seed is None else seed + i))

    def step(
        self, actions: np.ndarray, rollout: Rollout, t: int, wanted: np.ndarray | None = None
    ) -> list[dict[str, Any]]:
        """See `Envs.step`."""
        indices = self._all if wanted is None else np.flatnonzero(wanted).tolist()
        # A Box of no axes: its action is an array too, and indexing would give a number.
        each: Any = [np.asarray(action) for action in actions] if self._scalar_box else actions
        following = rollout.observations
        single = self._single
        first, after, row = following[0], t + 1, rollout.rewards[t]
        infos = []
        for i in indices:
            result = self._steps[i](each[i])
            try:
                observation, reward, terminated, truncated, info = result
            except (TypeError, ValueError):
                raise self._wrong_api(i, "step", "(observation, reward, terminated, truncated, info)", result) from None
            infos.append(info)
            row[i] = reward
            if single is not None and single.is_plain(observation, ()):
                # What almost every environment returns, without the general way's two microseconds.
                first[after, i] = observation
            else:
                _write(following, after, i, self._take(i, observation))
            if terminated or truncated:
                rollout.terminated[t, i] = terminated
                rollout.truncated[t, i] = truncated
                rollout.finals.append((t, i, [leaf[after, i].copy() for leaf in following]))
                _write(following, after, i, self._reset_one(i, None))
        return infos

    def finish(self, rollout: Rollout) -> None:
        """See `Envs.finish`. Every row is a transition."""

    def save(self) -> list[Mapping[str, Any]] | None:
        """See `Envs.save`. Each must be a `SavableEnv`."""
        savable = self._savable()
        return None if savable is None else [env.save_state() for env in savable]

    def restore(self, states: Sequence[Mapping[str, Any]]) -> bool:
        """See `Envs.restore`. Each must be a `SavableEnv`."""
        savable = self._savable()
        if savable is None:
            return False
        for env, state in zip(savable, states, strict=True):
            env.load_state(state)
        return True

    def close(self) -> None:
        """See `Envs.close`."""
        for env in self._envs:
            env.close()

    def _savable(self) -> list[SavableEnv] | None:
        savable: list[SavableEnv] = [env for env in self._envs if isinstance(env, SavableEnv)]
        return savable if len(savable) == self.num_envs else None

    def _reset_one(self, index: int, seed: int | None) -> Leaves:
        result = self._envs[index].reset(seed=seed)
        if not isinstance(result, tuple) or len(result) != 2:
            raise self._wrong_api(index, "reset", "(observation, info)", result)
        return self._take(index, result[0])

    def _wrong_api(self, index: int, method: str, wanted: str, result: Any) -> EnvError:
        returned = f"a tuple of {len(result)}" if isinstance(result, tuple) else type(result).__name__
        return EnvError(
            describe(
                f"The environment's `{method}` must return {wanted}, as Gymnasium has it.",
                fix=f"Environment {index}: {self._envs[index]}.",
                returned=returned,
            )
        )

    def _take(self, index: int, observation: Any) -> Leaves:
        try:
            return self.layout.take(observation)
        except EnvError as error:
            raise EnvError(f"{error} Environment {index}: {self._envs[index]}.") from None


class VectorEnvs(OneLineRepr):
    """A Gymnasium vector environment, in any of its three autoreset modes.

    Args:
        env: The vector environment.

    Raises:
        ConfigurationError: It does not say which autoreset mode it has.
        SpaceError: The observation space is not supported.
    """

    def __init__(self, env: VectorEnv) -> None:
        self._env = env
        self.num_envs = env.num_envs
        self.observation_space = env.single_observation_space
        self.action_space = env.single_action_space
        self.layout = ObservationLayout(self.observation_space)
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
        self._single, self._leading = self.layout.single, (self.num_envs,)

    def reset(self, seed: int | None, observations: Leaves) -> None:
        """See `Envs.reset`."""
        first, _ = self._ask(self._env.reset, seed=seed)
        self._ended = np.zeros(self.num_envs, bool)
        for leaf, values in zip(observations, self.layout.take(first, self.num_envs), strict=True):
            leaf[0] = values

    def step(self, actions: np.ndarray, rollout: Rollout, t: int, wanted: np.ndarray | None = None) -> Any:
        """See `Envs.step`."""
        observation, rewards, terminated, truncated, info = self._ask(self._env.step, actions)
        rollout.rewards[t] = rewards
        rollout.terminated[t] = terminated
        rollout.truncated[t] = truncated
        if self._single is not None and self._single.is_plain(observation, self._leading):
            rollout.observations[0][t + 1] = observation
        else:
            for leaf, values in zip(rollout.observations, self.layout.take(observation, self.num_envs), strict=True):
                leaf[t + 1] = values
        if self._mode is not AutoresetMode.NEXT_STEP:
            ended = rollout.terminated[t] | rollout.truncated[t]
            if ended.any():
                self._begin_episodes(rollout, t, ended, info)
        return info

    def finish(self, rollout: Rollout) -> None:
        """See `Envs.finish`. In next-step mode, marks the rows in which an environment only reset."""
        if self._mode is not AutoresetMode.NEXT_STEP:
            return
        ended = ends(rollout)
        # An environment that ended ignores its next action and resets: no transition, so no end either.
        ended[0] &= ~self._ended
        for t in np.flatnonzero((ended[1:] & ended[:-1]).any(-1)):
            ended[t + 1] &= ~ended[t]
        skipped = np.concatenate([self._ended[None], ended[:-1]])
        self._ended = ended[-1].copy()
        np.logical_not(skipped, out=rollout.valid)
        for rows in (rollout.rewards, rollout.terminated, rollout.truncated):
            rows[skipped] = 0

    def save(self) -> list[Mapping[str, Any]] | None:
        """See `Envs.save`. Gymnasium has no way to do it."""
        return None

    def restore(self, states: Sequence[Mapping[str, Any]]) -> bool:
        """See `Envs.restore`. Gymnasium has no way to do it."""
        return False

    def close(self) -> None:
        """See `Envs.close`."""
        self._env.close()

    def _begin_episodes(self, rollout: Rollout, t: int, ended_now: np.ndarray, info: dict[str, Any]) -> None:
        """Keeps the last observations of episodes that ended; the first ones of the next take their place."""
        following = rollout.observations
        ended = [int(i) for i in np.flatnonzero(ended_now)]
        if self._mode is AutoresetMode.DISABLED:
            rollout.finals += [(t, i, [leaf[t + 1, i].copy() for leaf in following]) for i in ended]
            observation, _ = self._ask(self._env.reset, options={"reset_mask": ended_now})
            for leaf, values in zip(following, self.layout.take(observation, self.num_envs), strict=True):
                leaf[t + 1, ended] = values[ended]
            return
        final = info.get("final_obs")
        if final is None:
            raise EnvError(
                describe(
                    "A vector environment with same-step autoreset must give the last observation of an episode in "
                    "`info['final_obs']`; without it a truncated episode cannot be bootstrapped.",
                    info_keys=sorted(info),
                )
            )
        rollout.finals += [(t, i, self.layout.take(final[i])) for i in ended]

    def _ask(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Calls a method of the vector environment."""
        try:
            return method(*args, **kwargs)
        except _WORKER_DIED as error:
            raise self._worker_died(error) from error

    def _worker_died(self, error: BaseException) -> EnvError:
        env = self._env.unwrapped
        if isinstance(env, AsyncVectorEnv):
            # Its own `close` waits for the answer of the worker that is gone, and fails.
            for process in env.processes:
                process.terminate()
                process.join()
            env.closed = True
        return EnvError(
            f"A worker process of the vector environment died ({type(error).__name__}); its environment may have "
            f"crashed or run out of memory. The environments are closed. Environment: {self._env}."
        )


def _write(observations: Leaves, t: int, i: int, leaves: Leaves) -> None:
    for target, value in zip(observations, leaves, strict=True):
        target[t, i] = value
