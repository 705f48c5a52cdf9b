"""The world of a simulated life: the clock, the feed, the disk, and the toy that learns from the feed.

All that happens to the run is drawn from one generator. The thread that reads the feed and the learner take turns, so
that everything follows from the seed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
import types
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from gymnasium import spaces

import keras_optix as optix
from keras_optix.callbacks.fit_adapter import refuse_non_finite
from keras_optix.evaluators.scorer import Scorer
from keras_optix.experience.actor import NoiseSpec
from keras_optix.experience.live.feeds import Boundary, Reconnect
from keras_optix.experience.live.stream import StreamCollector, StreamOptions
from keras_optix.experience.policy_params import PolicyParams, PolicyRecord
from keras_optix.experience.window import CollectedWindow
from keras_optix.loop.adapter import TrainingUnit
from keras_optix.records import EvalMetrics
from keras_optix.store.files import prefixed, under
from keras_optix.testing import ScriptedClock
from tests.loop.toy_run import InPlace, Toy

HOUR, DAY = 3600.0, 86400.0
TICK = 6.0  # seconds from one item of the feed to the next
EPISODE, ROWS = 2, 20  # steps of an episode and of a window: ten episodes a window, one window in three minutes
LEARNING = 1.0  # seconds of an update
INTERVAL = 600.0  # seconds between two resume points
_ANY = Scorer(optix.ReturnEvaluator())
NOISE = 3.0  # of the return of an episode

# What happens, and how often in a day.
RATES = {
    "break": 24.0,  # the connection is lost, and is there again
    "flapping": 2.0,  # connections that give one observation and break
    "outage": 1.0,  # the feed cannot be reached for some minutes, once in a while for hours
    "stall": 4.0,  # nothing comes for up to an hour
    "duplicate": 48.0,  # an item comes twice
    "not finite": 24.0,  # NaN or an infinity in an observation or a reward
    "clock jump": 6.0,  # the time of day is set, by up to a day
    "bad update": 0.5,  # an update whose weights are not finite
    "hidden bad update": 0.5,  # weights that are not finite, but score well: a kernel turned NaN into 0
    "death": 1.0,  # the feed raises an error that is no lost connection
    "kill": 12.0,  # the process is gone, between two lines of the program
    "kill while writing": 12.0,  # the process is gone, in the middle of a file
    "disk full": 2.0,  # for up to two hours
    "directory locked": 1.0,  # by another process, for up to an hour
    "run taken": 2.0,  # the run is resumed while another process still has it
    "change": 1.5,  # the environment becomes another one
}


class Killed(BaseException):
    """The process is gone."""


class Dead(Exception):
    """The feed has failed for good, not only its connection."""


class PushActor:
    """Acts as the number that is its weights, with noise."""

    noise = NoiseSpec("normal", (1,))
    carry = ()

    def set_weights(self, arrays: Sequence[np.ndarray]) -> None:
        self.p = float(arrays[0][0])

    def act(self, observations: Sequence[np.ndarray], noise: np.ndarray, carry: Any = ()) -> Any:
        return (self.p + 0.1 * noise).astype(np.float32), np.zeros(len(noise), np.float32), carry


class World:
    """What the run lives in: the clock, the feed, the disk; all that happens to it is drawn from one generator.

    Attributes:
        faults: Number of faults by kind.
        events: Number of events: items, connections, windows, writes, processes.
        target: The action that earns most.
    """

    observation_space = spaces.Box(-10.0, 10.0, (1,), np.float32)
    action_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)

    def __init__(self, seed: int, rates: dict[str, float]) -> None:
        self.clock = ScriptedClock()
        self.rng = np.random.default_rng(seed)
        self.rates = rates
        self.faults: Counter[str] = Counter()
        self.events: Counter[str] = Counter()
        self.target = 2.0
        self.changed = 0  # changes of the target
        self.go, self.parked, self.closing = threading.Event(), threading.Event(), threading.Event()
        self.short = 0  # connections of less than a second, in a row
        self.most_short = 0
        self.flaps_left = 0
        self.refused = 0  # actions that were not finite
        self.away_until = self.full_until = 0.0
        self.writes_until_killed: int | None = None
        self._last: dict[str, float] = {}
        self._reward, self._step = 0.0, 0
        self._first_at: float | None = None

    def happens(self, kind: str) -> bool:
        """Whether something of a kind has happened since this was asked for the last time."""
        now = self.clock.monotonic()
        passed = now - self._last.get(kind, now)
        self._last[kind] = now
        if self.rng.random() >= 1.0 - np.exp(-self.rates.get(kind, 0.0) * passed / DAY):
            return False
        self.faults[kind] += 1
        return True

    # The feed

    def stream(self) -> Iterator[Any]:
        self.closing.clear()
        self.events["connection"] += 1
        if self._first_at is not None and self.clock.monotonic() - self._first_at >= 1.0:
            self.short = 0
        self._first_at = None
        if self.clock.monotonic() < self.away_until:
            raise ConnectionRefusedError("the feed is away")
        self._step, item = 0, (self.seen(), 0.0, False, False, {})
        while True:
            if not self.wait_for_turn():
                return
            if self._first_at is None:
                self._first_at = self.clock.monotonic()
                self.short += 1
                self.most_short = max(self.most_short, self.short)
            self.events["item"] += 1
            action = yield item
            if not np.isfinite(action).all():
                self.refused += 1
                raise Dead("an action that is not finite")
            if self.flaps_left:
                self.flaps_left -= 1
                raise ConnectionResetError("flap")
            item = self.next(item, float(np.asarray(action)[0]))

    def next(self, item: Any, action: float) -> Any:
        """The next item, or whatever comes instead of it."""
        self.clock.advance(TICK)
        if self.happens("stall"):
            self.clock.advance(self.rng.uniform(60.0, HOUR))
        if self.happens("break"):
            raise ConnectionResetError("lost")
        if self.happens("flapping"):
            self.flaps_left = int(self.rng.integers(2, 16))
            raise ConnectionResetError("flap")
        if self.happens("outage"):
            self.away_until = self.clock.monotonic() + float(self.rng.choice([30.0, 60.0, 4 * HOUR], p=[0.5, 0.4, 0.1]))
            raise ConnectionAbortedError("away")
        if self.happens("death"):
            raise Dead("a bug in the feed")
        if self.happens("duplicate"):
            return item
        reward = (100.0 - 10.0 * abs(action - self.target)) / EPISODE
        reward += NOISE / EPISODE**0.5 * self.rng.standard_normal()
        self._step += 1
        seen, info, ends = self.seen(), {}, self._step == EPISODE
        if ends:
            self._step, info = 0, {"final_obs": seen}
            seen = self.seen()
        if self.happens("not finite"):
            seen, reward = (np.full(1, np.nan, np.float32), reward) if self.rng.random() < 0.5 else (seen, np.inf)
        return seen, reward, ends, False, info

    def seen(self) -> np.ndarray:
        return self.rng.uniform(-1.0, 1.0, 1).astype(np.float32)

    def wait_for_turn(self) -> bool:
        """Waits until the learner waits; returns False if the feed is closed."""
        while not self.go.is_set():
            self.parked.set()
            if self.closing.is_set():
                return False
            self.go.wait(0.02)
        return not self.closing.is_set()

    def close(self) -> None:
        self.closing.set()

    # The disk

    @property
    def is_full(self) -> bool:
        return self.clock.monotonic() < self.full_until

    def write(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """A call of the system that writes: it may fail, or be the last one."""
        self.events["write"] += 1
        if self.writes_until_killed is not None:
            self.writes_until_killed -= 1
            if self.writes_until_killed < 0:
                raise Killed
        if self.is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        result = call(*arguments)
        if call is _REPLACE and Path(arguments[0]).name.startswith("."):  # the file was written just now
            when = self.clock.time()
            os.utime(arguments[1], (when, when), follow_symlinks=False)
        return result

    @contextlib.contextmanager
    def around(self) -> Iterator[None]:
        """The package sees this clock and this disk."""
        scripted_time = types.SimpleNamespace(
            monotonic=self.clock.monotonic,
            time=self.clock.time,
            time_ns=lambda: int(self.clock.time() * 1e9),
            strftime=time.strftime,
            localtime=time.localtime,
        )
        scripted = ("loop.engine", "loggers.loop_log", "store.resume_points", "store.manifest", "store.lease")
        with contextlib.ExitStack() as stack:
            for module in scripted:
                stack.enter_context(mock.patch(f"keras_optix.{module}.time", scripted_time))
            stack.enter_context(mock.patch("keras_optix.store.directory.LOCK_SECONDS", 0.0))
            stack.enter_context(mock.patch("os.fsync", lambda file: self.write(_fsync, file)))
            stack.enter_context(
                mock.patch("os.replace", lambda old, new, **more: self.write(_REPLACE, old, new))  # `Path.replace`
            )
            yield


def _fsync(file: int) -> None:
    """Nothing: the machine does not lose power."""


_REPLACE = os.replace


class Turns:
    """Hears of each window that closes, as a recorder does, and then lets the feed wait for the learner."""

    def __init__(self, world: World) -> None:
        self.window = lambda *facts: world.go.clear()

    def observation(self, *facts: Any, **more: Any) -> None: ...
    def action(self, *facts: Any) -> None: ...
    def dropped(self, window_id: int) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...


class LiveInPlace(InPlace):
    """Leaves windows out in which no episode ended."""

    def add(self, unit: TrainingUnit) -> bool:
        return unit.score(_ANY).primary_score is not None and super().add(unit)


class LiveToy(Toy):
    """The toy, which acts on the feed of the world and learns from its windows."""

    def __init__(self, world: World) -> None:
        super().__init__(copyable=False)
        self.world = world
        self.version = 0
        self.values.update(learning_rate=0.05)
        self.carry_specs: tuple[Any, ...] = ()
        how = StreamOptions(Boundary(steps=ROWS), ROWS, "block", seed=0, on_invalid="drop", reconnect=Reconnect())
        self.collector = StreamCollector(
            world,  # type: ignore[arg-type] (its stream is as of a feed)
            self,
            world.observation_space,
            world.action_space,
            how,
            Turns(world),  # type: ignore[arg-type]
            world.clock,
        )

    def policy_params(self) -> PolicyParams:
        return self.policy_record().params

    def policy_record(self) -> PolicyRecord:
        weights = np.array([self.p])
        return PolicyRecord(PolicyParams(self.version, (weights,)), lambda: {"p": np.array(weights[0])})

    def make_actor(self, batch_size: int) -> Any:
        return PushActor()

    def set_state(self, state: Any) -> None:
        super().set_state(state)
        self.version += 1

    def next_window(self) -> CollectedWindow:
        """The next window, with the feed waiting once it is closed."""
        world = self.world

        def turn() -> bool:
            world.parked.clear()
            world.go.set()
            return False

        self.collector.prepare(turn)
        while not (world.parked.is_set() or self.collector.feed_ended):
            time.sleep(0.0001)
        return self.collector.collect()

    def unit_of(self, collected: CollectedWindow) -> TrainingUnit:
        """Learns from a window."""
        state = dict(collected.policy.state())
        candidate = self.policy_of(
            state, window_id=collected.window_id, env_steps=collected.env_steps, version=collected.policy.version
        )
        returns = np.array([episode.total_reward for episode in collected.episodes])
        score = EvalMetrics(None, {}, collected.window_id)
        if len(returns) > 1:
            stderr = float(returns.std(ddof=1)) / len(returns) ** 0.5
            score = EvalMetrics(float(returns.mean()), {}, collected.window_id, stderr=stderr, episodes=len(returns))
        steps = int(collected.window.valid.sum())
        if not self.paused and steps:
            self.updates += 1
            self.version += 1
            self.p += self.values["learning_rate"] * (self.world.target - self.p)
        return TrainingUnit(candidate, steps, {}, lambda scorer: score)

    def evaluate_in_place(self, candidate: Any, scorer: Any, episodes: int = 0) -> InPlace:
        return LiveInPlace(self, candidate, max(episodes, scorer.plan.episodes_needed))

    def resume_in_place(self, arrays: Any, values: Any, scorer: Any, *, weights: bool) -> InPlace:
        found = super().resume_in_place(arrays, values, scorer, weights=weights)
        found.__class__ = LiveInPlace
        return found

    @property
    def endless(self) -> bool:
        return True

    def notices(self) -> list[str]:
        return self.collector.drain_notices()

    def units_in_epoch(self, steps: int | None) -> int | None:
        return None

    def save(self) -> Any:
        refuse_non_finite(self, self.get_state())  # type: ignore[arg-type]
        arrays, values = super().save()
        more, collector = self.collector.save()
        return {**arrays, **prefixed("collector/", more)}, {**values, "version": self.version, "collector": collector}

    def restore(self, arrays: Any, values: Any, *, weights: bool) -> str:
        super().restore(arrays, values, weights=weights)
        self.version = values["version"]
        self.collector.restore(under("collector/", arrays), values["collector"])
        return ""
