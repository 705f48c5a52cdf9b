"""Names for live feeds: feeds, ends of windows, reconnecting, counts, recordings; see `dataset_from_stream`."""

from __future__ import annotations

from keras_optix.experience.live.feed_counts import FeedCounts
from keras_optix.experience.live.feeds import (
    Feed,
    Reconnect,
    StreamStep,
    every_n_seconds,
    every_n_steps,
    on_done,
)
from keras_optix.experience.live.replay import replay_feed

__all__ = [
    "Feed",
    "FeedCounts",
    "Reconnect",
    "StreamStep",
    "every_n_seconds",
    "every_n_steps",
    "on_done",
    "replay_feed",
]
