"""Steps environments with the current policy and hands out windows."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import gymnasium
import numpy as np

from keras_optix.control.records import EpisodeRecord
from keras_optix.errors import StateError
from keras_optix.experience.actions import actions_for
from keras_optix.experience.actor import Actor
from keras_optix.experience.envs import Envs
from keras_optix.experience.observations import check_finite
from keras_optix.experience.rollout import Rollout, ends
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
        prefetch: 1 collects the next window in a thread while the current one trains, with the weights from before
            that training; 0 collects a window when it is asked for.
        check_bounds: Whether an observation outside its Box is an error.
        recipe: Makes one more such environment, for evaluations; None if nothing does.
    """

    def __init__(
        self,
        envs: Envs,
        publisher: PolicyPublisher,
        *,
        window_size: int,
        seed: int | None = None,
        deterministic: bool = False,
        prefetch: int = 0,
        check_bounds: bool = True,
        recipe: Callable[[], gymnasium.Env] | None = None,
    ) -> None:
        self.envs = envs
        self.recipe = recipe
        self.window_size = window_size
        self.deterministic = deterministic
        self.seed = seed
        self.prefetch = prefetch
        self.error: BaseException | None = None
        self._check_bounds = check_bounds
        self._publisher = publisher
        self._actor: Actor | None = None
        self._actions = actions_for(envs.action_space)
        self._rng = np.random.default_rng(None if seed is None else (seed, 1))
        self._current: list[np.ndarray] | None = None
        self._next_id = 0
        self.env_steps = 0
        self._closed = False
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, "keras_optix_collector") if prefetch else None
        self._ahead: Future[CollectedWindow] | None = None
        self._delivered: deque[CollectedWindow] | None = None
        n = envs.num_envs
        self._returns = np.zeros(n)
        self._lengths = np.zeros(n, np.int64)
        self._first_versions = np.zeros(n, np.int64)
        self._recent: tuple[EpisodeRecord, ...] = ()

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
        return self._recent

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
        """Returns the next window: collected now with the current weights, or ahead with the ones before.

        With `prefetch`, the weights for the window after it are read out before this one is handed over: then no
        update is running that would tear them.

        Raises:
            StateError: The collector was closed.
            EnvError: An environment returned what its spaces forbid, or a value that is not finite.
            BaseException: Whatever an environment raised. It is kept in `error`, and the environments are closed.
        """
        try:
            if self._thread is None:
                collected = self._collect_locked(self._publisher.publish())
            else:
                ahead, self._ahead = self._ahead, None
                collected = self._collect_locked(self._publisher.publish()) if ahead is None else ahead.result()
                if not self._closed:
                    self._ahead = self._thread.submit(self._collect_locked, self._publisher.publish())
        except BaseException as error:
            self.error = error
            raise
        if self._delivered is not None:
            self._delivered.append(collected)
        return collected

    def settle(self) -> None:
        """Waits for a window that is being collected ahead; it is handed out next."""
        if self._ahead is not None:
            self._ahead.exception()

    def close(self) -> None:
        """Closes the environments. A window that is being collected is finished first."""
        with self._lock:
            self._ahead = None
            self._close()

    def _close(self) -> None:
        if not self._closed:
            self._closed = True
            self.envs.close()
            if self._thread is not None:
                self._thread.shutdown(wait=False)

    def _collect_locked(self, published: PublishedPolicy) -> CollectedWindow:
        with self._lock:
            if self._closed:
                raise StateError("The environments were closed; make a new dataset to go on.")
            try:
                return self._collect(published)
            except BaseException:
                self._close()
                raise

    def _collect(self, published: PublishedPolicy) -> CollectedWindow:
        if self._actor is None:
            self._actor = self._publisher.make_actor(self.num_envs)
        actor, envs = self._actor, self.envs
        actor.set_weights(published.arrays)
        steps, n = self.window_size, self.num_envs
        rollout = Rollout(envs.layout, steps, n)
        observations = rollout.observations
        # These have not acted in their episode yet.
        self._first_versions[self._lengths == 0] = published.version
        if self._current is None:
            envs.reset(self.seed, observations)
        else:
            for leaf, current in zip(observations, self._current, strict=True):
                leaf[0] = current
        choices: np.ndarray = np.empty((steps, n, *self._actions.shape), self._actions.dtype)
        log_probs = np.empty((steps, n), np.float32)
        noise = actor.noise.zeros((steps, n)) if self.deterministic else actor.noise.draw(self._rng, (steps, n))
        infos = []
        act, step, to_env = actor.act, envs.step, self._actions.to_env
        for t in range(steps):
            chosen, log_probs[t] = act([leaf[t] for leaf in observations], noise[t])
            choices[t] = chosen
            infos.append(step(to_env(chosen), rollout, t))
        envs.finish(rollout)
        self._current = [leaf[-1].copy() for leaf in observations]
        following = rollout.next_observations()
        self._check(observations, following, rollout.rewards)
        episodes = self._account(rollout, published.version)
        self.env_steps += int(np.count_nonzero(rollout.valid))
        recent = self._recent
        window = Window(
            observations=envs.layout.pack([leaf[:-1] for leaf in observations]),
            actions=choices,
            rewards=rollout.rewards,
            terminated=rollout.terminated,
            truncated=rollout.truncated,
            valid=rollout.valid,
            next_observations=envs.layout.pack(following),
            log_probs=log_probs,
            seed=self._rng.integers(0, 2**31 - 1, 2, np.int32),
            window_id=np.int64(self._next_id),
            policy_version=np.int64(published.version),
            episode_return=np.float32(np.mean([e.total_reward for e in recent]) if recent else np.nan),
            episode_length=np.float32(np.mean([e.length for e in recent]) if recent else np.nan),
        )
        self._next_id += 1
        return CollectedWindow(window, infos, episodes, published, self.env_steps)

    def _account(self, rollout: Rollout, version: int) -> tuple[EpisodeRecord, ...]:
        """Adds the window to the running episodes and returns those that ended, in the order of their ends."""
        # Environment by environment, in memory too: along a strided axis a running sum takes ten times as long.
        returns = np.cumsum(rollout.rewards.T.astype(np.float64, order="C"), axis=1) + self._returns[:, None]
        lengths = np.cumsum(rollout.valid.T.astype(np.int64, order="C"), axis=1) + self._lengths[:, None]
        envs, times = np.nonzero(ends(rollout).T)
        # Within an environment, an episode is what was added since the one before it ended.
        same = envs[1:] == envs[:-1]
        totals, steps = returns[envs, times], lengths[envs, times]
        rewards, sizes, first = totals.copy(), steps.copy(), self._first_versions[envs]
        rewards[1:][same] -= totals[:-1][same]
        sizes[1:][same] -= steps[:-1][same]
        first[1:][same] = version
        self._returns, self._lengths = returns[:, -1].copy(), lengths[:, -1].copy()
        last = np.append(~same, True)[: len(envs)]
        self._returns[envs[last]] -= totals[last]
        self._lengths[envs[last]] -= steps[last]
        self._first_versions[envs] = version
        columns = [values[np.argsort(times, kind="stable")].tolist() for values in (rewards, sizes, first)]
        ended = [EpisodeRecord(total, size, begun, version) for total, size, begun in zip(*columns, strict=True)]
        # A new tuple, for another thread may be reading the old one.
        self._recent = (*self._recent, *ended)[-_RECENT_EPISODES:]
        return tuple(ended)

    def _check(self, observations: list[np.ndarray], following: list[np.ndarray], rewards: np.ndarray) -> None:
        where = f"window {self._next_id}"
        # `following` first: its rows are those of the steps. The other has the first observations of episodes besides.
        for leaves in (following, observations):
            self.envs.layout.check(leaves, where, bounds=self._check_bounds)
        check_finite("a reward", rewards, where)
