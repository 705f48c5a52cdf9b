"""Configures what an agent keeps when the environment has changed."""

from __future__ import annotations

from dataclasses import dataclass

from keras_optix.arguments import NamesChecked
from keras_optix.validation import check_float


@dataclass(frozen=True)
class AfterShift(NamesChecked):
    """Says how much of its past an agent keeps after a detected change point; see `Agent.after_shift`.

    A running mean over `n` observations moves by one part in `n` with each new one. So after a long run, it takes as
    long again until the data of a new regime has half of the weight. Forgetting reduces `n`. The mean and the variance
    stay, so that the inputs of the networks do not jump.

    Args:
        statistics: Share of the count of the running statistics (of observations and of rewards) that is kept, in
            [0, 1]. With `s`, a new regime has half of the weight after `s` times the data seen before. Defaults to 0.1:
            ten times as fast, while the old statistics still outweigh the first few windows. 1 keeps the whole count;
            with 0 the next window replaces the statistics.
        replay: Share of the transitions in the replay buffer that is kept, the newest, in [0, 1]. Only for agents with
            a replay buffer, such as `DQNAgent` (all `OffPolicyAgent`s, and ensembles with such members, each of which
            keeps this share of its own buffer), and for agents of your own that override `Agent.forget_replay`. With 1
            or None (the default) the whole buffer stays, and transitions of the old regime are drawn until new ones
            have overwritten them.
        exploration: Share of the exploration so far that still counts, in [0, 1]. Only for agents whose exploration
            ends after a number of env steps, such as `DQNAgent` and `PQNAgent`: with 0, epsilon falls again from its
            first value, and with 0.5 from the value half-way. With 1 or None (the default) it stays as low as it is.

    Raises:
        ConfigurationError: A share is not a number in [0, 1].

    Examples:
        >>> manager = optix.PolicyManager(after_shift=optix.AfterShift(statistics=0.0))  # forget all
        >>> optix.AfterShift(replay=0.1).replay  # keep the newest tenth of a replay buffer
        0.1
    """

    statistics: float = 0.1
    replay: float | None = None
    exploration: float | None = None

    def __post_init__(self) -> None:
        check_float("statistics", self.statistics, low=0.0, high=1.0)
        for name, share in (("replay", self.replay), ("exploration", self.exploration)):
            if share is not None:
                check_float(name, share, low=0.0, high=1.0)

    @property
    def for_restored(self) -> AfterShift:
        """What is kept once more if weights were restored after the change point: their statistics came with them.

        Replay data and exploration belong to the run and have been reduced already.
        """
        return AfterShift(self.statistics)
