"""A synthetic market whose regime changes with a clock, and for each regime a simple strategy that wins in it."""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces

from keras_optix.errors import ConfigurationError, describe
from keras_optix.reprs import OneLineRepr
from keras_optix.testing.envs import Step
from keras_optix.testing.switching import RegimeClock, check_clock
from keras_optix.validation import check_choice, check_float, check_int

_POSITIONS = (-1.0, 0.0, 1.0)  # the position of each discrete action
_RETURNS = 8  # number of returns in the observation
_SCALE = 5.0  # factor from percents to numbers in the observation
_WARMUP = 40  # steps of the market before an episode, so that the averages are meaningful
_AVERAGE = 0.05  # weight of the newest price in the moving average
_VOLATILITY = 0.1  # weight of the newest squared return in the volatility
_JUMP = 0.8  # percent; a larger return is a jump to `jump_fading_position`


class _Regime(NamedTuple):
    """Parameters of the returns, in percent per step."""

    noise: float
    drift: float = 0.0
    turn: float = 0.0  # probability that the drift changes its sign
    reversion: float = 0.0  # part of the distance from the moving average that is undone
    jump: float = 0.0
    jump_chance: float = 0.0
    give_back: float = 0.0  # part of a jump that the next step undoes
    carry: float = 0.0  # charge for a position of 1


_REGIMES = {
    "trending": _Regime(noise=0.1, drift=0.06, turn=0.01),
    "ranging": _Regime(noise=0.1, reversion=0.3),
    "volatile": _Regime(noise=0.3, jump=1.5, jump_chance=0.04, give_back=0.6, carry=0.06),
}


class MarketEnv(OneLineRepr, gymnasium.Env[np.ndarray, Any]):
    """A market to trade in. Its regime changes with the clock and is not observed.

    Each action is a position from -1 (short) to 1 (long). The reward, in percent of the capital, is the position times
    the next log-return, minus `cost` times the change of position. Positions do not influence prices. An episode begins
    with position 0 and a price of 100, after 40 steps of the market without trading. It ends by truncation.

    Regimes:

    - ``"trending"``: a drift of 0.06 % per step, whose sign lasts for 100 steps on average. Following it pays.
    - ``"ranging"``: each step undoes 30 % of the distance from the moving average. Trading against it pays.
    - ``"volatile"``: three times the noise, and a position of 1 is charged 0.06 % per step. There are jumps of 1.5 %
      (one step in 25), and the next step undoes 60 % of a jump. A position pays only in these next steps.

    The observation is ``[11]`` float32, in units of 0.2 %: the last 8 returns, oldest first; the position (as it is);
    the distance of the price from its moving average (weight 0.05); the volatility (root of the moving average of
    squared returns, weight 0.1). ``info["regime"]`` is the regime of the newest return, or after a reset the regime of
    the next return; ``info["price"]`` is the price.

    Args:
        regimes: The regimes of this market. The next regime is drawn from all except the present one.
        regime_length: Mean length of a regime in steps of the clock; each length is drawn (geometric).
        episode_length: Steps of an episode.
        cost: Percent paid for a change of position by 1.
        continuous: Actions are ``[1]`` float32, the position itself, clipped to -1 .. 1. Otherwise 0 is short, 1 flat
            and 2 long.
        schedule: Regimes by the step of the clock at which they begin, instead of drawn regimes. It must have step 0.
            `regimes` and `regime_length` are then not used.
        regime_seed: Seed of the drawn regimes. The regime at a step of the clock depends only on this seed and on the
            arguments above, not on the seed of `reset`, so copies that share a clock agree.
        clock: The clock, which may be shared. None: a new clock.

    Attributes:
        regime_clock: The clock.

    Raises:
        ConfigurationError: An argument is invalid.

    Examples:
        >>> env = optix.testing.MarketEnv(("trending",), episode_length=50)
        >>> observation, info = env.reset(seed=0)
    """

    def __init__(
        self,
        regimes: Sequence[str] = ("trending", "ranging", "volatile"),
        regime_length: int = 2000,
        episode_length: int = 250,
        cost: float = 0.005,
        *,
        continuous: bool = False,
        schedule: Mapping[int, str] | None = None,
        regime_seed: int = 0,
        clock: RegimeClock | None = None,
    ) -> None:
        self._length = check_int("episode_length", episode_length, minimum=1)
        self._cost = check_float("cost", cost, low=0.0)
        if not isinstance(continuous, bool):
            raise ConfigurationError(describe("`continuous` must be True or False.", continuous=continuous))
        self._continuous = continuous
        self.regime_clock = check_clock(clock)
        self._path = _RegimePath(
            _check_regimes(regimes),
            check_int("regime_length", regime_length, minimum=1),
            None if schedule is None else _check_schedule(schedule),
            check_int("regime_seed", regime_seed, minimum=0),
        )
        self.observation_space = spaces.Box(-np.inf, np.inf, (_RETURNS + 3,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32) if continuous else spaces.Discrete(3)
        self._begin([], [], 1.0)

    def _begin(self, normal: list[float], uniform: list[float], sign: float) -> None:
        self._normal, self._uniform, self._drawn = normal, uniform, 0
        self._returns = [0.0] * _RETURNS
        self._sign = sign
        self._jumped = 0.0
        self._log_price = 0.0
        self._start = 0.0
        self._average = 0.0
        self._variance = 0.0
        self._position = 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begins the next episode, and draws all its random numbers. The clock is not reset."""
        super().reset(seed=seed)
        count = _WARMUP + self._length
        sign = 1.0 if self.np_random.random() < 0.5 else -1.0
        self._begin(self.np_random.standard_normal(count).tolist(), self.np_random.random(count).tolist(), sign)
        regime = self._path.at(self.regime_clock.steps)
        for _ in range(_WARMUP):
            self._advance(_REGIMES[regime])
        self._start = self._log_price
        return self._observation(), self._info(regime)

    def step(self, action: Any) -> Step:
        """Takes a position and pays what it earns."""
        position = min(1.0, max(-1.0, float(action[0]))) if self._continuous else _POSITIONS[int(action)]
        name = self._path.at(self.regime_clock.steps)
        regime = _REGIMES[name]
        paid = self._cost * abs(position - self._position) + regime.carry * abs(position)
        self._position = position
        reward = position * self._advance(regime) - paid
        self.regime_clock.tick()
        return self._observation(), reward, False, self._drawn >= _WARMUP + self._length, self._info(name)

    def save_state(self) -> dict[str, Any]:
        """Returns the market, the position, the drawn numbers, the generator and the steps of the clock."""
        return {
            "normal": np.array(self._normal),
            "uniform": np.array(self._uniform),
            "drawn": self._drawn,
            "returns": np.array(self._returns),
            "sign": self._sign,
            "jumped": self._jumped,
            "log_price": self._log_price,
            "start": self._start,
            "average": self._average,
            "variance": self._variance,
            "position": self._position,
            "clock": self.regime_clock.steps,
            "np_random": self.np_random.bit_generator.state,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continues from the state that another one saved. Sets the clock for all environments that share it."""
        self._normal, self._uniform = state["normal"].tolist(), state["uniform"].tolist()
        self._drawn, self._returns = state["drawn"], state["returns"].tolist()
        self._sign, self._jumped, self._position = state["sign"], state["jumped"], state["position"]
        self._log_price, self._start = state["log_price"], state["start"]
        self._average, self._variance = state["average"], state["variance"]
        self.regime_clock.steps = state["clock"]
        self.np_random.bit_generator.state = state["np_random"]

    def _advance(self, regime: _Regime) -> float:
        chance = self._uniform[self._drawn]
        if chance < regime.turn:
            self._sign = -self._sign
        jumped = 0.0
        if chance < regime.jump_chance:
            jumped = regime.jump if 2.0 * chance < regime.jump_chance else -regime.jump
        change = (
            regime.noise * self._normal[self._drawn]
            + regime.drift * self._sign
            - regime.reversion * (self._log_price - self._average)
            - regime.give_back * self._jumped
            + jumped
        )
        self._drawn += 1
        self._jumped = jumped
        self._log_price += change
        self._average += _AVERAGE * (self._log_price - self._average)
        self._variance += _VOLATILITY * (change * change - self._variance)
        del self._returns[0]
        self._returns.append(change)
        return change

    def _observation(self) -> np.ndarray:
        seen = [*self._returns, self._position / _SCALE, self._log_price - self._average, math.sqrt(self._variance)]
        return np.array(seen, np.float32) * np.float32(_SCALE)

    def _info(self, regime: str) -> dict[str, Any]:
        return {"regime": regime, "price": 100.0 * math.exp((self._log_price - self._start) / 100.0)}


def momentum_position(observation: np.ndarray) -> float:
    """Returns the position of a specialist for trending markets: the sign of the sum of the last returns.

    Args:
        observation: ``[11]``, an observation of a `MarketEnv`.

    Returns:
        The position, -1, 0 or 1. The discrete action is the position plus 1.

    Examples:
        >>> observation, _ = optix.testing.MarketEnv().reset(seed=0)
        >>> -1.0 <= optix.testing.momentum_position(observation) <= 1.0
        True
    """
    return float(np.sign(observation[:_RETURNS].sum()))


def reversion_position(observation: np.ndarray) -> float:
    """Returns the position of a specialist for ranging markets: against the distance from the moving average.

    Args:
        observation: ``[11]``, an observation of a `MarketEnv`.

    Returns:
        The position, -1, 0 or 1. The discrete action is the position plus 1.

    Examples:
        >>> observation, _ = optix.testing.MarketEnv().reset(seed=0)
        >>> -1.0 <= optix.testing.reversion_position(observation) <= 1.0
        True
    """
    return -float(np.sign(observation[_RETURNS + 1]))


def jump_fading_position(observation: np.ndarray) -> float:
    """Returns the position of a specialist for volatile markets: against a jump in the step after it, otherwise 0.

    Args:
        observation: ``[11]``, an observation of a `MarketEnv`.

    Returns:
        The position, -1, 0 or 1. The discrete action is the position plus 1.

    Examples:
        >>> observation, _ = optix.testing.MarketEnv().reset(seed=0)
        >>> -1.0 <= optix.testing.jump_fading_position(observation) <= 1.0
        True
    """
    newest = observation[_RETURNS - 1] / _SCALE
    return -float(np.sign(newest)) if abs(newest) > _JUMP else 0.0


class _RegimePath:
    """The regime at each step of the clock. Regimes are drawn when they are first needed."""

    def __init__(self, regimes: list[str], length: int, schedule: dict[int, str] | None, seed: int) -> None:
        self._regimes, self._length = regimes, length
        self._generator = np.random.default_rng(seed)
        if schedule is None:
            self._starts, self._names = [0], [regimes[int(self._generator.integers(len(regimes)))]]
        else:
            self._starts = sorted(schedule)
            self._names = [schedule[start] for start in self._starts]
        self._end = math.inf
        if schedule is None and len(regimes) > 1:
            self._end = float(self._generator.geometric(1.0 / length))

    def at(self, steps: int) -> str:
        while steps >= self._end:
            others = [regime for regime in self._regimes if regime != self._names[-1]]
            self._names.append(others[int(self._generator.integers(len(others)))])
            self._starts.append(int(self._end))
            self._end += float(self._generator.geometric(1.0 / self._length))
        return self._names[bisect.bisect_right(self._starts, steps) - 1]


def _check_regimes(regimes: object) -> list[str]:
    if isinstance(regimes, str) or not isinstance(regimes, Sequence) or not regimes:
        raise ConfigurationError(
            describe("`regimes` must be a sequence of names.", fix=f"Use some of {list(_REGIMES)}.", regimes=regimes)
        )
    names = [check_choice("regimes", regime, tuple(_REGIMES)) for regime in regimes]
    if len(set(names)) < len(names):
        raise ConfigurationError(describe("`regimes` must not repeat a name.", regimes=regimes))
    return names


def _check_schedule(schedule: object) -> dict[int, str]:
    if not isinstance(schedule, Mapping) or 0 not in schedule:
        raise ConfigurationError(
            describe("`schedule` must map steps of the clock to regimes, from step 0 on.", schedule=schedule)
        )
    return {
        check_int("step of schedule", start, minimum=0): check_choice("schedule", regime, tuple(_REGIMES))
        for start, regime in schedule.items()
    }
