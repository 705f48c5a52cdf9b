"""Steps environments with the current policy and hands out windows."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any, Protocol

import numpy as np

from keras_optix.control.records import EpisodeRecord
from keras_optix.errors import EnvError, StateError, describe
from keras_optix.experience.actor import Actor
from keras_optix.experience.envs import EnvLike, Envs, StepRows
from keras_optix.experience.spaces import actions_for, observation_layout
from keras_optix.experience.window import CollectedWindow, PublishedPolicy, Window

_RECENT_EPISODES = 100


class PolicyPublisher(Protocol):
    """Who trains the policy that acts: an agent."""

    def publish(self) -> PublishedPolicy:
        """Returns the current version of the weights."""
        ...

    def make_actor(self, batch_size: int) -> Actor:
        """Returns an actor for `batch_size` environments."""
        ...


class Collector:
    """Collects windows, continuing from one to the next: an environment is reset only when an episode ends.

    Args:
        envs: The environments; the collector owns and closes them.
        publisher: Gives the policy and its actor.
        window_size: `T`, rows of a window.
        seed: Seeds the environments (environment i with ``seed + i``) and the actions.
        deterministic: Take the most likely action instead of sampling.
        recipe: What makes one more such environment, for evaluations; None if nothing does.
    """

    def __init__(
        self,
        envs: Envs,
        publisher: PolicyPublisher,
        *,
        window_size: int,
        seed: int | None = None,
        deterministic: bool = False,
        recipe: EnvLike | None = None,
    ) -> None:
        self.envs = envs
        self.recipe = recipe
        self.window_size = window_size
        self.deterministic = deterministic
        self.seed = seed
        self.env_steps = 0
        self.error: BaseException | None = None
        self._publisher = publisher
        self._actor: Actor | None = None
        self._actions = actions_for(envs.action_space)
        self._shape, self._dtype = observation_layout(envs.observation_space)
        self._rng = np.random.default_rng(None if seed is None else (seed, 1))
        self._current: np.ndarray | None = None
        self._next_id = 0
        self._closed = False
        self._lock = threading.Lock()
        self._delivered: deque[CollectedWindow] | None = None
        n = envs.num_envs
        self._returns = np.zeros(n)
        self._lengths = np.zeros(n, np.int64)
        self._first_versions = np.zeros(n, np.int64)
        self._recent: deque[EpisodeRecord] = deque(maxlen=_RECENT_EPISODES)

    @property
    def num_envs(self) -> int:
        """`N`, environments."""
        return self.envs.num_envs

    @property
    def windows(self) -> int:
        """Windows collected so far."""
        return self._next_id

    @property
    def recent_episodes(self) -> tuple[EpisodeRecord, ...]:
        """The last 100 episodes that ended, oldest first."""
        return tuple(self._recent)

    def keep_delivered(self, keep: bool) -> None:
        """Switches on that collected windows wait for `take_delivered`; off, they are only handed to the dataset."""
        self._delivered = deque() if keep else None

    def take_delivered(self, up_to: int) -> list[CollectedWindow]:
        """Returns and forgets the collected windows with a number up to `up_to`, oldest first."""
        taken = []
        while self._delivered and self._delivered[0].window_id <= up_to:
            taken.append(self._delivered.popleft())
        return taken

    def collect(self) -> CollectedWindow:
        """Collects the next window with the current weights.

        Raises:
            StateError: The collector was closed.
            EnvError: An environment returned what its spaces forbid, or a value that is not finite.
            BaseException: Whatever an environment raised. It is kept in `error`, and the environments are closed.
        """
        with self._lock:
            if self._closed:
                raise StateError("The environments were closed; make a new dataset to go on.")
            try:
                collected = self._collect()
            except BaseException as error:
                self.error = error
                self._close()
                raise
            if self._delivered is not None:
                self._delivered.append(collected)
            return collected

    def close(self) -> None:
        """Closes the environments. A window that is being collected is finished first."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if not self._closed:
            self._closed = True
            self.envs.close()

    def _collect(self) -> CollectedWindow:
        published = self._publisher.publish()
        if self._actor is None:
            self._actor = self._publisher.make_actor(self.num_envs)
        actor, envs = self._actor, self.envs
        actor.set_weights(published.arrays)
        steps, n = self.window_size, self.num_envs
        observations = np.empty((steps + 1, n, *self._shape), self._dtype)
        following = np.empty((steps, n, *self._shape), self._dtype)
        actions = np.empty((steps, n), np.int64)
        rewards = np.empty((steps, n), np.float32)
        log_probs = np.empty((steps, n), np.float32)
        flags = np.empty((3, steps, n), bool)
        terminated, truncated, valid = flags
        if self._current is None:
            self._first_versions[:] = published.version
            envs.reset(self.seed, observations[0])
        else:
            observations[0] = self._current
        noise = actor.noise.zeros((steps, n)) if self.deterministic else actor.noise.draw(self._rng, (steps, n))
        infos: list[Any] = []
        to_env = self._actions.to_env
        for t in range(steps):
            actions[t], log_probs[t] = actor.act(observations[t], noise[t])
            rows = StepRows(following[t], rewards[t], terminated[t], truncated[t], valid[t])
            infos.append(envs.step(to_env(actions[t]), rows, observations[t + 1]))
        self._current = observations[-1].copy()
        self._check_finite(observations, following, rewards)
        episodes = self._account(rewards, np.logical_or(terminated, truncated), valid, published.version)
        self.env_steps += int(np.count_nonzero(valid))
        recent = self._recent
        window = Window(
            observations=observations[:-1],
            actions=actions,
            rewards=rewards,
            terminated=terminated,
            truncated=truncated,
            valid=valid,
            next_observations=following,
            log_probs=log_probs,
            seed=self._rng.integers(0, 2**31 - 1, 2, np.int32),
            window_id=np.int64(self._next_id),
            policy_version=np.int64(published.version),
            episode_return=np.float32(np.mean([e.total_reward for e in recent]) if recent else np.nan),
            episode_length=np.float32(np.mean([e.length for e in recent]) if recent else np.nan),
        )
        self._next_id += 1
        return CollectedWindow(window, infos, episodes, published, self.env_steps)

    def _account(
        self, rewards: np.ndarray, done: np.ndarray, valid: np.ndarray, version: int
    ) -> tuple[EpisodeRecord, ...]:
        """Adds the window to the running episodes and returns those that ended."""
        returns = np.cumsum(rewards, axis=0, dtype=np.float64)
        lengths = np.cumsum(valid, axis=0)
        ended = []
        # What a column had summed up to when its running episode began.
        return_before = -self._returns
        length_before = -self._lengths
        for t, i in np.argwhere(done):
            episode = EpisodeRecord(
                total_reward=float(returns[t, i] - return_before[i]),
                length=int(lengths[t, i] - length_before[i]),
                first_version=int(self._first_versions[i]),
                last_version=version,
            )
            ended.append(episode)
            return_before[i], length_before[i] = returns[t, i], lengths[t, i]
            self._first_versions[i] = version
        self._returns = returns[-1] - return_before
        self._lengths = lengths[-1] - length_before
        self._recent.extend(ended)
        return tuple(ended)

    def _check_finite(self, observations: np.ndarray, following: np.ndarray, rewards: np.ndarray) -> None:
        for name, values in (("observation", following), ("reward", rewards), ("observation", observations)):
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                place = tuple(int(k) for k in np.argwhere(~np.isfinite(values))[0])
                raise EnvError(
                    describe(
                        f"The environment returned a value that is not finite in its {name}.",
                        fix=f"Environment {place[1]}, row {place[0]} of window {self._next_id}.",
                        value=float(values[place]),
                    )
                )
