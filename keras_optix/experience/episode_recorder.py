"""Records what happens in the episodes that are played for an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_optix.errors import StateError
from keras_optix.evaluators.played import EpisodeSteps, PlayedEpisode, info_at
from keras_optix.experience.observations import Leaves, ObservationLayout
from keras_optix.experience.rollout import Rollout
from keras_optix.records import EpisodeRecord


class EpisodeRecorder:
    """Records the running episodes of `N` environments.

    Args:
        layout: The layout of the observations.
        num_envs: `N`.
        env_name: Name of the environments.
        steps: Whether to record all steps; otherwise only the last info.
    """

    def __init__(self, layout: ObservationLayout, num_envs: int, env_name: str, *, steps: bool) -> None:
        self._layout, self._num_envs, self._env_name, self._steps = layout, num_envs, env_name, steps
        self.begin()

    def begin(self) -> None:
        """Forgets the running episodes, because all environments were reset."""
        self._rows: list[list[_Row]] = [[] for _ in range(self._num_envs)]
        self._latest: tuple[Rollout, Any, np.ndarray] | None = None

    def add(self, rollout: Rollout, chosen: np.ndarray, infos: Any, stepped: np.ndarray, counted: np.ndarray) -> None:
        """Records one step.

        Args:
            rollout: Has the step in its row 0.
            chosen: ``[N, ...]``, the choices of the policy.
            infos: The infos of the step. A list may leave out the environments that were not stepped.
            stepped: ``[N]`` bool, environments that were stepped.
            counted: ``[N]`` bool, environments in which the step is part of an episode.
        """
        self._latest = rollout, infos, stepped
        if not self._steps:
            return  # only the info of the last step of an episode is needed, see `take`
        for i in np.flatnonzero(counted).tolist():
            terminated, truncated = bool(rollout.terminated[0, i]), bool(rollout.truncated[0, i])
            info = self._info(i)
            leaves = [leaf[0, i].copy() for leaf in rollout.observations]
            earned = float(rollout.own_rewards[0, i])
            self._rows[i].append(_Row(info, leaves, np.array(chosen[i]), earned, terminated, truncated))

    def take(self, i: int, record: EpisodeRecord) -> PlayedEpisode:
        """Returns the running episode of an environment, and begins the next one.

        It has ended or was cut off with the step that was added last.

        Args:
            i: The environment.
            record: The episode so far.
        """
        if not self._steps:
            return PlayedEpisode.of(record, self._info(i), env_name=self._env_name)
        rows, self._rows[i] = self._rows[i], []
        last = rows[-1]
        steps = EpisodeSteps(
            observations=self._layout.pack(
                [np.stack(leaves) for leaves in zip(*(row.leaves for row in rows), strict=True)]
            ),
            actions=np.stack([row.action for row in rows]),
            rewards=np.array([row.reward for row in rows], np.float32),
            terminated=last.terminated,
            truncated=last.truncated,
            infos=[row.info for row in rows],
        )
        return PlayedEpisode.of(record, last.info, env_name=self._env_name, steps=steps)

    def _info(self, i: int) -> Mapping[str, Any]:
        """Returns the info of an environment in the step that was added last."""
        if self._latest is None:
            raise StateError("No step was added since the environments were reset.")
        rollout, infos, stepped = self._latest
        shortened = isinstance(infos, list) and len(infos) < self._num_envs
        place = int(np.count_nonzero(stepped[:i])) if shortened else i
        return info_at(infos, place, ended=bool(rollout.terminated[0, i] or rollout.truncated[0, i]))


class _Row:
    """One step of one environment."""

    __slots__ = ("action", "info", "leaves", "reward", "terminated", "truncated")

    def __init__(
        self,
        info: Mapping[str, Any],
        leaves: Leaves | None = None,
        action: np.ndarray | None = None,
        reward: float = 0.0,
        terminated: bool = False,
        truncated: bool = False,
    ) -> None:
        self.info, self.leaves = info, [] if leaves is None else leaves
        self.action = np.zeros(0) if action is None else action
        self.reward, self.terminated, self.truncated = reward, terminated, truncated
