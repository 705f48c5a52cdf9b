"""Windows from a live feed: acting goes on while the learner is busy, and what waits for it is bounded."""

from __future__ import annotations

import math
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium import spaces

from keras_optix.errors import StateError
from keras_optix.experience.actions import actions_for
from keras_optix.experience.collector_state import CollectorState, read_collector_state
from keras_optix.experience.live.action_source import ActionSource, PolicyActionSource, RecordedActionSource
from keras_optix.experience.live.dropping import Dropping
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

_POLL_SECONDS = 0.05  # how often somebody who waits looks whether it should stop
_NOT_SCORED = "policies that this agent never had played the recording: its windows are learned from, and not scored"


@dataclass(frozen=True)
class FeedCounts:
    """What became of everything that a feed gave; the first line of each group is the sum of what follows.

    Attributes:
        observations: That arrived: starts, steps, and the invalid ones that were left out.
        starts: Of these, those that no action led to: the first of an episode or of a connection.
        steps: The others: each completed an environment step.
        delivered: Of the steps, those handed to the learner.
        dropped: Those that were not, because it was busy.
        waiting: Those that are still to be handed out.
        unanswered: Actions whose consequence never arrived: the connection was lost, or it was not finite.
        late: Actions that went out later than the deadline.
        disconnects: Connections that were lost.
        reconnects: Connections after the first one.
        invalid: Observations that came with something that is not finite, where these are dropped. One that ended an
            episode, with a finite reward, completed a step in spite of it.
    """

    observations: int = 0
    starts: int = 0
    steps: int = 0
    delivered: int = 0
    dropped: int = 0
    waiting: int = 0
    unanswered: int = 0
    late: int = 0
    disconnects: int = 0
    reconnects: int = 0
    invalid: int = 0


@dataclass(frozen=True)
class StreamOptions:
    """How a feed is read; see `dataset_from_stream`.

    Attributes:
        boundary: When windows close. None: where the windows of the recording did.
        window_size: `T`, rows of a window.
        overflow: ``"block"``, ``"drop_oldest"`` or ``"latest"``.
        buffer: Closed windows that may wait for the learner.
        reconnect: How a feed is reached again.
        deadline: Seconds after which an action is late.
        seed: Of the actions and of the learner's randomness.
        deterministic: Take the most likely action.
        check_bounds: Whether an observation outside its Box is an error.
        on_invalid: ``"raise"`` or ``"drop"``: what is done with an item in which something is not finite.
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

    Three threads meet here. The *reader* takes observations and answers them at once, with the latest policy.
    The *learner* asks for windows, and pushes its policy before it waits for one. Whoever comes first after its
    time closes a window: the reader with the next observation, or the learner while it waits.

    New weights act from a window's first action on, so a window has one policy version; where it closed by the
    clock while an action was on its way, its first row is that of the version before. They are one window old at least:
    the feed goes on while the learner learns.

    Args:
        feed: The feed; see `Feed`.
        owner: Gives the policy and its actor.
        observation_space: What the feed gives.
        action_space: What it takes.
        options: How it is read.
        recorder: Keeps what comes in and goes out; closed with the collector. None: nothing is kept.
    """

    def __init__(
        self,
        feed: Feed,
        owner: PolicyOwner,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        options: StreamOptions,
        recorder: Recorder | None = None,
    ) -> None:
        super().__init__(owner, window_size=options.window_size, seed=options.seed, deterministic=options.deterministic)
        self.layout = ObservationLayout(observation_space)
        self.action_space = action_space
        self.endless = not isinstance(feed, ReplayFeed)
        self.notices_are_of = "feed"
        self._feed = feed
        self._options = options
        self._recorder = recorder
        self._replays = isinstance(feed, ReplayFeed) and feed.actions == "recorded"  # else somebody chooses
        self._recorded = feed.windows if isinstance(feed, ReplayFeed) and options.boundary is None else None
        self._actions = actions_for(action_space)
        self._rng = np.random.default_rng(None if options.seed is None else (options.seed, 1))
        self._dropping = Dropping(action_space)
        self._severed = False  # whether an episode was cut off: no step leads from what was last to what comes next
        self._action_source: ActionSource | None = None
        # What was chosen long ago is not late; a replay waits for the learner.
        self._latency = LatencyMeter(options.deadline if self.endless else math.inf)
        # All that follows is shared by the threads, under the condition.
        self._changed = threading.Condition()
        self._builder = WindowBuilder(
            self.layout,
            self._actions,
            options.window_size,
            one_version=options.deterministic,
            carry_specs=self.carry_specs,
        )
        self._closed_windows: deque[ClosedWindow] = deque()
        self._capacity = 1 if options.overflow == "latest" else options.buffer
        self._next_window = 0
        self._resumed_at = 0  # a replay that is resumed has handed out the windows before
        self._deadline = math.inf  # when the window at hand closes by the clock
        self._observations = self._delivered_steps = self._dropped = self._waiting = 0
        self._steps_before = 0  # handed out in the run that is resumed
        self._disconnects = self._connections = 0
        self._notices: list[str] = []
        self._marks: deque[RecordedWindow] = deque()
        self._reader: FeedReader | None = None
        self._ending: BaseException | None = None  # what comes after the windows that wait
        self._prepared = False
        self._reserved: ClosedWindow | None = None  # what `prepare` promised to hand out next
        self._connected = False
        self._shut = False
        self._told = False  # that windows are not scored
        if recorder is not None:
            weakref.finalize(self, recorder.close)  # what it noted last is in the file, however the process ends

    # What others ask

    @property
    def num_envs(self) -> int:
        """See `WindowSource`: a feed is one environment."""
        return 1

    @property
    def windows_in_flight(self) -> int:
        """See `WindowSource`: those that wait, and the one at hand."""
        with self._changed:
            return len(self._closed_windows) + (self._reserved is not None) + 1

    @property
    def counts(self) -> FeedCounts:
        """What became of everything that the feed gave."""
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
            )

    def logs(self) -> dict[str, float]:
        """Counts since the dataset was made, and the latency of the latest 4,096 actions, for the logs of `fit`.

        Latency begins when the feed yields: what waited before, in a socket, is not seen here.
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
            "feed_latency_p50_ms": 1000.0 * half,
            "feed_latency_p99_ms": 1000.0 * most,
        }

    def drain_notices(self) -> list[str]:
        """See `WindowSource`: disconnects and reconnects."""
        with self._changed:
            taken, self._notices = self._notices, []
            return taken

    # The learner's side

    def prepare(self, stopping: Callable[[], bool] = lambda: False) -> bool:
        """Pushes the policy as it is now, and waits until the next window can be handed out at once.

        It waits in Python, where Ctrl-C is heard.

        Args:
            stopping: Asked twenty times a second; once it is True, the window at hand closes.

        Returns:
            Whether there is a step to learn from in that window.

        Raises:
            StateError: The collector was closed.
        """
        if self._shut:
            raise StateError("The feed was closed for good; make a new dataset to go on.")
        self.waited_for = True
        self._open(self._owner.policy_record())
        self._prepared = True
        with self._changed:
            while self._reserved is None and not self._closed_windows and self._ending is None:
                now = time.monotonic()
                if now >= self._deadline or stopping():
                    self._close_window(now)
                    break
                self._changed.wait(min(self._deadline - now, _POLL_SECONDS))
            if self._reserved is None and self._closed_windows:
                # Out of the buffer: what was promised must not be dropped for another one.
                self._reserved = self._closed_windows.popleft()
                self._changed.notify_all()
            return self._reserved is not None and self._reserved.rows > 0

    def blank(self) -> Window:
        """A window without a step, with the version of the policy as it is now; it is not counted."""
        nothing = WindowBuilder(self.layout, self._actions, self.window_size, carry_specs=self.carry_specs)
        closed = nothing.close(-1, np.zeros(2, np.int32), self._owner.policy_record())
        return closed.collected(self.layout, 0).window

    def collect(self) -> CollectedWindow:
        """Returns the next window, as soon as there is one.

        Raises:
            StopIteration: The feed has ended.
            FeedError: It is lost, and all windows that were complete have been handed out.
            EnvError: It gave what its spaces forbid, or a value that is not finite.
            BaseException: Whatever its `stream` raised. It is kept in `error`.
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
                self.drain()  # the next window that is asked for opens the feed again
                raise ending or StateError("The feed was closed while a window was waited for.")
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
        """Closes the feed. What was not handed out is kept; the next window that is asked for opens the feed again."""
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
        """See `WindowSource`. Where the feed is cannot be saved."""
        with self._changed:
            rng = self._rng.bit_generator.state
            env_steps = self._steps_before + self._delivered_steps
            state = CollectorState(self._next_window, env_steps, rng, self._builder.tracker)
        return state.save(self.layout, None, self.carry_specs)

    def check_saved(self, arrays: Mapping[str, np.ndarray], values: Any) -> None:
        """See `WindowSource.check_saved`."""
        read_collector_state(arrays, values, self.layout, 1)

    def restore(self, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> bool:
        """See `WindowSource`. The feed goes on where it is, and so with a new episode: the answer is False."""
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
        """Offers the policy to whoever chooses, and begins to read if nobody does."""
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
        reader = FeedReader(self._feed, self, self._options.reconnect, self._latency, self.seed)
        # Also before the interpreter ends: its thread must not run then. Once called, it is forgotten.
        self._stop_reading = weakref.finalize(self, reader.stop)
        with self._changed:
            self._reader, self._ending = reader, None
            now = time.monotonic()
            self._builder.opened(now)
            self._deadline = now + self._seconds
            self._connected = False
            self._marks = deque(self._recorded or ())
            self._skip_empty()
        reader.start()

    # The reader's side; see `FeedHandler`

    def exchange(self, reader: FeedReader, item: Any, *, first: bool) -> Any:
        """See `FeedHandler`."""
        now = time.monotonic()
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
            # Not before all waiting for room is over: what was not observed is neither counted nor recorded.
            if recorder is not None:
                recorder.observation(
                    seen.leaves, seen.reward, seen.terminated, seen.truncated, seen.info, first=first, time=now
                )
            self._observations += 1
            step = self._builder.observe(seen, now)
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
            what = "was lost" if self._connected else "was not reached"
            self._disconnects += self._connected
            self._connected = False
            self._builder.lose_action()
            self._dropping.forget()
            why = f"{type(error).__name__}: {error}"
            self._notices.append(f"the feed {what} ({why}); try {tries} to reach it in {delay:.2f} s")

    def ended(self, reader: FeedReader, error: BaseException | None) -> None:
        """See `FeedHandler`."""
        with self._changed:
            if reader is not self._reader or reader.stopped:
                return
            if self._builder.rows and self._recorded is None:
                self._close_window(time.monotonic())
            self._ending = StopIteration("The feed has ended.") if error is None else error
            self._changed.notify_all()

    # Under the condition

    @property
    def _seconds(self) -> float:
        boundary = self._options.boundary
        return math.inf if boundary is None or boundary.seconds is None else boundary.seconds

    def _connect(self, reader: FeedReader) -> None:
        """A connection begins: nothing of the one before goes on."""
        self._connections += 1
        if self._connections > 1:
            self._notices.append(f"the feed is back: connection {self._connections}")
        if self._builder.rows:
            self._close_when_room(reader)
        self._sever()
        self._connected = True

    def _mended(self, flawed: Flawed, reader: FeedReader) -> FeedItem | None:
        """What can be learned from an item in which something is not finite; None if it is to be dropped."""
        dropping, builder = self._dropping, self._builder
        acted_on = builder.acted_on
        seen = dropping.mend(flawed, acted_on)
        notice = dropping.notice(flawed, self._observations)
        if notice is not None:
            self._notices.append(notice)
        if seen is not None or acted_on is None or not flawed.ended:
            return seen
        # It ended the episode with a reward that nobody knows: what the episode earned is not known either.
        if builder.rows:
            self._close_when_room(reader)
        self._sever()
        if flawed.resets and flawed.leaves is not None:
            return FeedItem(flawed.leaves, None, 0.0, False, False, flawed.info)
        return None

    def _sever(self) -> None:
        """Nothing of what was goes on."""
        self._builder.interrupt()
        self._dropping.forget()
        self._severed = True

    def _closes(self, step: StreamStep) -> bool:
        """Whether the window at hand closes after a step."""
        boundary = self._options.boundary
        if boundary is None:
            return bool(self._marks) and step.steps >= self._marks[0].rows
        due = boundary.steps is not None and step.steps >= boundary.steps
        return due or self._builder.full or (boundary.closes is not None and bool(boundary.closes(step)))

    def _close_when_room(self, reader: FeedReader) -> None:
        """Closes the window at hand; where nothing may be dropped, once there is room for it."""
        before = self._next_window
        while self._options.overflow == "block" and len(self._closed_windows) >= self._capacity:
            self._changed.wait(_POLL_SECONDS)
            _check(reader)
        if self._next_window == before:  # else the learner closed it meanwhile
            self._close_window(time.monotonic())

    def _close_window(self, now: float) -> None:
        """Closes the window at hand, and makes room where that is needed."""
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
            # On the grid of its period: lateness does not add up.
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
            # Handed out before the run was cut off.
            self._delivered_steps += closed.rows
            self._steps_before -= closed.rows
        self._skip_empty()
        self._changed.notify_all()

    def _drop(self, window: ClosedWindow) -> None:
        self._dropped += window.rows
        if self._recorder is not None:
            self._recorder.dropped(window.window_id)

    def _skip_empty(self) -> None:
        """Recorded windows without a step close at once."""
        if self._marks and self._marks[0].rows == 0:
            self._close_window(time.monotonic())


def _check(reader: FeedReader) -> None:
    if reader.stopped:
        raise Stopped
