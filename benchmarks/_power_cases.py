"""The kinds of writes of the package, and what must hold of what a power failure leaves of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from _damage_cases import Number
from gymnasium import spaces

import keras_optix as optix
from keras_optix.errors import ConfigurationError, OptixError
from keras_optix.experience.live.recording import Recorder
from keras_optix.experience.live.replay import replay_feed
from keras_optix.loggers.loop_log import LoopLog
from keras_optix.loggers.tensorboard import TensorBoardLogger
from keras_optix.loop.aids import Aids
from keras_optix.loop.engine import Engine
from keras_optix.loop.options import LoopOptions
from keras_optix.loop.run_snapshots import RunSnapshots
from keras_optix.loop.run_state import read_run
from keras_optix.loop.untrained import Untrained
from keras_optix.records import EvalMetrics, HyperparamSet
from keras_optix.store.files import Arrays, Saved
from keras_optix.store.increments import Span
from keras_optix.store.lease import Lease
from keras_optix.store.processes import remove_left_over
from keras_optix.store.registry import CheckpointRegistry
from keras_optix.store.resume_points import ResumePoint, ResumeStore
from keras_optix.tuners.schedule import Schedule, ScheduleStep

CHECKPOINTS = Path("runs", "checkpoints")  # neither of them is there before the first write
RUN = "20260101-000000-abcd"
_NO_VALUES = HyperparamSet({})

Facts = dict[str, Any]
Say = Callable[..., None]


class Case:
    """A kind of write: plays it, and checks what is left of it."""

    def prepare(self, root: Path) -> None:
        """Writes what is there before, and safe."""

    def play(self, root: Path, say: Say) -> None:
        """Writes, and says what is done: after that, it must not be lost.

        Args:
            root: A folder.
            say: Takes facts by name.
        """
        raise NotImplementedError

    def check(self, root: Path, facts: Facts, pending: Facts) -> Iterator[str]:
        """Reads what is left, and goes on from there; yields what is wrong.

        Args:
            root: The folder after the power failure.
            facts: What had been said.
            pending: What would have been said next: it may have happened.
        """
        raise NotImplementedError


def registry_in(root: Path, kept: int = 10) -> CheckpointRegistry:
    registry = CheckpointRegistry(root / CHECKPOINTS, max_snapshots=kept)
    registry.continue_run(RUN)
    return registry


def save(registry: CheckpointRegistry, value: float) -> Any:
    """Saves a best whose weights are its number."""
    metrics = EvalMetrics(value, {"weights": value})
    return registry.save({"w": np.full(8, value)}, eval_metrics=metrics, hyperparams=_NO_VALUES, promoted=True)


class Weights:
    """An agent that only keeps the weights it is given."""

    def set_state(self, state: Any) -> None:
        """Keeps them."""
        self.state = state

    def set_hyperparams(self, hyperparams: HyperparamSet) -> None:
        """Does nothing."""


def faults_of_registry(root: Path, facts: Facts, pending: Facts, kept: int = 10) -> Iterator[str]:
    """Checks the snapshots: all can be read, the best is the one that was reported, or the one that was being saved."""
    registry = registry_in(root, kept)
    remove_left_over(registry.directory)
    best = registry.best
    found = None if best is None else best.score
    if found not in (facts.get("best"), pending.get("best")):
        yield f"the best is {found}, not {facts.get('best')} (or {pending.get('best')})"
    for snapshot in registry.ranked_snapshots:
        if not np.all(registry.load(snapshot)["w"] == snapshot.eval_metrics.metrics["weights"]):
            yield f"{snapshot.path} has other weights"
    if best is not None:
        registry.load_best(Weights())
        held = [snapshot.snapshot_id for snapshot in registry.held_by("test")]
        if held not in (facts.get("held", []), pending.get("held", [])):
            yield f"{held} are held"
    save(registry, 99.0)  # the run goes on
    again = registry_in(root, kept)
    if again.best is None or again.best.score != 99.0:
        yield "what was saved afterwards is not the best"


class FirstSnapshots(Case):
    """Snapshots saved in a directory that is made for them."""

    def play(self, root: Path, say: Say) -> None:
        """See `Case`."""
        registry = registry_in(root)
        for value in (1.0, 2.0):
            save(registry, value)
            say(best=value)

    def check(self, root: Path, facts: Facts, pending: Facts) -> Iterator[str]:
        """See `Case`."""
        yield from faults_of_registry(root, facts, pending)


class PrunedSnapshots(Case):
    """Snapshots saved while others are removed."""

    def prepare(self, root: Path) -> None:
        """See `Case`."""
        for value in (1.0, 2.0):
            save(registry_in(root, kept=2), value)

    def play(self, root: Path, say: Say) -> None:
        """See `Case`."""
        registry = registry_in(root, kept=2)
        say(best=2.0)
        for value in (3.0, 4.0):
            save(registry, value)
            say(best=value)

    def check(self, root: Path, facts: Facts, pending: Facts) -> Iterator[str]:
        """See `Case`."""
        facts = {"best": 2.0} | facts
        yield from faults_of_registry(root, facts, pending, kept=2)


class Manifests(Case):
    """Snapshots that get another score, and are held and released."""

    def prepare(self, root: Path) -> None:
        """See `Case`."""
        for value in (1.0, 2.0):
            save(registry_in(root), value)

    def play(self, root: Path, say: Say) -> None:
        """See `Case`."""
        registry = registry_in(root)
        best = registry.ranked_snapshots[0]
        registry.rescore(best, EvalMetrics(2.5))
        say(best=2.5)
        registry.hold(best, "test")
        say(held=[2])
        registry.release(best, "test")
        say(held=[])

    def check(self, root: Path, facts: Facts, pending: Facts) -> Iterator[str]:
        """See `Case`."""
        yield from faults_of_registry(root, {"best": 2.0} | facts, {"best": 2.0} | pending)


def found_point(root: Path) -> ResumePoint | None:
    store = ResumeStore(registry_in(root), 0.0)
    runs = store.runs()
    return store.find(runs[0]) if runs else None


def write_point(root: Path, value: int) -> None:
    ResumeStore(registry_in(root), 0.0).write({"w": np.full(8, value)}, {"value": value})


class ResumePoints(Case):
    """Resume points, each of which takes the place of the one before, in a directory that is made for them."""

    points = (1, 2, 3)

    def play(self, root: Path, say: Say) -> None:
        """See `Case`."""
        for value in self.points:
            write_point(root, value)
            say(point=value)

    def check(self, root: Path, facts: Facts, pending: Facts) -> Iterator[str]:
        """See `Case`."""
        point = found_point(root)
        value = None if point is None else point.values["value"]
        if value not in (facts.get("point"), pending.get("point")):
            yield f"the newest resume point is {value}, not {facts.get('point')} (or {pending.get('point')})"
        if point is not None and not np.all(point.arrays["w"] == value):
            yield "the resume point has other arrays"
        write_point(root, 99)
        again = found_point(root)
        if again is None or again.values["value"] != 99:
            yield "what was written afterwards is not the newest"


class FirstResumePoint(ResumePoints):
    """The first resume point of a run, in a directory that is made for it."""

    points = (1,)


class LaterResumePoints(ResumePoints):
    """A resume point where there are two already, of which the older one is removed."""

    points = (3,)

    def prepare(self, root: Path) -> None:
        """See `Case`."""
        for value in (1, 2):
            write_point(root, value)

    def check(self, root: Path, facts: Facts, pending: Facts) -> Iterator[str]:
        """See `Case`."""
        yield from super().check(root, {"point": 2} | facts, pending)


class EndOfRun(LaterResumePoints):
    """The removal of the resume points of a run that has ended."""

    def play(self, root: Path, say: Say) -> None:
        """See `Case`."""
        ResumeStore(registry_in(root), 0.0).clear(lambda folder: False)
        say(point=None)

    def check(self, root: Path, facts: Facts, pending: Facts) -> Iterator[str]:
        """See `Case`."""
        yield from super().check(root, facts, pending)


class Rows:
    """A part of a run that grows by two rows from point to point, and holds those of the latest three points."""

    def __init__(self, point: int) -> None:
        self.point = point
        self.rows = list(range(2 * max(point - 3, 0), 2 * point))

    def save(self) -> Saved:
        """See `Growing`."""
        return {}, {"point": self.point}

    def check(self, arrays: Arrays, values: Any) -> None:
        """See `Growing`."""

    def new_files(self) -> dict[int, Arrays]:
        """See `Growing`."""
        return {self.point - 1: {"rows": np.array(self.rows[-2:])}}

    def confirm(self) -> None:
        """See `Growing`."""

    @property
    def span(self) -> Span:
        """See `Growing`."""
        return Span(max(self.point - 3, 0), self.point)

    def restore(self, files: Iterator[Arrays], span: Span, arrays: Arrays, values: Any) -> None:
        """See `Growing`."""
        self.point, self.rows = values["point"], [int(row) for file in files for row in file["rows"]]


class GrowingResumePoints(Case):
    """Resume points of a run with a replay buffer, whose rows are in files that are removed later."""

    def prepare(self, root: Path) -> None:
        """See `Case`."""
        store = ResumeStore(registry_in(root), 0.0)
        for value in (1, 2, 3):
            store.write({}, {"value": value}, {"rows0": Rows(value)})

    def play(self, root: Path, say: Say) -> None:
        """See `Case`."""
        store = ResumeStore(registry_in(root), 0.0)
        store.find(store.runs()[0])
        for value in (4, 5):
            store.write({}, {"value": value}, {"rows0": Rows(value)})
            say(point=value)

    def check(self, root: Path, facts: Facts, pending: Facts) -> Iterator[str]:
        """See `Case`."""
        point = found_point(root)
        before = facts.get("point", 3)
        if point is None or point.values["value"] not in (before, pending.get("point")):
            yield f"the newest resume point is not {before} (or {pending.get('point')})"
            return
        value, part = point.values["value"], Rows(0)
        point.restore_growing({"rows0": part})
        if part.rows != Rows(value).rows:
            yield f"the rows of point {value} are {part.rows}"
        store = ResumeStore(registry_in(root), 0.0)
        store.find(store.runs()[0])
        store.write({}, {"value": value + 1}, {"rows0": Rows(value + 1)})
        again = found_point(root)
        if again is None or again.values["value"] != value + 1:
            yield "what was written afterwards is not the newest"


class InitialWeights(Case):
    """The initial weights of a run."""

    def play(self, root: Path, say: Say) -> None:
        """See `Case`."""
        self._of(root).keep({"w": np.full(8, 1.0)})
        say(written=True)

    def check(self, root: Path, facts: Facts, pending: Facts) -> Iterator[str]:
        """See `Case`."""
        if facts.get("written"):
            if self._of(root).read({"w": np.full(8, 0.0)})["w"][0] != 1.0:
                yield "the initial weights are lost"
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it says that the weights that are there stay
                if self._of(root).read({"w": np.full(8, 0.0)})["w"][0] not in (0.0, 1.0):
                    yield "the initial weights are others"
        yield from faults_of_registry(root, facts, pending)

    def _of(self, root: Path) -> Untrained:
        aids = Aids()
        return Untrained(RunSnapshots(registry_in(root), aids), aids)


class Schedules(Case):
    """A schedule that takes the place of another."""

    def prepare(self, root: Path) -> None:
        """See `Case`."""
        Schedule({"a": 0.0}, ()).save(root / "schedule.json")

    def play(self, root: Path, say: Say) -> None:
        """See `Case`."""
        Schedule({"a": 1.0}, (ScheduleStep(10, {"a": 2.0}, "probe", False),)).save(root / "schedule.json")
        say(start=1.0)

    def check(self, root: Path, facts: Facts, pending: Facts) -> Iterator[str]:
        """See `Case`."""
        found = Schedule.load(root / "schedule.json").start["a"]
        if found not in (facts.get("start", 0.0), pending.get("start", 0.0)):
            yield f"the schedule is that of {found}"


class Leases(Case):
    """The lease on a run: a lock is no matter of the disk, so after a power failure it is always free."""

    def play(self, root: Path, say: Say) -> None:
        """See `Case`."""
        lease = Lease(root / CHECKPOINTS / RUN)
        lease.take()
        say()
        lease.release()

    def check(self, root: Path, facts: Facts, pending: Facts) -> Iterator[str]:
        """See `Case`."""
        lease = Lease(root / CHECKPOINTS / RUN)
        _ = str(lease.holder())
        if lease.is_taken or not lease.take():
            yield "the lease is taken"
        lease.release()


class Recordings(Case):
    """A recording of a live feed, which promises nothing beyond a kill: a part of it may be left, and is replayed."""

    _items = 6

    def play(self, root: Path, say: Say) -> None:
        """See `Case`."""
        recorder = Recorder(root / "live" / "one.rec", spaces.Box(-1.0, 1.0, (2,)), spaces.Discrete(3))
        for k in range(self._items):
            row = [np.full(2, k / 10.0, np.float32)]
            recorder.observation(row, float(k), False, False, {"k": k}, first=k == 0, time=recorder._began + k)
            recorder.action(np.array(k % 3), -0.5, k)
            if k % 3 == 2:
                recorder.flush()
        recorder.close()

    def check(self, root: Path, facts: Facts, pending: Facts) -> Iterator[str]:
        """See `Case`."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it says that only a part is replayed
            try:
                items = list(replay_feed(root / "live" / "one.rec", actions="agent").stream())
            except ConfigurationError:  # nothing is left, or not even the first item
                return
        if [item[1] for item in items] != [float(k) for k in range(len(items))]:
            yield "other items are replayed"


class EventLogs(Case):
    """The event files for TensorBoard, which promise nothing either: a part may be left, and a resumed run goes on."""

    def play(self, root: Path, say: Say) -> None:
        """See `Case`."""
        logger = TensorBoardLogger(root / "logs")
        logger.open(None)
        logger.hparams({"a": 1.0}, ["score"], ["a"])
        logger.scalars(1, {"score": 1.0})
        logger.text(1, "events", "one")
        logger.scalars(2, {"score": 2.0})
        logger.close("success")

    def check(self, root: Path, facts: Facts, pending: Facts) -> Iterator[str]:
        """See `Case`."""
        logger = TensorBoardLogger(root / "logs")
        logger.open(1)
        logger.hparams({"a": 1.0}, ["score"], ["a"])
        logger.scalars(2, {"score": 3.0})
        logger.close("success")
        scalars, hparams = self._read(root / "logs")
        if scalars.get(2) != 3.0 or scalars.get(1, 1.0) != 1.0:
            yield f"TensorBoard shows {scalars}"
        if not hparams:
            yield "the run is no row of the HParams tab"

    def _read(self, folder: Path) -> tuple[dict[int, float], bool]:
        """Returns the scores by step, and whether there is a row of hyperparameters, as TensorBoard reads them."""
        from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
        from tensorboard.plugins.hparams import metadata

        scores: dict[int, float] = {}
        started = False
        for path in sorted(folder.glob("*tfevents*")):
            for event in EventFileLoader(str(path)).Load():
                for value in event.summary.value:
                    if value.tag == "score":
                        scores[event.step] = float(value.tensor.float_val[0] if value.tensor.float_val else np.nan)
                    started |= value.tag == metadata.SESSION_START_INFO_TAG
        return scores, started


class Run(Case):
    """A run of the loop with a tuner and resume points, which is told to end (SIGTERM) after some epochs."""

    epochs = 4

    def engine(self, root: Path) -> Engine:
        """Returns a new engine that trains a number."""
        return Engine(
            Number(),
            optix.MonitorEvaluator("loss"),
            optix.BackoffScheduler(),
            optix.BackoffOptimizer({"learning_rate": (1e-3, 1.0)}),
            CheckpointRegistry(root / CHECKPOINTS, max_snapshots=2),
            LoopOptions(when_dormant="stop"),
            (),
            LoopLog((), 0),
        )

    def play(self, root: Path, say: Say) -> None:
        """See `Case`."""
        from keras_optix.callbacks.resuming import Resuming
        from keras_optix.callbacks.termination import TerminatedError

        engine = self.engine(root)
        registry = engine.registry._registry
        resuming = Resuming(registry, 0.0, resume=True)
        resuming.begin(engine)
        say(run=registry.run_id)
        for number in range(1, self.epochs + 1):
            engine.take(engine.adapter.unit(number))  # type: ignore[attr-defined]
            say(best=None if registry.best is None else registry.best.score)
            if number < self.epochs:
                resuming.after_unit(engine)
            else:
                engine.write_schedule()
                resuming.failed(engine, TerminatedError(between_steps=True))
            say(units=number)
        resuming.release()

    def check(self, root: Path, facts: Facts, pending: Facts) -> Iterator[str]:
        """See `Case`."""
        registry = CheckpointRegistry(root / CHECKPOINTS, max_snapshots=2)
        if "run" in facts:
            registry.continue_run(facts["run"])
        remove_left_over(registry.directory)
        scores = [snapshot.score for snapshot in registry.ranked_snapshots]
        least, most = facts.get("best") or 0.0, pending.get("best") or 0.0
        if scores and max(scores) != scores[0]:
            yield "the best is not the highest"
        if not least <= max(scores, default=0.0) <= most:
            yield f"the best is {max(scores, default=0.0)}, not from {least} to {most}"
        for snapshot in registry.ranked_snapshots:
            registry.load(snapshot)
        store = ResumeStore(registry, 0.0)
        runs = store.runs()
        if not runs:
            if "units" in facts:
                yield "the resume points are lost"
            return
        point, engine = store.find(runs[0]), self.engine(root)
        engine.registry._registry.continue_run(point.run_id)
        reading = engine.read(point.arrays, read_run(point.values, point.fix))
        engine.resume(point.arrays, reading, weights=True)
        if engine.units not in (facts.get("units", 0), pending.get("units", 0)):
            yield f"the resume point is that of epoch {engine.units}, not {facts.get('units', 0)}"
        engine.take(engine.adapter.unit(engine.units + 1))  # type: ignore[attr-defined]


CASES: dict[str, Callable[[], Case]] = {
    "first snapshots": FirstSnapshots,
    "snapshots, others pruned": PrunedSnapshots,
    "manifest: rescore, hold, release": Manifests,
    "first resume point": FirstResumePoint,
    "three resume points": ResumePoints,
    "later resume point": LaterResumePoints,
    "end of a run": EndOfRun,
    "resume points with replay": GrowingResumePoints,
    "initial weights": InitialWeights,
    "schedule": Schedules,
    "lease": Leases,
    "recording": Recordings,
    "event log": EventLogs,
    "run, SIGTERM": Run,
}


def faults(case: Case, root: Path, facts: Facts, pending: Facts) -> list[str]:
    """Returns what is wrong with what a power failure left; a warning or an error that no reader expects is, too."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return list(case.check(root, facts, pending))
        except UserWarning as warning:
            return [f"warns: {warning}"]
        except OptixError as error:
            return [f"{type(error).__name__}: {error}"]
        except Exception as error:
            return [f"{type(error).__name__}!: {error}"]
