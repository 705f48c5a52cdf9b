"""Puts the steps of a live feed together to windows: which action earned which reward, and what is padded."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_optix.experience.actions import Actions
from keras_optix.experience.carry import CarrySpec, initial_carry
from keras_optix.experience.episodes import EpisodeTracker
from keras_optix.experience.live.feeds import FeedItem, StreamStep
from keras_optix.experience.live.recording import ActionTaken
from keras_optix.experience.observations import Leaves, ObservationLayout
from keras_optix.experience.policy_params import PolicyRecord
from keras_optix.experience.window import CollectedWindow, Window
from keras_optix.records import EpisodeRecord


@dataclass(frozen=True)
class _Rows:
    """Rows of a window, for the tracker of episodes."""

    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    valid: np.ndarray


class _OpenWindow:
    """The arrays of a window that is being filled; what is never written stays zero, and is not valid."""

    def __init__(
        self, layout: ObservationLayout, actions: Actions, size: int, carry_specs: Sequence[CarrySpec]
    ) -> None:
        self.observations, self.following = layout.empty(size, 1), layout.empty(size, 1)
        for leaf in (*self.observations, *self.following):
            leaf[...] = 0
        self.choices: np.ndarray = np.zeros((size, 1, *actions.shape), actions.dtype)
        self.log_probs = np.zeros((size, 1), np.float32)
        self.rewards = np.zeros((size, 1), np.float32)
        self.terminated, self.truncated, self.valid, self.begins = (np.zeros((size, 1), bool) for _ in range(4))
        self.carry = initial_carry(carry_specs, 1)  # of its first row, once there is one
        self.versions: list[int] = []
        self.infos: list[Any] = []
        self.began = time.monotonic()
        self.acted = False  # whether an action of consequence was chosen since it began

    @property
    def rows(self) -> int:
        """Steps so far."""
        return len(self.versions)

    def between(self, first: int, last: int) -> _Rows:
        """Some of its rows."""
        part = slice(first, last)
        return _Rows(self.rewards[part], self.terminated[part], self.truncated[part], self.valid[part])


@dataclass(frozen=True)
class ClosedWindow:
    """A window that is complete, before it is handed out.

    Attributes:
        window_id: Its number.
        rows: Steps in it; the rows after them are padding.
        episodes: That ended in it.
        policy: The policy that acted in it.
    """

    window_id: int
    rows: int
    episodes: tuple[EpisodeRecord, ...]
    policy: PolicyRecord
    _content: _OpenWindow
    _seed: np.ndarray
    _tracker: EpisodeTracker

    def collected(
        self, layout: ObservationLayout, env_steps: int, policy: PolicyRecord | None = None
    ) -> CollectedWindow:
        """The window as it is handed out.

        Args:
            layout: The observations.
            env_steps: Handed out so far, with those of this one.
            policy: The policy that acted in it, if more is known of it by now.
        """
        content, tracker = self._content, self._tracker
        window = Window(
            observations=layout.pack(content.observations),
            actions=content.choices,
            rewards=content.rewards,
            terminated=content.terminated,
            truncated=content.truncated,
            valid=content.valid,
            next_observations=layout.pack(content.following),
            log_probs=content.log_probs,
            seed=self._seed,
            window_id=np.int64(self.window_id),
            policy_version=np.int64(self.policy.version),
            episode_return=tracker.mean_return,
            episode_length=tracker.mean_length,
            begins=content.begins,
            carry=content.carry,
        )
        infos = [*content.infos, *([{}] for _ in range(len(content.valid) - self.rows))]
        return CollectedWindow(window, infos, self.episodes, policy or self.policy, env_steps)


@dataclass(frozen=True)
class _Pending:
    """An action whose consequence has not arrived."""

    leaves: Leaves
    taken: ActionTaken
    begins: bool  # whether the observation is the first of an episode


class WindowBuilder:
    """The window at hand, the action that is on its way, and the tracker of episodes. Not thread-safe.

    Args:
        layout: The observations.
        actions: What choices are.
        window_size: `T`, rows of a window.
        one_version: See `EpisodeTracker.after`.
        carry_specs: The carry of the policy.

    Attributes:
        tracker: Keeps track of the episodes up to the last window that closed.
        starts: Observations that no action led to: they began an episode or a connection.
        unanswered: Actions whose consequence never arrived.
        begins: Whether the observation at hand is the first of an episode.
    """

    def __init__(
        self,
        layout: ObservationLayout,
        actions: Actions,
        window_size: int,
        *,
        one_version: bool = False,
        carry_specs: Sequence[CarrySpec] = (),
    ) -> None:
        self._layout, self._actions = layout, actions
        self._size = window_size
        self._one_version = one_version
        self._carry_specs = tuple(carry_specs)
        self.begins = True
        self._pending: _Pending | None = None
        self._ignored = False  # whether the action to the observation at hand has no consequence
        self._open = _OpenWindow(layout, actions, window_size, self._carry_specs)
        self.tracker = EpisodeTracker.blank(1)
        self.starts = 0
        self.unanswered = 0

    @property
    def rows(self) -> int:
        """Steps in the window at hand."""
        return self._open.rows

    @property
    def full(self) -> bool:
        """Whether the window at hand has no room for another step."""
        return self._open.rows >= self._size

    @property
    def acted(self) -> bool:
        """Whether an action of consequence was chosen since the window at hand began."""
        return self._open.acted

    @property
    def acted_on(self) -> Leaves | None:
        """The observation whose action is on its way; None where none is."""
        return None if self._pending is None else self._pending.leaves

    def opened(self, now: float) -> None:
        """The feed is opened: a window without rows begins now.

        Args:
            now: By `time.monotonic`.
        """
        if not self._open.rows:
            self._open.began = now

    def observe(self, seen: FeedItem, now: float) -> StreamStep | None:
        """Takes what the feed gave; returns the step that it completes, or None if it begins an episode.

        Args:
            seen: What it gave.
            now: Time of its arrival, by `time.monotonic`.
        """
        pending, self._pending = self._pending, None
        # After a last observation comes another episode, unless its first observation came along.
        self._ignored = seen.ended and seen.final is None
        self.begins = pending is None or (seen.ended and seen.final is not None)
        if pending is None:
            self.starts += 1
            return None
        window, t = self._open, self._open.rows
        following = seen.leaves if seen.final is None else seen.final
        for k, leaf in enumerate(pending.leaves):
            window.observations[k][t, 0] = leaf
            window.following[k][t, 0] = following[k]
        window.choices[t, 0] = pending.taken.choice
        window.log_probs[t] = pending.taken.log_prob
        window.rewards[t] = seen.reward
        window.terminated[t], window.truncated[t], window.valid[t] = seen.terminated, seen.truncated, True
        window.begins[t] = pending.begins
        if t == 0 and self._carry_specs:
            window.carry = tuple(leaf[None] for leaf in pending.taken.carry)
        window.infos.append([seen.info])
        window.versions.append(pending.taken.version)
        seconds = max(now - window.began, 0.0)  # it may have waited for room, and then for the window
        return StreamStep(t + 1, seconds, seen.reward, seen.terminated, seen.truncated, seen.info)

    def act(self, leaves: Leaves, taken: ActionTaken) -> None:
        """Takes the action that was chosen for the observation at hand.

        Args:
            leaves: The observation.
            taken: The action.
        """
        if not self._ignored:
            self._open.acted = True
            self._pending = _Pending(leaves, taken, self.begins)

    def interrupt(self) -> None:
        """A connection was lost, or the end of an episode: its action has no consequence, and it counts nowhere.

        Close the window first, if it has rows: no row may follow the last one.
        """
        self.lose_action()
        self._ignored = False
        self._open.acted = False
        self.forget_episode()

    def lose_action(self) -> None:
        """The consequence of the action on its way, if there is one, will never arrive."""
        self.unanswered += self._pending is not None
        self._pending = None

    def forget_episode(self) -> None:
        """The running episode counts nowhere."""
        self.tracker = EpisodeTracker.blank(1, self.tracker.recent)

    def close(self, window_id: int, seed: np.ndarray, policy: PolicyRecord) -> ClosedWindow:
        """Closes the window at hand, and begins the next one.

        Args:
            window_id: Its number.
            seed: The learner's randomness.
            policy: The policy that acted in it. Its first action may be that of the policy before, where it closed
                while an action was on its way.
        """
        window, rows = self._open, self._open.rows
        episodes: tuple[EpisodeRecord, ...] = ()
        for first, last in _runs(window.versions):
            # Episode by episode it is told which versions played it.
            self.tracker, ended = self.tracker.after(
                window.between(first, last), window.versions[first], window_id, one_version=self._one_version
            )
            episodes += ended
        self._open = _OpenWindow(self._layout, self._actions, self._size, self._carry_specs)
        return ClosedWindow(window_id, rows, episodes, policy, window, seed, self.tracker)


def _runs(versions: Sequence[int]) -> list[tuple[int, int]]:
    """Where equal values follow each other: first and after the last."""
    changes = [t for t in range(1, len(versions)) if versions[t] != versions[t - 1]]
    bounds = [0, *changes, len(versions)]
    return [(first, last) for first, last in itertools.pairwise(bounds) if last > first]
