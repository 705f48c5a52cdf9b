"""Converts the choices of a policy into actions of the environment, for each action space.

============== ============================================== ======================================================
space          a choice, as windows keep it                   the environment gets
============== ============================================== ======================================================
Discrete(n)    ``()`` int64, 0 .. n - 1                       choice + `start`
MultiDiscrete  ``[k]`` int64, 0 .. nvec - 1                   choice + `start`, in the shape of `nvec`
MultiBinary    ``[k]`` int64, 0 or 1                          the same in int8, in the space's shape
Box            ``[k]`` float32, unclipped                     bounded axes: -1 .. 1 stretched to low .. high and
                                                              clipped there; others: the value, clipped to a bound
============== ============================================== ======================================================

The log-probability in a window is that of the choice before it is clipped, under the distribution that the policy
defines (Huang et al. 2022, "The 37 implementation details of PPO", continuous detail 4).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from gymnasium import spaces

from keras_optix.errors import SpaceError, describe
from keras_optix.reprs import OneLineRepr


@dataclass(frozen=True, eq=False)
class Formula:
    """What `to_env` computes, as numbers for a program that does not have this package.

    An action is ``choice * scale + offset``, clipped to ``low .. high``, in the shape and the dtype of the space.

    Attributes:
        offset: ``[k]``, in the dtype of the choices.
        shape: Shape of an action of the environment.
        dtype: Its dtype.
        scale: ``[k]``; None is 1.
        low: ``[k]``, the smallest legal values; None if nothing is clipped.
        high: ``[k]``, the largest legal values; None if nothing is clipped.
    """

    offset: np.ndarray
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    scale: np.ndarray | None = None
    low: np.ndarray | None = None
    high: np.ndarray | None = None


class DiscreteActions(OneLineRepr):
    """Converts choices into actions of a `Discrete` space.

    Args:
        space: The action space of one environment.
    """

    dtype: type = np.int64
    shape: tuple[int, ...] = ()

    def __init__(self, space: spaces.Discrete) -> None:
        self.n = int(space.n)
        self._start = int(space.start)
        self._env_dtype = space.dtype

    def to_env(self, choices: np.ndarray) -> np.ndarray:
        """Converts ``[N]`` choices into ``[N]`` actions of the environment."""
        actions = choices + self._start if self._start else choices
        return actions if actions.dtype == self._env_dtype else actions.astype(self._env_dtype)

    def formula(self) -> Formula:
        """Returns `to_env` as numbers."""
        return Formula(np.array([self._start], np.int64), (), np.dtype(self._env_dtype))

    def from_env(self, actions: np.ndarray, steps: int) -> np.ndarray:
        """Converts ``[T]`` actions of the environment into ``[T]`` choices.

        Raises:
            SpaceError: An action is not in the space.
        """
        choices = _integers(actions, (steps,)) - self._start
        return _in_range(choices, np.int64(self.n), actions)


class MultiDiscreteActions(OneLineRepr):
    """Converts choices into actions of a `MultiDiscrete` space.

    Args:
        space: The action space of one environment.
    """

    dtype: type = np.int64

    def __init__(self, space: spaces.MultiDiscrete) -> None:
        self.sizes = tuple(int(n) for n in np.ravel(space.nvec))
        self.shape: tuple[int, ...] = (len(self.sizes),)
        self._start = np.asarray(space.start)
        self._env_shape = tuple(space.nvec.shape)
        self._env_dtype = space.dtype

    def to_env(self, choices: np.ndarray) -> np.ndarray:
        """Converts ``[N, k]`` choices into ``[N, ...]`` actions of the environment."""
        return (choices.reshape(len(choices), *self._env_shape) + self._start).astype(self._env_dtype)

    def formula(self) -> Formula:
        """Returns `to_env` as numbers."""
        return Formula(self._start.ravel().astype(np.int64), self._env_shape, np.dtype(self._env_dtype))

    def from_env(self, actions: np.ndarray, steps: int) -> np.ndarray:
        """Converts ``[T, ...]`` actions of the environment into ``[T, k]`` choices.

        Raises:
            SpaceError: An action is not in the space.
        """
        choices = (_integers(actions, (steps, *self._env_shape)) - self._start).reshape(steps, *self.shape)
        return _in_range(choices, np.array(self.sizes), actions)


class MultiBinaryActions(OneLineRepr):
    """Converts choices into actions of a `MultiBinary` space.

    Args:
        space: The action space of one environment.
    """

    dtype: type = np.int64

    def __init__(self, space: spaces.MultiBinary) -> None:
        self.shape: tuple[int, ...] = (int(np.prod(space.shape)),)
        self._env_shape = tuple(space.shape)
        self._env_dtype = space.dtype

    def to_env(self, choices: np.ndarray) -> np.ndarray:
        """Converts ``[N, k]`` choices into ``[N, ...]`` int8 actions of the environment."""
        return choices.reshape(len(choices), *self._env_shape).astype(self._env_dtype)

    def formula(self) -> Formula:
        """Returns `to_env` as numbers."""
        return Formula(np.zeros(self.shape, np.int64), self._env_shape, np.dtype(self._env_dtype))

    def from_env(self, actions: np.ndarray, steps: int) -> np.ndarray:
        """Converts ``[T, ...]`` actions of the environment into ``[T, k]`` choices.

        Raises:
            SpaceError: An action is not in the space.
        """
        return _in_range(
            _integers(actions, (steps, *self._env_shape)).reshape(steps, *self.shape), np.int64(2), actions
        )


class ContinuousActions(OneLineRepr):
    """Converts choices, which are vectors, into actions of a floating-point `Box` space.

    Args:
        space: The action space of one environment.
    """

    dtype: type = np.float32

    def __init__(self, space: spaces.Box) -> None:
        self.shape: tuple[int, ...] = (int(np.prod(space.shape)),)
        self._low, self._high = np.ravel(space.low), np.ravel(space.high)
        bounded = np.isfinite(self._low) & np.isfinite(self._high)
        low, high = np.where(bounded, self._low, -1.0), np.where(bounded, self._high, 1.0)
        self._scale, self._middle = high / 2.0 - low / 2.0, high / 2.0 + low / 2.0
        self._clips = bool(np.isfinite(self._low).any() or np.isfinite(self._high).any())
        self._env_shape = tuple(space.shape)
        self._env_dtype = space.dtype

    def to_env(self, choices: np.ndarray) -> np.ndarray:
        """Converts ``[N, k]`` choices into ``[N, ...]`` actions inside the space."""
        actions = choices * self._scale + self._middle
        if self._clips:
            # Two ufuncs, because np.clip takes three times as long on a short vector.
            actions = np.minimum(np.maximum(actions, self._low), self._high)
        return actions.astype(self._env_dtype).reshape(len(choices), *self._env_shape)

    def formula(self) -> Formula:
        """Returns `to_env` as numbers in float32, whose bounds are rounded inwards where the space has more digits."""
        low, high = self._low.astype(np.float32), self._high.astype(np.float32)
        low = np.where(low < self._low, np.nextafter(low, np.float32(np.inf)), low)
        high = np.where(high > self._high, np.nextafter(high, np.float32(-np.inf)), high)
        numbers = Formula(
            offset=self._middle.astype(np.float32),
            shape=self._env_shape,
            dtype=np.dtype(self._env_dtype),
            scale=self._scale.astype(np.float32),
        )
        return replace(numbers, low=low, high=high) if self._clips else numbers

    def from_env(self, actions: np.ndarray, steps: int) -> np.ndarray:
        """Converts ``[T, ...]`` actions of the environment into ``[T, k]`` choices.

        Raises:
            SpaceError: The actions have another shape, or one is not finite or lies outside its bounds.
        """
        _check_shape(actions, (steps, *self._env_shape))
        flat = actions.astype(np.float32).reshape(steps, *self.shape)
        slack = 1e-4 * np.where(np.isfinite(self._scale), self._scale, 1.0)  # rounding of the file
        outside = ~np.isfinite(flat) | (flat < self._low - slack) | (flat > self._high + slack)
        if outside.any():
            raise SpaceError(describe("An action is not in the space.", value=float(flat[outside][0])))
        scale = np.where(self._scale == 0.0, 1.0, self._scale)  # an axis that has one value only
        return ((flat - self._middle) / scale).astype(np.float32)


def _check_shape(actions: np.ndarray, wanted: tuple[int, ...]) -> None:
    if actions.shape != wanted:
        problem = f"There must be an action for each env step, in an array of shape {wanted}."
        raise SpaceError(describe(problem, shape=actions.shape))


def _integers(actions: np.ndarray, wanted: tuple[int, ...]) -> np.ndarray:
    """Returns actions as int64."""
    _check_shape(actions, wanted)
    if actions.dtype.kind not in "iub":
        raise SpaceError(describe("Actions of this space are integers.", dtype=str(actions.dtype)))
    return actions.astype(np.int64)


def _in_range(choices: np.ndarray, sizes: np.ndarray | np.int64, actions: np.ndarray) -> np.ndarray:
    """Returns choices that are all from 0 to ``sizes - 1``."""
    outside = (choices < 0) | (choices >= sizes)
    if outside.any():
        value = actions.reshape(choices.shape)[outside][0].item()
        raise SpaceError(describe("An action is not in the space.", value=value))
    return choices


Actions = DiscreteActions | MultiDiscreteActions | MultiBinaryActions | ContinuousActions


def actions_for(space: spaces.Space[Any]) -> Actions:
    """Returns the conversion of choices into actions for an action space.

    Raises:
        SpaceError: No agent supports the space.
    """
    if isinstance(space, spaces.Discrete):
        return DiscreteActions(space)
    if isinstance(space, spaces.MultiDiscrete):
        return MultiDiscreteActions(space)
    if isinstance(space, spaces.MultiBinary):
        return MultiBinaryActions(space)
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return ContinuousActions(space)
    raise SpaceError(
        describe(
            "No agent plays this action space; Discrete, MultiDiscrete, MultiBinary and floating-point Box are "
            "supported by PPOAgent and ReinforceAgent.",
            fix="Wrap the environment in a gymnasium.ActionWrapper that has one of these action spaces.",
            action_space=space,
        )
    )
