"""Learners with a known best learning rate, without a network: what a tuner is worth, in milliseconds.

The skill of a learner rises towards 1 by ``rate(lr) * (1 - skill)`` a window, and the rate falls off with the distance
of the learning rate's logarithm from the best one. Scores are the skill with noise. `Learner` has what makes tuning
hard in reinforcement learning: scores with heavy tails, a cliff above the best learning rate beyond which the skill
falls, and a best learning rate that moves in mid-run. `draw` draws such a learner at random.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

import keras_optix as optix

BEST = 1e-3
BOUNDS = (1e-5, 1e-1)
DECISIONS = ("commit", "reverse", "undecided", "aborted")

Tuner = Callable[[], optix.tuners.BaseOptimizer | None]


@dataclass(frozen=True)
class Learner:
    """A learner. The defaults are the plainest one.

    Attributes:
        fastest: Share of the way that is left which the skill makes in a window with the best learning rate.
        width: Decades from the best learning rate at which the rate has fallen to 61 %.
        noise: Standard deviation of a score, where the skill goes from 0 to 1; with heavy tails, the scale of a
            Student t with 3 degrees of freedom (whose standard deviation is 1.7 times as large). Scores state it as
            their standard error.
        heavy: Whether the noise has heavy tails.
        cliff: Multiple of the best learning rate beyond which the skill falls; infinite: there is no cliff.
        fall: By how much it falls a window there.
        proportional: Whether it falls by a share of the skill instead.
        bottomless: Whether it may fall below 0, the skill at the beginning.
        moves: Decades by which the best learning rate (and the cliff) moves in mid-run.
        moves_at: When it moves, as a share of the windows.
        walk: Standard deviation, per window, of a random walk of the skill: the noise of learning itself.
        learns: False: the skill does not depend on the learning rate, and does not rise.
    """

    fastest: float = 0.02
    width: float = 0.55
    noise: float = 0.08
    heavy: bool = False
    cliff: float = math.inf
    fall: float = 0.03
    proportional: bool = False
    bottomless: bool = False
    moves: float = 0.0
    moves_at: float = 0.5
    walk: float = 0.0
    learns: bool = True

    def gain(self, learning_rate: float, skill: float, time: float = 0.0) -> float:
        """By how much the skill rises in a window.

        Args:
            learning_rate: The one in force.
            skill: The skill before.
            time: Share of the run that is over.
        """
        if not self.learns:
            return 0.0
        multiple = learning_rate / BEST / 10.0 ** (self.moves if time >= self.moves_at else 0.0)
        if multiple > self.cliff:
            fall = self.fall * (skill if self.proportional else 1.0)
            return -fall if self.bottomless else max(-fall, min(-skill, 0.0))
        return self.fastest * math.exp(-0.5 * (math.log10(multiple) / self.width) ** 2) * (1.0 - skill)

    def fixed(self, windows: int, start: float = BEST) -> float:
        """Skill after so many windows with a learning rate that stays, without noise."""
        skill = 0.0
        for window in range(windows):
            skill += self.gain(start, skill, window / windows)
        return skill


PLAIN = Learner()
HARD = {
    "heavy tails": Learner(heavy=True),
    "cliff at twice the best": Learner(cliff=2.0),
    "best moves up a decade": Learner(moves=1.0),
    "best moves down a decade": Learner(moves=-1.0),
    "cliff and heavy tails": Learner(cliff=2.0, heavy=True),
    "all, up": Learner(cliff=2.0, heavy=True, moves=1.0),
    "all, down": Learner(cliff=2.0, heavy=True, moves=-1.0),
}


def draw(rng: np.random.Generator) -> tuple[Learner, int]:
    """Draws a learner of these kinds, and the windows of its run.

    Args:
        rng: Source of the random draws.
    """

    def between(low: float, high: float) -> float:
        return float(math.exp(rng.uniform(math.log(low), math.log(high))))

    windows = int(rng.integers(200, 601))
    learner = Learner(
        fastest=between(0.01, 0.05),
        width=float(rng.uniform(0.4, 0.8)),
        noise=between(0.02, 0.3),
        heavy=bool(rng.random() < 0.5),
        cliff=between(1.5, 10.0) if rng.random() < 0.75 else math.inf,
        fall=between(0.005, 0.1),
        proportional=bool(rng.random() < 0.5),
        bottomless=bool(rng.random() < 0.25),
        moves=float(rng.choice([-1.0, 0.0, 0.0, 1.0])),
        moves_at=float(rng.uniform(0.3, 0.7)),
    )
    return learner, windows


class Outcome(NamedTuple):
    """How a run ended.

    Attributes:
        skill: True skill at the end.
        learning_rate: The one in force at the end.
        decisions: What the tuner decided about its probes.
        probing: Share of the windows that belonged to probes.
    """

    skill: float
    learning_rate: float
    decisions: list[optix.tuners.TunerDecision]
    probing: float


def drive(
    tuner: optix.tuners.BaseOptimizer | None, start: float, windows: int, seed: int, learner: Learner = PLAIN
) -> Outcome:
    """One run.

    Args:
        tuner: Tunes the learning rate; None: it is fixed.
        start: Learning rate at the beginning.
        windows: Windows of training; each is scored.
        seed: Of the noise.
        learner: Learns.
    """
    rng = np.random.default_rng(seed)
    learning_rate, skill = start, 0.0
    kept: dict[str, tuple[float, float]] = {}
    decisions, probing = [], 0
    state = None if tuner is None else tuner.initial_state()
    for window in range(windows):
        if tuner is not None:
            draw = float(rng.standard_t(3) if learner.heavy else rng.normal())
            score = optix.statistics.Estimate(skill + learner.noise * draw, learner.noise, 10)
            current = optix.HyperparamSet({"learning_rate": learning_rate})
            evaluation = optix.evaluators.Evaluation(score, window, env_steps=window)
            state, decision = tuner.observe(state, evaluation, current)
            probing += tuner.probe_running(state)
            if decision is not None:
                if decision.keep is not None:
                    kept[decision.keep] = skill, learning_rate
                if decision.restore is not None:
                    skill, learning_rate = kept[decision.restore]
                learning_rate = decision.params.get("learning_rate", learning_rate)
                if decision.kind in DECISIONS:
                    decisions.append(decision)
        skill += learner.gain(learning_rate, skill, window / windows)
        if learner.walk:
            skill += learner.walk * float(rng.normal())
    return Outcome(skill, learning_rate, decisions, probing / windows)
