"""Defines the sources of windows for an agent and the loop: environments that are stepped, or a live feed."""

from __future__ import annotations

import abc
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from keras_optix.errors import StateError
from keras_optix.experience.actor import Actor
from keras_optix.experience.carry import CarrySpec
from keras_optix.experience.copies import Copies
from keras_optix.experience.envs import Envs
from keras_optix.experience.policy_params import PolicyRecord
from keras_optix.experience.usage import innermost_of
from keras_optix.experience.window import CollectedWindow, Window
from keras_optix.reprs import OneLineRepr
from keras_optix.store.files import Saved


class PolicyOwner(Protocol):
    """The object that trains the policy which acts: an agent."""

    @property
    def carry_specs(self) -> tuple[CarrySpec, ...]:
        """The arrays that the policy keeps between the steps of an episode; ``()`` if it has no carry."""
        ...

    def policy_record(self) -> PolicyRecord:
        """Reads out the current version of the policy."""
        ...

    def make_actor(self, batch_size: int) -> Actor:
        """Returns an actor for `batch_size` environments."""
        ...


@runtime_checkable
class CollectingOwner(Protocol):
    """An owner whose policy acts differently while windows are collected for training, in order to explore."""

    def make_collecting_actor(self, batch_size: int) -> Actor:
        """Returns an actor for `batch_size` training environments."""
        ...


@runtime_checkable
class ReplayingOwner(Protocol):
    """An owner that may store windows, and learn from batches that are drawn from what it stored."""

    @property
    def replays(self) -> bool:
        """Whether it does. The methods below are called only then."""
        ...

    def replay_spec(self, window: Any) -> Any:
        """Describes the batches that it gets after each window.

        Args:
            window: A `Window` of `tf.TensorSpec`.

        Returns:
            A `ReplayBatch` of `tf.TensorSpec`, or of an ensemble a `MembersBatch`.
        """
        ...

    def replay_after(self, window: Window) -> Any:
        """Stores a window, and returns the batches that are learned from after it."""
        ...


class WindowSource(OneLineRepr, abc.ABC):
    """Delivers windows, one after the other, each collected by one version of a policy.

    Args:
        owner: Gives the policy and its actor; see also `CollectingOwner` and `WindowListener`.
        window_size: `T`, rows of a window.
        seed: The seed of everything random, or None.
        deterministic: Whether the most likely action is taken.
        env_fn: Makes one more such environment, for evaluations; None if there is no way to make one.
        obstacle: Why there is no `env_fn`.

    Attributes:
        endless: Whether the source continues until it is stopped from outside, as a live feed does.
        notices_are_of: The subject of `drain_notices`: ``"environment"`` or ``"feed"``.
        episode_limit: Env steps after which an environment truncates an episode, if its spec has them; else None.
        reward_threshold: Mean return at which the environment counts as solved, if its spec has one; else None.
        error: The exception that ended the collecting, until it is taken from here.
        waited_for: Whether a learner is between two of its steps and only waits for a window.
        replaying: The owner, if it is a `ReplayingOwner` that stores the windows in order to learn from batches of
            stored transitions; else None.
    """

    endless = False
    waited_for = False
    notices_are_of = "environment"
    episode_limit: int | None = None
    reward_threshold: float | None = None

    def __init__(
        self,
        owner: PolicyOwner,
        *,
        window_size: int,
        seed: int | None,
        deterministic: bool,
        env_fn: Callable[[], Any] | None = None,
        obstacle: str = "",
    ) -> None:
        self.window_size = window_size
        self.seed = seed
        self.deterministic = deterministic
        self.env_fn = env_fn
        self.obstacle = obstacle
        self.error: BaseException | None = None
        self._owner = owner
        self._delivered: deque[CollectedWindow] | None = None
        replays = isinstance(owner, ReplayingOwner) and owner.replays and not deterministic
        self.replaying: Any = owner if replays else None

    @property
    def longest_episode(self) -> int:
        """Env steps of the longest of the latest episodes, those that are running included; 0 if that is not known."""
        return 0

    @property
    @abc.abstractmethod
    def num_envs(self) -> int:
        """`N`, the number of environments."""

    @property
    def carry_specs(self) -> tuple[CarrySpec, ...]:
        """The arrays that the policy keeps between the steps of an episode; ``()`` if it has no carry."""
        return self._owner.carry_specs

    @property
    @abc.abstractmethod
    def windows_in_flight(self) -> int:
        """The number of windows that have begun and were not delivered; a policy that is pushed now acts in none."""

    @abc.abstractmethod
    def collect(self) -> CollectedWindow:
        """Returns the next window."""

    def collect_for_learner(self) -> Any:
        """Returns what the learner gets next: the next window, or the batches that are drawn from replay after it."""
        window = self.collect().window
        if self.replaying is None:
            return window
        try:
            return self.replaying.replay_after(window)
        except BaseException as error:
            self.error = error
            raise

    def spec_for_learner(self, window: Any) -> Any:
        """Describes what `collect_for_learner` returns.

        Args:
            window: A `Window` of `tf.TensorSpec`.
        """
        return window if self.replaying is None else self.replaying.replay_spec(window)

    @abc.abstractmethod
    def drain(self) -> None:
        """Stops or finishes all work in the background, so that no thread uses the environments until the next call."""

    def prepare(self) -> Any:
        """Waits for the next window in Python, where Ctrl-C is handled, so that `collect` returns it at once."""

    def logs(self) -> Mapping[str, float]:
        """Returns logs of the source itself, for those of `fit`. By default there are none."""
        return {}

    def leave(self) -> None:
        """Does what `drain` does within about a second, whatever is waited for: `fit` was interrupted."""
        self.drain()

    @abc.abstractmethod
    def save(self) -> Saved:
        """Returns what `restore` needs to continue after the last window that was delivered."""

    def check_saved(self, arrays: Mapping[str, np.ndarray], values: Any) -> None:
        """Checks that `restore` can read what `save` returned, and changes nothing. By default nothing is checked.

        Args:
            arrays: The arrays that `save` returned.
            values: The values that `save` returned.

        Raises:
            StateError: The state is damaged, or belongs to other environments.
        """

    @abc.abstractmethod
    def restore(self, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> bool:
        """Continues where the saved source was; returns whether all continues exactly as without the interruption."""

    @abc.abstractmethod
    def close(self) -> None:
        """Closes the environments for good."""

    def make_copies(self, num_envs: int, env_fn: Callable[[], Any] | None = None) -> Copies:
        """Makes environments for evaluations.

        Args:
            num_envs: The number of environments that are wanted.
            env_fn: Makes one. None: the `env_fn` of the source.

        Raises:
            StateError: There is no `env_fn`.
            Exception: Any error of `env_fn` when it made the first environment.
        """
        raise StateError("This source has no function that makes a second environment.")

    def members(self) -> list[Any]:
        """Returns the environments that are stepped here: single ones, or a vector environment. Empty for a feed."""
        return []

    def trains_on(self, envs: Envs) -> bool:
        """Returns whether one of some environments is stepped here, too."""
        mine = {id(innermost_of(env)) for env in self.members()}
        return any(id(innermost_of(env)) in mine for env in envs.members())

    def give_statistics(self, envs: Envs) -> list[str]:
        """Copies the running statistics of the wrappers to other environments; returns their names."""
        return []

    def drain_notices(self) -> list[str]:
        """Returns and forgets the notices for the user. By default there are none."""
        return []

    def _facts(self) -> Mapping[str, str]:
        return {"num_envs": str(self.num_envs)}

    def keep_delivered(self, keep: bool) -> None:
        """Switches on or off that delivered windows are also kept for `drain_windows`."""
        self._delivered = deque() if keep else None

    def drain_windows(self, up_to: int) -> list[CollectedWindow]:
        """Returns and forgets the collected windows with a number up to `up_to`, oldest first."""
        taken = []
        while self._delivered and self._delivered[0].window_id <= up_to:
            taken.append(self._delivered.popleft())
        return taken

    def _deliver(self, collected: CollectedWindow) -> CollectedWindow:
        if self._delivered is not None:
            self._delivered.append(collected)
        return collected

    def _forget_delivered(self) -> None:
        if self._delivered is not None:
            self._delivered.clear()

    def _make_actor(self) -> Actor:
        owner = self._owner
        if isinstance(owner, CollectingOwner) and not self.deterministic:
            return owner.make_collecting_actor(self.num_envs)
        return owner.make_actor(self.num_envs)
