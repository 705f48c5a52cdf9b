"""What a tuner of hyperparameters is to the loop."""

from __future__ import annotations

import abc
import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from keras_optix.arguments import NamesChecked
from keras_optix.errors import ConfigurationError, StateError, describe
from keras_optix.evaluators.evaluation import Evaluation
from keras_optix.records import HyperparamSet
from keras_optix.reprs import OneLineRepr, describe_value
from keras_optix.states import read_state
from keras_optix.statistics.estimates import Evidence
from keras_optix.tuners.search_space import SearchSpace, infer_spaces

Bounds = Mapping[str, SearchSpace | tuple[float, float]]


@dataclass(frozen=True)
class TunerDecision:
    """What a tuner wants. The loop does it in the order of the attributes `keep`, `restore`, `params`.

    Attributes:
        kind: One word for the log: ``"probe"`` (try values), ``"commit"`` (keep them), ``"reverse"`` (the other
            direction is better), ``"undecided"`` (back to the old values), ``"paused"``, ...; an empty one is not
            logged.
        params: Values to apply; all hyperparameters not named stay as they are.
        evidence: Why.
        cost: Environment steps that went into it.
        keep: Keep the state that earned the evaluation (or that collected the window) under this name: weights,
            optimizer slots and statistics, and the tuned hyperparameters. Kept under a name that is taken, it replaces
            the state there.
        restore: Go back to the state of this name, with its hyperparameters.
        drop: Names of states that are not needed any more.
        permanent: Whether the values are meant to stay. A schedule to be replayed holds these; probes are left out.
    """

    kind: str
    params: dict[str, float] = field(default_factory=dict)
    evidence: Evidence | None = None
    cost: int = 0
    keep: str | None = None
    restore: str | None = None
    drop: tuple[str, ...] = ()
    permanent: bool = False


class BaseOptimizer(NamesChecked, OneLineRepr, abc.ABC):
    """Tunes hyperparameters from evaluations. Subclass it for an algorithm of your own.

    A tuner is configuration alone, so several callbacks may have the same one. What it knows of a run is a value of
    its own, its state: `initial_state` makes the first one, and each method takes the state before and returns the
    state after, with what it decided. The loop holds the state, and saves it for runs that are cut off. Read that of a
    run as `OptixCallback.tuner_state`.

    `observe` is the one method that a subclass must have.

    Args:
        param_bounds: ``{"learning_rate": (1e-5, 1e-2), ...}``: a pair, whose scale is inferred (see `infer_space`),
            or a search space such as ``Log(1e-5, 1e-2)``. None: the defaults of the agent's algorithm
            (`Agent.search_spaces`), or of an ordinary model's learning rate.

    Raises:
        ConfigurationError: A bound is invalid.

    Example::

        class Halve(optix.tuners.BaseOptimizer):  # after three evaluations that were no better than the best before

            def initial_state(self):
                return {"best": None, "worse": 0}

            def observe(self, state, evaluation, current):
                score, best = evaluation.score.mean, state["best"]
                if best is None or score > best:
                    return {"best": score, "worse": 0}, None
                if state["worse"] < 2:
                    return state | {"worse": state["worse"] + 1}, None
                halved = max(current.params["learning_rate"] / 2, self.spaces["learning_rate"].low)
                decision = optix.tuners.TunerDecision("halve", {"learning_rate": halved}, permanent=True)
                return state | {"worse": 0}, decision
    """

    def _facts(self) -> Mapping[str, str]:
        spaces = "of the agent" if self._spaces is None else describe_value(dict(self._spaces))
        return {"spaces": spaces}

    def __init__(self, param_bounds: Bounds | None = None) -> None:
        self._spaces: Mapping[str, SearchSpace] | None = None if param_bounds is None else infer_spaces(param_bounds)

    @property
    def spaces(self) -> Mapping[str, SearchSpace]:
        """Search space of each hyperparameter that is tuned.

        Raises:
            StateError: No bounds were given. The loop asks `bound_to` for a tuner that has those of the algorithm, and
                every method but that is called on it.
        """
        if self._spaces is None:
            raise StateError("The tuner was given no bounds; those of the algorithm are known when `fit` begins.")
        return self._spaces

    @property
    def bound(self) -> bool:
        """Whether the search spaces are known."""
        return self._spaces is not None

    @property
    def names(self) -> tuple[str, ...]:
        """Hyperparameters that it sets, as far as they are known."""
        return () if self._spaces is None else tuple(self._spaces)

    def values_to_check(self) -> list[dict[str, float]]:
        """Values that must be legal for it to work: `fit` checks them before the first step. Here: the bounds."""
        return [{name: value} for name, space in self.spaces.items() for value in (space.low, space.high)]

    def bound_to(self, defaults: Mapping[str, SearchSpace]) -> Self:
        """`fit` begins: returns a tuner that knows its search spaces, this one or a copy.

        Args:
            defaults: Search spaces of the algorithm; the copy has them where no bounds were given.

        Raises:
            ConfigurationError: Neither has any.
        """
        if self._spaces is not None:
            return self
        if not defaults:
            raise ConfigurationError(
                describe(
                    "There is nothing to tune: the tuner was given no bounds, and what is trained has no defaults.",
                    fix='Give bounds, for example {"learning_rate": (1e-5, 1e-2)}. A learning rate under a '
                    "LearningRateSchedule cannot be tuned.",
                    tuner=type(self).__name__,
                )
            )
        bound = copy.copy(self)
        bound._spaces = dict(defaults)
        return bound

    def initial_state(self) -> Any:
        """The state at the beginning of a run. Here: an empty dictionary.

        It is a `State` of your own (``class MyState(optix.tuners.State, frozen=True)``, with a field for each thing to
        know), or a dictionary of JSON values. A `State` is checked field by field when it is read; a dictionary comes
        back as JSON has it, with lists for tuples.
        """
        return {}

    def read_state(self, values: Any) -> Any:
        """Reads a state that was saved. Here: one of the kind that `initial_state` returns.

        Args:
            values: JSON values.

        Raises:
            StateError: It is no state of this tuner.
        """
        initial = self.initial_state()
        return read_state(type(initial), values, f"state of the tuner {type(self).__name__}", part=True)

    def probe_running(self, state: Any) -> bool:
        """Whether an experiment is under way. Its evaluations count towards no plateau. Here: never.

        Args:
            state: The state.
        """
        return False

    def monitored(self, state: Any) -> bool:
        """Whether a lower score may be a degradation. Here: always.

        It may not while the current weights are those of an experiment, which may well be worse than the best: those of
        a population are, for as long as it runs.

        Args:
            state: The state.
        """
        return True

    def begin(self, state: Any, current: HyperparamSet) -> tuple[Any, TunerDecision | None]:
        """A new run begins, and nothing was learned yet. Here: nothing.

        Args:
            state: The initial state.
            current: The current hyperparameters.

        Returns:
            The state after it; and what to apply before the first window, or None. `keep` keeps the state of the
            weights that the run begins with.
        """
        return state, None

    def shift(self, state: Any, current: HyperparamSet) -> tuple[Any, TunerDecision | None]:
        """The environment has changed: earlier scores, and states that earned them, say nothing any more.

        Here: begins anew.

        Args:
            state: The state before it.
            current: The current hyperparameters.

        Returns:
            As `begin`.
        """
        return self.begin(self.initial_state(), current)

    def observe_update(
        self, state: Any, env_steps: int, logs: Mapping[str, float], current: HyperparamSet
    ) -> tuple[Any, TunerDecision | None]:
        """Takes the logs of an update, after every window (epoch) that is learned from, whatever the loop's state.

        Called before `observe` where the window is evaluated too. Here: nothing.

        Args:
            state: The state before it.
            env_steps: Environment steps (batches) of the run, the window included.
            logs: Logs of the update by name; empty where they are not its own (`steps_per_execution`).
            current: The current hyperparameters.

        Returns:
            The state after it, and what to apply before the next window, or None.
        """
        return state, None

    @abc.abstractmethod
    def observe(self, state: Any, evaluation: Evaluation, current: HyperparamSet) -> tuple[Any, TunerDecision | None]:
        """Takes an evaluation that was collected under `current`; called while the loop is ACTIVE.

        Args:
            state: The state before it.
            evaluation: The score. It belongs to weights that were trained with `current` since the last evaluation.
            current: The current hyperparameters.

        Returns:
            The state after it, and what to apply before the next window, or None.
        """

    def pause(self, state: Any) -> tuple[Any, TunerDecision | None]:
        """Ends a probe without a decision: the loop cools down, is dormant, or was rolled back. Here: there is none.

        Args:
            state: The state before it.

        Returns:
            The state after it, and the values to return to, or None if no probe was under way.
        """
        return state, None
