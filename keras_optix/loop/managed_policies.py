"""Manages several policies for one task: options, variants, and members with their scores and weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_optix.errors import ConfigurationError, describe
from keras_optix.loop.after_shift import AfterShift
from keras_optix.loop.regimes import RegimeDetector
from keras_optix.loop.score_book import Listener, ScoreBook, ScoreBookState
from keras_optix.reprs import OneLineRepr
from keras_optix.states import Finite, Generator, NonNegative, State, read_state
from keras_optix.tuners.search_space import SearchSpace
from keras_optix.tuners.variants import perturbed
from keras_optix.validation import check_bool, check_float, check_function, check_int, check_kind, check_seed


class ManagerState(State, frozen=True):
    """The state of a policy manager in a run.

    Attributes:
        random: State of the random generator.
        weights: Weight of each agent; only the ratios count.
        scores: Scores of each agent, oldest first.
    """

    random: Generator
    weights: tuple[NonNegative, ...]
    scores: tuple[tuple[Finite, ...], ...]


class _Saved(State, frozen=True):
    """A `ManagerState` whose parts about the agents were not checked yet."""

    random: Generator
    weights: Any
    scores: Any


@dataclass(frozen=True, kw_only=True)
class PolicyOptions:
    """The checked options of a policy manager; `keras_optix.PolicyManager` documents them.

    Raises:
        ConfigurationError: An option is invalid, or every variant would equal its parent.
    """

    score_window: int = 10
    auto_spawn: bool = False
    max_variants: int = 3
    variant_windows: int = 50
    noise_scale: float = 0.05
    mutation_fn: Callable[[Any], None] | None = None
    floor: float = 0.05
    regime_detector: RegimeDetector | None = None
    store_policies: bool = True
    max_regimes: int = 8
    after_shift: AfterShift | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        check_bool("auto_spawn", self.auto_spawn)
        check_int("max_variants", self.max_variants, minimum=1)
        check_int("variant_windows", self.variant_windows, minimum=1)
        check_float("noise_scale", self.noise_scale, low=0.0, high=1.0)
        fix = "Such as RegimeDetector()."
        check_kind("regime_detector", self.regime_detector, RegimeDetector, fix=fix, optional=True)
        check_bool("store_policies", self.store_policies)
        check_int("max_regimes", self.max_regimes, minimum=1)
        fix = "Such as AfterShift(statistics=0.1)."
        check_kind("after_shift", self.after_shift, AfterShift, fix=fix, optional=True)
        if self.mutation_fn is not None:
            check_function("mutation_fn", self.mutation_fn, "a function of an agent, or None")
        if self.auto_spawn and self.noise_scale == 0.0 and self.mutation_fn is None:
            problem = "Without noise and without a mutation every variant would equal its parent."
            raise ConfigurationError(describe(problem, auto_spawn=self.auto_spawn, noise_scale=self.noise_scale))


class ManagedPolicies(OneLineRepr):
    """The part of a policy manager that the loop uses.

    Args:
        options: The user's options. None: the defaults.
    """

    evolves = True

    def __init__(self, options: PolicyOptions | None = None) -> None:
        options = PolicyOptions() if options is None else options
        self.auto_spawn = bool(options.auto_spawn)
        self.max_variants = int(options.max_variants)
        self.variant_windows = int(options.variant_windows)
        self.noise_scale = float(options.noise_scale)
        self.mutation_fn = options.mutation_fn
        self.regime_detector = options.regime_detector
        self.store_policies = bool(options.store_policies)
        self.max_regimes = int(options.max_regimes)
        self.after_shift = AfterShift() if options.after_shift is None else options.after_shift
        self._book = ScoreBook(options.score_window, options.floor)
        self._agents: list[Any] = []
        self._rng = np.random.default_rng(check_seed("seed", options.seed))

    def _facts(self) -> Mapping[str, str]:
        weights = ", ".join(f"{weight:.3g}" for weight in self.weights)
        return {"agents": str(len(self._agents)), "weights": f"({weights})"}

    @property
    def agents(self) -> tuple[Any, ...]:
        """The agents, in the order in which they were added."""
        return tuple(self._agents)

    @property
    def weights(self) -> tuple[float, ...]:
        """The share of each agent, in the order of `agents`; the shares sum to 1."""
        return self._book.weights

    @property
    def scores(self) -> tuple[tuple[float, ...], ...]:
        """The latest scores of each agent, oldest first."""
        return self._book.scores

    def subscribe(self, listener: Listener) -> None:
        """Calls the listener with the weights after each change.

        Args:
            listener: A function. A bound method is only called as long as its object exists.
        """
        self._book.subscribe(listener)

    def record_agent_score(self, i: int, score: float) -> None:
        """Records a score of an agent. The latest `score_window` scores of each agent count.

        Args:
            i: Index of the agent.
            score: The score; higher is better.

        Raises:
            ConfigurationError: There is no such agent.
            NonFiniteError: The score is NaN, infinite or not a number.
        """
        self._book.record(i, score)

    def forget_scores(self) -> None:
        """Drops the scores of all agents, because they belong to an earlier regime. The weights stay for now.

        The loop calls this after a detected change point.
        """
        self._book.forget()

    def auto_update_weights(self) -> tuple[float, ...]:
        """Weighs each agent by the probability that its mean score is the highest.

        The loop calls this whenever agents earned scores. Until an agent has two scores, the noise is unknown and the
        weights stay. No weight falls below `floor`.

        Returns:
            The weights.
        """
        self._book.rebalance()
        return self.weights

    def update_weights(self, weights: Mapping[int, float]) -> None:
        """Sets the weights of some agents by hand.

        Args:
            weights: Weights by index, in the unit of `add_agent`. The other agents keep theirs, and the attribute
                `weights` is all of them divided by their sum. Automatic updates keep the sum, so that the unit stays.

        Raises:
            ConfigurationError: There is no such agent, or a weight is invalid; then no weight is changed.
        """
        self._book.set(weights)

    def next_variant(self, values: Mapping[str, float], spaces: Mapping[str, SearchSpace]) -> dict[str, float]:
        """Returns the hyperparameters of the next variant: `values` with noise, within their spaces; see `perturbed`.

        Args:
            values: Hyperparameters of the parent, by name.
            spaces: Search spaces by name; a hyperparameter without a space stays unchanged.
        """
        return perturbed(values, spaces, self.noise_scale, self._rng)

    def save(self) -> ManagerState:
        """Returns everything that a resumed run needs: the generator, and the weights and scores of the agents."""
        agents = self._book.save()
        return ManagerState(Generator.of(self._rng.bit_generator), agents.weights, agents.scores)

    def read(self, values: Any) -> ManagerState:
        """Reads what `save` returned, as JSON values, without changing anything.

        Args:
            values: JSON values.

        Raises:
            StateError: The values are not the state of a manager with this number of agents.
        """
        what = "state of the policy manager with its generator"
        saved = read_state(_Saved, values, what, fix="Start a new run.", part=True)
        agents = self._book.read({"weights": saved.weights, "scores": saved.scores})
        return ManagerState(saved.random, agents.weights, agents.scores)

    def restore(self, state: ManagerState) -> None:
        """Restores a state that `read` returned, and calls the listeners with the weights.

        The state of an ensemble must be restored after this, because it may hold the weights of an older snapshot.
        """
        rng = np.random.default_rng(0)
        state.random.put_into(rng.bit_generator)
        self._book.restore(ScoreBookState(state.weights, state.scores))
        self._rng = rng
