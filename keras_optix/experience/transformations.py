"""What may be done to a dataset of windows: what keeps them fresh and in their order; the rest is refused at once."""

from __future__ import annotations

import functools
import weakref
from typing import Any, NoReturn, Protocol, runtime_checkable

from keras_optix.errors import ConfigurationError, StateError, describe
from keras_optix.experience.source import WindowSource

_SOURCE = "_keras_optix_source"  # attributes of a dataset
_ENDLESS = "_keras_optix_endless"

_STALE = "the windows in its buffer would have been collected by older weights"
_SHAPE = "a window [T, N, ...] is learned from as a whole"
_AGAIN = "it would keep the windows that are collected first, and learn from them again and again"
_SIZES = "Choose its size with `window_size` and `num_envs` of dataset_from_env."
_ALONE = "Leave it out."
_ONE = "windows belong to one agent, and come from one place"
# Why a transformation would be harmful, and what to do.
_REFUSED = {
    "cache": (_AGAIN, _ALONE),
    "snapshot": (_AGAIN, _ALONE),
    "save": (
        "it would collect windows without end",
        "Take some first and keep their arrays, or record a live feed: dataset_from_stream(..., record=path).",
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
    "shard": ("windows are one after the other, each with newer weights", _ALONE),
    "interleave": ("it collects windows ahead", _ALONE),
    "flat_map": ("a window is one element", _ALONE),
    "ignore_errors": ("an environment that fails would be stepped on", "Let the environment handle what it expects."),
    "reduce": ("it would never return", "Take some windows first: dataset.take(n).reduce(...)."),
}
# What gives a marked dataset; any other that TensorFlow has is neither refused nor marked, such as `enumerate`.
_CARRIED = ("apply", "filter", "map", "repeat", "skip", "take", "take_while", "with_options")
_ENDING = ("take", "take_while")
_counting: dict[type[Any], type[Any]] = {}  # by the class of a dataset, the same with `feed_counts`


@runtime_checkable
class CountingSource(Protocol):
    """A source that counts what became of all that it was given: a live feed."""

    @property
    def counts(self) -> Any:
        """The counts as they are now."""
        ...


def marked(dataset: Any, source: WindowSource, *, endless: bool) -> Any:
    """Marks a dataset with the source of its windows, as transformations of it are that keep windows as they come.

    Args:
        dataset: A `tf.data.Dataset`.
        source: Where its windows come from. It is not kept alive: the agent does that.
        endless: Whether it has no end.

    Returns:
        The dataset. Its transformations that would harm raise a `ConfigurationError`. One of a live feed has
        `feed_counts`, the counts of the feed as they are when it is read.
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
    """A class of datasets with `feed_counts`: what is read anew each time can only belong to a class."""
    if hasattr(kind, "feed_counts"):
        return kind
    if kind not in _counting:
        made = {"__module__": kind.__module__, "feed_counts": property(_feed_counts)}
        _counting[kind] = type(kind.__name__, (kind,), made)
    return _counting[kind]


def _feed_counts(dataset: Any) -> Any:
    """What became of everything that the feed gave; a `FeedCounts`."""
    source: Any = source_of(dataset)
    if source is None:
        raise StateError(
            "The agent of this dataset is gone: it was deleted, and its feed was closed. Keep a reference to the agent "
            "for as long as the dataset is used."
        )
    return source.counts


def source_of(dataset: Any) -> WindowSource | None:
    """Where the windows of a dataset come from; None of one that was not made here."""
    source: weakref.ref[WindowSource] | None = getattr(dataset, _SOURCE, None)
    return None if source is None else source()


def is_endless(dataset: Any) -> bool:
    """Whether a dataset was made here and has no end."""
    return bool(getattr(dataset, _ENDLESS, False))


def _refuse(name: str, *args: Any, **kwargs: Any) -> NoReturn:
    reason, fix = _REFUSED[name]
    raise ConfigurationError(describe(f"A dataset of windows has no use for `.{name}(...)`: {reason}.", fix=fix))


def _carry(dataset: Any, name: str, *args: Any, **kwargs: Any) -> Any:
    """Transforms a dataset and marks the result."""
    if name == "map" and (kwargs.get("num_parallel_calls") is not None or len(args) > 1):
        raise ConfigurationError(
            describe(
                "Windows come one after the other; a parallel map would collect some ahead, with older weights.",
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
