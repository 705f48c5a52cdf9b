"""The base class of tuners, which change hyperparameters while training."""

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
    """A request of a tuner to the loop, which applies `keep` first, then `restore`, then `params`.

    Attributes:
        kind: One word for the log: ``"probe"`` (try values), ``"commit"`` (keep them), ``"reverse"`` (the other
            direction is better), ``"undecided"`` (return to the old values), ``"paused"``, ...; a decision with an
            empty kind is not logged.
        params: Values to apply; hyperparameters that are not named stay as they are.
        evidence: The comparison that led to the decision, or None.
        cost: Environment steps spent on the decision.
        keep: Name under which to store the state that earned the evaluation (or collected the window): weights,
            optimizer slots and statistics, and the tuned hyperparameters. A state that is already stored under this
            name is replaced.
        restore: Name of the stored state to return to, with its hyperparameters.
        drop: Names of stored states that are no longer needed.
        permanent: Whether the values are meant to stay. A schedule for replay holds only these and leaves out probes.

    Examples:
        >>> optix.tuners.TunerDecision("halve", {"learning_rate": 5e-4}, permanent=True).params
        {'learning_rate': 0.0005}
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
    """Tunes hyperparameters from evaluations. Subclass it to write your own algorithm.

    A tuner is configuration only, so several callbacks may share it. Its knowledge of a run is a separate value, the
    state: `initial_state` makes the first one, and each method takes the state before and returns the state after,
    together with its decision. The loop holds the state and saves it, so that an interrupted run can continue. The
    state of a run is `OptixCallback.tuner_state`.

    A subclass must override `observe`; all other methods have defaults.

    Args:
        param_bounds: Bounds by name, as in ``{"learning_rate": (1e-5, 1e-2), ...}``: a pair, whose scale is inferred
            (see `infer_space`), or a search space such as ``Log(1e-5, 1e-2)``. None means the defaults of the agent's
            algorithm (`Agent.search_spaces`), or the default for the learning rate of an ordinary model.

    Raises:
        ConfigurationError: A bound is invalid.

    Example::

        class Halve(optix.tuners.BaseOptimizer):  # after three evaluations that did not exceed the best so far

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

    Examples:
        >>> class Fixed(optix.tuners.BaseOptimizer):  # changes nothing
        ...     def initial_state(self):
        ...         return {}
        ...     def observe(self, state, evaluation, current):
        ...         return state, None
        >>> callback = optix.OptixCallback(tuner=Fixed({"learning_rate": (1e-5, 1e-2)}))
    """

    def _facts(self) -> Mapping[str, str]:
        spaces = "of the agent" if self._spaces is None else describe_value(dict(self._spaces))
        return {"spaces": spaces}

    def __init__(self, param_bounds: Bounds | None = None) -> None:
        self._spaces: Mapping[str, SearchSpace] | None = None if param_bounds is None else infer_spaces(param_bounds)

    @property
    def spaces(self) -> Mapping[str, SearchSpace]:
        """Search space of each tuned hyperparameter.

        Raises:
            StateError: No bounds were given. When `fit` begins, the loop calls `bound_to` to get a tuner with the
                bounds of the algorithm, and calls all other methods on that tuner.
        """
        if self._spaces is None:
            raise StateError("The tuner was given no bounds. The bounds of the algorithm are known once `fit` begins.")
        return self._spaces

    @property
    def bound(self) -> bool:
        """Whether the search spaces are known."""
        return self._spaces is not None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the hyperparameters that the tuner sets; empty while they are unknown."""
        return () if self._spaces is None else tuple(self._spaces)

    def values_to_check(self) -> list[dict[str, float]]:
        """Returns values that `fit` checks before the first step, because they must be legal. By default the bounds."""
        return [{name: value} for name, space in self.spaces.items() for value in (space.low, space.high)]

    def bound_to(self, defaults: Mapping[str, SearchSpace]) -> Self:
        """Returns a tuner that knows its search spaces: this one or a copy. The loop calls it when `fit` begins.

        Args:
            defaults: Search spaces of the algorithm. The copy gets them if no bounds were given.

        Raises:
            ConfigurationError: No bounds were given, and the algorithm has no search spaces.
        """
        if self._spaces is not None:
            return self
        if not defaults:
            raise ConfigurationError(
                describe(
                    "There is nothing to tune: the tuner was given no bounds, and the model that is trained has no "
                    "default bounds.",
                    fix='Give bounds, for example {"learning_rate": (1e-5, 1e-2)}. A learning rate that is a '
                    "LearningRateSchedule cannot be tuned.",
                    tuner=type(self).__name__,
                )
            )
        bound = copy.copy(self)
        bound._spaces = dict(defaults)
        return bound

    def initial_state(self) -> Any:
        """Returns the state at the beginning of a run. By default an empty dictionary.

        Return your own subclass of `State` (``class MyState(optix.tuners.State, frozen=True)``, with a field for each
        thing to know), or a dictionary of JSON values. A `State` is checked field by field when it is read. A
        dictionary is returned as JSON stores it, with lists instead of tuples.
        """
        return {}

    def read_state(self, values: Any) -> Any:
        """Reads a saved state. By default it reads a state of the type that `initial_state` returns.

        Args:
            values: JSON values.

        Raises:
            StateError: The values are not a state of this tuner.
        """
        initial = self.initial_state()
        return read_state(type(initial), values, f"state of the tuner {type(self).__name__}", part=True)

    def probe_running(self, state: Any) -> bool:
        """Returns whether an experiment is running. Its evaluations do not count towards a plateau. By default False.

        Args:
            state: The state.
        """
        return False

    def monitored(self, state: Any) -> bool:
        """Returns whether a lower score may count as a degradation. By default True.

        Return False while the current weights belong to an experiment and may be worse than the best on purpose. A
        population returns False for the whole run.

        Args:
            state: The state.
        """
        return True

    def begin(self, state: Any, current: HyperparamSet) -> tuple[Any, TunerDecision | None]:
        """Begins a new run, before anything was learned. By default it does nothing.

        Args:
            state: The initial state.
            current: The current hyperparameters.

        Returns:
            The next state, and the decision to apply before the first window, or None. With `keep`, the decision
            stores the initial weights of the run.
        """
        return state, None

    def shift(self, state: Any, current: HyperparamSet) -> tuple[Any, TunerDecision | None]:
        """Handles a change of the environment: earlier scores and stored states say nothing about the new regime.

        By default it begins again from the initial state.

        Args:
            state: The state so far.
            current: The current hyperparameters.

        Returns:
            The same as `begin`.
        """
        return self.begin(self.initial_state(), current)

    def observe_update(
        self, state: Any, env_steps: int, logs: Mapping[str, float], current: HyperparamSet
    ) -> tuple[Any, TunerDecision | None]:
        """Receives the logs of an update after every window (epoch) of learning, in every state of the loop.

        If the window is also evaluated, this is called before `observe`. By default it does nothing.

        Args:
            state: The state so far.
            env_steps: Environment steps (batches) of the run, including the window.
            logs: Logs of the update by name; empty if the logs cover several updates (`steps_per_execution`).
            current: The current hyperparameters.

        Returns:
            The next state, and the decision to apply before the next window, or None.
        """
        return state, None

    @abc.abstractmethod
    def observe(self, state: Any, evaluation: Evaluation, current: HyperparamSet) -> tuple[Any, TunerDecision | None]:
        """Receives an evaluation that was collected under `current`. The loop calls it while it is ACTIVE.

        Args:
            state: The state so far.
            evaluation: The score. It belongs to weights that were trained with `current` since the last evaluation.
            current: The current hyperparameters.

        Returns:
            The next state, and the decision to apply before the next window, or None.
        """

    def pause(self, state: Any) -> tuple[Any, TunerDecision | None]:
        """Ends a probe without a result, because the loop becomes COOLING or DORMANT, or was rolled back.

        By default it does nothing.

        Args:
            state: The state so far.

        Returns:
            The next state, and the decision with the values to return to, or None if no probe was running.
        """
        return state, None
