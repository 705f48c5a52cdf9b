"""Episodes with what happened in them: the info of their last step, and, where it is needed, all of their steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_optix.records import EpisodeRecord, WindowData

_FINAL_INFO = (
    "final_info"  # Gymnasium's key for the last infos of episodes after which an environment was reset at once
)


@dataclass(frozen=True, eq=False)
class EpisodeSteps:
    """All steps of one episode.

    Attributes:
        observations: ``[T, ...]``, on which the policy acted; a dict or tuple of such arrays for a Dict or Tuple space.
        actions: ``[T, ...]``, as the policy chose them.
        rewards: ``[T]`` float32, before a wrapper normalises them.
        terminated: Whether the last step terminated the episode.
        truncated: Whether the last step truncated the episode.
        infos: The `T` info dicts.

    Examples:
        >>> steps = optix.evaluators.EpisodeSteps(np.zeros((3, 4)), np.zeros(2), np.ones(2), True, False, [{}, {}])
        >>> float(steps.rewards.sum())
        2.0
    """

    observations: Any
    actions: np.ndarray
    rewards: np.ndarray
    terminated: bool
    truncated: bool
    infos: Sequence[Mapping[str, Any]]


class PlayedEpisode(EpisodeRecord):
    """An episode with what happened in it. It equals the `EpisodeRecord` with the same numbers.

    Attributes:
        info: The info dict of its last step.
        env_name: The name of its environment, if environments have names; otherwise empty.
        steps: All of its steps; None unless the evaluator needs them.

    Examples:
        >>> episode = optix.evaluators.PlayedEpisode(total_reward=200.0, length=200, first_version=7, last_version=7)
        >>> episode.length
        200
    """

    info: Mapping[str, Any] = {}
    env_name: str = ""
    steps: EpisodeSteps | None = None

    @classmethod
    def of(
        cls,
        record: EpisodeRecord,
        info: Mapping[str, Any],
        *,
        env_name: str = "",
        steps: EpisodeSteps | None = None,
    ) -> PlayedEpisode:
        """Returns a record with what happened in the episode."""
        played = cls(*record)
        played.info, played.env_name, played.steps = info, env_name, steps
        return played


def info_at(infos: Any, i: int, *, ended: bool) -> Mapping[str, Any]:
    """Returns the info dict of one environment in one step.

    Args:
        infos: The infos of the step: a list with a dict for each environment, or the dict of a vector environment, with
            an array for each key and a mask under the key with an underscore before it.
        i: The environment.
        ended: Whether an episode ended with this step. A vector environment that was reset at once has the last info of
            the episode under ``"final_info"``.
    """
    if isinstance(infos, list | tuple):
        info = infos[i]
        last = info.get(_FINAL_INFO) if ended else None
        return last if isinstance(last, Mapping) else info
    last = infos.get(_FINAL_INFO) if ended else None
    if isinstance(last, Mapping):
        return _column(last, i)
    if last is not None and isinstance(last[i], Mapping):  # an array of dicts, before Gymnasium 1.0
        found: Mapping[str, Any] = last[i]
        return found
    return _column(infos, i)


def _column(infos: Mapping[str, Any], i: int) -> dict[str, Any]:
    found = {}
    for key, values in infos.items():
        mask = infos.get(f"_{key}")
        if key.startswith("_") or (mask is not None and not mask[i]):
            continue
        try:
            found[key] = _column(values, i) if isinstance(values, Mapping) else values[i]
        except (TypeError, IndexError, KeyError):
            found[key] = values  # one value for all environments
    return found


def with_infos(data: WindowData) -> tuple[EpisodeRecord, ...]:
    """Returns the episodes of a window with the infos of their last steps.

    Args:
        data: The window. Episodes that began before it may be missing in `data.episodes`.
    """
    ended = np.logical_and(data.dones, data.valid)
    by_env: dict[int, list[int]] = {}
    for k, episode in enumerate(data.episodes):
        by_env.setdefault(episode.env, []).append(k)
    episodes = list(data.episodes)
    for env, mine in by_env.items():
        if all(isinstance(episodes[k], PlayedEpisode) for k in mine):
            continue
        # Only the first episodes of an environment can be missing, so the last ones belong together.
        rows = np.flatnonzero(ended[:, env])[-len(mine) :]
        for k, t in zip(mine, rows, strict=True):
            episodes[k] = PlayedEpisode.of(episodes[k], info_at(data.infos[t], env, ended=True))
    return tuple(episodes)


def window_of(episodes: Sequence[EpisodeRecord]) -> WindowData:
    """Returns played episodes as one window: column ``j`` is episode ``j``.

    `valid` is False in the rows after the end of a shorter episode. The arrays are 0 there, and the infos empty.

    Args:
        episodes: The episodes, with their steps.
    """
    played = [episode.steps for episode in episodes if isinstance(episode, PlayedEpisode) and episode.steps is not None]
    lengths = [len(steps.rewards) for steps in played]
    most = max(lengths)
    rows = np.arange(most)[:, None]
    last = rows == np.array(lengths) - 1
    nothing: Mapping[str, Any] = {}
    return WindowData(
        observations=_stacked([steps.observations for steps in played], most),
        actions=_stacked([steps.actions for steps in played], most),
        rewards=_stacked([steps.rewards for steps in played], most),
        terminated=last & np.array([steps.terminated for steps in played]),
        truncated=last & np.array([steps.truncated for steps in played]),
        valid=rows < np.array(lengths),
        infos=[[steps.infos[t] if t < len(steps.infos) else nothing for steps in played] for t in range(most)],
        window_id=0,
        episodes=tuple(episodes),
    )


def _stacked(values: Sequence[Any], most: int) -> Any:
    """Stacks arrays ``[T, ...]`` of different lengths to ``[most, N, ...]``, also inside of dicts and tuples."""
    first = values[0]
    if isinstance(first, Mapping):
        return {key: _stacked([value[key] for value in values], most) for key in first}
    if isinstance(first, tuple):
        return tuple(_stacked([value[k] for value in values], most) for k in range(len(first)))
    stacked = np.zeros((most, len(values), *first.shape[1:]), first.dtype)
    for j, value in enumerate(values):
        stacked[: len(value), j] = value
    return stacked
