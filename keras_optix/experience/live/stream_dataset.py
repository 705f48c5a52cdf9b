"""Makes the dataset that `fit` consumes if experience comes from a live feed."""

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
from keras_optix.kinds import kind_of, with_kind
from keras_optix.states import to_json
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
    """The part of an agent that a dataset of a live feed uses. The agent may know the spaces."""

    def known_spaces(self) -> tuple[Any, Any] | None:
        """Returns observation and action space if the agent is bound to them or its policy implies them, else None."""
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
    """Makes a dataset of windows of experience from a source that does not wait: a market, a robot, a live system.

    Each element is a `Window` of ``[T, 1, ...]`` arrays. The feed is opened when `fit` begins and closed when it ends.
    A thread answers each observation at once, so learning never delays an action. The thread changes to a newer policy
    only between windows, so a window was collected by a policy that is one or more updates old when the agent learns
    from it (`policy_lag` in the logs). PPO's and REINFORCE's losses correct for this with the stored log-probabilities.

    Windows close at a boundary. A window with less than `T` steps is padded at its end, where `Window.valid` is False,
    so that the compiled step is traced only once. A window without any step, which a clock may close, is not learned
    from. A window never contains a disconnect, and an episode that a disconnect cut off is not counted.

    On a live feed `OptixCallback` does not stop when the policy is trained. It continues to watch (WATCHDOG) until
    Ctrl-C, ``agent.stop_training = True`` or ``callback.stop()``, from any thread.

    The logs of `fit` (`feed/...` in TensorBoard) count the items of the feed and what happened to them. They also show
    the latency: the time from when the feed yields an observation until its action is sent. ``dataset.feed_counts``
    returns all present counts, a `FeedCounts`. Datasets that `map`, `take`, `filter`, `skip`, `repeat`, `take_while`,
    `apply` and `with_options` make from this one have the same attribute; after any other transformation read
    ``agent.sources[-1].counts``.

    Args:
        feed: The feed, or a recording that `replay_feed` opened; see `Feed`.
        agent: The agent whose policy acts. This call binds it to the feed's spaces and checks that its networks fit.
        boundary: When windows close: `every_n_steps`, `every_n_seconds`, `on_done`, or a function that is called after
            each step with a `StreamStep` and returns True to close the window after it. Defaults to
            ``every_n_steps(200)``; for a replay, windows close by default at the same steps as in the recording.
        window_size: `T`, rows of a window. A window also closes when it is full. Defaults to the n of `every_n_steps`,
            else to 1,024. Leave it out for a replay without `boundary`.
        seed: Seeds the actions and the learner's shuffling.
        deterministic: Take the most likely action instead of sampling.
        overflow: What happens when `buffer` windows wait for a busy learner. ``"drop_oldest"`` (the default) drops the
            window that waited longest. ``"latest"`` keeps only the newest window. ``"block"`` drops nothing: it stops
            reading until there is room, which delays the next action, so it is for feeds that can wait, such as queues.
            A replay always uses ``"block"``. Dropped windows are counted.
        buffer: The number of windows that may wait. Defaults to 8.
        reconnect: How to connect again after the connection was lost. Defaults to ``Reconnect()``.
        deadline: Seconds from an observation to its action after which the action counts as late. Defaults to 0.1.
        observation_space: The space of the feed's observations. Defaults to the attribute of the feed, else to the
            space that the agent was bound to, else to numbers in the shape of its policy's input.
        action_space: The space of the actions that the feed accepts. Defaults to the attribute of the feed, else to the
            space that the agent was bound to, else to one action for each output of its policy.
        check_bounds: Whether a value outside the bounds of a Box observation space is an error. NaN and a category
            that does not exist are errors in any case. Defaults to True.
        on_invalid: What happens with an item whose reward or observation is NaN or infinite. ``"raise"`` (the default)
            ends `fit` with an `EnvError`. ``"drop"`` leaves the item out and counts it (`feed/invalid`): the episode
            continues, the last action is sent again, and a finite reward is added to the reward of the next item, which
            the same action earned. If the item ends an episode, it still completes its step; an observation that is not
            finite is replaced by the last finite one. But if its reward is not finite, the episode is cut off as by a
            disconnect. Before the first finite observation the neutral action is sent: 0 if the space contains it. A
            recording keeps the items as they are after this.
        record: Path of a file that records the items and the actions, for `replay_feed`. It must not exist yet.

    Returns:
        The dataset. It ends when the feed ends, and opens the feed again when it is iterated again.

    Raises:
        ConfigurationError: An argument is invalid, or the recording cannot be written.
        SpaceError: A space is unknown or not supported, or the agent's networks do not fit the spaces.

    Examples:
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
        and feed.carry != to_json(kinds_of(carry_specs))
    ):
        problem = "The recording does not have the carry of this policy: another policy chose its actions."
        fix = 'Let this agent choose the actions: replay_feed(path, actions="agent").'
        raise ConfigurationError(
            describe(problem, fix=fix, recorded=feed.carry, carry_specs=to_json(kinds_of(carry_specs)))
        )
    recorder = None if record is None else Recorder(record, seen, played, options.window_size, carry_specs)
    collector = StreamCollector(feed, agent, seen, played, options, recorder)
    agent.attach_source(collector)
    return _dataset_of(collector)


def _dataset_of(collector: StreamCollector) -> tf.data.Dataset:
    rows = (collector.window_size, 1)
    windows = window_spec(collector.layout, collector.action_space, *rows, collector.carry_specs)
    spec = collector.spec_for_learner(windows)
    flat_spec = tf.nest.flatten(spec)
    nothing = [np.zeros(field.shape, field.dtype.as_numpy_dtype) for field in flat_spec]
    # TensorFlow never frees the function of a dataset that was iterated, so the function must not own the feed.
    alive = weakref.ref(collector)

    def collect(_: np.ndarray) -> list[Any]:
        source = alive()
        if source is None:
            raise StateError(
                "The agent of this dataset is gone: it was deleted, and its feed was closed. Keep a reference to the "
                "agent for as long as the dataset is used."
            )
        try:
            return [np.True_, *tf.nest.flatten(source.collect_for_learner())]
        except StopIteration:
            return [np.False_, *nothing]

    def element(anything: Any) -> tuple[Any, Any]:
        goes_on, *tensors = tf.numpy_function(collect, [anything], [tf.bool, *(field.dtype for field in flat_spec)])
        goes_on.set_shape(())
        return goes_on, packed(tensors, spec)

    # `Dataset.counter()` would do, but TensorFlow never frees the function in it.
    endless = tf.data.Dataset.from_tensors(tf.constant(0, tf.int64)).repeat()
    elements = endless.map(element).take_while(lambda goes_on, _: goes_on)
    return from_source(elements.map(lambda _, found: found), collector, endless=False)


def _check_feed(feed: Any) -> None:
    """Raises a `ConfigurationError` if `feed` is not a feed."""
    stream = getattr(feed, "stream", None)
    fix = "Give an object whose `stream()` is a generator of (observation, reward, terminated, truncated, info)."
    if isinstance(feed, type):
        raise ArgumentError(describe("`feed` is a class; make an object of it.", fix=fix, feed=feed.__name__))
    if not callable(stream):
        made = "A feed does not wait for its action, an environment does: give it to dataset_from_env(env, agent)."
        fix = {
            "an agent": "The order of the arguments is dataset_from_stream(feed, agent).",
            "an environment": made,
            "a vector environment": made,
            "a path": "Open a recording with replay_feed(path).",
            "a string": "Open a recording with replay_feed(path).",
            "a generator": f"It can be started only once, and a feed is started again after a disconnect. {fix}",
            "a function": f"{fix} The function can be the `stream` of such an object.",
        }.get(kind_of(feed), fix)
        raise ArgumentError(f"`feed` has no method `stream`. Received: feed={with_kind(feed)}. {fix}")
    if inspect.isasyncgenfunction(stream) or inspect.iscoroutinefunction(stream):
        fix = "Run the event loop inside an ordinary generator, or use a blocking client: `stream` runs in a thread."
        raise ConfigurationError(describe("`stream` must not be asynchronous.", fix=fix, feed=type(feed).__name__))


def _windows_of(feed: Feed, boundary: Any, window_size: int | None) -> tuple[Boundary | None, int]:
    """Returns the boundary at which windows close (None: as recorded), and the number of rows of a window."""
    if window_size is not None:
        check_int("window_size", window_size, minimum=1)
    if boundary is None and isinstance(feed, ReplayFeed):
        if window_size is not None:
            raise ConfigurationError(
                describe(
                    "Without `boundary`, the windows of a replay are those of the recording.",
                    fix="Leave `window_size` out, or give a `boundary` to make other windows.",
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
        problem = "`window_size` must not be smaller than the number of steps after which a window closes."
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
    """Returns both spaces: the argument if it is given, else the feed's attribute, else what the agent knows."""
    found = []
    known = agent.known_spaces() or (None, None)
    for name, given, of_agent in zip(("observation_space", "action_space"), (seen, played), known, strict=True):
        of_feed = getattr(feed, name, None)
        if given is not None and of_feed is not None and given != of_feed:
            problem = f"The feed has another `{name}` than the one that was given."
            raise SpaceError(describe(problem, fix="Leave the argument out.", given=given, feed=of_feed))
        space = given if given is not None else of_feed if of_feed is not None else of_agent
        if not isinstance(space, spaces.Space):
            raise SpaceError(
                describe(
                    f"The `{name}` of the feed is not known.",
                    fix=f"Give `{name}=` a gymnasium.spaces.Space, or give the feed an attribute of that name.",
                    feed=type(feed).__name__,
                    **{name: space},
                )
            )
        found.append(space)
    return found[0], found[1]
