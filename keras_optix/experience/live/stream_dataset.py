"""The dataset that `fit` consumes where experience comes from a live feed."""

from __future__ import annotations

import inspect
import os
import weakref
from collections.abc import Callable
from typing import Any, Literal, Protocol

import numpy as np
import tensorflow as tf
from gymnasium import spaces

from keras_optix.arguments import names_checked
from keras_optix.errors import ArgumentError, ConfigurationError, SpaceError, StateError, describe
from keras_optix.experience.carry import kinds_of
from keras_optix.experience.dataset import Learner, from_source, packed, window_spec
from keras_optix.experience.live.feeds import Boundary, Feed, Reconnect, StreamStep, every_n_steps
from keras_optix.experience.live.recording import Recorder
from keras_optix.experience.live.replay import ReplayFeed
from keras_optix.experience.live.stream import StreamCollector, StreamOptions
from keras_optix.experience.window import Window
from keras_optix.kinds import kind_of, with_kind
from keras_optix.validation import (
    check_agent,
    check_bool,
    check_choice,
    check_float,
    check_int,
    check_kind,
    check_path,
    check_seed,
)

OVERFLOW = ("block", "drop_oldest", "latest")
_DEFAULT_STEPS = 200
_DEFAULT_ROWS = 1024  # of windows that do not close after a number of steps


class FeedLearner(Learner, Protocol):
    """What a dataset of a feed is made for: an agent that may know the spaces."""

    def known_spaces(self) -> tuple[Any, Any] | None:
        """Observation and action space, if the agent was bound to them or its policy says them; else None."""
        ...


@names_checked
def dataset_from_stream(
    feed: Feed,
    agent: FeedLearner,
    *,
    boundary: Boundary | Callable[[StreamStep], bool] | None = None,
    window_size: int | None = None,
    seed: int | None = None,
    deterministic: bool = False,
    overflow: Literal["drop_oldest", "latest", "block"] | None = None,
    buffer: int = 8,
    reconnect: Reconnect | None = None,
    deadline: float = 0.1,
    observation_space: spaces.Space[Any] | None = None,
    action_space: spaces.Space[Any] | None = None,
    check_bounds: bool = True,
    on_invalid: str = "raise",
    record: str | os.PathLike[str] | None = None,
) -> tf.data.Dataset:
    """Makes a dataset of windows of experience out of a source that does not wait: a market, a robot, a live system.

    Each element is a `Window` of ``[T, 1, ...]`` arrays. The feed is opened when `fit` begins and closed when it ends.
    A thread answers each observation at once, with the latest policy: learning never delays an
    action. A newer policy acts from the next window on, so the one that acts is a window old or older
    (`policy_lag` in the logs), which PPO's and REINFORCE's losses correct for by the stored log-probabilities.

    Windows close at a boundary. Those with less than `T` steps are padded at their end, where `Window.valid` is False;
    so the compiled step is traced once. A window without a step, which a clock may close, is not learned from. A window
    never reaches over a disconnect, and the episode that a disconnect cut off counts nowhere.

    On a live feed `OptixCallback` does not stop when the policy is trained: it goes on watching (WATCHDOG), until
    Ctrl-C, ``agent.stop_training = True`` or ``callback.stop()``, from any thread.

    The logs of `fit` (`feed/...` in TensorBoard) count what the feed gave and what became of it, and tell the latency
    from the moment that the feed yields an observation until its action goes out; ``dataset.feed_counts`` has all
    counts as they are when it is read, a `FeedCounts`. So has what `map`, `take`, `filter`, `skip`, `repeat`,
    `take_while`, `apply` and `with_options` make of the dataset; where another transformation lost it,
    ``agent.sources[-1].counts`` has the same.

    Args:
        feed: The feed, or what `replay_feed` returns; see `Feed`.
        agent: Gives the policy. It is bound to the feed's spaces here, and checked against them.
        boundary: When windows close: `every_n_steps`, `every_n_seconds`, `on_done`, or a function that is called after
            each step with a `StreamStep` and returns True to close the window after it. Defaults to
            ``every_n_steps(200)``; of a replay, where the windows of the recording closed.
        window_size: `T`, rows of a window: it closes when it is full, too. Defaults to the n of `every_n_steps`, else
            1,024. Left out for a replay without `boundary`.
        seed: Seeds the actions and the learner's shuffling.
        deterministic: Take the most likely action instead of sampling.
        overflow: What happens when `buffer` windows wait for a busy learner: ``"drop_oldest"`` (the default) drops the
            one that waited longest; ``"latest"`` keeps only the newest window; ``"block"`` drops nothing, reads no
            further and so delays the next action until there is room: for feeds that can wait, such as queues. A replay
            always waits. What is dropped is counted.
        buffer: Windows that may wait. Defaults to 8.
        reconnect: How a feed that was lost is reached again. Defaults to ``Reconnect()``.
        deadline: Seconds from an observation to its action after which it is counted as late. Defaults to 0.1.
        observation_space: What the feed gives. Defaults to that of the feed, else to what the agent was bound to, else
            to numbers in the shape of its policy's input.
        action_space: What the feed takes. Defaults to that of the feed, else to what the agent was bound to, else to
            one action for each output of its policy.
        check_bounds: Whether a value outside the bounds of a Box observation space is an error. NaN, and a category
            that does not exist, always are. Defaults to True.
        on_invalid: What is done with an item whose reward or observation is NaN or infinite. ``"raise"`` (the default)
            ends `fit` with an `EnvError`. ``"drop"`` leaves it out and counts it (`feed/invalid`): the episode goes on,
            the feed is answered with the action before once more, and a reward that is finite is added to that of the
            next item, which the same action earned. An item that ends an episode completes its step, with the last
            finite observation in the place of one that is not; only if its reward is not finite, the episode is cut off
            there as by a disconnect. Before the first finite observation the answer is the neutral action: 0 where the
            space has it. A recording keeps what is left after that.
        record: Path of a file that keeps what comes in and goes out, for `replay_feed`. It must not exist yet.

    Returns:
        The dataset. It ends when the feed does, and opens the feed again when it is iterated again.

    Raises:
        ConfigurationError: An argument is invalid, or the recording cannot be written.
        SpaceError: A space is unknown or not supported, or the agent's networks do not fit.

    Example:
        >>> class Counter:
        ...     observation_space = gymnasium.spaces.Box(0.0, np.inf, (1,))
        ...     action_space = gymnasium.spaces.Discrete(2)
        ...
        ...     def stream(self):
        ...         count, reward = 0, 0.0
        ...         while True:
        ...             action = yield np.array([count], np.float32), reward, False, False, {}
        ...             count, reward = count + 1, float(action)
        >>> dataset = optix.dataset_from_stream(Counter(), optix.PPOAgent(), boundary=optix.every_n_steps(16))
        >>> next(iter(dataset)).rewards.shape
        TensorShape([16, 1])
    """
    _check_feed(feed)
    check_agent("agent", agent, "bind", "attach_source", fix="Such as dataset_from_stream(feed, PPOAgent()).")
    seed = check_seed("seed", seed)
    check_kind("reconnect", reconnect, Reconnect, fix="Such as Reconnect(tries=3).", optional=True)
    if record is not None:
        check_path("record", record, fix='Such as record="monday.rec".')
    options = StreamOptions(
        *_windows_of(feed, boundary, window_size),
        overflow=_overflow_of(feed, overflow),
        buffer=check_int("buffer", buffer, minimum=1),
        reconnect=reconnect or Reconnect(),
        deadline=check_float("deadline", deadline, low=0.0, low_open=True),
        seed=seed,
        deterministic=check_bool("deterministic", deterministic),
        check_bounds=check_bool("check_bounds", check_bounds),
        on_invalid=check_choice("on_invalid", on_invalid, ("raise", "drop")),
    )
    seen, played = _spaces_of(feed, agent, observation_space, action_space)
    agent.bind(seen, played)
    carry_specs = agent.carry_specs
    if (
        isinstance(feed, ReplayFeed)
        and feed.actions == "recorded"
        and carry_specs
        and feed.carry != kinds_of(carry_specs)
    ):
        problem = "The recording does not have the carry of this policy: another one chose its actions."
        fix = 'Let the agent choose anew: replay_feed(path, actions="agent").'
        raise ConfigurationError(describe(problem, fix=fix, recorded=feed.carry, carry_specs=kinds_of(carry_specs)))
    recorder = None if record is None else Recorder(record, seen, played, options.window_size, carry_specs)
    collector = StreamCollector(feed, agent, seen, played, options, recorder)
    agent.attach_source(collector)
    return _dataset_of(collector)


def _dataset_of(collector: StreamCollector) -> tf.data.Dataset:
    spec = window_spec(collector.layout, collector.action_space, collector.window_size, 1, collector.carry_specs)
    flat_spec = tf.nest.flatten(spec)
    nothing = [np.zeros(field.shape, field.dtype.as_numpy_dtype) for field in flat_spec]
    # TensorFlow keeps the function of a dataset that was iterated for ever; it must not keep the feed, too.
    alive = weakref.ref(collector)

    def collect(_: np.ndarray) -> list[Any]:
        source = alive()
        if source is None:
            raise StateError("The agent of this dataset is gone, and its feed with it; keep the agent.")
        try:
            return [np.True_, *tf.nest.flatten(source.collect().window)]
        except StopIteration:
            return [np.False_, *nothing]

    def window(counter: Any) -> tuple[Any, Window]:
        goes_on, *tensors = tf.numpy_function(collect, [counter], [tf.bool, *(field.dtype for field in flat_spec)])
        goes_on.set_shape(())
        return goes_on, packed(tensors, spec)

    windows = tf.data.Dataset.counter().map(window).take_while(lambda goes_on, _: goes_on).map(lambda _, found: found)
    return from_source(windows, collector, endless=False)


def _check_feed(feed: Any) -> None:
    """Raises `ConfigurationError` for what is no feed."""
    stream = getattr(feed, "stream", None)
    fix = "Give an object whose `stream()` is a generator of (observation, reward, terminated, truncated, info)."
    if isinstance(feed, type):
        raise ArgumentError(describe("`feed` is a class; make an object of it.", fix=fix, feed=feed.__name__))
    if not callable(stream):
        made = "An environment waits for its action, a feed does not: give it to dataset_from_env(env, agent)."
        fix = {
            "an agent": "The arguments are dataset_from_stream(feed, agent).",
            "an environment": made,
            "a vector environment": made,
            "a path": "A recording is opened first: replay_feed(path).",
            "a string": "A recording is opened first: replay_feed(path).",
            "a generator": f"It can be started only once, and a feed is started again after a disconnect. {fix}",
            "a function": f"It is the `stream` of such an object. {fix}",
        }.get(kind_of(feed), fix)
        raise ArgumentError(f"`feed` has no method `stream`. Received: feed={with_kind(feed)}. {fix}")
    if inspect.isasyncgenfunction(stream) or inspect.iscoroutinefunction(stream):
        fix = "Run the event loop inside an ordinary generator, or use a blocking client: it has a thread of its own."
        raise ConfigurationError(describe("`stream` must not be asynchronous.", fix=fix, feed=type(feed).__name__))


def _windows_of(feed: Feed, boundary: Any, window_size: int | None) -> tuple[Boundary | None, int]:
    """When windows close, and how many rows they have."""
    if window_size is not None:
        check_int("window_size", window_size, minimum=1)
    if boundary is None and isinstance(feed, ReplayFeed):
        if window_size is not None:
            raise ConfigurationError(
                describe(
                    "The windows of a replay are those of the recording.",
                    fix="Leave `window_size` out, or give a `boundary` for windows of another kind.",
                    window_size=window_size,
                )
            )
        return None, feed.window_size
    if boundary is None:
        boundary = every_n_steps(window_size or _DEFAULT_STEPS)
    if not isinstance(boundary, Boundary):
        if not callable(boundary) or isinstance(boundary, type):
            fix = "Give every_n_steps(n), every_n_seconds(s), on_done() or a function of a StreamStep."
            raise ArgumentError(
                f"`boundary` must say when a window closes. Received: boundary={with_kind(boundary)}. {fix}"
            )
        boundary = Boundary(closes=boundary)
    rows = window_size or boundary.steps or _DEFAULT_ROWS
    if boundary.steps is not None and boundary.steps > rows:
        problem = "A window cannot hold the steps after which it closes."
        raise ConfigurationError(describe(problem, fix="Leave `window_size` out.", window_size=rows, n=boundary.steps))
    return boundary, rows


def _overflow_of(feed: Feed, overflow: str | None) -> str:
    if isinstance(feed, ReplayFeed):
        if overflow not in (None, "block"):
            problem = "A replay waits for the learner, so nothing is dropped."
            raise ConfigurationError(describe(problem, fix="Leave `overflow` out.", overflow=overflow))
        return "block"
    return "drop_oldest" if overflow is None else check_choice("overflow", overflow, OVERFLOW)


def _spaces_of(feed: Any, agent: FeedLearner, seen: Any, played: Any) -> tuple[Any, Any]:
    """The spaces: what was given, else what the feed says, else what the agent knows."""
    found = []
    known = agent.known_spaces() or (None, None)
    for name, given, of_agent in zip(("observation_space", "action_space"), (seen, played), known, strict=True):
        of_feed = getattr(feed, name, None)
        if given is not None and of_feed is not None and given != of_feed:
            fix = "Leave the argument out."
            raise SpaceError(describe(f"The feed has another `{name}`.", fix=fix, given=given, feed=of_feed))
        space = given if given is not None else of_feed if of_feed is not None else of_agent
        if not isinstance(space, spaces.Space):
            raise SpaceError(
                describe(
                    f"The `{name}` of the feed is not known.",
                    fix=f"Give `{name}=` a gymnasium.spaces.Space, or the feed an attribute of that name.",
                    feed=type(feed).__name__,
                    **{name: space},
                )
            )
        found.append(space)
    return found[0], found[1]
