"""A learner with a known best learning rate, without a network: what a tuner is worth, in milliseconds.

Its skill rises towards 1 by ``rate(lr) * (1 - skill)`` a window, and the rate falls off with the distance of the
learning rate's logarithm from the best one. Scores are the skill with noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

import keras_optix as optix

BEST = 1e-3
BOUNDS = (1e-5, 1e-1)
FASTEST = 0.02  # of the way that is left, per window
WIDTH = 0.55  # decades from the best learning rate at which the rate has fallen to 61 %
NOISE = 0.08  # standard deviation of a score, where the skill goes from 0 to 1
DECISIONS = ("commit", "reverse", "undecided")

Tuner = Callable[[], optix.tuners.BaseOptimizer | None]


def rate(learning_rate: float) -> float:
    """How fast the learner learns."""
    distance = math.log10(learning_rate / BEST)
    return FASTEST * math.exp(-0.5 * (distance / WIDTH) ** 2)


def oracle(windows: int) -> float:
    """Skill after so many windows with the best learning rate."""
    return 1.0 - (1.0 - FASTEST) ** windows


class Outcome(NamedTuple):
    """How a run ended.

    Attributes:
        skill: True skill at the end.
        learning_rate: The one in force at the end.
        decisions: What the tuner decided about its probes.
    """

    skill: float
    learning_rate: float
    decisions: list[optix.tuners.TunerDecision]


def drive(
    tuner: optix.tuners.BaseOptimizer | None,
    start: float,
    windows: int,
    seed: int,
    *,
    learns: bool = True,
    walk: float = 0.0,
) -> Outcome:
    """One run.

    Args:
        tuner: Tunes the learning rate; None: it is fixed.
        start: Learning rate at the beginning.
        windows: Windows of training; each is scored.
        seed: Of the noise.
        learns: False: the skill does not depend on the learning rate, and does not rise.
        walk: Standard deviation, per window, of a random walk of the skill: the noise of learning itself.
    """
    rng = np.random.default_rng(seed)
    learning_rate, skill = start, 0.0
    kept: dict[str, tuple[float, float]] = {}
    decisions = []
    state = None if tuner is None else tuner.initial_state()
    for window in range(windows):
        if tuner is not None:
            score = optix.statistics.Estimate(skill + NOISE * float(rng.normal()), NOISE, 10)
            current = optix.HyperparamSet({"learning_rate": learning_rate})
            evaluation = optix.evaluators.Evaluation(score, window, env_steps=window)
            state, decision = tuner.observe(state, evaluation, current)
            if decision is not None:
                if decision.keep is not None:
                    kept[decision.keep] = skill, learning_rate
                if decision.restore is not None:
                    skill, learning_rate = kept[decision.restore]
                learning_rate = decision.params.get("learning_rate", learning_rate)
                if decision.kind in DECISIONS:
                    decisions.append(decision)
        skill += rate(learning_rate) * (1.0 - skill) if learns else 0.0
        skill += walk * float(rng.normal())
    return Outcome(skill, learning_rate, decisions)
