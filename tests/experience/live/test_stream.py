"""Windows of a live feed: alignment, boundaries, what a busy learner misses, lost connections, versions, ends."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

import keras_optix as optix
from keras_optix.errors import ConfigurationError, EnvError, FeedError, SpaceError, StateError
from keras_optix.experience.actions import actions_for
from keras_optix.experience.actor import Actor, NoiseSpec
from keras_optix.experience.carry import Carry, CarrySpec
from keras_optix.experience.live.feed_counts import FeedCounts
from keras_optix.experience.live.feeds import Boundary, Reconnect, StreamStep, every_n_seconds, every_n_steps, on_done
from keras_optix.experience.live.recording import Recorder
from keras_optix.experience.live.replay import ReplayFeed
from keras_optix.experience.live.stream import StreamCollector, StreamOptions
from keras_optix.experience.policy_params import PolicyParams, PolicyRecord
from keras_optix.experience.window import CollectedWindow
from keras_optix.testing import CountingFeed, ScriptedClock, ScriptedFeed
from tests.threads import BegunThreads

MakeStream = Callable[..., StreamCollector]
AT_ONCE = Reconnect(first_delay=0.0, stable_after=0.0)
PATIENCE = 20.0  # seconds until a test that hangs fails


def until(condition: Callable[[], bool]) -> None:
    """Waits for a thread to get somewhere."""
    limit = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < limit, "it never happened"
        time.sleep(0.001)


def take(collector: StreamCollector) -> CollectedWindow:
    """The next window, or a failure instead of a hang."""
    limit = time.monotonic() + PATIENCE

    def late() -> bool:
        assert time.monotonic() < limit, "no window came"
        return False

    collector.prepare(late)
    return collector.collect()


def take_all(collector: StreamCollector) -> list[CollectedWindow]:
    """All windows until the feed ends."""
    collected = []
    while True:
        try:
            collected.append(take(collector))
        except StopIteration:
            return collected


def now_or_never(collector: StreamCollector) -> CollectedWindow:
    """The next window; if none is complete, the one at hand as it is."""
    collector.prepare(lambda: True)
    return collector.collect()


def valid_rows(collected: list[CollectedWindow], name: str) -> np.ndarray:
    """A field of all rows that are transitions, windows joined."""
    windows = [one.window for one in collected]
    return np.concatenate([getattr(w, name)[w.valid[:, 0], 0] for w in windows])


def lengths(collected: list[CollectedWindow]) -> list[int]:
    return [int(one.window.valid.sum()) for one in collected]


def adds_up(counts: FeedCounts) -> FeedCounts:
    assert counts.observations == counts.starts + counts.steps, counts
    assert counts.steps == counts.delivered + counts.dropped + counts.waiting, counts
    assert min(vars(counts).values()) >= 0, counts
    return counts


def number(value: float, reward: float = 0.0, *, ends: bool = False) -> Any:
    """An item of a `ScriptedFeed`."""
    return np.array([value], np.float32), reward, ends, False, {}


def numbers(first: int, count: int) -> list[Any]:
    """Items ``first, first + 1, ...``; each rewards with its number."""
    return [number(k, float(k)) for k in range(first, first + count)]


# Alignment

ACTION_SPACES = {
    "discrete": spaces.Discrete(4, start=3),
    "multi_discrete": spaces.MultiDiscrete([3, 5], start=[1, 7]),
    "multi_binary": spaces.MultiBinary(3),
    "box": spaces.Box(np.array([-1.0, 2.0], np.float32), np.array([1.0, 5.0], np.float32)),
    "unbounded": spaces.Box(-np.inf, np.inf, (2, 2)),
}


@pytest.mark.parametrize("kind", ACTION_SPACES)
@pytest.mark.parametrize("truncate", [False, True])
@pytest.mark.parametrize("resets_at_once", [False, True])
def test_each_reward_is_beside_the_action_that_earned_it(
    stream: MakeStream, kind: str, truncate: bool, resets_at_once: bool
) -> None:
    space = ACTION_SPACES[kind]
    feed = CountingFeed(3, truncate=truncate, resets_at_once=resets_at_once, items=60, action_space=space)
    collected = take_all(stream(feed, window_size=7, seed=1))
    count = 59 if resets_at_once else 45  # every fourth item begins an episode
    observations = valid_rows(collected, "observations")
    index = np.arange(count)
    assert observations.tolist() == np.stack([index // 3, index % 3], 1).tolist()
    assert (valid_rows(collected, "next_observations") == observations + np.array([0, 1])).all()
    ends = valid_rows(collected, "truncated" if truncate else "terminated")
    assert ends.tolist() == (index % 3 == 2).tolist()
    assert not valid_rows(collected, "terminated" if truncate else "truncated").any()
    sent = actions_for(space).to_env(valid_rows(collected, "actions"))
    assert all(action in space for action in sent)
    assert all(action in space for action in feed.taken)
    np.testing.assert_allclose(valid_rows(collected, "rewards"), [np.sum(action) for action in sent], rtol=1e-6)
    assert len(np.unique(sent)) > 1  # a control: one action for all could hide a shift
    ended = [episode for one in collected for episode in one.episodes]
    assert [e.length for e in ended] == [3] * (count // 3)


class OneWay:
    """Shows its number and pays it, whatever was done; its stream is of the kind that is asked for."""

    observation_space = spaces.Box(0.0, np.inf, (1,))
    action_space = spaces.Discrete(3)

    def __init__(self, kind: str, items: int = 20) -> None:
        self.kind = kind
        self.items = items

    def stream(self) -> Any:
        if self.kind == "iterator":
            return iter(numbers(0, self.items))
        if self.kind == "list":
            return numbers(0, self.items)
        return self.delegate() if self.kind == "delegates" else self.generate()

    def generate(self) -> Iterator[Any]:
        for k in range(self.items):
            yield number(k, float(k))

    def delegate(self) -> Iterator[Any]:
        yield numbers(0, 1)[0]
        yield from self.delegate_further()

    def delegate_further(self) -> Iterator[Any]:
        yield from numbers(1, self.items - 1)


@pytest.mark.parametrize("kind", ["generator", "iterator", "list", "delegates"])
def test_a_one_way_feed_has_its_actions_recorded(stream: MakeStream, kind: str) -> None:
    collected = take_all(stream(OneWay(kind), window_size=6, seed=1))
    assert valid_rows(collected, "observations")[:, 0].tolist() == list(range(19))
    assert valid_rows(collected, "rewards").tolist() == list(range(1, 20))
    assert set(valid_rows(collected, "actions")) == {0, 1, 2}


def test_the_same_seed_takes_the_same_actions(stream: MakeStream) -> None:
    taken = []
    for seed in (1, 1, 2):
        feed = CountingFeed(3, items=200)
        take_all(stream(feed, seed=seed))
        taken.append(feed.taken)
    assert taken[0] == taken[1] != taken[2]


# Boundaries


def test_windows_of_n_steps(stream: MakeStream) -> None:
    collected = take_all(stream(CountingFeed(None, items=24), every_n_steps(5), window_size=8))
    assert lengths(collected) == [5, 5, 5, 5, 3]  # the last one is what the feed had when it ended
    assert [one.window_id for one in collected] == [0, 1, 2, 3, 4]
    assert [one.env_steps for one in collected] == [5, 10, 15, 20, 23]


def test_windows_that_are_episodes_or_full(stream: MakeStream) -> None:
    collected = take_all(stream(CountingFeed(3, items=13), on_done(), window_size=8))
    assert lengths(collected) == [3, 3, 3]
    collected = take_all(stream(CountingFeed(6, items=15), on_done(), window_size=4))
    assert lengths(collected) == [4, 2, 4, 2]


def test_a_function_is_asked_after_each_step(stream: MakeStream) -> None:
    seen: list[StreamStep] = []

    def closes(step: StreamStep) -> bool:
        seen.append(step)
        return step.reward in (2.0, 5.0)

    script = [*numbers(0, 7), number(7, 7.0, ends=True)]
    collected = take_all(stream(ScriptedFeed(script), Boundary(closes=closes)))
    assert lengths(collected) == [2, 3, 2]
    assert [step.steps for step in seen] == [1, 2, 1, 2, 3, 1, 2]
    assert [step.reward for step in seen] == [1, 2, 3, 4, 5, 6, 7]
    assert [step.done for step in seen] == [False] * 6 + [True]
    assert all(0.0 <= step.seconds < PATIENCE for step in seen)


def test_seconds_of_the_first_window_count_from_when_the_feed_opened(stream: MakeStream) -> None:
    clock = ScriptedClock()
    seen: list[float] = []
    boundary = Boundary(closes=lambda step: bool(seen.append(step.seconds)))
    collector = stream(CountingFeed(None, items=3), boundary, clock=clock)
    clock.advance(1000.0)  # as if the model had been compiled meanwhile
    take_all(collector)
    assert seen == [0.0, 0.0]


def test_what_a_boundary_function_raises_reaches_the_caller(stream: MakeStream) -> None:
    def closes(step: StreamStep) -> bool:
        if step.reward == 6.0:
            raise ValueError("of the user") from KeyError("why")
        return step.steps == 2

    feed = ScriptedFeed(numbers(0, 9))
    collector = stream(feed, Boundary(closes=closes))
    assert lengths([take(collector), take(collector), take(collector)]) == [2, 2, 2]
    with pytest.raises(ValueError, match="of the user") as raised:
        take(collector)
    assert isinstance(raised.value.__cause__, KeyError)
    assert collector.error is raised.value
    assert feed.closed == 1


def test_a_clock_closes_windows_on_its_grid_and_lateness_does_not_add_up(stream: MakeStream) -> None:
    clock = ScriptedClock()
    collector = stream(ScriptedFeed([], silent=True), every_n_seconds(1.0), clock=clock)
    closed_at = []

    def tick() -> bool:
        clock.advance(0.3)
        return False

    for late in (0.0, 0.0, 0.5, 2.6, 0.0):
        clock.advance(late)  # the learner was busy
        collector.prepare(tick)
        assert collector.collect().window.valid.sum() == 0
        closed_at.append(clock.monotonic())
    # With a step of 0.3: the first moment after 1; 2; 3; then late for 4, 5 and 6 at once, then 7.
    assert closed_at == pytest.approx([1.2, 2.1, 3.2, 5.8, 6.1])


def test_a_silent_feed_has_its_windows_closed_on_time(stream: MakeStream) -> None:
    period, count = 0.1, 8
    collector = stream(ScriptedFeed([], silent=True), every_n_seconds(period))
    began = time.monotonic()
    late = []
    for k in range(1, count + 1):
        assert not take(collector).window.valid.any()
        late.append(time.monotonic() - began - k * period)
    assert min(late) >= 0.0  # never too early
    assert min(late[:4]) < 0.05
    assert min(late[4:]) < 0.05  # and no drift


def test_a_window_closed_by_the_clock_has_the_rows_that_arrived(stream: MakeStream) -> None:
    gate = threading.Event()
    feed = ScriptedFeed([*numbers(0, 3), gate, *numbers(3, 1)], silent=True)
    collector = stream(feed, every_n_seconds(0.05), window_size=1000)
    collected = [take(collector)]
    while sum(lengths(collected)) < 2:
        collected.append(take(collector))
    collected.append(take(collector))
    assert lengths(collected)[-1] == 0
    gate.set()
    while sum(lengths(collected)) < 3:
        collected.append(take(collector))
    assert valid_rows(collected, "next_observations")[:, 0].tolist() == [1, 2, 3]
    assert [one.window_id for one in collected] == list(range(len(collected)))


# A busy learner


def test_block_loses_nothing_and_the_feed_waits(stream: MakeStream) -> None:
    feed = CountingFeed(None, items=50)
    collector = stream(feed, window_size=4, buffer=2)
    collector.prepare()
    # One window is promised, two wait, and the fourth is full: 16 steps, and the item that they began with.
    until(lambda: feed.read == 17)
    until(lambda: adds_up(collector.counts).waiting == 16)
    assert not until_more(feed, 17)
    rewards = [collector.collect()]
    collector.prepare()
    until(lambda: feed.read == 21)
    assert not until_more(feed, 21)
    rewards += [collector.collect(), *take_all(collector)]
    assert valid_rows(rewards, "observations")[:, 1].tolist() == list(range(49))
    counts = adds_up(collector.counts)
    assert (counts.observations, counts.starts, counts.delivered, counts.dropped, counts.waiting) == (50, 1, 49, 0, 0)


def until_more(feed: CountingFeed, read: int) -> bool:
    """Whether a feed that should wait is read further, within the time in which it would be."""
    limit = time.monotonic() + 0.1
    while time.monotonic() < limit:
        if feed.read > read:
            return True
        time.sleep(0.005)
    return False


@pytest.mark.parametrize(
    ("overflow", "kept"),
    # Of windows 1 to 10, of 4 rows, and the 11th, of 2; the buffer holds 3.
    [("drop_oldest", [0, 9, 10, 11]), ("latest", [0, 11])],
)
def test_what_a_busy_learner_misses_is_counted_exactly(stream: MakeStream, overflow: str, kept: list[int]) -> None:
    gate = threading.Event()
    feed = ScriptedFeed([*numbers(0, 5), gate, *numbers(5, 42)])
    collector = stream(feed, window_size=4, overflow=overflow, buffer=3)
    assert collector.prepare()
    gate.set()
    until(lambda: collector.feed_ended)  # all this time nobody asked for a window
    assert len(feed.taken) == 47  # and all actions went out
    size = {k: 4 for k in range(11)} | {11: 2}
    waiting = sum(size[k] for k in kept)
    counts = adds_up(collector.counts)
    assert (counts.steps, counts.delivered, counts.waiting) == (46, 0, waiting)
    assert counts.dropped == 46 - waiting
    collected = take_all(collector)
    assert [one.window_id for one in collected] == kept
    assert valid_rows(collected, "rewards").tolist() == [r for k in kept for r in range(4 * k + 1, 4 * k + 1 + size[k])]
    counts = adds_up(collector.counts)
    assert (counts.delivered, counts.dropped, counts.waiting) == (waiting, 46 - waiting, 0)


@pytest.mark.parametrize("overflow", ["block", "drop_oldest", "latest"])
def test_counts_add_up_at_any_moment(stream: MakeStream, overflow: str) -> None:
    def look() -> None:
        adds_up(collector.counts)  # what it raises in the feed, `take` raises

    lost = ConnectionError("lost")
    connection = [*numbers(0, 7), look, number(0, 1.0, ends=True), look, *numbers(0, 3), look, lost, look]
    options = {"buffer": 2, "overflow": overflow, "reconnect": AT_ONCE}
    collector = stream(ScriptedFeed(connection * 30), Boundary(steps=4, seconds=0.002), window_size=5, **options)
    while True:
        try:
            take(collector)
        except StopIteration:
            break
        for _ in range(20):
            look()
    counts = adds_up(collector.counts)
    assert counts.observations == 330
    assert counts.starts == 60
    assert counts.unanswered == 30
    assert (counts.disconnects, counts.reconnects) == (30, 29)
    assert counts.waiting == 0


def test_counts_add_up_after_a_reader_was_stopped_while_it_waited_for_room(stream: MakeStream) -> None:
    feed = CountingFeed(None)
    collector = stream(feed, every_n_seconds(0.01), window_size=1000, buffer=1)
    take(collector)
    collector.prepare()
    until(lambda: collector.windows_waiting == 1)
    time.sleep(0.03)  # so that the next window is due, and the reader waits; if it does not, nothing is tested
    collector.drain()
    adds_up(collector.counts)


def test_what_was_promised_is_handed_out_whatever_comes_meanwhile(stream: MakeStream) -> None:
    gate = threading.Event()
    feed = ScriptedFeed([*numbers(0, 5), gate, *numbers(5, 20)])
    collector = stream(feed, window_size=4, overflow="latest")
    assert collector.prepare()  # True: there is something to learn from in window 0
    gate.set()
    until(lambda: collector.feed_ended)
    assert collector.collect().window_id == 0


@pytest.mark.parametrize("boundary", [Boundary(steps=4), Boundary(steps=4, seconds=0.01)])
def test_a_recording_of_a_reader_that_was_stopped_while_it_waited_is_replayed_whole(
    stream: MakeStream, tmp_path: Path, boundary: Boundary
) -> None:
    path = tmp_path / "stopped.rec"
    feed = CountingFeed(3)
    known = feed.observation_space, feed.action_space
    collector = stream(feed, boundary, buffer=1, recorder=Recorder(path, *known, 8))
    collected = []
    for _ in range(3):
        collected += [take(collector) for _ in range(3)]
        collector.prepare()
        until(lambda: collector.windows_waiting == 1)
        time.sleep(0.02)  # so that the reader waits for room; if it does not, less is tested
        collector.drain()
    collector.close()
    again = take_all(stream(ReplayFeed(path, actions="recorded", speed=None)))
    assert len(again) >= len(collected)
    for one, other in zip(collected, again, strict=False):
        for name, value in one.window._asdict().items():
            np.testing.assert_array_equal(value, getattr(other.window, name), err_msg=name)


class SlowActor:
    """Takes its time for some of its calls."""

    noise = NoiseSpec("gumbel", (2,))
    carry: tuple[CarrySpec, ...] = ()

    def __init__(self, slow: set[int], seconds: float) -> None:
        self.slow = slow
        self.seconds = seconds
        self.calls = 0

    def set_weights(self, arrays: Any) -> None:
        pass

    def act(self, observations: Any, noise: np.ndarray, carry: Carry = ()) -> tuple[np.ndarray, np.ndarray, Carry]:
        self.calls += 1
        if self.calls in self.slow:
            time.sleep(self.seconds)
        return noise.argmax(-1), np.zeros(len(noise), np.float32), carry


class OwnerOf:
    """An owner whose policy has no arrays, for an actor of a test."""

    carry_specs: tuple[CarrySpec, ...] = ()

    def __init__(self, actor: Actor) -> None:
        self.actor = actor

    def policy_record(self) -> PolicyRecord:
        return PolicyRecord(PolicyParams(0, ()), dict)

    def make_actor(self, batch_size: int) -> Actor:
        return self.actor


def test_late_actions_are_counted_and_latency_is_logged(stream: MakeStream) -> None:
    actor = SlowActor({3, 5}, 0.12)
    collector = stream(CountingFeed(None, items=9), owner=OwnerOf(actor), deadline=0.1)
    take_all(collector)
    assert 2 <= collector.counts.late < 9
    logs = collector.logs()
    assert logs["feed_late"] == collector.counts.late
    assert logs["feed_observations"] == 9.0
    assert logs["feed_latency_p99_ms"] > 100.0 > logs["feed_latency_p50_ms"]


# Lost connections


@pytest.mark.parametrize("error", [ConnectionError, ConnectionResetError, EOFError, TimeoutError, OSError])
def test_a_window_closes_at_a_gap_and_no_row_reaches_over_it(stream: MakeStream, error: type[Exception]) -> None:
    ended = [number(103, 1.0, ends=True)]
    feed = ScriptedFeed([*numbers(0, 4), error("lost"), *numbers(100, 3), *ended, *numbers(0, 3)])
    collector = stream(feed, window_size=8, reconnect=AT_ONCE)
    collected = take_all(collector)
    assert lengths(collected) == [3, 5]
    assert valid_rows(collected, "observations")[:, 0].tolist() == [0, 1, 2, 100, 101, 102, 0, 1]
    assert valid_rows(collected, "next_observations")[:, 0].tolist() == [1, 2, 3, 101, 102, 103, 1, 2]
    counts = adds_up(collector.counts)
    assert (counts.starts, counts.unanswered, counts.disconnects, counts.reconnects) == (3, 1, 1, 1)
    # The episode that was cut off counts nowhere: 101 + 102 + 1 are of the other one.
    episodes = [episode for one in collected for episode in one.episodes]
    assert [(e.total_reward, e.length) for e in episodes] == [(204.0, 3)]
    assert collected[-1].window.episode_return == 204.0
    assert collector.drain_notices() == [
        f"the feed was lost ({error.__name__}: lost); try 1 to reach it begins in 0.00 s",
        "the feed is back: connection 2",
    ]
    assert collector.drain_notices() == []


def test_tries_begin_anew_after_a_stable_connection(stream: MakeStream) -> None:
    down = [TimeoutError("down")] * 3
    feed = ScriptedFeed([*down, *numbers(0, 2), *down, *numbers(0, 2), *down, *numbers(0, 2)])
    collector = stream(feed, reconnect=Reconnect(tries=3, first_delay=0.0, stable_after=0.0))
    assert lengths(take_all(collector)) == [1, 1, 1]
    counts = adds_up(collector.counts)
    assert (counts.disconnects, counts.reconnects) == (2, 2)  # failing to get there is no connection that was lost
    assert (
        collector.drain_notices()[0]
        == "the feed was not reached (TimeoutError: down); try 1 to reach it begins in 0.00 s"
    )


def test_a_feed_that_is_given_up_ends_after_all_that_was_complete(stream: MakeStream) -> None:
    last = ConnectionRefusedError("nobody there")
    feed = ScriptedFeed([*numbers(0, 12), ConnectionError("lost"), TimeoutError("down"), last, *numbers(0, 99)])
    collector = stream(feed, window_size=4, reconnect=Reconnect(tries=2, first_delay=0.0))
    assert lengths([take(collector) for _ in range(3)]) == [4, 4, 3]
    with pytest.raises(FeedError, match=r"in 2 tries.*ConnectionRefusedError: nobody there.*fit.*again") as raised:
        take(collector)
    assert raised.value.__cause__ is last
    assert collector.error is raised.value
    assert feed.closed == 1
    assert feed.connections == 3
    # The feed is back: the next window opens it again.
    assert take(collector).window_id == 3
    assert feed.connections == 4


@pytest.mark.parametrize("error", [TypeError("a bug"), ValueError("a bug"), KeyError("a bug")])
def test_any_other_error_reaches_the_caller_as_it_is(stream: MakeStream, error: Exception) -> None:
    feed = ScriptedFeed([*numbers(0, 6), error])
    collector = stream(feed, window_size=4)
    assert lengths([take(collector), take(collector)]) == [4, 1]
    with pytest.raises(type(error), match="a bug") as raised:
        take(collector)
    assert raised.value is error
    assert feed.connections == feed.closed == 1


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (number(1, float("nan")), "finite float32 rewards, but the reward of item 3"),
        (number(float("nan")), "not finite.*item 3 of the feed"),
        (number(-1.0), "outside its space.*item 3 of the feed.*check_bounds=False"),
        (("observation only",), "item 3 is not of this form"),
    ],
)
def test_what_a_feed_may_not_give_ends_it(stream: MakeStream, item: Any, message: str) -> None:
    collector = stream(ScriptedFeed([*numbers(0, 3), item, *numbers(4, 3)]))
    assert lengths([take(collector)]) == [2]
    with pytest.raises(EnvError, match=message):
        take(collector)
    adds_up(collector.counts)


def test_bounds_may_be_left_unchecked(stream: MakeStream) -> None:
    collected = take_all(stream(ScriptedFeed([number(-1.0), number(-2.0)]), check_bounds=False))
    assert valid_rows(collected, "next_observations").tolist() == [[-2.0]]


# Versions


def test_weights_come_in_force_with_the_first_action_of_a_window(stream: MakeStream, trainer: Any) -> None:
    gates = [threading.Event() for _ in range(2)]
    feed = ScriptedFeed([*numbers(0, 4), gates[0], *numbers(4, 3), gates[1], *numbers(7, 9)])
    collector = stream(feed, window_size=3, owner=trainer)
    collected = [take(collector)]
    until(lambda: collector._builder.acted)  # the first action of window 1 is out
    trainer.version = 5
    collector.prepare(lambda: (gates[0].set(), False)[1])
    collected.append(collector.collect())
    gates[1].set()
    collected += take_all(collector)
    # Window 1 had begun before version 5 was pushed; nothing in it changes half-way.
    assert [int(one.window.policy_version) for one in collected][:2] == [0, 0]
    assert [set(one.window.log_probs[one.window.valid].tolist()) for one in collected[:2]] == [{0}, {0}]
    assert all(one.window.policy_version == 5 for one in collected[3:])
    assert all((one.window.log_probs[one.window.valid] == -5.0).all() for one in collected[3:])


def test_the_first_row_after_a_window_that_the_clock_closed_is_of_the_version_before(
    stream: MakeStream, trainer: Any
) -> None:
    gate = threading.Event()
    feed = ScriptedFeed([number(0), gate, *numbers(1, 2), number(3, 3.0, ends=True)])
    collector = stream(feed, window_size=3, owner=trainer)
    collector._open(trainer.policy_record())
    until(lambda: collector._builder._pending is not None)
    trainer.version = 5
    empty = now_or_never(collector)  # closed while the action for item 0 was on its way
    assert empty.window.policy_version == 0
    assert not empty.window.valid.any()
    gate.set()
    collected = take(collector)
    assert collected.window.log_probs[:, 0].tolist() == [0.0, -5.0, -5.0]
    assert collected.window.policy_version == 5
    (episode,) = collected.episodes
    assert (episode.first_version, episode.last_version, episode.first_window) == (0, 5, 1)


def test_actions_go_on_with_the_last_version_while_the_learner_is_busy(stream: MakeStream, trainer: Any) -> None:
    feed = CountingFeed(None, items=41)
    collector = stream(feed, window_size=4, owner=trainer, overflow="drop_oldest", buffer=99)
    collector.prepare()
    trainer.version = 7  # never pushed
    until(lambda: collector.feed_ended)
    assert len(feed.taken) == 41
    collected = [collector.collect()]
    collected += take_all(collector)
    assert {int(one.window.policy_version) for one in collected} == {0}
    assert trainer.pushed[0] == 0


# Ends


def test_settling_closes_the_feed_and_asking_again_opens_it(stream: MakeStream) -> None:
    feed = CountingFeed(5, items=8, silent=True)
    collector = stream(feed, window_size=4)
    first = [take(collector)]
    until(lambda: collector.counts.observations == 8)
    collector.drain()
    assert (feed.connections, feed.closed, feed.finished) == (1, 1, 1)
    # What was not handed out is kept, and closed at the gap.
    first += [take(collector), take(collector)]
    assert (feed.connections, [one.window_id for one in first]) == (2, [0, 1, 2])
    assert lengths(first) == [4, 2, 4]
    assert valid_rows(first[2:], "observations")[0].tolist() == [2, 0]
    collector.close()
    assert (feed.closed, feed.finished) == (2, 2)
    with pytest.raises(StateError, match="closed for good"):
        collector.prepare()


def test_a_feed_that_cannot_be_closed_is_left_when_it_next_yields(stream: MakeStream) -> None:
    gate, finished = threading.Event(), threading.Event()

    class Feed:
        observation_space = spaces.Box(0.0, np.inf, (1,))
        action_space = spaces.Discrete(2)

        def stream(self) -> Iterator[Any]:
            try:
                yield from numbers(0, 9)
                gate.wait(PATIENCE)
                yield from numbers(9, 9)
            finally:
                finished.set()

    collector = stream(Feed(), window_size=4)
    take(collector)
    until(lambda: collector.counts.observations == 9)
    began = time.monotonic()
    collector.drain()
    assert time.monotonic() - began < PATIENCE / 2
    assert not finished.is_set()
    gate.set()
    assert finished.wait(PATIENCE)
    assert collector.counts.observations == 9


def test_a_collector_that_nobody_keeps_ends_its_thread() -> None:
    feed, threads = CountingFeed(None, items=5, silent=True), BegunThreads("keras_optix_feed")
    options = StreamOptions(every_n_steps(4), 4)
    owner = OwnerOf(SlowActor(set(), 0.0))
    collector = StreamCollector(feed, owner, feed.observation_space, feed.action_space, options)
    take(collector)
    assert threads.running
    del collector
    gc.collect()
    assert not threads.wait(PATIENCE)
    assert (feed.closed, feed.finished) == (1, 1)


def test_a_collector_whose_feed_has_ended_is_not_kept() -> None:
    feed = CountingFeed(None, items=5)
    options = StreamOptions(every_n_steps(4), 4, "block")
    owner = OwnerOf(SlowActor(set(), 0.0))
    collector = StreamCollector(feed, owner, feed.observation_space, feed.action_space, options)
    take_all(collector)
    kept = weakref.ref(collector)
    del collector
    gc.collect()
    assert kept() is None


def test_save_and_restore_go_on_with_the_numbers(stream: MakeStream) -> None:
    collector = stream(CountingFeed(3, items=24), window_size=5, seed=1)
    take_all(collector)
    arrays, values = collector.save()
    counts = collector.counts

    other = stream(CountingFeed(3, items=12), window_size=5, seed=1)
    assert other.restore(arrays, values) is False
    went_on = take_all(other)
    assert went_on[0].window_id == 4
    assert [one.env_steps for one in went_on] == [counts.steps + 5, counts.steps + 9]
    assert adds_up(other.counts).delivered == 9  # counted since the dataset was made
    again, _ = other.save()
    assert arrays.keys() == again.keys()


# What `dataset_from_stream` refuses


class FakeLearner(OwnerOf):
    """What a dataset is made for, without a network."""

    def __init__(self, known: tuple[Any, Any] | None = None) -> None:
        super().__init__(SlowActor(set(), 0.0))
        self.known = known
        self.bound: tuple[Any, Any] | None = None
        self.sources: list[Any] = []

    def known_spaces(self) -> tuple[Any, Any] | None:
        return self.known

    def bind(self, observation_space: Any, action_space: Any) -> None:
        self.bound = observation_space, action_space

    def attach_source(self, source: Any) -> None:
        self.sources.append(source)


class Bare:
    """A feed that does not say its spaces."""

    def stream(self) -> Iterator[Any]:
        yield from numbers(0, 5)


class AsyncFeed(Bare):
    async def stream(self) -> AsyncIterator[Any]:  # type: ignore[override]
        yield numbers(0, 1)[0]


class NoStream:
    pass


BOX, TWO = spaces.Box(0.0, np.inf, (1,)), spaces.Discrete(2)


@pytest.mark.parametrize(
    ("feed", "options", "message"),
    [
        (CountingFeed, {}, r"`feed` is a class; make an object of it.*CountingFeed"),
        (NoStream(), {}, r"`feed` has no method `stream`.*NoStream"),
        (AsyncFeed(), {}, r"must not be asynchronous.*event loop"),
        (CountingFeed(), {"boundary": 16}, r"`boundary` must say when a window closes.*boundary=16.*every_n_steps"),
        (CountingFeed(), {"boundary": "done"}, r"`boundary` must say.*'done'"),
        (
            CountingFeed(),
            {"boundary": every_n_steps(9), "window_size": 8},
            r"not be smaller than the number of steps after which.*window_size=8, n=9",
        ),
        (CountingFeed(), {"window_size": 0}, r"`window_size` must be an integer >= 1"),
        (CountingFeed(), {"overflow": "drop"}, r"`overflow` must be.*drop_oldest"),
        (CountingFeed(), {"buffer": 0}, r"`buffer` must be an integer >= 1"),
        (CountingFeed(), {"deadline": 0.0}, r"`deadline` must be a number in"),
        (CountingFeed(), {"seed": -1}, r"`seed` must be an integer >= 0"),
    ],
)
def test_arguments_that_are_refused(feed: Any, options: dict[str, Any], message: str) -> None:
    learner: Any = FakeLearner()
    with pytest.raises(ConfigurationError, match=message):
        optix.dataset_from_stream(feed, learner, **options)
    assert learner.sources == []


@pytest.mark.parametrize(
    ("feed", "options", "message"),
    [
        (Bare(), {"action_space": TWO}, r"`observation_space` of the feed is not known.*Give `observation_space="),
        (Bare(), {"observation_space": BOX}, r"`action_space` of the feed is not known.*Give `action_space="),
        (Bare(), {"observation_space": BOX, "action_space": 2}, r"`action_space`.*action_space=2"),
        (CountingFeed(), {"action_space": spaces.Discrete(5)}, r"another `action_space`.*Discrete\(5\).*Discrete\(2\)"),
        (CountingFeed(), {"observation_space": BOX}, r"another `observation_space`"),
    ],
)
def test_spaces_that_are_refused(feed: Any, options: dict[str, Any], message: str) -> None:
    learner: Any = FakeLearner()
    with pytest.raises(SpaceError, match=message):
        optix.dataset_from_stream(feed, learner, **options)


def test_where_spaces_come_from() -> None:
    learner: Any = FakeLearner()
    optix.dataset_from_stream(Bare(), learner, observation_space=BOX, action_space=TWO)
    assert learner.bound == (BOX, TWO)
    learner = FakeLearner((BOX, TWO))
    optix.dataset_from_stream(Bare(), learner)
    assert learner.bound == (BOX, TWO)
    learner = FakeLearner((BOX, TWO))
    feed = CountingFeed()  # what it says goes before what the agent knows
    optix.dataset_from_stream(feed, learner)
    assert learner.bound == (feed.observation_space, TWO)


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({}, 200),
        ({"window_size": 30}, 30),
        ({"boundary": every_n_steps(16)}, 16),
        ({"boundary": every_n_steps(16), "window_size": 30}, 30),
        ({"boundary": every_n_seconds(1.0)}, 1024),
        ({"boundary": on_done(), "window_size": 30}, 30),
        ({"boundary": lambda step: False}, 1024),
    ],
)
def test_sizes_of_windows(options: dict[str, Any], size: int) -> None:
    learner: Any = FakeLearner()
    dataset = optix.dataset_from_stream(CountingFeed(), learner, **options)
    assert dataset.element_spec.rewards.shape == (size, 1)
    assert learner.sources[0].window_size == size


def test_a_dataset_ends_with_its_feed_and_opens_it_again() -> None:
    learner: Any = FakeLearner()
    feed = CountingFeed(None, items=9)
    dataset = optix.dataset_from_stream(feed, learner, boundary=every_n_steps(4))
    for connections in (1, 2):
        windows = list(dataset)
        assert [int(window.valid.numpy().sum()) for window in windows] == [4, 4]
        assert (feed.connections, feed.closed, feed.finished) == (connections,) * 3
    assert [int(window.window_id.numpy()) for window in windows] == [2, 3]
