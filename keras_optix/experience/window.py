"""A window: `T` environment steps of `N` environments with one policy version.

Row ``t`` is one transition: the observation, the action chosen from it, the reward and flags that followed, and the
observation that followed. Where an episode ends, the next row begins the next one::

    row   observations  actions  rewards  terminated  truncated  next_observations
     0         s0          a0      r1        False      False          s1
     1         s1          a1      r2        True       False          s2  (final, never acted on)
     2         s0'         a0'     r1'       False      False          s1'

`next_observations` is always the true successor, the final observation where an episode ended. Windows run on across
episode ends: the first row of a window continues where the last row of the one before stopped.

A vector environment with next-step autoreset inserts a row per episode that is no transition (its action is ignored);
`valid` is False there, and it counts nowhere.

`begins` is True on the first row of an episode. A policy with a carry (see `carry`) was given in row ``t`` the carry's
initial value where ``begins[t]``, else what it returned in row ``t - 1``; in row 0 the window's own `carry`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from keras_optix.experience.policy_params import PolicyRecord
from keras_optix.records import EpisodeRecord, WindowData
from keras_optix.reprs import call_repr


class Window(NamedTuple):
    """What `train_step` gets: arrays ``[T, N, ...]`` and a few scalars.

    Attributes:
        observations: ``[T, N, ...]``; a dict or tuple of such arrays where the space is one. See `observations` for
            dtypes.
        actions: ``[T, N]`` int64 (Discrete), ``[T, N, k]`` int64 (MultiDiscrete, MultiBinary) or float32 (Box): the
            policy's choices, from which `actions` makes those of the environment.
        rewards: ``[T, N]`` float32.
        terminated: ``[T, N]`` bool.
        truncated: ``[T, N]`` bool.
        valid: ``[T, N]`` bool, False on rows that are no transition.
        next_observations: ``[T, N, ...]``, final observations included.
        log_probs: ``[T, N]`` float32, log-probability of the choice under the policy that acted.
        seed: ``[2]`` int32, fresh randomness for the learner, from the collector's generator.
        window_id: int64, number of the window, from 0.
        policy_version: int64, version of the weights that acted.
        episode_return: float32, mean undiscounted return of the last 100 episodes; NaN before the first one ended. If
            actions are deterministic, only of those that `policy_version` began and ended.
        episode_length: float32, mean length of the same episodes in environment steps.
        begins: ``[T, N]`` bool, True where the row is the first of an episode; ``()`` in a window that was made by hand
            without it.
        carry: What the policy was given as its carry in the first row, ``[N, ...]`` each: one array for each of
            `Agent.carry_specs`, with its initial value where an episode begins there. ``()`` of a policy without a
            carry.
    """

    observations: Any
    actions: Any
    rewards: Any
    terminated: Any
    truncated: Any
    valid: Any
    next_observations: Any
    log_probs: Any
    seed: Any
    window_id: Any
    policy_version: Any
    episode_return: Any
    episode_length: Any
    begins: Any = ()
    carry: tuple[Any, ...] = ()

    def __repr__(self) -> str:
        shape = tuple(getattr(self.rewards, "shape", ()))
        if len(shape) != 2:
            return tuple.__repr__(self)
        shown = {"steps": str(shape[0]), "environments": str(shape[1])}
        for name in ("window_id", "policy_version"):
            with contextlib.suppress(TypeError):  # in a graph there are no values
                shown[name] = str(int(getattr(self, name)))
        return call_repr(self, **shown)


@dataclass(frozen=True)
class CollectedWindow:
    """A window with what only the loop needs: who collected it, and what ended in it.

    Attributes:
        window: The arrays.
        infos: `T` info values of the environments.
        episodes: Episodes that ended in the window.
        policy: The policy that acted. From an `EnvRunner` only its version is known; a source adds the rest.
        env_steps: Environment steps of the run up to the end of this window.
        own_rewards: ``[T, N]`` float32, the rewards of the environment beneath a wrapper that normalises them; None
            where those of the window are its own.
        interrupted: Whether episodes were cut at its beginning, because somebody else used their environments.
    """

    window: Window
    infos: Sequence[Any] = field(repr=False)
    episodes: tuple[EpisodeRecord, ...]
    policy: PolicyRecord
    env_steps: int
    own_rewards: np.ndarray | None = None
    interrupted: bool = False

    @property
    def window_id(self) -> int:
        """Number of the window."""
        return int(self.window.window_id)

    def window_data(self) -> WindowData:
        """The window as an evaluator sees it."""
        w = self.window
        return WindowData(
            observations=w.observations,
            actions=w.actions,
            rewards=w.rewards if self.own_rewards is None else self.own_rewards,
            terminated=w.terminated,
            truncated=w.truncated,
            valid=w.valid,
            infos=self.infos,
            window_id=self.window_id,
            episodes=self.episodes,
        )
