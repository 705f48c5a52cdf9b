"""The reasons why a run ends."""

from __future__ import annotations

import enum


class Ending(enum.StrEnum):
    """Why the loop ended a run.

    Attributes:
        TARGET: The best policy reached `target_score`.
        PLATEAU: Nothing better was found for as long as the scheduler's patience.
        FUTILE: The scores show that what patience could still bring is less than the margin of an improvement.
        UNSTABLE: Scores fell from the same best again and again.
        MAX_ENV_STEPS: The run has reached `max_env_steps`.
        MAX_WINDOWS: The run has reached `max_windows`.
        STOPPED: `OptixCallback.stop` was called.
    """

    TARGET = "target"
    PLATEAU = "plateau"
    FUTILE = "futile"
    UNSTABLE = "unstable"
    MAX_ENV_STEPS = "max_env_steps"
    MAX_WINDOWS = "max_windows"
    STOPPED = "stopped"


DORMANT_ENDINGS = (Ending.PLATEAU, Ending.FUTILE, Ending.UNSTABLE)  # those of a loop that became DORMANT
