"""Who chooses the actions on a live feed: the latest policy, or a recording."""

from __future__ import annotations

from collections import deque
from typing import Any, Protocol

import numpy as np

from keras_optix.errors import StateError
from keras_optix.experience.actor import Actor, WindowListener
from keras_optix.experience.carry import initial_carry
from keras_optix.experience.live.recording import ActionTaken, RecordedItem
from keras_optix.experience.observations import Leaves
from keras_optix.experience.policy_params import PolicyRecord, unknown_policy

_NOISE_AHEAD = 256  # steps; drawn one by one, noise takes as long as the policy
_VERSIONS_KEPT = 64


class ActionSource(Protocol):
    """Chooses actions. One thread pushes policies, another one chooses."""

    @property
    def current(self) -> PolicyRecord:
        """The policy that chose last, or was pushed first."""
        ...

    def push(self, policy: PolicyRecord) -> None:
        """Offers a newer version of the policy."""
        ...

    def resolve(self, policy: PolicyRecord) -> PolicyRecord:
        """What is known, when a window is handed out, of the policy that acted in it."""
        ...

    def choose(
        self, leaves: Leaves, item: Any, window_id: int, *, begins: bool, new_episode: bool = False
    ) -> ActionTaken | None:
        """Chooses an action; None where nobody did: a recording ends there, or its connection.

        Args:
            leaves: The observation.
            item: What the feed gave.
            window_id: Number of the window at hand.
            begins: Whether it is the first action in that window: then the latest version acts from now on.
            new_episode: Whether the observation is the first of an episode: then the policy remembers nothing.
        """
        ...


class PolicyActionSource:
    """The latest policy acts; one that is pushed acts from the next window on.

    Args:
        actor: Runs the policy for one environment.
        policy: The first version.
        rng: Draws the noise.
        deterministic: Take the most likely action.
    """

    def __init__(self, actor: Actor, policy: PolicyRecord, rng: np.random.Generator, *, deterministic: bool) -> None:
        self.current = self._latest = policy
        self._actor = actor
        self._rng = rng
        self._deterministic = deterministic
        self._noise: deque[np.ndarray] = deque()
        self._initial = self._carry = initial_carry(actor.carry, 1)
        actor.set_weights(policy.params.arrays)

    def push(self, policy: PolicyRecord) -> None:
        """See `ActionSource`."""
        self._latest = policy

    def resolve(self, policy: PolicyRecord) -> PolicyRecord:
        """See `ActionSource`: all of it."""
        return policy

    def choose(
        self, leaves: Leaves, item: Any, window_id: int, *, begins: bool, new_episode: bool = False
    ) -> ActionTaken:
        """See `ActionSource`."""
        actor = self._actor
        if begins:
            latest = self._latest
            if latest is not self.current:
                actor.set_weights(latest.params.arrays)
                self.current = latest
            if isinstance(actor, WindowListener):
                actor.begin_window(window_id)
        if not self._noise:
            ahead = (_NOISE_AHEAD, 1)
            drawn = actor.noise.zeros(ahead) if self._deterministic else actor.noise.draw(self._rng, ahead)
            self._noise.extend(drawn)
        before = self._initial if new_episode else self._carry
        choices, log_probs, self._carry = actor.act([leaf[None] for leaf in leaves], self._noise.popleft(), before)
        carry = tuple([leaf[0] for leaf in before]) if before else ()
        return ActionTaken(choices[0], float(log_probs[0]), self.current.version, carry)


class RecordedActionSource:
    """What was chosen when the feed was recorded.

    Args:
        policy: The first version.
    """

    def __init__(self, policy: PolicyRecord) -> None:
        self._known = {policy.version: policy}
        self._last = unknown_policy(policy.version)
        self._unanswered = False  # the last observation

    @property
    def current(self) -> PolicyRecord:
        """See `ActionSource`."""
        return self._last

    def push(self, policy: PolicyRecord) -> None:
        """See `ActionSource`. It acts nowhere, but it may be the version that acted."""
        self._known[policy.version] = policy
        while len(self._known) > _VERSIONS_KEPT:
            del self._known[next(iter(self._known))]

    def resolve(self, policy: PolicyRecord) -> PolicyRecord:
        """See `ActionSource`: its weights, if this agent has had the same under that version."""
        known = self._known.get(policy.version)
        return known if known is not None and known.fingerprint == policy.fingerprint else policy

    def choose(
        self, leaves: Leaves, item: Any, window_id: int, *, begins: bool, new_episode: bool = False
    ) -> ActionTaken | None:
        """See `ActionSource`.

        Raises:
            StateError: The recording holds an observation that nobody answered, and yet one that followed.
        """
        if not isinstance(item, RecordedItem) or (self._unanswered and not item.first):
            raise StateError("The recording holds an observation without an action in the middle of a connection.")
        taken = item.taken
        self._unanswered = taken is None
        if taken is None:
            return None
        if taken.version != self._last.version:
            self._last = unknown_policy(taken.version)
        return taken
