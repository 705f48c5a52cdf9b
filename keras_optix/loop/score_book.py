"""Keeps the scores and weights of several policies, and tells listeners of changes."""

from __future__ import annotations

import math
import types
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from keras_optix.errors import ConfigurationError, NonFiniteError, StateError, describe
from keras_optix.states import Finite, NonNegative, State, read_state
from keras_optix.statistics.member_weights import weights_from_scores
from keras_optix.validation import check_float, check_int, is_finite_number

Listener = Callable[[Sequence[float]], None]
_ROUNDING = 1e-9  # weights count as equal below this relative difference


class ScoreBookState(State, frozen=True):
    """The state of a `ScoreBook`.

    Attributes:
        weights: Weight of each member; only the ratios count.
        scores: Scores of each member, oldest first.
    """

    weights: tuple[NonNegative, ...]
    scores: tuple[tuple[Finite, ...], ...]


class ScoreBook:
    """Keeps rolling scores of members, and computes their weights; see `weights_from_scores`.

    Args:
        window: Number of scores that are kept for each member, at least 2, because one score does not show the noise.
        floor: Least share of a member.

    Raises:
        ConfigurationError: An argument is out of range.
    """

    def __init__(self, window: int, floor: float) -> None:
        self._window = check_int("score_window", window, minimum=2)
        self._floor = check_float("floor", floor, low=0.0, high=1.0)
        self._weights: list[float] = []  # as given; only the ratios count
        self._scores: list[deque[float]] = []
        self._listeners: list[Callable[[], Listener | None]] = []

    @property
    def weights(self) -> tuple[float, ...]:
        """Share of each member; the shares sum to 1."""
        total = math.fsum(self._weights)
        return tuple(weight / total for weight in self._weights)

    @property
    def scores(self) -> tuple[tuple[float, ...], ...]:
        """Scores of each member, oldest first."""
        return tuple(tuple(scores) for scores in self._scores)

    def subscribe(self, listener: Listener) -> None:
        """Calls the listener with the weights after each change; a bound method only as long as its object exists."""
        if isinstance(listener, types.MethodType):
            self._listeners.append(weakref.WeakMethod(listener))
        else:
            self._listeners.append(lambda: listener)

    @property
    def in_use(self) -> bool:
        """Whether there is a listener."""
        return bool(self._heard())

    def add(self, weight: float) -> int:
        """Adds a member.

        Args:
            weight: Weight of the member relative to the others, at least 0.

        Returns:
            Index of the member.

        Raises:
            ConfigurationError: The weight is invalid, or there are too many members for the floor.
        """
        check_float(
            "floor",
            self._floor,
            low=0.0,
            high=1.0 / (len(self._weights) + 1),
            fix="All floors together cannot exceed 1.",
        )
        self._weights = _checked([*self._weights, weight])
        self._scores.append(deque(maxlen=self._window))
        return len(self._weights) - 1

    def record(self, member: int, score: float) -> None:
        """Records a score.

        Args:
            member: Index of the member.
            score: The score; higher is better.

        Raises:
            ConfigurationError: There is no such member.
            NonFiniteError: The score is NaN, infinite or not a number.
        """
        member = self._index(member)
        if not is_finite_number(score):
            raise NonFiniteError(describe("A member's score is not a finite number.", member=member, score=score))
        self._scores[member].append(float(score))

    def forget(self) -> None:
        """Drops all scores; the weights stay."""
        for scores in self._scores:
            scores.clear()

    def rebalance(self) -> None:
        """Weighs each member by the probability that it is the best, and tells listeners if the weights change."""
        if not self._weights:
            return
        before, after = self.weights, weights_from_scores(self._scores, self._weights, self._floor)
        if all(math.isclose(old, new, rel_tol=_ROUNDING) for old, new in zip(before, after, strict=True)):
            return
        # The sum of the weights stays, so that a weight given by hand keeps its meaning.
        total = math.fsum(self._weights)
        self._weights = [share * total for share in after]
        self._tell()

    def set(self, weights: Mapping[int, float]) -> None:
        """Sets the weights of some members, in the unit of `add`.

        Raises:
            ConfigurationError: There is no such member, or a weight is invalid; then no weight is changed.
        """
        changed = list(self._weights)
        for member, weight in weights.items():
            changed[self._index(member)] = weight
        self._weights = _checked(changed)
        self._tell()

    def save(self) -> ScoreBookState:
        """Returns the weights and the scores."""
        return ScoreBookState(tuple(self._weights), self.scores)

    def read(self, values: Any) -> ScoreBookState:
        """Reads what `save` returned, as JSON values, without changing anything.

        Raises:
            StateError: The values are not a state with this number of members.
        """
        problem, fix = "The weights and scores of the agents cannot be restored.", "Add the agents that the run had."
        count = len(self._weights)
        try:
            state = read_state(ScoreBookState, values, "weights and scores of the agents", fix="", part=True)
        except StateError as error:
            raise StateError(describe(problem, fix=fix, agents=count, reason=str(error))) from error
        if not len(state.weights) == len(state.scores) == count or (state.weights and sum(state.weights) == 0.0):
            given = {"weights": state.weights, "scores": state.scores}
            raise StateError(describe(problem, fix=fix, agents=count, **given))
        return state

    def restore(self, state: ScoreBookState) -> None:
        """Restores a state that `read` returned, and tells listeners."""
        self._weights = list(state.weights)
        self._scores = [deque(sample, maxlen=self._window) for sample in state.scores]
        self._tell()

    def _heard(self) -> list[Listener]:
        """Returns the listeners that still exist."""
        self._listeners = [reference for reference in self._listeners if reference() is not None]
        return [listener for reference in self._listeners if (listener := reference()) is not None]

    def _tell(self) -> None:
        for listener in self._heard():
            listener(self.weights)

    def _index(self, member: int) -> int:
        index = check_int("index", member, minimum=0)
        if index >= len(self._weights):
            raise ConfigurationError(describe("There is no such agent.", index=index, agents=len(self._weights)))
        return index


def _checked(weights: Sequence[float]) -> list[float]:
    checked = [check_float("weight", weight, low=0.0) for weight in weights]
    if math.fsum(checked) <= 0.0:
        raise ConfigurationError(describe("The weights must have a positive sum.", weights=list(weights)))
    return checked
