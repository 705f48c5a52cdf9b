"""Where windows come from, as an agent and the loop see it: environments that are stepped, or a live feed."""

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
from keras_optix.experience.window import CollectedWindow
from keras_optix.reprs import OneLineRepr
from keras_optix.store.files import Saved


class PolicyOwner(Protocol):
    """Who trains the policy that acts: an agent."""

    @property
    def carry_specs(self) -> tuple[CarrySpec, ...]:
        """What the policy remembers between the steps of an episode; ``()`` where it has no carry."""
        ...

    def policy_record(self) -> PolicyRecord:
        """Reads out the current version of the policy."""
        ...

    def make_actor(self, batch_size: int) -> Actor:
        """Returns an actor for `batch_size` environments."""
        ...


@runtime_checkable
class CollectingOwner(Protocol):
    """An owner whose policy acts otherwise where windows are collected for training: it tries something out."""

    def make_collecting_actor(self, batch_size: int) -> Actor:
        """Returns an actor for `batch_size` environments that are trained on."""
        ...


class WindowSource(OneLineRepr, abc.ABC):
    """Hands out windows, one after the other, each collected by one version of a policy.

    Args:
        owner: Gives the policy and its actor; see also `CollectingOwner` and `WindowListener`.
        window_size: `T`, rows of a window.
        seed: Of everything random, or None.
        deterministic: Whether the most likely action is taken.
        env_fn: Makes one more such environment, for evaluations; None if nothing does.
        obstacle: Why nothing does.

    Attributes:
        endless: Whether the windows go on by themselves, and somebody else says when it is enough: a live feed.
        notices_are_of: What `drain_notices` tells of: ``"environment"`` or ``"feed"``.
        episode_limit: Env steps after which an environment cuts an episode off, where it says so; else None.
        error: What ended the collecting, until somebody takes it.
        waited_for: Whether a learner waits for a window, between two of its steps, and does nothing else meanwhile.
    """

    endless = False
    waited_for = False
    notices_are_of = "environment"
    episode_limit: int | None = None

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

    @property
    @abc.abstractmethod
    def num_envs(self) -> int:
        """`N`, environments."""

    @property
    def carry_specs(self) -> tuple[CarrySpec, ...]:
        """What the policy remembers between the steps of an episode; ``()`` where it has no carry."""
        return self._owner.carry_specs

    @property
    @abc.abstractmethod
    def windows_in_flight(self) -> int:
        """Windows that have begun and are not handed out: no policy that is pushed from now on acts in them."""

    @abc.abstractmethod
    def collect(self) -> CollectedWindow:
        """Returns the next window."""

    @abc.abstractmethod
    def drain(self) -> None:
        """Makes sure that nothing happens to the environments behind the caller's back."""

    @abc.abstractmethod
    def save(self) -> Saved:
        """Returns what `restore` needs to go on after the last window that was handed out."""

    def check_saved(self, arrays: Mapping[str, np.ndarray], values: Any) -> None:
        """Checks that `restore` can read what `save` returned, and changes nothing. Here: nothing is checked.

        Args:
            arrays: As returned.
            values: As returned.

        Raises:
            StateError: It is damaged, or of other environments.
        """

    @abc.abstractmethod
    def restore(self, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> bool:
        """Goes on where the source was that `save` was called on; returns whether all goes on as it would have."""

    @abc.abstractmethod
    def close(self) -> None:
        """Closes the environments, for good."""

    def make_copies(self, num_envs: int) -> Copies:
        """Makes environments for evaluations, by `env_fn`.

        Args:
            num_envs: How many are wanted.

        Raises:
            StateError: There is no `env_fn`.
            Exception: Whatever kept the first one from being made.
        """
        raise StateError("There is no second environment.")

    def give_statistics(self, envs: Envs) -> bool:
        """Gives other environments what the wrappers of these have seen; returns whether there was anything to give."""
        return False

    def drain_notices(self) -> list[str]:
        """Returns and forgets what people should be told. By default there is nothing to tell."""
        return []

    def _facts(self) -> Mapping[str, str]:
        return {"num_envs": str(self.num_envs)}

    def keep_delivered(self, keep: bool) -> None:
        """Switches on that collected windows wait for `drain_windows`; off, they are only handed to the dataset."""
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
