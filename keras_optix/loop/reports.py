"""Reports on a run: rows of its table, scalars for TensorBoard, and a summary at the end."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

from keras_optix.evaluators.evaluation import Evaluation
from keras_optix.evaluators.held_out import PREFIX
from keras_optix.evaluators.log_values import kind_of, numbers_in
from keras_optix.evaluators.scorer import Scorer
from keras_optix.loop.adapter import Adapter
from keras_optix.loop.guard import NonFiniteGuard
from keras_optix.loop.history import LoopHistory
from keras_optix.loop.journal import Journal
from keras_optix.loop.manager import Manager
from keras_optix.loop.performer import Performer
from keras_optix.loop.run_snapshots import RunSnapshots
from keras_optix.loop.state_machine import StateMachine
from keras_optix.records import EvalMetrics
from keras_optix.statistics.estimates import Estimate


class Reported(Protocol):
    """The parts of a run that reports read."""

    adapter: Adapter
    scorer: Scorer
    scheduler: StateMachine
    registry: RunSnapshots
    journal: Journal
    manager: Manager
    performer: Performer
    history: LoopHistory
    guard: NonFiniteGuard
    latest: Evaluation | None
    units: int

    @property
    def seconds(self) -> float:
        """Seconds of the run until now."""
        ...


def add_row(
    run: Reported,
    window_id: int,
    evaluation: Evaluation | None,
    metrics: EvalMetrics,
    hyperparams: Mapping[str, float],
    logs: Mapping[str, Any],
) -> None:
    """Adds a row to the table: the score, the hyperparameters, the logs, and the state of the loop.

    Args:
        run: The run.
        window_id: Number of the window (epoch).
        evaluation: The evaluation; None for an epoch that was not evaluated.
        metrics: The score of the window (epoch).
        hyperparams: Hyperparameters when the score was measured, by name.
        logs: Logs of the window (epoch), by name.
    """
    best, score, shown = run.performer.best.snapshot, metrics.primary_score, run.scorer.evaluator.shown
    nothing = Estimate(math.nan if score is None else score, math.inf, 0)
    estimate = nothing if evaluation is None else evaluation.score
    row = {
        "window": window_id,
        "env_steps": run.journal.env_steps,
        "seconds": run.seconds,
        "state": run.scheduler.loop_state,
        "score": shown(estimate.mean),
        "stderr": estimate.stderr if math.isfinite(estimate.stderr) else math.nan,
        "n": estimate.n,
        "best": math.nan if best is None else shown(best.score),
    }
    run.history.append(row, hyperparams, {**logs, **_held_out(run, metrics)} if evaluation is not None else logs)


def scalars(run: Reported, logs: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, float], dict[str, str]]:
    """Returns the values that TensorBoard shows for a window (epoch).

    Args:
        run: The run.
        logs: Logs of the window (epoch), by name.

    Returns:
        Scalars by tag; the logs that are numbers; and a description of each log that is not a number.
    """
    state, shown, best = run.scheduler.state, run.scorer.evaluator.shown, run.performer.best.snapshot
    values = {
        "loop/interval": state.interval,
        "loop/since_best": float(state.since_best),
        "loop/cusum": state.cusum,
        "loop/recoveries": float(run.guard.recoveries),
        "time/windows": float(run.units),
        "time/evaluation_env_steps": float(run.adapter.evaluation_steps),
    }
    evaluated = run.latest is not None and run.latest.window_id == run.journal.window_id
    if run.latest is not None and evaluated:
        values["loop/score"] = shown(run.latest.score.mean)
        if math.isfinite(run.latest.score.stderr):
            values["loop/stderr"] = run.latest.score.stderr
        sampled = run.performer.evaluations.training.latest
        if sampled is not None and run.performer.evaluations.when_needed:
            values["loop/score_sampled"] = shown(sampled.mean)
        values |= _held_out(run, run.performer.metrics)
    if best is not None:
        values["loop/best"] = shown(best.score)
    if run.manager.evolves:
        values |= _policies(run)
    if run.units == 1 or evaluated:
        # Reading the hyperparameters takes longer than writing everything else.
        values |= {f"hyperparams/{name}": v for name, v in run.adapter.hyperparams.snapshot().items()}
    numbers = numbers_in(logs)
    return values, numbers, {name: kind_of(logs[name]) for name in sorted(logs) if name not in numbers}


def _held_out(run: Reported, metrics: EvalMetrics) -> dict[str, float]:
    """Returns the scores of an evaluation in each of several held-out environments, and the gap to training, by tag."""
    shown, gap = run.scorer.evaluator.shown, run.performer.evaluations.gap.state.latest
    values = {name: shown(score) for name, score in metrics.metrics.items() if name.startswith(PREFIX)}
    return values if gap is None else values | {"loop/gap": gap}


def _policies(run: Reported) -> dict[str, float]:
    values = {
        "policies/change_points": float(run.scheduler.state.regime_index),
        "policies/variants": float(run.performer.variants),
        **run.performer.regimes.scalars(),
    }
    for k, (weight, scores) in enumerate(zip(run.manager.weights, run.manager.scores, strict=True)):
        values[f"policies/weight_{k}"] = weight
        if scores:
            values[f"policies/score_{k}"] = run.scorer.evaluator.shown(sum(scores) / len(scores))
    return values
