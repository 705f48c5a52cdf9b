"""The page of TensorBoard that answers at a glance how training goes: what its tab "Custom Scalars" shows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.custom_scalar import layout_pb2, metadata
from tensorboard.util import tensor_util

from keras_optix.loggers.base import HParam

LOW, HIGH = "loop/score_low", "loop/score_high"
_SURE = 1.96  # standard errors on either side: a 95 % interval
_RETURN = "rollout/episode_return"  # the scalar that only agents have


def interval(values: Mapping[str, float]) -> dict[str, float]:
    """Returns the ends of the 95 % interval of a score by tag; without a standard error, the score itself.

    TensorBoard draws an interval only if each point of the score has both ends.

    Args:
        values: Scalars by tag.
    """
    score = values.get("loop/score")
    if score is None:
        return {}
    radius = _SURE * values.get("loop/stderr", 0.0)
    radius = radius if np.isfinite(radius) else 0.0
    return {LOW: score - radius, HIGH: score + radius}


def layout(hyperparams: Mapping[str, HParam], metrics: Sequence[str], first: Sequence[str] = ()) -> Summary:
    """Returns the summary that tells TensorBoard of the page.

    Args:
        hyperparams: The hyperparameters with which a run starts, by name; each that is a number has a chart.
        metrics: The tags that summarise the run, which tell an agent from an ordinary model.
        first: Names of the hyperparameters whose charts come first.
    """
    agent = _RETURN in metrics
    margin = layout_pb2.MarginChartContent.Series(value="loop/score", lower=LOW, upper=HIGH)
    training = [
        layout_pb2.Chart(title="Score with its 95 % interval", margin=layout_pb2.MarginChartContent(series=[margin])),
        _lines("Score, best" + (" and return of training" if agent else ""), ["loop/score", "loop/best", _RETURN]),
        _lines("State (0 ACTIVE to 3 WATCHDOG), regime", ["loop/state", "policies/regime"]),
    ]
    if agent:
        details = [
            _lines("Length of the episodes", ["rollout/episode_length"]),
            _matching("Losses", r"train/.*loss"),
            _lines("Evidence of a degradation, in standard errors", ["loop/cusum"]),
            _lines("Env steps per second", ["time/env_steps_per_second"]),
        ]
    else:
        details = [_matching("Losses", r"epoch/(val_)?loss$"), _matching("Other logs", r"epoch/(?!(val_)?loss$)")]
    numbers = [name for name, value in hyperparams.items() if not isinstance(value, bool | str)]
    tuned = [_lines(name, [f"hyperparams/{name}"]) for name in sorted(numbers, key=lambda name: name not in first)]
    categories = [
        layout_pb2.Category(title="How training goes", chart=training),
        layout_pb2.Category(title="Hyperparameters", chart=tuned),
        layout_pb2.Category(title="Details", chart=details, closed=True),
    ]
    page = layout_pb2.Layout(category=[category for category in categories if category.chart])
    summary = Summary()
    summary.value.add(
        tag=metadata.CONFIG_SUMMARY_TAG,
        metadata=metadata.create_summary_metadata(),
        tensor=tensor_util.make_tensor_proto(page.SerializeToString(), dtype=np.object_),
    )
    return summary


def _lines(title: str, tags: Iterable[str]) -> layout_pb2.Chart:
    content = layout_pb2.MultilineChartContent(tag=[f"{re.escape(tag)}$" for tag in tags])
    return layout_pb2.Chart(title=title, multiline=content)


def _matching(title: str, pattern: str) -> layout_pb2.Chart:
    return layout_pb2.Chart(title=title, multiline=layout_pb2.MultilineChartContent(tag=[pattern]))
