"""Holds the buffers that environments write into while a window is collected."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from keras_optix.experience.observations import Leaves, ObservationLayout


class Rollout:
    """The buffers of `T` steps of `N` environments.

    `observations` has `T + 1` rows: row ``t + 1`` is the observation that the policy gets after step ``t``. It is the
    true successor, except if an episode ended and the environment was reset at once. In this case the last observation
    of the episode is in `finals`.

    Args:
        layout: The layout of the observations.
        steps: `T`, the number of steps.
        num_envs: `N`, the number of environments.
        own_rewards: Whether the environments give their own rewards in addition to normalised ones.

    Attributes:
        observations: Leaves, ``[T + 1, N, ...]`` each.
        rewards: ``[T, N]`` float32, the rewards that the agent learns from.
        own_rewards: ``[T, N]`` float32, the rewards that are scored: those before a wrapper normalises them (see
            `RewardsBeneath`). The same array as `rewards` if there is no such wrapper.
        terminated: ``[T, N]`` bool, False unless an environment sets it.
        truncated: ``[T, N]`` bool, False unless an environment sets it.
        valid: ``[T, N]`` bool, True unless an environment clears it.
        finals: ``(t, environment, leaves)`` for each episode end after which row ``t + 1`` begins another episode.
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
        """Returns the true successors, ``[T, N, ...]`` each."""
        following = [leaf[1:].copy() for leaf in self.observations]
        for t, i, final in self.finals:
            for leaf, value in zip(following, final, strict=True):
                leaf[t, i] = value
        return following

    def restart(self) -> None:
        """Makes the last observations the first ones, and clears the flags and final observations."""
        for leaf in self.observations:
            leaf[0] = leaf[-1]
        self.terminated[:] = False
        self.truncated[:] = False
        self.valid[:] = True
        self.finals.clear()


class EpisodeStarts:
    """Finds, step by step, the environments in which the next row begins an episode.

    Args:
        resetting: ``[N]`` bool, True for environments that only reset in the next row, which is then not a transition
            (see `Envs.resetting`); None if there are no such rows.
    """

    def __init__(self, resetting: np.ndarray | None) -> None:
        self._resetting = resetting

    def after(self, terminated: np.ndarray, truncated: np.ndarray) -> np.ndarray:
        """Returns the environments for which the carry must begin anew in the row after a step.

        They include environments that only reset in the next row, and those that only reset in this one: a policy must
        not carry anything from that row into the episode.

        Args:
            terminated: ``[N]`` bool, the flags of the step as the environments gave them.
            truncated: ``[N]`` bool, the flags of the step as the environments gave them.

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
    """The part of a `Rollout` that an `EpisodeTracker` needs: `T` steps of `N` environments."""

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
    """Returns ``[T, N]`` bool, True in rows in which an episode ended."""
    return np.logical_or(steps.terminated, steps.truncated)
