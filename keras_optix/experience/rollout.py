"""The buffers that environments write into while a window is collected."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from keras_optix.experience.observations import Leaves, ObservationLayout


class Rollout:
    """`T` steps of `N` environments.

    `observations` has `T + 1` rows: row ``t + 1`` is what the policy sees after step ``t``. That is the true successor,
    but where an episode ended and the environment was reset at once; the last observation of the episode is in
    `finals` then.

    Args:
        layout: The observations.
        steps: `T`.
        num_envs: `N`.
        own_rewards: Whether the environments tell their own rewards beside those that are learned from.

    Attributes:
        observations: Leaves, ``[T + 1, N, ...]`` each.
        rewards: ``[T, N]`` float32.
        own_rewards: ``[T, N]`` float32, what is scored: the rewards beneath a wrapper that normalises them (see
            `RewardsBeneath`); the same array as `rewards` where there is none.
        terminated: ``[T, N]`` bool, False unless an environment writes otherwise.
        truncated: ``[T, N]`` bool, likewise.
        valid: ``[T, N]`` bool, True unless an environment writes otherwise.
        finals: ``(t, environment, leaves)`` of each episode end after which row ``t + 1`` begins another episode.
    """

    def __init__(self, layout: ObservationLayout, steps: int, num_envs: int, *, own_rewards: bool = False) -> None:
        self.observations = layout.empty(steps + 1, num_envs)
        self.rewards = np.zeros((steps, num_envs), np.float32)
        self.own_rewards = np.zeros_like(self.rewards) if own_rewards else self.rewards
        self.terminated = np.zeros((steps, num_envs), bool)
        self.truncated = np.zeros((steps, num_envs), bool)
        self.valid = np.ones((steps, num_envs), bool)
        self.finals: list[tuple[int, int, Leaves]] = []

    def next_observations(self) -> Leaves:
        """The true successors, ``[T, N, ...]`` each."""
        following = [leaf[1:].copy() for leaf in self.observations]
        for t, i, final in self.finals:
            for leaf, value in zip(following, final, strict=True):
                leaf[t, i] = value
        return following

    def restart(self) -> None:
        """Makes the last observations the first ones, and forgets the rest."""
        for leaf in self.observations:
            leaf[0] = leaf[-1]
        self.terminated[:] = False
        self.truncated[:] = False
        self.valid[:] = True
        self.finals.clear()


class EpisodeStarts:
    """Tells, step by step, in which environments the next row begins an episode.

    Args:
        resetting: ``[N]`` bool, environments whose next row is no transition, as they only reset in it (see
            `Envs.resetting`); None where there are no such rows.
    """

    def __init__(self, resetting: np.ndarray | None) -> None:
        self._resetting = resetting

    def after(self, terminated: np.ndarray, truncated: np.ndarray) -> np.ndarray:
        """The environments that have nothing behind them in the row after a step.

        A row in which an environment only resets is among them, and so is the row after it: whatever a policy
        remembers of that row, the episode does not begin with it.

        Args:
            terminated: ``[N]`` bool, of the step, as the environments gave it.
            truncated: ``[N]`` bool, likewise.

        Returns:
            ``[N]`` bool.
        """
        ended: np.ndarray = np.logical_or(terminated, truncated)
        if self._resetting is None:
            return ended
        resetting = self._resetting
        self._resetting = ended & ~resetting
        behind: np.ndarray = ended | resetting
        return behind


class Steps(Protocol):
    """What an `EpisodeTracker` wants to know of `T` steps of `N` environments; a `Rollout` is one."""

    @property
    def rewards(self) -> np.ndarray:
        """``[T, N]`` float32."""
        ...

    @property
    def terminated(self) -> np.ndarray:
        """``[T, N]`` bool."""
        ...

    @property
    def truncated(self) -> np.ndarray:
        """``[T, N]`` bool."""
        ...

    @property
    def valid(self) -> np.ndarray:
        """``[T, N]`` bool."""
        ...


def ends(steps: Steps) -> Any:
    """``[T, N]`` bool, True where an episode ended."""
    return np.logical_or(steps.terminated, steps.truncated)
