"""Drops or repairs the items of a feed in which something is not finite, if `on_invalid="drop"`.

The agent never learns from a value that is not finite. No reward is lost, and none is credited to another action. While
the episode continues, the item is left out: the last action is sent again, and the reward of the item, if it is finite,
is added to the reward of the next item, because the same action earned both. One step then spans both items::

    item          0        1        2 (NaN)   3
    observation   o0       o1       -         o3
    reward                 r1       r2        r3
    action        a0       a1       a1        a3
    learned from: (o0, a0, r1, o1), (o1, a1, r2 + r3, o3)
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from gymnasium import spaces

from keras_optix.experience.live.feeds import FeedItem, Flawed
from keras_optix.experience.observations import Leaves


class Dropping:
    """Counts the items that are not finite, and repairs those that end an episode. Not thread-safe.

    Args:
        action_space: The space of the actions that the feed accepts.

    Attributes:
        invalid: The number of items in which something was not finite.
    """

    def __init__(self, action_space: spaces.Space[Any]) -> None:
        self.invalid = 0
        self._in_a_row = 0
        self._carried = 0.0  # rewards of dropped items that the pending action earned
        self._answer: Any = None
        self._neutral = neutral_action(action_space)

    @property
    def answer(self) -> Any:
        """The action that answers a dropped item: the last action, or the neutral action before the first one."""
        return self._neutral if self._answer is None else self._answer

    def note_answer(self, action: Any) -> None:
        """Notes the action that was sent."""
        self._answer = action

    def forget(self) -> None:
        """Discards the rewards of dropped items, because the step of the pending action is discarded, too."""
        self._carried = 0.0

    def admit(self, seen: FeedItem) -> FeedItem:
        """Returns a finite item, with the rewards of dropped items that the same action earned added to its reward."""
        self._in_a_row = 0
        carried, self._carried = self._carried, 0.0
        return replace(seen, reward=seen.reward + carried) if carried else seen

    def mend(self, flawed: Flawed, acted_on: Leaves | None) -> FeedItem | None:
        """Repairs an item if possible, or returns None if it is to be dropped.

        An item that ends an episode completes the step. If its observation is not finite, the last finite observation
        replaces it: after `terminated` this observation is not used, and after `truncated` it is the best estimate.

        Args:
            flawed: The item.
            acted_on: The observation of the pending action, or None if no action is pending.
        """
        self.invalid += 1
        self._in_a_row += 1
        if acted_on is None or flawed.reward is None or not flawed.ended:
            self._carried += flawed.reward if acted_on is not None and flawed.reward is not None else 0.0
            return None
        last = flawed.final if flawed.resets else flawed.leaves
        last = acted_on if last is None else last
        begins = flawed.leaves if flawed.resets else None
        seen = FeedItem(
            last if begins is None else begins,
            None if begins is None else last,
            flawed.reward,
            flawed.terminated,
            flawed.truncated,
            flawed.info,
        )
        return self.admit(seen)

    def notice(self, flawed: Flawed, number: int) -> str | None:
        """Returns a notice for the first item and when 10, 100, 1000 ... come in a row; else None."""
        if self.invalid == 1:
            return (
                f"item {number} of the feed is not finite ({flawed.what}) and is left out; all such items are counted "
                "in feed/invalid"
            )
        many = self._in_a_row >= 10 and str(self._in_a_row).strip("0") == "1"
        return f"the last {self._in_a_row:,} items of the feed in a row were not finite" if many else None


def neutral_action(space: spaces.Space[Any]) -> Any:
    """Returns the action nearest to doing nothing: zero, or the element of the space that is nearest to zero."""
    if isinstance(space, spaces.Box):
        return np.clip(np.zeros(space.shape, space.dtype), space.low, space.high).astype(space.dtype)
    if isinstance(space, spaces.Discrete):
        return space.dtype.type(space.start)
    if isinstance(space, spaces.MultiDiscrete):
        return np.array(space.start, space.dtype) if np.ndim(space.start) else np.zeros(space.shape, space.dtype)
    return np.zeros(space.shape or (), space.dtype)
