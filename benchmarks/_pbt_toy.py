"""The toy of population based training (Jaderberg et al. 2017, figure 2), where the right answer is known.

Two workers climb ``h0 w0^2 + h1 w1^2`` down to its minimum, one with ``h = [1, 0]`` and one with ``h = [0, 1]``; the
true score is ``Q = 1.2 - w0^2 - w1^2``. Alone, neither can get beyond 0.39, because it never sees one of its weights.

What drives the tuner here does what the loop does: it keeps, restores and drops states, by name, as it is told.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from keras_optix.evaluators.evaluation import Evaluation
from keras_optix.records import HyperparamSet
from keras_optix.statistics.estimates import Estimate
from keras_optix.tuners.base_optimizer import TunerDecision
from keras_optix.tuners.pbt_optimizer import PBTOptimizer
from keras_optix.tuners.search_space import Linear

STEPS = 200  # of each worker
SWAP_EVERY = 10
RATE = 0.01
OPTIMUM = 1.2
START = 0.9
_ASYMMETRY = 1e-4  # of the initial weights: two workers that are mirror images have equal scores, and neither copies


class Kept(NamedTuple):
    """A state in the bank."""

    weights: np.ndarray
    params: dict[str, float]


class Toy:
    """The toy, driven by a tuner.

    Args:
        tuner: Two members, tuning ``h0`` and ``h1``.
        seed: Of the initial weights.
        copy_weights: Whether exploiting copies weights. False is a control that must fail: the hyperparameters alone.
    """

    def __init__(self, tuner: PBTOptimizer, seed: int, *, copy_weights: bool = True) -> None:
        rng = np.random.default_rng((seed, 1))
        self.tuner = tuner
        self.state = tuner.initial_state()
        self.copy_weights = copy_weights
        self.weights = START + _ASYMMETRY * rng.normal(size=2)
        self.params = {"h0": 1.0, "h1": 0.0}
        self.bank: dict[str, Kept] = {}
        self.decisions: list[TunerDecision] = []
        self.scores = [OPTIMUM - float(self.weights @ self.weights)] * tuner.population
        self._own = [self.weights] * tuner.population  # where each member's last turn ended
        self._turn = 0
        self._windows = 0

    def run(self, windows: int) -> float:
        """Trains and returns the score of the best member."""
        for _ in range(windows):
            self.window()
        return max(self.scores)

    def window(self) -> None:
        """One step of the worker whose turn it is, and its evaluation."""
        collected = self.weights
        rates = np.array([self.params["h0"], self.params["h1"]])
        self.weights = collected - 2.0 * RATE * rates * collected
        self.scores[self._turn] = score = OPTIMUM - float(self.weights @ self.weights)
        self._windows += 1
        current = HyperparamSet(dict(self.params))
        if self._windows == 1:
            self.state, begun = self.tuner.begin(self.state, current)
            self._apply(begun, collected)
        evaluation = Evaluation(Estimate(score, 0.0, 1), self._windows, env_steps=self._windows)
        self.state, decision = self.tuner.observe(self.state, evaluation, current)
        self._apply(decision, self.weights)

    def _apply(self, decision: TunerDecision | None, earned: np.ndarray) -> None:
        """Does what the tuner wants, in the order of the loop: keep, restore, params, drop."""
        if decision is None:
            return
        self.decisions.append(decision)
        if decision.keep is not None:
            self.bank[decision.keep] = Kept(earned, dict(self.params))
        if decision.restore is not None:
            self._own[self._turn] = earned
            self._turn = (self._turn + 1) % self.tuner.population
            self.weights, self.params = self.bank[decision.restore].weights, dict(self.bank[decision.restore].params)
            if not self.copy_weights:
                self.weights = self._own[self._turn]
        self.params |= decision.params
        for name in decision.drop:
            del self.bank[name]


def make_tuner(seed: int, *, exploit: bool = True, explore: bool = True) -> PBTOptimizer:
    """The tuner of the toy; its second member begins with the other half of the gradient."""
    return PBTOptimizer(
        {"h0": Linear(0.0, 1.0), "h1": Linear(0.0, 1.0)},
        population=2,
        ready_interval=SWAP_EVERY,
        exploit=exploit,
        explore=explore,
        initial=[{"h0": 0.0, "h1": 1.0}],
        seed=seed,
    )


def run_toy(seed: int, *, exploit: bool = True, explore: bool = True, copy_weights: bool = True) -> float:
    """The true score of the better worker after `STEPS` steps of each."""
    toy = Toy(make_tuner(seed, exploit=exploit, explore=explore), seed, copy_weights=copy_weights)
    return toy.run(2 * STEPS)


class Row(NamedTuple):
    """Scores of a variant over seeds."""

    name: str
    mean: float
    lowest: float
    highest: float


def table(seeds: Sequence[int]) -> list[Row]:
    """Every variant over the same seeds."""
    variants = {
        "neither (two separate runs)": {"exploit": False, "explore": False},
        "explore only": {"exploit": False},
        "hyperparameters copied, weights not": {"copy_weights": False},
        "exploit only": {"explore": False},
        "population based training": {},
    }
    rows = []
    for name, options in variants.items():
        scores = [run_toy(seed, **options) for seed in seeds]
        rows.append(Row(name, statistics.fmean(scores), min(scores), max(scores)))
    return rows
