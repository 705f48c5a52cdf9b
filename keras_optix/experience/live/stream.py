"""Collects windows from a live feed: acting continues while the learner is busy, and only few windows may wait."""

from __future__ import annotations

import math
import threading
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium import spaces

from keras_optix.clock import MACHINE, Clock
from keras_optix.errors import EnvError, StateError, describe
from keras_optix.experience.actions import actions_for
from keras_optix.experience.collector_state import CollectorState, read_collector_state
from keras_optix.experience.live.action_source import ActionSource, PolicyActionSource, RecordedActionSource
from keras_optix.experience.live.dropping import Dropping
from keras_optix.experience.live.feed_counts import FeedCounts
from keras_optix.experience.live.feed_notices import ConnectionNotices, is_told
from keras_optix.experience.live.feed_reader import FeedReader, Stopped
from keras_optix.experience.live.feeds import Boundary, Feed, FeedItem, Flawed, Reconnect, StreamStep, examined
from keras_optix.experience.live.latency import LatencyMeter
from keras_optix.experience.live.recording import RecordedItem, RecordedWindow, Recorder
from keras_optix.experience.live.replay import ReplayFeed
from keras_optix.experience.live.window_builder import ClosedWindow, WindowBuilder
from keras_optix.experience.observations import ObservationLayout
from keras_optix.experience.policy_params import PolicyRecord, unknown_policy
from keras_optix.experience.source import PolicyOwner, WindowSource
from keras_optix.experience.window import CollectedWindow, Window
from keras_optix.store.files import Saved

_POLL_SECONDS = 0.05  # a waiting thread checks so often whether it should stop
_NOT_SCORED = (
    "the recording was made with policies that this agent never had: the agent learns from its windows, but they are "
    "not scored"
)
_NO_STEPS = (
    "The first {count} items of the feed each ended an episode, and in none of these episodes an action was taken, so "
    "there is no step to learn from: the observation of an item that ends an episode is the last one of that episode, "
    "and the item after it begins the next episode."
)
_ONE_STEP = (
    "If each action gets its reward at once (episodes of one step, a contextual bandit), yield the next observation "
    'together with the result: (observation, reward, True, False, {"final_obs": observation}).'
)
_STEPLESS = 10  # ends in a row before the first step, after which it is clear that there will be no step


@dataclass(frozen=True)
class StreamOptions:
    """The options of reading a feed; see `dataset_from_stream`.

    Attributes:
        boundary: When windows close. None closes them at the same steps as in the recording.
        window_size: `T`, rows of a window.
        overflow: ``"block"``, ``"drop_oldest"`` or ``"latest"``.
        buffer: The number of closed windows that may wait for the learner.
        reconnect: How to connect again after a disconnect.
        deadline: Seconds after which an action is late.
        seed: Seeds the actions and the learner.
        deterministic: Take the most likely action.
        check_bounds: Whether an observation outside its Box is an error.
        on_invalid: ``"raise"`` or ``"drop"``: what happens with an item in which something is not finite.
    """

    boundary: Boundary | None
    window_size: int
    overflow: str = "drop_oldest"
    buffer: int = 8
    reconnect: Reconnect = field(default_factory=Reconnect)
    deadline: float = 0.1
    seed: int | None = None
    deterministic: bool = False
    check_bounds: bool = True
    on_invalid: str = "raise"


class StreamCollector(WindowSource):
    """Collects windows from a live feed (one environment). The feed is opened when a window is asked for.

    Two threads share it. The *reader* takes observations and answers them at once, with the latest policy. The
    *learner* asks for windows, and pushes its policy before it waits for one. A window whose time is up is closed by
    the thread that notices first: the reader on its next observation, or the learner while it waits.

    New weights act from a window's first action on, so a window has one policy version. There is one exception: if the
    clock closed the previous window while an action was pending, the first row has the previous version. The weights in
    a window are at least one window old, because the feed continues while the learner learns.

    Args:
        feed: The feed; see `Feed`.
        owner: Gives the policy and its actor.
        observation_space: The space of the feed's observations.
        action_space: The space of the actions that the feed accepts.
        options: The options of reading the feed.
        recorder: Records the items and the actions; it is closed with the collector. None records nothing.
        clock: Says when windows close and tries begin. Defaults to the clock of the machine.
    """

    def __init__(
        self,
        feed: Feed,
        owner: PolicyOwner,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        options: StreamOptions,
        recorder: Recorder | None = None,
        clock: Clock = MACHINE,
    ) -> None:
        super().__init__(owner, window_size=options.window_size, seed=options.seed, deterministic=options.deterministic)
        self.layout = ObservationLayout(observation_space)
        self.action_space = action_space
        self.endless = not isinstance(feed, ReplayFeed)
        self.notices_are_of = "feed"
        self._feed = feed
        self._options = options
        self._recorder = recorder
        self._clock = clock
        self._replays = isinstance(feed, ReplayFeed) and feed.actions == "recorded"  # else the policy chooses
        self._recorded = feed.windows if isinstance(feed, ReplayFeed) and options.boundary is None else None
        self._actions = actions_for(action_space)
        self._rng = np.random.default_rng(None if options.seed is None else (options.seed, 1))
        self._dropping = Dropping(action_space)
        self._severed = False  # whether an episode was cut off, so that no step leads to the next item
        self._action_source: ActionSource | None = None
        # In a replay no action is late, because a replay waits for the learner.
        self._latency = LatencyMeter(options.deadline if self.endless else math.inf)
        # The threads share all attributes below; they are used only while the condition is held.
        self._changed = threading.Condition()
        self._builder = WindowBuilder(
            self.layout,
            self._actions,
            options.window_size,
            one_version=options.deterministic,
            carry_specs=self.carry_specs,
            clock=clock,
        )
        self._closed_windows: deque[ClosedWindow] = deque()
        self._capacity = 1 if options.overflow == "latest" else options.buffer
        self._next_window = 0
        self._resumed_at = 0  # a replay that is resumed has delivered the windows before this one
        self._deadline = math.inf  # when the clock closes the current window
        self._observations = self._delivered_steps = self._dropped = self._waiting = 0
        self._steps_before = 0  # steps delivered in the run that is resumed
        self._disconnects = self._connections = self._flaps = 0
        self._connection_notices = ConnectionNotices()
        self._notices: list[str] = []
        self._marks: deque[RecordedWindow] = deque()
        self._reader: FeedReader | None = None
        self._ending: BaseException | None = None  # raised after the waiting windows were delivered
        self._prepared = False
        self._reserved: ClosedWindow | None = None  # the window that `prepare` reserved for the next `collect`
        self._connected = False
        self._shut = False
        self._told = False  # whether the notice was given that windows are not scored
        if recorder is not None:
            weakref.finalize(self, recorder.close)  # writes the last notes when the interpreter ends, too

    # Facts for others

    @property
    def num_envs(self) -> int:
        """See `WindowSource`: 1, because a feed is one environment."""
        return 1

    @property
    def feed_ended(self) -> bool:
        """Whether the feed has ended or failed. Windows that wait are still delivered."""
        return self._ending is not None

    @property
    def windows_waiting(self) -> int:
        """Number of closed windows that the learner has not asked for yet."""
        return len(self._closed_windows)

    @property
    def windows_in_flight(self) -> int:
        """See `WindowSource`: the windows that wait, and the current one."""
        with self._changed:
            return len(self._closed_windows) + (self._reserved is not None) + 1

    @property
    def counts(self) -> FeedCounts:
        """The present counts of the feed's items."""
        with self._changed:
            waiting = self._waiting + self._builder.rows
            return FeedCounts(
                observations=self._observations,
                starts=self._builder.starts,
                steps=self._delivered_steps + self._dropped + waiting,
                delivered=self._delivered_steps,
                dropped=self._dropped,
                waiting=waiting,
                unanswered=self._builder.unanswered,
                late=self._latency.late,
                disconnects=self._disconnects,
                reconnects=max(self._connections - 1, 0),
                invalid=self._dropping.invalid,
                flaps=self._flaps,
                stepless=self._builder.stepless,
            )

    def logs(self) -> dict[str, float]:
        """Returns counts since the dataset was made, and the latency of the last 4,096 actions, for the logs of `fit`.

        The latency begins when the feed yields an item; time that the item waited before, in a socket, is not included.
        """
        counts = self.counts
        half, most = self._latency.percentiles(50.0, 99.0)
        return {
            "feed_observations": float(counts.observations),
            "feed_dropped": float(counts.dropped),
            "feed_waiting": float(counts.waiting),
            "feed_unanswered": float(counts.unanswered),
            "feed_late": float(counts.late),
            "feed_invalid": float(counts.invalid),
            "feed_reconnects": float(counts.reconnects),
            "feed_flaps": float(counts.flaps),
            "feed_latency_p50_ms": 1000.0 * half,
            "feed_latency_p99_ms": 1000.0 * most,
        }

    def drain_notices(self) -> list[str]:
        """See `WindowSource`: notices on disconnects, reconnects and invalid items."""
        with self._changed:
            taken, self._notices = self._notices, []
            return taken

    # The learner's side

    def prepare(self, stopping: Callable[[], bool] = lambda: False) -> bool:
        """Pushes the current policy, and waits until the next window can be delivered at once.

        It waits in Python, where Ctrl-C is handled.

        Args:
            stopping: Called twenty times a second; when it returns True, the current window closes.

        Returns:
            Whether there is a step to learn from in that window.

        Raises:
            StateError: The collector was closed.
        """
        if self._shut:
            raise StateError("The feed of this dataset was closed for good. Make a new dataset to continue.")
        self.waited_for = True
        self._open(self._owner.policy_record())
        self._prepared = True
        with self._changed:
            while self._reserved is None and not self._closed_windows and self._ending is None:
                now = self._clock.monotonic()
                if now >= self._deadline or stopping():
                    self._close_window(now)
                    break
                self._changed.wait(min(self._deadline - now, _POLL_SECONDS))
            if self._reserved is None and self._closed_windows:
                # The window leaves the buffer, where it could be dropped for a newer one.
                self._reserved = self._closed_windows.popleft()
                self._changed.notify_all()
            return self._reserved is not None and self._reserved.rows > 0

    def blank(self) -> Window:
        """Returns a window without steps, with the current version of the policy; it is not counted."""
        nothing = WindowBuilder(self.layout, self._actions, self.window_size, carry_specs=self.carry_specs)
        closed = nothing.close(-1, np.zeros(2, np.int32), self._owner.policy_record())
        return closed.collected(self.layout, 0).window

    def collect(self) -> CollectedWindow:
        """Returns the next window, as soon as there is one.

        Raises:
            StopIteration: The feed has ended.
            FeedError: The feed is lost, and all complete windows have been delivered.
            EnvError: The feed gave a value that does not fit its spaces, or is not finite, or all its items end an
                episode without a step.
            BaseException: Any other error of its `stream`. It is kept in `error`.
        """
        try:
            if not self._prepared:
                self.prepare()
            self._prepared = False
            with self._changed:
                closed, self._reserved = self._reserved, None
                ending = self._ending
                if closed is not None:
                    self._waiting -= closed.rows
                    self._delivered_steps += closed.rows
            if closed is None:
                self.drain()  # the next call opens the feed again
                raise ending or StateError("The feed was closed while the learner waited for a window.")
            policy = closed.policy if self._action_source is None else self._action_source.resolve(closed.policy)
            if not policy.available and not self._told:
                self._told = True
                with self._changed:
                    self._notices.append(_NOT_SCORED)
            env_steps = self._steps_before + self._delivered_steps
            self.waited_for = False
            return self._deliver(closed.collected(self.layout, env_steps, policy))
        except StopIteration:
            raise
        except BaseException as error:
            self.error = error
            raise

    def drain(self) -> None:
        """Closes the feed, and keeps the windows that were not delivered. The next `collect` opens the feed again."""
        reader, self._reader = self._reader, None
        self._prepared = False
        if reader is not None:
            self._stop_reading()
        with self._changed:
            self._ending = None
            self._deadline = math.inf
            if self._reserved is not None:
                self._closed_windows.appendleft(self._reserved)
                self._reserved = None
        if self._recorder is not None and not self._shut:
            self._recorder.flush()

    def close(self) -> None:
        """See `WindowSource`."""
        self._shut = True
        self.drain()
        if self._recorder is not None:
            self._recorder.close()

    def save(self) -> Saved:
        """See `WindowSource`. The position of the feed cannot be saved."""
        with self._changed:
            rng = self._rng.bit_generator.state
            env_steps = self._steps_before + self._delivered_steps
            state = CollectorState(self._next_window, env_steps, rng, self._builder.tracker)
        return state.save(self.layout, None, self.carry_specs)

    def check_saved(self, arrays: Mapping[str, np.ndarray], values: Any) -> None:
        """See `WindowSource.check_saved`."""
        read_collector_state(arrays, values, self.layout, 1, self.carry_specs)

    def restore(self, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> bool:
        """See `WindowSource`. Returns False, because the feed continues where it is, with a new episode."""
        self.drain()
        state, _, _ = read_collector_state(arrays, values, self.layout, 1, self.carry_specs)
        with self._changed:
            self._rng.bit_generator.state = state.rng
            self._next_window = self._resumed_at = state.window_id
            self._steps_before = state.env_steps - self._delivered_steps
            self._builder.tracker = state.tracker
            self._builder.forget_episode()
            self._forget_delivered()
        return False

    def _open(self, policy: PolicyRecord) -> None:
        """Pushes the policy to the source of actions, and starts the reader if it does not run."""
        if self._recorder is not None or self._replays:
            policy = policy.with_fingerprint()
        if self._action_source is not None:
            self._action_source.push(policy)
        elif self._replays:
            self._action_source = RecordedActionSource(policy)
        else:
            deterministic = self.deterministic
            self._action_source = PolicyActionSource(self._make_actor(), policy, self._rng, deterministic=deterministic)
        if self._reader is not None:
            return
        reader = FeedReader(self._feed, self, self._options.reconnect, self._latency, self.seed, self._clock)
        # The finalizer also stops the thread before the interpreter ends, when it must not run.
        self._stop_reading = weakref.finalize(self, reader.stop)
        with self._changed:
            self._reader, self._ending = reader, None
            now = self._clock.monotonic()
            self._builder.opened(now)
            self._deadline = now + self._seconds
            self._connected = False
            self._marks = deque(self._recorded or ())
            self._skip_empty()
        reader.start()

    # The reader's side; see `FeedHandler`

    def exchange(self, reader: FeedReader, item: Any, *, first: bool) -> Any:
        """See `FeedHandler`."""
        now = self._clock.monotonic()
        first = first or (isinstance(item, RecordedItem) and item.first)
        flaws = self._options.on_invalid == "drop"
        given = examined(item, self.layout, self._observations, bounds=self._options.check_bounds, flaws=flaws)
        action_source, recorder = self._action_source, self._recorder
        if action_source is None:
            raise StateError("The feed was read before a policy was pushed.")
        with self._changed:
            _check(reader)
            if now >= self._deadline:
                self._close_when_room(reader)
            if first:
                self._connect(reader)
            seen = self._dropping.admit(given) if isinstance(given, FeedItem) else self._mended(given, reader)
            if seen is None:
                self._observations += 1
                return self._dropping.answer
            first, self._severed = first or self._severed, False
            # Only after all waiting for room, so that an item is counted and recorded only if it is observed.
            if recorder is not None:
                recorder.observation(
                    seen.leaves, seen.reward, seen.terminated, seen.truncated, seen.info, first=first, time=now
                )
            self._observations += 1
            step = self._builder.observe(seen, now)
            if self._builder.stepless_in_a_row:
                self._check_stepless()
            if step is not None and self._closes(step):
                self._close_when_room(reader)
            begins, window_id = not self._builder.acted, self._next_window
            new_episode = self._builder.begins
        taken = action_source.choose(seen.leaves, item, window_id, begins=begins, new_episode=new_episode)
        if taken is None:
            return None
        with self._changed:
            _check(reader)
            self._builder.act(seen.leaves, taken)
            if recorder is not None:
                recorder.action(taken.choice, taken.log_prob, taken.version, taken.carry)
        action = self._actions.to_env(taken.choice[None])[0]
        self._dropping.note_answer(action)
        return action

    def disconnected(self, error: BaseException, tries: int, delay: float) -> None:
        """See `FeedHandler`."""
        with self._changed:
            self._disconnects += self._connected
            self._flaps += self._connected and tries > 1
            notice = self._connection_notices.lost(error, tries, delay, reached=self._connected)
            if notice is not None:
                self._notices.append(notice)
            self._connected = False
            self._builder.lose_action()
            self._dropping.forget()

    def ended(self, reader: FeedReader, error: BaseException | None) -> None:
        """See `FeedHandler`."""
        with self._changed:
            if reader is not self._reader or reader.stopped:
                return
            if self._builder.rows and self._recorded is None:
                self._close_window(self._clock.monotonic())
            self._ending = StopIteration("The feed has ended.") if error is None else error
            self._changed.notify_all()

    # Called while the condition is held

    @property
    def _seconds(self) -> float:
        boundary = self._options.boundary
        return math.inf if boundary is None or boundary.seconds is None else boundary.seconds

    def _connect(self, reader: FeedReader) -> None:
        """Begins a connection; the episode of the previous connection ends without a result."""
        self._connections += 1
        notice = self._connection_notices.back(self._connections)
        if notice is not None:
            self._notices.append(notice)
        if self._builder.rows:
            self._close_when_room(reader)
        self._sever()
        self._connected = True

    def _mended(self, flawed: Flawed, reader: FeedReader) -> FeedItem | None:
        """Repairs an item in which something is not finite, or returns None if it is to be dropped."""
        dropping, builder = self._dropping, self._builder
        acted_on = builder.acted_on
        seen = dropping.mend(flawed, acted_on)
        notice = dropping.notice(flawed, self._observations)
        if notice is not None:
            self._notices.append(notice)
        if seen is not None or acted_on is None or not flawed.ended:
            return seen
        # It ended the episode with an unknown reward, so the return of the episode is unknown, too.
        if builder.rows:
            self._close_when_room(reader)
        self._sever()
        if flawed.resets and flawed.leaves is not None:
            return FeedItem(flawed.leaves, None, 0.0, False, False, flawed.info)
        return None

    def _check_stepless(self) -> None:
        """Tells of an item that ended an episode without a step, or raises an error if all items do."""
        count = self._builder.stepless
        steps = self._delivered_steps + self._dropped + self._waiting + self._steps_before
        if self._builder.stepless_in_a_row >= _STEPLESS and not (steps or self._builder.rows):
            raise EnvError(describe(_NO_STEPS.format(count=count), fix=_ONE_STEP))
        if is_told(count):
            self._notices.append(
                f"item {self._observations - 1} of the feed ends an episode in which no action was taken, so it is no "
                "step; all such items are counted (`stepless` in `feed_counts`)"
            )

    def _sever(self) -> None:
        """Discards the pending action and the running episode."""
        self._builder.interrupt()
        self._dropping.forget()
        self._severed = True

    def _closes(self, step: StreamStep) -> bool:
        """Returns whether the current window closes after a step."""
        boundary = self._options.boundary
        if boundary is None:
            return bool(self._marks) and step.steps >= self._marks[0].rows
        due = boundary.steps is not None and step.steps >= boundary.steps
        return due or self._builder.full or (boundary.closes is not None and bool(boundary.closes(step)))

    def _close_when_room(self, reader: FeedReader) -> None:
        """Closes the current window; if nothing may be dropped, waits until there is room for it."""
        before = self._next_window
        while self._options.overflow == "block" and len(self._closed_windows) >= self._capacity:
            self._changed.wait(_POLL_SECONDS)
            _check(reader)
        if self._next_window == before:  # else the learner closed it in the meantime
            self._close_window(self._clock.monotonic())

    def _close_window(self, now: float) -> None:
        """Closes the current window, and drops old windows if there is no room."""
        action_source = self._action_source
        if action_source is None:
            raise StateError("A window was closed before a policy was pushed.")
        mark = self._marks.popleft() if self._marks else None
        seed = self._rng.integers(0, 2**31 - 1, 2, np.int32) if mark is None else mark.seed
        window_id = self._next_window if mark is None else mark.window_id
        self._next_window = window_id + 1
        policy = action_source.current
        if mark is not None and not policy.available:
            policy = unknown_policy(mark.version, mark.fingerprint)
        closed = self._builder.close(window_id, seed, policy)
        if self._recorder is not None:
            self._recorder.window(window_id, closed.rows, seed, policy.version, policy.fingerprint)
        if now >= self._deadline:
            # A multiple of the period after the old deadline, so that delays do not add up.
            self._deadline += self._seconds * (1 + math.floor((now - self._deadline) / self._seconds))
        else:
            self._deadline = now + self._seconds
        if mark is not None and mark.dropped:
            self._drop(closed)
        elif mark is None or window_id >= self._resumed_at:
            self._closed_windows.append(closed)
            self._waiting += closed.rows
            while len(self._closed_windows) > self._capacity and self._options.overflow != "block":
                oldest = self._closed_windows.popleft()
                self._waiting -= oldest.rows
                self._drop(oldest)
        else:
            # This window was delivered before the run was interrupted.
            self._delivered_steps += closed.rows
            self._steps_before -= closed.rows
        self._skip_empty()
        self._changed.notify_all()

    def _drop(self, window: ClosedWindow) -> None:
        self._dropped += window.rows
        if self._recorder is not None:
            self._recorder.dropped(window.window_id)

    def _skip_empty(self) -> None:
        """Closes recorded windows without a step at once."""
        if self._marks and self._marks[0].rows == 0:
            self._close_window(self._clock.monotonic())


def _check(reader: FeedReader) -> None:
    if reader.stopped:
        raise Stopped
