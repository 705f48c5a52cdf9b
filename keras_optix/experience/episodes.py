"""Keeps track of episodes: the returns and lengths of the running ones so far, and the last ones that ended."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from keras_optix.experience.rollout import Steps, ends
from keras_optix.records import EpisodeRecord

_RECENT_EPISODES = 100


@dataclass(frozen=True, eq=False)
class EpisodeTracker:
    """The episodes of `N` environments between two windows. `after` returns a new tracker and does not change this one.

    Attributes:
        returns: ``[N]`` float64, the returns of the running episodes so far.
        lengths: ``[N]`` int64, the environment steps of the running episodes so far.
        first_versions: ``[N]`` int64, the policy version that chose the first action of the running episode; without
            meaning if the length is 0.
        first_windows: ``[N]`` int64, the number of the window in which the running episode began.
        recent: The last 100 episodes that ended and count, oldest first.
    """

    returns: np.ndarray
    lengths: np.ndarray
    first_versions: np.ndarray
    first_windows: np.ndarray
    recent: tuple[EpisodeRecord, ...] = ()

    @classmethod
    def blank(cls, num_envs: int, recent: tuple[EpisodeRecord, ...] = ()) -> EpisodeTracker:
        """Returns a tracker of `num_envs` environments in which no episode has begun."""
        lengths, versions, windows = (np.zeros(num_envs, np.int64) for _ in range(3))
        return cls(np.zeros(num_envs), lengths, versions, windows, recent)

    def cut(self, envs: np.ndarray) -> EpisodeTracker:
        """Returns the tracker without the running episodes of some environments, which are not counted.

        Args:
            envs: ``[N]`` bool, the environments.
        """
        blank = EpisodeTracker.blank(len(envs), self.recent)
        return EpisodeTracker(
            np.where(envs, blank.returns, self.returns),
            np.where(envs, blank.lengths, self.lengths),
            np.where(envs, blank.first_versions, self.first_versions),
            np.where(envs, blank.first_windows, self.first_windows),
            self.recent,
        )

    @property
    def fresh(self) -> np.ndarray:
        """``[N]`` bool, environments whose next transition is the first of an episode."""
        fresh: np.ndarray = self.lengths == 0
        return fresh

    def begins(self, rows: Steps) -> np.ndarray:
        """Finds the rows of the next window in which episodes begin.

        Args:
            rows: The window.

        Returns:
            ``[T, N]`` bool, True if the row is the first transition of an episode.
        """
        # A row that is not a transition, because an environment only reset, is followed by the first of an episode.
        after = np.logical_or(ends(rows), ~rows.valid)
        begins: np.ndarray = np.concatenate([self.fresh[None], after[:-1]])
        begins &= rows.valid
        return begins

    @property
    def mean_return(self) -> np.float32:
        """Mean return of the recent episodes, NaN if there are none."""
        return np.float32(np.mean([e.total_reward for e in self.recent]) if self.recent else np.nan)

    @property
    def mean_length(self) -> np.float32:
        """Mean length of the recent episodes in environment steps, NaN if there are none."""
        return np.float32(np.mean([e.length for e in self.recent]) if self.recent else np.nan)

    def after(
        self,
        rows: Steps,
        version: int,
        window_id: int,
        *,
        one_version: bool,
        rewards: np.ndarray | None = None,
    ) -> tuple[EpisodeTracker, tuple[EpisodeRecord, ...]]:
        """Adds a window to the running episodes.

        Args:
            rows: The window, or some of its rows, at least one.
            version: The policy version that acted in these rows.
            window_id: The number of the window.
            rewards: ``[T, N]``, the rewards that are added up. Defaults to the rewards of the rows.
            one_version: Whether only episodes that `version` began and ended count as recent.

        Returns:
            The tracker after the window, and the episodes that ended in it, in the order of their ends.
        """
        first_versions = np.where(self.lengths == 0, version, self.first_versions)
        first_windows = np.where(self.lengths == 0, window_id, self.first_windows)
        # Environments come first in memory, because a running sum along a strided axis takes ten times as long.
        earned = rows.rewards if rewards is None else rewards
        returns = np.cumsum(earned.T.astype(np.float64, order="C"), axis=1) + self.returns[:, None]
        lengths = np.cumsum(rows.valid.T.astype(np.int64, order="C"), axis=1) + self.lengths[:, None]
        envs, times = np.nonzero(ends(rows).T)
        # Within an environment, the sums of an episode are those at its end less those at the end of the one before.
        same = envs[1:] == envs[:-1]
        totals, steps = returns[envs, times], lengths[envs, times]
        rewards, sizes = totals.copy(), steps.copy()
        first, first_in = first_versions[envs], first_windows[envs]
        rewards[1:][same] -= totals[:-1][same]
        sizes[1:][same] -= steps[:-1][same]
        first[1:][same] = version
        first_in[1:][same] = window_id
        running_returns, running_lengths = returns[:, -1].copy(), lengths[:, -1].copy()
        last = np.append(~same, True)[: len(envs)]
        running_returns[envs[last]] -= totals[last]
        running_lengths[envs[last]] -= steps[last]
        first_versions[envs], first_windows[envs] = version, window_id
        order = np.argsort(times, kind="stable")
        columns = [values[order].tolist() for values in (rewards, sizes, first, envs, first_in)]
        ended = tuple(
            EpisodeRecord(total, size, begun, version, env, window)
            for total, size, begun, env, window in zip(*columns, strict=True)
        )
        recent = (*self.recent, *ended)
        if one_version:
            recent = tuple(e for e in recent if e.first_version == version == e.last_version)
        kept = recent[-_RECENT_EPISODES:]
        return EpisodeTracker(running_returns, running_lengths, first_versions, first_windows, kept), ended
