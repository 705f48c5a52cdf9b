"""The protocol of policy managers, and a manager that does nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from keras_optix.loop.after_shift import AfterShift
from keras_optix.loop.regimes import RegimeDetector
from keras_optix.states import State
from keras_optix.tuners.search_space import SearchSpace


class Manager(Protocol):
    """The part of a policy manager that the loop uses; see `keras_optix.PolicyManager`."""

    evolves: bool
    auto_spawn: bool
    max_variants: int
    variant_windows: int
    mutation_fn: Callable[[Any], None] | None
    regime_detector: RegimeDetector | None
    store_policies: bool
    max_regimes: int
    after_shift: AfterShift

    @property
    def agents(self) -> Sequence[Any]:
        """The agents whose weights the manager sets."""
        ...

    @property
    def weights(self) -> tuple[float, ...]:
        """The share of each agent."""
        ...

    @property
    def scores(self) -> tuple[tuple[float, ...], ...]:
        """The latest scores of each agent."""
        ...

    def record_agent_score(self, i: int, score: float) -> None:
        """Records a score of an agent."""
        ...

    def auto_update_weights(self) -> tuple[float, ...]:
        """Weighs the agents by their scores."""
        ...

    def update_weights(self, weights: Mapping[int, float]) -> None:
        """Sets weights by hand."""
        ...

    def forget_scores(self) -> None:
        """Drops the scores of all agents."""
        ...

    def next_variant(self, values: Mapping[str, float], spaces: Mapping[str, SearchSpace]) -> dict[str, float]:
        """Returns the hyperparameters of the next variant."""
        ...

    def save(self) -> State | None:
        """Returns everything that a resumed run needs."""
        ...

    def read(self, values: Any) -> Any:
        """Reads a saved state from JSON values, without changing anything.

        Raises:
            StateError: The values are not a state of this manager.
        """
        ...

    def restore(self, state: Any) -> None:
        """Restores a state that `read` returned."""
        ...


class NoManager:
    """A policy manager that does nothing; the loop uses it if the user gave none."""

    evolves = False
    auto_spawn = False
    max_variants = 0
    variant_windows = 0
    mutation_fn: Callable[[Any], None] | None = None
    regime_detector: RegimeDetector | None = None
    store_policies = False
    max_regimes = 1
    after_shift = AfterShift()
    agents: Sequence[Any] = ()
    weights: tuple[float, ...] = ()
    scores: tuple[tuple[float, ...], ...] = ()

    def record_agent_score(self, i: int, score: float) -> None:
        """See `Manager`."""

    def auto_update_weights(self) -> tuple[float, ...]:
        """See `Manager`."""
        return ()

    def update_weights(self, weights: Mapping[int, float]) -> None:
        """See `Manager`."""

    def forget_scores(self) -> None:
        """See `Manager`."""

    def next_variant(self, values: Mapping[str, float], spaces: Mapping[str, SearchSpace]) -> dict[str, float]:
        """See `Manager`."""
        return dict(values)

    def save(self) -> State | None:
        """See `Manager`."""
        return None

    def read(self, values: Any) -> Any:
        """See `Manager`."""
        return None

    def restore(self, state: Any) -> None:
        """See `Manager`."""
