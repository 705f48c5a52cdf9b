"""Environments that change at known steps of a clock, for measuring how learning follows a change."""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleEnv

from keras_optix.errors import ConfigurationError, describe
from keras_optix.reprs import OneLineRepr
from keras_optix.testing.envs import Step
from keras_optix.validation import check_float, check_int


class RegimeClock(OneLineRepr):
    """Counts the steps of all environments that share it; their regime depends on this count alone.

    If a factory gives one clock to all its environments, a second copy of them for evaluation is always in the same
    regime, and its steps count too. A clock lives in one process: copies in other processes count their own steps.

    Example::

        clock = optix.testing.RegimeClock()
        factory = lambda: optix.testing.SwitchingCartPole({100_000: {"swap_actions": True}}, clock)

    Attributes:
        steps: Environment steps so far, from 0.

    Examples:
        >>> clock = optix.testing.RegimeClock()
        >>> env = optix.testing.TwoRegimeBandit(switch_every=4_000, clock=clock)
    """

    def __init__(self) -> None:
        self.steps = 0

    def tick(self) -> None:
        """Counts one step."""
        self.steps += 1


def check_clock(clock: object) -> RegimeClock:
    """Returns `clock`, or a new one for None.

    Raises:
        ConfigurationError: `clock` is something else.
    """
    if clock is None:
        return RegimeClock()
    if not isinstance(clock, RegimeClock):
        raise ConfigurationError(
            describe("`clock` must be a `RegimeClock` or None.", fix="None means a new clock.", clock=clock)
        )
    return clock


class SwitchingCartPole(OneLineRepr, CartPoleEnv):
    """Gymnasium's CartPole, which changes at given steps of a clock; without changes it is CartPole-v1.

    The observation is ``[4]`` float32, the action 0 or 1 and the reward 1 a step, as in Gymnasium.
    ``info["regime"]`` is the number of changes so far. A change takes effect when the clock has counted its number of
    steps, even in the middle of an episode. Changes accumulate: values that a change does not name stay as they are.

    Args:
        changes: The new values, by step of the clock. Keys: ``"swap_actions"`` (bool; if True, 0 pushes to the right
            and 1 to the left; initially False), ``"gravity"`` (m/s^2, at least 0; initially 9.8), ``"force"`` (N, above
            0; initially 10) and ``"pole_length"`` (m, above 0; initially 0.5; half the length of the pole, like
            Gymnasium's `length`).
        clock: The clock, which may be shared. None: a new clock.
        max_steps: Steps after which an episode is truncated.

    Attributes:
        regime_clock: The clock. (The attribute `clock` is Gymnasium's, for rendering.)

    Raises:
        ConfigurationError: An argument is invalid.

    Examples:
        >>> env = optix.testing.SwitchingCartPole({1_000: {"swap_actions": True}})
        >>> env.reset(seed=0)[0].shape
        (4,)
    """

    def __init__(
        self, changes: Mapping[int, Mapping[str, Any]], clock: RegimeClock | None = None, max_steps: int = 500
    ) -> None:
        super().__init__()
        self.regime_clock = check_clock(clock)
        self._max_steps = check_int("max_steps", max_steps, minimum=1)
        checked = _check_changes(changes)
        self._starts = sorted(checked)
        self._regimes: list[dict[str, Any]] = [
            {"swap_actions": False, "gravity": self.gravity, "force": self.force_mag, "pole_length": self.length}
        ]
        for start in self._starts:
            self._regimes.append({**self._regimes[-1], **checked[start]})
        self._step = 0
        self._regime = -1
        self._swapped = False
        self._follow_clock()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begins the next episode. The clock is not reset."""
        observation, _ = super().reset(seed=seed, options=options)
        self._step = 0
        self._follow_clock()
        return observation, {"regime": self._regime}

    def step(self, action: Any) -> Step:
        """Steps in the present regime."""
        self._follow_clock()
        if self._swapped and self.action_space.contains(action):
            action = 1 - action
        observation, reward, terminated, truncated, _ = super().step(action)  # type: ignore[no-untyped-call]
        self.regime_clock.tick()
        self._step += 1
        return observation, reward, terminated, truncated or self._step >= self._max_steps, {"regime": self._regime}

    def save_state(self) -> dict[str, Any]:
        """Returns the physics, the step of the episode, the generator and the steps of the clock."""
        return {
            "state": self.state,
            "steps_beyond_terminated": self.steps_beyond_terminated,
            "step": self._step,
            "clock": self.regime_clock.steps,
            "np_random": self.np_random.bit_generator.state,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continues from the state that another one saved. Sets the clock for all environments that share it."""
        self.state, self.steps_beyond_terminated = state["state"], state["steps_beyond_terminated"]
        self._step, self.regime_clock.steps = state["step"], state["clock"]
        self.np_random.bit_generator.state = state["np_random"]

    def _follow_clock(self) -> None:
        regime = bisect.bisect_right(self._starts, self.regime_clock.steps)
        if regime == self._regime:
            return
        self._regime, values = regime, self._regimes[regime]
        self._swapped = values["swap_actions"]
        self.gravity, self.force_mag, self.length = values["gravity"], values["force"], values["pole_length"]
        self.polemass_length = self.masspole * self.length


class TwoRegimeBandit(OneLineRepr, gymnasium.Env[np.ndarray, np.int64]):
    """A bandit with two regimes that alternate with the clock. The best arm of one may be the worst of the other.

    The observation is ``[1]`` float32 and always 1, so only the rewards depend on the regime: the payoff of the arm
    plus Gaussian noise. ``info["regime"]`` is 0 or 1, the regime of the step, or after a reset the regime of the next
    step. Episodes end by termination.

    Args:
        payoffs: Mean reward of each arm: two rows, one for each regime, and a column for each arm.
        switch_every: Length of a regime in steps of the clock.
        noise: Standard deviation of the reward.
        episode_length: Steps of an episode.
        clock: The clock, which may be shared. None: a new clock.

    Attributes:
        regime_clock: The clock.

    Raises:
        ConfigurationError: An argument is invalid.

    Examples:
        >>> env = optix.testing.TwoRegimeBandit(switch_every=100, noise=0.0)
        >>> _ = env.reset(seed=0)
        >>> float(env.step(0)[1])  # the first arm pays in the first regime
        1.0
    """

    def __init__(
        self,
        payoffs: Sequence[Sequence[float]] = ((1.0, 0.0), (0.0, 1.0)),
        switch_every: int = 1000,
        noise: float = 0.1,
        episode_length: int = 10,
        clock: RegimeClock | None = None,
    ) -> None:
        self._payoffs = _check_payoffs(payoffs)
        self._switch_every = check_int("switch_every", switch_every, minimum=1)
        self._noise = check_float("noise", noise, low=0.0)
        self._length = check_int("episode_length", episode_length, minimum=1)
        self.regime_clock = check_clock(clock)
        self.observation_space = spaces.Box(0.0, 1.0, (1,), np.float32)
        self.action_space = spaces.Discrete(len(self._payoffs[0]))
        self._step = 0

    @property
    def regime(self) -> int:
        """Regime of the next step, 0 or 1."""
        return self.regime_clock.steps // self._switch_every % 2

    @property
    def best_returns(self) -> tuple[float, float]:
        """Best mean return of an episode that lies within regime 0, and within regime 1."""
        first, second = self._payoffs
        return self._length * max(first), self._length * max(second)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begins the next episode. The clock is not reset."""
        super().reset(seed=seed)
        self._step = 0
        return np.ones(1, np.float32), {"regime": self.regime}

    def step(self, action: np.int64) -> Step:
        """Pays the payoff of the arm, with noise."""
        regime = self.regime
        reward = self._payoffs[regime][int(action)] + self._noise * float(self.np_random.standard_normal())
        self.regime_clock.tick()
        self._step += 1
        return np.ones(1, np.float32), reward, self._step >= self._length, False, {"regime": regime}

    def save_state(self) -> dict[str, Any]:
        """Returns the step of the episode, the generator and the steps of the clock."""
        return {
            "step": self._step,
            "clock": self.regime_clock.steps,
            "np_random": self.np_random.bit_generator.state,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continues from the state that another one saved. Sets the clock for all environments that share it."""
        self._step, self.regime_clock.steps = state["step"], state["clock"]
        self.np_random.bit_generator.state = state["np_random"]


def _check_changes(changes: object) -> dict[int, dict[str, Any]]:
    if not isinstance(changes, Mapping) or not all(isinstance(change, Mapping) for change in changes.values()):
        raise ConfigurationError(
            describe("`changes` must map steps of the clock to dicts.", fix="{} means no changes.", changes=changes)
        )
    return {
        check_int("step of changes", start, minimum=0): {
            key: _check_change(key, value) for key, value in change.items()
        }
        for start, change in changes.items()
    }


def _check_change(key: object, value: object) -> bool | float:
    if key == "swap_actions":
        if not isinstance(value, bool):
            raise ConfigurationError(describe("`swap_actions` must be True or False.", swap_actions=value))
        return value
    if key == "gravity":
        return check_float(key, value, low=0.0)
    if key == "force" or key == "pole_length":
        return check_float(str(key), value, low=0.0, low_open=True)
    raise ConfigurationError(
        describe("CartPole has no such change.", fix="Use swap_actions, gravity, force or pole_length.", key=key)
    )


def _check_payoffs(payoffs: object) -> list[list[float]]:
    try:
        rows = np.asarray(payoffs)
    except ValueError:  # rows of different lengths
        rows = np.zeros(0)
    if rows.ndim != 2 or rows.shape[0] != 2 or rows.shape[1] < 1 or rows.dtype.kind not in "iuf":
        raise ConfigurationError(
            describe("`payoffs` must be two rows of numbers, of the same length of at least 1.", payoffs=payoffs)
        )
    return [[check_float("payoffs", value) for value in row] for row in rows.tolist()]
