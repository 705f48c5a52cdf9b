"""Allows only transformations of a dataset of windows that keep the windows fresh and in order, and refuses others."""

from __future__ import annotations

import functools
import weakref
from typing import Any, NoReturn, Protocol, runtime_checkable

from keras_optix.errors import ConfigurationError, StateError, describe
from keras_optix.experience.source import WindowSource

_SOURCE = "_keras_optix_source"  # attributes of a dataset
_ENDLESS = "_keras_optix_endless"
_AS_MADE = "_keras_optix_as_made"

_STALE = "the windows in its buffer would have been collected by older weights"
_SHAPE = "the agent learns from a window [T, N, ...] as a whole"
_AGAIN = "it would keep the windows that are collected first, and the agent would learn from them again and again"
_SIZES = "Choose the size of windows with `window_size` and `num_envs` of dataset_from_env."
_ALONE = "Leave it out."
_ONE = "all windows of a dataset come from one source and belong to one agent"
# For each refused transformation: why it would be harmful, and what to do instead.
_REFUSED = {
    "cache": (_AGAIN, _ALONE),
    "snapshot": (_AGAIN, _ALONE),
    "save": (
        "it would collect windows without end",
        "Take some windows first and save their arrays, or record a live feed: dataset_from_stream(..., record=path).",
    ),
    "shuffle": (_STALE, "Leave it out; PPOAgent shuffles the transitions of each window itself."),
    "prefetch": (_STALE, "Leave it out, or collect one window ahead: dataset_from_env(..., prefetch=1)."),
    "batch": (_SHAPE, _SIZES),
    "padded_batch": (_SHAPE, _SIZES),
    "ragged_batch": (_SHAPE, _SIZES),
    "sparse_batch": (_SHAPE, _SIZES),
    "rebatch": (_SHAPE, _SIZES),
    "unbatch": (_SHAPE, _SIZES),
    "window": (_SHAPE, _SIZES),
    "bucket_by_sequence_length": (_SHAPE, _SIZES),
    "group_by_window": (_SHAPE, _SIZES),
    "concatenate": (_ONE, "Call `fit` once with each dataset."),
    "zip": (_ONE, "Call `fit` once with each dataset."),
    "shard": ("windows are collected one after the other, each with newer weights", _ALONE),
    "interleave": ("it would collect windows ahead, with older weights", _ALONE),
    "flat_map": ("a window must stay one element", _ALONE),
    "ignore_errors": (
        "an environment that failed would be stepped again",
        "Handle expected errors inside the environment.",
    ),
    "reduce": ("it would never return", "Take some windows first: dataset.take(n).reduce(...)."),
}
# Transformations whose result is marked, too. All others, such as `enumerate`, are neither refused nor marked.
_CARRIED = ("apply", "filter", "map", "repeat", "skip", "take", "take_while", "with_options")
_ENDING = ("take", "take_while")
_counting: dict[type[Any], type[Any]] = {}  # for each class of datasets, its subclass with `feed_counts`


@runtime_checkable
class CountingSource(Protocol):
    """A source with counts of the items that it was given, as a live feed has."""

    @property
    def counts(self) -> Any:
        """The present counts."""
        ...


def marked(dataset: Any, source: WindowSource, *, endless: bool) -> Any:
    """Marks a dataset with the source of its windows; results of allowed transformations are marked in the same way.

    Args:
        dataset: A `tf.data.Dataset`.
        source: The source of its windows. The dataset does not keep it alive; the agent does.
        endless: Whether the dataset has no end.

    Returns:
        The dataset. Its harmful transformations raise a `ConfigurationError`. A dataset of a live feed has the
        attribute `feed_counts`, the counts of the feed at the time when it is read.
    """
    if isinstance(source, CountingSource):
        dataset.__class__ = _with_counts(type(dataset))
    setattr(dataset, _SOURCE, weakref.ref(source))
    setattr(dataset, _ENDLESS, endless)
    for name in _REFUSED:
        if hasattr(dataset, name) and (endless or name not in ("reduce", "save")):
            setattr(dataset, name, functools.partial(_refuse, name))
    for name in _CARRIED:
        setattr(dataset, name, functools.partial(_carry, dataset, name))
    return dataset


def _with_counts(kind: type[Any]) -> type[Any]:
    """Returns a subclass with the property `feed_counts`, because properties can only belong to a class."""
    if hasattr(kind, "feed_counts"):
        return kind
    if kind not in _counting:
        made = {"__module__": kind.__module__, "feed_counts": property(_feed_counts)}
        _counting[kind] = type(kind.__name__, (kind,), made)
    return _counting[kind]


def _feed_counts(dataset: Any) -> Any:
    """The present counts of the feed's items, a `FeedCounts`."""
    source: Any = source_of(dataset)
    if source is None:
        raise StateError(
            "The agent of this dataset is gone: it was deleted, and its feed was closed. Keep a reference to the agent "
            "for as long as the dataset is used."
        )
    return source.counts


def source_of(dataset: Any) -> WindowSource | None:
    """Returns the source of the windows of a dataset, or None if the dataset was not made by this package."""
    source: weakref.ref[WindowSource] | None = getattr(dataset, _SOURCE, None)
    return None if source is None else source()


def note_as_made(dataset: Any) -> Any:
    """Marks a dataset whose elements are those of its source, without any transformation; returns the dataset."""
    setattr(dataset, _AS_MADE, True)
    return dataset


def is_as_made(dataset: Any) -> bool:
    """Returns whether the elements of a dataset are those of its source, one after the other without end."""
    return bool(getattr(dataset, _AS_MADE, False))


def is_endless(dataset: Any) -> bool:
    """Returns whether a dataset was made by this package and has no end."""
    return bool(getattr(dataset, _ENDLESS, False))


def _refuse(name: str, *args: Any, **kwargs: Any) -> NoReturn:
    reason, fix = _REFUSED[name]
    raise ConfigurationError(describe(f"A dataset of windows cannot be used with `.{name}(...)`: {reason}.", fix=fix))


def _carry(dataset: Any, name: str, *args: Any, **kwargs: Any) -> Any:
    """Transforms a dataset and marks the result."""
    if name == "map" and (kwargs.get("num_parallel_calls") is not None or len(args) > 1):
        raise ConfigurationError(
            describe(
                "A parallel `map` would collect windows ahead, with older weights.",
                fix="Leave `num_parallel_calls` out.",
                num_parallel_calls=kwargs.get("num_parallel_calls", args[1] if len(args) > 1 else None),
            )
        )
    transformed = getattr(type(dataset), name)(dataset, *args, **kwargs)
    source = source_of(dataset)
    if source is None or source_of(transformed) is not None:
        return transformed
    endless = is_endless(dataset) and name not in _ENDING
    if name == "repeat":
        endless |= (args[0] if args else kwargs.get("count")) in (None, -1)
    return marked(transformed, source, endless=endless)
