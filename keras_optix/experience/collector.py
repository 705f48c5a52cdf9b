"""Steps environments with the current policy and hands out windows."""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from keras_optix.errors import StateError
from keras_optix.experience.actions import actions_for
from keras_optix.experience.actor import Actor, WindowListener
from keras_optix.experience.collector_state import CollectorState, read_collector_state
from keras_optix.experience.copies import Copies
from keras_optix.experience.envs import Envs
from keras_optix.experience.episodes import EpisodeBook
from keras_optix.experience.evaluation import take_statistics
from keras_optix.experience.observations import check_finite
from keras_optix.experience.policy_params import PolicyRecord
from keras_optix.experience.rollout import Rollout
from keras_optix.experience.source import PolicyOwner, WindowSource
from keras_optix.experience.statistics import copy_statistics, read_all, write_all
from keras_optix.experience.window import CollectedWindow, Window
from keras_optix.records import EpisodeRecord
from keras_optix.store.files import Saved

_USED = (
    "an environment that is trained on was reset or stepped by somebody else between two windows: the episode that was "
    "running in it is cut and counts nowhere, and a new one began"
)
_OWN_REWARDS = (
    "scores and logged episode returns are in the environment's own rewards, beneath the wrapper that normalises them; "
    "the agent learns from the normalised ones"
)


class Collector(WindowSource):
    """Collects windows, continuing from one to the next: an environment is reset only when an episode ends.

    Args:
        envs: The environments; the collector owns and closes them.
        owner: Gives the policy and its actor; see also `CollectingOwner` and `WindowListener`.
        window_size: `T`, rows of a window.
        seed: Seeds the environments (environment i with ``seed + i``) and the actions.
        deterministic: Take the most likely action instead of sampling, and count only episodes as recent that the
            policy version at hand began and ended: a validation is about one version.
        prefetch: 1 collects the next window in a thread while the current one trains, with the weights from before
            that training; 0 collects a window when it is asked for.
        check_bounds: Whether an observation outside its Box is an error.
        recipe: Makes one more such environment, for evaluations; None if nothing does.
        obstacle: Why nothing does.
        takes_statistics: Whether the environments were made for a validation: their wrappers take over the running
            statistics of the environments that the policy is trained on.
    """

    def __init__(
        self,
        envs: Envs,
        owner: PolicyOwner,
        *,
        window_size: int,
        seed: int | None = None,
        deterministic: bool = False,
        prefetch: int = 0,
        check_bounds: bool = True,
        recipe: Callable[[], Any] | None = None,
        obstacle: str = "",
        takes_statistics: bool = False,
    ) -> None:
        super().__init__(
            owner,
            window_size=window_size,
            seed=seed,
            deterministic=deterministic,
            recipe=recipe,
            obstacle=obstacle,
        )
        self.envs = envs
        self.episode_limit = getattr(envs, "episode_limit", None)
        self.prefetch = prefetch
        self._check_bounds = check_bounds
        self._takes_statistics = takes_statistics
        self._actor: Actor | None = None
        self._actions = actions_for(envs.action_space)
        self._rng = np.random.default_rng(None if seed is None else (seed, 1))
        blank = EpisodeBook.blank(envs.num_envs)
        # Where the environments are, and where they were when the last window was handed out.
        self._state = self._handed_out = CollectorState(0, 0, self._rng.bit_generator.state, blank)
        self._closed = False
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, "keras_optix_collector") if prefetch else None
        self._ahead: Future[tuple[CollectedWindow, CollectorState]] | None = None
        self._notices: list[str] = []
        self._told: set[str] = set()
        envs.tenant.watch()
        # The environments may be somebody's who goes on with them when the agent is gone.
        weakref.finalize(self, envs.release)
        if envs.own_rewards:
            self._tell(_OWN_REWARDS, warn=False)

    @property
    def num_envs(self) -> int:
        """`N`, environments."""
        return self.envs.num_envs

    @property
    def ahead(self) -> int:
        """See `WindowSource`: with `prefetch`, one."""
        return self.prefetch

    @property
    def windows(self) -> int:
        """Windows collected so far."""
        return self._state.window_id

    @property
    def env_steps(self) -> int:
        """Environment steps so far."""
        return self._state.env_steps

    @property
    def recent_episodes(self) -> tuple[EpisodeRecord, ...]:
        """The last 100 episodes that ended, oldest first; if `deterministic`, only those of the last version."""
        return self._state.book.recent

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
                collected, state = self._collect_locked(self._owner.policy_record())
            else:
                ahead, self._ahead = self._ahead, None
                if ahead is None:
                    collected, state = self._collect_locked(self._owner.policy_record())
                else:
                    collected, state = ahead.result()
                if not self._closed:
                    self._ahead = self._thread.submit(self._collect_locked, self._owner.policy_record())
        except BaseException as error:
            self.error = error
            raise
        self._handed_out = state
        return self._deliver(collected)

    def drain(self) -> None:
        """Waits for a window that is being collected ahead; it is handed out next."""
        if self._ahead is not None:
            self._ahead.exception()

    def make_copies(self, num_envs: int) -> Copies:
        """See `WindowSource`."""
        if self.recipe is None:
            return super().make_copies(num_envs)
        return Copies(self.recipe, num_envs, self.envs)

    def give_statistics(self, envs: Envs) -> bool:
        """See `WindowSource`."""
        return bool(copy_statistics(self.envs.members(), envs.members()))

    def take_notices(self) -> list[str]:
        """See `WindowSource`: who else used the environments, what is scored."""
        taken, self._notices = self._notices, []
        return taken

    def save(self) -> Saved:
        """Returns what `restore` needs to go on after the last window that was handed out.

        The states of the environments are in it if all can be saved (see `SavableEnv`), no window has been collected
        ahead and they are open. A window that was collected ahead is left out: it will be collected anew.

        Returns:
            Arrays by name, and JSON values.

        Raises:
            EnvError: An environment's `save_state` returned what cannot be saved.
        """
        self.drain()
        with self._lock:
            at = self._handed_out
            reachable = at is self._state and at.current is not None and not self._closed
            if reachable and self.envs.tenant.used_by_others():
                reachable = False
            arrays, values = at.save(self.envs.layout, self.envs.save() if reachable else None)
            return arrays | read_all(self.envs.members()), values

    def restore(self, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> bool:
        """Goes on where the collector was that `save` was called on; its `window_size` may be another.

        Where the environments cannot be put into their states, new episodes begin with the next window. They are
        seeded by the seed and the number of that window: the seed itself would replay the first episodes of the run.

        Args:
            arrays: What `save` returned.
            values: What `save` returned.

        Returns:
            Whether everything goes on as it would have; False if episodes that were running are lost.

        Raises:
            StateError: The collector is closed, or what was saved is damaged or of other environments.
        """
        self.drain()
        with self._lock:
            self._check_open()
            state, env_states, interrupted = read_collector_state(arrays, values, self.envs.layout, self.num_envs)
            self._ahead = None
            self._forget_delivered()
            self._rng.bit_generator.state = state.rng
            # First of all without the environments: one of them may raise.
            self._state = self._handed_out = state.with_new_episodes()
            with self.envs.use():
                write_all(self.envs.members(), arrays)
                if env_states is None:
                    return not interrupted
                went_on = self.envs.restore(env_states)
            if went_on:
                self._state = self._handed_out = state
            return went_on

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

    def _check_open(self) -> None:
        if self._closed:
            raise StateError("The environments were closed; make a new dataset to go on.")

    def _collect_locked(self, policy: PolicyRecord) -> tuple[CollectedWindow, CollectorState]:
        with self._lock:
            self._check_open()
            try:
                with self.envs.use() as used:
                    return self._collect(policy, used)
            except BaseException:
                self._close()
                raise

    def _collect(self, policy: PolicyRecord, used: np.ndarray) -> tuple[CollectedWindow, CollectorState]:
        """Collects a window.

        Args:
            policy: The policy.
            used: ``[N]`` bool, environments that somebody else used since the last one.
        """
        if self._actor is None:
            self._actor = self._make_actor()
        actor, envs, before = self._actor, self.envs, self._state
        actor.set_weights(policy.params.arrays)
        if self._takes_statistics:
            take_statistics(envs, self._owner)
        if isinstance(actor, WindowListener):
            actor.begin_window(before.window_id)
        steps, n = self.window_size, self.num_envs
        rollout = Rollout(envs.layout, steps, n, own_rewards=envs.own_rewards)
        observations = rollout.observations
        if before.current is None:
            envs.reset(self._reset_seed(before.window_id), observations)
        else:
            for leaf, current in zip(observations, before.current, strict=True):
                leaf[0] = current
            if used.any():
                envs.reset(self._reset_seed(before.window_id), observations, used)
                before = replace(before, book=before.book.cut(used))
                self._tell(_USED, warn=True)
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
        following = rollout.next_observations()
        self._check(observations, following, rollout.rewards, rollout.own_rewards, before.window_id)
        book, episodes = before.book.after(
            rollout,
            policy.version,
            before.window_id,
            one_version=self.deterministic,
            rewards=rollout.own_rewards,
        )
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
            window_id=np.int64(before.window_id),
            policy_version=np.int64(policy.version),
            episode_return=book.mean_return,
            episode_length=book.mean_length,
        )
        self._state = CollectorState(
            before.window_id + 1,
            before.env_steps + int(np.count_nonzero(rollout.valid)),
            self._rng.bit_generator.state,
            book,
            [leaf[-1].copy() for leaf in observations],
        )
        own = rollout.own_rewards if envs.own_rewards else None
        return CollectedWindow(window, infos, episodes, policy, self._state.env_steps, own), self._state

    def _tell(self, notice: str, *, warn: bool) -> None:
        """Says something once: to the loop, or by a warning where no loop listens."""
        if notice in self._told:
            return
        self._told.add(notice)
        self._notices.append(notice)
        if warn and self._delivered is None:
            warnings.warn(f"{notice[0].upper()}{notice[1:]}.", stacklevel=2)

    def _reset_seed(self, window_id: int) -> int | None:
        """The seed of environments whose first episodes begin with this window."""
        if self.seed is None or window_id == 0:
            return self.seed
        return int(np.random.default_rng((self.seed, 4, window_id)).integers(2**31))

    def _check(
        self,
        observations: list[np.ndarray],
        following: list[np.ndarray],
        rewards: np.ndarray,
        own_rewards: np.ndarray,
        window_id: int,
    ) -> None:
        where = f"window {window_id}"
        # `following` first: its rows are those of the steps. The other has the first observations of episodes besides.
        for leaves in (following, observations):
            self.envs.layout.check(leaves, where, bounds=self._check_bounds)
        check_finite("a reward", rewards, where)
        if own_rewards is not rewards:
            check_finite("a reward", own_rewards, where)
