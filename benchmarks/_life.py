"""A simulated life: a live run on a scripted clock, with faults drawn from a seed, and what must hold after each event.

The feed, its reader with reconnects, the windows, the loop, the registry, the resume points and the lease are those of
the package. The agent is the toy of `tests/loop/toy_run.py`, whose weights are one number, so that a week takes a
minute. The reader's thread and the learner's take turns, so that everything follows from the seed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import warnings
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _life_world import DAY, HOUR, INTERVAL, LEARNING, RATES, Dead, Killed, LiveToy, World

import keras_optix as optix
from keras_optix.callbacks.resuming import Resuming
from keras_optix.errors import FeedError, OptixError, RegistryError
from keras_optix.loggers.loop_log import LoopLog
from keras_optix.loop.adapter import TrainingUnit
from keras_optix.loop.aids import Aids
from keras_optix.loop.engine import Engine
from keras_optix.loop.options import LoopOptions
from keras_optix.records import EvalMetrics
from keras_optix.store.lease import Lease
from keras_optix.store.resume_points import ResumeStore

MOST_RECORDS, MOST_BYTES, MOST_FILES = 2_000, 4_000_000, 60
MOST_SHORT = 11  # connections of less than a second in a row: the first one, and as many as there are tries


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
        self.hold("an action that is not finite was sent", not world.refused)
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
            if not engine.units:
                self._bests.clear()  # a run of its own: the one before had no resume point yet
            else:
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
        if not toy.paused and world.happens("hidden bad update"):
            unit = crowned(unit, engine)
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


def crowned(unit: TrainingUnit, engine: Engine) -> TrainingUnit:
    """A window of weights that are not finite, with a score far above the best."""
    best = engine.performer.best.latest
    score = EvalMetrics(100.0 if best is None else best.score + 50.0, stderr=1.0, episodes=10)
    weights = {"p": np.array(np.nan)}
    candidate = dataclasses.replace(unit.candidate, state=lambda: weights)
    return dataclasses.replace(unit, candidate=candidate, score=lambda scorer: score)


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


__all__ = ["DAY", "HOUR", "RATES", "Life", "digest", "report"]
