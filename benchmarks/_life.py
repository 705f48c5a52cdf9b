"""A simulated life: a live run on a scripted clock, with faults drawn from a seed, and what must hold after each event.

The feed, its reader with reconnects, the windows, the loop, the registry, the resume points and the lease are those of
the package. The agent is the toy of `tests/loop/toy_run.py`, whose weights are one number, so that a week takes a
minute. The reader's thread and the learner's take turns, so that everything follows from the seed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import sys
import threading
import time
import types
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from gymnasium import spaces

sys.path.append(str(Path(__file__).resolve().parents[1]))

from tests.loop.toy_run import InPlace, Toy  # noqa: E402 (the folder of the tests is found only now)

import keras_optix as optix  # noqa: E402
from keras_optix.callbacks.resuming import Resuming  # noqa: E402
from keras_optix.errors import DirectoryError, FeedError, OptixError, RegistryError  # noqa: E402
from keras_optix.evaluators.scorer import Scorer  # noqa: E402
from keras_optix.experience.actor import NoiseSpec  # noqa: E402
from keras_optix.experience.live.feeds import Boundary, Reconnect  # noqa: E402
from keras_optix.experience.live.stream import StreamCollector, StreamOptions  # noqa: E402
from keras_optix.experience.policy_params import PolicyParams, PolicyRecord  # noqa: E402
from keras_optix.experience.window import CollectedWindow  # noqa: E402
from keras_optix.loggers.loop_log import LoopLog  # noqa: E402
from keras_optix.loop.adapter import TrainingUnit  # noqa: E402
from keras_optix.loop.aids import Aids  # noqa: E402
from keras_optix.loop.engine import Engine  # noqa: E402
from keras_optix.loop.options import LoopOptions  # noqa: E402
from keras_optix.records import EvalMetrics  # noqa: E402
from keras_optix.store.files import prefixed, under  # noqa: E402
from keras_optix.store.lease import Lease  # noqa: E402
from keras_optix.store.resume_points import ResumeStore  # noqa: E402
from keras_optix.testing import ScriptedClock  # noqa: E402

HOUR, DAY = 3600.0, 86400.0
TICK = 6.0  # seconds from one item of the feed to the next
EPISODE, ROWS = 2, 20  # steps of an episode and of a window: ten episodes a window, one window in three minutes
LEARNING = 1.0  # seconds of an update
INTERVAL = 600.0  # seconds between two resume points
MOST_RECORDS, MOST_BYTES, MOST_FILES = 2_000, 4_000_000, 60
_ANY = Scorer(optix.ReturnEvaluator())
MOST_SHORT = 11  # connections of less than a second in a row: the first one, and as many as there are tries
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


class Violation(Exception):
    """Something that must hold does not."""


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
        arrays, values = super().save()
        more, collector = self.collector.save()
        return {**arrays, **prefixed("collector/", more)}, {**values, "version": self.version, "collector": collector}

    def restore(self, arrays: Any, values: Any, *, weights: bool) -> str:
        super().restore(arrays, values, weights=weights)
        self.version = values["version"]
        self.collector.restore(under("collector/", arrays), values["collector"])
        return ""


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is known of a run at a moment, outside of its process."""

    units: int
    env_steps: int
    at: float


class Life:
    """One run over days, in as many processes as it takes.

    Args:
        directory: An empty folder.
        seed: What happens follows from it.
        rates: How often faults of each kind happen in a day; None means `RATES`.
        say: Takes a line on each fault of the run.

    Attributes:
        violations: What did not hold, with the moment.
    """

    def __init__(
        self,
        directory: Path,
        seed: int,
        rates: dict[str, float] | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.directory, self.seed, self._say = directory, seed, say
        self.world = World(seed, RATES if rates is None else rates)
        self.violations: list[str] = []
        self.processes = self.resumed = self.repeated = self.most_repeated = 0
        self.lines: list[str] = []
        self.endings: Counter[str] = Counter()
        self._written: Facts | None = None  # at the newest resume point
        self._unknown: Facts | None = None  # at a resume point that may have been written, just before a kill
        self._stamp: tuple[int, int] | None = None
        self._writable_since = 0.0
        self._longest = 0.0  # seconds of a window since the newest resume point
        self._began = 0.0  # when this process began
        self._checked: set[Path] = set()
        self._bests: deque[tuple[int, float, int]] = deque(maxlen=2)
        self._lock: Any = None
        self._unlocked_at = 0.0

    def live(self, days: float) -> Life:
        """Lives for so many days."""
        until = days * DAY
        with self.world.around(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            while self.world.clock.monotonic() < until and len(self.violations) < 20:
                self._process(until)
        self._unlock(always=True)
        return self

    def hold(self, what: str, holds: object) -> None:
        """Notes a violation if something does not hold."""
        if not holds:
            when = self.world.clock.monotonic() / DAY
            self.violations.append(f"day {when:.4f}, process {self.processes}: {what}")
            self._say(self.violations[-1])

    # One process

    def _process(self, until: float) -> None:
        world = self.world
        self.processes += 1
        self._began, self._longest = world.clock.monotonic(), 0.0
        world.events["process"] += 1
        toy = LiveToy(world)
        engine: Engine | None = None
        resuming: Resuming | None = None
        ending = "end"
        try:
            resuming = self._resuming()
            engine = self._begin(toy, resuming)
            self._after_begin(engine, toy)
            while world.clock.monotonic() < until and not toy.stopped:
                self._window(engine, toy, resuming)
            engine.end()
            engine.tell_what_is_missing()
        except Killed:
            ending = "kill"
            if engine is not None and world.writes_until_killed is not None:
                self._unknown = Facts(engine.units, engine.journal.env_steps, world.clock.monotonic())
        except (Dead, FeedError) as error:
            ending = type(error).__name__
            self._fail(engine, resuming, error)
        except OptixError as error:
            ending = type(error).__name__
            self.hold(f"the run ended: {type(error).__name__}: {error}", False)
            world.clock.advance(HOUR)
        except Exception as error:  # whatever it is, it should not have come
            ending = type(error).__name__
            self.hold(f"an error of no class of the package: {type(error).__name__}: {error}", False)
            world.clock.advance(HOUR)
        self.endings[ending] += 1
        world.writes_until_killed = None
        toy.collector.drain()
        if engine is not None:
            self._last_line(engine)
        if resuming is not None:
            resuming.release()  # by the system, if the process was killed
        world.clock.advance(HOUR if ending == "FeedError" else 30.0)  # until it is started again

    def _resuming(self) -> Resuming:
        """Resumes the run, which another process may still have for a while."""
        world = self.world
        registry = optix.CheckpointRegistry(self.directory)
        runs = ResumeStore(registry, None).runs()
        if runs and world.happens("run taken"):
            other = Lease(runs[0])
            if other.take():
                try:
                    Resuming(registry, INTERVAL, resume=True)
                    self.hold("a run that another process has was resumed", False)
                except RegistryError as error:
                    self.hold(f"the message does not say who has the run: {error}", "is running" in str(error))
                other.release()
            world.clock.advance(60.0)
        return Resuming(registry, INTERVAL, resume=True)

    def _begin(self, toy: LiveToy, resuming: Resuming) -> Engine:
        log = LoopLog((), 0, resuming.env_steps)
        log.aids = Aids(self.world.clock.monotonic)
        scheduler = optix.BackoffScheduler(max_interval=8, plateau_threshold=5, dormant_threshold=20)
        options = LoopOptions(when_dormant="watch")
        registry = optix.CheckpointRegistry(self.directory, max_snapshots=10)
        resuming._registry = registry  # the one of the engine, as in the callback
        resuming._store = ResumeStore(registry, INTERVAL)
        engine = Engine(toy, optix.ReturnEvaluator(10), scheduler, None, registry, options, [], log)
        resuming.read(engine)
        resuming.begin(engine)
        resuming.begin_epoch(engine, toy, 0, {"epochs": 1, "steps": None})  # type: ignore[arg-type]
        return engine

    def _after_begin(self, engine: Engine, toy: LiveToy) -> None:
        written = self._written
        if written is None:
            least = 0 if self._unknown is None else self._unknown.units
            self.hold("a run that had no resume point goes on", engine.units in (0, least))
            if engine.units:
                self._written = Facts(engine.units, engine.journal.env_steps, self.world.clock.monotonic())
            self._stamp = self._stamp_of(engine)
            return
        self.resumed += 1
        now = Facts(engine.units, engine.journal.env_steps, self.world.clock.monotonic())
        # A process that was killed while it wrote may have written a point, of which nothing is known here.
        known = [written] if self._unknown is None else [written, self._unknown]
        self.hold(
            f"resumed after {engine.units} windows and {engine.journal.env_steps} env steps, but the newest resume "
            f"point had {written.units} and {written.env_steps}",
            (now.units, now.env_steps) in [(facts.units, facts.env_steps) for facts in known],
        )
        self._written, self._unknown, self._stamp = now, None, self._stamp_of(engine)
        best = engine.performer.best.latest
        known = self._bests[-1] if self._bests else None
        if known is not None:
            self.hold(f"best {known[0]} was forgotten: it is {best}", best is not None and best.snapshot_id >= known[0])

    def _window(self, engine: Engine, toy: LiveToy, resuming: Resuming) -> None:
        world = self.world
        began = world.clock.monotonic()
        self._outside(engine)
        collected = toy.next_window()
        world.clock.advance(LEARNING)
        before, units, steps = toy.get_state(), engine.units, engine.journal.env_steps
        unit = toy.unit_of(collected)
        if not toy.paused and world.happens("bad update"):
            toy.p = float("nan")
            engine.recover_from_nan(collected.window_id, "A loss or a weight", before)
        engine.take(unit)
        world.events["window"] += 1
        self.hold("a count of windows or env steps went back", engine.units == units + 1)
        self.hold("env steps do not add up", engine.journal.env_steps == steps + unit.steps)
        self._longest = max(self._longest, world.clock.monotonic() - began)
        if world.happens("kill while writing"):
            world.writes_until_killed = int(world.rng.integers(0, 6))
        resuming.after_unit(engine)
        self._see_resume_point(engine)
        self._check(engine, toy)
        if world.happens("kill"):
            raise Killed

    def _outside(self, engine: Engine) -> None:
        """What happens to the machine between two windows."""
        world, now = self.world, self.world.clock.monotonic()
        if world.happens("clock jump"):
            world.clock.jump(float(world.rng.uniform(-DAY, DAY)))
        if world.happens("disk full"):
            world.full_until = now + float(world.rng.uniform(60.0, 2 * HOUR))
        if world.happens("change"):
            world.target = float(world.rng.uniform(-6.0, 6.0))
            world.changed += 1
        self._unlock()
        if self._lock is None and world.happens("directory locked"):
            from filelock import FileLock

            self._lock = FileLock(self.directory / ".lock")
            self._lock.acquire(timeout=0)
            self._unlocked_at = now + float(world.rng.uniform(60.0, HOUR))

    def _unlock(self, *, always: bool = False) -> None:
        if self._lock is not None and (always or self.world.clock.monotonic() >= self._unlocked_at):
            self._lock.release()
            self._lock = None

    def _fail(self, engine: Engine | None, resuming: Resuming | None, error: BaseException) -> None:
        """What the callback does when `fit` fails."""
        if engine is None or resuming is None:
            return
        with contextlib.suppress(Killed):
            resuming.failed(engine, error)
            self._see_resume_point(engine, always=True)

    # What must hold

    def _see_resume_point(self, engine: Engine, *, always: bool = False) -> None:
        """Notes what a resume point that was written just now must give back, and reads it."""
        world, now = self.world, self.world.clock.monotonic()
        path, stamp = Path(engine.registry.run_folder) / "resume.npz", self._stamp_of(engine)
        if stamp is None or stamp == self._stamp:
            if not world.is_full and world.full_until:
                # It is tried again within a minute, after the first window then.
                self._writable_since = max(self._writable_since, world.full_until)
            since = max(self._written.at if self._written else 0.0, self._writable_since, self._began)
            late = now - since - INTERVAL - 60.0 - 2 * self._longest
            self.hold(f"no resume point for {now - since:.0f} s", world.is_full or late <= 0.0 or always)
            return
        self._stamp = stamp
        world.events["resume point"] += 1
        if self._written is not None:
            self.hold("a resume point is behind the one before", engine.units >= self._written.units)
        self._written = Facts(engine.units, engine.journal.env_steps, now)
        self._longest = 0.0
        self.hold("a resume point grows without bound", path.stat().st_size < MOST_BYTES)
        try:
            point = ResumeStore(optix.CheckpointRegistry(self.directory), None).find(path.parent)
            self.hold("the resume point is not the newest", point.values["loop"]["units"] == engine.units)
        except OptixError as error:
            self.hold(f"a resume point cannot be read: {error}", False)

    @staticmethod
    def _stamp_of(engine: Engine) -> tuple[int, int] | None:
        """Another value for each resume point of a run; None if there is none."""
        with contextlib.suppress(FileNotFoundError):
            status = (Path(engine.registry.run_folder) / "resume.npz").stat()
            return status.st_ino, status.st_ctime_ns
        return None

    def _check(self, engine: Engine, toy: LiveToy) -> None:
        world = self.world
        self.hold("the weights are not finite", np.isfinite(toy.p))
        self.hold("records grow without bound", len(engine.log.records) <= MOST_RECORDS)
        self.hold(f"{world.most_short} connections in a row broke at once", world.most_short <= MOST_SHORT)
        counts = toy.collector.counts
        left_out = counts.observations - counts.starts - counts.steps
        self.hold(f"the feed's counts do not add up: {counts}", 0 <= left_out <= counts.invalid)
        self._check_best(engine)
        folder = Path(engine.registry.run_folder)
        files = list(folder.glob("*")) if folder.exists() else []
        self.hold(f"{len(files)} files in the folder of the run", len(files) <= MOST_FILES)
        for path in files:
            if path.name[:6].isdigit() and path not in self._checked:
                self._checked.add(path)
                finite = all(np.isfinite(array).all() for array in np.load(path).values())
                self.hold(f"a snapshot is not finite: {path.name}", finite)

    def _check_best(self, engine: Engine) -> None:
        """The best is finite, and was not replaced by one that is worse, in the same environment."""
        best = engine.performer.best.latest
        if best is None or (self._bests and best.snapshot_id == self._bests[-1][0]):
            return
        if any(best.key == unwritten.key for unwritten in engine.registry.unwritten):
            return  # it is only in memory so far
        p = float(engine.registry.load(best)["p"])
        self.hold("the best is not finite", np.isfinite(p) and np.isfinite(best.score))
        if self._bests:
            number, before, changed = self._bests[-1]
            # Confirmed twice by 10 episodes or more with a deviation of 3: a fall of 5 is five standard errors.
            fall = 10.0 * (abs(p - self.world.target) - abs(before - self.world.target))
            fair = changed == self.world.changed
            self.hold(f"best {best.snapshot_id} is worse than {number} by {fall:.1f}", fall < 5.0 or not fair)
            self.hold(f"best {number} was replaced by {best.snapshot_id}", best.snapshot_id > number)
        self._bests.append((best.snapshot_id, p, self.world.changed))

    def _last_line(self, engine: Engine) -> None:
        line = engine.summary(where=False)
        self.lines.append(line)
        steps = engine.journal.env_steps
        told = (
            f"{engine.state.name} after {engine.units:,} window{'' if engine.units == 1 else 's'}, {steps:,} env steps"
        )
        self.hold(f"the last line is not true: {line!r}", line.startswith(told))
        missing = engine.log.aids.missing
        self.hold(f"the last line does not say what is missing: {line!r}", ("Not written: " in line) == bool(missing))
        best = engine.performer.best.latest
        if best is not None:
            self.hold(f"the last line has another best: {line!r}", f"at {best.env_steps:,} env steps" in line)


def report(life: Life) -> dict[str, Any]:
    """What a life was like, in numbers."""
    world = life.world
    return {
        "seed": life.seed,
        "days": round(world.clock.monotonic() / DAY, 3),
        "events": sum(world.events.values()),
        "events by kind": dict(world.events),
        "faults": sum(world.faults.values()),
        "faults by kind": dict(world.faults),
        "processes": life.processes,
        "ends": dict(life.endings),
        "violations": life.violations,
    }


def digest(life: Life) -> str:
    """All that two lives of one seed must have in common."""
    return json.dumps({**report(life), "lines": life.lines}, sort_keys=True)


__all__ = ["RATES", "DirectoryError", "Life", "Violation", "digest", "report"]
