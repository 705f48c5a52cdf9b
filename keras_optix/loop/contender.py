"""Weights of which it is not decided yet whether they are better than the best."""

from __future__ import annotations

from keras_optix.states import State
from keras_optix.statistics.estimates import Estimate
from keras_optix.statistics.sequential import SequentialState
from keras_optix.store.manifest import PolicySnapshot


class Contender(State, frozen=True):
    """A candidate whose comparison with the best ended undecided, because it had used up what it may cost.

    It is compared again, with further episodes, after later evaluations and before the loop becomes DORMANT.

    Attributes:
        snapshot: Its weights, which are kept on disk and are no best.
        fresh: Its score in all episodes that it played after the evaluation that made it a candidate.
        test: The state of the sequential test. A new test begins if this one has ended undecided.
    """

    snapshot: PolicySnapshot
    fresh: Estimate
    test: SequentialState
