"""States of tuning: the hyperparameters under which weights were trained, and everything that a resumed run needs."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from keras_optix.states import Count, Finite, Positive, State
from keras_optix.tuners.schedule import Schedule


class Lineage(State, frozen=True):
    """The hyperparameters under which some weights were trained.

    Attributes:
        steps: Environment steps (batches) on which the weights were trained.
        schedule: The values, and when each was set.
    """

    steps: Count
    schedule: Schedule


class KeptState(State, frozen=True):
    """A stored state to which the tuner may return, without its arrays.

    Attributes:
        hyperparams: Tuned values, by name.
        lineage: The hyperparameters under which its weights were trained.
    """

    hyperparams: dict[str, Finite]
    lineage: Lineage


class TuningState(State, frozen=True):
    """The state of `Tuning` in a run, without arrays.

    Attributes:
        tuner: The state of the tuner, of a type that the tuner defines; None without a tuner.
        kept: The stored states to which the tuner may return, by name.
        promoted: Pairs of the number of a snapshot and its lineage.
        lineage: Lineage of the current weights.
        permanent: Values that were meant to stay, by name.
        steps_before: Steps of the lineage before the latest unit.
        window_id: Number of the latest window (epoch); -1 before the first.
    """

    tuner: Any
    kept: dict[str, KeptState]
    promoted: tuple[tuple[Positive, Lineage], ...]
    lineage: Lineage
    permanent: dict[str, Finite]
    steps_before: Count
    window_id: Annotated[int, msgspec.Meta(ge=-1)]
