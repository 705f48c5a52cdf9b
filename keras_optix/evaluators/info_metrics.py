"""Metrics that environments report in the info of an episode's last step, such as a profit or a Sharpe ratio."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from keras_optix.errors import ArgumentError, ConfigurationError, describe
from keras_optix.evaluators.played import PlayedEpisode
from keras_optix.kinds import family_of, is_function, shown, with_kind
from keras_optix.records import EpisodeRecord
from keras_optix.validation import check_name, refuse_kind

InfoMetric = str | Callable[[Mapping[str, Any]], float]

_WANTED = "a key of the info dict, or a function of it that returns a number"
_MISSING = "The info of an episode's last step has no such key."
_FIX = "Keys are: {keys}. Give one of them as `metric`, or a function of the info dict."


def check_metric(metric: Any) -> InfoMetric | None:
    """Returns `metric` if it is a key, a function, or None.

    Raises:
        ArgumentError: It is something else.
        ConfigurationError: The key is empty.
    """
    if metric is None or is_function(metric):
        checked: InfoMetric | None = metric
        return checked
    if isinstance(metric, str):
        return check_name("metric", metric, _WANTED)
    if callable(metric) and not isinstance(metric, type) and not family_of(type(metric)):
        called: InfoMetric = metric
        return called
    refuse_kind("metric", metric, _WANTED, fix='For example metric="profit".')
    return None


def metric_values(metric: InfoMetric, episodes: Sequence[EpisodeRecord]) -> list[float]:
    """Returns the metric of each episode.

    Args:
        metric: A key of the info dict of an episode's last step, or a function of this dict.
        episodes: The episodes, with their infos.

    Raises:
        ConfigurationError: An info has no such key, or the value is not a finite number.
        ArgumentError: The value is not a number.
    """
    return [_value(metric, episode.info if isinstance(episode, PlayedEpisode) else {}) for episode in episodes]


def _value(metric: InfoMetric, info: Mapping[str, Any]) -> float:
    if isinstance(metric, str):
        if metric not in info:
            keys = ", ".join(sorted(map(repr, info))) or "none"
            raise ConfigurationError(describe(_MISSING, fix=_FIX.format(keys=keys), metric=metric))
        value, said = info[metric], f"info[{metric!r}] of an episode's last step"
    else:
        value, said = metric(info), f"The function {shown(metric).removeprefix('the function ')}"
    one = np.asarray(value) if isinstance(value, np.ndarray | np.generic) else None
    if one is not None and one.size == 1 and one.dtype.kind in "biuf":
        value = one.reshape(()).item()
    if not isinstance(value, numbers.Real):
        raise ArgumentError(f"{said} must be a number. Received: metric={with_kind(value)}.")
    if not math.isfinite(value):
        problem = f"{said} must be a finite number."
        raise ConfigurationError(describe(problem, fix="Give a function that handles such values.", metric=value))
    return float(value)
