"""Defines a window: `T` environment steps of `N` environments with one policy version.

Row ``t`` is one transition: the observation, the action that was chosen for it, the reward and flags that followed, and
the next observation. If an episode ends in a row, the next row begins the next episode::

    row   observations  actions  rewards  terminated  truncated  next_observations
     0         s0          a0      r1        False      False          s1
     1         s1          a1      r2        True       False          s2  (final, never acted on)
     2         s0'         a0'     r1'       False      False          s1'

`next_observations` is always the true successor: if the episode ended, its final observation. Windows continue across
episode ends: the first row of a window follows the last row of the previous window.

A vector environment with next-step autoreset inserts a row per episode that is not a transition (its action is
ignored). `valid` is False in this row, and the row is ignored everywhere.

`begins` is True on the first row of an episode. In row 0, a policy with a carry (see `carry`) is given the window's
`carry`. In a later row ``t`` it is given the carry's initial value if ``begins[t]``, else the carry that it returned in
row ``t - 1``.
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
    """The argument of `train_step`: arrays ``[T, N, ...]`` and a few scalars.

    Attributes:
        observations: ``[T, N, ...]``; a dict or tuple of such arrays for a Dict or Tuple space. See the module
            `observations` for dtypes.
        actions: ``[T, N]`` int64 (Discrete), ``[T, N, k]`` int64 (MultiDiscrete, MultiBinary) or float32 (Box): the
            policy's choices. The module `actions` converts them to actions of the environment.
        rewards: ``[T, N]`` float32.
        terminated: ``[T, N]`` bool.
        truncated: ``[T, N]`` bool.
        valid: ``[T, N]`` bool, False on rows that are not a transition.
        next_observations: ``[T, N, ...]``, final observations included.
        log_probs: ``[T, N]`` float32, log-probability of the choice under the policy that acted.
        seed: ``[2]`` int32, a new seed for the learner in each window, from the collector's generator.
        window_id: int64, number of the window, from 0.
        policy_version: int64, version of the weights that acted.
        episode_return: float32, mean undiscounted return of the last 100 episodes; NaN before the first one ended. If
            actions are deterministic, only episodes that `policy_version` began and ended are included.
        episode_length: float32, mean length of the same episodes in environment steps.
        begins: ``[T, N]`` bool, True on the first row of an episode; ``()`` in a window that was made by hand without
            it.
        carry: The carry that the policy was given in the first row, ``[N, ...]`` each: one array for each of
            `Agent.carry_specs`, with its initial value for environments in which an episode begins in that row. ``()``
            for a policy without a carry.

    Examples:
        >>> agent = optix.PPOAgent()
        >>> window = next(iter(optix.dataset_from_env("CartPole-v1", agent, window_size=32, num_envs=8, seed=0)))
        >>> window.rewards.shape  # [T, N]: time, environments
        TensorShape([32, 8])
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
    """A window with facts that only the loop needs: the policy that collected it, and the episodes that ended in it.

    Attributes:
        window: The arrays.
        infos: `T` info values of the environments.
        episodes: Episodes that ended in the window.
        policy: The policy that acted. An `EnvRunner` knows only its version; a source adds the rest.
        env_steps: Environment steps of the run up to the end of this window.
        own_rewards: ``[T, N]`` float32, the environment's own rewards if a wrapper normalises rewards; else None.
        interrupted: Whether episodes were cut off at its beginning, because other code used their environments.
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
        """The number of the window, from 0."""
        return int(self.window.window_id)

    def window_data(self) -> WindowData:
        """Returns the window in the form that evaluators get."""
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
