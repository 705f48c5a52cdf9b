"""Turns episodes that were recorded elsewhere, such as those of a Minari dataset, into windows that a buffer stores."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np

from keras_optix.errors import ArgumentError, EnvError, SpaceError, describe
from keras_optix.experience.actions import Actions
from keras_optix.experience.observations import Leaves, ObservationLayout
from keras_optix.experience.window import Window

_FIELDS = ("observations", "actions", "rewards", "terminations", "truncations")


class GivenEpisode(Protocol):
    """An episode of `T` env steps, with the names of `minari.EpisodeData`.

    Attributes:
        observations: ``[T + 1, ...]``, the first one and that after each env step; a dict or tuple of such arrays for a
            Dict or Tuple space.
        actions: ``[T, ...]``, actions of the environment.
        rewards: ``[T]``.
        terminations: ``[T]`` bool.
        truncations: ``[T]`` bool.
    """

    @property
    def observations(self) -> Any: ...  # noqa: D102

    @property
    def actions(self) -> Any: ...  # noqa: D102

    @property
    def rewards(self) -> Any: ...  # noqa: D102

    @property
    def terminations(self) -> Any: ...  # noqa: D102

    @property
    def truncations(self) -> Any: ...  # noqa: D102


def window_of_episode(episode: Any, number: int, layout: ObservationLayout, actions: Actions) -> Window | None:
    """Returns an episode as a window of one environment, ``[T, 1, ...]``; None if it has no env step.

    The last env step ends the episode: where it neither terminated nor was truncated, it counts as truncated.

    Args:
        episode: A `GivenEpisode`.
        number: Its number, for messages.
        layout: Layout of the observations.
        actions: Converts the actions.

    Raises:
        ArgumentError: It is no episode, or its arrays have different lengths.
        SpaceError: Its observations or actions do not fit the spaces, or a number is not finite.
    """
    where = f"episode {number}"
    for name in _FIELDS:
        if not hasattr(episode, name):
            problem = f"An episode must have {', '.join(f'`{one}`' for one in _FIELDS)}, and {where} has no `{name}`."
            fix = "Give the episodes of a Minari dataset, or objects with these attributes."
            raise ArgumentError(describe(problem, fix=fix, episode=episode))
    rewards = np.asarray(episode.rewards, np.float32)
    steps = len(rewards) if rewards.ndim == 1 else -1
    terminated, truncated = (np.asarray(getattr(episode, name), np.bool_) for name in _FIELDS[3:])
    if not (terminated.shape == truncated.shape == (steps,)):
        problem = f"`rewards`, `terminations` and `truncations` of {where} must have one value for each env step."
        shapes = (rewards.shape, terminated.shape, truncated.shape)
        raise ArgumentError(describe(problem, shapes=shapes))
    if not steps:
        return None
    leaves, choices = _fitting(episode, where, steps, layout, actions)
    if not np.isfinite(rewards).all():
        raise SpaceError(describe(f"A reward of {where} is not finite.", fix="Leave this episode out."))
    truncated = truncated.copy()
    truncated[-1] |= not terminated[-1]
    begins = np.zeros((steps, 1), np.bool_)
    begins[0] = True
    begins[1:, 0] = (terminated | truncated)[:-1]
    return Window(
        observations=layout.pack([leaf[:-1, None] for leaf in leaves]),
        actions=choices[:, None],
        rewards=rewards[:, None],
        terminated=terminated[:, None],
        truncated=truncated[:, None],
        valid=np.ones((steps, 1), np.bool_),
        next_observations=layout.pack([leaf[1:, None] for leaf in leaves]),
        log_probs=np.zeros((steps, 1), np.float32),
        seed=np.zeros(2, np.int32),
        window_id=np.int64(0),
        policy_version=np.int64(0),
        episode_return=np.float32(np.nan),
        episode_length=np.float32(np.nan),
        begins=begins,
    )


def _fitting(
    episode: GivenEpisode, where: str, steps: int, layout: ObservationLayout, actions: Actions
) -> tuple[Leaves, np.ndarray]:
    """Returns the observations ``[T + 1, ...]`` and the choices ``[T, ...]`` of an episode."""
    try:
        leaves = [np.ascontiguousarray(leaf) for leaf in layout.convert(episode.observations, steps + 1)]
        layout.check([leaf[:, None] for leaf in leaves], where, bounds=False)
    except EnvError as error:
        problem = f"The observations of {where}, which has {steps} env steps, do not fit the agent's space: {error}"
        fix = f"Give {steps + 1} observations of this space: the first one, and that after each env step."
        raise SpaceError(describe(problem, fix=fix, observation_space=layout.space)) from error
    try:
        return leaves, actions.from_env(np.asarray(episode.actions), steps)
    except SpaceError as error:
        raise SpaceError(f"The actions of {where} do not fit the agent's space. {error}") from error


def episodes_of(episodes: Any) -> Iterable[Any]:
    """Returns the episodes that were given.

    Args:
        episodes: A Minari dataset, or any iterable of episodes.

    Raises:
        ArgumentError: It is no iterable.
    """
    iterate = getattr(episodes, "iterate_episodes", None)  # of a Minari dataset, which has a length but is no iterable
    if callable(iterate):
        found: Iterable[Any] = iterate()
        return found
    if not isinstance(episodes, Iterable) or isinstance(episodes, str | bytes):
        problem = "`episodes` must be a Minari dataset, or an iterable of episodes."
        raise ArgumentError(describe(problem, fix="Give minari.load_dataset(id), for example.", episodes=episodes))
    return episodes
