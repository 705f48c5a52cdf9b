"""A vector environment behind the interface that the collector steps; see `envs`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from keras_optix.errors import ConfigurationError, EnvError, EnvWorkerError, SpaceError, StateError, describe
from keras_optix.experience.closing import close_all
from keras_optix.experience.contract import (
    Where,
    final_observation,
    flags_of,
    infos_of,
    name_of,
    reset_of,
    rewards_of,
    step_of,
)
from keras_optix.experience.env_thread import Progress
from keras_optix.experience.envs import episode_limit_of, reward_threshold_of
from keras_optix.experience.observations import Leaves, ObservationLayout
from keras_optix.experience.rollout import Rollout, ends
from keras_optix.experience.statistics import RewardsBeneath
from keras_optix.experience.taps import untapped
from keras_optix.experience.usage import Tenant
from keras_optix.experience.workers import WorkerGuard, dead_worker, end_workers, stuck_worker, workers_of
from keras_optix.reprs import OneLineRepr

_WORKER_DIED = (BrokenPipeError, EOFError, ConnectionResetError)
_DEATH_SECONDS = 1.0  # in which a process ends whose pipe is closed

MakeVector = Callable[[], VectorEnv]


class VectorEnvs(OneLineRepr):
    """A Gymnasium vector environment, in any of its three autoreset modes.

    Args:
        env: The vector environment.

    Attributes:
        make: Makes the vector environment again; None if there is no such function.

    Raises:
        ConfigurationError: The environment's metadata do not say which autoreset mode it has.
        SpaceError: The observation space is not supported.
    """

    def __init__(self, env: VectorEnv) -> None:
        self.make: MakeVector | None = None
        self._progress: Progress | None = None
        self._guard: WorkerGuard | None = None
        self._use(env)

    def _use(self, env: VectorEnv) -> None:
        self._env = env
        self.episode_limit = episode_limit_of(env)
        self.reward_threshold = reward_threshold_of(env)
        self.num_envs = env.num_envs
        self.observation_space = env.single_observation_space
        self.action_space = env.single_action_space
        self.layout = ObservationLayout(self.observation_space)
        mode = (getattr(env, "metadata", None) or {}).get("autoreset_mode")
        base = getattr(env, "unwrapped", env)
        if mode is not None and isinstance(base, (SyncVectorEnv, AsyncVectorEnv)) and env.metadata is base.metadata:
            # Gymnasium 1.1 keeps the mode in the metadata of the environment's class, where the next vector
            # environment overwrites it.
            mode = base.autoreset_mode
        if isinstance(mode, str) and mode in {known.value for known in AutoresetMode}:
            mode = AutoresetMode(mode)
        if not isinstance(mode, AutoresetMode):
            raise ConfigurationError(
                describe(
                    "A vector environment must have its autoreset mode in `metadata['autoreset_mode']`.",
                    fix="Set it to a gymnasium.vector.AutoresetMode.",
                    autoreset_mode=mode,
                )
            )
        self._mode = mode
        self._ended = np.zeros(self.num_envs, bool)
        self._single, self._leading = self.layout.single, (self.num_envs,)
        self._beneath = RewardsBeneath(env, np.zeros(self.num_envs))
        self.own_rewards = bool(self._beneath.wrapper)
        self.tenant = Tenant([env])
        self._bind_methods()

    @property
    def remakable(self) -> bool:
        """Whether the environments run in processes that can be started again."""
        return self.make is not None and bool(workers_of(self._env))

    def died(self) -> int | None:
        """Returns the index of an environment whose process has died; None if there is none."""
        return dead_worker(self._env)

    def guard(self) -> None:
        """Ends the processes of the environments when this process ends, however it ends."""
        self._guard = WorkerGuard(self._env)

    def remake(self) -> None:
        """Makes the vector environment again, after one of its processes died.

        Raises:
            SpaceError: The new one has other spaces.
        """
        if self.make is None:
            raise StateError("There is no function that makes the vector environment again.")
        before, guarded = (self.observation_space, self.action_space, self.num_envs), self._guard is not None
        self.close()
        made = self.make()
        if (made.single_observation_space, made.single_action_space, made.num_envs) != before:
            made.close()
            problem = "A factory must make the same vector environment each time."
            raise SpaceError(describe(problem, first=before, other=(made.single_observation_space, made.num_envs)))
        self._use(made)
        self.tenant.watch()
        if guarded:
            self.guard()

    @property
    def resetting(self) -> np.ndarray | None:
        """See `Envs.resetting`."""
        return self._ended if self._mode is AutoresetMode.NEXT_STEP else None

    def reset(self, seed: int | None, observations: Leaves, only: np.ndarray | None = None) -> None:
        """Resets all environments together. See `Envs.reset`."""
        first = reset_of(self._ask(self._reset, seed=seed), self._where(None), self.num_envs)
        self._ended = np.zeros(self.num_envs, bool)
        for leaf, values in zip(observations, self.layout.convert(first, self.num_envs), strict=True):
            leaf[0] = values

    def step(self, actions: np.ndarray, rollout: Rollout, t: int, wanted: np.ndarray | None = None) -> Any:
        """See `Envs.step`."""
        result, where, n = self._ask(self._step, actions), self._where(t), self.num_envs
        if type(result) is not tuple or len(result) != 5:
            result = step_of(result, where)
        observation, rewards, terminated, truncated, info = result
        rollout.rewards[t] = rewards_of(rewards, n, where)
        rollout.terminated[t] = flags_of("terminated", terminated, n, where)
        rollout.truncated[t] = flags_of("truncated", truncated, n, where)
        info = infos_of(info, n, where)
        if self.own_rewards:
            rollout.own_rewards[t] = self._beneath.pop_earned()
        if self._single is not None and self._single.is_plain(observation, self._leading):
            rollout.observations[0][t + 1] = observation
        else:
            for leaf, values in zip(rollout.observations, self.layout.convert(observation, self.num_envs), strict=True):
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
        # An environment that ended ignores its next action and resets. That is not a transition, so it ends nothing.
        ended[0] &= ~self._ended
        for t in np.flatnonzero((ended[1:] & ended[:-1]).any(-1)):
            ended[t + 1] &= ~ended[t]
        skipped = np.concatenate([self._ended[None], ended[:-1]])
        self._ended = ended[-1].copy()
        np.logical_not(skipped, out=rollout.valid)
        for rows in (rollout.rewards, rollout.own_rewards, rollout.terminated, rollout.truncated):
            rows[skipped] = 0

    def save(self) -> list[Mapping[str, Any]] | None:
        """Returns None, because Gymnasium cannot save vector environments. See `Envs.save`."""
        return None

    def restore(self, states: Sequence[Mapping[str, Any]]) -> bool:
        """Returns False, because Gymnasium cannot restore vector environments. See `Envs.restore`."""
        return False

    def members(self) -> list[Any]:
        """See `Envs.members`."""
        return [self._env]

    @contextlib.contextmanager
    def use(self) -> Iterator[np.ndarray]:
        """See `Envs.use`. Other code that uses the vector environment uses all of its environments."""
        with self.tenant.use() as used:
            self._bind_methods()
            self._beneath.pop_earned()
            yield np.repeat(used, self.num_envs)

    def release(self) -> None:
        """See `Envs.release`."""
        self.tenant.release()
        self._beneath.release()

    def note_calls(self, progress: Progress) -> None:
        """See `Envs.note_calls`."""
        self._progress = progress
        self._bind_methods()

    def place(self, at: tuple[int, str]) -> str:
        """See `Envs.place`."""
        stuck = stuck_worker(self._env)
        which = "The vector environment" if stuck is None else f"Environment {stuck} of the vector environment"
        return f"{which} ({name_of(self._env)}), in `{at[1]}`"

    def close(self) -> None:
        """See `Envs.close`."""
        self.release()
        if not (workers_of(self._env) and self._env.unwrapped.closed):
            close_all([self._env])
        if self._guard is not None:
            self._guard.stop()

    def give_up(self) -> None:
        """See `Envs.give_up`."""
        end_workers(self._env)

    def close_late(self) -> None:
        """See `Envs.close_late`."""
        self.close()

    def _bind_methods(self) -> None:
        """Finds the methods beneath the taps that notice other code."""
        self._step, self._reset = untapped(self._env, "step"), untapped(self._env, "reset")
        if self._progress is not None:
            self._step = self._progress.noted(self._step, 0, "step")
            self._reset = self._progress.noted(self._reset, 0, "reset")

    def _where(self, t: int | None) -> Where:
        at = "" if t is None else f" in row {t} of the window"
        return lambda: f"The vector environment{at}: {name_of(self._env)}"

    def _begin_episodes(self, rollout: Rollout, t: int, ended_now: np.ndarray, info: Any) -> None:
        """Keeps the last observations of episodes that ended, and puts the first of the next ones in their place."""
        following = rollout.observations
        ended = [int(i) for i in np.flatnonzero(ended_now)]
        if self._mode is AutoresetMode.DISABLED:
            rollout.finals += [(t, i, [leaf[t + 1, i].copy() for leaf in following]) for i in ended]
            answer = self._ask(self._reset, options={"reset_mask": ended_now})
            observation = reset_of(answer, self._where(t), self.num_envs)
            for leaf, values in zip(following, self.layout.convert(observation, self.num_envs), strict=True):
                leaf[t + 1, ended] = values[ended]
            return
        for i in ended:
            final = final_observation(info, i)
            if final is None:
                raise EnvError(
                    describe(
                        "A vector environment with same-step autoreset must give the last observation of an episode in "
                        "`info['final_obs']`. Without it a truncated episode cannot be bootstrapped.",
                        info_keys=sorted(info[i] if isinstance(info, list) else info),
                    )
                )
            rollout.finals.append((t, i, self.layout.convert(final)))

    def _ask(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Calls a method of the vector environment, and explains the error if a worker process died."""
        try:
            return method(*args, **kwargs)
        except _WORKER_DIED as error:
            raise self._worker_died(error) from error

    def _worker_died(self, error: BaseException) -> EnvError:
        dead = dead_worker(self._env, _DEATH_SECONDS)
        end_workers(self._env)
        which = "A worker process" if dead is None else f"The worker process of environment {dead}"
        return EnvWorkerError(
            f"{which} of the vector environment died ({type(error).__name__}). Its environment may have crashed or run "
            f"out of memory. The environments are closed. Environment: {name_of(self._env)}."
        )
