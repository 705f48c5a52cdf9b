"""Builds windows from the steps of a live feed: pairs each action with its reward, and pads windows that are short."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_optix.clock import MACHINE, Clock
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
    """Some rows of a window, for the `EpisodeTracker`."""

    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    valid: np.ndarray


class _OpenWindow:
    """The arrays of a window that is being filled; rows that are never written stay zero and not valid."""

    def __init__(
        self,
        layout: ObservationLayout,
        actions: Actions,
        size: int,
        carry_specs: Sequence[CarrySpec],
        began: float,
    ) -> None:
        self.observations, self.following = layout.empty(size, 1), layout.empty(size, 1)
        for leaf in (*self.observations, *self.following):
            leaf[...] = 0
        self.choices: np.ndarray = np.zeros((size, 1, *actions.shape), actions.dtype)
        self.log_probs = np.zeros((size, 1), np.float32)
        self.rewards = np.zeros((size, 1), np.float32)
        self.terminated, self.truncated, self.valid, self.begins = (np.zeros((size, 1), bool) for _ in range(4))
        self.carry = initial_carry(carry_specs, 1)  # replaced by the carry of the first row when there is one
        self.versions: list[int] = []
        self.infos: list[Any] = []
        self.began = began  # by the clock
        self.acted = False  # whether an action that leads to a step was chosen since the window began

    @property
    def rows(self) -> int:
        """The number of steps so far."""
        return len(self.versions)

    def between(self, first: int, last: int) -> _Rows:
        """Returns the rows from `first` to before `last`."""
        part = slice(first, last)
        return _Rows(self.rewards[part], self.terminated[part], self.truncated[part], self.valid[part])


@dataclass(frozen=True)
class ClosedWindow:
    """A window that is complete and was not delivered yet.

    Attributes:
        window_id: The number of the window.
        rows: The number of steps in it; the rows after them are padding.
        episodes: The episodes that ended in it.
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
        """Returns the window in the form that is delivered.

        Args:
            layout: The layout of the observations.
            env_steps: The number of steps delivered so far, including those of this window.
            policy: A more complete record of the policy that acted in it, if there is one.
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
    """An action whose reward and next observation have not arrived."""

    leaves: Leaves
    taken: ActionTaken
    begins: bool  # whether the observation is the first of an episode


class WindowBuilder:
    """Builds the current window, and holds the pending action and the tracker of episodes. Not thread-safe.

    The *pending* action is the last action that was sent, until its reward and next observation arrive.

    Args:
        layout: The layout of the observations.
        actions: The shape and dtype of choices.
        window_size: `T`, rows of a window.
        one_version: See `EpisodeTracker.after`.
        carry_specs: The arrays of the policy's carry.
        clock: Says when windows begin. Defaults to the clock of the machine.

    Attributes:
        tracker: Keeps track of the episodes up to the last window that closed.
        starts: The number of observations that no action led to, because they began an episode or a connection.
        unanswered: The number of actions whose reward and next observation never arrived.
        stepless: The number of items that ended an episode in which no action had been taken.
        stepless_in_a_row: The number of these since the last item that was not such an item.
        begins: Whether the current observation is the first of an episode.
    """

    def __init__(
        self,
        layout: ObservationLayout,
        actions: Actions,
        window_size: int,
        *,
        one_version: bool = False,
        carry_specs: Sequence[CarrySpec] = (),
        clock: Clock = MACHINE,
    ) -> None:
        self._clock = clock
        self._layout, self._actions = layout, actions
        self._size = window_size
        self._one_version = one_version
        self._carry_specs = tuple(carry_specs)
        self.begins = True
        self._pending: _Pending | None = None
        self._ignored = False  # whether the action for the current observation leads to no step
        self._open = self._begin_window()
        self.tracker = EpisodeTracker.blank(1)
        self.starts = self.unanswered = self.stepless = self.stepless_in_a_row = 0

    @property
    def rows(self) -> int:
        """The number of steps in the current window."""
        return self._open.rows

    @property
    def full(self) -> bool:
        """Whether the current window has no room for another step."""
        return self._open.rows >= self._size

    @property
    def acted(self) -> bool:
        """Whether an action that leads to a step was chosen since the current window began."""
        return self._open.acted

    @property
    def acted_on(self) -> Leaves | None:
        """The observation of the pending action; None if no action is pending."""
        return None if self._pending is None else self._pending.leaves

    def opened(self, now: float) -> None:
        """Notes that the feed is opened: if the current window has no rows, it begins now.

        Args:
            now: The time by the clock.
        """
        if not self._open.rows:
            self._open.began = now

    def observe(self, seen: FeedItem, now: float) -> StreamStep | None:
        """Adds an item of the feed; returns the step that it completes, or None if it begins an episode.

        Args:
            seen: The item.
            now: The time of its arrival, by the clock.
        """
        pending, self._pending = self._pending, None
        # The action for a last observation leads to no step, unless the item also has the first of the next episode.
        self._ignored = seen.ended and seen.final is None
        self.begins = pending is None or (seen.ended and seen.final is not None)
        stepless = pending is None and self._ignored
        self.stepless += stepless
        self.stepless_in_a_row = self.stepless_in_a_row + 1 if stepless else 0
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
        seconds = max(now - window.began, 0.0)  # the item may have arrived before the window began
        return StreamStep(t + 1, seconds, seen.reward, seen.terminated, seen.truncated, seen.info)

    def act(self, leaves: Leaves, taken: ActionTaken) -> None:
        """Notes the action that was chosen for the current observation.

        Args:
            leaves: The observation.
            taken: The action.
        """
        if not self._ignored:
            self._open.acted = True
            self._pending = _Pending(leaves, taken, self.begins)

    def interrupt(self) -> None:
        """Discards the pending action and the running episode, because a connection or an episode was cut off.

        If the window has rows, close it first: no row may follow the last one.
        """
        self.lose_action()
        self._ignored = False
        self._open.acted = False
        self.forget_episode()

    def lose_action(self) -> None:
        """Discards the pending action, if there is one, because its reward and next observation will never arrive."""
        self.unanswered += self._pending is not None
        self._pending = None

    def forget_episode(self) -> None:
        """Discards the running episode, which is not counted."""
        self.tracker = EpisodeTracker.blank(1, self.tracker.recent)

    def close(self, window_id: int, seed: np.ndarray, policy: PolicyRecord) -> ClosedWindow:
        """Closes the current window, and begins the next one.

        Args:
            window_id: The number of the window.
            seed: ``[2]`` int32, the learner's seed for this window.
            policy: The policy that acted in it. The first action may be that of the previous policy, if the previous
                window closed while an action was pending.
        """
        window, rows = self._open, self._open.rows
        episodes: tuple[EpisodeRecord, ...] = ()
        for first, last in _runs(window.versions):
            # Rows of different versions are added one after the other, so that episodes note their versions.
            self.tracker, ended = self.tracker.after(
                window.between(first, last), window.versions[first], window_id, one_version=self._one_version
            )
            episodes += ended
        self._open = self._begin_window()
        return ClosedWindow(window_id, rows, episodes, policy, window, seed, self.tracker)

    def _begin_window(self) -> _OpenWindow:
        return _OpenWindow(self._layout, self._actions, self._size, self._carry_specs, self._clock.monotonic())


def _runs(versions: Sequence[int]) -> list[tuple[int, int]]:
    """Returns the runs of equal values, each as the index of its first value and the index after its last."""
    changes = [t for t in range(1, len(versions)) if versions[t] != versions[t - 1]]
    bounds = [0, *changes, len(versions)]
    return [(first, last) for first, last in itertools.pairwise(bounds) if last > first]
