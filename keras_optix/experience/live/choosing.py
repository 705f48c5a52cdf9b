"""Who chooses the actions on a live feed: the last published policy, or a recording."""

from __future__ import annotations

from collections import deque
from typing import Any, Protocol

import numpy as np

from keras_optix.errors import StateError, describe
from keras_optix.experience.actor import Actor
from keras_optix.experience.live.recording import RecordedItem, Taken
from keras_optix.experience.observations import Leaves
from keras_optix.experience.source import WindowListener
from keras_optix.experience.window import PublishedPolicy

_NOISE_AHEAD = 256  # steps; drawn one by one, noise takes as long as the policy
_VERSIONS_KEPT = 64


class Chooser(Protocol):
    """Chooses actions. One thread publishes, another one chooses."""

    @property
    def in_force(self) -> PublishedPolicy:
        """The policy that chose last, or was published first."""
        ...

    def publish(self, published: PublishedPolicy) -> None:
        """Offers a newer version of the policy."""
        ...

    def resolve(self, published: PublishedPolicy) -> PublishedPolicy:
        """What is known, when a window is handed out, of the policy that acted in it."""
        ...

    def choose(self, leaves: Leaves, item: Any, window_id: int, *, begins: bool) -> Taken | None:
        """Chooses an action; None where nobody did: a recording ends there, or its connection.

        Args:
            leaves: The observation.
            item: What the feed gave.
            window_id: Number of the window at hand.
            begins: Whether it is the first action in that window: then the latest version comes in force.
        """
        ...


class PolicyChooser:
    """The last published policy acts; a newer one comes in force with the next window.

    Args:
        actor: Runs the policy for one environment.
        published: The first version.
        rng: Draws the noise.
        deterministic: Take the most likely action.
    """

    def __init__(
        self, actor: Actor, published: PublishedPolicy, rng: np.random.Generator, *, deterministic: bool
    ) -> None:
        self.in_force = self._latest = published
        self._actor = actor
        self._rng = rng
        self._deterministic = deterministic
        self._noise: deque[np.ndarray] = deque()
        actor.set_weights(published.arrays)

    def publish(self, published: PublishedPolicy) -> None:
        """See `Chooser`."""
        self._latest = published

    def resolve(self, published: PublishedPolicy) -> PublishedPolicy:
        """See `Chooser`: all of it."""
        return published

    def choose(self, leaves: Leaves, item: Any, window_id: int, *, begins: bool) -> Taken:
        """See `Chooser`."""
        actor = self._actor
        if begins:
            latest = self._latest
            if latest is not self.in_force:
                actor.set_weights(latest.arrays)
                self.in_force = latest
            if isinstance(actor, WindowListener):
                actor.begin_window(window_id)
        if not self._noise:
            ahead = (_NOISE_AHEAD, 1)
            drawn = actor.noise.zeros(ahead) if self._deterministic else actor.noise.draw(self._rng, ahead)
            self._noise.extend(drawn)
        choices, log_probs = actor.act([leaf[None] for leaf in leaves], self._noise.popleft())
        return Taken(choices[0], float(log_probs[0]), self.in_force.version)


class RecordedChooser:
    """What was chosen when the feed was recorded.

    Args:
        published: The first version.
    """

    def __init__(self, published: PublishedPolicy) -> None:
        self._known = {published.version: published}
        self._last = unknown_policy(published.version)
        self._unanswered = False  # the last observation

    @property
    def in_force(self) -> PublishedPolicy:
        """See `Chooser`."""
        return self._last

    def publish(self, published: PublishedPolicy) -> None:
        """See `Chooser`. It acts nowhere, but it may be the version that acted."""
        self._known[published.version] = published
        while len(self._known) > _VERSIONS_KEPT:
            del self._known[next(iter(self._known))]

    def resolve(self, published: PublishedPolicy) -> PublishedPolicy:
        """See `Chooser`: its weights, if this agent has had the same under that version."""
        known = self._known.get(published.version)
        return known if known is not None and known.fingerprint == published.fingerprint else published

    def choose(self, leaves: Leaves, item: Any, window_id: int, *, begins: bool) -> Taken | None:
        """See `Chooser`.

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


def unknown_policy(version: int, fingerprint: int = 0) -> PublishedPolicy:
    """A policy of which a recording tells that it acted.

    Args:
        version: Its version.
        fingerprint: Of its weights.
    """

    def state() -> Any:
        raise StateError(
            describe("The weights of a policy that acted in a recording are not known.", policy_version=version)
        )

    return PublishedPolicy(version, (), state, fingerprint, available=False)
