"""Under which values weights were trained, and what a resumed run needs of tuning."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from keras_optix.states import Count, Finite, Positive, State
from keras_optix.tuners.schedule import Schedule


class Lineage(State, frozen=True):
    """Under which values some weights were trained.

    Attributes:
        steps: Environment steps (batches) that they were trained on.
        schedule: Which values were set when.
    """

    steps: Count
    schedule: Schedule


class KeptState(State, frozen=True):
    """What is kept of a state that the tuner may go back to, beside its arrays.

    Attributes:
        hyperparams: Tuned values, by name.
        lineage: Under which values it was trained.
    """

    hyperparams: dict[str, Finite]
    lineage: Lineage


class TuningState(State, frozen=True):
    """What a resumed run needs of `Tuning`, beside arrays.

    Attributes:
        tuner: The state of the tuner, which knows of what kind it is; None without one.
        kept: The states that the tuner may go back to, by name.
        promoted: Snapshots by their numbers, with how they were trained.
        lineage: Of the current weights.
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
