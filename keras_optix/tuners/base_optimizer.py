"""What a tuner of hyperparameters is to the loop."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from keras_optix.arguments import NamesChecked
from keras_optix.errors import ConfigurationError, StateError, describe
from keras_optix.evaluators.evaluation import Evaluation
from keras_optix.records import HyperparamSet
from keras_optix.reprs import OneLineRepr, describe_value
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

    Args:
        param_bounds: ``{"learning_rate": (1e-5, 1e-2), ...}``: a pair, whose scale is inferred (see `infer_space`),
            or a search space such as ``Log(1e-5, 1e-2)``. None: the defaults of the agent's algorithm
            (`Agent.search_spaces`), or of an ordinary model's learning rate.

    Raises:
        ConfigurationError: A bound is invalid.
    """

    def _facts(self) -> Mapping[str, str]:
        spaces = "of the agent" if self._spaces is None else describe_value(dict(self._spaces))
        return {"spaces": spaces}

    def __init__(self, param_bounds: Bounds | None = None) -> None:
        self._given = None if param_bounds is None else infer_spaces(param_bounds)
        self._spaces = self._given

    @property
    def spaces(self) -> Mapping[str, SearchSpace]:
        """Search space of each hyperparameter that is tuned.

        Raises:
            StateError: No bounds were given, and `fit` has not begun.
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

    @property
    def probe_running(self) -> bool:
        """Whether an experiment is under way. Its evaluations count towards no plateau."""
        return False

    @property
    def monitored(self) -> bool:
        """Whether a lower score may be a degradation.

        It may not while the current weights are those of an experiment, which may well be worse than the best: those of
        a population are, for as long as it runs.
        """
        return True

    def bind(self, defaults: Mapping[str, SearchSpace]) -> None:
        """`fit` begins: takes the default search spaces where no bounds were given.

        Args:
            defaults: Search spaces of the algorithm.

        Raises:
            ConfigurationError: Neither has any.
        """
        if self._given is None and not defaults:
            raise ConfigurationError(
                describe(
                    "There is nothing to tune: the tuner was given no bounds, and what is trained has no defaults.",
                    fix='Give bounds, for example {"learning_rate": (1e-5, 1e-2)}. A learning rate under a '
                    "LearningRateSchedule cannot be tuned.",
                    tuner=type(self).__name__,
                )
            )
        if self._given is None:
            self._spaces = dict(defaults)

    def begin(self, current: HyperparamSet) -> TunerDecision | None:
        """A new run begins, after `reset`, and nothing was learned yet. Here: nothing.

        Args:
            current: The current hyperparameters.

        Returns:
            What to apply before the first window, or None. `keep` keeps the state that the run begins with.
        """
        return None

    def shift(self, current: HyperparamSet) -> TunerDecision | None:
        """The environment has changed: earlier scores, and states that earned them, say nothing any more.

        Here: begins anew.

        Args:
            current: The current hyperparameters.

        Returns:
            As `begin`.
        """
        self.reset()
        return self.begin(current)

    def observe_update(self, env_steps: int, logs: Mapping[str, float], current: HyperparamSet) -> TunerDecision | None:
        """Takes the logs of an update, after every window (epoch) that is learned from, whatever the loop's state.

        Called before `observe` where the window is evaluated too. Here: nothing.

        Args:
            env_steps: Environment steps (batches) of the run, the window included.
            logs: Logs of the update by name; empty where they are not its own (`steps_per_execution`).
            current: The current hyperparameters.

        Returns:
            What to apply before the next window, or None.
        """
        return None

    @abc.abstractmethod
    def observe(self, evaluation: Evaluation, current: HyperparamSet) -> TunerDecision | None:
        """Takes an evaluation that was collected under `current`; called while the loop is ACTIVE.

        Args:
            evaluation: The score. It belongs to weights that were trained with `current` since the last evaluation.
            current: The current hyperparameters.

        Returns:
            What to apply before the next window, or None.
        """

    @abc.abstractmethod
    def pause(self) -> TunerDecision | None:
        """Ends a probe without a decision: the loop cools down, is dormant, or was rolled back.

        Returns:
            The values to return to, or None if no probe was under way.
        """

    @abc.abstractmethod
    def reset(self) -> None:
        """Forgets everything: a new run begins. Called after `bind`."""

    @abc.abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Returns all state as JSON values."""

    @abc.abstractmethod
    def from_json(self, values: dict[str, Any]) -> None:
        """Restores what `to_json` returned."""
