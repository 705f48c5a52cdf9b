"""Chooses the actions on a live feed, by the latest policy or from a recording."""

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

_NOISE_AHEAD = 256  # steps; drawing noise for each step alone would take as long as the policy
_VERSIONS_KEPT = 64


class ActionSource(Protocol):
    """Chooses actions. One thread pushes policies, and another thread chooses."""

    @property
    def current(self) -> PolicyRecord:
        """The policy that chose the last action; before the first one, the policy that was pushed first."""
        ...

    def push(self, policy: PolicyRecord) -> None:
        """Takes a newer version of the policy."""
        ...

    def resolve(self, policy: PolicyRecord) -> PolicyRecord:
        """Completes the record of the policy that acted in a window, when the window is delivered."""
        ...

    def choose(
        self, leaves: Leaves, item: Any, window_id: int, *, begins: bool, new_episode: bool = False
    ) -> ActionTaken | None:
        """Chooses an action, or returns None if a recording has none because it or its connection ended there.

        Args:
            leaves: The observation.
            item: The item of the feed.
            window_id: The number of the current window.
            begins: Whether this is the first action in that window. If so, the latest version acts from now on.
            new_episode: Whether the observation is the first of an episode. If so, the policy gets its initial carry.
        """
        ...


class PolicyActionSource:
    """Chooses actions with the latest policy. A policy that is pushed acts from the next window on.

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
        """Returns the record itself, which is complete. See `ActionSource`."""
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
    """Returns the actions that were chosen when the feed was recorded.

    Args:
        policy: The first version of the policy.
    """

    def __init__(self, policy: PolicyRecord) -> None:
        self._known = {policy.version: policy}
        self._last = unknown_policy(policy.version)
        self._unanswered = False  # whether the last observation had no action

    @property
    def current(self) -> PolicyRecord:
        """See `ActionSource`."""
        return self._last

    def push(self, policy: PolicyRecord) -> None:
        """See `ActionSource`. The policy does not act, but it may be the version that acted in the recorded run."""
        self._known[policy.version] = policy
        while len(self._known) > _VERSIONS_KEPT:
            del self._known[next(iter(self._known))]

    def resolve(self, policy: PolicyRecord) -> PolicyRecord:
        """See `ActionSource`. Adds the weights if this agent had the same weights under the same version."""
        known = self._known.get(policy.version)
        return known if known is not None and known.fingerprint == policy.fingerprint else policy

    def choose(
        self, leaves: Leaves, item: Any, window_id: int, *, begins: bool, new_episode: bool = False
    ) -> ActionTaken | None:
        """See `ActionSource`.

        Raises:
            StateError: The recording has another item after an observation without an action.
        """
        if not isinstance(item, RecordedItem) or (self._unanswered and not item.first):
            raise StateError(
                "The recording has an observation without an action in the middle of a connection, so its actions "
                'cannot be repeated. Replay it with replay_feed(path, actions="agent").'
            )
        taken = item.taken
        self._unanswered = taken is None
        if taken is None:
            return None
        if taken.version != self._last.version:
            self._last = unknown_policy(taken.version)
        return taken
