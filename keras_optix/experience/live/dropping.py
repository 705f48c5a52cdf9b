"""What becomes of an item of a feed in which something is not finite, where such items are dropped.

Nothing is learned from a value that is not finite, and nothing that was earned is lost or put beside another action.
While the episode goes on, the item is left out: its answer is the action before it once more, and its reward, if that
is finite, is added to that of the next item, because the same action earned both. One step then spans both items::

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
    """Keeps account of the items that were dropped, and mends those that are needed. Not thread-safe.

    Args:
        action_space: What the feed takes.

    Attributes:
        invalid: Items in which something was not finite.
    """

    def __init__(self, action_space: spaces.Space[Any]) -> None:
        self.invalid = 0
        self._in_a_row = 0
        self._carried = 0.0  # rewards of dropped items that belong to the action on its way
        self._answer: Any = None
        self._neutral = neutral_action(action_space)

    @property
    def answer(self) -> Any:
        """The action that answers an item that was dropped: that before it, or the neutral one where there is none."""
        return self._neutral if self._answer is None else self._answer

    def note_answer(self, action: Any) -> None:
        """Notes the action that went out."""
        self._answer = action

    def forget(self) -> None:
        """The action on its way has no consequence any more, and so nothing that was earned with it."""
        self._carried = 0.0

    def admit(self, seen: FeedItem) -> FeedItem:
        """An item that is finite, with what was earned by the same action before."""
        self._in_a_row = 0
        carried, self._carried = self._carried, 0.0
        return replace(seen, reward=seen.reward + carried) if carried else seen

    def mend(self, flawed: Flawed, acted_on: Leaves | None) -> FeedItem | None:
        """What can be made of an item, or None if it is to be dropped.

        An item that ends an episode completes the step, with the last observation that was finite in the place of one
        that is not: after `terminated` it is not looked at, after `truncated` it is the nearest to what is known.

        Args:
            flawed: The item.
            acted_on: The observation whose action is on its way, if one is.
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
        """What people should be told of an item: the first one, and when many come in a row."""
        if self.invalid == 1:
            return (
                f"item {number} of the feed is not finite ({flawed.what}) and is left out; further ones are counted in "
                "feed/invalid"
            )
        many = self._in_a_row >= 10 and str(self._in_a_row).strip("0") == "1"
        return f"the last {self._in_a_row:,} items of the feed in a row were not finite" if many else None


def neutral_action(space: spaces.Space[Any]) -> Any:
    """The action nearest to doing nothing: zero, or what comes nearest to it in the space."""
    if isinstance(space, spaces.Box):
        return np.clip(np.zeros(space.shape, space.dtype), space.low, space.high).astype(space.dtype)
    if isinstance(space, spaces.Discrete):
        return space.dtype.type(space.start)
    if isinstance(space, spaces.MultiDiscrete):
        return np.array(space.start, space.dtype) if np.ndim(space.start) else np.zeros(space.shape, space.dtype)
    return np.zeros(space.shape or (), space.dtype)
