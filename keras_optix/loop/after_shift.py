"""What is kept when the environment has changed."""

from __future__ import annotations

from dataclasses import dataclass

from keras_optix.arguments import NamesChecked
from keras_optix.validation import check_float


@dataclass(frozen=True)
class AfterShift(NamesChecked):
    """What an agent keeps of its past after a detected shift; see `Agent.after_shift`.

    A running mean over `n` observations moves by one part in `n` with each new one: after a long run it takes as long
    again until a new regime counts for half. Forgetting scales `n`; mean and variance stay, so that what the networks
    see does not jump.

    Args:
        statistics: Share of the count of the running statistics (of observations and of rewards) that is kept, in
            [0, 1]. With `s`, a new regime counts for half after `s` times the data seen before. Defaults to 0.1: ten
            times as fast, while the old statistics still outweigh the first windows, which say little. 1 keeps all;
            with 0 the next window replaces them.
        replay: Share of the replay data that is kept, the newest, in [0, 1]; only for agents that keep such data. None
            (the default) leaves that to the agent.

    Raises:
        ConfigurationError: A share is not a number in [0, 1].
    """

    statistics: float = 0.1
    replay: float | None = None

    def __post_init__(self) -> None:
        check_float("statistics", self.statistics, low=0.0, high=1.0)
        if self.replay is not None:
            check_float("replay", self.replay, low=0.0, high=1.0)
