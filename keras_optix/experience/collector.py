"""Steps environments with the current policy and delivers windows.

Environments are stepped in a thread of their own (`env_thread`), for which the thread that trains waits in Python. So
Ctrl-C is heard while an environment waits for its simulator, and a call that does not return can be given up.
"""

from __future__ import annotations

import atexit
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Mapping
from concurrent import futures
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import numpy as np

from keras_optix.errors import EnvError, EnvTimeoutError, EnvWorkerError, StateError
from keras_optix.experience.actions import actions_for
from keras_optix.experience.closing import HURRY
from keras_optix.experience.collector_state import CollectorState, read_collector_state
from keras_optix.experience.copies import Copies
from keras_optix.experience.env_runner import CutShortError, EnvRunner
from keras_optix.experience.env_thread import EnvThread, Progress
from keras_optix.experience.envs import Envs
from keras_optix.experience.evaluation import copy_training_statistics
from keras_optix.experience.interrupts import INTERRUPTS
from keras_optix.experience.policy_params import PolicyRecord
from keras_optix.experience.source import PolicyOwner, WindowSource
from keras_optix.experience.statistics import copy_statistics, read_all, write_all
from keras_optix.experience.vector_envs import VectorEnvs
from keras_optix.experience.window import CollectedWindow
from keras_optix.records import EpisodeRecord
from keras_optix.store.files import Saved

_POLL_SECONDS = 0.25  # a thread that waits for environments looks so often whether something is wrong with them
_COMPLETE_SECONDS = 0.15  # what a window gets to be completed after an interrupt
_RETURN_SECONDS = 0.45  # what a call of an environment then gets to return, before the environments are given up
_USED = (
    "a training environment was reset or stepped by other code between two windows: its running episode was cut off "
    "and is not counted, and a new episode began"
)
_OWN_REWARDS = (
    "scores and logged episode returns are in the environment's own rewards, before a wrapper normalises them; the "
    "agent learns from the normalised rewards"
)

Collecting = Future[tuple[CollectedWindow, CollectorState]]


class Collector(WindowSource):
    """Collects windows, continuing from one to the next: an environment is reset only when an episode ends.

    Args:
        envs: The environments; the collector owns and closes them.
        owner: Gives the policy and its actor; see also `CollectingOwner` and `WindowListener`.
        window_size: `T`, rows of a window.
        seed: Seeds the environments (environment i with ``seed + i``) and the actions.
        deterministic: Take the most likely action instead of sampling. Only episodes that the current policy version
            began and ended then count as recent, because a validation measures one version.
        prefetch: 1 collects the next window in a thread while the current one trains, with the weights from before
            that training; 0 collects a window when it is asked for.
        check_bounds: Whether an observation outside its Box is an error.
        env_fn: Makes one more such environment, for evaluations; None if there is no way to make one.
        obstacle: Why there is no `env_fn`.
        copies_statistics: Whether the environments were made for a validation. Their wrappers then copy the running
            statistics of the training environments.
        env_timeout: Seconds after which a call of an environment that has not returned is an error. None waits.
        restarts: How often the processes of a vector environment are started again after one of them died.
        notice: What the loop says about the environments at the beginning.

    Attributes:
        restarted: How often they were started again so far.
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
        env_fn: Callable[[], Any] | None = None,
        obstacle: str = "",
        copies_statistics: bool = False,
        env_timeout: float | None = None,
        restarts: int = 0,
        notice: str = "",
    ) -> None:
        super().__init__(
            owner,
            window_size=window_size,
            seed=seed,
            deterministic=deterministic,
            env_fn=env_fn,
            obstacle=obstacle,
        )
        self.envs = envs
        self.episode_limit = getattr(envs, "episode_limit", None)
        self.reward_threshold = getattr(envs, "reward_threshold", None)
        self.prefetch = prefetch
        self._check_bounds = check_bounds
        self._copies_statistics = copies_statistics
        actions_for(envs.action_space)  # raises if no agent supports the space
        self._runner: EnvRunner | None = None
        # The state now, and the state when the last window was delivered.
        self._state = self._handed_out = CollectorState.initial(envs.num_envs, seed)
        self._closed = False
        self._lock = threading.Lock()
        self._thread = EnvThread()
        self._ahead: Collecting | None = None  # begun, and not delivered yet
        self._env_timeout, self._progress = env_timeout, Progress()
        if env_timeout is not None:
            envs.note_calls(self._progress)
        self._restarts, self.restarted = restarts, 0
        self._ended_for: EnvError | None = None  # why workers were ended, so that they are started again
        if isinstance(envs, VectorEnvs):
            envs.guard()
        self._notices: list[str] = []
        self._told: set[str] = set()
        envs.tenant.watch()
        # The user may own the environments and use them after the agent is deleted.
        weakref.finalize(self, envs.release)
        weakref.finalize(self, self._thread.stop)
        _OPEN.add(self)
        if envs.own_rewards:
            self._tell(_OWN_REWARDS, warn=False)
        if notice:
            self._tell(notice, warn=False)

    @property
    def num_envs(self) -> int:
        """`N`, the number of environments."""
        return self.envs.num_envs

    @property
    def windows_in_flight(self) -> int:
        """See `WindowSource`: one with `prefetch`, else none."""
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
        return self._state.tracker.recent

    @property
    def longest_episode(self) -> int:
        """See `WindowSource`."""
        tracker = self._handed_out.tracker
        return max(int(tracker.lengths.max()), *(episode.length for episode in tracker.recent), 0)

    def prepare(self) -> None:
        """Collects the next window, which the next call of `collect` then delivers at once.

        It waits in Python, where Ctrl-C is handled; `collect` is called by TensorFlow, where it is not. An error of an
        environment is raised by `collect`.

        Raises:
            EnvTimeoutError: A call of an environment did not return within `env_timeout`.
            EnvWorkerError: A process of an environment died, while the one of another environment does not answer.
        """
        if self._closed:
            return
        self.waited_for = True
        self._await(self._begun())
        self.waited_for = False

    def collect(self) -> CollectedWindow:
        """Returns the next window, collected now with the current weights, or before with older ones.

        With `prefetch`, the weights for the following window are read before this one is delivered: at that time no
        update is running that would change half of them.

        Raises:
            StateError: The collector was closed.
            EnvError: An environment returned a value that does not fit its spaces, or is not finite.
            EnvTimeoutError: A call of an environment did not return within `env_timeout`.
            EnvWorkerError: A process of an environment died.
            BaseException: Any other error of an environment. It is kept in `error`, and the environments are closed.
        """
        try:
            ahead = self._begun()
            self._await(ahead)
            self._ahead = None
            collected, state = ahead.result()
            if self.prefetch and not self._closed:
                self._begun()
        except BaseException as error:
            self.error = error
            raise
        self._handed_out = state
        return self._deliver(collected)

    def drain(self) -> None:
        """Waits for a window that is being collected ahead; it is delivered next."""
        self.waited_for = False
        if self._ahead is not None:
            self._await(self._ahead)

    def logs(self) -> Mapping[str, float]:
        """See `WindowSource.logs`: how often the environments were started again, if they may be."""
        return {"env_restarts": float(self.restarted)} if self._restarts else {}

    def leave(self) -> None:
        """See `WindowSource.leave`.

        A window that is not completed in a moment is lost, and its episodes are cut off. If a call of an environment
        does not even return, the environments are given up.
        """
        ahead = self._ahead
        if ahead is None or _has_ended(ahead, _COMPLETE_SECONDS):
            return
        runner = self._runner
        if runner is not None:
            runner.cut = True
        if not _has_ended(ahead, _RETURN_SECONDS):
            self._give_up()
        elif isinstance(ahead.exception(), CutShortError):
            self._ahead = None

    def _begun(self) -> Collecting:
        """Begins the next window, unless it was begun."""
        if self._ahead is None:
            self._check_open()
            policy = self._owner.policy_record()  # no step is running now that would change half of it
            if self._runner is not None:
                self._runner.cut = False
            self._ahead = self._thread.submit(lambda: self._collect_locked(policy))
        return self._ahead

    def _await(self, ahead: Collecting) -> None:
        """Waits for a window; raises what this thread raises in the meantime, but no error of an environment."""
        limit = self._env_timeout
        poll = _POLL_SECONDS if limit is None else min(_POLL_SECONDS, limit / 4)
        seen, since, dead = -1, time.monotonic(), False
        try:
            while not _has_ended(ahead, poll):
                INTERRUPTS.check()
                now = time.monotonic()
                if self._progress.calls != seen or self._progress.place is None:
                    seen, since = self._progress.calls, now
                elif limit is not None and now - since >= limit:
                    self._end(self._timed_out(limit))
                # Usually the thread of the environments notices itself that a worker died, and says more.
                was_dead, dead = dead, isinstance(self.envs, VectorEnvs) and self.envs.died() is not None
                if dead and was_dead:
                    self._end(EnvWorkerError(f"{self.envs.place((0, 'step'))}: a worker process has died."))
        except BaseException as error:
            HURRY.asked |= not isinstance(error, Exception)
            self.leave()
            raise

    def _timed_out(self, limit: float) -> EnvTimeoutError:
        place = self._progress.place or (0, "step")
        return EnvTimeoutError(
            f"{self.envs.place(place)}, has not returned within env_timeout={limit:g} seconds. The environments are "
            "given up; make a new dataset to continue. Find out what the environment waits for, or give more time."
        )

    def _end(self, error: EnvError) -> None:
        """Raises an error for environments that do not answer, unless their processes can be started again."""
        if self._can_restart and self._ended_for is None:
            self._ended_for, self._progress.place = error, None
            self.envs.give_up()  # the thread of the environments then finds that they died
            return
        self._give_up()
        raise error

    def _give_up(self) -> None:
        """Leaves environments alone that do not answer: nothing waits for them from now on."""
        self._closed, self._ahead = True, None
        self._lock = threading.Lock()  # the other one may be held for ever
        if self._runner is not None:
            self._runner.cut = True
        envs = self.envs
        envs.give_up()
        self._thread.submit(envs.close_late)
        self._thread.stop()

    @property
    def _can_restart(self) -> bool:
        return self.restarted < self._restarts and isinstance(self.envs, VectorEnvs) and self.envs.remakable

    def _restart(self, error: EnvWorkerError) -> None:
        """Starts the processes of the environments again, or raises the error if that was done too often."""
        reason, self._ended_for = self._ended_for or error, None
        if not (self._can_restart and isinstance(self.envs, VectorEnvs)):
            if self._restarts:
                error.add_note(f"They were started again {self.restarted} times, and restarts={self._restarts}.")
            raise error
        self.restarted += 1
        self._state = self._state.with_new_episodes()
        self.envs.remake()
        self._notices.append(
            f"the environments were started again ({self.restarted} of {self._restarts} times), and their running "
            f"episodes were cut off: {reason}"
        )

    def make_copies(self, num_envs: int, env_fn: Callable[[], Any] | None = None) -> Copies:
        """See `WindowSource`."""
        make = env_fn or self.env_fn
        return super().make_copies(num_envs) if make is None else Copies(make, num_envs, self.envs)

    def members(self) -> list[Any]:
        """See `WindowSource`."""
        return self.envs.members()

    def give_statistics(self, envs: Envs) -> list[str]:
        """See `WindowSource`."""
        return copy_statistics(self.envs.members(), envs.members())

    def drain_notices(self) -> list[str]:
        """See `WindowSource`: notices on other code that used the environments, and on what is scored."""
        taken, self._notices = self._notices, []
        return taken

    def save(self) -> Saved:
        """Returns what `restore` needs to continue after the last window that was delivered.

        The states of the environments are included if all can be saved (see `SavableEnv`), no window has been collected
        ahead and the environments are open. A window that was collected ahead is left out: it will be collected again.

        Returns:
            Arrays by name, and JSON values.

        Raises:
            EnvError: An environment's `save_state` returned a value that cannot be saved.
        """
        self.drain()
        with self._lock:
            at = self._handed_out
            reachable = at is self._state and at.current is not None and not self._closed
            if reachable and self.envs.tenant.used_by_others():
                reachable = False
            arrays, values = at.save(self.envs.layout, self.envs.save() if reachable else None, self.carry_specs)
            return arrays | read_all(self.envs.members()), values

    def check_saved(self, arrays: Mapping[str, np.ndarray], values: Any) -> None:
        """See `WindowSource.check_saved`."""
        read_collector_state(arrays, values, self.envs.layout, self.num_envs, self.carry_specs)

    def restore(self, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> bool:
        """Continues where the saved collector was, which may have had another `window_size`.

        If the environments cannot be put into their saved states, new episodes begin with the next window. Their seed
        is derived from the seed and the number of that window: the seed alone would repeat the first episodes of the
        run.

        Args:
            arrays: The arrays that `save` returned.
            values: The values that `save` returned.

        Returns:
            Whether everything continues as without the interruption; False if episodes that were running are lost.

        Raises:
            StateError: The collector is closed, or the state is damaged or belongs to other environments.
        """
        self.drain()
        with self._lock:
            self._check_open()
            state, env_states, interrupted = read_collector_state(
                arrays, values, self.envs.layout, self.num_envs, self.carry_specs
            )
            self._ahead = None
            self._forget_delivered()
            # This state is valid without the environments, which may raise in what follows.
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
            self._thread.stop()

    def _check_open(self) -> None:
        if self._closed:
            raise StateError("The environments of this dataset were closed. Make a new dataset to continue.")

    def _collect_locked(self, policy: PolicyRecord) -> tuple[CollectedWindow, CollectorState]:
        with self._lock:
            self._check_open()
            try:
                if self._copies_statistics:
                    copy_training_statistics(self.envs, self._owner)
                if self._runner is None:
                    self._runner = EnvRunner(
                        self.envs,
                        self._make_actor(),
                        window_size=self.window_size,
                        seed=self.seed,
                        deterministic=self.deterministic,
                        check_bounds=self._check_bounds,
                    )
                while True:
                    try:
                        collected, self._state = self._runner.collect(policy.params, self._state)
                        break
                    except EnvWorkerError as error:
                        self._restart(error)
                if collected.interrupted:
                    self._tell(_USED, warn=True)
                return replace(collected, policy=policy), self._state
            except CutShortError:
                self._state = self._state.with_new_episodes()
                raise
            except BaseException:
                self._close()
                raise

    def _tell(self, notice: str, *, warn: bool) -> None:
        """Gives a notice once: to the loop, or as a warning if no loop takes notices."""
        if notice in self._told:
            return
        self._told.add(notice)
        self._notices.append(notice)
        if warn and self._delivered is None:
            warnings.warn(f"{notice[0].upper()}{notice[1:]}.", stacklevel=2)


def _has_ended(ahead: Collecting, seconds: float) -> bool:
    """Waits for a window, at most some seconds."""
    try:
        ahead.exception(seconds)
    except futures.TimeoutError:
        return False
    return True


_OPEN: weakref.WeakSet[Collector] = weakref.WeakSet()


@atexit.register
def _leave_all() -> None:
    """Stops the threads of the environments before the interpreter ends, when they must not run."""
    for collector in list(_OPEN):
        collector.leave()
