"""What a live feed is, when its windows close, and how it is reached again after a disconnect."""

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

_LARGEST_EXPONENT = 500.0  # of what a float can hold
_ITEM = "(observation, reward, terminated, truncated, info)"
_DROP = '`dataset_from_stream(on_invalid="drop")` lets such items pass, and counts them.'
_LARGEST_REWARD = float(np.finfo(np.float32).max)  # windows are float32


class Feed(Protocol):
    """A source of experience that does not wait.

    `stream` is called once per connection, and again after a disconnect. It yields ``(observation, reward, terminated,
    truncated, info)``. What it yields first is the beginning of an episode; from then on `reward` and the two flags are
    what followed the action before::

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

    - **Two-way or one-way.** A generator is resumed with ``send(action)``. One that ignores the value (``yield`` as a
      statement), or any other iterator, is a one-way feed: the action is recorded beside what comes next and goes
      nowhere, so what comes next must not depend on it. Rewards that know nothing of the action teach the value
      network, but no policy: have the feed find out what was done in another way (a broker's account), or make it
      two-way.
    - **Episodes.** After a last observation (`terminated` or `truncated`) the next one begins a new episode, and its
      reward counts nowhere. The action sent after a last observation is of no consequence. A feed that resets at once
      may give the first observation of the new episode together with the flags of the old one, whose last observation
      is in ``info["final_obs"]`` then, as Gymnasium's vector environments have it.
    - **The end.** A `stream` that returns has ended, and `fit` with it. One that raises an `OSError` (such as
      `ConnectionError` and `TimeoutError`) or `EOFError` has lost its connection, see `Reconnect`. Anything else that
      it raises ends `fit` and reaches the caller.
    - **Closing.** `close`, if there is one, is called from another thread when `fit` ends. It must make a `stream` that
      waits return or raise. Without it, `stream` is closed (``GeneratorExit``) when it next yields.
    - **Spaces.** `observation_space` and `action_space` say what it speaks, unless `dataset_from_stream` is told.
    """

    def stream(self) -> Iterator[Any]:
        """Yields what `Feed` says, from the beginning of an episode."""
        ...


@runtime_checkable
class ClosableFeed(Protocol):
    """A feed that can be made to stop waiting."""

    def close(self) -> None:
        """Makes a `stream` that waits return or raise; may be called twice, and from any thread."""
        ...


@dataclass(frozen=True)
class FeedItem:
    """What a feed gave, checked; finite, but for a `Flawed`.

    Attributes:
        leaves: The observation to act on, leaves of ``[...]``.
        final: The last observation of the episode that ended, where `leaves` begins the next one; else None.
        reward: For the action before.
        terminated: Whether the episode terminated.
        truncated: Whether it was cut off.
        info: As given.
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
    """What a feed gave where something in it is not finite.

    Attributes:
        leaves: The observation to act on; None if it is not finite.
        final: The last observation of the episode that ended, where the feed gives it beside the next one; None if it
            does not, or if it is not finite.
        resets: Whether the feed began the next episode with this item, so that `leaves` belongs to that.
        reward: For the action before; None if it is not finite.
        terminated: Whether the episode terminated.
        truncated: Whether it was cut off.
        info: As given.
        what: What is not finite, in words.
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
    """Takes apart what a feed gave.

    Args:
        item: What it gave.
        layout: The observations that are wanted.
        number: Of the item, from 0, for messages.
        bounds: Whether a value outside the bounds of a Box is an error.

    Raises:
        EnvError: It is not what the spaces say, or not finite.
    """
    seen = examined(item, layout, number, bounds=bounds, flaws=False)
    if isinstance(seen, Flawed):
        raise EnvError(describe(f"A feed must give finite values; item {number} has {seen.what}.", fix=_DROP))
    return seen


def examined(item: Any, layout: ObservationLayout, number: int, *, bounds: bool, flaws: bool) -> FeedItem | Flawed:
    """As `observed`, but with `flaws` what is not finite is told and no error."""
    try:
        observation, reward, terminated, truncated, info = item
    except (TypeError, ValueError):
        given = f"{type(item).__name__} of {len(item)}" if isinstance(item, Sized) else type(item).__name__
        raise EnvError(describe(f"A feed must yield {_ITEM}; item {number} is none.", given=given)) from None
    try:
        earned = float(reward)
    except (TypeError, ValueError):
        problem = f"A feed must give a number as reward; that of item {number} is none."
        raise EnvError(describe(problem, fix=f"Yield {_ITEM}.", reward=reward)) from None
    leaves = _checked(observation, layout, f"item {number} of the feed", bounds, flaws)
    bounded = abs(earned) <= _LARGEST_REWARD
    if not bounded and not flaws:
        raise EnvError(
            describe(
                f"A feed must give finite float32 rewards; that of item {number} is none.", fix=_DROP, reward=reward
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
        raise EnvError(f"{error} It was {where}.") from None
    if not all(np.isfinite(leaf).all() for leaf in leaves if leaf.dtype.kind == "f"):
        if flaws:
            return None
        where += f". {_DROP[:-1]}"
    layout.check([leaf[None, None] for leaf in leaves], where, bounds=bounds)
    return leaves


@dataclass(frozen=True)
class StreamStep:
    """A step of a live feed, as a boundary function sees it.

    Attributes:
        steps: Steps in the window so far, this one included.
        seconds: Since the window began.
        reward: Of this step.
        terminated: Whether the episode terminated with it.
        truncated: Whether the episode was cut off after it.
        info: That came with the reward.
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
    """When a window of a live feed closes: whichever comes first. It also closes when it is full.

    Attributes:
        steps: After so many steps; None: never for that.
        seconds: So many seconds after it began, also if no data arrived; None: never for that.
        closes: Called after each step; True closes the window after it. None: never for that.

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
    """Windows of `n` environment steps.

    Args:
        n: At least 1.

    Raises:
        ConfigurationError: It is not an integer or too small.
    """
    return Boundary(steps=check_int("n", n, minimum=1))


@names_checked
def every_n_seconds(seconds: float) -> Boundary:
    """Windows that last so many seconds; one closes on time also if no data arrives, and may be empty then.

    Args:
        seconds: More than 0.

    Raises:
        ConfigurationError: It is not a positive number.
    """
    return Boundary(seconds=check_float("seconds", seconds, low=0.0, low_open=True))


def on_done() -> Boundary:
    """Windows that are episodes: one closes when an episode ends."""
    return Boundary(closes=_is_done)


def _is_done(step: StreamStep) -> bool:
    return step.done


@dataclass(frozen=True)
class Reconnect(NamesChecked):
    """How a feed is reached again after a disconnect, or in the first place.

    Before the k-th try in a row it waits ``min(first_delay * factor**(k - 1), max_delay)`` seconds, less a random share
    of it, so that many that lost one server do not come back all at once (Brooker 2015, "Exponential backoff and
    jitter"). A try succeeds when an observation arrives.

    Args:
        tries: Tries in a row until it is given up, and `fit` ends with a `FeedError`. Defaults to 10; with the other
            defaults that takes 41 to 81 seconds.
        first_delay: Seconds. Defaults to 0.1.
        factor: >= 1. Defaults to 2.
        max_delay: Seconds. Defaults to 30.
        jitter: Largest random share in [0, 1]. Defaults to 0.5.
        on: What `stream` raises when the connection is lost; other exceptions end `fit`. Defaults to `OSError`
            (`ConnectionError`, `TimeoutError`, ...) and `EOFError`.

    Raises:
        ConfigurationError: A value is out of range.
    """

    tries: int = 10
    first_delay: float = 0.1
    factor: float = 2.0
    max_delay: float = 30.0
    jitter: float = 0.5
    on: tuple[type[Exception], ...] = (OSError, EOFError)

    def __post_init__(self) -> None:
        check_int("tries", self.tries, minimum=1)
        check_float("first_delay", self.first_delay, low=0.0)
        check_float("factor", self.factor, low=1.0)
        check_float("max_delay", self.max_delay, low=0.0)
        check_float("jitter", self.jitter, low=0.0, high=1.0)
        kinds: Any = self.on
        if not isinstance(kinds, tuple) or not all(
            isinstance(kind, type) and issubclass(kind, Exception) for kind in kinds
        ):
            raise ConfigurationError(
                describe("`on` must be a tuple of exception classes.", fix="Such as `on=(OSError,)`.", on=self.on)
            )

    def delay(self, tries: int, rng: random.Random) -> float:
        """Seconds to wait before a try.

        Args:
            tries: Its number in a row, from 1.
            rng: Draws the jitter.
        """
        grown = min(math.log(self.factor) * (tries - 1), _LARGEST_EXPONENT)
        return min(self.first_delay * math.exp(grown), self.max_delay) * (1.0 - self.jitter * rng.random())
