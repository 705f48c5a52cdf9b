"""The counts of a live feed: what arrived, and what happened to it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FeedCounts:
    """Counts the items of a feed and what happened to them.

    `observations` is the sum of `starts`, `steps` and those of `invalid` that were left out. `steps` is the sum of
    `delivered`, `dropped` and `waiting`.

    Attributes:
        observations: Items that arrived.
        starts: Items that no action led to: the first of an episode or of a connection.
        steps: Items that completed an environment step.
        delivered: Steps that were delivered to the learner.
        dropped: Steps that were dropped, because the learner was busy.
        waiting: Steps that are still to be delivered.
        unanswered: Actions whose reward and next observation never arrived (the connection was lost), or were not
            finite.
        late: Actions that were sent later than the deadline.
        disconnects: Connections that were lost.
        flaps: Those of `disconnects` in which a connection broke before it was stable, see `Reconnect`, so that the
            delay before the next try grew.
        reconnects: Connections after the first one.
        invalid: Items in which something was not finite, if such items are dropped. An item that ended an episode, with
            a finite reward, still completed a step.
        stepless: Items that ended an episode in which no action had been taken, so that they completed no step.

    Examples:
        >>> feed, agent = optix.testing.CountingFeed(), optix.PPOAgent()
        >>> dataset = optix.dataset_from_stream(feed, agent, boundary=optix.live.every_n_steps(4))
        >>> dataset.feed_counts.dropped
        0
    """

    observations: int = 0
    starts: int = 0
    steps: int = 0
    delivered: int = 0
    dropped: int = 0
    waiting: int = 0
    unanswered: int = 0
    late: int = 0
    disconnects: int = 0
    reconnects: int = 0
    invalid: int = 0
    flaps: int = 0
    stepless: int = 0
