"""The line with which a run ends: why it ended, what the best is worth, and whether that is what was wanted."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Protocol

from keras_optix.formatting import format_estimate, format_number
from keras_optix.loop.ending import Ending
from keras_optix.loop.hooks import RunLog
from keras_optix.loop.options import LoopOptions
from keras_optix.loop.reports import Reported
from keras_optix.statistics.estimates import Estimate, compare
from keras_optix.statistics.levels import LIKELY_Z

_FALLEN = 1.0 / 3.0  # of the progress


class Ended(Reported, Protocol):
    """The part of the engine that the line is about."""

    options: LoopOptions
    log: RunLog

    @property
    def target(self) -> float | None:
        """`target_score` as the loop counts scores."""
        ...

    @property
    def threshold(self) -> float | None:
        """Return at which the environment counts as solved."""
        ...


def summary(run: Ended, *, where: bool = True) -> str:
    """Returns one line that says how a run ended.

    Args:
        run: The run.
        where: Whether to name the file of the best snapshot.
    """
    best, steps, name = run.performer.best, run.adapter.step_name, run.adapter.unit_name
    units = name if run.units == 1 else f"{name}s"
    ended = f"{run.scheduler.loop_state.name} after {run.units:,} {units}, {run.journal.env_steps:,} {steps}"
    why = _why(run)
    ended = f"{ended}: {why}" if why else ended
    latest = best.latest
    if latest is None:
        return f"{ended}. No evaluation was made: too few episodes ended, or there was no log to score."
    found = f"{run.performer.shown(latest)} at {latest.env_steps:,} {steps}"
    if best.snapshot is None:
        found = f"No best since the environment changed; before it was {found}"
    else:
        found = "; ".join([f"Best {found}", *_judgements(run)])
    missing = run.log.aids.missing
    missing = f" Not written: {missing}." if missing else ""
    place = f": {run.registry.directory / latest.path}{'.' if missing else ''}" if where else "."
    return f"{ended}. {found}{place}{missing}"


def _why(run: Ended) -> str:
    """Returns why the run ended."""
    ending, options = run.performer.ending, run.options
    if ending is Ending.TARGET and run.target is not None:
        return f"reached {format_number(run.scorer.evaluator.shown(run.target))}"
    limit = {
        Ending.MAX_ENV_STEPS: f"stopped at the limit of {options.max_env_steps or 0:,} {run.adapter.step_name}",
        Ending.MAX_WINDOWS: f"stopped at the limit of {options.max_windows or 0:,} {run.adapter.unit_name}s",
        Ending.STOPPED: "stopped by a call of `stop`",
    }
    return "" if ending is None else limit.get(ending, run.performer.why)


def _judgements(run: Ended) -> Iterator[str]:
    """Yields what is to be said of the best: on how many episodes its score is based, and whether it is good enough."""
    performer = run.performer
    score = run.scheduler.state.best if performer.announced is None else performer.announced
    if score is None or run.adapter.scores_are_deterministic:
        return
    if performer.announced is not None:
        yield f"{score.n} fresh {run.scorer.samples}"
    threshold, first = run.threshold, performer.first_score
    if threshold is not None:
        reached = "reached" if score.mean >= threshold else "not reached"
        yield f"the environment counts as solved at {format_number(threshold)}: {reached}"
    if first is not None and run.latest is not None and _has_fallen(run.latest.score, score, first):
        latest = format_estimate(run.scorer.evaluator.shown(run.latest.score.mean), run.latest.score.stderr)
        yield f"training had degraded since then: its latest evaluation scored {latest}"
    solved = threshold is not None and score.mean >= threshold  # however well the policy did at the beginning
    if first is not None and not solved and not _is_better(score, first, run.scheduler.state.history):
        beginning = format_estimate(run.scorer.evaluator.shown(first.mean), first.stderr)
        yield f"nothing was learned: the best is not better than the policy at the beginning ({beginning})"


def _is_better(score: Estimate, first: Estimate, history: Sequence[float]) -> bool:
    """Returns whether a score is significantly above the first one, or whether that cannot be known."""
    evidence, z = compare(score, first, "", history=history)
    return z > LIKELY_Z or math.isinf(evidence.stderr)


def _has_fallen(latest: Estimate, best: Estimate, first: Estimate) -> bool:
    """Returns whether the latest evaluation lies below the best by a third of the progress, and not by chance."""
    fallen = best.mean - latest.mean > _FALLEN * (best.mean - first.mean) > 0.0
    return fallen and compare(latest, best, "").z < -LIKELY_Z
