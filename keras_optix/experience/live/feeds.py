"""Defines what a live feed is, when its windows close, and how it is connected again after a disconnect."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sized
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from keras_optix.arguments import NamesChecked, names_checked
from keras_optix.errors import ConfigurationError, EnvError, describe
from keras_optix.experience.observations import Leaves, ObservationLayout
from keras_optix.reprs import call_repr, describe_value
from keras_optix.validation import check_float, check_function, check_int

_LARGEST_EXPONENT = 500.0  # exp of more might overflow a float
_SHORTEST_STABLE = 1.0  # seconds; even without any delay, a connection is not stable before
_ITEM = "(observation, reward, terminated, truncated, info)"
_DROP = '`dataset_from_stream(on_invalid="drop")` leaves such items out, and counts them.'
_LARGEST_REWARD = float(np.finfo(np.float32).max)  # windows are float32


class Feed(Protocol):
    """A source of experience that does not wait.

    `stream` is called once per connection, and again after a disconnect. It yields items ``(observation, reward,
    terminated, truncated, info)``. The first item begins an episode. In every later item, `reward` and the two flags
    are the result of the previous action::

        class Robot:
            observation_space = gymnasium.spaces.Box(-1.0, 1.0, (4,))
            action_space = gymnasium.spaces.Discrete(2)

            def stream(self):
                with connect(...) as self.link:
                    observation, reward, terminated, truncated = self.link.receive()
                    while True:
                        action = yield observation, reward, terminated, truncated, {}
                        self.link.send(action)
                        observation, reward, terminated, truncated = self.link.receive()

            def close(self):
                self.link.close()

    - **Two-way or one-way.** A generator is resumed with ``send(action)``. If it ignores the value (``yield`` as a
      statement), or is any other iterator, the feed is one-way: the action is kept in the window but goes nowhere, so
      the next item must not depend on it. Rewards that do not depend on the action train the value network, but not
      the policy. To train a policy, make the feed two-way, or let it find out by other means (a broker's account) what
      was done.
    - **Episodes.** After an item with `terminated` or `truncated` the next item begins a new episode, and its reward is
      ignored. The action that is sent after the last observation of an episode has no effect. A feed that resets at
      once may yield the first observation of the new episode together with the flags of the old one. The last
      observation of the old episode is then in ``info["final_obs"]``, as in Gymnasium's vector environments.
    - **The end.** If `stream` returns, the feed has ended, and `fit` ends, too. If it raises an `OSError` (such as
      `ConnectionError` and `TimeoutError`) or `EOFError`, the connection is lost, see `Reconnect`. Any other exception
      ends `fit` and reaches the caller.
    - **Closing.** `close`, if the feed has it, is called from another thread when `fit` ends. It must make a waiting
      `stream` return or raise. Without `close`, `stream` is closed (``GeneratorExit``) when it next yields.
    - **Spaces.** `observation_space` and `action_space` are Gymnasium spaces. If a feed has none, they are taken from
      the arguments of `dataset_from_stream`, or from the agent.

    Examples:
        >>> class Clock(optix.live.Feed):  # a class that only has `stream` and the spaces will do, too
        ...     observation_space = gymnasium.spaces.Box(0.0, np.inf, (1,))
        ...     action_space = gymnasium.spaces.Discrete(2)
        ...     def stream(self):
        ...         for second in range(60):
        ...             action = yield np.array([second], np.float32), 0.0, False, False, {}
        >>> next(Clock().stream())[0].tolist()
        [0.0]
    """

    def stream(self) -> Iterator[Any]:
        """Yields items as `Feed` describes them, from the beginning of an episode."""
        ...


@runtime_checkable
class ClosableFeed(Protocol):
    """A feed that can be made to stop waiting."""

    def close(self) -> None:
        """Makes a waiting `stream` return or raise; may be called twice, and from any thread."""
        ...


@dataclass(frozen=True)
class FeedItem:
    """An item of a feed that was checked and is finite.

    Attributes:
        leaves: The observation to act on, leaves of ``[...]``.
        final: The last observation of the episode that ended, if `leaves` begins the next one; else None.
        reward: The reward for the previous action.
        terminated: Whether the episode terminated.
        truncated: Whether the episode was truncated.
        info: The info as the feed gave it.
    """

    leaves: Leaves
    final: Leaves | None
    reward: float
    terminated: bool
    truncated: bool
    info: Any

    @property
    def ended(self) -> bool:
        """Whether an episode ended."""
        return self.terminated or self.truncated


@dataclass(frozen=True)
class Flawed:
    """An item of a feed in which the reward or an observation is not finite.

    Attributes:
        leaves: The observation to act on; None if it is not finite.
        final: The last observation of the episode that ended, if the feed gives it together with the next one; None if
            it does not, or if it is not finite.
        resets: Whether the next episode began with this item, so that `leaves` belongs to the next episode.
        reward: The reward for the previous action; None if it is not finite.
        terminated: Whether the episode terminated.
        truncated: Whether the episode was truncated.
        info: The info as the feed gave it.
        what: Names what is not finite, for a message.
    """

    leaves: Leaves | None
    final: Leaves | None
    resets: bool
    reward: float | None
    terminated: bool
    truncated: bool
    info: Any
    what: str

    @property
    def ended(self) -> bool:
        """Whether an episode ended."""
        return self.terminated or self.truncated


def observed(item: Any, layout: ObservationLayout, number: int, *, bounds: bool) -> FeedItem:
    """Checks and converts an item of a feed.

    Args:
        item: The item as the feed yielded it.
        layout: The layout of the observation space.
        number: The number of the item, from 0, for messages.
        bounds: Whether a value outside the bounds of a Box is an error.

    Raises:
        EnvError: The item does not fit the spaces, or is not finite.
    """
    seen = examined(item, layout, number, bounds=bounds, flaws=False)
    if isinstance(seen, Flawed):
        raise EnvError(describe(f"A feed must give finite values, but item {number} has {seen.what}.", fix=_DROP))
    return seen


def examined(item: Any, layout: ObservationLayout, number: int, *, bounds: bool, flaws: bool) -> FeedItem | Flawed:
    """Does the same as `observed`, but with `flaws` returns a `Flawed` for an item that is not finite."""
    try:
        observation, reward, terminated, truncated, info = item
    except (TypeError, ValueError):
        given = f"{type(item).__name__} of {len(item)}" if isinstance(item, Sized) else type(item).__name__
        problem = f"A feed must yield {_ITEM}, but item {number} is not of this form."
        raise EnvError(describe(problem, given=given)) from None
    try:
        earned = float(reward)
    except (TypeError, ValueError):
        problem = f"A feed must give a number as reward, but the reward of item {number} is not a number."
        raise EnvError(describe(problem, fix=f"Yield {_ITEM}.", reward=reward)) from None
    leaves = _checked(observation, layout, f"item {number} of the feed", bounds, flaws)
    bounded = abs(earned) <= _LARGEST_REWARD
    if not bounded and not flaws:
        raise EnvError(
            describe(
                f"A feed must give finite float32 rewards, but the reward of item {number} is not finite or too large.",
                fix=_DROP,
                reward=reward,
            )
        )
    final = None
    resets = bool(terminated or truncated) and isinstance(info, dict) and info.get("final_obs") is not None
    if resets:
        final = _checked(info["final_obs"], layout, f"final_obs of item {number} of the feed", bounds, flaws)
    if bounded and leaves is not None and (final is not None or not resets):
        return FeedItem(leaves, final, earned, bool(terminated), bool(truncated), info)
    flawed = {
        f"reward={reward!r}": not bounded,
        "its observation": leaves is None,
        "its final_obs": resets and final is None,
    }
    what = " and ".join(name for name, wrong in flawed.items() if wrong)
    rewarded = earned if bounded else None
    return Flawed(leaves, final, resets, rewarded, bool(terminated), bool(truncated), info, what)


def _checked(observation: Any, layout: ObservationLayout, where: str, bounds: bool, flaws: bool) -> Leaves | None:
    try:
        # Copies: a feed may write its next observation into the array of this one.
        leaves = [leaf.copy() for leaf in layout.convert(observation)]
    except EnvError as error:
        raise EnvError(f"{error} This was {where}.") from None
    if not all(np.isfinite(leaf).all() for leaf in leaves if leaf.dtype.kind == "f"):
        if flaws:
            return None
        where += f". {_DROP[:-1]}"
    layout.check([leaf[None, None] for leaf in leaves], where, bounds=bounds)
    return leaves


@dataclass(frozen=True)
class StreamStep:
    """A step of a live feed, the argument of a boundary function.

    Attributes:
        steps: Steps in the window so far, including this one.
        seconds: Seconds since the window began.
        reward: The reward of this step.
        terminated: Whether the episode terminated with this step.
        truncated: Whether the episode was truncated after this step.
        info: The info that came with the reward.

    Examples:
        >>> def at_noon(step):  # a boundary of your own
        ...     return step.info.get("time") == "12:00"
        >>> at_noon(optix.live.StreamStep(1, 0.5, 0.0, False, False, {"time": "12:00"}))
        True
    """

    steps: int
    seconds: float
    reward: float
    terminated: bool
    truncated: bool
    info: Any

    @property
    def done(self) -> bool:
        """Whether an episode ended."""
        return self.terminated or self.truncated


@dataclass(frozen=True)
class Boundary(NamesChecked):
    """Says when a window of a live feed closes.

    The condition that is met first closes the window. A window also closes when it is full.

    Attributes:
        steps: Closes a window after so many steps. None: no such condition.
        seconds: Closes a window so many seconds after it began, even if no data arrived. None: no such condition.
        closes: A function of a `StreamStep` that is called after each step; if it returns True, the window closes after
            this step. None: no such condition.

    Raises:
        ConfigurationError: A number is too small, or `closes` cannot be called.
    """

    steps: int | None = None
    seconds: float | None = None
    closes: Callable[[StreamStep], bool] | None = None

    def __post_init__(self) -> None:
        if self.steps is not None:
            check_int("steps", self.steps, minimum=1)
        if self.seconds is not None:
            check_float("seconds", self.seconds, low=0.0, low_open=True)
        if self.closes is not None:
            fix = "Give a function of a StreamStep that returns True to close the window."
            check_function("closes", self.closes, "a function of a StreamStep, or None", fix=fix)

    def __repr__(self) -> str:
        given = {name: value for name, value in vars(self).items() if value is not None}
        return call_repr(self, **{name: describe_value(value) for name, value in given.items()})


@names_checked
def every_n_steps(n: int) -> Boundary:
    """Closes each window after `n` environment steps.

    Args:
        n: Number of steps, at least 1.

    Raises:
        ConfigurationError: `n` is not an integer or too small.

    Examples:
        >>> feed, agent = optix.testing.CountingFeed(), optix.PPOAgent()
        >>> dataset = optix.dataset_from_stream(feed, agent, boundary=optix.live.every_n_steps(100))
    """
    return Boundary(steps=check_int("n", n, minimum=1))


@names_checked
def every_n_seconds(seconds: float) -> Boundary:
    """Closes each window after so many seconds, even if no data arrives; the window may then be empty.

    Args:
        seconds: Seconds, more than 0.

    Raises:
        ConfigurationError: `seconds` is not a positive number.

    Examples:
        >>> feed, agent = optix.testing.CountingFeed(), optix.PPOAgent()
        >>> dataset = optix.dataset_from_stream(feed, agent, boundary=optix.live.every_n_seconds(0.5))
    """
    return Boundary(seconds=check_float("seconds", seconds, low=0.0, low_open=True))


def on_done() -> Boundary:
    """Closes each window when an episode ends; an episode longer than `window_size` takes several windows.

    Examples:
        >>> feed, agent = optix.testing.CountingFeed(), optix.PPOAgent()
        >>> dataset = optix.dataset_from_stream(feed, agent, boundary=optix.live.on_done())
    """
    return Boundary(closes=_is_done)


def _is_done(step: StreamStep) -> bool:
    return step.done


@dataclass(frozen=True)
class Reconnect(NamesChecked):
    """Says how to connect to a feed again after a disconnect, or if the first connection fails.

    Before the k-th try in a row it waits ``min(first_delay * factor**(k - 1), max_delay)`` seconds, less a random share
    of that, so that many clients that lost the same server do not all return at once (Brooker 2015, "Exponential
    backoff and jitter"). An observation does not make a try a success, because a feed that connects, gives one
    observation and breaks would be tried for ever, always after the first delay. A try succeeds when its connection is
    *stable*: when it lasts for long enough after its first observation, see `stable_after`. (Kubernetes resets the
    backoff of a container that crashes by the same rule, after ten minutes.)

    Args:
        tries: Failed tries in a row after which `fit` ends with a `FeedError`. Defaults to 10, which takes 41 to 81
            seconds with the other defaults.
        first_delay: Seconds before the first try. Defaults to 0.1.
        factor: Growth of the delay from one try to the next, >= 1. Defaults to 2.
        max_delay: Longest delay in seconds. Defaults to 30.
        jitter: Largest share of the delay that is left out at random, in [0, 1]. Defaults to 0.5.
        on: The exceptions that `stream` raises when the connection is lost; other exceptions end `fit`. Defaults to
            `OSError` (`ConnectionError`, `TimeoutError`, ...) and `EOFError`.
        stable_after: Seconds without a break, from the first observation of a connection, after which the next break
            counts as the first one again. None (the default): as long as the delay before this connection, without its
            jitter, but at least 1 second. A feed whose connections last less long waits longer and longer, and is given
            up after `tries`. A feed whose connections last longer is never given up, and is connected for at least half
            of the time.

    Raises:
        ConfigurationError: A value is out of range.

    Examples:
        >>> patient = optix.live.Reconnect(tries=100, first_delay=0.5, max_delay=60.0)
        >>> feed, agent = optix.testing.CountingFeed(), optix.PPOAgent()
        >>> dataset = optix.dataset_from_stream(feed, agent, boundary=optix.live.every_n_steps(4), reconnect=patient)
    """

    tries: int = 10
    first_delay: float = 0.1
    factor: float = 2.0
    max_delay: float = 30.0
    jitter: float = 0.5
    on: tuple[type[Exception], ...] = (OSError, EOFError)
    stable_after: float | None = None

    def __post_init__(self) -> None:
        check_int("tries", self.tries, minimum=1)
        check_float("first_delay", self.first_delay, low=0.0)
        check_float("factor", self.factor, low=1.0)
        check_float("max_delay", self.max_delay, low=0.0)
        check_float("jitter", self.jitter, low=0.0, high=1.0)
        if self.stable_after is not None:
            check_float("stable_after", self.stable_after, low=0.0)
        kinds: Any = self.on
        if not isinstance(kinds, tuple) or not all(
            isinstance(kind, type) and issubclass(kind, Exception) for kind in kinds
        ):
            raise ConfigurationError(
                describe("`on` must be a tuple of exception classes.", fix="Such as `on=(OSError,)`.", on=self.on)
            )

    def delay(self, tries: int, rng: random.Random) -> float:
        """Returns the seconds to wait before a try.

        Args:
            tries: The number of the try in a row, from 1.
            rng: Draws the jitter.
        """
        return self._longest_delay(tries) * (1.0 - self.jitter * rng.random())

    def stable_seconds(self, tries: int) -> float:
        """Returns how long a connection must last, from its first observation, to be stable.

        Args:
            tries: The number of the try in a row that made the connection, from 1; 0 for the first connection.
        """
        if self.stable_after is not None:
            return self.stable_after
        return max(_SHORTEST_STABLE, self._longest_delay(tries) if tries else 0.0)

    def _longest_delay(self, tries: int) -> float:
        grown = min(math.log(self.factor) * (tries - 1), _LARGEST_EXPONENT)
        return min(self.first_delay * math.exp(grown), self.max_delay)
